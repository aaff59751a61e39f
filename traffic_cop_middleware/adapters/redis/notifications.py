"""The connection on which Redis tells at once what was published; it is opened for the first channel.

It only speeds things up: what it loses is read from the logs (bus.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio.connection import Connection

from traffic_cop_middleware.adapters.redis.calls import text_of
from traffic_cop_middleware.adapters.redis.listening import Listening
from traffic_cop_middleware.adapters.redis.replies import Arguments


class Notifications(Listening):
    """Subscribes to channels. `heard` gets each channel and message, `listening` a channel whose messages come now.

    `reachable` says whether a connection is worth trying.
    """

    what = "notifications"
    without = "messages come by the poll"

    def __init__(
        self,
        open_connection: Callable[[], Connection],
        *,
        reachable: Callable[[], bool],
        heard: Callable[[str, bytes], None],
        listening: Callable[[str], None],
    ) -> None:
        super().__init__(open_connection, reachable=reachable)
        self._heard = heard
        self._listening = listening
        self._channels: set[str] = set()

    def want(self, channel: str) -> None:
        """Listen to a channel from now on, or from when there is a connection."""
        if channel in self._channels:
            return
        self._channels.add(channel)
        if not self.send(["SUBSCRIBE", channel]):
            self.come_back()

    def leave(self, channel: str) -> None:
        self._channels.discard(channel)
        if not self._channels:
            self.drop()
        else:
            self.send(["UNSUBSCRIBE", channel])

    def drop(self) -> None:
        """Give up the connection and forget the channels, at once and without a word to the server."""
        self._channels.clear()
        super().drop()

    def wanted(self) -> bool:
        return bool(self._channels)

    def greeting(self) -> Sequence[Arguments]:
        return [["SUBSCRIBE", *sorted(self._channels)]]

    def take(self, reply: Any) -> None:
        if isinstance(reply, list) and len(reply) == 3:
            kind, channel, content = reply
            if kind == b"message" and isinstance(content, bytes):
                self._heard(text_of(channel), content)
            elif kind == b"subscribe":
                self.came()
                self._listening(text_of(channel))
