"""One topic as a reader sees it: what was seen, what comes next, and who hears it. No input or output.

Theory of operation. `seen` is the position of the last message that was told. A message that follows it, by version and
by the stamp of the one before (publish.lua), is told and becomes `seen`; whatever does not fit is settled by reading
the log from `seen` on. While that is asked, notifications wait in `early`: what the log has told already is then
dropped by its position, and the rest follows. Where the log does not continue `seen`, messages were lost for good: a
message without payload is told, and the new position is taken over.

Invariant: what is told to a listener between two messages without payload has versions that grow by one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from traffic_cop_middleware.adapters.redis.calls import text_of
from traffic_cop_middleware.contracts import Listener, Message

log = logging.getLogger("traffic_cop.redis")

MOST_EARLY = 64


class Position(NamedTuple):
    """How many messages a topic had, and the stamp of the last one (0 where there was none)."""

    version: int
    stamp: int


START = Position(0, 0)


class Note(NamedTuple):
    """A message as it stands in the log: the stamp of the one `before` it ties it to the chain."""

    position: Position
    before: int
    payload: bytes


def position_of(text: bytes | None) -> Position:
    """What a counter holds; one that holds something else is as good as none (publish.lua begins anew)."""
    version, _, stamp = (text or b"").partition(b" ")
    return Position(int(version), int(stamp)) if version.isdigit() and stamp.isdigit() else START


def note_of(text: bytes) -> Note | None:
    """A message of the log or the channel, or `None` for what anybody else wrote there."""
    parts = text.split(b" ", 3)
    if len(parts) < 4 or not (parts[0].isdigit() and parts[1].isdigit() and parts[2].isdigit()):
        return None
    return Note(Position(int(parts[0]), int(parts[1])), int(parts[2]), parts[3])


class Subscription:
    """A listener, and the version after which it hears: unknown until the store has said where its topic stands."""

    __slots__ = ("_held", "_since", "ended", "joined", "listener", "unsure")

    def __init__(self, listener: Listener, joined: int | None) -> None:
        self.listener = listener
        self.joined = joined
        """What was seen of the topic when this was made, where others listened already."""
        self.ended = False
        self.unsure = False
        """Whether the store did not say in time, and nobody listened before."""
        self._since: int | None = None
        self._held: list[Message] = []

    def begin(self, version: int) -> None:
        """What comes after `version` is for this listener."""
        self._since = version
        held, self._held = self._held, []
        for message in held:
            if message.version > version:
                self.hear(message)

    def hear(self, message: Message) -> None:
        if self.ended:
            return
        if self._since is None and not self.unsure:
            self._held.append(message)
            return
        if message.payload is not None and self._since is not None and message.version <= self._since:
            return
        self._since = message.version
        self.unsure = False
        try:
            self.listener(message)
        except Exception:
            log.exception("a listener of %r failed on message %d", message.topic, message.version)


class Topic:
    """A topic that somebody listens to."""

    def __init__(self, name: str, *, prefix: str, channel: str) -> None:
        self.name = name
        self.counter = f"{prefix}v"
        self.log = f"{prefix}log"
        self.channel = channel
        self.seen: Position | None = None
        self.asking = False
        """Whether the log is being read."""
        self.subscriptions: list[Subscription] = []
        self._early: deque[Note] = deque(maxlen=MOST_EARLY)

    def add(self, listener: Listener) -> Subscription:
        subscription = Subscription(listener, None if self.seen is None else self.seen.version)
        self.subscriptions.append(subscription)
        return subscription

    def remove(self, subscription: Subscription) -> None:
        subscription.ended = True
        self.subscriptions.remove(subscription)

    def begin_unsure(self, subscription: Subscription) -> None:
        """The store did not say where the topic stood. Who joined others misses nothing by hearing what they hear."""
        if subscription.joined is not None:
            subscription.begin(subscription.joined)
            return
        subscription.unsure = True
        if self.seen is not None:
            subscription.hear(Message(self.name, self.seen.version, None))

    # Each of these returns whether the log must be read.

    def stands_at(self, position: Position) -> bool:
        """The store says where the topic is at present."""
        if self.seen is not None:
            return position != self.seen
        self.seen = position
        for subscription in tuple(self.subscriptions):
            if subscription.unsure:
                subscription.hear(Message(self.name, position.version, None))
        return self._take_early()

    def notified(self, note: Note) -> bool:
        """A notification came, perhaps too early, twice, or after others that were lost."""
        self._early.append(note)
        return self.seen is not None and not self.asking and self._take_early()

    def caught_up(self, position: Position, notes: Iterable[Note | None]) -> bool:
        """The log was read from `seen` on: there are `notes`, and the topic stood at `position`."""
        before = self.seen or START
        early = tuple(self._early)
        self._early.clear()
        for note in (*early, *notes, *early):  # those that came early may lie before, and after, what the log has
            if note is not None:
                self._take(note)
        if self.seen == before != position:
            self.seen = position
            self._tell(Message(self.name, position.version, None))
            for note in early:
                self._take(note)
        return self._is_behind(position) or any(self._is_behind(note.position) for note in early)

    def _take_early(self) -> bool:
        """Tell what has come early. All of it stands in the log: with a gap in it, the log is read instead."""
        while self._early:
            note = self._early.popleft()
            if not self._take(note) and self._is_behind(note.position):
                self._early.clear()
                return True
        return False

    def _is_behind(self, position: Position) -> bool:
        """Whether there is more than was seen. What was seen twice has neither a later version nor a later stamp."""
        seen = self.seen or START
        return position.version > seen.version or position.stamp > seen.stamp

    def _take(self, note: Note) -> bool:
        """Tell a message if it follows what was seen."""
        seen = self.seen or START
        if note.position.version != seen.version + 1 or note.before != seen.stamp:
            return False
        self.seen = note.position
        self._tell(Message(self.name, note.position.version, text_of(note.payload)))
        return True

    def _tell(self, message: Message) -> None:
        for subscription in tuple(self.subscriptions):
            subscription.hear(message)
