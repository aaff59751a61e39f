"""All sessions together: whose there are, ending them, which service owns them, and what was counted."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.sessions import TOPIC, SessionAbstraction, owner_from
from traffic_cop_middleware.abstractions.subjects import subject_of
from traffic_cop_middleware.contracts import (
    Message,
    MessageBus,
    SessionFigures,
    SessionKey,
    SessionRoute,
    SessionRouteStore,
)
from traffic_cop_middleware.errors import ConfigurationError, StoreError

log = logging.getLogger("traffic_cop")

MOVE_TRIES = 64


class SessionInfo(NamedTuple):
    """One of a user's sessions, to be shown to them. `since` and `authenticated_at` are seconds since the epoch.

    `idle_left` and `left` are the seconds until it ends unless it is used, and in any case.
    """

    id: str
    since: int
    authenticated_at: int
    attributes: Mapping[str, Any]
    claims: Mapping[str, Any]
    idle_left: float
    left: float


Watched = Callable[[bool], None]
"""Called with whether the session surely ended; if not, something may have been missed: look."""


class SessionManagementAbstraction:
    """What an administrator, or a user's own settings page, does with sessions.

    Every method that asks the store raises `StoreUnavailable` while it is away.
    """

    def __init__(
        self, sessions: SessionAbstraction, *, routes: SessionRouteStore | None, bus: MessageBus | None
    ) -> None:
        self._sessions = sessions
        self._routes = routes
        self._watching = threading.Lock()
        self._watched: dict[str, dict[str, set[Watched]]] = {}
        self._bus = bus
        self._unsubscribe: Callable[[], None] | None = None

    # Lists and revocation

    async def sessions_of(self, subject: str) -> list[SessionInfo]:
        """A user's sessions, oldest first. One round trip."""
        listed = await answered(self._sessions.store.list(subject_of("user", subject)))
        found = []
        for id, _version, _age, idle_left, left, meta in listed:
            owner = owner_from(meta)
            if owner is not None:
                found.append(
                    SessionInfo(id, owner.since, owner.authenticated, owner.attributes, owner.claims, idle_left, left)
                )
        return found

    async def revoke(self, subject: str, id: str) -> bool:
        """End one of a user's sessions by the `id` in their list; whether there was one."""
        return await self._sessions.end(SessionKey(subject_of("user", subject), id), "user", "revoked")

    async def revoke_user(self, subject: str, *, keep: str | None = None) -> int:
        """End all sessions of a user, or all but the one with the id `keep`; how many there were.

        They are dead when this returns, on all workers; also one that is being made by an older request.
        """
        tag = subject_of("user", subject)
        ended = await answered(self._sessions.store.revoke(tag, keep=keep))
        for id in ended:
            self._sessions.emit("session.revoked", {"session": id, "kind": "user", "reason": "revoked"})
            await self._sessions.owners.end(id)
        await self._sessions.publish({"tag": tag, "keep": keep})
        await self._sessions.count({"ended.revoked": len(ended)})
        return len(ended)

    async def revoke_everyone(self) -> int:
        """End every session; how many there were. Takes a round trip for some hundreds of them.

        One that begins while this runs may survive.
        """
        ended = await answered(self._sessions.store.revoke_all())
        self._sessions.emit("session.revoked", {"session": "*", "kind": "*", "reason": "everyone"})
        await self._sessions.publish({"all": True})
        await self._sessions.count({"ended.revoked": ended})
        return ended

    async def clean_up(self) -> int:
        """Tell of the sessions that ran out since the last time (`session.expired`), and clear away their routes.

        They are dead without this: it is for the figures and those who listen. Each worker does it every minute.
        """
        expired: Sequence[tuple[SessionKey, str]] = await answered(self._sessions.store.sweep())
        for key, kind in expired:
            self._sessions.emit("session.expired", {"session": key.id, "kind": kind})
            await self._sessions.owners.end(key.id)
        if expired:
            await self._sessions.count({"ended.expired": len(expired)})
        if self._routes is not None:
            await answered(self._routes.sweep())
        return len(expired)

    async def figures(self) -> SessionFigures:
        """How many sessions are active, by kind, and how many began and ended, by kind and reason, over all workers."""
        return await answered(self._sessions.store.figures())

    # Which service owns a session

    async def assign(self, id: str, service: str, instance: str, *, ttl: float = 3600.0) -> SessionRoute:
        """Give a session an owner among a service's instances, unless it has one: then that one is answered."""
        return await answered(self._route_store().create(id, service=service, instance=instance, ttl=ttl))

    async def owner_of(self, id: str, service: str, *, ttl: float | None = None) -> SessionRoute | None:
        """Which instance of a service owns a session; `None` for none. With `ttl` seconds that begins anew."""
        return await answered(self._route_store().validate(id, service=service, ttl=ttl))

    async def reassign(self, route: SessionRoute, instance: str, *, ttl: float = 3600.0) -> SessionRoute | None:
        """Give a session another owner; `None` if somebody else did so meanwhile, or the route has ended."""
        return await answered(
            self._route_store().update(
                route.id, service=route.service, instance=instance, version=route.version, ttl=ttl
            )
        )

    async def move(self, id: str, service: str, *, to: str, ttl: float | None = None) -> SessionRoute:
        """Let another instance own a session, whoever owned it; its next request goes there, if that can take it.

        `ttl`: seconds that the route lasts without use, by default as a session does. Two round trips, and two more for
        each time that another was faster.

        Raises:
            StoreError: others were faster 64 times in a row.
        """
        store, ttl = self._route_store(), ttl or self._sessions.policy.idle
        for _ in range(MOVE_TRIES):
            route = await answered(store.create(id, service=service, instance=to, ttl=ttl))
            if route.instance == to:
                return route
            moved = await answered(store.update(id, service=service, instance=to, version=route.version, ttl=ttl))
            if moved is not None:
                told = {"session": id, "service": service, "from": route.instance, "to": to}
                self._sessions.emit("session.rerouted", {**told, "reason": "it was moved", "recorded": True})
                return moved
        raise StoreError(f"move({id!r}, {service!r}): {MOVE_TRIES} others were faster")

    async def routes_of(self, id: str) -> Sequence[SessionRoute]:
        """Which instances own a session, by service. One round trip."""
        return await answered(self._route_store().of(id))

    async def release(self, id: str, service: str | None = None) -> int:
        """A session has no owner any more, at one service or at all; how many routes there were."""
        return await answered(self._route_store().end(id, service=service))

    async def routes(
        self, *, service: str | None = None, instance: str | None = None, most: int = 1000
    ) -> Sequence[SessionRoute]:
        """Live routes, newest first."""
        return await answered(self._route_store().active(service=service, instance=instance, most=most))

    async def route_figures(self) -> Mapping[str, Mapping[str, int]]:
        """How many sessions each instance of each service owns."""
        return await answered(self._route_store().figures())

    def _route_store(self) -> SessionRouteStore:
        if self._routes is None:
            raise ConfigurationError("the backend keeps no session routes. Use memory:// or redis://")
        return self._routes

    # What other workers tell

    def watch(self, key: SessionKey, ended: Watched) -> Callable[[], None]:
        """Call `ended` when a session is ended, by whichever worker; calling what this returns ends the watch."""
        with self._watching:  # the sockets of several event loops, and whoever publishes
            if self._unsubscribe is None and self._bus is not None:
                self._unsubscribe = self._bus.subscribe(TOPIC, self._heard)
            watched = self._watched.setdefault(key.tag, {}).setdefault(key.id, set())
            watched.add(ended)

        def stop() -> None:
            with self._watching:
                watched.discard(ended)
                ids = self._watched.get(key.tag, {})
                if not watched and ids.get(key.id) is watched:
                    del ids[key.id]
                    if not ids:
                        del self._watched[key.tag]

        return stop

    def close(self) -> None:
        """Listen no longer."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _heard(self, message: Message) -> None:
        """What ended somewhere."""
        try:
            told: dict[str, Any] = json.loads(message.payload) if message.payload is not None else {}
        except ValueError:
            log.warning("a message on %r is no JSON", message.topic)
            return
        ids, tag, keep = told.get("ids", ()), told.get("tag"), told.get("keep")
        everyone = bool(told.get("all")) or message.payload is None
        with self._watching:
            ended = [
                watcher
                for its_tag, watched in self._watched.items()
                for id, watchers in watched.items()
                if everyone or id in ids or (its_tag == tag and id != keep)
                for watcher in watchers
            ]
        for watcher in ended:
            watcher(message.payload is not None)
