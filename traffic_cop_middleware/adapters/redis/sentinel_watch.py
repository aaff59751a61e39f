"""Leaving a master that is one no more, although the connection to it still works.

Theory of operation. After a planned fail-over, or on the far side of a split network, the old master takes writes for
seconds more, until the sentinels make it a replica: all that is lost. So one task asks a sentinel once a second, on one
connection, where the master is. Where it names another server than a connection leads to, that one must prove itself
first: it is connected to, and its ROLE is asked. Then the connections to any other server are cut, which is a loss like
any to their owners, the link and the notifications, and their ways back lead to the new master.

Asking says the same as subscribing to `+switch-master`, is told earlier by the sentinel that leads the fail-over, and
can't be missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redis.asyncio.connection import Connection

from traffic_cop_middleware.adapters.redis.opening import CONNECT_DEADLINE, discard
from traffic_cop_middleware.adapters.redis.sentinel import SENTINEL_DEADLINE, Sentinels

PERIOD = 1.0
"""Seconds between two looks."""


class MasterWatch:
    """Cuts connections that lead to another server than the master. `open_connection` gives one to the master."""

    def __init__(self, sentinels: Sentinels, open_connection: Callable[[], Connection]) -> None:
        self._sentinels = sentinels
        self._open_connection = open_connection
        self._asking: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Stop, and wait until it has ended."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _watch(self) -> None:
        try:
            while True:
                await asyncio.sleep(PERIOD)
                try:
                    await self._look()
                except Exception:  # noqa: BLE001 - whatever it is: the next look asks another sentinel
                    if self._asking is not None:
                        self._sentinels.ask_last((self._asking.host, self._asking.port))
                    self._give_up()
                if self._task is not asyncio.current_task():  # `wait_for` loses a cancellation on Python 3.11
                    return
        finally:
            self._give_up()

    async def _look(self) -> None:
        """One question; where it names another server, a connection to that one as well."""
        if not self._leading():
            return  # nothing to cut: whoever connects asks by itself
        async with asyncio.timeout(SENTINEL_DEADLINE):
            if self._asking is None:
                self._asking = await self._sentinels.reach()
            master = await self._sentinels.master_by(self._asking)
        if all((connection.host, connection.port) == master for connection in self._leading()):
            return
        fresh = self._open_connection()
        try:
            async with asyncio.timeout(CONNECT_DEADLINE):
                await fresh.connect()  # type: ignore[no-untyped-call]
            place = _place(fresh)
            for connection in self._leading():
                if _place(connection) != place and connection._writer is not None:
                    connection._writer.transport.abort()
        finally:
            discard(fresh)

    def _leading(self) -> list[Connection]:
        """The connections to masters that are open."""
        return [opened for opened in self._sentinels.followed if opened._writer is not None]

    def _give_up(self) -> None:
        connection, self._asking = self._asking, None
        if connection is not None:
            discard(connection)


def _place(connection: Connection) -> object:
    """Which server it leads to. Sentinels may write one in several ways: by name, by address."""
    writer = connection._writer
    return None if writer is None else writer.get_extra_info("peername")
