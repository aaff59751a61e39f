"""The proxies in Python that are measured, one uvicorn worker each, and the app without an upstream.

    python benchmarks/gateway_apps.py VARIANT PORT UPSTREAM UPSTREAM        (gateway_servers.Proxy calls it)

The bare ones on aiohttp are what one writes by hand: they stream both ways and leave out hop-by-hop fields, and that
is all; no routes, no forwarding headers, no retry, no limits.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import uvicorn
from harness import HOST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from yarl import URL

BODIES = {"/files/100": b"x" * 100, "/files/64k": b"x" * 65536}
"""What every upstream answers, by path."""

HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade"),
    }
)


def session_for_proxying() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())


class BareAiohttp:
    """An ASGI app that hands each request to one upstream through aiohttp's client."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
            return
        if self.session is None:
            self.session = session_for_proxying()
        headers, body = [], None
        for name, value in scope["headers"]:
            if name not in HOP_BY_HOP and name != b"host":
                headers.append((name.decode("latin-1"), value.decode("latin-1")))
            if name in (b"content-length", b"transfer-encoding"):
                body = chunks_of(receive)
        query = scope["query_string"]
        target = (scope["raw_path"] + (b"?" + query if query else b"")).decode("ascii")
        url = URL(self.upstream + target, encoded=True)
        async with self.session.request(
            scope["method"], url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            given = [(name.lower(), value) for name, value in answer.raw_headers if name.lower() not in HOP_BY_HOP]
            await send({"type": "http.response.start", "status": answer.status, "headers": given})
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self.session is not None:
            await self.session.close()
        await send({"type": "lifespan.shutdown.complete"})


async def chunks_of(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client is gone")
        yield message.get("body", b"")
        more = message.get("more_body", False)


def serve_aiohttp_web(port: int, upstream: str) -> None:
    """The same on aiohttp's own server, which is no ASGI."""
    import uvloop
    from aiohttp import web

    async def handle(request: web.Request) -> web.StreamResponse:
        headers = [(name, value) for name, value in request.headers.items() if kept(name)]
        url = URL(upstream + request.raw_path, encoded=True)
        body = request.content if request.body_exists else None
        session = request.app[sessions]
        async with session.request(request.method, url, headers=headers, data=body, allow_redirects=False) as answer:
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if kept(name):
                    response.headers.add(name, value)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    def kept(name: str) -> bool:
        lower = name.lower().encode()
        return lower not in HOP_BY_HOP and lower != b"host"

    async def opened(app: web.Application) -> AsyncIterator[None]:
        app[sessions] = session_for_proxying()
        yield
        await app[sessions].close()

    sessions = web.AppKey("sessions", aiohttp.ClientSession)
    app = web.Application(client_max_size=2**40)
    app.router.add_route("*", "/{path:.*}", handle)
    app.cleanup_ctx.append(opened)
    web.run_app(app, host=HOST, port=port, access_log=None, print=None, loop=uvloop.new_event_loop())


def ours(*upstreams: str) -> ASGIApp:
    """A cop with all defaults before an app: a pool of two instances behind `/files/*` and nine more routes."""
    from traffic_cop_middleware import TrafficCop

    async def own(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("the app itself")

    cop = TrafficCop()
    cop.route("/files/*", to=list(upstreams))
    for number in range(9):
        cop.route(f"/service-{number}/*", to=upstreams[0])
    return cop.wrap(Starlette(routes=[Route("/own", own)]))


def fastapi_proxy_lib(upstream: str) -> ASGIApp:
    from fastapi_proxy_lib.fastapi.app import reverse_http_app

    return reverse_http_app(base_url=upstream + "/")


async def no_upstream(scope: Scope, receive: Receive, send: Send) -> None:
    """What uvicorn can do at best."""
    if scope["type"] == "http":
        body = BODIES[scope["path"]]
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": message["type"] + ".complete"})
    await send({"type": "lifespan.shutdown.complete"})


APPS: dict[str, Callable[..., Any]] = {
    "ours": ours,
    "aiohttp in ASGI": lambda upstream, _other: BareAiohttp(upstream),
    "fastapi-proxy-lib": lambda upstream, _other: fastapi_proxy_lib(upstream),
    "uvicorn alone": lambda _upstream, _other: no_upstream,
}


def main() -> None:
    variant, port, *upstreams = sys.argv[1:]
    if any(urlsplit(upstream).hostname != HOST for upstream in upstreams):
        raise SystemExit("the upstreams are on this machine")
    if variant == "aiohttp.web":
        serve_aiohttp_web(int(port), upstreams[0])
        return
    app = APPS[variant](*upstreams)
    uvicorn.run(app, host=HOST, port=int(port), loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
