"""Which buckets a request takes from, and what an outage of their store means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Literal, NamedTuple

from traffic_cop_middleware.abstractions.denials import DenyCache
from traffic_cop_middleware.abstractions.policies import Policy
from traffic_cop_middleware.contracts import MICRO, BucketStore, Guard, Take
from traffic_cop_middleware.errors import CostTooHigh, StoreError

OnOutage = Literal["local", "allow", "refuse"]
OUTAGE_POLICIES: tuple[OnOutage, ...] = ("local", "allow", "refuse")
Source = Literal["store", "cache", "local", "none"]
"""Who decided: the store, the deny cache, in-process buckets at a fair share, or nobody (an outage policy)."""

OUTAGE_RETRY_SECONDS = 1


class Charge(NamedTuple):
    """What a request owes one limit: `cost` tokens of `subject`'s bucket (`ip:203.0.113.7`)."""

    policy: Policy
    subject: str
    cost: float = 1


class Standing(NamedTuple):
    """How one bucket stands after a decision: what the response fields say of it."""

    policy: Policy
    kind: str
    refused: bool
    remaining: int
    more_in: int
    wait: float


class Decision:
    """What was decided for a request.

    `admitted`; `source` says who decided. `levels()` and `standings()` have one entry for each bucket that was asked,
    none where nobody could be.
    """

    __slots__ = ("_answers", "_charges", "_takes", "admitted", "source")

    def __init__(
        self,
        admitted: bool,
        source: Source,
        charges: Sequence[Charge] = (),
        takes: Sequence[Take] = (),
        answers: Sequence[int] = (),
    ) -> None:
        self.admitted = admitted
        self.source = source
        self._charges = charges
        self._takes = takes
        self._answers = answers

    @property
    def retry_after(self) -> int:
        """Whole seconds after which the same request would be granted; 0 when it was."""
        if self.admitted:
            return 0
        if not self._answers:
            return OUTAGE_RETRY_SECONDS
        return max(1, ceil(-min(self._answers) / MICRO))

    def levels(self) -> list[tuple[Policy, int, int]]:
        """For each bucket that was asked: its policy, the whole tokens left, and seconds until there is one more."""
        found = []
        for (policy, _subject, _cost), (_key, burst, rate, cost), answer in zip(
            self._charges, self._takes, self._answers, strict=True
        ):
            free = burst - answer / MICRO if answer >= 0 else cost + answer * rate / MICRO
            remaining = int(free + 1e-6) if free > 0 else 0
            more_in = 0 if remaining >= burst else ceil((remaining + 1 - free) / rate - 1e-6)
            found.append((policy, remaining, more_in))
        return found

    def standings(self) -> list[Standing]:
        """The same for people: also whose bucket (the kind of key), and the wait in seconds where it refused."""
        return [
            Standing(policy, charge.subject.partition(":")[0], answer < 0, remaining, more_in, max(0, -answer) / MICRO)
            for (policy, remaining, more_in), charge, answer in zip(
                self.levels(), self._charges, self._answers, strict=True
            )
        ]


UNCHECKED = Decision(True, "none")
UNAVAILABLE = Decision(False, "none")


class RateLimitAbstraction:
    """Token-bucket limits on a store: all of a request's buckets are taken from, or none.

    `clock` gives seconds that never go back. On an outage `on_outage` decides: "local" takes from `local`, in-process
    buckets that hold this worker's share (the quota over `live_workers()`), "allow" lets pass, "refuse" refuses.
    """

    def __init__(
        self,
        store: BucketStore,
        *,
        clock: Callable[[], float],
        local: BucketStore,
        live_workers: Callable[[], int] = lambda: 1,
        on_outage: OnOutage = "local",
    ) -> None:
        self._store = store
        self._clock = clock
        self._local = local
        self._live_workers = live_workers
        self._on_outage = on_outage
        self._denials = DenyCache() if store.shared else None

    async def take(
        self, charges: Sequence[Charge], *, guard: Guard | None = None, otherwise: Sequence[Charge] = ()
    ) -> Decision:
        """Take what the request owes: one round trip, none when a standing refusal already answers.

        With a `guard` that does not hold, what `otherwise` says is taken instead, in the same operation; and on an
        outage too, for then nobody can say whether it holds.

        Raises:
            CostTooHigh: a cost is above its bucket's capacity (or below 0), so that it could never be granted.
        """
        takes = _takes(charges)
        if guard is not None:
            guard = guard._replace(otherwise=tuple(_takes(otherwise)))
        denials = self._denials
        if denials is None:
            taken = await self._store.take(takes, guard=guard)
        else:
            sent = self._clock()
            if denials and guard is None:
                for charge, take in zip(charges, takes, strict=True):
                    wait = denials.wait(take.key, take.cost, sent)
                    if wait:
                        return Decision(False, "cache", (charge,), (take,), (min(-1, -ceil(wait * MICRO)),))
            try:
                taken = await self._store.take(takes, guard=guard)
            except StoreError:
                return await self._without_store(charges, takes) if guard is None else await self._without_store(
                    otherwise, guard.otherwise
                )
            if not taken.admitted and taken.guard_held:
                for take, answer in zip(takes, taken.answers, strict=True):
                    if answer < 0:
                        denials.remember(take.key, take.cost, sent - answer / MICRO)
        if guard is not None and not taken.guard_held:
            charges, takes = otherwise, list(guard.otherwise)
        return Decision(taken.admitted, "store", charges, takes, taken.answers)

    async def _without_store(self, charges: Sequence[Charge], takes: Sequence[Take]) -> Decision:
        if self._on_outage == "allow":
            return UNCHECKED
        if self._on_outage == "refuse":
            return UNAVAILABLE
        workers = max(1, self._live_workers())
        share = [Take(key, max(burst / workers, cost, 1.0), rate / workers, cost) for key, burst, rate, cost in takes]
        taken = await self._local.take(share)
        return Decision(taken.admitted, "local", charges, share, taken.answers)


def _takes(charges: Sequence[Charge]) -> list[Take]:
    takes = []
    for policy, subject, cost in charges:
        if not 0 <= cost <= policy.burst:
            raise CostTooHigh(
                f"this request costs {cost:g} tokens, and the limit {policy.name!r} holds {policy.burst:g} at most"
            )
        takes.append(Take(f"{{{subject}}}{policy.bucket}", policy.burst, policy.rate, cost))
    return takes
