"""Sessions in Redis: every operation on a session, or on the sessions of a tag, is one script (sessions.lua).

A tag's keys, below the namespace: `s:{tag}id` (records), `g:{tag}` (generation) and `i:{tag}` (index) share a slot of
a Redis Cluster. Redis must not evict (`maxmemory-policy noeviction`). Where it does, sessions end early; none that
was ended ever comes back.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from traffic_cop_middleware.adapters.redis.calls import Script, text_of
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.session_census import AT_ONCE, SessionCensus
from traffic_cop_middleware.adapters.redis.session_replies import LONGEST, key_of, listed, loaded, log_spoilt, ms, pairs
from traffic_cop_middleware.contracts import MICRO, Created, Listed, Loaded, Rotated, SessionKey
from traffic_cop_middleware.errors import SessionTooLarge, StoreError

T = TypeVar("T")
WHOLE = 2**53
NEARER = 2
"""What scripts say where a use brought the end of a session nearer: the census then hears of it at once."""

LOAD = Script("sessions_load.lua")
CREATE = Script("sessions.lua", "sessions_of_tag.lua", "sessions_create.lua")
WRITE = Script("sessions.lua", "sessions_write.lua")
ROTATE = Script("sessions.lua", "sessions_rotate.lua")
MOVE = Script("sessions.lua", "sessions_move.lua")
END = Script("sessions.lua", "sessions_end.lua")
LIST = Script("sessions.lua", "sessions_of_tag.lua", "sessions_list.lua")
REVOKE = Script("sessions.lua", "sessions_of_tag.lua", "sessions_revoke.lua")


class RedisSessions(SessionCensus):
    """`SessionStore` on Redis. Keys get the prefix `<namespace>:`."""

    shared = True

    # One session

    def create(
        self,
        key: SessionKey,
        *,
        kind: str,
        meta: str,
        data: Mapping[str, str],
        idle: float,
        lifetime: float,
        limit: int | None = None,
        end_oldest: bool = True,
        replaces: str | None = None,
    ) -> asyncio.Future[Created]:
        def read(reply: list[Any]) -> Created | StoreError:
            if reply[0] < 0:
                return taken(key)
            if reply[0] == 0:
                return Created(False, reply[1])
            ended = [(SessionKey(key.tag, text_of(id)), text_of(its_kind)) for id, its_kind in pairs(reply[3])]
            former = [(SessionKey(key.tag, replaces or ""), text_of(its_kind)) for its_kind in reply[4:]]
            self._delist([*ended, *former])
            self._enlist(key, kind, reply[2])
            return Created(True, reply[1], [other.id for other, _ in ended], bool(former))

        arguments: list[str | int] = [self._records(key.tag), key.id, kind, meta, ms(idle), ms(lifetime)]
        arguments += ("" if limit is None else limit, int(end_oldest), replaces or "")
        for name, text in data.items():
            arguments += (name, text)
        return self._ask(CREATE, self._keys(key), arguments, read)

    def load(self, key: SessionKey, *, generation: int) -> asyncio.Future[Loaded | None]:
        tag, id = key
        record = f"{self._prefix}s:{{{tag}}}{id}"
        keys = (record, f"{self._prefix}g:{{{tag}}}")
        return LOAD.ask(self._link, keys, (generation,), partial(loaded, record, generation, self._spoilt))

    def merge(
        self, key: SessionKey, changes: Mapping[str, str | None], *, generation: int, idle: float, most: int
    ) -> asyncio.Future[int | None]:
        deleted = [name for name, text in changes.items() if text is None]
        arguments: list[str | int] = ["merge", len(deleted), *deleted]
        for name, text in changes.items():
            if text is not None:
                arguments += (name, text)
        return self._write(key, arguments, generation, idle, most, touch=not changes)

    def add(
        self, key: SessionKey, name: str, amount: int, *, generation: int, idle: float, most: int
    ) -> asyncio.Future[int | None]:
        if abs(amount) >= WHOLE:
            raise TypeError(f"{amount} can't be added to {name!r}: whole numbers stay within 2**53 here")
        return self._write(key, ["add", name, int(amount)], generation, idle, most)

    def swap(
        self,
        key: SessionKey,
        name: str,
        before: str | None,
        after: str | None,
        *,
        generation: int,
        idle: float,
        most: int,
    ) -> asyncio.Future[bool | None]:
        texts = ["-" if text is None else f"={text}" for text in (before, after)]
        return self._write(key, ["swap", name, *texts], generation, idle, most, read=bool)

    def rotate(
        self, key: SessionKey, presented: int, *, grace: float, generation: int, idle: float
    ) -> asyncio.Future[Rotated]:
        def read(reply: list[Any]) -> Rotated:
            outcome = reply[0].decode()
            if outcome == "reused":
                self._delist([(key, text_of(reply[1]))])
            if outcome in ("reused", "gone"):
                return Rotated(outcome)
            _, rotation, micros, how, kind, ends = reply
            if how == NEARER:
                self._used(key, text_of(kind), ends)
            return Rotated(outcome, rotation, micros / MICRO)

        grace_micros = round(min(grace * 1000, LONGEST) * 1000)
        return self._ask(ROTATE, self._keys(key), (generation, ms(idle), key.id, presented, grace_micros), read)

    def move(self, key: SessionKey, to: SessionKey, *, meta: str, generation: int, idle: float) -> asyncio.Future[bool]:
        if to.tag != key.tag:
            raise ValueError(f"a session of {key.tag!r} can't move to {to.tag!r}: make a new one, and end this one")

        def read(reply: list[Any] | None) -> bool | StoreError:
            if reply is None:
                return False
            if reply[0] < 0:
                return taken(to)
            kind = text_of(reply[1])
            self._delist([(key, kind)])
            self._enlist(to, kind, reply[2])
            return True

        keys = (*self._keys(key), self._prefix + to.record)
        return self._ask(MOVE, keys, (generation, ms(idle), key.id, to.id, meta), read)

    def end(self, key: SessionKey) -> asyncio.Future[bool]:
        def read(kind: bytes | None) -> bool:
            if kind is not None:
                self._delist([(key, text_of(kind))])
            return kind is not None

        return self._ask(END, self._keys(key), (key.id,), read)

    # The sessions of a tag

    def list(self, tag: str) -> asyncio.Future[Sequence[Listed]]:
        return LIST.ask(self._link, self._keys_of(tag), (self._records(tag),), listed)

    def revoke(self, tag: str, *, keep: str | None = None) -> asyncio.Future[Sequence[str]]:
        return self._revoke(tag, "" if keep is None else f"={keep}")

    def _revoke(self, tag: str, keep: str = "", ids: Iterable[str] = ()) -> asyncio.Future[Sequence[str]]:
        def read(reply: Sequence[bytes]) -> Sequence[str]:
            ended = [(SessionKey(tag, text_of(id)), text_of(kind)) for id, kind in pairs(reply)]
            self._delist(ended)
            return [key.id for key, _ in ended]

        return REVOKE.ask(self._link, self._keys_of(tag), (self._records(tag), keep, *ids), read)

    # All sessions

    def revoke_all(self) -> asyncio.Future[int]:
        """As in the contract: every tag that has a record or an index during the whole of one SCAN is revoked.

        A session that is given another id meanwhile is not missed, for its tag's index stands still. One that is made
        meanwhile may be, where its tag had none before.
        """
        return self._go_on(self._revoke_all(self._scan(b"0", self._link), self._link))

    async def _revoke_all(self, scan: asyncio.Future[Any], scanned: Link) -> int:
        ended = 0
        while True:
            cursor, found = await scan
            tags: dict[str, set[str]] = defaultdict(set)
            for name in found:
                store, _, place = name[len(self._prefix.encode()) :].partition(b":")
                key = key_of(place)
                if key is not None:
                    tags[key.tag].update([key.id] if store == b"s" else [])
            for revoked in await asyncio.gather(*(self._revoke(tag, ids=ids) for tag, ids in tags.items())):
                ended += len(revoked)
            if int(cursor) == 0:
                return ended
            scan = self._scan(cursor, scanned)

    def _scan(self, cursor: bytes, scanned: Link) -> asyncio.Future[Any]:
        escaped = "".join(f"\\{letter}" if letter in r"*?[]\\" else letter for letter in self._prefix)
        return scanned.ask("SCAN", cursor, "MATCH", f"{escaped}[si]:{{*", "COUNT", AT_ONCE)

    # Within

    def _spoilt(self, record: str) -> None:
        log_spoilt(record)
        self._link.tell("session.unreadable", {"session": record.rpartition("}")[2], "part": "record"})

    def _records(self, tag: str) -> str:
        return f"{self._prefix}s:{{{tag}}}"

    def _keys_of(self, tag: str) -> tuple[str, str]:
        return f"{self._prefix}g:{{{tag}}}", f"{self._prefix}i:{{{tag}}}"

    def _keys(self, key: SessionKey) -> tuple[str, str, str]:
        return self._prefix + key.record, *self._keys_of(key.tag)

    def _write(
        self,
        key: SessionKey,
        arguments: Sequence[str | int],
        generation: int,
        idle: float,
        most: int,
        *,
        read: Callable[[int], Any] = int,
        touch: bool = False,
    ) -> asyncio.Future[Any]:
        def answer(reply: Any) -> Any:
            if reply is None:
                return None
            if reply[0] == b"size":
                return SessionTooLarge(f"the session would hold {reply[1]} bytes; {most} is the most. Keep less in it")
            if reply[0] == b"type":
                return TypeError(f"{arguments[1]!r} has no whole number within 2**53, or would not have one any more")
            if touch or reply[0] == NEARER:
                self._used(key, text_of(reply[1]), reply[2])
            return read(reply[3])

        return self._ask(WRITE, self._keys(key)[:2], (generation, ms(idle), most, *arguments), answer)

    def _ask(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[str | int],
        read: Callable[[Any], T | StoreError],
    ) -> asyncio.Future[T]:
        """Ask a script whose reply may be a refusal: `read` gives the answer, or what to raise."""

        def answer(reply: Any) -> Any:
            found = read(reply)
            if isinstance(found, Exception) and not future.done():
                future.set_exception(found)
            return found

        future: asyncio.Future[T] = script.ask(self._link, keys, arguments, answer)
        return future


def taken(key: SessionKey) -> StoreError:
    return StoreError(f"there is something already under {key.record!r}, and it stays: a new session needs a new id")
