"""Messages between the workers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol


class Message(NamedTuple):
    """What was published. `version` counts a topic's messages from 1.

    `payload` is `None` where some were missed for good: the listener reads afresh what the topic is about.
    """

    topic: str
    version: int
    payload: str | None


Listener = Callable[[Message], None]


class MessageBus(Protocol):
    """Tells all workers.

    Every listener hears each message once and in order, also one that was lost on its way: below the notifications lies
    a short log with versions, which is polled. So a lost notification only delays (up to the poll's period), and what
    the log has forgotten is told as a message without payload.
    """

    def publish(self, topic: str, payload: str) -> int | Awaitable[int]:
        """Tell all listeners of `topic` on all workers, this one included. Gives the message's version.

        Raises:
            StoreUnavailable: not reached; it may or may not have been told.
        """
        ...

    def subscribe(self, topic: str, listener: Listener) -> Callable[[], None]:
        """Call `listener`, which returns at once, with each message from now on; calling what this returns ends that.

        One that raises is logged, and the others hear the message all the same.
        """
        ...
