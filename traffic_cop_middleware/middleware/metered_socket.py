"""One WebSocket with a stopwatch and counters in both directions."""

from __future__ import annotations

from time import perf_counter

from starlette.types import Message, Receive, Send

from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.figures import Figures

REFUSED = 403
"""What a server answers a handshake that an app closes without a response of its own (ASGI, "Close")."""
FAILED = 1011
"""What servers close a WebSocket with whose app has failed (RFC 6455, section 7.4.1)."""


class MeteredSocket:
    """Its `receive` and `send` are the app's. `status` is 101 once it was accepted, else the refusal's."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._accepted = 0.0
        self._code: int | None = None
        self.status = 0
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.failed = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.receive":
            self.messages_in += 1
            self.bytes_in += _size(message)
        elif message["type"] == "websocket.disconnect" and self._code is None:
            self._code = message.get("code") or 1005
        return message

    async def send(self, message: Message) -> None:
        await self._send(message)
        kind = message["type"]
        if kind == "websocket.send":
            self.messages_out += 1
            self.bytes_out += _size(message)
        elif kind == "websocket.accept":
            self.status = 101
            self._accepted = perf_counter()
        elif kind == "websocket.http.response.start":
            self.status = message["status"]
        elif kind == "websocket.close" and self._code is None:
            self._code = message.get("code") or 1000
            self.status = self.status or REFUSED

    def count(self, figures: Figures, template: str) -> None:
        """Count it, now that it has ended."""
        if self.status != 101:
            figures.count((families.SOCKET_REFUSED, template, str(self.status or (500 if self.failed else 499))))
            return
        figures.timing((families.SOCKET, template)).add(perf_counter() - self._accepted)
        code = FAILED if self.failed and self._code is None else self._code
        figures.count((families.SOCKET_CLOSED, template, families.close_code(code)))
        for direction, messages, size in (
            ("in", self.messages_in, self.bytes_in),
            ("out", self.messages_out, self.bytes_out),
        ):
            figures.count((families.SOCKET_MESSAGES, template, direction), messages)
            figures.count((families.SOCKET_BYTES, template, direction), size)


def _size(message: Message) -> int:
    text = message.get("text")
    if text is None:
        return len(message.get("bytes") or b"")
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
