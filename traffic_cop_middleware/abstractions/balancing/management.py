"""`cop.balancing`: the pools as they are, and what people say about them, on all workers.

What is said stands in one record for each pool: settings in place of the code's, and who is being drained and why. So
it holds on every worker within a second, outlasts restarts, and a drained instance that goes and comes back is drained
still. While the records are away the last ones go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.roster import Emit
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings, balancing_from
from traffic_cop_middleware.abstractions.balancing.snapshot import PoolSnapshot
from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.abstractions.live_table import LiveTable
from traffic_cop_middleware.abstractions.messaging import MOST_TURNS, MessagingAbstraction
from traffic_cop_middleware.contracts.records import MOST_VALUE
from traffic_cop_middleware.errors import ConfigurationError, RecordConflict

BALANCING = "balancing"
"""The kind of these records."""
DRAINED = "it is being drained"
MOST_REASON = 200
"""Characters."""


@dataclass(frozen=True, slots=True)
class PoolOrders:
    """What a record says of a pool: settings in place of the code's (`None`: those hold), and why who is drained."""

    settings: BalancingSettings | None = None
    draining: Mapping[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """They as JSON.

        Raises:
            ConfigurationError: the settings can't be told to other workers.
        """
        found: dict[str, Any] = {}
        if self.settings is not None:
            found["settings"] = self.settings.record()
        if self.draining:
            found["draining"] = dict(self.draining)
        return found


def orders_from(record: object) -> PoolOrders:
    """What a record says.

    Raises:
        ConfigurationError: it can't be used.
    """
    if not isinstance(record, Mapping) or not set(record) <= {"settings", "draining"}:
        raise ConfigurationError(f"a record of a pool has settings and draining, and nothing else: {record!r}")
    draining = record.get("draining", {})
    if not isinstance(draining, Mapping) or any(
        not isinstance(each, str) for pair in draining.items() for each in pair
    ):
        raise ConfigurationError(f"draining={draining!r}: reasons by the names of instances")
    settings = balancing_from(record["settings"]) if "settings" in record else None
    return PoolOrders(settings, dict(draining))


NOTHING_SAID = PoolOrders()


class LoadBalancingAbstraction:
    """Pools while the app runs: `cop.balancing.pools()`, `await cop.balancing.drain("billing", "10.0.0.5:8080")`.

    A change made through any worker holds on all within a second. `pools` gives all of the running event loop's, `made`
    those that were asked for so far (others obey when they are made), `messaging` its records. `check` raises for
    settings that need what is not there.
    """

    def __init__(
        self,
        pools: Callable[[], Iterable[BalancedPool]],
        made: Callable[[], Iterable[BalancedPool]],
        messaging: Callable[[], MessagingAbstraction],
        *,
        emit: Emit,
        check: Callable[[BalancingSettings, str], None] = lambda settings, where: None,
    ) -> None:
        self._check = check
        self._pools = pools
        self._made = made
        self._messaging = messaging
        self._emit = emit
        self._own: WeakKeyDictionary[BalancedPool, BalancingSettings] = WeakKeyDictionary()
        self.live: LiveTable[PoolOrders] = LiveTable(
            BALANCING, parse=lambda _, record: orders_from(record), swap=self._swap, emit=emit
        )

    def pools(self) -> Sequence[PoolSnapshot]:
        """Every pool and its instances as this worker sees them, each with its state and why; by name.

        For people, `print(*cop.balancing.pools(), sep="\\n")` writes them line by line. No round trip.

        Raises:
            ConfigurationError: nothing is open on this event loop.
        """
        return sorted((each.snapshot() for each in self._pools()), key=lambda each: each.name)

    async def drain(self, pool: str, instance: str, *, reason: str = DRAINED, at: int | None = None) -> int:
        """Send an instance no new requests, on all workers; those in flight end as they would.

        With `at` the records must still have that version. Gives their new one. Three round trips.

        Raises:
            ConfigurationError: there is no such pool or instance, the reason is no text of at most 200 characters, or
                so many are drained that their record is full.
            RecordConflict: with `at`, the records have another version.
            StoreUnavailable: the backend is away.
        """
        if not isinstance(reason, str) or not 0 < len(reason) <= MOST_REASON:
            raise ConfigurationError(f"cop.balancing.drain: reason={reason!r}: why, as text of at most {MOST_REASON}")
        self._known(pool)
        known = {each.name for found in self._named(pool) for each in found.snapshot().instances}
        if instance not in known:
            raise ConfigurationError(
                f"cop.balancing.drain({pool!r}, {instance!r}): the pool has no such instance; it has "
                f"{', '.join(map(repr, sorted(known))) or 'none'}"
            )
        return await self._change(pool, lambda said: replace(said, draining={**said.draining, instance: reason}), at)

    async def resume(self, pool: str, instance: str, *, at: int | None = None) -> int:
        """Send a drained instance requests again, slowly at first, on all workers. Gives the records' version.

        Raises:
            ConfigurationError: there is no such pool.
            RecordConflict, StoreUnavailable: as in `drain`.
        """
        self._known(pool)
        return await self._change(
            pool,
            lambda said: replace(said, draining={name: why for name, why in said.draining.items() if name != instance}),
            at,
        )

    async def configure(self, pool: str, settings: BalancingSettings | None, *, at: int | None = None) -> int:
        """Let a pool go by other settings, on all workers; `None`: by those of the code again.

        With `at` the records must still have that version. Gives their new one. Three round trips.

        Raises:
            ConfigurationError: there is no such pool, or the settings can't be told to other workers.
            RecordConflict, StoreUnavailable: as in `drain`.
        """
        if settings is not None and not isinstance(settings, BalancingSettings):
            raise ConfigurationError(
                f"cop.balancing.configure({pool!r}, {settings!r}): BalancingSettings(policy='p2c'), or None"
            )
        self._known(pool)
        if settings is not None:
            self._check(settings, f"cop.balancing.configure({pool!r})")
        return await self._change(pool, lambda said: replace(said, settings=settings), at)

    @property
    def version(self) -> int:
        """The version of the records that this worker goes by; 0 where there never was one."""
        return self._messaging().version(BALANCING)

    @property
    def refused(self) -> Mapping[str, str]:
        """Records that can't be used, with the reason; while there is one, those before it go on."""
        return self.live.refused

    def obey(self, pool: BalancedPool, own: BalancingSettings | None = None) -> None:
        """Apply what is said of a pool: it is new, has other instances, or something else is said.

        `own` are the settings of the code where those are others now; by default what it was made with.
        """
        own = self._own[pool] = own or self._own.get(pool, pool.settings)
        said = self.live.values.get(pool.name, NOTHING_SAID)
        settings = said.settings or own
        if settings != pool.settings:
            pool.configure(settings)
            self._emit("pool.configured", {"pool": pool.name, "by": "code" if said.settings is None else "record"})
        with pool.together():
            for name in {*said.draining, *pool.drained()}:
                with contextlib.suppress(LookupError):  # it is not there; should it come, this is asked again
                    if name in said.draining:
                        pool.drain(name, reason=said.draining[name])
                    else:
                        pool.resume(name)

    def _swap(self, puts: Mapping[str, PoolOrders | None]) -> None:
        for each in self._made():
            if each.name in puts:
                self.obey(each)

    async def _change(self, pool: str, changed: Callable[[PoolOrders], PoolOrders], at: int | None) -> int:
        """Publish at the version that it builds on, so that of two changes of one pool neither is lost."""
        messaging = self._messaging()
        if at is not None and at != messaging.version(BALANCING):
            await messaging.converge(BALANCING)
        turns = MOST_TURNS if at is None else 1
        while True:
            turns -= 1
            record = changed(self.live.values.get(pool, NOTHING_SAID)).record()
            if len(dumps(record).encode()) > MOST_VALUE:
                raise ConfigurationError(
                    f"cop.balancing: one record can't hold all that is being drained of {pool!r}, which is "
                    f"{len(record['draining'])} instances. Resume those that are gone"
                )
            try:
                return await messaging.publish(
                    BALANCING,
                    {pool: dumps(record) if record else None},
                    at=messaging.version(BALANCING) if at is None else at,
                )
            except RecordConflict:
                if not turns:
                    raise

    def _named(self, pool: str) -> Sequence[BalancedPool]:
        return [each for each in self._pools() if each.name == pool]

    def _known(self, pool: str) -> None:
        """See that there is a pool of that name; or that something is said of one that is gone."""
        if not self._named(pool) and pool not in self.live.values:
            names = sorted({each.name for each in self._pools()})
            raise ConfigurationError(
                f"cop.balancing: there is no pool {pool!r}; there are {', '.join(map(repr, names)) or 'none'}"
            )
