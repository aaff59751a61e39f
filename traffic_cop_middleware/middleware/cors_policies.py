"""`cop.cors`: CORS policies, of the start and of records that all workers share, and which one a request has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from starlette.types import Scope

from traffic_cop_middleware.abstractions.cors import CorsPolicy, cors_policy_from
from traffic_cop_middleware.abstractions.cors_table import CorsTable
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.abstractions.live_table import LiveTable
from traffic_cop_middleware.abstractions.messaging import MOST_TURNS
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.composition.opened import Opened
from traffic_cop_middleware.errors import ConfigurationError, RecordConflict, StoreError
from traffic_cop_middleware.middleware.exchange import raw_path_of
from traffic_cop_middleware.middleware.gateway_matches import candidates_of

log = logging.getLogger("traffic_cop")

CORS = "cors"
"""The kind of these records."""


class CorsPolicies:
    """CORS policies by name. A record takes the place of a policy of its name that was given at start.

    Raises:
        ConfigurationError: two policies are for one path.
    """

    def __init__(
        self,
        policies: Mapping[str, CorsPolicy],
        gateway: Gateway,
        opened: Callable[[str], Opened],
        *,
        observers: Observers,
    ) -> None:
        self._own = dict(policies)
        self._gateway = gateway
        self._opened = opened
        self._missing: set[str] = set()
        self.table = CorsTable(self._own)
        self.active = bool(self.table)
        """Whether there is any policy."""
        self.live: LiveTable[CorsPolicy] = LiveTable(
            CORS, parse=lambda _, record: cors_policy_from(record), swap=lambda _: self._swap(), emit=observers.emit
        )

    async def begin(self) -> None:
        """Tell of routes that name a policy which there is not; one round trip where there are such."""
        named = [(route.name, name) for route in self._gateway.table if (name := action_of(route).cors) is not None]
        if all(self.table.named(name) is not None for _, name in named):
            return
        try:
            with suppress(ConfigurationError):  # a backend without records has none of a policy either
                await self._opened(CORS).records(CORS).converge(CORS)
        except StoreError:
            return  # what records say is not known; a request that needs the policy will tell
        for route, name in named:
            if self.table.named(name) is None:
                self._tell_of_missing(route, name)

    async def put(self, name: str, policy: CorsPolicy, *, at: int | None = None) -> int:
        """Add a policy or change the one of that name, on all workers. Gives the records' new version.

        With `at` they must still have that version. Three round trips.

        Raises:
            ConfigurationError: the name can't be used, or another policy is for one of its paths.
            RecordConflict: with `at`, the records have another version.
            StoreUnavailable: the backend is away.
        """
        return await self._change(name, policy, at)

    async def remove(self, name: str, *, at: int | None = None) -> bool:
        """Remove the record of that name; a policy of the start stands again. Whether there was one.

        Raises:
            ConfigurationError: another policy is for one of the paths of the policy that would stand again.
            RecordConflict, StoreUnavailable: as in `put`.
        """
        await self._opened(CORS).records(CORS).converge(CORS)
        known = name in self.live.values or name in self.live.refused
        if known:
            await self._change(name, None, at)
        return known

    async def _change(self, name: str, policy: CorsPolicy | None, at: int | None) -> int:
        """Publish at the version that it was checked with, so that of two workers' policies for one path one fails."""
        messaging = self._opened(CORS).records(CORS)
        if at is not None and at != messaging.version(CORS):
            await messaging.converge(CORS)
        turns = MOST_TURNS if at is None else 1
        while True:
            turns -= 1
            values = {**self._own, **{other: each for other, each in self.live.values.items() if other != name}}
            CorsTable(values if policy is None else {**values, name: policy})
            version = messaging.version(CORS) if at is None else at
            record = None if policy is None else dumps(policy.record())
            try:
                return await messaging.publish(CORS, {name: record}, at=version)
            except RecordConflict:
                if not turns:
                    raise

    async def list(self) -> Sequence[CorsPolicy]:
        """All policies that requests go by, with their names. One round trip.

        Raises:
            StoreUnavailable: the backend is away.
        """
        await self._opened(CORS).records(CORS).converge(CORS)
        return [policy for name in self.table if (policy := self.table.named(name)) is not None]

    @property
    def refused(self) -> Mapping[str, str]:
        """Records that can't be used, with the reason; while there is one, the policies before it go on."""
        return self.live.refused

    def of(self, scope: Scope, method: str) -> CorsPolicy | None:
        """The policy for a request of this method: the one that its gateway route names, else its path's.

        Where session attributes decide between routes, the one that asks for none names it: a preflight has no session.
        """
        candidates = candidates_of(self._gateway, scope, method=method)
        name = action_of(candidates[-1]).cors if candidates else None
        if name is None:
            return self.table.find(raw_path_of(scope))
        policy = self.table.named(name)
        if policy is None:
            self._tell_of_missing(candidates[-1].name, name)
        return policy

    def _tell_of_missing(self, route: str, name: str) -> None:
        if name not in self._missing:
            self._missing.add(name)
            log.error(
                "route %r names the CORS policy %r, and there is none of that name: no page of another origin can read "
                "its answers. Write TrafficCop(cors={%r: CorsPolicy(…)}), or cop.cors.put",
                *(route, name, name),
            )

    def _swap(self) -> None:
        self.table = CorsTable({**self._own, **self.live.values})
        self.active = bool(self.table)
