"""How many sessions of each kind there are on this Redis, and which of them ran out.

Keys, below the namespace and in one slot: `{sessions}:kinds` (a set), `{sessions}:live:<kind>` (a sorted set of
sessions by when they were last known to end) and `{sessions}:tally` (a hash). They don't lie in a tag's slot, so what
a tag's script did is told here when its reply comes, by commands that nobody waits for. Invariant: a session that
lives is listed, but for one whose maker died between the two; one that is listed and does not live is told once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from traffic_cop_middleware.adapters.redis.calls import Script, text_of
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.session_replies import key_of, member, pairs
from traffic_cop_middleware.contracts import SessionFigures, SessionKey

log = logging.getLogger("traffic_cop.redis")
T = TypeVar("T")
Command = tuple[str | bytes | int, ...]

AT_ONCE = 100
"""Commands of a big job that are asked together, so that others' questions need not wait for all of it."""
DUE_AT_ONCE = 1000
DUE = Script("sessions_due.lua")
TALLY = Script("sessions_tally.lua")


class SessionCensus:
    """The part of `RedisSessions` that concerns all sessions."""

    def __init__(self, link: Link, *, namespace: str) -> None:
        self._link = link
        self._prefix = f"{namespace}:"
        self._kinds = f"{namespace}:{{sessions}}:kinds"
        self._live = f"{namespace}:{{sessions}}:live:"
        self._counts = f"{namespace}:{{sessions}}:tally"

    def sweep(self, *, most: int = 1000) -> asyncio.Future[Sequence[tuple[SessionKey, str]]]:
        """As in the contract: who is due, who of them lives, and whose removal was this caller's."""
        return self._go_on(self._sweep(self._due(most)))

    async def _sweep(self, due: asyncio.Future[Any]) -> Sequence[tuple[SessionKey, str]]:
        now, *kinds = await due
        entries = [(self._live + text_of(kind), text_of(kind), place) for kind, _, places in kinds for place in places]
        gone = []
        lefts = await self._each([("PTTL", self._record_at(place)) for _, _, place in entries])
        for (live, kind, place), left in zip(entries, lefts, strict=True):
            if left == -2:
                gone.append((live, kind, place))
            else:
                self._unheard("ZADD", live, "XX", now + max(1, left) * 1000, place)
        ran_out = []
        removed = await self._each([("ZREM", live, place) for live, _, place in gone])
        for (_, kind, place), mine in zip(gone, removed, strict=True):
            key = key_of(place)
            if mine and key is not None:
                self._unheard("ZREM", f"{self._prefix}i:{{{key.tag}}}", key.id)
                ran_out.append((key, kind))
        return ran_out

    def tally(self, counts: Mapping[str, int]) -> asyncio.Future[None]:
        words = [word for count in counts.items() for word in count]
        return TALLY.ask(self._link, (self._counts,), words)

    def figures(self) -> asyncio.Future[SessionFigures]:
        """As in the contract. Of those that are due and not swept yet, up to 1000 are looked after and counted."""
        return self._go_on(self._figures(self._due(DUE_AT_ONCE), self._link.ask("HGETALL", self._counts)))

    async def _figures(self, *asked: asyncio.Future[Any]) -> SessionFigures:
        (_, *kinds), tallied = await asyncio.gather(*asked)
        active = {}
        for kind, count, places in kinds:
            number = count + sum(await self._each([("EXISTS", self._record_at(place)) for place in places]))
            if number:
                active[text_of(kind)] = number
        return SessionFigures(active, {text_of(name): int(count) for name, count in pairs(tallied)})

    # For the sessions' own scripts

    def _enlist(self, key: SessionKey, kind: str, ends: int) -> None:
        """A session was made that ends at a stamp, unless it is used."""
        self._unheard("SADD", self._kinds, kind)
        self._unheard("ZADD", self._live + kind, ends, member(key))

    def _used(self, key: SessionKey, kind: str, ends: int) -> None:
        self._unheard("ZADD", self._live + kind, "XX", ends, member(key))

    def _delist(self, sessions: Iterable[tuple[SessionKey, str]]) -> None:
        """Sessions were ended, so they will not run out."""
        members: dict[str, list[str]] = defaultdict(list)
        for key, kind in sessions:
            members[kind].append(member(key))
        for kind, places in members.items():
            self._unheard("ZREM", self._live + kind, *places)

    # Asking

    def _due(self, most: int) -> asyncio.Future[Any]:
        return DUE.ask(self._link, (self._kinds,), (self._live, most))

    def _record_at(self, place: bytes) -> bytes:
        return f"{self._prefix}s:".encode() + place

    def _go_on(self, steps: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Several round trips, of which the first one is asked already."""
        return self._link.loop.create_task(steps)

    async def _each(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands, asked some at a time."""
        replies: list[Any] = []
        for start in range(0, len(commands), AT_ONCE):
            replies += await asyncio.gather(*(self._link.ask(*each) for each in commands[start : start + AT_ONCE]))
        return replies

    def _unheard(self, *command: str | bytes | int) -> None:
        """Ask what nobody waits for."""
        self._link.ask(*command).add_done_callback(let_go)


def let_go(asked: asyncio.Future[Any]) -> None:
    """Its failure is no news: whatever is asked next fails as well, and `sweep` puts right what was missed."""
    if not asked.cancelled() and (error := asked.exception()) is not None:
        log.debug("what nobody waits for failed: %s", error)
