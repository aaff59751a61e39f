"""Whatever bytes come as a credential, and whatever an app does with `request.session`: compared with a plain dict."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from tests.middleware.session_apps import COOKIE, SECRET, Stage, Tokens
from tests.servers import running_redis
from traffic_cop_middleware import TrafficCop, session_of

NAME = COOKIE.encode()
many = settings(max_examples=150, deadline=None)
few = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module", params=["memory", pytest.param("redis", marks=pytest.mark.redis_server)])
def standing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as opened:
        url = "memory://"
        if request.param == "redis":
            url = opened.enter_context(running_redis(tmp_path_factory.mktemp("redis"))).url
        stage = Stage(url, deadline=10)
        stage.client = opened.enter_context(TestClient(stage.app, base_url="https://testserver"))
        yield stage


@pytest.fixture(scope="module")
def alice(standing: Stage) -> Tokens:
    return standing.login("alice")


def on_the_wire(value: bytes) -> bytes:
    """A field's value as a server hands it over: trimmed, without what ends a line (RFC 9110, section 5.5)."""
    return value.translate(None, b"\r\n\0").strip(b" \t")


# Tokens


Edit = tuple[str, int, bytes]
edits = st.lists(
    st.tuples(st.sampled_from(["replace", "insert", "cut", "swap"]), st.integers(0, 4000), st.binary(max_size=8)),
    min_size=1,
    max_size=4,
)


def edited(token: bytes, changes: list[Edit]) -> bytes:
    for how, place, text in changes:
        at = place % (len(token) + 1)
        if how == "replace":
            token = token[:at] + text + token[at + len(text) :]
        elif how == "insert":
            token = token[:at] + text + token[at:]
        elif how == "cut":
            token = token[:at] + token[at + len(text) + 1 :]
        else:
            token = token[at:] + token[:at]
    return token


@many
@given(changes=edits, way=st.sampled_from(["cookie", "bearer"]))
def test_a_token_that_was_changed_is_nobodys(changes: list[Edit], way: str, standing: Stage, alice: Tokens) -> None:
    genuine = getattr(alice, way).encode()
    token = on_the_wire(edited(genuine, changes))
    # What a quote, a blank or a semicolon around it leaves of a cookie is the cookie; all else is not.
    if way == "cookie" and token.partition(b";")[0].strip(b' \t\x0b\x0c"') == genuine:
        return
    if token.strip() != genuine:
        assert standing.subject(**{way: token}) is None


@many
@given(token=st.binary(max_size=200), way=st.sampled_from(["cookie", "bearer"]))
def test_bytes_are_nobodys(token: bytes, way: str, standing: Stage) -> None:
    assert standing.subject(**{way: on_the_wire(token)}) is None


@many
@given(
    parts=st.lists(st.one_of(st.just("token"), st.sampled_from([b".", b"=", b"e30", b"eyJ9"]), st.binary(max_size=9)))
)
def test_pieces_of_tokens_are_nobodys(parts: list[str | bytes], standing: Stage, alice: Tokens) -> None:
    pieces = alice.bearer.encode().split(b".")
    text = b"".join(pieces[index % 3] if isinstance(part, str) else part for index, part in enumerate(parts))
    assert standing.subject(bearer=on_the_wire(text)) is None


# Headers


PIECES = ["name", "token", "of bob", b"=", b";", b"; ", b'"', b" ", b"\t", b",", b"$Version=1", b"x", b"\xff", b"a=b"]


@many
@given(
    fields=st.lists(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=5)), max_size=12), max_size=3),
)
def test_a_cookie_header_names_one_session_or_none(
    fields: list[list[str | bytes]], standing: Stage, alice: Tokens
) -> None:
    words: dict[str, bytes] = {"name": NAME, "token": alice.cookie.encode(), "of bob": b"a.b.c"}
    headers = [
        (b"cookie", on_the_wire(b"".join(words[piece] if isinstance(piece, str) else piece for piece in pieces)))
        for pieces in fields
    ]
    pairs = [pair.partition(b"=") for _, value in headers for pair in value.split(b";")]
    ours = [value for name, equals, value in pairs if equals and name.strip(b" \t") == NAME]
    subject = standing.subject(headers=headers)
    if len(ours) != 1 or words["token"] not in ours[0]:
        assert subject is None
    elif ours[0] == words["token"]:
        assert subject == "alice"


@many
@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from([b"Bearer ", b"bearer", b" ", b"Basic ", b",", "token", b"=", b'"']), st.binary(max_size=4)
        ),
        max_size=8,
    )
)
def test_an_authorization_header_is_a_bearer_token_or_nothing(
    pieces: list[str | bytes], standing: Stage, alice: Tokens
) -> None:
    token = alice.bearer.encode()
    value = on_the_wire(b"".join(token if isinstance(piece, str) else piece for piece in pieces))
    subject = standing.subject(headers=[(b"authorization", value)])
    scheme, _, rest = value.partition(b" ")
    if scheme.lower() != b"bearer" or rest.strip() != token:
        assert subject is None
    else:
        assert subject == "alice"


# Bodies


texts = st.text(st.characters(codec=None), max_size=30)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


@many
@given(value=anything, as_token=st.booleans())
def test_any_json_to_the_refresh_route_is_a_bad_request(value: Any, as_token: bool, standing: Stage) -> None:
    body = json.dumps({"refresh_token": value} if as_token else value).encode()
    answer = standing.ask("POST", "/auth/refresh", body=body, headers=[(b"content-type", b"application/json")])
    assert answer.status == 400
    assert answer.json()["error"] in ("invalid_request", "invalid_grant")


@many
@given(body=st.binary(max_size=200), form=st.booleans())
def test_any_bytes_to_the_refresh_route_are_a_bad_request(body: bytes, form: bool, standing: Stage) -> None:
    content_type = b"application/x-www-form-urlencoded" if form else b"application/json"
    body = b"refresh_token=" + body if form else body
    answer = standing.ask("POST", "/auth/refresh", body=body, headers=[(b"content-type", content_type)])
    assert answer.status == 400


@few
@given(headers=st.dictionaries(st.sampled_from([b"origin", b"host", b"sec-fetch-site", b"x-csrf-token"]), st.binary()))
def test_any_origin_is_this_site_or_another(headers: dict[bytes, bytes], standing: Stage, alice: Tokens) -> None:
    given_headers = [(name, on_the_wire(value)) for name, value in headers.items()]
    answer = standing.ask("POST", "/private", **alice.by("cookie"), headers=given_headers)
    assert answer.status in (200, 403)
    assert standing.ask("POST", "/private", **alice.by("bearer"), headers=given_headers).status == 200


# The mapping


def first_looks() -> dict[str, tuple[Callable[[Any], Any], Any]]:
    """Ways to look at a session that holds {"a": 1, "b": [2]}, and what each of them shows."""
    held = {"a": 1, "b": [2]}

    def keywords(**found: Any) -> dict[str, Any]:
        return found

    def matched(session: Any) -> Any:
        match session:
            case {"a": a, **rest}:
                return [a, rest]
        return None

    def iterated(session: Any) -> list[Any]:
        return [key for key in session]  # noqa: C416 - the statement is what is tried

    return {
        "[]": (lambda s: s["a"], 1),
        "get": (lambda s: s.get("a"), 1),
        "get with a default": (lambda s: s.get("x", 5), 5),
        "in": (lambda s: "a" in s, True),
        "not in": (lambda s: "x" not in s, True),
        "len": (len, 2),
        "bool": (bool, True),
        "list": (list, ["a", "b"]),
        "iter": (iterated, ["a", "b"]),
        "sorted": (sorted, ["a", "b"]),
        "reversed": (lambda s: list(reversed(s)), ["b", "a"]),
        "keys": (lambda s: list(s.keys()), ["a", "b"]),
        "values": (lambda s: list(s.values()), [1, [2]]),
        "items": (lambda s: dict(s.items()), held),
        "dict": (dict, held),
        "**": (lambda s: {**s}, held),
        "keywords": (lambda s: keywords(**s), held),
        "==": (lambda s: s == held, True),
        "== the other way round": (lambda s: held == s, True),
        "!=": (lambda s: s != {}, True),
        "|": (lambda s: s | {"c": 3}, {**held, "c": 3}),
        "| the other way round": (lambda s: {"c": 3} | s, {**held, "c": 3}),
        "repr": (repr, repr(held)),
        "str": (str, repr(held)),
        "format": (lambda s: f"{s}", repr(held)),
        "%": (lambda s: "%(a)s" % s, "1"),  # noqa: UP031 - the operator is what is tried
        "format_map": ("{a}".format_map, "1"),
        "copy": (lambda s: s.copy(), held),
        "copy.copy": (copy.copy, held),
        "copy.deepcopy": (copy.deepcopy, held),
        "pickle": (lambda s: pickle.loads(pickle.dumps(s)), held),
        "json": (lambda s: json.loads(json.dumps(s)), held),
        "json, inside of another": (lambda s: json.loads(json.dumps({"session": s})), {"session": held}),
        "json, indented": (lambda s: json.loads(json.dumps(s, indent=2)), held),
        "match": (matched, [1, {"b": [2]}]),
        "dict.update": (lambda s: _with(lambda d: d.update(s)), held),
        "pop": (lambda s: [s.pop("a"), dict(s)], [1, {"b": [2]}]),
        "pop with a default": (lambda s: s.pop("x", 5), 5),
        "popitem": (lambda s: s.popitem(), ("b", [2])),
        "setdefault": (lambda s: [s.setdefault("a", 9), s.setdefault("c", 9)], [1, 9]),
        "update": (lambda s: _in_place(s, lambda: s.update({"c": 3}, d=4)), {**held, "c": 3, "d": 4}),
        "|=": (lambda s: s.__ior__({"c": 3}), {**held, "c": 3}),
        "del": (lambda s: _in_place(s, lambda: s.__delitem__("a")), {"b": [2]}),
        "clear": (lambda s: _in_place(s, s.clear), {}),
        "isinstance": (lambda s: isinstance(s, dict), True),
        "fromkeys": (lambda s: s.fromkeys(["x"], 1), {"x": 1}),
    }


def _with(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    change(found)
    return found


def _in_place(session: Any, change: Callable[[], Any]) -> dict[str, Any]:
    change()
    return dict(session)


LOOKS = first_looks()


@pytest.mark.parametrize("by", ["request.session", "session_of"])
@pytest.mark.parametrize("look", LOOKS)
def test_the_first_look_at_a_session_shows_what_it_holds(look: str, by: str, standing: Stage) -> None:
    def fill(request: Request) -> None:
        request.session.update({"a": 1, "b": [2]})

    cookie = standing.act(fill).cookie
    found: list[Any] = []

    def do(request: Request) -> None:
        found.append(LOOKS[look][0](request.session if by == "request.session" else session_of(request)))

    assert standing.act(do, cookie=cookie).status == 200
    assert found == [LOOKS[look][1]]


@pytest.mark.parametrize("missing", ["[]", "del", "pop", "popitem"])
def test_what_is_missing_is_missed_as_in_a_dict(missing: str, standing: Stage) -> None:
    def do(request: Request) -> None:
        session: Any = request.session
        with pytest.raises(KeyError):
            {"[]": lambda: session["x"], "del": lambda: session.__delitem__("x"), "pop": lambda: session.pop("x")}.get(
                missing, session.popitem
            )()

    assert standing.act(do).cookie is None


def test_a_session_can_be_the_body_of_a_response() -> None:
    app = FastAPI()
    TrafficCop(session_secret=SECRET).install(app)

    @app.get("/fill")
    def fill(request: Request) -> None:
        request.session["a"] = 1

    @app.get("/typed")
    def typed(request: Request) -> dict[str, Any]:
        return request.session

    @app.get("/response")
    async def response(request: Request) -> JSONResponse:
        return JSONResponse(request.session)

    @app.get("/nested", response_model=None)
    async def nested(request: Request) -> Any:
        return {"session": request.session}

    with TestClient(app, base_url="https://testserver") as client:
        client.get("/fill")
        assert client.get("/typed").json() == {"a": 1}
        assert client.get("/response").json() == {"a": 1}
        assert client.get("/nested").json() == {"session": {"a": 1}}


keys = st.text(st.characters(codec="utf-8"), max_size=6)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=12),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
names = st.one_of(
    st.sampled_from(["a", "b", "c", "list", "dict", "", ":", "g", "m", "k", "{}", "ä", "__proto__"]), keys
)
steps = st.one_of(
    st.tuples(st.sampled_from(["set", "setdefault", "append", "insert"]), names, values),
    st.tuples(st.sampled_from(["update", "pairs", "ior"]), st.dictionaries(names, values, max_size=3)),
    st.tuples(st.sampled_from(["del", "pop", "get", "in"]), names),
    st.tuples(st.sampled_from(["popitem", "clear", "len", "equal", "items", "or"])),
)


def take_step(mapping: dict[str, Any], step: tuple[Any, ...]) -> Any:
    """One thing that an app does; what it sees of it."""
    how, *given_ = step
    if how == "set":
        mapping[given_[0]] = copy.deepcopy(given_[1])
    elif how == "setdefault":
        return mapping.setdefault(given_[0], copy.deepcopy(given_[1]))
    elif how == "append":
        inner = mapping.setdefault("list", [])
        if isinstance(inner, list):
            inner.append(copy.deepcopy(given_[1]))
    elif how == "insert":
        inner = mapping.setdefault("dict", {})
        if isinstance(inner, dict):
            inner.setdefault("inner", {})
            if isinstance(inner["inner"], dict):
                inner["inner"][given_[0]] = copy.deepcopy(given_[1])
    elif how == "update":
        mapping.update(copy.deepcopy(given_[0]))
    elif how == "pairs":
        mapping.update(list(copy.deepcopy(given_[0]).items()))
    elif how == "ior":
        mapping |= copy.deepcopy(given_[0])
    elif how == "del":
        try:
            del mapping[given_[0]]
        except KeyError:
            return "KeyError"
    elif how == "pop":
        return mapping.pop(given_[0], "nothing")
    elif how == "get":
        return mapping.get(given_[0])
    elif how == "in":
        return given_[0] in mapping
    elif how == "clear":
        mapping.clear()
    elif how == "len":
        return len(mapping)
    elif how == "items":
        return sorted(map(repr, mapping.items()))
    elif how == "or":
        return mapping | {"x": 1}
    return None


@settings(max_examples=60, deadline=None)
@given(requests=st.lists(st.lists(steps, max_size=5), min_size=1, max_size=4), user=st.booleans())
def test_a_session_is_a_dict_over_many_requests(
    requests: list[list[tuple[Any, ...]]], user: bool, standing: Stage
) -> None:
    cookie = standing.login("model").cookie if user else None
    model: dict[str, Any] = {}
    for number, taken in enumerate(requests):
        seen: list[Any] = []

        def do(request: Request, taken: list[tuple[Any, ...]] = taken, seen: list[Any] = seen) -> None:
            for step in taken:
                if step[0] == "popitem":  # which one is last is not kept between requests
                    seen.append(copy.deepcopy(request.session.popitem()) if request.session else None)
                elif step[0] == "equal":
                    seen.append(copy.deepcopy(dict(request.session)))
                else:
                    seen.append(copy.deepcopy(take_step(request.session, step)))

        answer = standing.act(do, cookie=cookie)
        assert answer.status == 200
        cookie = answer.cookie or cookie
        for step, what in zip(taken, seen, strict=True):
            if step[0] == "popitem":
                assert (what is None) == (not model)
                assert what is None or model.pop(what[0]) == what[1]
            elif step[0] == "equal":
                assert what == model
            else:
                assert what == take_step(model, step), (number, step)
        kept = standing.act(lambda request: dict(request.session), cookie=cookie).json()
        assert kept == json.loads(json.dumps(model)), number
