"""Records that every worker agrees on: published by one, seen by all.

Theory of operation. The truth is the collection in the `RecordStore`; a message on the bus only says that there is
something to read. A worker knows each kind up to a version and reads what came after it, one reading of a kind at a
time, so that whoever watches hears every change once and in order. What is published is told on the bus after it is
written. A lost message only delays, and so does a publisher that dies between the two: the owner calls `converge` now
and then.

A store that has lost a collection (its version is 0, and this worker knows a later one) gets back what this worker
knows, unless another one was faster: an empty Redis after a crash takes no routes and no limits away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping

import anyio

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.contracts import Changes, Message, MessageBus, RecordStore
from traffic_cop_middleware.contracts.records import MOST_CHANGED, MOST_CHANGED_BYTES
from traffic_cop_middleware.errors import RecordConflict, StoreError

log = logging.getLogger("traffic_cop")

Heard = Callable[[Changes], None]
TOPIC = "records"


class Watched:
    """A kind that is watched, and how far it is known. `due`: somebody is about to read it."""

    __slots__ = ("due", "heard", "kind", "known", "reading", "version")

    def __init__(self, kind: str, heard: Heard) -> None:
        self.kind = kind
        self.heard = heard
        self.version = 0
        self.known: dict[str, str] = {}
        self.reading = anyio.Lock()
        self.due = False

    def take(self, changes: Changes) -> None:
        """Remember what was read, and pass it on."""
        if changes.whole:
            self.known.clear()
        for name, _, value in changes.records:
            if value is None:
                self.known.pop(name, None)
            else:
                self.known[name] = value
        self.version = changes.version
        self.heard(changes)


class MessagingAbstraction:
    """Watches kinds of records, publishes changes to them, and converges with what others published.

    One event loop's. `bus` may be `None`: then only `converge` finds what others changed.
    """

    def __init__(self, records: RecordStore, bus: MessageBus | None) -> None:
        self._records = records
        self._bus = bus
        self._watched: dict[str, Watched] = {}
        self._unsubscribe: Callable[[], None] | None = None
        self._readings: set[asyncio.Task[None]] = set()  # a loop holds its tasks weakly

    def watch(self, kind: str, heard: Heard) -> None:
        """Call `heard` with each change of a kind from now on; with all there is once it was read (`converge`)."""
        self._watched[kind] = Watched(kind, heard)
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
        to tell.

        Raises:
            RecordConflict: with `at`, the kind has another version.
            StoreUnavailable: not reached; it may or may not have been written.
            ValueError: a name or a value is too large, or these are too many.
        """
        version = await answered(self._records.change(kind, values, at=at))
        if version is None:
            await self.converge(kind)
            raise RecordConflict(
                f"the {kind} are not at version {at} any more, but at {self.version(kind)}: somebody changed them "
                "meanwhile. List them, and decide anew"
            )
        if self._bus is not None:
            try:
                await answered(self._bus.publish(TOPIC, kind))
            except StoreError as exc:  # it is written; the others find it when they next look
                log.debug("not told of %s: %s", kind, exc)
        await self.converge(kind)
        return version

    async def converge(self, *kinds: str) -> None:
        """Read what was changed of these kinds, or of all that are watched. One round trip where nothing was.

        Raises:
            StoreUnavailable: not reached; what is known goes on.
        """
        for kind in kinds or tuple(self._watched):
            await self._catch_up(self._watched[kind])

    async def _catch_up(self, watched: Watched) -> None:
        async with watched.reading:
            watched.due = False  # what is told from here on is read once more
            changes = await answered(self._records.read(watched.kind, since=watched.version))
            if changes.version == 0 and watched.known:
                await self._give_back(watched)
                changes = await answered(self._records.read(watched.kind))
            self._heard(watched, changes)

    @staticmethod
    def _heard(watched: Watched, changes: Changes) -> None:
        if changes.whole or changes.version != watched.version:
            watched.take(changes)

    async def _give_back(self, watched: Watched) -> None:
        """Write what is known into a store that lost it; the first worker that does so wins."""
        log.warning("the store has lost the %s; this worker gives back what it knows of them", watched.kind)
        at: int | None = 0
        for values in _portions(watched.known):
            at = await answered(self._records.change(watched.kind, values, at=at))
            if at is None:
                return

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


def _portions(values: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Records as changes that a store takes."""
    portion: dict[str, str] = {}
    size = 0
    for name, value in values.items():
        length = len(name.encode()) + len(value.encode())
        if portion and (len(portion) == MOST_CHANGED or size + length > MOST_CHANGED_BYTES):
            yield portion
            portion, size = {}, 0
        portion[name] = value
        size += length
    if portion:
        yield portion
