"""A verdict with all that led to it, for programs by its fields and for people by its text."""

from __future__ import annotations

from dataclasses import dataclass, field

from traffic_cop_middleware.abstractions.promotion.analysis import Analysis
from traffic_cop_middleware.abstractions.promotion.evidence import Part, described
from traffic_cop_middleware.abstractions.promotion.hooks import HookWord
from traffic_cop_middleware.abstractions.promotion.hysteresis import THRESHOLDS, Settled
from traffic_cop_middleware.abstractions.promotion.rules import Rule, Trigger
from traffic_cop_middleware.abstractions.promotion.settings import Preset
from traffic_cop_middleware.abstractions.promotion.verdict import Verdict
from traffic_cop_middleware.contracts import StateKey, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why an item is kept where it is. `str()` of it is the text for people.

    `named`: a caller named the tier, and nothing else was asked; `analysis` is `None` then. `judged` is the tier that
    the score alone means, `settled` what hysteresis made of it.
    """

    key: StateKey
    present: Tier
    verdict: Verdict
    preset: Preset
    trigger: Trigger
    named: bool = False
    analysis: Analysis | None = None
    judged: Tier = "cache"
    parts: tuple[Part, ...] = ()
    rules: tuple[Rule, ...] = ()
    settled: Settled | None = None
    hooks: tuple[HookWord, ...] = ()
    thresholds: dict[Tier, float] = field(default_factory=lambda: dict(THRESHOLDS))

    def __str__(self) -> str:
        verdict = self.verdict
        place = f"{verdict.tier}, in a file" if verdict.file else verdict.tier
        lines = [f"{self.key.namespace}/{self.key.key}: {place} (it is in {self.present}), score {verdict.score:.2f}"]
        if verdict.wanted != verdict.tier:
            lines[0] += f", {verdict.wanted} was wanted"
        if self.analysis is not None:
            lines.append(f"  preset {self.preset}, judged on: {self.trigger}")
            lines.append(f"  {self.analysis.size:,} bytes, {described(self.analysis)}")
            if self.analysis.top is not None and self.analysis.top.lists:
                lines.append(f"  lists of {', '.join(map(str, self.analysis.top.lists[:10]))} values in it")
            if self.analysis.truncated:
                lines.append(f"  of which the first {self.analysis.looked:,} characters and the end were looked at")
            lines += [f"    {part.name:<10} {part.value:.2f} x {part.weight:.2f}  {part.reason}" for part in self.parts]
            bounds = ", ".join(f"{tier} from {least:.2f}" for tier, least in self.thresholds.items() if least)
            lines.append(f"  by its score: {self.judged} ({bounds})")
            lines += [f"  rule {rule.name}: {rule.tier} at least: {rule.reason}" for rule in self.rules]
            if self.settled is not None and self.settled.reason:
                lines.append(f"  hysteresis: {self.settled.tier}: {self.settled.reason}")
            for word in self.hooks:
                said = f"failed and was left out: {word.failure}" if word.failure else word.verdict.tier
                lines.append(f"  hook {word.hook}: {said}{', veto' if word.verdict.vetoed else ''}")
        lines.append("  because")
        lines += [f"    - {reason}" for reason in verdict.reasons]
        return "\n".join(lines)
