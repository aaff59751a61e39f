"""Records that every worker agrees on: published by one, seen by all.

Theory of operation. The truth is the collection in the `RecordStore`; a message on the bus only says that there is
something to read. A worker knows each kind up to a version and reads what came after it, one reading of a kind at a
time, so that whoever watches hears every change once and in order. What is published is told on the bus after it is
written. A lost message only delays, and so does a publisher that dies between the two: the owner calls `converge` now
and then.

A store that has lost a collection (its version is 0, and this worker knows a later one) gets back what this worker
knows, unless another one was faster: an empty Redis after a crash takes no routes and no limits away. So whoever writes
builds on the version that it knows: written into the empty store, a change would be the whole collection for everybody.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.contracts import Changes, Message, MessageBus, Record, RecordStore
from traffic_cop_middleware.contracts.records import MOST_CHANGED, MOST_CHANGED_BYTES
from traffic_cop_middleware.errors import ConfigurationError, RecordConflict, StoreError
from traffic_cop_middleware.loops import Turns

log = logging.getLogger("traffic_cop")

Heard = Callable[[Changes], None]
Ready = Callable[[Changes], Awaitable[None]]
TOPIC = "records"
MOST_TURNS = 20
"""How often a change is tried anew, because somebody else's came between."""


class Watched:
    """A kind that is watched, and how far it is known. `begun`: it was read; `due`: somebody is about to read it."""

    __slots__ = ("begun", "due", "heard", "kind", "known", "reading", "ready", "taking", "version", "writing")

    def __init__(self, kind: str, heard: Heard, ready: Ready | None) -> None:
        self.kind = kind
        self.heard = heard
        self.ready = ready
        self.version = 0
        self.known: dict[str, str] = {}
        self.reading = Turns()
        self.writing = Turns()
        self.taking = threading.RLock()
        self.begun = False
        self.due = False

    def take(self, changes: Changes) -> None:
        """Remember what was read, and pass it on."""
        for name, _, value in changes.records:
            if value is None:
                self.known.pop(name, None)
            else:
                self.known[name] = value
        self.version = changes.version
        self.begun = True
        self.heard(changes)

    def news(self, changes: Changes) -> Changes:
        """What of it is new: where all was read again, only what differs, for it may be much."""
        if not (changes.whole and self.begun):
            return changes
        gone = self.known.keys() - {record.name for record in changes.records}
        found = [record for record in changes.records if self.known.get(record.name) != record.value]
        return Changes(changes.version, [*(Record(name, changes.version, None) for name in gone), *found], False)


class MessagingAbstraction:
    """Watches kinds of records, publishes changes to them, and converges with what others published.

    One event loop's; with a store in this process, that of all event loops here. `bus` may be `None`: then only
    `converge` finds what others changed.
    """

    def __init__(self, records: RecordStore, bus: MessageBus | None) -> None:
        self._records = records
        self._bus = bus
        self._watched: dict[str, Watched] = {}
        self._unsubscribe: Callable[[], None] | None = None
        self._readings: set[asyncio.Task[None]] = set()  # a loop holds its tasks weakly

    def watch(self, kind: str, heard: Heard, *, ready: Ready | None = None) -> None:
        """Call `heard` with each change of a kind from now on; with all there is once it was read (`converge`).

        What a shared store gives is shown to `ready` first, which may take its time.
        """
        self._watched[kind] = Watched(kind, heard, ready)
        if self._unsubscribe is None and self._bus is not None:
            self._unsubscribe = self._bus.subscribe(TOPIC, self._told)

    def close(self) -> None:
        """Listen no longer."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        for reading in self._readings:
            reading.cancel()

    def version(self, kind: str) -> int:
        """The version that a kind is known at here; 0 where nothing was ever published or read."""
        return self._watched[kind].version

    async def publish(self, kind: str, values: Mapping[str, str | None], *, at: int | None = None) -> int:
        """Write records of a kind, and remove those whose value is `None`: all or none. Gives the new version.

        When it returns this worker goes by it, and the others do as soon as they have heard. Two round trips, and one
        to tell; without `at`, two more for each change of others that came between.

        Raises:
            RecordConflict: with `at`, the kind has another version.
            StoreUnavailable: not reached; it may or may not have been written.
            ValueError: `at` is no version; a name or a value is too large, or these are too many.
        """
        if at is not None and (isinstance(at, bool) or not isinstance(at, int)):
            raise ConfigurationError(f"at={at!r}: the version that a change of the {kind} gave, or None for any")
        watched = self._watched[kind]
        if at is None:
            async with watched.writing:  # or this worker's changes would come between each other
                version = await self._add(watched, values)
                await self._told_of(kind)
            return version
        changed = await answered(self._records.change(kind, values, at=at))
        if changed is None:
            await self.converge(kind)
            raise RecordConflict(
                f"the {kind} are not at version {at} any more, but at {self.version(kind)}: somebody changed them "
                "meanwhile. List them, and decide anew"
            )
        await self._told_of(kind)
        return changed

    async def _add(self, watched: Watched, values: Mapping[str, str | None]) -> int:
        """Write onto whatever version there is, but not into a store that lost what is known here."""
        for _ in range(MOST_TURNS):
            version = await answered(self._records.change(watched.kind, values, at=watched.version))
            if version is not None:
                return version
            await self._catch_up(watched)
        version = await answered(self._records.change(watched.kind, values, at=None))  # it is changed, so it is there
        if version is None:
            raise StoreError(f"the {watched.kind} were not changed, whatever their version is")
        return version

    async def _told_of(self, kind: str) -> None:
        """Tell all workers of a change, and go by it here."""
        if self._bus is not None:
            try:
                await answered(self._bus.publish(TOPIC, kind))
            except StoreError as exc:  # it is written; the others find it when they next look
                log.debug("not told of %s: %s", kind, exc)
        await self.converge(kind)

    async def converge(self, *kinds: str) -> None:
        """Read what was changed of these kinds, or of all that are watched. One round trip where nothing was.

        Raises:
            StoreUnavailable: not reached; what is known goes on.
        """
        for kind in kinds or tuple(self._watched):
            await self._catch_up(self._watched[kind])

    def read_at_once(self) -> None:
        """Read all that is watched from a store in this process, which answers at once."""
        for watched in self._watched.values():
            self._read_soon(watched)

    async def _catch_up(self, watched: Watched) -> None:
        async with watched.reading:
            watched.due = False  # what is told from here on is read once more
            changes = await answered(self._records.read(watched.kind, since=watched.version))
            if changes.version == 0 and watched.known:
                await self._give_back(watched)
                changes = await answered(self._records.read(watched.kind))
            if watched.ready is not None and self._records.shared:
                await watched.ready(watched.news(changes))
            self._heard(watched, changes)

    @staticmethod
    def _heard(watched: Watched, changes: Changes) -> None:
        with watched.taking:  # of a store in this process another event loop's thread may have read more meanwhile
            if watched.begun and not changes.whole and changes.version <= watched.version:
                return
            news = watched.news(changes)
            if news.version != watched.version or not watched.begun:
                watched.take(news)

    async def _give_back(self, watched: Watched) -> None:
        """Write what is known into a store that lost it; the first worker that does so wins.

        What others change while it is written stays as they have it.
        """
        log.warning("the store has lost the %s; this worker gives back what it knows of them", watched.kind)
        left, at, turns = dict(watched.known), 0, 0
        while left and turns < MOST_TURNS:
            values = _portion(left)
            version = await answered(self._records.change(watched.kind, values, at=at))
            if version is None and at == 0:
                return
            if version is None:
                changes = await answered(self._records.read(watched.kind, since=at))
                if changes.whole:  # it was lost once more
                    return
                version, values = changes.version, dict.fromkeys([record.name for record in changes.records])
                turns += 1
            at = version
            for name in values:
                left.pop(name, None)

    def _told(self, message: Message) -> None:
        """Something was published, perhaps by us; without a payload nobody knows what."""
        kinds = tuple(self._watched) if message.payload is None else (message.payload,)
        for kind in kinds:
            watched = self._watched.get(kind)
            if watched is not None:
                self._read_soon(watched)

    def _read_soon(self, watched: Watched) -> None:
        if not self._records.shared:  # it answers at once, and there may be no event loop of asyncio's
            changes = self._records.read(watched.kind, since=watched.version)
            if isinstance(changes, Changes):
                self._heard(watched, changes)
        elif not watched.due:
            watched.due = True
            reading = asyncio.get_running_loop().create_task(self._read_later(watched))
            self._readings.add(reading)
            reading.add_done_callback(self._readings.discard)

    async def _read_later(self, watched: Watched) -> None:
        try:
            await self._catch_up(watched)
        except StoreError as exc:  # the backend has told of its loss; `converge` comes again
            watched.due = False
            log.debug("%s not read: %s", watched.kind, exc)


def _portion(values: Mapping[str, str]) -> Mapping[str, str | None]:
    """So many of these records as a store takes in one change."""
    portion: dict[str, str | None] = {}
    size = 0
    for name, value in values.items():
        size += len(name.encode()) + len(value.encode())
        if portion and (len(portion) == MOST_CHANGED or size > MOST_CHANGED_BYTES):
            break
        portion[name] = value
    return portion
