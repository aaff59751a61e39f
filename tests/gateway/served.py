"""The gateway behind a real server, in this process, with either of uvicorn's parsers."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.gateway.raw import eventually
from traffic_cop_middleware import TrafficCop

PARSERS = ("h11", "httptools")


class Served:
    """A running server. `events` are the cop's; `errors` what the server logged as such."""

    def __init__(self) -> None:
        self.port = 0
        self.events: list[Any] = []
        self.errors: list[logging.LogRecord] = []

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The attributes of the events of a kind."""
        return [dict(event.attributes) for event in self.events if event.kind == kind]


class _Errors(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__(logging.ERROR)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


async def own(request: Any) -> PlainTextResponse:
    return PlainTextResponse("the app itself")


@contextlib.asynccontextmanager
async def served(
    cop: TrafficCop, found: Served, *, parser: str, outer: Callable[[Any], Any] | None = None
) -> AsyncIterator[Served]:
    """A cop around a small app, and `outer` around both, on a real server."""
    app: Any = cop.wrap(Starlette(routes=[Route("/own", own)]))
    if outer is not None:
        app = outer(app)
    # Of a socket that does not name its protocol asyncio leaves Nagle's algorithm on, and a body waits 40 ms for the
    # acknowledgement of its head.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(512)
    found.port = listening.getsockname()[1]
    config = uvicorn.Config(
        app,
        http=parser,  # type: ignore[arg-type]
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
    server = uvicorn.Server(config)
    handler = _Errors(found.errors)
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(handler)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])
    try:
        yield found
    finally:
        # As the server's own shutdown, which polls ten times a second.
        for each in server.servers:
            each.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]
        await eventually(lambda: not server.server_state.tasks)
        await server.lifespan.shutdown()
        logger.removeHandler(handler)
        listening.close()


@contextlib.asynccontextmanager
async def gateway(to: Any, *, parser: str = "httptools", **settings: Any) -> AsyncIterator[Served]:
    """A gateway with one route, for everything below /, to one destination."""
    found = Served()
    outer = settings.pop("outer", None)
    cop = TrafficCop(observer=found.events.append, trusted_proxies=settings.pop("trusted_proxies", ()))
    cop.route(settings.pop("pattern", "/*"), to=to, name="all", **settings)
    async with served(cop, found, parser=parser, outer=outer) as running:
        yield running
