"""`session_csrf="forms"`: a form that doesn't say where it comes from brings the session's token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.asgi import Message, http_scope
from tests.middleware.session_apps import COOKIE, Answer, Stage
from traffic_cop_middleware import session_of
from traffic_cop_middleware.middleware.form_tokens import MOST

URLENCODED = b"application/x-www-form-urlencoded"


async def _form(request: Request) -> JSONResponse:
    """What the app finds in the body, when it reads it after us."""
    body = await request.body()
    return JSONResponse({"size": len(body), "start": body[:200].decode(), "subject": session_of(request).subject})


def opened(**settings: object) -> Stage:
    return Stage("memory://", routes=[Route("/form", _form, methods=["GET", "POST", "PUT"])], **settings)


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = opened(session_csrf="forms")
    with TestClient(stage.app, base_url="https://testserver") as client:
        stage.client = client
        yield stage


def token_of(stage: Stage, cookie: str) -> str:
    token: str = stage.act(lambda request: session_of(request).csrf_token, method="GET", cookie=cookie).json()
    return token


def post(
    stage: Stage, body: bytes, *headers: tuple[bytes, bytes], kind: bytes | None = URLENCODED, **more: str
) -> Answer:
    fields = [*([(b"content-type", kind)] if kind is not None else []), *headers]
    return stage.ask(more.pop("method", "POST"), more.pop("path", "/form"), headers=fields, body=body, **more)


def test_a_form_with_the_sessions_token_comes_to_the_app_as_it_was_sent(stage: Stage) -> None:
    cookie = stage.login("alice").cookie
    body = b"item=tea&csrf_token=" + token_of(stage, cookie).encode() + b"&n=1"
    answer = post(stage, body, cookie=cookie)
    assert answer.status == 200
    assert answer.json() == {"size": len(body), "start": body.decode(), "subject": "alice"}
    assert post(stage, body, kind=URLENCODED + b"; charset=utf-8", cookie=cookie).status == 200
    assert post(stage, body, kind=URLENCODED.upper(), cookie=cookie).status == 200


def test_a_form_without_the_sessions_token_is_refused(stage: Stage) -> None:
    alice, bob = stage.login("alice"), stage.login("bob")
    token = token_of(stage, alice.cookie).encode()
    for body in (
        *(b"", b"item=tea", b"csrf_token=", b"csrf_token", b"csrf_token=" + token[:-1], b"csrf_token=%FF"),
        *(b"csrf_token=" + token_of(stage, bob.cookie).encode(), b"x_csrf_token=" + token, b"CSRF_TOKEN=" + token),
        *(token, b"&" * 1000, b"\0\xff=&csrf_token=" + token + b"\xff"),
    ):
        answer = post(stage, body, cookie=alice.cookie)
        assert answer.status == 403, body
        assert "csrf_token" in answer.json()["detail"]
    kinds = [event for event in stage.events if event.kind == "session.rejected"]
    assert "without its token" in kinds[-1].attributes["reason"]


@pytest.mark.parametrize("kind", [b"multipart/form-data; boundary=x", b"text/plain", b"TEXT/plain;a"])
def test_the_other_types_that_a_form_can_have_need_the_header(kind: bytes, stage: Stage) -> None:
    """Or a page of another site would just choose one of them."""
    cookie = stage.login("alice").cookie
    token = token_of(stage, cookie).encode()
    assert post(stage, b"csrf_token=" + token, kind=kind, cookie=cookie).status == 403
    assert post(stage, b"a=b", (b"x-csrf-token", token), kind=kind, cookie=cookie).status == 200


def test_what_says_where_it_comes_from_or_is_no_form_needs_no_token(stage: Stage) -> None:
    alice = stage.login("alice")
    token = token_of(stage, alice.cookie).encode()
    assert post(stage, b"a=b", (b"origin", b"https://testserver"), cookie=alice.cookie).status == 200
    assert post(stage, b"a=b", (b"sec-fetch-site", b"same-origin"), cookie=alice.cookie).status == 200
    assert post(stage, b"a=b", (b"x-csrf-token", token), cookie=alice.cookie).status == 200
    assert post(stage, b"{}", kind=b"application/json", cookie=alice.cookie).status == 200
    assert post(stage, b"", kind=None, cookie=alice.cookie).status == 200
    assert post(stage, b"a=b", method="PUT", cookie=alice.cookie).status == 200
    assert post(stage, b"a=b", method="GET", cookie=alice.cookie).status == 200
    assert post(stage, b"a=b", bearer=alice.bearer).status == 200
    assert post(stage, b"a=b").json()["subject"] is None
    evil = (b"origin", b"https://evil.example")
    assert post(stage, b"csrf_token=" + token, evil, cookie=alice.cookie).status == 403, "a field is no header"


def test_a_login_form_needs_the_token_of_the_visitors_session(stage: Stage) -> None:
    assert post(stage, b"name=mallory", path="/login?sub=mallory").status == 403
    visit = stage.act(lambda request: session_of(request).csrf_token, method="GET")
    form = b"csrf_token=" + visit.json().encode()
    assert post(stage, b"name=alice", path="/login?sub=alice", cookie=visit.cookie or "").status == 403
    assert post(stage, form, path="/login?sub=alice").status == 403, "whose token it is can't be told"
    assert post(stage, form, path="/login?sub=alice", cookie=visit.cookie or "").status == 200
    assert post(stage, b"{}", path="/login?sub=alice", kind=b"application/json").status == 200


def test_it_is_asked_for_by_forms_alone() -> None:
    stage = opened()
    with TestClient(stage.app, base_url="https://testserver") as client:
        stage.client = client
        assert post(stage, b"a=b", cookie=stage.login("alice").cookie).status == 200


class Client:
    """Sends a body in pieces, and tells how many of them were taken."""

    def __init__(self, pieces: list[bytes], *, leaves: bool = False) -> None:
        last = len(pieces) - 1
        self.messages: list[Message] = [
            {"type": "http.request", "body": piece, "more_body": leaves or number < last}
            for number, piece in enumerate(pieces)
        ]
        if leaves:
            self.messages.append({"type": "http.disconnect"})
        self.taken = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        self.taken += 1
        return self.messages[self.taken - 1]

    async def send(self, message: Message) -> None:
        self.sent.append(message)


async def _talk(stage: Stage, client: Client, cookie: str) -> int:
    headers = [(b"host", b"testserver"), (b"cookie", f"{COOKIE}={cookie}".encode()), (b"content-type", URLENCODED)]
    await stage.app(http_scope("/form", "POST", scheme="https", headers=headers), client.receive, client.send)
    status: int = client.sent[0]["status"]
    return status


def test_a_form_in_pieces_is_put_together_and_the_rest_streams_on(stage: Stage) -> None:
    cookie = stage.login("alice").cookie
    token = token_of(stage, cookie).encode()
    text = b"csrf_token=" + token + b"&x="
    rest = [b"y" * 40_000] * 4
    for pieces in ([text[:5], text[5:20], b"", text[20:]], [text, *rest], [text[:-3], text[-3:], b""]):
        client = Client(pieces)
        assert stage.run(_talk, stage, client, cookie) == 200
        assert f'"size":{sum(map(len, pieces))}'.encode() in client.sent[1]["body"]


def test_no_more_of_a_form_is_kept_than_the_bound(stage: Stage) -> None:
    cookie = stage.login("alice").cookie
    piece = b"x" * 8192
    late = Client([piece] * 100 + [b"&csrf_token=" + token_of(stage, cookie).encode()])
    assert stage.run(_talk, stage, late, cookie) == 403
    assert late.taken == MOST // len(piece)


def test_a_client_that_leaves_in_the_middle_of_its_form_changes_nothing(stage: Stage) -> None:
    cookie = stage.login("alice").cookie
    gone = Client([b"csrf_token=" + token_of(stage, cookie).encode()], leaves=True)
    assert stage.run(_talk, stage, gone, cookie) == 403
