"""What is judged of items: rules, hooks, hysteresis, what can be kept, and how it is explained."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.abstractions.promotion.hysteresis import Hysteresis
from traffic_cop_middleware.abstractions.promotion.promotion import StatePromotionAbstraction
from traffic_cop_middleware.abstractions.promotion.scoring import tier_of
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.abstractions.promotion.verdict import Verdict
from traffic_cop_middleware.abstractions.state.items import StateItem
from traffic_cop_middleware.contracts import Item, StateKey, Tier, Usage
from traffic_cop_middleware.contracts.state import TIERS
from traffic_cop_middleware.errors import ConfigurationError

tiers = st.sampled_from(TIERS)


class Bench:
    """A promotion with a clock of its own, and what it told."""

    def __init__(self, *hooks: Any, tiers: Any = TIERS, files: bool = False, **settings: Any) -> None:
        self.now = 1000.0
        self.told: list[tuple[str, Any]] = []
        self.promotion = StatePromotionAbstraction(
            PromotionSettings(**settings),
            emit=lambda kind, attributes: self.told.append((kind, attributes)),
            hooks=hooks,
            tiers=tiers,
            files=files,
            now=lambda: self.now,
        )

    async def judge(self, value: Any, tier: Tier = "cache", **known: Any) -> Verdict:
        known = {"trigger": "change", **known}
        return await self.promotion.judge(self.item(value, tier, namespace=known.pop("namespace", "cart")), **known)

    def item(self, value: Any, tier: Tier = "cache", *, namespace: str = "cart", named: bool = False) -> Item:
        return Item(StateKey("acme", namespace, "k"), 1, dumps(value), tier, self.now, named=named)


SMALL = {"a": 1}


# Verdicts


@given(tiers, tiers, tiers)
def test_a_floor_never_lowers_and_a_ceiling_never_raises(tier: Tier, present: Tier, other: Tier) -> None:
    verdict = Verdict(tier, 0.5, ("so",), present=present)
    order = TIERS.index
    assert order(verdict.at_least(other).tier) == max(order(tier), order(other))
    assert order(verdict.at_most(other).tier) == min(order(tier), order(other))
    vetoed = verdict.veto("not now")
    assert vetoed.tier == vetoed.wanted == present
    assert vetoed.at_least("immediate").at_most("cache").as_file() == vetoed
    assert verdict.tier == tier


def test_each_word_adds_its_reason() -> None:
    verdict = Verdict("cache", 0.1, ("small",)).at_least("delayed", "orders last").as_file("as the auditor wishes")
    assert verdict.reasons == ("small", "orders last: 'cache' becomes 'delayed'", "as the auditor wishes")
    assert verdict.file
    assert not verdict.at_most("cache").file
    with pytest.raises(ConfigurationError, match="tier='gold': write one of 'cache', 'delayed', 'immediate'"):
        verdict.at_least("gold")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="score=2"):
        Verdict("cache", 2)


# Rules


@pytest.mark.asyncio
@pytest.mark.parametrize("preset", ["balanced", "classic"])
@pytest.mark.parametrize(
    ("value", "known", "tier"),
    [
        ({"a": 1}, {}, "cache"),
        ({"a": 1}, {"trigger": "explicit"}, "delayed"),
        ({"promote": True}, {}, "delayed"),
        ({"promote": "immediate"}, {}, "immediate"),
        ({"persistent": True}, {}, "delayed"),
        ({"type": "Payment"}, {}, "immediate"),
        ({"a": 1}, {"namespace": "authentication"}, "immediate"),
        ({"a": 1}, {"namespace": "invoice"}, "delayed"),
        ({"preferences": {"tier": "immediate"}}, {}, "immediate"),
        ({"a": 1}, {"preferences": {"persist": True}}, "delayed"),
        ({"importance": 10}, {}, "immediate"),
    ],
)
async def test_hard_rules_raise_whatever_the_score(preset: Any, value: Any, known: Any, tier: Tier) -> None:
    verdict = await Bench(preset=preset, preferences={"invoice": "delayed"}).judge(value, **known)
    assert verdict.tier == tier, verdict


@pytest.mark.asyncio
async def test_critical_fields_promote_in_classic() -> None:
    assert (await Bench(preset="classic").judge({"user_id": 1})).tier == "delayed"
    assert (await Bench().judge({"user_id": 1})).tier == "cache"


@pytest.mark.asyncio
async def test_a_users_wish_for_cache_holds_unless_a_rule_says_otherwise() -> None:
    wish = {"preferences": {"tier": "cache"}, "lines": [{"a": n, "b": "x"} for n in range(200)], "workflow_id": 1}
    bench = Bench()
    assert (await bench.judge({**wish, "preferences": {}})).tier == "delayed"
    assert (await bench.judge(wish, "immediate")).tier == "cache"
    assert (await bench.judge({**wish, "type": "payment"})).tier == "immediate"


@pytest.mark.asyncio
async def test_a_named_a_deleted_and_a_filed_item_stay_and_no_hook_is_asked() -> None:
    bench = Bench(lambda item, verdict: 1 / 0, files=True)
    item = bench.item(SMALL, "immediate", named=True)
    for each in (item, item._replace(value=None), item._replace(value='@{"id":"f"}', named=False)):
        verdict = await bench.promotion.judge(each, trigger="schedule")
        assert (verdict.tier, len(verdict.reasons)) == ("immediate", 1)
        assert verdict.file == (each.value is not None and each.value.startswith("@"))
    large = await bench.promotion.judge(bench.item("x" * 300_000, "delayed", named=True), trigger="change")
    assert (large.tier, large.file) == ("delayed", True)
    assert bench.told == []


# What can be kept


@pytest.mark.asyncio
async def test_a_large_state_goes_into_a_file_where_there_are_files() -> None:
    large = await Bench(files=True).judge("x" * 300_000)
    assert (large.tier, large.file) == ("delayed", True)
    assert any("300,002 bytes are more than promotion_file_bytes=262,144" in reason for reason in large.reasons)
    nowhere = await Bench().judge({"persistent": True, "text": "x" * 300_000})
    assert (nowhere.tier, nowhere.file, nowhere.wanted) == ("cache", False, "delayed")
    assert "TrafficCop(files=" in nowhere.reasons[-1]
    earlier = await Bench(files=True, file_bytes=1000).judge("x" * 2000)
    assert earlier.file
    kept = await Bench(lambda item, verdict: verdict.at_most("cache"), files=True).judge("x" * 300_000)
    assert (kept.tier, kept.file) == ("cache", False)
    refused = await Bench(lambda item, verdict: verdict.as_file("audit")).judge(SMALL)
    assert (refused.tier, refused.file) == ("delayed", False)


@pytest.mark.asyncio
async def test_a_verdict_that_cannot_be_kept_is_cut_to_the_best_there_is() -> None:
    payment = {"type": "payment"}
    cut = await Bench(tiers={"cache"}).judge(payment)
    assert (cut.tier, cut.wanted) == ("cache", "immediate")
    assert "TrafficCop(documents='sqlite:///state.db')" in cut.reasons[-1]
    up = await Bench(tiers={"cache", "immediate"}).judge({"persistent": True})
    assert (up.tier, up.wanted) == ("immediate", "delayed")
    down = await Bench(tiers={"cache", "delayed"}).judge(payment)
    assert (down.tier, down.wanted) == ("delayed", "immediate")


def test_what_cannot_be_kept_is_warned_of() -> None:
    assert Bench().promotion.check() is None
    warning = Bench(tiers=()).promotion.check()
    assert warning is not None
    assert warning.startswith("promotion: 'delayed' and 'immediate' can't be kept, and 'cache' is the best there is")
    assert "TrafficCop(documents='sqlite:///state.db')" in warning
    other = Bench(tiers={"cache", "immediate"}).promotion.check()
    assert other is not None
    assert other.startswith("promotion: 'delayed' can't be kept, and 'immediate' is the best there is: neither")


# Hysteresis


@pytest.mark.asyncio
async def test_an_item_goes_down_one_tier_at_the_second_low_verdict() -> None:
    bench = Bench()
    assert (await bench.judge(SMALL, "immediate")).tier == "immediate"
    assert (await bench.judge(SMALL, "immediate")).tier == "delayed"
    assert (await bench.judge(SMALL, "delayed")).tier == "delayed"
    assert (await bench.judge(SMALL, "delayed")).tier == "cache"
    assert (await bench.judge({"type": "payment"}, "cache")).tier == "immediate"


@pytest.mark.asyncio
async def test_an_item_that_nobody_wrote_for_a_minute_goes_down_at_the_first() -> None:
    bench = Bench()
    item = bench.item(SMALL, "immediate")
    bench.now += 59.9
    assert (await bench.promotion.explain(item)).verdict.tier == "immediate"
    bench.now += 0.2
    for _ in range(3):  # asking why changes nothing
        assert (await bench.promotion.explain(item, trigger="schedule")).verdict.tier == "delayed"
    assert (await bench.promotion.judge(item, trigger="schedule")).tier == "delayed"


@pytest.mark.asyncio
async def test_a_good_verdict_between_two_low_ones_starts_the_count_anew() -> None:
    bench = Bench()
    assert (await bench.judge(SMALL, "delayed")).tier == "delayed"
    assert (await bench.judge({"persistent": True}, "delayed")).tier == "delayed"
    assert (await bench.judge(SMALL, "delayed")).tier == "delayed"


@pytest.mark.asyncio
async def test_classic_leaves_what_is_used_where_it_is() -> None:
    bench = Bench(preset="classic")
    for _ in range(4):
        assert (await bench.judge(SMALL, "immediate", usage=Usage(30, 1, None))).tier == "immediate"
        assert (await bench.judge(SMALL, "cache", usage=Usage(30, 1, None))).tier == "cache"
    await bench.judge(SMALL, "immediate", usage=Usage(3, 1, None))
    assert (await bench.judge(SMALL, "immediate", usage=Usage(3, 1, None))).tier == "delayed"


@given(
    st.sampled_from([0.30, 0.65]),
    st.lists(st.tuples(st.floats(-0.199, 0.199), st.floats(0, 1000)), min_size=2, max_size=60),
)
def test_a_score_that_swings_about_a_threshold_does_not_flap(threshold: float, swings: Any) -> None:
    hysteresis, key, tier, now, moves = Hysteresis(), StateKey("", "a", "b"), tier_of(threshold), 0.0, 0
    for swing, pause in swings:
        now += pause
        score = threshold + swing
        settled = hysteresis.settle(key, tier, tier_of(score), score, written_at=0.0, now=now)
        hysteresis.remember(key, settled.low)
        moves += settled.tier != tier
        tier = settled.tier
    assert moves <= 1  # from 0.30 up over 0.45 it never comes; from 0.65 down to 0.45 neither


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_no_item_goes_down_twice_in_a_row_or_without_two_low_verdicts(scores: list[float]) -> None:
    hysteresis, key, tier, lows = Hysteresis(), StateKey("", "a", "b"), TIERS[2], 0
    for score in scores:
        settled = hysteresis.settle(key, tier, tier_of(score), score, written_at=0.0, now=0.0)
        hysteresis.remember(key, settled.low)
        lows = lows + 1 if score < {"cache": 0.0, "delayed": 0.10, "immediate": 0.45}[tier] else 0
        if TIERS.index(settled.tier) < TIERS.index(tier):
            assert lows == 2
            assert TIERS.index(settled.tier) == TIERS.index(tier) - 1
            lows = 0
        tier = settled.tier


def test_what_is_remembered_is_bounded() -> None:
    hysteresis = Hysteresis(most=10)
    for number in range(1000):
        key = StateKey("", "a", str(number))
        hysteresis.remember(key, hysteresis.settle(key, "immediate", "cache", 0.0, written_at=0.0, now=0.0).low)
    assert len(hysteresis) == 10


# Hooks


@pytest.mark.asyncio
async def test_hooks_are_asked_in_order_sync_or_async_and_a_veto_is_the_last_word() -> None:
    seen: list[Any] = []

    def first(state: StateItem, verdict: Verdict) -> Verdict:
        seen.append((state.tenant, state.namespace, state.key, state.value, verdict.tier))
        return verdict.at_least("immediate", "orders last")

    async def second(state: StateItem, verdict: Verdict) -> Verdict:
        await asyncio.sleep(0)
        seen.append(verdict.tier)
        return verdict.at_most("delayed", "not that much")

    def third(state: StateItem, verdict: Verdict) -> None:
        seen.append(verdict.tier)

    verdict = await Bench(first, second, third).judge(SMALL)
    assert seen == [("acme", "cart", "k", SMALL, "cache"), "immediate", "delayed"]
    assert verdict.tier == "delayed"
    assert verdict.reasons[-2:] == (
        "orders last: 'cache' becomes 'immediate'",
        "not that much: 'immediate' becomes 'delayed'",
    )
    vetoed = await Bench(lambda s, v: v.veto("frozen for the audit"), first, tiers=()).judge(SMALL, "delayed")
    assert (vetoed.tier, vetoed.reasons[-1]) == ("delayed", "frozen for the audit: it stays in 'delayed'")
    assert len(seen) == 3


@pytest.mark.asyncio
async def test_a_hook_that_fails_is_told_of_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def raises(state: StateItem, verdict: Verdict) -> Verdict:
        raise RuntimeError("boom")

    async def hangs(state: StateItem, verdict: Verdict) -> Verdict:
        await asyncio.Event().wait()
        return verdict

    async def cancelled(state: StateItem, verdict: Verdict) -> Verdict:
        raise asyncio.CancelledError

    async def late(state: StateItem, verdict: Verdict) -> Verdict:
        raise LookupError("late")

    def wrong(state: StateItem, verdict: Verdict) -> Any:
        return "immediate"

    def made_up(state: StateItem, verdict: Verdict) -> Verdict:
        return verdict.at_least("gold")  # type: ignore[arg-type]

    bad = (raises, hangs, cancelled, late, wrong, made_up)
    bench = Bench(*bad, lambda state, verdict: verdict.at_least("delayed"), hook_timeout=0.01)
    verdict = await bench.judge(SMALL)
    assert verdict.tier == "delayed"
    assert [kind for kind, _ in bench.told] == ["promotion.hook_failed"] * len(bad)
    assert [told["hook"].rpartition(".")[2] for _, told in bench.told] == [each.__name__ for each in bad]
    assert bench.told[0][1]["error"] == "RuntimeError: boom"
    assert "promotion_hook_timeout" in bench.told[1][1]["error"]
    assert "is left out" in caplog.text


@pytest.mark.asyncio
async def test_who_waits_for_a_hook_can_be_cancelled() -> None:
    asked = asyncio.Event()

    async def hangs(state: StateItem, verdict: Verdict) -> Verdict:
        asked.set()
        await asyncio.Event().wait()
        return verdict

    bench = Bench(hangs, hook_timeout=60)
    judging = asyncio.create_task(bench.judge(SMALL))
    await asyncio.wait_for(asked.wait(), 10)
    judging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await judging
    assert bench.told == []


@pytest.mark.asyncio
async def test_a_verdict_that_a_hook_makes_anew_still_knows_where_the_item_is() -> None:
    verdict = await Bench(lambda s, v: Verdict("cache", 0.0), lambda s, v: v.veto()).judge(SMALL, "immediate")
    assert verdict.tier == "immediate"


# Explanations


@pytest.mark.asyncio
async def test_an_explanation_is_for_people_and_for_programs() -> None:
    def orders_last(state: StateItem, verdict: Verdict) -> Verdict:
        return verdict.at_least("immediate", "orders last")

    bench = Bench(orders_last, preferences={"order": "delayed"}, tiers={"cache", "delayed"})
    item = bench.item({"user_id": 1, "lines": [1, 2, 3]}, namespace="order")
    found = await bench.promotion.explain(item, usage=Usage(5, 2, None))
    text = str(found)
    for line in (
        "order/k: delayed (it is in cache), score 0.",
        "immediate was wanted",
        "preset balanced, judged on: change",
        "29 bytes, 2 keys and 6 values of 3 types, 2 levels deep",
        "importance 3 of 10 (no importance of its own: 1, the field 'user_id': +2)",
        "5 reads and 2 writes in 24 hours",
        "rule preference: delayed at least",
        "orders_last: immediate",
    ):
        assert line in text
    assert found.analysis is not None
    assert found.analysis.critical == ("user_id",)
    assert [part.name for part in found.parts] == ["importance", "size", "shape", "access", "age"]
    assert [rule.name for rule in found.rules] == ["preference"]
    assert (found.verdict.tier, found.verdict.wanted, found.judged) == ("delayed", "immediate", "cache")
    assert found.verdict == await bench.promotion.judge(item, trigger="change", usage=Usage(5, 2, None))
