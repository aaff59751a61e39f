"""Proxies in front of a real Redis that lose replies: the command was run, and its connection breaks."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from traffic_cop_middleware.adapters.redis import state, state_outbox
from traffic_cop_middleware.adapters.redis.calls import Script


class RedisProxy:
    """A proxy; what it does with a reply is `loses`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    def asks(self, data: bytes, connection: object) -> None:
        """Bytes go to Redis."""

    def loses(self, data: bytes, connection: object) -> bool:
        """Whether these bytes of Redis, and the connection, are lost."""
        return False

    async def __aenter__(self) -> Any:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        to_redis: Any = None
        try:
            from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._port)
            up = asyncio.create_task(self._pass_on(reader, to_redis, writer))
            try:
                while data := await from_redis.read(65536):
                    if self.loses(data, writer):
                        return
                    writer.write(data)
                    await writer.drain()
            finally:
                up.cancel()
        except (OSError, asyncio.CancelledError):  # a task of a stream that ends as cancelled is an error to its loop
            return
        finally:
            for end in (writer, to_redis):
                if end is not None:
                    end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, connection: object) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.asks(data, connection)
                to.write(data)
                await to.drain()
            to.close()


class Dropping(RedisProxy):
    """Loses a share of the replies."""

    def __init__(self, port: int, share: float) -> None:
        super().__init__(port)
        self._random = random.Random(11)
        self._established: set[object] = set()
        self.share = share
        self.dropped = 0

    def loses(self, data: bytes, connection: object) -> bool:
        # A connection that is never established proves nothing: its first replies pass.
        lost = connection in self._established and self._random.random() < self.share
        self.dropped += lost
        if b"PONG" in data:
            self._established.add(connection)
        return lost


SCRIPTS: Mapping[str, Script] = {
    "claim": state_outbox.CLAIM,
    "settle": state_outbox.SETTLE,
    "bury": state_outbox.BURY,
    "revive": state_outbox.REVIVE,
    "write": state.WRITE,
    "reshape": state.RESHAPE,
}


class Losing(RedisProxy):
    """Knows which scripts of the state are asked for, and loses the replies that it is told to."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._names = {script.sha.encode(): name for name, script in SCRIPTS.items()}
        self._known = re.compile(b"|".join(self._names))
        self._to_lose: set[object] = set()
        self.asked: list[str] = []
        """The scripts, those of one name that came together as one."""
        self.lost: Sequence[int] = ()
        """The indexes in `asked` of those whose replies are lost, each with its connection."""

    def asks(self, data: bytes, connection: object) -> None:
        for name in dict.fromkeys(self._names[sha] for sha in self._known.findall(data)):
            if len(self.asked) in self.lost:
                self._to_lose.add(connection)
            self.asked.append(name)

    def loses(self, data: bytes, connection: object) -> bool:
        if connection not in self._to_lose:
            return False
        self._to_lose.discard(connection)
        return True
