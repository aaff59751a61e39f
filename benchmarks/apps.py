"""The apps that are measured: the same routes bare, behind ours and behind each peer.

serve.py builds one of them, told by environment variables which (harness.AppServer sets them). Limits
are either so high that nothing is refused or, with BENCH_REFUSE, one request a day, so that everything but the first
is. Each peer is used as its manual says; where it has no ASGI door (`limits`, throttled-py) the thinnest possible one
stands in front of it, which sends no header fields. Ours sends its fields and tells an observer.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[..., Any]
Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]

PATHS = {"starlette": "/search", "fastapi": "/part7/thing13/42"}
"""The marked route of each framework, as the load asks for it."""

VARIANT = os.environ.get("BENCH_VARIANT", "bare")
REFUSE = bool(os.environ.get("BENCH_REFUSE"))
FRAMEWORK = os.environ.get("BENCH_FRAMEWORK", "starlette")
REDIS = os.environ.get("BENCH_REDIS", "")


# The bare apps. `mark` is applied under the route decorator of the marked route.


def starlette_app(mark: Callable[[Endpoint], Endpoint], lifespan: Lifespan | None) -> Starlette:
    async def search(request: Request) -> JSONResponse:
        return JSONResponse({"ok": True})

    async def other(request: Request) -> JSONResponse:
        return JSONResponse({"ok": False})

    others = ["/", "/health", "/items", "/items/{item:int}"]
    routes = [*(Route(path, other) for path in others), Route("/search", mark(search)), Route("/about", other)]
    return Starlette(routes=routes, lifespan=lifespan)


def fastapi_app(
    mark: Callable[[Endpoint], Endpoint],
    lifespan: Lifespan | None,
    *,
    routers: bool = True,
    asks_for_request: bool = False,
    dependencies: Sequence[Any] = (),
) -> ASGIApp:
    """200 routes in ten included routers of twenty (or all on the app itself), every second with a path parameter."""
    from fastapi import APIRouter, FastAPI

    async def plain(thing_id: int) -> dict[str, bool]:
        return {"ok": True}

    async def with_request(request: Request, thing_id: int) -> dict[str, bool]:
        return {"ok": True}

    with_request.__annotations__["request"] = Request  # a string by the __future__ import, and FastAPI reads it

    async def other() -> dict[str, bool]:
        return {"ok": False}

    app = FastAPI(lifespan=lifespan)
    for part in range(10):
        prefix = "" if routers else f"/part{part}"
        router: Any = APIRouter(prefix=f"/part{part}") if routers else app
        for number in range(20):
            path = f"{prefix}/thing{number}" + ("/{thing_id}" if number % 2 else "")
            if (part, number) == (7, 13):
                endpoint = with_request if asks_for_request else plain
                router.get(path, dependencies=list(dependencies))(mark(endpoint))
            else:
                router.get(path)(other)
        if routers:
            app.include_router(router)
    return app


def make(
    mark: Callable[[Endpoint], Endpoint] = lambda endpoint: endpoint, lifespan: Lifespan | None = None, **fastapi: Any
) -> Any:
    """The app of the framework asked for; further arguments are for `fastapi_app`."""
    if FRAMEWORK == "fastapi":
        return fastapi_app(mark, lifespan, **fastapi)
    return starlette_app(mark, lifespan)


class Layer:
    """The least that an ASGI middleware can be: what any layer costs before it does something."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Check:
    """The thinnest door for a library that has none: asks `admits(client address)`, answers 429 by itself."""

    def __init__(self, app: ASGIApp, admits: Callable[[str], Awaitable[bool]]) -> None:
        self.app = app
        self.admits = admits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not await self.admits(scope["client"][0]):
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"17")]
            await send({"type": "http.response.start", "status": 429, "headers": headers})
            await send({"type": "http.response.body", "body": b"Too Many Requests"})
            return
        await self.app(scope, receive, send)


def checked(admits: Callable[[str], Awaitable[bool]]) -> Any:
    app = make()
    app.add_middleware(Check, admits=admits)
    return app


# Ours


def ours(url: str, *, stack: str = "", marks: Sequence[str] = ()) -> Any:
    """All defaults on, an observer attached; `stack` limits every route, `marks` stand on the route that is hit."""
    from traffic_cop_middleware import TrafficCop, limit

    seen: dict[str, int] = {}

    def observe(event: Any) -> None:
        seen[event.kind] = seen.get(event.kind, 0) + 1

    def mark(endpoint: Endpoint) -> Endpoint:
        for text in marks:
            endpoint = limit(text)(endpoint)
        return endpoint

    cop = TrafficCop(url, limits=stack or None, observer=observe)
    app = make(mark)
    cop.install(app)
    return app


def ours_variants(url: str) -> dict[str, Callable[[], Any]]:
    high, higher = ("1/day", "2/day") if REFUSE else ("1000000/second", "50000000/minute")
    return {
        "idle": lambda: ours(url),
        "mark": lambda: ours(url, marks=[high]),
        "stack+mark": lambda: ours(url, stack=high, marks=[high]),
        "2+2": lambda: ours(url, stack=f"{high}; {higher}", marks=[high, higher]),
    }


def build_bare() -> Any:
    """The app with the same routes as `build`'s and nothing else. Some peers can't be used with included routers."""
    return make(routers="flat" not in VARIANT.split())


def build() -> Any:
    """The app of the row asked for."""
    import peers

    variants: dict[str, Callable[[], Any]] = {"bare": build_bare, "layer": lambda: Layer(make())}
    variants |= {f"ours {name} memory": app for name, app in ours_variants("memory://").items()}
    variants |= {f"ours {name} redis": app for name, app in ours_variants(REDIS).items()}
    return (variants | peers.variants())[VARIANT]()
