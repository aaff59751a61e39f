"""The instances that own a session, while it is given another id, and when it ends."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import TypeAlias

from traffic_cop_middleware.abstractions.asking import answered, aside, heard
from traffic_cop_middleware.contracts import SessionRoute, SessionRouteStore
from traffic_cop_middleware.errors import StoreError

log = logging.getLogger("traffic_cop")

Routes: TypeAlias = Sequence[SessionRoute] | Awaitable[Sequence[SessionRoute]]


class SessionOwners:
    """What becomes of a session's routes. `store`: where they are, if anywhere; `ttl`: seconds that one lasts unused.

    While the store is away routes stay behind: the session gets an owner anew, and what is left runs out by itself.
    """

    def __init__(self, store: SessionRouteStore | None, *, ttl: float) -> None:
        self._store = store
        self._ttl = ttl

    async def end(self, id: str) -> None:
        """No instance owns this session any more. Nobody waits for that."""
        if (store := self._store) is not None:
            await aside(lambda: store.end(id))

    def of(self, id: str) -> Routes:
        """Ask who owns a session that is about to get another id, together with what makes that."""
        if self._store is None or not id:
            return ()
        try:
            asked = self._store.of(id)
        except StoreError as exc:
            log.debug("a session's routes can't be asked for: %s", exc)
            return ()
        heard(asked)
        return asked

    async def take(self, asked: Routes, id: str) -> None:
        """Let the instances that owned a session own the one that it has become, of this id.

        No round trip where there were none, else one.
        """
        store = self._store
        if store is None:
            return
        try:
            former = await answered(asked)
            made = [store.create(id, service=each.service, instance=each.instance, ttl=self._ttl) for each in former]
            for each in made:
                heard(each)
            for each in made:
                await answered(each)
        except StoreError as exc:
            log.debug("a session's routes were not taken along: %s", exc)
        else:
            if former:
                await self.end(former[0].id)
