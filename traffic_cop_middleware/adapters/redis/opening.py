"""How a connection of redis-py is opened, looked into, and given up; what goes through it is its owner's matter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import hiredis
from redis.asyncio.connection import Connection

from traffic_cop_middleware.errors import StoreTimeout

CONNECT_DEADLINE = 1.0
INCOMPLETE = object()
"""What a reader gives that has no whole reply yet."""


@contextlib.asynccontextmanager
async def opened(open_connection: Callable[[], Connection]) -> AsyncIterator[Connection]:
    """A connection that is open. What is asked of it within has to be answered by the deadline, or it is discarded.

    Raises:
        StoreTimeout: not within `CONNECT_DEADLINE`.
    """
    connection = open_connection()
    try:
        async with asyncio.timeout(CONNECT_DEADLINE):
            await connection.connect()  # type: ignore[no-untyped-call]
            yield connection
    except TimeoutError as exc:
        discard(connection)
        raise StoreTimeout(f"no connection within {CONNECT_DEADLINE:g} s") from exc
    except BaseException:
        discard(connection)
        raise


def transport_of(connection: Connection) -> asyncio.WriteTransport | None:
    """What it is written to by; `None` where it was closed meanwhile."""
    reader, writer = connection._reader, connection._writer
    if reader is None or writer is None or reader.at_eof():
        return None
    transport: asyncio.WriteTransport = writer.transport
    return transport


def new_reader() -> hiredis.Reader:
    return hiredis.Reader(notEnoughData=INCOMPLETE)


def discard(connection: Connection) -> None:
    """Close at once, without a word to the server: a TLS goodbye waits for one that may be frozen."""
    writer = connection._writer
    connection._reader = connection._writer = None
    if writer is not None:
        writer.transport.abort()
