"""A load that does not wait for slow answers to ask the next: requests at a fixed rate over keep-alive connections.

wrk's closed loop asks less while a server hangs, so that a hang of 5 s shows as 64 slow answers among 100,000. Here
every request has its time to be sent, and its latency counts from then, also when its connection was still waiting for
an earlier answer ("coordinated omission" is what leaving that out is called).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

NO_ANSWER = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds: when it was due (from the start), how long from then and from its sending; status, or NO_ANSWER."""

    due: float
    waited: float
    served: float
    status: int


class Connection:
    """A keep-alive connection that is opened when needed, also anew when the server closed it between two requests."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None

    async def ask(self, request: bytes) -> int:
        """The status of the answer. Asks once more when the server closed instead of answering (RFC 9112, 9.3.1)."""
        reused = self.streams is not None
        try:
            return await self.exchange(request)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.close()
            if not reused or (isinstance(error, asyncio.IncompleteReadError) and error.partial):
                raise
            return await self.exchange(request)

    async def exchange(self, request: bytes) -> int:
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.host, self.port)
        reader, writer = self.streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        start = head.index(b"content-length:") + len(b"content-length:")
        await reader.readexactly(int(head[start : head.index(b"\r\n", start)]))
        if b"\r\nconnection: close" in head:
            self.close()
        return int(head[9:12])


async def drive(
    host: str, port: int, path: str, *, start: float, connections: int, rate: float, seconds: float, patience: float
) -> list[Answer]:
    """Ask for `path` at `rate` requests a second for `seconds`, and return one Answer for each request that was due.

    `start` is a time of `time.perf_counter`, a little ahead. What is not answered `patience` seconds after the last
    one was due counts as NO_ANSWER.
    """
    answers: list[Answer] = []
    request = f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
    stop = start + seconds + patience
    total = int(rate * seconds)

    async def one_connection(first: int) -> None:
        connection = Connection(host, port)
        for number in range(first, total, connections):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent, status = time.perf_counter(), NO_ANSWER
            try:
                async with asyncio.timeout(max(0.0, stop - sent)):
                    status = await connection.ask(request)
            except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError):
                connection.close()
            now = time.perf_counter()
            answers.append(Answer(due - start, now - due, now - sent, status))
        connection.close()

    await asyncio.gather(*(one_connection(first) for first in range(connections)))
    return answers
