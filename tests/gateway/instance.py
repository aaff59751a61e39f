"""An instance of a service in a process of its own, to be killed, frozen and thawed.

`python -m tests.gateway.instance` prints its port, and answers every request with its process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Running:
    """A process that serves."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.name = b"%d" % process.pid

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def terminate(self) -> None:
        """Ask it to end, and wait until it has."""
        self._process.terminate()
        async with asyncio.timeout(30):
            await self._process.wait()

    async def tell(self, line: str) -> bytes:
        """What it answers to a line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(30):
            return await self._process.stdout.readline()


@contextlib.asynccontextmanager
async def instance(module: str = "tests.gateway.instance", *arguments: str) -> AsyncIterator[Running]:
    """An instance's process, ended at the end."""
    command = (sys.executable, "-m", module, *arguments)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe, limit=2**24)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        yield Running(process, int(line))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = b"%d" % os.getpid()
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
