"""`cop.limits`: limits that are changed, looked at and filled up while the app runs, on all workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.abstractions.live_table import LiveTable
from traffic_cop_middleware.abstractions.policies import Policy
from traffic_cop_middleware.abstractions.rate_limiting import Bill, Charge, Decision, bill
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.composition.opened import LIMITS, RESETS, Opened
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.keys import Key, by_everyone
from traffic_cop_middleware.middleware.limit_records import LiveLimit, live_limit_from
from traffic_cop_middleware.middleware.marks import Limit
from traffic_cop_middleware.middleware.plans import Planner, policies


class StandingLimit(NamedTuple):
    """A limit that requests owe: its `name` (as in the response fields), `rate`, `burst`, the kind of its `key`, where
    it stands ("" on every route, "/admin/*", or a route's template), and whether a record says so (`live`)."""

    name: str
    rate: str
    burst: float
    key: str
    where: str
    live: bool


class Level(NamedTuple):
    """How full a bucket is: tokens that `remain` of its `burst`, and seconds until there is one more (0: full)."""

    name: str
    burst: float
    remaining: int
    next_in: int


class LiveLimits:
    """Limits in records that all workers share, beside those of the code, and a look into the buckets.

    A change made through any worker holds on all within a second; while the backend is away the last ones go on. What
    a client had used under a limit it keeps when the rate changes: a bucket holds what is missing, in tokens.
    """

    def __init__(
        self, planner: Planner, gateway: Gateway, opened: Callable[[str], Opened], *, observers: Observers
    ) -> None:
        self._planner = planner
        self._gateway = gateway
        self._opened = opened
        self.live: LiveTable[LiveLimit] = LiveTable(
            LIMITS, parse=live_limit_from, swap=lambda _: planner.change(self.live.values), emit=observers.emit
        )

    async def put(
        self,
        name: str,
        rate: str,
        *,
        burst: float | None = None,
        cost: float | None = None,
        key: str | None = None,
        methods: Iterable[str] | None = None,
        paths: str | None = None,
        at: int | None = None,
    ) -> int:
        """Change the limits of the code that have this name: `await cop.limits.put("search", "5/minute")`.

        With `paths` it is a limit of its own instead, on a subtree ("/api/*") or on every route ("/*"); `key` is then
        "ip", "user", "session", "tenant", "api_key", "route" or "everyone". With `at` the records must still have that
        version. Gives their new version. Three round trips.

        Raises:
            ConfigurationError: a value can't be used, or no limit has that name (and there is no `paths`).
            RecordConflict: with `at`, the records have another version.
            StoreUnavailable: the backend is away.
        """
        opened = self._opened("limits")
        each = LiveLimit(name=name, rate=rate, burst=burst, cost=cost, key=key, methods=methods, paths=paths)
        if paths is None:
            live = self.live.values.get(name)
            own_one = live.limit() if live is not None and live.paths is not None else None
            standing = [own for _, own in self._standing() if own.name == name and own != own_one]
            if not standing and live is not None and own_one is not None:
                raise ConfigurationError(
                    f"cop.limits.put({name!r}, {rate!r}): it is a limit of its own, and would be none without its "
                    f"place. Write paths={live.paths!r} as well"
                )
            if not standing:
                raise ConfigurationError(
                    f"cop.limits.put({name!r}, …): no limit of the code has that name. Give it one, "
                    f"limit({rate!r}, name={name!r}), or say where it is to stand: paths='/*'"
                )
            for own in standing:
                each.on(own)
        return await opened.records("limits").publish(LIMITS, {name: dumps(each.record())}, at=at)

    async def remove(self, name: str, *, at: int | None = None) -> bool:
        """Remove the record of that name: what the code says holds again. Whether there was one.

        Raises:
            RecordConflict, StoreUnavailable: as in `put`.
        """
        messaging = self._opened("limits").records("limits")
        await messaging.converge(LIMITS)
        known = name in self.live.values or name in self.live.refused
        if known:
            await messaging.publish(LIMITS, {name: None}, at=at)
        return known

    async def list(self) -> Sequence[StandingLimit]:
        """All limits as they hold now, those of the code included. One round trip.

        Raises:
            StoreUnavailable: the backend is away.
        """
        await self._opened("limits").records("limits").converge(LIMITS)
        found = []
        for where, each in self._standing():
            for rate, policy in zip(each.rates, policies(each, _place(where)), strict=True):
                live = each.name in self.live.values
                found.append(StandingLimit(policy.name, rate.text, policy.burst, each.key.kind, where, live))
        return list(dict.fromkeys(found))

    async def show(self, name: str, of: str = "") -> Sequence[Level]:
        """How full a limit's buckets are for one client, taking nothing: `await cop.limits.show("search", "alice")`.

        `name` is a limit's name as in `list`, `of` what its key counts by: an address, a user, a tenant, an API key.
        One round trip.

        Raises:
            ConfigurationError: there is no limit of that name.
            StoreUnavailable: the backend is away.
        """
        owed = self._owed(name, of)
        answers = await self._opened("limits").rate_limits.look(owed.takes)
        levels = Decision(True, "store", owed, answers).levels()
        return [
            Level(policy.name, policy.burst, int(remaining), int(next_in))
            for policy, remaining, next_in in zip(owed.policies, levels[::2], levels[1::2], strict=True)
        ]

    async def reset(self, name: str, of: str = "") -> None:
        """Fill the buckets of a limit up for one client, on all workers. Arguments as in `show`. Two round trips.

        Raises:
            ConfigurationError: there is no limit of that name.
            StoreUnavailable: the backend is away; they may or may not be full.
        """
        opened = self._opened("limits")
        keys = [take.key for take in self._owed(name, of).takes]
        await opened.rate_limits.forget(keys)
        if opened.backend.bus is not None:
            await answered(opened.backend.bus.publish(RESETS, dumps(keys)))

    @property
    def refused(self) -> Mapping[str, str]:
        """Records that can't be used, with the reason; while there is one, the limits before it go on."""
        return self.live.refused

    def _standing(self) -> Iterator[tuple[str, Limit]]:
        table, limited = self._gateway.table, sorted(self._gateway.limited)
        routes = [route for name in limited if (route := table.named(name)) is not None]
        return self._planner.standing((route.pattern, each) for route in routes for each in action_of(route).limits)

    def _owed(self, name: str, of: str) -> Bill:
        """What a request would owe that limit."""
        if not isinstance(of, str):
            raise ConfigurationError(f"cop.limits: of={of!r}: an address, user, tenant or API key, as text")
        buckets = {(policy.bucket, key): policy for called, policy, key in self._buckets() if name == called}
        if not buckets:
            raise ConfigurationError(
                f"cop.limits: there is no limit {name!r}; there are "
                f"{', '.join(sorted({repr(called) for called, _, _ in self._buckets()})) or 'none'}"
            )
        for _, key in buckets:
            if not of and key is not by_everyone:
                raise ConfigurationError(
                    f"cop.limits: whose bucket of {name!r}? It counts by {key.kind}: say which one"
                )
        return bill(Charge(policy, key.subject_named(of), 0) for (_, key), policy in buckets.items())

    def _buckets(self) -> Iterator[tuple[str, Policy, Key]]:
        """Each bucket by the names that people may call it: the limit's, and of several rates the one with its rate."""
        for where, each in self._standing():
            for policy in policies(each, _place(where)):
                for called in {policy.name, each.name or policy.name}:
                    yield called, policy, each.key


def _place(where: str) -> str:
    return f"{where} " if where else ""
