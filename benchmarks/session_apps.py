"""One small ASGI app bare, behind ours and behind each peer's sessions, and a client that logs in to each.

No server and no framework: what is left is the layer alone. Each peer is used as its manual says; a starsessions app
loads the session where it looks at it, as its README has it, so a request that does not look pays for no load.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from harness import BenchmarkError
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECRET = "a secret of a benchmark, 32 bytes and more"
LIFETIME = 14 * 24 * 3600
KEPT = {"user": "ada", "cart": [{"sku": "tea-250", "count": 2}], "theme": "dark", "seen": "2026-01-31T12:00:00Z"}
"""What the session holds from the login on."""
HIGH = "1000000000/minute"

BROWSER = [
    (b"host", b"shop.example.com"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-GB,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"sec-fetch-site", b"same-origin"),
]
Headers = list[tuple[bytes, bytes]]
Endpoint = Callable[[Scope], Awaitable[None]]
Load = Callable[[Scope], Awaitable[None]]

_numbers = itertools.count()


class App:
    """Paths say what is done with the session: nothing ("/"), "/read", "/write", "/login"; "/check" is for `logged_in`.

    `login` logs in by the library's own means; `load` is what must be awaited before the session is looked at.
    """

    def __init__(self, *, load: Load | None = None, login: Endpoint | None = None) -> None:
        async def read(scope: Scope) -> None:
            if load is not None:
                await load(scope)
            if scope["session"]["user"] != "ada":
                raise BenchmarkError("the session is another's")

        async def write(scope: Scope) -> None:
            if load is not None:
                await load(scope)
            scope["session"]["at"] = next(_numbers)

        async def check(scope: Scope) -> None:
            await read(scope)
            if "at" not in scope["session"]:
                raise BenchmarkError("what was written into the session is not there")

        async def keep(scope: Scope) -> None:
            if load is not None:
                await load(scope)
            scope["session"].update(KEPT)
            if login is not None:
                await login(scope)

        self.endpoints: dict[str, Endpoint] = {"/": nothing, "/read": read, "/write": write}
        self.endpoints |= {"/login": keep, "/check": check}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        await self.endpoints[scope["path"]](scope)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"11")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"ok":true}'})


async def nothing(_scope: Scope) -> None:
    """The session is not looked at."""


async def login(scope: Scope) -> None:
    """Ours. Different users, as logins are."""
    await scope["session"].login(f"user-{next(_numbers) % 1000}")


async def load(scope: Scope) -> None:
    """The way of starsessions."""
    from starsessions import load_session

    await load_session(HTTPConnection(scope))


# The apps


def ours(url: str) -> ASGIApp:
    from traffic_cop_middleware import SessionMiddleware

    return SessionMiddleware(App(login=login), secret=SECRET, backend=url, lifetime=LIFETIME, deadline=5.0)


def stack(url: str, *, limits: str | None = None, sessions: bool = True) -> ASGIApp:
    """The whole stack of ours, with sessions, limits or both."""
    from traffic_cop_middleware import TrafficCop

    secret = SECRET if sessions else None
    cop = TrafficCop(url, limits=limits, session_secret=secret, session_lifetime=LIFETIME, deadline=5.0)
    return cop.wrap(App(login=login))


def starlette() -> ASGIApp:
    from starlette.middleware.sessions import SessionMiddleware

    return SessionMiddleware(App(), SECRET, max_age=LIFETIME, https_only=True)


def starsessions(store: Any) -> ASGIApp:
    from starsessions import SessionMiddleware

    return SessionMiddleware(App(load=load), store=store, lifetime=LIFETIME)


@contextlib.asynccontextmanager
async def memory_apps() -> AsyncIterator[dict[str, ASGIApp]]:
    """The bare app, and those that need no server, by the names of their rows."""
    from starsessions import InMemoryStore

    apps = {
        "bare": App(),
        "ours": ours("memory://"),
        "ours, whole stack": stack("memory://"),
        "Starlette's cookie": starlette(),
        "starsessions": starsessions(InMemoryStore()),
    }
    async with running(apps):
        yield apps


@contextlib.asynccontextmanager
async def redis_apps(url: str) -> AsyncIterator[dict[str, ASGIApp]]:
    """The bare app, and those whose sessions or limits are in Redis."""
    from redis.asyncio import Redis
    from starsessions.stores.redis import RedisStore

    async with Redis.from_url(url) as client:
        apps = {
            "bare": App(),
            "ours": ours(url),
            "starsessions": starsessions(RedisStore(connection=client)),
            "limits": stack(url, limits=HIGH, sessions=False),
            "limits + session": stack(url, limits=HIGH),
        }
        async with running(apps):
            yield apps


@contextlib.asynccontextmanager
async def running(apps: dict[str, ASGIApp]) -> AsyncIterator[None]:
    """The apps between start-up and shutdown of their lifespans."""
    async with contextlib.AsyncExitStack() as lifespans:
        for app in apps.values():
            await lifespans.enter_async_context(lifespan(app))
        yield


@contextlib.asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """What a server does around an app. The peers pass it on as it is."""
    told: asyncio.Queue[Message] = asyncio.Queue()
    said: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.ensure_future(app({"type": "lifespan", "asgi": {"version": "3.0"}}, told.get, said.put))
    try:
        for kind in ("startup", "shutdown"):
            told.put_nowait({"type": f"lifespan.{kind}"})
            message = await asyncio.wait_for(said.get(), 10)
            if message["type"] != f"lifespan.{kind}.complete":
                raise BenchmarkError(f"an app's {kind} failed: {message}")
            if kind == "startup":
                yield
        await asyncio.wait_for(task, 10)
    finally:
        task.cancel()


# The client


def request(path: str, headers: Headers) -> Scope:
    """A scope as a server makes it, anew for each request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 443),
    }


async def receive() -> Message:
    """All requests are without a body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    """Takes the response, which must be a good one."""
    if message.get("status", 200) != 200:
        raise BenchmarkError(f"answered {message['status']}")


async def ask(app: ASGIApp, path: str, headers: Headers) -> Headers:
    """Send one request; the headers of the next one, with the cookie that the response set, if it set one."""
    given: list[bytes] = []

    async def keep(message: Message) -> None:
        await send(message)
        given.extend(value for name, value in message.get("headers", ()) if name.lower() == b"set-cookie")

    await app(request(path, headers), receive, keep)
    return [*BROWSER, (b"cookie", given[-1].partition(b";")[0])] if given else headers


async def logged_in(app: ASGIApp) -> Headers:
    """The headers of a browser that has logged in.

    Raises:
        BenchmarkError, KeyError: the app does not keep what is written: it would win every table.
    """
    headers = await ask(app, "/login", BROWSER)
    await ask(app, "/check", await ask(app, "/write", headers))
    return headers
