"""Where a state deserves to be kept: the verdict, and why.

In this order: the preset's score, hard rules, hysteresis, the app's hooks, and what the configuration can keep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from traffic_cop_middleware.abstractions.promotion.analysis import Analysis, analyse, preferred
from traffic_cop_middleware.abstractions.promotion.classic import classic
from traffic_cop_middleware.abstractions.promotion.evidence import Evidence, Scored
from traffic_cop_middleware.abstractions.promotion.explanation import Explanation
from traffic_cop_middleware.abstractions.promotion.hooks import HookWord, PromotionHook, PromotionHooks
from traffic_cop_middleware.abstractions.promotion.hysteresis import THRESHOLDS, Hysteresis, Settled
from traffic_cop_middleware.abstractions.promotion.rules import Rule, Trigger, rules_of, wishes_cache
from traffic_cop_middleware.abstractions.promotion.scoring import balanced
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.abstractions.promotion.verdict import Verdict, rank
from traffic_cop_middleware.abstractions.state.items import StateItem
from traffic_cop_middleware.contracts import Item, Tier, Usage
from traffic_cop_middleware.contracts.state import MOST_STATE, TIERS, is_pointer

NO_DOCUMENTS = "there are no documents that last (write TrafficCop(documents='sqlite:///state.db'))"
NO_OUTBOX = (
    "neither the backend nor the documents have an outbox (write TrafficCop('redis://…'), or "
    "documents='sqlite:///state.db')"
)
NO_FILES = (
    "there are no files (write TrafficCop(files='file:///var/lib/app/files', file_metadata='sqlite:///files.db'))"
)


class StatePromotionAbstraction:
    """Judges states: in which tier each is to be kept, whether in a file, and why.

    `hooks` are asked in order, of each state that is judged; a list that grows later may be given. `tiers` are those
    that the configuration can keep, `files` whether it has files. `now` gives seconds since the epoch. Nothing
    here reads or writes an item: who asked acts on the verdict.
    """

    def __init__(
        self,
        settings: PromotionSettings,
        *,
        emit: Callable[[str, Mapping[str, Any]], None],
        hooks: Sequence[PromotionHook] = (),
        tiers: Collection[Tier] = TIERS,
        files: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._hooks = hooks
        self._asker = PromotionHooks(hooks, timeout=settings.hook_timeout, emit=emit)
        self._tiers: frozenset[Tier] = frozenset(tier for tier in TIERS if tier == "cache" or tier in tiers)
        self._files = files
        self._now = now
        self._fields = frozenset(settings.critical_fields)
        self._types = frozenset(settings.critical_types)
        self._hysteresis = Hysteresis()

    async def judge(
        self, item: Item, *, trigger: Trigger, usage: Usage | None = None, preferences: object = None
    ) -> Verdict:
        """The verdict on an item, at a tier that can be kept. No round trips but those of hooks.

        `usage` is that of the last `USAGE_HOURS` hours, `preferences` those of the state's owner (as a state has them
        in its member of this name). What is judged low is remembered: the second time in a row the item goes down.
        An item that is `named`, deleted, or in a file already stays in its tier, and no hook is asked.
        """
        found = await self._consider(item, trigger, usage, preferences, remember=True)
        return found.verdict

    async def explain(
        self, item: Item, *, trigger: Trigger = "change", usage: Usage | None = None, preferences: object = None
    ) -> Explanation:
        """What `judge` would say now, with all that leads to it. Hooks are asked; nothing is remembered."""
        return await self._consider(item, trigger, usage, preferences, remember=False)

    def check(self) -> str | None:
        """What to warn of at start: verdicts that can't be kept, and the mend; `None` where all can."""
        missing: list[Tier] = [tier for tier in TIERS if tier not in self._tiers]
        if not missing:
            return None
        best = self._cut(Verdict(missing[0])).tier
        told = " and ".join(map(repr, missing))
        return f"promotion: {told} can't be kept, and {best!r} is the best there is: {self._why_not()}"

    async def _consider(
        self, item: Item, trigger: Trigger, usage: Usage | None, preferences: object, *, remember: bool
    ) -> Explanation:
        settings = self.settings
        told = self._unasked(item)
        if told is not None:
            return Explanation(
                key=item.key,
                present=item.tier,
                verdict=told,
                preset=settings.preset,
                trigger=trigger,
                named=item.named,
                judged=item.tier,
            )
        top = settings.preset == "classic" or not remember  # who wants an explanation wants all of it
        now = self._now()
        analysis = analyse(item.value or "null", critical_fields=self._fields, top=top)
        namespace = item.key.namespace.casefold()
        kind = namespace if analysis.state_type is None else analysis.state_type.casefold()
        evidence = Evidence(analysis, namespace, kind, usage, max(0.0, now - item.written_at))
        scored = classic(evidence) if settings.preset == "classic" else balanced(evidence, critical_types=self._types)
        owner = preferred(preferences)
        rules = tuple(rules_of(evidence, settings, trigger=trigger, owner=owner, files=self._files))
        settled = self._settled(item, scored, rules, now=now)
        if wishes_cache(evidence, owner) and all(rule.tier == "cache" for rule in rules):
            settled = Settled("cache", "the preferences of its user ask for 'cache'", None)
        if remember:
            self._hysteresis.remember(item.key, settled.low)
        verdict = self._verdict(item, analysis, scored, rules, settled)
        words: tuple[HookWord, ...] = ()
        if self._hooks:
            verdict, words = await self._asker.ask(StateItem(item), verdict)
        return Explanation(
            key=item.key,
            present=item.tier,
            verdict=self._kept(verdict, analysis),
            preset=settings.preset,
            trigger=trigger,
            analysis=analysis,
            judged=scored.tier,
            parts=scored.parts,
            rules=rules,
            settled=settled,
            hooks=words,
        )

    def _unasked(self, item: Item) -> Verdict | None:
        """The verdict on an item that is not judged; `None`: it is to be judged."""
        if item.value is None:
            reason = "it was deleted"
        elif is_pointer(item.value):
            reason = "its value is in a file; it is judged again when it is written"
            return Verdict(item.tier, 1.0, (reason,), file=True, present=item.tier)
        elif item.named:
            reason = f"a caller named the tier {item.tier!r}"
        else:
            return None
        verdict = Verdict(item.tier, 1.0 if item.named else 0.0, (reason,), present=item.tier)
        size = len((item.value or "").encode("utf-8", "surrogatepass"))
        if self._files and size > self.settings.file_bytes and item.tier != "cache":
            verdict = verdict.as_file(f"{size:,} bytes are more than promotion_file_bytes={self.settings.file_bytes:,}")
        return verdict

    def _settled(self, item: Item, scored: Scored, rules: Sequence[Rule], *, now: float) -> Settled:
        judged: Tier = max([scored.tier, *[rule.tier for rule in rules]], key=rank)
        if scored.holds and rank(judged) < rank(item.tier):
            return Settled(item.tier, scored.holds, None)
        return self._hysteresis.settle(item.key, item.tier, judged, scored.score, written_at=item.written_at, now=now)

    def _verdict(
        self, item: Item, analysis: Analysis, scored: Scored, rules: Sequence[Rule], settled: Settled
    ) -> Verdict:
        reasons = [part.told for part in scored.parts if part.value * part.weight >= 0.005]
        reasons.append(
            f"score {scored.score:.2f}: {scored.tier!r} ('delayed' from {THRESHOLDS['delayed']:.2f}, 'immediate' from "
            f"{THRESHOLDS['immediate']:.2f})"
        )
        verdict = Verdict(scored.tier, scored.score, tuple(reasons), present=item.tier, ttl=scored.ttl)
        for rule in rules:
            verdict = verdict.at_least(rule.tier, rule.reason)
        if settled.reason:
            verdict = verdict.at_least(settled.tier).at_most(settled.tier)
            verdict = replace(verdict, reasons=(*reasons, *(rule.reason for rule in rules), settled.reason))
        if any(rule.name == "size" for rule in rules) and settled.tier != "cache":
            verdict = replace(verdict, file=True)
        return verdict

    def _kept(self, verdict: Verdict, analysis: Analysis) -> Verdict:
        """A verdict as far as it can be kept."""
        if verdict.vetoed:
            return verdict
        if verdict.file and not self._files:
            verdict = replace(verdict, file=False, reasons=(*verdict.reasons, f"no file is made: {NO_FILES}"))
        if analysis.size > MOST_STATE and not verdict.file:
            why = f"{analysis.size:,} bytes are more than the {MOST_STATE:,} that documents take, and {NO_FILES}"
            verdict = verdict.within({"cache"}, why)
        return self._cut(verdict)

    def _cut(self, verdict: Verdict) -> Verdict:
        return verdict.within(self._tiers, self._why_not())

    def _why_not(self) -> str:
        return NO_DOCUMENTS if self._tiers == {"cache"} else NO_OUTBOX
