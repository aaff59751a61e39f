"""Which buckets a request takes from, and what an outage of their store means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import compress
from math import ceil, inf
from typing import Any, Literal, NamedTuple, cast

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.denials import DenyCache
from traffic_cop_middleware.abstractions.policies import Policy
from traffic_cop_middleware.contracts import MICRO, BucketStore, Guard, Take, Taken
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


class Bill(NamedTuple):
    """All that a request owes: its charges, and the same as the store is asked. Made by `bill`.

    `room` is where it can be kept how answers are told, for all bills of the same policies and costs; `None`: not kept.
    """

    charges: tuple[Charge, ...]
    takes: tuple[Take, ...]
    policies: tuple[Policy, ...]
    room: dict[tuple[int, ...], Any] | None = None


def bill(charges: Iterable[Charge], *, room: dict[tuple[int, ...], Any] | None = None) -> Bill:
    """Charges as a bill.

    Raises:
        CostTooHigh: a cost is above its bucket's capacity (or below 0), so that it could never be granted.
    """
    charges = tuple(charges)
    for policy, _subject, cost in charges:
        if cost < 0:
            raise CostTooHigh(f"this request costs {cost:g} tokens: a cost is 0 or more (limit {policy.name!r})")
        if cost > policy.burst:
            raise CostTooHigh(
                f"this request costs {cost:g} tokens, and the limit {policy.name!r} holds {policy.burst:g} at most"
            )
    return Bill(
        charges,
        tuple(
            Take(f"{{{subject}}}{policy.bucket}", policy.burst, policy.rate, cost) for policy, subject, cost in charges
        ),
        tuple(charge.policy for charge in charges),
        room,
    )


class Decision:
    """What was decided for a request.

    `admitted`; `source` says who decided; `owed` is what was asked, and `answers` has the store's integer for each of
    its takes (none where nobody could be asked).
    """

    __slots__ = ("admitted", "answers", "owed", "source")

    def __init__(self, admitted: bool, source: Source, owed: Bill, answers: Sequence[int]) -> None:
        self.admitted = admitted
        self.source = source
        self.owed = owed
        self.answers = answers

    @property
    def retry_after(self) -> int:
        """Whole seconds after which the same request would be granted; 0 when it was."""
        if self.admitted:
            return 0
        return max(1, ceil(-min(self.answers) / MICRO)) if self.answers else OUTAGE_RETRY_SECONDS

    def levels(self) -> list[float]:
        """For each bucket that was asked, flat: the whole tokens left, and the whole seconds until there is one more.

        Floats without a fraction: this runs on every response, and `//` is the cheapest way to a whole number.
        """
        found = []
        for (_key, burst, rate, cost), answer in zip(self.owed.takes, self.answers):  # noqa: B905 - none when unasked
            free = burst - answer / MICRO if answer >= 0 else cost + answer * rate / MICRO
            remaining = (free + 1e-6) // 1 if free > 0 else 0.0
            found.append(remaining)
            found.append(0.0 if remaining >= burst else -(((free - remaining - 1) / rate + 1e-6) // 1))
        return found

    def refusing(self) -> list[Charge]:
        """The charges that were refused, the one with the longest wait first."""
        if len(self.answers) == 1:
            return list(self.owed.charges)
        waits = [(answer, index) for index, answer in enumerate(self.answers) if answer < 0]
        return [self.owed.charges[index] for _, index in sorted(waits)]


NOTHING = Bill((), (), ())
UNCHECKED = Decision(True, "none", NOTHING, ())
UNAVAILABLE = Decision(False, "none", NOTHING, ())


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
        gives_back = getattr(store, "gives_back", False)
        self._denials = DenyCache() if store.shared and not gives_back else None
        self._forgot = -inf

    def take(
        self, owed: Bill, *, guard: Guard | None = None, otherwise: Bill = NOTHING
    ) -> Decision | Awaitable[Decision]:
        """Take what the request owes: one round trip, none when a standing refusal already answers.

        Decided at once where no round trip is needed; else there is something to await, and the question is on its way.
        With a `guard` that does not hold, `otherwise` is taken instead, in the same operation; and on an outage too,
        for then nobody can say whether it holds.
        """
        denials = self._denials
        sent = 0.0
        if denials is not None:
            sent = self._clock()
            if denials and guard is None:
                waits = [denials.wait(take.key, take.cost, sent) for take in owed.takes]
                if any(waits):
                    told = [min(-1, -ceil(wait * MICRO)) for wait in waits if wait]
                    return Decision(False, "cache", _those(owed, waits), told)
        if guard is not None:
            guard = guard._replace(otherwise=otherwise.takes)
        try:
            taken = self._store.take(owed.takes, guard=guard)
        except StoreError:
            return self._without_store(owed if guard is None else otherwise)
        if type(taken) is Taken:
            admitted, answers, guard_held = taken
            return Decision(admitted, "store", owed if guard_held else otherwise, answers)
        return self._answer(cast("Awaitable[Taken]", taken), owed, otherwise, guarded=guard is not None, sent=sent)

    async def _answer(
        self, asked: Awaitable[Taken], owed: Bill, otherwise: Bill, *, guarded: bool, sent: float
    ) -> Decision:
        try:
            admitted, answers, guard_held = await asked
        except StoreError:
            return await _settled(self._without_store(otherwise if guarded else owed))
        if not guard_held:
            return Decision(admitted, "store", otherwise, answers)
        if not admitted and self._denials is not None:
            for take, answer in zip(owed.takes, answers, strict=True):
                if answer < 0 and sent > self._forgot:
                    self._denials.remember(take.key, take.cost, sent - answer / MICRO)
        return Decision(admitted, "store", owed, answers)

    async def look(self, takes: Sequence[Take]) -> Sequence[int]:
        """The debts of buckets in millionths of a token, taking nothing. One round trip.

        Raises:
            StoreUnavailable: the store is away.
        """
        taken = await answered(self._store.take([take._replace(cost=0) for take in takes]))
        return taken.answers

    async def forget(self, keys: Sequence[str]) -> None:
        """Fill these buckets up. One round trip.

        Raises:
            StoreUnavailable: the store is away.
        """
        await answered(self._store.forget(keys))
        self.forgotten(keys)

    def limits_changed(self) -> None:
        """What a limit says has changed: no standing refusal holds any more."""
        self._forgot = self._clock()
        if self._denials is not None:
            self._denials = DenyCache()

    def forgotten(self, keys: Sequence[str]) -> None:
        """These buckets were filled up, here or by another worker: no standing refusal holds any more."""
        self._forgot = self._clock()
        if self._denials is not None:
            self._denials.forget(keys)
        if self._local is not self._store:
            self._local.forget(keys)

    def _without_store(self, owed: Bill) -> Decision | Awaitable[Decision]:
        if self._on_outage == "allow":
            return UNCHECKED
        if self._on_outage == "refuse":
            return UNAVAILABLE
        workers = max(1, self._live_workers())
        share = tuple(
            Take(key, max(burst / workers, cost, 1.0), rate / workers, cost) for key, burst, rate, cost in owed.takes
        )
        return self._from_local(owed._replace(takes=share, room=None))

    async def _from_local(self, owed: Bill) -> Decision:
        taken = self._local.take(owed.takes)
        admitted, answers, _ = taken if isinstance(taken, Taken) else await taken
        return Decision(admitted, "local", owed, answers)


def _those(owed: Bill, waits: Sequence[float]) -> Bill:
    """The charges of a bill that have to wait."""
    return Bill(
        tuple(compress(owed.charges, waits)), tuple(compress(owed.takes, waits)), tuple(compress(owed.policies, waits))
    )


async def _settled(decision: Decision | Awaitable[Decision]) -> Decision:
    return decision if isinstance(decision, Decision) else await decision
