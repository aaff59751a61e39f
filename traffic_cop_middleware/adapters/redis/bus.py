"""Messages between all workers of one Redis: a log that is always right, and notifications that are fast.

Theory of operation. `publish` is one script: it numbers the message, appends it to the topic's log, and tells who
listens. A reader follows each of its topics by position (topics.py). A notification that is the next message is told
from itself; whatever else happens, a gap, a reconnect, a poll that finds another position, ends in reading the log from
what was seen on. So a lost notification delays a message by up to the poll's period, and nothing is told twice.

The questions travel on the link, one connection has the notifications (notifications.py). Both it and the poll are
there only while somebody listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from redis.asyncio.connection import Connection

from traffic_cop_middleware.adapters.redis.calls import Script
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.notifications import Notifications
from traffic_cop_middleware.adapters.redis.topics import (
    START,
    Subscription,
    Topic,
    note_of,
    position_of,
)
from traffic_cop_middleware.contracts import Listener
from traffic_cop_middleware.errors import StoreError, StoreUnavailable

PUBLISH = Script("publish.lua")
CATCH_UP = Script("catch_up.lua")

MOST_PAYLOAD = 64 * 1024
"""Bytes (UTF-8): a message says what has changed, and the rest is read."""
LOG_LENGTH = 256
LOG_SECONDS = 7 * 86_400
COUNTER_SECONDS = 30 * 86_400
"""A topic on which nothing was published for so long begins at 1 again; its listeners are told so."""
PAGE, PAGE_BYTES = 32, 128 * 1024
"""What is read from a log at once: so many messages, and bytes (and one message), lest it take the link's deadline."""


class RedisBus:
    """`MessageBus` on Redis, of one event loop.

    Keys begin with `<namespace>:m:{topic}`; so do the channels, which end with the database's number, because Redis
    tells all databases. A subscription counts from when Redis has heard of it: what this bus publishes after it is
    heard, what others publish at the same moment may come before. `poll` is in seconds.
    """

    def __init__(
        self, link: Link, open_connection: Callable[[], Connection], *, namespace: str, poll: float = 2.0
    ) -> None:
        self.poll = poll
        self._link = link
        self._prefix = f"{namespace}:m:"
        self._database = int(open_connection().db or 0)
        self._topics: dict[str, Topic] = {}
        self._by_channel: dict[str, Topic] = {}
        self._started = False
        self._tending: asyncio.Task[None] | None = None
        self._notifications = Notifications(
            open_connection, reachable=lambda: link.up, heard=self._heard, listening=self._listening
        )

    def start(self) -> None:
        """Begin to listen, where somebody subscribes. The link was told to connect."""
        self._started = True
        for topic in self._topics.values():
            for subscription in topic.subscriptions:
                self._begin(topic, subscription)

    async def close(self) -> None:
        """Stop listening, and wait until the background has ended."""
        self._started = False
        tending = self._stop()
        if tending is not None:
            await asyncio.wait([tending])
        await self._notifications.ended()

    # Publishing

    def publish(self, topic: str, payload: str) -> asyncio.Future[int]:
        """Tell all listeners of `topic` on all workers; the version of the message. One command.

        Raises:
            ValueError: the topic is no plain word, or the payload has more than 64 KB.
            StoreUnavailable: not reached; it may or may not have been told.
        """
        if len(payload) * 4 > MOST_PAYLOAD and (size := len(payload.encode("utf-8", "surrogatepass"))) > MOST_PAYLOAD:
            raise ValueError(
                f"a message on {topic!r} has {size} bytes, and {MOST_PAYLOAD} is the most: publish a key or a version, "
                "and let the listeners read the rest"
            )
        prefix, channel = self._place(topic)
        arguments = (payload, channel, LOG_LENGTH, LOG_SECONDS, COUNTER_SECONDS)
        return PUBLISH.ask(self._link, (f"{prefix}v", f"{prefix}log"), arguments)

    def _place(self, topic: str) -> tuple[str, str]:
        """What the keys of a topic begin with, and its channel."""
        if not topic or set(topic) & set("{}"):
            raise ValueError(f"topic {topic!r}: a topic is a plain word without braces")
        prefix = f"{self._prefix}{{{topic}}}"
        return prefix, f"{prefix}@{self._database}"

    # Listening

    def subscribe(self, topic: str, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each message of `topic` from now on, until what this returns is called.

        While Redis is away it begins when that is back, with a message without payload if the listener can't know what
        it missed.
        """
        followed = self._topics.get(topic)
        if followed is None:
            prefix, channel = self._place(topic)
            followed = self._topics[topic] = self._by_channel[channel] = Topic(topic, prefix=prefix, channel=channel)
        subscription = followed.add(listener)
        if self._started:
            self._begin(followed, subscription)
        return partial(self._unsubscribe, followed, subscription)

    def _unsubscribe(self, topic: Topic, subscription: Subscription) -> None:
        if subscription.ended:
            return
        topic.remove(subscription)
        if not topic.subscriptions:
            del self._topics[topic.name], self._by_channel[topic.channel]
            if not self._topics:
                self._stop()
            elif self._started:
                self._notifications.leave(topic.channel)

    def _begin(self, topic: Topic, subscription: Subscription) -> None:
        if self._tending is None:
            self._tending = asyncio.get_running_loop().create_task(self._tend())
        self._notifications.want(topic.channel)
        try:
            asked = self._link.ask("GET", topic.counter)
        except StoreError:
            topic.begin_unsure(subscription)
        else:
            asked.add_done_callback(partial(self._begun, topic, subscription))

    def _begun(self, topic: Topic, subscription: Subscription, asked: asyncio.Future[Any]) -> None:
        failed = asked.cancelled() or asked.exception() is not None
        if subscription.ended:
            return
        if failed:
            topic.begin_unsure(subscription)
            return
        position = position_of(asked.result())
        subscription.begin(position.version)
        if topic.stands_at(position):
            self._catch_up(topic)

    def _heard(self, channel: str, text: bytes) -> None:
        topic, note = self._by_channel.get(channel), note_of(text)
        if topic is not None and note is not None and topic.notified(note):
            self._catch_up(topic)

    def _listening(self, channel: str) -> None:
        """Notifications of a channel come from now on: what was told before is in the log."""
        topic = self._by_channel.get(channel)
        if topic is not None:
            self._catch_up(topic)

    def _catch_up(self, topic: Topic) -> None:
        """Read the log from what was seen on. One command, and one more per page."""
        if topic.asking or topic.seen is None:
            return
        try:
            asked = CATCH_UP.ask(self._link, (topic.counter, topic.log), (topic.seen.version, PAGE, PAGE_BYTES))
        except StoreError:
            return  # the link is down: the poll asks when it is up
        topic.asking = True
        asked.add_done_callback(partial(self._caught_up, topic))

    def _caught_up(self, topic: Topic, asked: asyncio.Future[Any]) -> None:
        topic.asking = False
        if asked.cancelled() or asked.exception() is not None or not topic.subscriptions:
            return  # the poll asks again
        position, *texts = asked.result()
        if topic.caught_up(position_of(position), map(note_of, texts)):
            self._catch_up(topic)

    # In the background

    async def _tend(self) -> None:
        """Look once a period whether messages were missed, and whether notifications can come."""
        try:
            while True:
                await asyncio.sleep(self.poll)
                self._notifications.check()
                await self._look()
        finally:
            if self._tending is asyncio.current_task():  # not by `_stop`: the socket must not outlive the loop
                self._notifications.drop()

    async def _look(self) -> None:
        """Ask where all topics stand: a command each, in one write."""
        topics = list(self._topics.values())
        try:
            asked = [self._link.ask("GET", topic.counter) for topic in topics]
        except StoreError:
            return  # the next period asks again; the link has told of the loss
        counters = await asyncio.gather(*asked, return_exceptions=True)
        for topic, counter in zip(topics, counters, strict=True):
            if isinstance(counter, (StoreUnavailable, asyncio.CancelledError)):
                continue  # the next period asks again
            position = position_of(counter) if isinstance(counter, bytes) else START
            if topic.subscriptions and topic.stands_at(position):
                self._catch_up(topic)

    def _stop(self) -> asyncio.Task[None] | None:
        tending, self._tending = self._tending, None
        if tending is not None:
            tending.cancel()
        self._notifications.drop()
        return tending
