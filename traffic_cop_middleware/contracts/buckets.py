"""Token buckets, as a store sees them.

A bucket holds at most `burst` tokens and gains `rate` tokens a second. A store keeps only how many are *missing* (the
debt) and when that was true, so a bucket that is full again need not be kept at all. Taking `cost` tokens is allowed
when the debt, drained up to now, leaves room for them. That is the generic cell rate algorithm (ITU-T I.371, annex
A.1, "virtual scheduling") with the debt counted in tokens instead of time, so that a change of the rate keeps what was
used. Over any window a bucket admits at most `burst + rate * window`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

MICRO = 1_000_000
"""Stores count time in microseconds and answer in millionths of a token."""

SLACK = 1e-9
"""How far above `burst` a debt may come out, in tokens and (a thousandth of it) as a share of `burst`: what float
arithmetic can be off, so that coming back after exactly the stated wait is granted. It is charged like any token, so
it does not add up over time."""


class Take(NamedTuple):
    """A wish for `cost` tokens of one bucket.

    `key` names the bucket and carries the hash tag of its subject (`{ip:203.0.113.7}100/minute`), so that one
    subject's buckets share a slot of a Redis Cluster. `burst` tokens, `rate` tokens per second, `cost` at most `burst`.
    """

    key: str
    burst: float
    rate: float
    cost: float = 1.0


class Guard(NamedTuple):
    """What must still hold for the takes to be made at all; checked in the same operation.

    The key `record` exists, and the integer at `generation_key` (0 when there is none) is `generation`. Where it does
    not hold, `otherwise` is taken instead: a revoked session can't spend its former owner's tokens.
    """

    record: str
    generation_key: str
    generation: int
    otherwise: tuple[Take, ...]


class Taken(NamedTuple):
    """What came of a `take`.

    `answers` has one integer for each wish, in order: zero or more is the debt in millionths of a token (after the
    take; as it stands where another bucket refused), less than zero is the wait in microseconds until this wish would
    be granted. `guard_held` false: the answers are those of `Guard.otherwise`.
    """

    admitted: bool
    answers: Sequence[int]
    guard_held: bool = True


class BucketStore(Protocol):
    """Token buckets that are taken from together.

    A store that may give tokens back by itself, so that a refusal need not stand until its wait is over, has an
    attribute `gives_back` that is true: its refusals are not remembered.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes take from the same buckets (asking then costs a round trip)."""
        ...

    def take(
        self, requests: Sequence[Take], *, guard: Guard | None = None, now: float | None = None
    ) -> Taken | Awaitable[Taken]:
        """Take from all the buckets, or from none.

        A store in this process answers at once; a shared one gives something to await. Its question is asked by the
        call, not by the awaiting: several asked before the first is awaited share one round trip. `now` (seconds)
        replaces the store's clock, for contract suites only. The keys of one call differ from each other.

        Raises:
            StoreUnavailable: not reached, or not within the deadline (`StoreTimeout`).
            StoreError: the store answered with an error.
        """
        ...

    def forget(self, keys: Sequence[str]) -> object:
        """Fill these buckets up: nothing is missing of them any more. One round trip where the store is shared.

        Gives something to await where it is shared. A bucket that is not there is full already.

        Raises:
            StoreUnavailable: not reached, or not within the deadline; they may or may not be full.
        """
        ...
