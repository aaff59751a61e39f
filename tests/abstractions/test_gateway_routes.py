"""What a user writes becomes one form of route, or an error that names the mend."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions.gateway_routes import (
    MOST_PREDICATES,
    GatewayRoute,
    canonical_host,
    canonical_path,
    from_record,
    gateway_route,
    record_of,
    ties,
)
from traffic_cop_middleware.errors import ConfigurationError


def test_a_route_of_few_words() -> None:
    route = gateway_route("billing", "/billing/*", to="http://billing")
    assert route == GatewayRoute(name="billing", pattern="/billing/*", to="http://billing")
    assert (route.methods, route.hosts, route.headers, route.weight, route.priority) == (None, (), (), 1, 0)


def test_what_is_written_comes_into_one_form() -> None:
    route = gateway_route(
        "r",
        "/caf\u00e9/%61%3a/{id}/*",
        to=None,
        methods=["get", "POST"],
        hosts=["WWW.Example.com.:8080", "*.b.example", "[0:0::1]:80", "www.example.com"],
        headers={"X-Canary": b"\xe9", "Accept": "*"},
        query=[("z", "1"), ("a", "*")],
        session={"plan": "pro", "beta": True},
    )
    assert route.pattern == "/caf%C3%A9/a%3A/{id}/*"
    assert route.methods == {"GET", "POST"}
    assert route.hosts == ("*.b.example", "[::1]", "www.example.com")
    assert route.headers == (("accept", "*"), ("x-canary", "\u00e9"))
    assert route.query == (("a", "*"), ("z", "1"))
    assert route.session == (("beta", True), ("plan", "pro"))
    assert gateway_route("r", "/", to=None, methods="get", hosts="a.example").methods == {"GET"}


def test_a_route_is_a_value() -> None:
    one, same = (gateway_route("r", "/a", to=["http://a"]) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != gateway_route("r", "/a", to=["http://b"])
    with pytest.raises(AttributeError):
        one.weight = 3  # type: ignore[misc]


PATTERNS = ["prefix/*", "", None, "/a/*/b", "/a*", "/{id}/{id}", "/{id}x", "/{id:int}", "/{}", "/a//b", "//", "/a/../b",
            "/.", "/%2e%2e/x", "/..%2fx", "/..;x", "/a%", "/a%0", "/a%00", "/a\\b", "/a?b=1", "/a#b", "/\ud800",
            "/" + "a" * 3000, "/a" * 101]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_that_can_match_nothing_is_refused(pattern: Any) -> None:
    with pytest.raises(ConfigurationError, match="route 'r': pattern="):
        gateway_route("r", pattern, to=None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"methods": []}, r"methods=\[\]: name at least one, or leave methods out"),
        ({"methods": ["GET", "a b"]}, "methods='a b': a method is a word"),
        ({"methods": [1]}, "methods=1: text"),
        ({"methods": 7}, "methods=7: text"),
        ({"hosts": "*"}, r"hosts='\*': .*Leave hosts out for any"),
        ({"hosts": "a.*.com"}, r"hosts='a\.\*\.com'"),
        ({"hosts": "*.[::1]"}, "hosts="),
        ({"hosts": "m\u00fcnchen.de"}, "'xn--' form"),
        ({"hosts": "http://a.example"}, "hosts='http://a.example'"),
        ({"hosts": "a..example"}, "hosts="),
        ({"hosts": "a.example:http"}, "hosts="),
        ({"hosts": "a" * 300}, "hosts="),
        ({"headers": {"x y": "1"}}, "headers='x y': a header's name"),
        ({"headers": {"x": "1\r\n"}}, "the value of 'x' is Latin-1 text"),
        ({"headers": {"x": " 1"}}, "without control characters or space around it"),
        ({"headers": {"x": "\u20ac"}}, "Latin-1"),
        ({"headers": {"x": 1}}, "headers=1"),
        ({"headers": [("X", "1"), ("x", "2")]}, "a name stands in it twice"),
        ({"headers": ["x"]}, "a mapping of names to values"),
        ({"headers": 5}, "a mapping of names to values"),
        ({"headers": {f"h{n}": "1" for n in range(33)}}, "33 names, and 32 is the most"),
        ({"query": {"": "1"}}, "query='': a name is text"),
        ({"query": {"a": 1}}, "query=1: the value of 'a' is the decoded text"),
        ({"query": {"a": "\ud800"}}, "query="),
        ({"session": {"plan": ["pro"]}}, r"session=\['pro'\]: the value of 'plan' is text, a number"),
        ({"session": {"plan": float("nan")}}, "session=nan"),
        ({"weight": -1}, "weight=-1: a whole number, 0 or more"),
        ({"weight": True}, "weight=True"),
        ({"weight": 0.5}, "weight=0.5"),
        ({"priority": "high"}, "priority='high': a whole number"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"route 'r': .*{message}|route 'r': {message}"):
        gateway_route("r", "/a", to=None, **wrong)


@pytest.mark.parametrize("name", ["", "a\nb", None, "x" * 201])
def test_a_route_needs_a_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name="):
        gateway_route(name, "/a", to=None)


def test_routes_tie_that_differ_in_name_weight_and_destination() -> None:
    one = gateway_route("a", "/a", to=1, session={"beta": True})
    assert ties(one, gateway_route("b", "/a", to=2, session={"beta": True}, weight=9))
    assert not ties(one, gateway_route("b", "/a", to=2, session={"beta": 1}))
    assert not ties(one, gateway_route("b", "/a", to=2))
    assert not ties(one, gateway_route("b", "/a", to=2, session={"beta": True}, methods="GET"))


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
names = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
unicode = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    pattern=st.sampled_from(["/", "/*", "/a/{id}/*", "/a%2Fb", "/caf\u00e9"]),
    methods=st.none() | st.sets(st.sampled_from(["GET", "PUT"]), min_size=1),
    hosts=st.sets(st.sampled_from(["a.example", "*.a.example", "[::1]"])),
    headers=st.dictionaries(names, st.sampled_from(["*", "", "1", "\u00e9"]), max_size=MOST_PREDICATES),
    query=st.dictionaries(unicode.filter(bool), unicode, max_size=MOST_PREDICATES),
    session=st.dictionaries(unicode.filter(bool), scalars, max_size=MOST_PREDICATES),
    weight=st.integers(0, 9),
    priority=st.integers(-3, 3),
)
def test_a_record_gives_the_route_back(pattern: str, **values: Any) -> None:
    route = gateway_route("r", pattern, to="x", **values)
    record = json.loads(json.dumps(record_of(route)))
    assert from_record(record, to="x") == route
    assert ties(from_record(record, to="y"), route)


def test_a_record_leaves_the_usual_out() -> None:
    assert record_of(gateway_route("r", "/a", to=object())) == {"name": "r", "pattern": "/a"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"name": "r", "pattern": "/a", "too": 1}, "has the key 'too'"),
        ({"name": "r", "pattern": "/a", "to": 1}, "has the key 'to'"),
        ({"name": "r"}, "has no 'pattern'"),
        ({"name": "r", "pattern": "a"}, "pattern='a'"),
    ],
)
def test_a_record_that_is_none_is_refused(record: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        from_record(record, to=None)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/%61dmin", b"/admin"),
        (b"/%41%2d%5F%7e%2E", b"/A-_~."),
        (b"/a%2fb", b"/a%2Fb"),
        (b"/%c3%a9", b"/%C3%A9"),
        (b"/%2561", b"/%2561"),
        (b"/a|b", b"/a%7Cb"),
        (b"//a//", b"//a//"),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/a/...", b"/a/..."),
        (b"/a.b/..c", b"/a.b/..c"),
    ],
)
def test_a_path_is_compared_in_one_form(raw: bytes, path: bytes) -> None:
    assert canonical_path(raw) == path


@pytest.mark.parametrize(
    "raw",
    [b"", b"*", b"a", b"http://a/b", b"/.", b"/..", b"/a/./b", b"/a/../b", b"/a/%2e%2e/b", b"/a/.%2E", b"/a/..%2fb",
     b"/a%2f..", b"/a/..;/b", b"/a/..%3bx/b", b"/a%5C..%5Cb", b"/a\\..\\b", b"/a\\b", b"/a b", b"/a\x00", b"/a%00",
     b"/\xc3\xa9", b"/a\x7f", b"/a%", b"/a%6", b"/a%6g", b"/a?b", b"/a#b"],
)  # fmt: skip
def test_a_path_that_servers_read_differently_is_no_routes(raw: bytes) -> None:
    assert canonical_path(raw) is None


@given(st.lists(st.sampled_from([b"/", b"a", b".", b"%2e", b"%2F", b"%61", b"%2561", b";", b"|", b"~"])))
@example([])
def test_the_form_of_a_path_is_its_own_form(pieces: list[bytes]) -> None:
    path = canonical_path(b"/" + b"".join(pieces))
    assert path is None or canonical_path(path) == path


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("API.Example.COM:8080", "api.example.com"),
        ("example.com.", "example.com"),
        ("example.com.:80", "example.com"),
        ("example.com:", "example.com"),
        ("[2001:DB8:0::1]:443", "[2001:db8::1]"),
        ("[::1]", "[::1]"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1", ""),
        ("[::1]x", ""),
        ("[nonsense]", ""),
        ("a:b", ""),
        ("\u212aelvin", ""),
        ("", ""),
        ("a" * 4000, ""),
    ],
)
def test_a_host_is_compared_in_one_form(host: str, found: str) -> None:
    assert canonical_host(host) == found
