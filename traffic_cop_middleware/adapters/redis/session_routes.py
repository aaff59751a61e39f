"""Session routes in Redis: one hash per session, and an index of all of them.

The hash decides, and is what a caller waits for: one command. When its reply says that a route was written or deleted,
the index is told by a second command (another slot of a cluster, so never in the same script), which nobody waits for.
Asked on the same connection, a later `active` or `figures` of this worker sees it. A note that is lost leaves the index
behind until the route's next change or renewal; what is noted and gone leaves it at its end by `sweep`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any

from traffic_cop_middleware.adapters.redis.calls import Script, counted, text_of, unheard
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.contracts import MICRO, SessionRoute
from traffic_cop_middleware.errors import StoreError

ROUTE = Script("session_route.lua")
INDEX = Script("session_routes_index.lua")

MOST_SECONDS = 100 * 366 * 86_400
PAGE = 1000


class RedisSessionRoutes:
    """`SessionRouteStore` on Redis, timed by the server's clock.

    Keys: `<namespace>:r:{id}`, and the index under `<namespace>:routes:{<namespace>}`.
    """

    def __init__(self, link: Link, *, namespace: str) -> None:
        self._link = link
        self._prefix = f"{namespace}:r:"
        index = f"{namespace}:routes:{{{namespace}}}"
        self._index_keys = tuple(index + name for name in ("made", "ends", "rows", "counts"))

    def create(self, id: str, *, service: str, instance: str, ttl: float) -> Awaitable[SessionRoute]:
        return self._ask(id, "create", service, _micros(ttl), instance)

    def validate(self, id: str, *, service: str, ttl: float | None = None) -> Awaitable[SessionRoute | None]:
        return self._ask(id, "validate", service, "" if ttl is None else _micros(ttl))

    def update(
        self, id: str, *, service: str, instance: str, version: int, ttl: float
    ) -> Awaitable[SessionRoute | None]:
        return self._ask(id, "update", service, _micros(ttl), instance, version)

    def end(self, id: str, *, service: str | None = None) -> Awaitable[int]:
        operation = ("end_all", "") if service is None else ("end", service)
        return ROUTE.ask(self._link, (self._key(id),), operation, partial(self._ended, id))

    def of(self, id: str) -> Awaitable[Sequence[SessionRoute]]:
        return ROUTE.ask(self._link, (self._key(id),), ("all", ""), partial(_routes, id))

    def active(
        self, *, service: str | None = None, instance: str | None = None, most: int = 1000
    ) -> Awaitable[Sequence[SessionRoute]]:
        """Live routes, newest first: as many commands as the index has pages of 1,000 to be looked through."""
        wanted = ("" if service is None else counted(service), "" if instance is None else f"={instance}")
        return self._active(self._ask_index("active", *wanted, "+inf", PAGE), wanted, most)

    def sweep(self, *, most: int = 1000) -> Awaitable[int]:
        return self._ask_index("sweep", most)

    def figures(self) -> Awaitable[Mapping[str, Mapping[str, int]]]:
        return INDEX.ask(self._link, self._index_keys, ("figures",), _figures)

    # Routes

    def _key(self, id: str) -> str:
        return f"{self._prefix}{{{id}}}"

    def _ask(self, id: str, operation: str, service: str, *arguments: str | int) -> asyncio.Future[Any]:
        return ROUTE.ask(
            self._link, (self._key(id),), (operation, service, *arguments), partial(self._answered, id, service)
        )

    def _answered(self, id: str, service: str, reply: Any) -> SessionRoute | None:
        if reply is None:
            return None
        version, made, ends, now, instance, written = reply
        if written:
            self._note("put", counted(service), id, version, made, ends, now, instance)
        return _route(id, service, instance, times=(version, made, ends, now))

    def _ended(self, id: str, reply: Sequence[Any]) -> int:
        ended = [(text_of(service), made) for service, made in zip(reply[::2], reply[1::2], strict=True)]
        if ended:
            self._note("remove", *(part for service, made in ended for part in (counted(service), id, made)))
        return len(ended)

    # The index

    def _ask_index(self, *arguments: Any) -> asyncio.Future[Any]:
        return INDEX.ask(self._link, self._index_keys, arguments)

    def _note(self, *arguments: Any) -> None:
        with contextlib.suppress(StoreError):  # the route stands; see above
            self._ask_index(*arguments).add_done_callback(unheard)

    async def _active(self, asked: asyncio.Future[Any], wanted: tuple[str, str], most: int) -> Sequence[SessionRoute]:
        found: dict[bytes, SessionRoute] = {}
        begun = b""
        while True:
            now, further, *pairs = await asked
            for member, row in zip(pairs[::2], pairs[1::2], strict=True):
                version, made, ends, _, instance = row.split(b" ", 4)
                service, id = _parted(member)
                times = (int(version), int(made), int(ends), now)
                found.setdefault(member, _route(id, service, instance, times=times))
            if len(found) >= most or further in (b"", begun):
                return list(found.values())[:most]
            begun = further
            asked = self._ask_index("active", *wanted, text_of(further), PAGE)


def _route(id: str, service: str, instance: bytes, *, times: Sequence[int]) -> SessionRoute:
    """`times`: version, made, ends, now."""
    version, made, ends, now = times
    return SessionRoute(id, service, text_of(instance), version, (ends - now) / MICRO, max(0, now - made) / MICRO)


def _routes(id: str, reply: Sequence[Any]) -> Sequence[SessionRoute]:
    rows = zip(*(reply[at::6] for at in range(6)), strict=True)
    found = [
        _route(id, text_of(service), instance, times=(version, made, ends, now))
        for service, version, made, ends, now, instance in rows
    ]
    return sorted(found, key=lambda each: each.service)


def _figures(reply: Sequence[Any]) -> Mapping[str, Mapping[str, int]]:
    services: dict[str, dict[str, int]] = {}
    for name, number in zip(reply[::2], reply[1::2], strict=True):
        service, instance = _parted(name)
        services.setdefault(service, {})[instance] = number
    return services


def _parted(name: bytes) -> tuple[str, str]:
    length, _, rest = name.partition(b":")
    return text_of(rest[: int(length)]), text_of(rest[int(length) :])


def _micros(ttl: float) -> int:
    if not 0 < ttl <= MOST_SECONDS:
        raise ValueError(f"ttl={ttl!r}: the seconds that a route lives, above 0 and at most {MOST_SECONDS}")
    return max(1, round(ttl * MICRO))
