"""Token buckets against an exact model, on random traces: memory and real Redis.

The model is the definition in contracts/buckets.py in fractions, with no rounding. It follows what the store decided
and objects where the store should have decided otherwise.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBuckets
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.contracts import MICRO, SLACK, Take, Taken

START = 1_000_000 * MICRO
DAY = 1 / 86_400
LONGEST_REFILL = 1e8
"""Seconds in which an empty bucket is full again, at most: three years."""
ROUNDING = 2
"""Microseconds that a stated wait may be above the true one."""


class Step(NamedTuple):
    """One `take`, at a time in microseconds."""

    at: int
    takes: tuple[Take, ...]


Trace = list[Step]
Decide = Callable[[Sequence[Step]], list[Taken]]
"""A store with empty buckets: each call goes on where the last one ended."""


def on_memory() -> Decide:
    store = MemoryBuckets(clock=lambda: 0.0, max_keys=1000, keyspace={})

    def decide(steps: Sequence[Step]) -> list[Taken]:
        taken = [store.take(step.takes, now=step.at / MICRO) for step in steps]
        return [each._replace(answers=list(each.answers)) for each in taken]

    return decide


@pytest.fixture(scope="module")
def on_redis(shared_redis: RedisServer) -> Iterator[Callable[[], Decide]]:
    """Stores on one real Redis. A call asks all of its steps in one write."""
    backend = open_redis(shared_redis.url, namespace="invariants", deadline=30, notify=lambda event: None)
    numbers = itertools.count()

    async def decide(steps: Sequence[Step], prefix: str) -> list[Taken]:
        return await asyncio.gather(
            *(
                backend.buckets.take([t._replace(key=prefix + t.key) for t in step.takes], now=step.at / MICRO)
                for step in steps
            )
        )

    with asyncio.Runner() as runner:
        runner.run(backend.link.connect(30))

        def new() -> Decide:
            prefix = f"{next(numbers)}:"
            return lambda steps: runner.run(decide(steps, prefix))

        yield new
        runner.run(backend.close())


@pytest.fixture(scope="module", params=["memory", "redis"])
def new_store(request: pytest.FixtureRequest) -> Callable[[], Decide]:
    return on_memory if request.param == "memory" else request.getfixturevalue("on_redis")


# Traces


@st.composite
def buckets(draw: st.DrawFn, name: str) -> Take:
    """A bucket: 1/day to 100,000/s, holding one token and up."""
    rate = draw(
        st.sampled_from([DAY, 1 / 60, 100 / 60, 1 / 3, 1, 10, 1_000, 100_000])
        | st.floats(-11.36, 11.51).map(lambda log: min(100_000.0, max(DAY, 2.718281828459045**log)))
    )
    burst = draw(st.integers(1, 5) | st.integers(1, 100_000) | st.floats(1, 1000))
    return Take(name, min(burst, max(1, rate * LONGEST_REFILL)), rate)


@st.composite
def traces(draw: st.DrawFn, most_buckets: int = 3, most_steps: int = 40) -> Trace:
    """Takes from one to three buckets, alone and together, while time stands still, creeps, jumps and goes back."""
    kinds = [draw(buckets(f"{{s}}{name}")) for name in "abc"[: draw(st.integers(1, most_buckets))]]
    tokens = [MICRO / kind.rate for kind in kinds]
    moves = st.one_of(
        st.just(0),
        st.integers(1, 10),
        st.builds(lambda token, share: round(token * share), st.sampled_from(tokens), st.floats(0, 3)),
        st.builds(lambda token, count: round(token * count), st.sampled_from(tokens), st.integers(1, 3)),
        st.builds(lambda kind: round(kind.burst / kind.rate * MICRO), st.sampled_from(kinds)),
        st.sampled_from([-1, -7, -MICRO, -3600 * MICRO]),
    )
    at = START
    trace = []
    for move in draw(st.lists(moves, min_size=1, max_size=most_steps)):
        at += move
        wishes = []
        for kind in draw(st.sets(st.sampled_from(kinds), min_size=1)):
            cost = draw(
                st.sampled_from([1, 1, 1, 0.1, 0.3, 0.7, kind.burst, kind.burst / 3, 0]) | st.floats(0, kind.burst)
            )
            wishes.append(kind._replace(cost=min(cost, kind.burst)))
        trace.append(Step(at, tuple(wishes)))
    if any(later.at < earlier.at for earlier, later in itertools.pairwise(trace)):
        # All buckets are there from the start, so that none is made later: only then does memory forget full ones,
        # which a clock that goes back would tell from kept ones. (Its own clock never goes back.)
        trace.insert(0, Step(START, tuple(kind._replace(cost=1) for kind in kinds)))
    return trace


def slack(bucket: Take) -> Fraction:
    """What the contract declares, and the noise of sums of floats."""
    return Fraction(SLACK) * (1 + Fraction(bucket.burst) / 1000) + Fraction(bucket.burst) / 10**14


class Model:
    """Buckets in exact arithmetic."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[int, Fraction]] = {}

    def wanted(self, step: Step) -> list[Fraction]:
        """What would be missing of each bucket after its take."""
        found = []
        for key, _, rate, cost in step.takes:
            stamp, debt = self._buckets.get(key, (step.at, Fraction(0)))
            if step.at < stamp:
                self._buckets[key] = step.at, debt
            debt = max(Fraction(0), debt - Fraction(max(0, step.at - stamp), MICRO) * Fraction(rate))
            found.append(debt + Fraction(cost))
        return found

    def charge(self, step: Step, debts: Sequence[Fraction]) -> None:
        for wish, debt in zip(step.takes, debts, strict=True):
            self._buckets[wish.key] = step.at, debt


def agree(trace: Trace, decisions: Sequence[Taken]) -> None:
    """The store decided as the model does, and answered what the model holds."""
    model = Model()
    for step, taken in zip(trace, decisions, strict=True):
        wanted = model.wanted(step)
        assert taken.admitted == (min(taken.answers) >= 0)
        if taken.admitted:
            assert all(
                debt <= Fraction(wish.burst) + slack(wish) for wish, debt in zip(step.takes, wanted, strict=True)
            )
            model.charge(step, wanted)
        else:
            assert any(debt > Fraction(wish.burst) for wish, debt in zip(step.takes, wanted, strict=True))
        for wish, debt, answer in zip(step.takes, wanted, taken.answers, strict=True):
            if answer >= 0:
                held = debt if taken.admitted else debt - Fraction(wish.cost)
                assert abs(answer - held * MICRO) <= 1 + slack(wish) * MICRO
            else:
                wait = (debt - Fraction(wish.burst)) / Fraction(wish.rate) * MICRO
                noise = slack(wish) / Fraction(wish.rate) * MICRO
                assert wait - noise <= -answer <= max(Fraction(0), wait) + noise + ROUNDING


def windows_hold(trace: Trace, decisions: Sequence[Taken]) -> None:
    """Between any two admitted takes of a bucket lies at most `burst + rate * window`.

    The window is the time that the clock showed passing. Where it went back, that part counts for nothing.
    """
    passed = [0, *itertools.accumulate(max(0, b.at - a.at) for a, b in itertools.pairwise(trace))]
    for wish in {wish.key: wish for step in trace for wish in step.takes}.values():
        made = [
            (passed[index], Fraction(own.cost))
            for index, (step, taken) in enumerate(zip(trace, decisions, strict=True))
            for own in step.takes
            if own.key == wish.key and taken.admitted
        ]
        for first in range(len(made)):
            total, began = Fraction(0), made[first][0]
            for at, cost in made[first:]:
                total += cost
                window = Fraction(at - began, MICRO)
                assert total <= Fraction(wish.burst) + Fraction(wish.rate) * window + slack(wish)


def hammered(bucket: Take, *, times: int, step: int) -> Trace:
    return [Step(START + index * step, (bucket,)) for index in range(times)]


@settings(max_examples=80, deadline=None)
@given(trace=traces(most_buckets=2, most_steps=60))
@example(trace=hammered(Take("{s}10/s burst 4", 4, 10), times=400, step=2_500))
@example(trace=hammered(Take("{s}100000/s burst 1", 1, 100_000), times=400, step=3))
@example(trace=hammered(Take("{s}1/day", 1, DAY), times=300, step=3600 * MICRO))
def test_over_any_window_a_bucket_admits_at_most_its_burst_and_what_it_gained(
    new_store: Callable[[], Decide], trace: Trace
) -> None:
    windows_hold(trace, new_store()(trace))


@settings(max_examples=100, deadline=None)
@given(trace=traces())
@example(trace=hammered(Take("{s}10/s burst 4", 4, 10), times=200, step=2_500))
@example(trace=hammered(Take("{s}100000/s burst 1", 1, 100_000), times=200, step=3))
def test_what_the_model_admits_is_admitted_and_a_refusal_takes_from_no_bucket(
    new_store: Callable[[], Decide], trace: Trace
) -> None:
    agree(trace, new_store()(trace))


@settings(max_examples=100, deadline=None)
@given(trace=traces())
def test_memory_and_redis_decide_and_answer_alike(on_redis: Callable[[], Decide], trace: Trace) -> None:
    assert on_memory()(trace) == on_redis()(trace)


def decimal_traces() -> st.SearchStrategy[Trace]:
    """One bucket emptied by amounts that no float holds exactly, step by step of its own pace."""

    def trace(rate: float, burst: float, moves: Sequence[tuple[float, float]]) -> Trace:
        ends = itertools.accumulate(round(share / rate * MICRO) for share, _ in moves)
        return [
            Step(START + end, (Take("{s}", burst, rate, min(cost, burst)),))
            for end, (_, cost) in zip(ends, moves, strict=True)
        ]

    return st.builds(
        trace,
        st.sampled_from([0.1, 1 / 60, 1 / 3, 100 / 60, 3, 7, 10, 1_000, 100_000]),
        st.sampled_from([1, 3, 5, 10, 100]),
        st.lists(
            st.tuples(st.sampled_from([0, 0, 0.1, 0.5, 1]), st.sampled_from([1, 1, 0.1, 0.3, 0.7, 100])),
            min_size=20,
            max_size=60,
        ),
    )


@settings(max_examples=100, deadline=None)
@given(trace=traces(most_steps=25) | decimal_traces())
def test_coming_back_after_exactly_the_stated_time_succeeds(new_store: Callable[[], Decide], trace: Trace) -> None:
    decide = new_store()
    waited = 0
    for planned in trace:
        step = planned._replace(at=planned.at + waited)
        (taken,) = decide([step])
        if not taken.admitted:
            wait = -min(taken.answers)
            if wait > 4 * ROUNDING and all(slack(wish) / Fraction(wish.rate) < 1e-6 for wish in step.takes):
                assert not decide([step._replace(at=step.at + wait - ROUNDING - 2)])[0].admitted
            assert decide([step._replace(at=step.at + wait)])[0].admitted
            waited += wait
