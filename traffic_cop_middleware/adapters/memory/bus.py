"""Messages within this process: every listener is called inside `publish`."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from traffic_cop_middleware.contracts import Listener, Message
from traffic_cop_middleware.errors import StoreError

log = logging.getLogger("traffic_cop.memory")

MOST_PAYLOAD = 64 * 1024
"""Bytes (UTF-8) that a payload may have: as on Redis, so that what works here works there."""
MOST_ANSWERS = 1_000
"""How many messages the listeners may publish out of one `publish`: two that answer each other never end by
themselves."""


class Subscription:
    """A listener, and the version after which it hears its topic."""

    __slots__ = ("ended", "listener", "since")

    def __init__(self, listener: Listener, since: int) -> None:
        self.listener = listener
        self.since = since
        self.ended = False


class MemoryBus:
    """`MessageBus` in one process, without a loop of its own: it works on asyncio, on trio and in plain threads.

    `publish` has called all listeners when it returns, with two exceptions: a message that a listener publishes is told
    after the one that is being told (so all hear the same order, and the stack does not grow), and one that another
    thread publishes meanwhile is told by the thread that is telling. So a listener is called in some publisher's
    thread; one that belongs to an event loop hands over by `loop.call_soon_threadsafe`, if other threads publish on
    this `memory://name`. Numbering, order and "once" hold over all threads. Nothing is ever missed: every message has a
    payload.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: dict[str, int] = {}
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._due: deque[Message] = deque()
        self._teller: int | None = None
        self._answers = 0

    def publish(self, topic: str, payload: str) -> int:
        """Tell all listeners of `topic`; see the class for when. `payload` has at most 64 KB.

        Raises:
            ValueError: the topic is no plain word, or the payload is too large.
            StoreError: listeners go on answering messages with messages.
        """
        check_message(topic, payload)
        with self._lock:
            if self._teller == threading.get_ident():
                self._answers += 1
                if self._answers > MOST_ANSWERS:
                    raise StoreError(
                        f"listeners published {MOST_ANSWERS} messages out of one, the last on {topic!r}: do two of "
                        "them answer each other? Publish only what has changed"
                    )
            version = self._versions[topic] = self._versions.get(topic, 0) + 1
            self._due.append(Message(topic, version, payload))
            if self._teller is not None:
                return version
            self._teller = threading.get_ident()
            self._answers = 0
        try:
            self._tell()
        except BaseException:  # an interrupt came out of a listener: the next publish tells the rest
            self._teller = None
            raise
        return version

    def subscribe(self, topic: str, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each message of `topic` from now on, until what this returns is called."""
        check_message(topic, "")
        with self._lock:
            subscription = Subscription(listener, self._versions.get(topic, 0))
            self._subscriptions.setdefault(topic, []).append(subscription)
        return partial(self._unsubscribe, topic, subscription)

    def _unsubscribe(self, topic: str, subscription: Subscription) -> None:
        with self._lock:
            if subscription.ended:
                return
            subscription.ended = True
            left = self._subscriptions[topic]
            left.remove(subscription)
            if not left:
                del self._subscriptions[topic]

    def _tell(self) -> None:
        """Tell what is due until nothing is. Never under the lock: listeners publish, subscribe and unsubscribe."""
        while True:
            with self._lock:
                if not self._due:
                    self._teller = None  # under the lock: whoever publishes next tells by itself
                    return
                message = self._due.popleft()
                subscriptions = tuple(self._subscriptions.get(message.topic, ()))
            for subscription in subscriptions:
                if subscription.ended or message.version <= subscription.since:
                    continue
                try:
                    subscription.listener(message)
                except Exception:
                    log.exception("a listener of %r failed on message %d", message.topic, message.version)


def check_message(topic: str, payload: str) -> None:
    """Refuse what another bus could not carry.

    Raises:
        ValueError: see there.
    """
    if not topic or set(topic) & set("{}"):
        raise ValueError(f"topic {topic!r}: a topic is a plain word without braces")
    if len(payload) * 4 > MOST_PAYLOAD and (size := len(payload.encode("utf-8", "surrogatepass"))) > MOST_PAYLOAD:
        raise ValueError(
            f"a message on {topic!r} has {size} bytes, and {MOST_PAYLOAD} is the most: publish a key or a version, and "
            "let the listeners read the rest"
        )
