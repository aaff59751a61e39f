"""A real Redis is frozen, killed and emptied under requests with sessions: 503 in time, nobody logged in, no 500."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tests.adapters.load import LOOPS, Gate, LoopLag, poll, run_on, started, ticks_until
from tests.asgi import send_through, websocket_scope
from tests.middleware.session_apps import COOKIE, WAYS, Answer, Stage, Tokens
from tests.servers import RedisServer, free_port
from traffic_cop_middleware import StoreError, session_of

pytestmark = pytest.mark.redis_server

DEADLINE = 0.05
LOOP_TIME = 0.05
DOORS = pytest.mark.parametrize("wrap", [False, True], ids=["install", "wrap"])


async def reached(stage: Stage, method: str, path: str, **asked: Any) -> Answer:
    """The answer of a Redis that is there. One that the machine keeps waiting is away for a moment: ask again."""
    end = time.monotonic() + 30
    while (answer := await stage.send(method, path, **asked)).status == 503:
        assert time.monotonic() < end, "it does not come back"
        await asyncio.sleep(0.01)
    return answer


async def login(stage: Stage, subject: str = "alice") -> Tokens:
    answer = await reached(stage, "POST", f"/login?sub={subject}")
    assert answer.status == 200
    found = answer.json()
    return Tokens(answer.cookie or "", found["access_token"], found["refresh_token"])


def is_away(answer: Answer) -> bool:
    """Whether this is how a request is answered that only Redis could tell about."""
    return (
        answer.status == 503
        and int(answer.all("retry-after")[0]) >= 1
        and answer.all("content-type") == ["application/problem+json"]
        and "no-store" in answer.all("cache-control")
        and json.loads(answer.body)["status"] == 503
        and answer.cookie is None
    )


@dataclass
class Asked:
    who: str
    start: float
    end: float
    answer: Answer


@dataclass
class Crowd:
    """Callers with a cookie, with a bearer token and with neither, who ask again and again."""

    stage: Stage
    each: int = 8
    path: str = "/private"
    asked: list[Asked] = field(default_factory=list)
    in_flight: int = 0
    gate: Gate = field(default_factory=Gate)
    _stopped: bool = False

    @contextlib.asynccontextmanager
    async def asking(self, tokens: Tokens) -> AsyncIterator[None]:
        credentials: list[dict[str, Any]] = [tokens.by("cookie"), tokens.by("bearer"), {}]
        callers = [asyncio.create_task(self._ask(each)) for each in credentials for _ in range(self.each)]
        try:
            yield
        finally:
            self._stopped = True
            await asyncio.gather(*callers)

    async def _ask(self, credential: dict[str, Any]) -> None:
        while not self._stopped:
            await self.gate.passed()
            start = time.monotonic()
            self.in_flight += bool(credential)
            answer = await self.stage.send("GET", self.path if credential else "/public", **credential)
            self.in_flight -= bool(credential)
            self.asked.append(Asked(next(iter(credential), "nobody"), start, time.monotonic(), answer))
            await asyncio.sleep(0.003)

    async def all_hang_on(self, server: RedisServer) -> None:
        """Freeze the server, and let each who has a credential ask something that nobody answers."""
        async with self.gate.closed(3 * self.each):
            server.freeze()
        await ticks_until(lambda: self.in_flight == 2 * self.each)

    async def answered(self, status: int) -> None:
        """Wait until all who have a credential are answered so, asked from now on."""
        moment = time.monotonic()
        for way in WAYS:
            await poll(
                lambda way=way: any(
                    each.who == way and each.start >= moment and each.answer.status == status for each in self.asked
                )
            )

    def between(self, start: float, end: float, *who: str) -> list[Asked]:
        return [each for each in self.asked if start < each.start and each.end < end and each.who in who]


@contextlib.asynccontextmanager
async def crowded(stage: Stage, deadline: float = DEADLINE) -> AsyncIterator[Crowd]:
    """A crowd on a stage; nobody waits longer than the deadline and what the loop itself lagged, nobody gets a 500."""
    lag = LoopLag()
    async with started(stage.app) as answer:
        assert answer == {"type": "lifespan.startup.complete"}
        crowd = Crowd(stage)
        async with lag, crowd.asking(await login(stage)):
            await crowd.answered(200)
            yield crowd
            await asyncio.sleep(0.01)
    assert {each.answer.status for each in crowd.asked if each.who == "nobody"} == {200}
    assert {each.answer.status for each in crowd.asked} <= {200, 401, 503}
    late = [
        each for each in crowd.asked if each.end - each.start > deadline + LOOP_TIME + lag.between(each.start, each.end)
    ]
    assert not late, max(each.end - each.start for each in late)


@DOORS
@pytest.mark.parametrize("loop", LOOPS)
def test_a_freeze_is_503_for_who_has_a_session_and_nothing_for_others(
    loop: str, wrap: bool, own_redis: RedisServer
) -> None:
    stage = Stage(own_redis.url, wrap=wrap)

    async def scenario() -> None:
        async with crowded(stage) as crowd:
            await crowd.all_hang_on(own_redis)
            frozen = time.monotonic()
            await crowd.answered(503)
            for who in (*WAYS, "nobody"):
                await poll(lambda who=who: len(crowd.between(frozen, time.monotonic(), who)) > 100)
            thawed = time.monotonic()
            own_redis.thaw()
            await crowd.answered(200)
            during = crowd.between(frozen, thawed, *WAYS)
            assert all(is_away(each.answer) for each in during)
            waited = [each for each in during if each.end - each.start > DEADLINE / 2]
            assert len(waited) < len(during) / 2, "after three missed deadlines nobody waits"
            hung = [each for each in crowd.asked if each.start < frozen < each.end and each.who != "nobody"]
            assert len(hung) == 16
            assert all(is_away(each.answer) for each in hung)

    run_on(LOOPS[loop], scenario())


@DOORS
def test_after_a_kill_and_a_restart_with_nothing_kept_sessions_are_gone(wrap: bool, own_redis: RedisServer) -> None:
    stage = Stage(own_redis.url, wrap=wrap)

    async def scenario() -> None:
        async with crowded(stage) as crowd:
            await crowd.all_hang_on(own_redis)
            own_redis.kill()
            await crowd.answered(503)
            again = time.monotonic()
            await asyncio.to_thread(own_redis.start)
            await crowd.answered(401)
            back = time.monotonic()
            await crowd.answered(401)
            between = [each.answer for each in crowd.between(again, back, *WAYS)]
            assert all(is_away(answer) or answer.status == 401 for answer in between)
            fresh = await login(stage)
            for way in WAYS:
                assert (await reached(stage, "GET", "/private", **fresh.by(way))).json()["subject"] == "alice"

    run_on(LOOPS["asyncio"], scenario())


def test_a_flush_of_all_logs_everybody_out_and_is_no_error(own_redis: RedisServer) -> None:
    stage = Stage(own_redis.url, deadline=10)

    async def scenario() -> None:
        async with crowded(stage, deadline=10) as crowd:
            own_redis.command("FLUSHALL")
            await crowd.answered(401)
        assert 503 not in {each.answer.status for each in crowd.asked}

    run_on(LOOPS["asyncio"], scenario())


def test_without_redis_from_the_start_only_those_with_a_session_hear_of_it(own_redis: RedisServer) -> None:
    stage = Stage(own_redis.url)

    async def scenario() -> None:
        async with started(stage.app):
            tokens = await login(stage)
        own_redis.kill()
        away = Stage(f"redis://127.0.0.1:{free_port()}/0")
        async with started(away.app):
            for _ in range(3):
                assert (await away.send("GET", "/public")).status == 200
                for way in WAYS:
                    assert is_away(await away.send("GET", "/public", **tokens.by(way)))
                    assert (await away.send("GET", "/public", **{way: "garbage"})).status == 200

    run_on(LOOPS["asyncio"], scenario())


# What writes


async def before(stage: Stage, server: RedisServer, ask: Callable[[], Any], *, kill: bool) -> Answer:
    """What is asked while the server is away, in the time it may take; the server is there again afterwards."""
    if kill:
        server.kill()
    else:
        server.freeze()
    try:
        async with LoopLag() as lag:
            start = time.monotonic()
            answer: Answer = await ask()
            end = time.monotonic()
            await asyncio.sleep(0.005)
        assert end - start < 2 * DEADLINE + LOOP_TIME + lag.between(start, end), "two questions at most"
        return answer
    finally:
        if kill:
            await asyncio.to_thread(server.start)
        else:
            server.thaw()
        await asyncio.sleep(0.01)


@DOORS
@pytest.mark.parametrize("kill", [False, True], ids=["frozen", "killed"])
@pytest.mark.parametrize("first", [False, True], ids=["without a session", "with one"])
def test_a_login_while_redis_is_away_logs_nobody_in(
    first: bool, kill: bool, wrap: bool, own_redis: RedisServer
) -> None:
    stage = Stage(own_redis.url, wrap=wrap)

    async def scenario() -> None:
        async with started(stage.app):
            had = (await reached(stage, "POST", "/keep?k=a&v=1")).cookie if first else None
            assert is_away(
                await before(stage, own_redis, lambda: stage.send("POST", "/login?sub=alice", cookie=had), kill=kill)
            )
            await works_again(stage)
            if first and not kill:
                assert (await reached(stage, "GET", "/private", cookie=had)).status == 401

    run_on(LOOPS["asyncio"], scenario())


async def works_again(stage: Stage) -> None:
    """It comes back by itself."""
    await login(stage, "bob")


async def frozen_in(stage: Stage, server: RedisServer, **credential: Any) -> Answer:
    """The answer to a request whose endpoint freezes the server; it is thawed then."""
    for _ in range(100):
        answer = await stage.send("POST", "/do", **credential)
        if server.frozen:  # or its session could not be read in time, and the endpoint was not asked
            server.thaw()
            return answer
        await asyncio.sleep(0.01)
    raise AssertionError("the endpoint was never asked")


@DOORS
@pytest.mark.parametrize("kill", [False, True], ids=["frozen", "killed"])
def test_a_first_visit_that_can_not_be_kept_is_503(kill: bool, wrap: bool, own_redis: RedisServer) -> None:
    stage = Stage(own_redis.url, wrap=wrap)

    async def scenario() -> None:
        async with started(stage.app):
            assert is_away(await before(stage, own_redis, lambda: stage.send("POST", "/keep?k=a&v=1"), kill=kill))
            assert (await stage.send("GET", "/public")).status == 200
            await works_again(stage)

    run_on(LOOPS["asyncio"], scenario())


@DOORS
def test_a_refresh_while_redis_is_away_spends_nothing_for_good(wrap: bool, own_redis: RedisServer) -> None:
    stage = Stage(own_redis.url, wrap=wrap)

    async def scenario() -> None:
        async with started(stage.app):
            tokens = await login(stage)
            body = json.dumps({"refresh_token": tokens.refresh}).encode()
            assert is_away(
                await before(stage, own_redis, lambda: stage.send("POST", "/auth/refresh", body=body), kill=False)
            )
            await works_again(stage)
            again = await reached(stage, "POST", "/auth/refresh", body=body)
            assert again.status == 200, "it may have been spent: within the grace that is no theft"

    run_on(LOOPS["asyncio"], scenario())


@DOORS
@pytest.mark.parametrize("way", WAYS)
def test_a_logout_while_redis_is_away_is_503_and_can_be_tried_again(
    way: str, wrap: bool, own_redis: RedisServer
) -> None:
    """The record stands, so the browser keeps what it needs to end it."""
    stage = Stage(own_redis.url, wrap=wrap)

    async def scenario() -> None:
        async with started(stage.app):
            tokens = await login(stage)

            async def leave(request: Request) -> None:
                own_redis.freeze()
                await session_of(request).logout()

            stage.do = leave
            answer = await frozen_in(stage, own_redis, **tokens.by(way))
            assert answer.status == 503
            assert answer.cookie is None
            await works_again(stage)
            retried = await reached(stage, "POST", "/auth/logout", **tokens.by(way))
            assert retried.status == 204
            assert (await reached(stage, "GET", "/private", **tokens.by(way))).status == 401

    run_on(LOOPS["asyncio"], scenario())


# The commit at the start of the response


def plain(request: Request) -> Response:
    return JSONResponse({"half": "a response"})


def streaming(request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"half a response"

    return StreamingResponse(chunks())


def not_found(request: Request) -> Response:
    raise HTTPException(404, "half a response")


RESPONSES = {"plain": plain, "streaming": streaming, "an HTTPException": not_found}


def with_handler_of_ours(stage: Stage) -> None:
    stage.inner.add_exception_handler(StoreError, lambda _, exc: JSONResponse({"own": "page"}, 503))


def with_handler_of_all(stage: Stage) -> None:
    stage.inner.add_exception_handler(Exception, lambda _, exc: JSONResponse({"own": "page"}, 500))


def with_handler_of_500(stage: Stage) -> None:
    stage.inner.add_exception_handler(500, lambda _, exc: JSONResponse({"own": "page"}, 500))


def with_base_http_middleware(stage: Stage) -> None:
    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    inside = stage.inner.user_middleware
    stage.inner.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    inside.append(inside.pop(0))  # inside of the cop, as a wrapped app has it


def with_nothing(stage: Stage) -> None: ...


APPS = {
    "plain": with_nothing,
    "handles StoreError": with_handler_of_ours,
    "handles Exception": with_handler_of_all,
    "handles 500": with_handler_of_500,
    "BaseHTTPMiddleware": with_base_http_middleware,
}


@DOORS
@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("response", RESPONSES)
def test_a_commit_that_fails_is_503_and_not_half_a_response(
    response: str, app: str, wrap: bool, own_redis: RedisServer
) -> None:
    stage = Stage(own_redis.url, wrap=wrap)
    APPS[app](stage)

    async def scenario() -> None:
        async with started(stage.app):
            tokens = await login(stage)

            def change(request: Request) -> Response:
                request.session["a"] = 1
                own_redis.freeze()
                return RESPONSES[response](request)

            stage.do = change
            answer = await frozen_in(stage, own_redis, **tokens.by("cookie"))
            assert answer.status == 503
            assert b"half a response" not in answer.body
            assert "a response" not in answer.body.decode()
            assert answer.cookie is None
            await works_again(stage)

    run_on(LOOPS["asyncio"], scenario())


@DOORS
@pytest.mark.parametrize("app", APPS)
def test_a_save_that_fails_in_the_endpoint_is_503(app: str, wrap: bool, own_redis: RedisServer) -> None:
    stage = Stage(own_redis.url, wrap=wrap)
    APPS[app](stage)

    async def scenario() -> None:
        async with started(stage.app):
            tokens = await login(stage)

            async def change(request: Request) -> Response:
                request.session["a"] = 1
                own_redis.freeze()
                await session_of(request).save()
                return plain(request)

            stage.do = change
            answer = await frozen_in(stage, own_redis, **tokens.by("bearer"))
            assert answer.status == 503
            if app == "handles StoreError":
                assert answer.json() == {"own": "page"}, "who handles it by themselves is not talked over"
            await works_again(stage)

    run_on(LOOPS["asyncio"], scenario())


@DOORS
def test_an_app_that_catches_it_answers_as_it_likes(wrap: bool, own_redis: RedisServer) -> None:
    stage = Stage(own_redis.url, wrap=wrap)

    async def scenario() -> None:
        async with started(stage.app):
            tokens = await login(stage)

            async def change(request: Request) -> Response:
                own_redis.freeze()
                try:
                    await session_of(request).incr("n")
                except StoreError:
                    return JSONResponse({"own": "page"}, 507)
                return plain(request)

            stage.do = change
            answer = await frozen_in(stage, own_redis, **tokens.by("bearer"))
            assert (answer.status, answer.json()) == (507, {"own": "page"})

    run_on(LOOPS["asyncio"], scenario())


# WebSockets


@DOORS
@pytest.mark.parametrize("way", WAYS)
def test_no_socket_opens_by_a_session_while_redis_is_away_and_open_ones_stay(
    way: str, wrap: bool, own_redis: RedisServer
) -> None:
    stage = Stage(own_redis.url, wrap=wrap, deadline=0.5)

    async def scenario() -> None:
        async with started(stage.app):
            tokens = await login(stage)
            header = (
                (b"cookie", f"{COOKIE}={tokens.cookie}".encode())
                if way == "cookie"
                else (b"authorization", f"Bearer {tokens.bearer}".encode())
            )
            scope = {"headers": [(b"host", b"testserver"), header], "scheme": "wss"}
            incoming: asyncio.Queue[Any] = asyncio.Queue()
            outgoing: asyncio.Queue[Any] = asyncio.Queue()
            talk = asyncio.create_task(stage.app(websocket_scope("/socket", **scope), incoming.get, outgoing.put))
            await incoming.put({"type": "websocket.connect"})
            async with asyncio.timeout(60):
                assert (await outgoing.get())["type"] == "websocket.accept"
                assert json.loads((await outgoing.get())["text"]) == {"subject": "alice"}
                own_redis.freeze()
                refused = await send_through(
                    stage.app, websocket_scope("/socket", **scope), [{"type": "websocket.connect"}]
                )
                assert [message["type"] for message in refused] == ["websocket.close"]
                await incoming.put({"type": "websocket.receive", "text": "still here"})
                assert (await outgoing.get())["text"] == "still here"
                own_redis.thaw()
                await works_again(stage)
                await stage.cop.session_management.revoke_user("alice")
                assert (await outgoing.get())["code"] == 1008
            await asyncio.wait_for(talk, 60)

    run_on(LOOPS["asyncio"], scenario())
