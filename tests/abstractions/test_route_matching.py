"""The table agrees with a matcher that tries every route, and goes on to do so when it is changed."""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions import route_trie
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute, gateway_route
from traffic_cop_middleware.abstractions.route_matching import GatewayTable, params
from traffic_cop_middleware.errors import ConfigurationError


class Asked(NamedTuple):
    method: str = "GET"
    host: str = "a.example.com"
    raw_path: bytes = b"/"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    query: bytes = b""


# The reference: every rule as the documentation has it, one route after the other.


def plain_segments(raw_path: bytes) -> list[str] | None:
    """The segments of a path without dot segments, unreserved characters decoded; what the tests below send only."""
    segments = []
    for raw in raw_path.decode().split("/")[1:]:
        segment, rest = "", raw
        while rest:
            if rest[0] == "%":
                character = chr(int(rest[1:3], 16))
                unreserved = character in string.ascii_letters + string.digits + "-._~"
                segment += character if unreserved else rest[:3].upper()
                rest = rest[3:]
            else:
                segment, rest = segment + rest[0], rest[1:]
        if segment in (".", ".."):
            return None
        segments.append(segment)
    return segments


def host_rank(hosts: Iterable[str], asked: str) -> tuple[int, int] | None:
    """The best of the route's hosts; None when it has some and none fits."""
    name = asked.lower().rsplit(":", 1)[0] if ":" in asked else asked.lower()
    name = name.removesuffix(".")
    ranks = []
    for host in hosts:
        if host == name:
            ranks.append((0, 0))
        elif host.startswith("*.") and name.endswith(host[1:]) and len(name) > len(host[1:]):
            ranks.append((1, -len(host)))
    if not list(hosts):
        return (2, 0)
    return min(ranks, default=None)


def path_rank(pattern: str, path: list[str]) -> tuple[Any, ...] | None:
    wanted = pattern[1:].split("/")
    if "{" not in pattern and wanted[-1] != "*":
        return (0,) if wanted == path else None
    goes_on = wanted[-1] == "*"
    if goes_on:
        wanted.pop()
    if len(path) < len(wanted) or (len(path) > len(wanted) and not goes_on):
        return None
    for want, have in zip(wanted, path, strict=False):
        if not (have if want.startswith("{") else want == have):
            return None
    if "{" not in pattern:
        return (1, -len(pattern))
    literals = "".join(want for want in wanted if not want.startswith("{"))
    return (2, -len(literals), -len(wanted), goes_on)


def holds(route: GatewayRoute, asked: Asked) -> bool:
    if route.methods is not None and asked.method not in route.methods:
        return False
    for name, value in route.headers:
        values = [v.decode("latin-1") for n, v in asked.headers if n.decode() == name]
        if not values or (value != "*" and value not in values):
            return False
    for name, value in route.query:
        pairs = [pair.partition("=")[::2] for pair in asked.query.decode().split("&")]
        values = [unquote_plus(v) for n, v in pairs if unquote_plus(n) == name]
        if not values or (value != "*" and value != values[0]):
            return False
    return True


def find_plainly(routes: Iterable[GatewayRoute], asked: Asked) -> list[GatewayRoute]:
    path = plain_segments(asked.raw_path)
    if path is None:
        return []
    ranked = []
    for route in routes:
        host, place = host_rank(route.hosts, asked.host), path_rank(route.pattern, path)
        if host is not None and place is not None and holds(route, asked):
            counts = (-len(route.headers), -len(route.query), -len(route.session))
            ranked.append(((-route.priority, host, place, route.methods is None, *counts, route.name), route))
    ranked.sort(key=lambda each: each[0])
    found: list[GatewayRoute] = []
    last: GatewayRoute | None = None
    for _, route in ranked:
        if last is None:
            found.append(route)
            last = None if route.session else route
        elif replace(route, name=last.name, weight=last.weight, to=last.to) == last:
            found.append(route)
    return found


# Small alphabets, so that most requests find something.

SEGMENTS = st.sampled_from(["a", "b", "%61", "%2F", "a%2fb", "~", ""])
LITERAL = st.sampled_from(["a", "b", "a%2Fb", "~"])


@st.composite
def patterns(draw: st.DrawFn) -> str:
    segments = draw(st.lists(LITERAL | st.just("{}"), max_size=4))
    names = iter("wxyz")
    segments = [f"{{{next(names)}}}" if segment == "{}" else segment for segment in segments]
    return "/" + "/".join([*segments, *draw(st.sampled_from([["*"], [""], []]))])


ROUTES = st.builds(
    gateway_route,
    st.sampled_from([f"r{number}" for number in range(40)]),
    patterns(),
    to=st.just(None),
    methods=st.sampled_from([None, None, ["GET"], ["GET", "PUT"]]),
    hosts=st.sets(
        st.sampled_from(["a.example.com", "b.a.example.com", "*.a.example.com", "*.example.com", "*.com"]), max_size=2
    ),
    headers=st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2", "*"]), max_size=2),
    query=st.dictionaries(st.sampled_from(["p", "q"]), st.sampled_from(["1", "a b", "*"]), max_size=2),
    session=st.dictionaries(st.sampled_from(["s", "t"]), st.just("1"), max_size=2),
    weight=st.integers(0, 2),
    priority=st.sampled_from([0, 0, 0, 0, 1, -1]),
)
# Half of the tables have routes without predicates only, so that the paths decide.
PLAIN_ROUTES = st.builds(
    gateway_route, st.sampled_from([f"r{number}" for number in range(40)]), patterns(), to=st.just(None)
)
TABLES = st.lists(ROUTES, max_size=30, unique_by=lambda route: route.name) | st.lists(
    PLAIN_ROUTES, max_size=30, unique_by=lambda route: route.name
)
REQUESTS = st.builds(
    Asked,
    st.sampled_from(["GET", "PUT", "POST"]),
    st.sampled_from(
        ["a.example.com", "A.Example.COM:80", "b.a.example.com", "c.b.a.example.com.", "z.example.com", "example.com"]
    ),
    st.lists(SEGMENTS, min_size=1, max_size=5).map(lambda segments: ("/" + "/".join(segments)).encode()),
    st.lists(st.tuples(st.sampled_from([b"x", b"y"]), st.sampled_from([b"1", b"2", b"3"])), max_size=3).map(tuple),
    st.sampled_from([b"", b"p=1", b"%70=a+b&p=1", b"q&p=a%20b", b"q=1&&p=2&p=1"]),
)


@settings(max_examples=400, deadline=None)
@given(routes=TABLES, requests=st.lists(REQUESTS, min_size=1, max_size=10))
def test_a_table_finds_what_trying_every_route_finds(routes: list[GatewayRoute], requests: list[Asked]) -> None:
    table = GatewayTable(routes)
    assert sorted(route.name for route in table) == sorted(route.name for route in routes)
    for asked in requests:
        assert list(table.find(*asked)) == find_plainly(routes, asked)


@settings(max_examples=150, deadline=None)
@given(
    routes=TABLES,
    changes=st.lists(st.lists(ROUTES | st.sampled_from([f"r{n}" for n in range(40)]), max_size=8), max_size=5),
    requests=st.lists(REQUESTS, min_size=1, max_size=6),
    narrow=st.sampled_from([1, 3, 1024]),
)
def test_a_changed_table_is_as_one_built_anew(
    routes: list[GatewayRoute], changes: list[list[GatewayRoute | str]], requests: list[Asked], narrow: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(route_trie, "NARROW", narrow)
        content = {route.name: route for route in routes}
        table = GatewayTable(routes)
        seen = []
        for change in changes:
            puts = {each if isinstance(each, str) else each.name: None if isinstance(each, str) else each
                    for each in change}  # fmt: skip
            table = table.changed(puts)
            content = {name: route for name, route in {**content, **puts}.items() if route is not None}
            assert len(table) == len(content)
            assert {route.name: route for route in table} == content
            assert all(table.named(name) is puts[name] for name in puts)
            seen.append((table, list(content.values())))
        for earlier, held in seen:  # each still as it was, whatever was made of it
            for asked in requests:
                assert list(earlier.find(*asked)) == find_plainly(held, asked)
        emptied = table.changed(dict.fromkeys(content))
        assert len(emptied) == 0
        assert not any(emptied.find(*asked) for asked in requests)
        # Nothing is left over.
        assert (emptied._anywhere, len(emptied._hosts), len(emptied._wildcards)) == ((), 0, 0)
        assert (len(emptied._headers), len(emptied._parameters), emptied._presences) == (0, 0, 0)


@settings(max_examples=200)
@given(routes=TABLES, asked=REQUESTS, random=st.randoms(use_true_random=False))
def test_the_order_of_writing_does_not_matter(routes: list[GatewayRoute], asked: Asked, random: Any) -> None:
    shuffled = random.sample(routes, len(routes))
    assert GatewayTable(routes).find(*asked) == GatewayTable(shuffled).find(*asked)


@settings(max_examples=300)
@given(
    path=st.lists(st.sampled_from("ab-~_19"), min_size=1, max_size=6).map("".join),
    encoded=st.lists(st.sampled_from(["%{:02x}", "%{:02X}", ""]), min_size=6, max_size=6),
    pattern=st.sampled_from(["/{}", "/{}/*", "/{{id}}/{}"]),
)
def test_an_encoded_path_reaches_the_same_route(path: str, encoded: list[str], pattern: str) -> None:
    other = "".join(
        form.format(ord(character)) if form else character for character, form in zip(path, encoded, strict=False)
    )
    table = GatewayTable([gateway_route("closed", pattern.format(path), to=1), gateway_route("open", "/{x}/*", to=2)])
    asked = "/7/" if "{{" in pattern else "/"
    assert names(table, asked + path) == names(table, asked + other) == ["closed"]


def names(table: GatewayTable, path: str = "/", **asked: Any) -> list[str]:
    return [route.name for route in table.find(*Asked(raw_path=path.encode("latin-1"), **asked))]


def table_of(**routes: Any) -> GatewayTable:
    """Routes by name, each a pattern or kwargs of `gateway_route`."""
    given = {name: {"pattern": each} if isinstance(each, str) else {"pattern": "/*", **each}
             for name, each in routes.items()}  # fmt: skip
    return GatewayTable(gateway_route(name, to=name, **each) for name, each in given.items())


PRECEDENCE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("a priority over all else", {"priority": 1}, {"pattern": "/a/b", "hosts": "a.example.com", "methods": "GET"}),
    ("no priority over a negative one", {}, {"pattern": "/a/b", "priority": -1}),
    ("an exact host over a wildcard", {"hosts": "a.example.com"}, {"hosts": "*.example.com", "pattern": "/a/b"}),
    ("a longer wildcard over a shorter", {"hosts": "*.example.com"}, {"hosts": "*.com", "pattern": "/a/b"}),
    ("a wildcard over no host", {"hosts": "*.com"}, {"pattern": "/a/b"}),
    ("the best of several hosts", {"hosts": ["*.com", "a.example.com"]}, {"hosts": "*.example.com"}),
    ("an exact path over a prefix", {"pattern": "/a/b"}, {"pattern": "/a/b/*", "methods": "GET"}),
    ("a prefix over a pattern", {"pattern": "/*"}, {"pattern": "/a/{x}", "methods": "GET"}),
    ("a longer prefix over a shorter", {"pattern": "/a/*"}, {"pattern": "/*", "methods": "GET"}),
    ("more literal characters", {"pattern": "/a/{x}"}, {"pattern": "/{x}/{y}", "methods": "GET"}),
    ("more segments", {"pattern": "/{x}/{y}"}, {"pattern": "/{x}/*", "methods": "GET"}),
    ("an end over going on", {"pattern": "/{x}/b"}, {"pattern": "/{x}/b/*", "methods": "GET"}),
    ("a method over none", {"methods": "GET"}, {"headers": {"x": "1", "y": "*"}}),
    ("more headers", {"headers": {"x": "1", "y": "*"}}, {"headers": {"x": "1"}, "query": {"p": "1", "q": "*"}}),
    ("more query parameters", {"query": {"p": "1", "q": "*"}}, {"query": {"p": "1"}, "session": {"s": 1}}),
    ("a session over none", {"session": {"s": 1}}, {}),
    ("more of a session", {"session": {"s": 1, "t": 1}}, {"session": {"s": 1}}),
]


@pytest.mark.parametrize(("rule", "first", "second"), PRECEDENCE, ids=[rule for rule, _, _ in PRECEDENCE])
def test_precedence(rule: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    # The names are against it: they decide last.
    table = table_of(z=first, a=second)
    asked = {"path": "/a/b", "headers": ((b"x", b"1"), (b"y", b"2")), "query": b"p=1&q=2"}
    assert names(table, **asked)[0] == "z", rule
    assert names(table.changed({"z": None}), **asked) == ["a"], "both fit the request"


def test_the_name_decides_last() -> None:
    table = table_of(b={"pattern": "/{x}/a"}, a={"pattern": "/a/{x}"}, c={"pattern": "/{y}/a"})
    assert names(table, "/a/a") == ["a"]


def test_candidates_end_with_the_first_that_needs_no_session() -> None:
    table = table_of(
        pro={"session": {"plan": "pro"}},
        beta={"session": {"beta": True}, "methods": "GET"},
        rest={},
        early={"session": {"x": 1}, "priority": -1},
    )
    assert names(table) == ["beta", "pro", "rest"]
    assert names(table, method="PUT") == ["pro", "rest"]


def test_canaries_come_as_a_group() -> None:
    table = table_of(
        stable={"weight": 9},
        canary={"weight": 1},
        off={"weight": 0},
        get={"methods": "GET"},
        other={"priority": -1},
    )
    assert names(table, method="PUT") == ["canary", "off", "stable"]
    assert names(table) == ["get"]
    # Both name a method and so rank alike, but they do not take the same requests.
    table = table_of(a={"methods": "GET"}, b={"methods": ["GET", "PUT"]}, c={"methods": "GET"})
    assert names(table) == ["a", "c"]


def test_a_prefix_goes_by_segments() -> None:
    table = table_of(r="/prefix/*")
    assert all(names(table, path) == ["r"] for path in ("/prefix", "/prefix/", "/prefix/x", "/prefix//", "/prefix/x/y"))
    assert not any(names(table, path) for path in ("/prefixed", "/", "/prefi", "//prefix", "/Prefix", "/prefix%2Fx"))
    assert names(table_of(r="/*"), "/") == ["r"]


def test_a_trailing_slash_counts() -> None:
    table = table_of(without="/a", slash="/a/", param="/b/{x}", param_slash="/b/{x}/")
    found = {path: names(table, path) for path in ("/a", "/a/", "/a//", "/b/1", "/b/1/", "/b/", "/b")}
    assert found == {"/a": ["without"], "/a/": ["slash"], "/a//": [], "/b/1": ["param"], "/b/1/": ["param_slash"],
                     "/b/": [], "/b": []}  # fmt: skip


@pytest.mark.parametrize(
    "path", ["", "*", "a", "http://a/b", "/..", "/a/../b", "/a/%2E%2e/b", "/..;/a", "/..%2fa", "/\\a", "/a b", "/\xe9",
             "/%00", "/%", "/a?b", "/\x00"]
)  # fmt: skip
def test_what_servers_read_differently_is_never_forwarded(path: str) -> None:
    assert names(table_of(everything="/*", pattern="/{x}/*", exact="/a"), path) == []


def test_a_wildcard_is_for_one_label_or_more() -> None:
    table = table_of(r={"hosts": "*.example.com"})
    found = [host for host in ("a.example.com", "a.b.example.com", "example.com", ".example.com", "aexample.com", "")
             if names(table, host=host)]  # fmt: skip
    assert found == ["a.example.com", "a.b.example.com"]


def test_hosts_of_all_forms() -> None:
    table = table_of(six={"hosts": "[::1]"}, four={"hosts": "127.0.0.1"}, name={"hosts": "a.example"}, any={})
    assert names(table, host="[0:0:0::1]:80") == ["six"]
    assert names(table, host="127.0.0.1:80") == ["four"]
    assert names(table, host="A.example.:443") == ["name"]
    assert names(table, host="a.example:x") == names(table, host="") == names(table, host="[") == ["any"]


def test_any_line_of_a_header_and_the_first_of_a_parameter() -> None:
    table = table_of(h={"headers": {"x": "2"}}, q={"query": {"p": "a b"}}, any={})
    assert names(table, headers=((b"x", b"1"), (b"x", b"2"))) == ["h"]
    assert names(table, query=b"z=1&p=a%20b&p=c") == names(table, query=b"%70=a+b") == ["q"]
    assert names(table, query=b"p=c&p=a+b") == ["any"]
    assert names(table_of(r={"query": {"p": ""}}), query=b"p") == ["r"]


def test_headers_are_not_looked_at_where_no_route_asks_for_them() -> None:
    class Untouchable:
        def __iter__(self) -> Any:
            raise AssertionError

    table = table_of(r="/a", q={"pattern": "/q", "query": {"p": "1"}})
    assert [route.name for route in table.find("GET", "h", b"/a", Untouchable(), b"p=1")] == ["r"]  # type: ignore[arg-type]
    assert [route.name for route in table.find("GET", "h", b"/q", Untouchable(), b"p=1")] == ["q"]  # type: ignore[arg-type]


def test_parameters_are_read_on_demand() -> None:
    route = gateway_route("r", "/users/{id}/{what}/*", to=None)
    assert params(route, b"/users/7/a%2Fb%C3%A9/x/y") == {"id": "7", "what": "a/b\u00e9"}
    assert params(gateway_route("r", "/users/*", to=None), b"/users/7") == {}


def test_a_path_of_many_segments_costs_no_more() -> None:
    table = table_of(r="/{a}/*", s="/a/b/*")
    assert names(table, "/a" + "/b" * 100_000) == ["s"]
    assert names(table, "/" * 100_000) == []


def test_wide_tables_answer_alike() -> None:
    count = 3000
    kinds: dict[str, Any] = {
        "exact": lambda n: ({"pattern": f"/p{n}"}, {"path": f"/p{n}"}),
        "prefix": lambda n: ({"pattern": f"/p{n}/*"}, {"path": f"/p{n}/x"}),
        "host": lambda n: ({"hosts": f"h{n}.example"}, {"host": f"h{n}.example"}),
        "wildcard": lambda n: ({"hosts": f"*.h{n}.example"}, {"host": f"x.h{n}.example"}),
        "header": lambda n: ({"headers": {"x": f"{n}"}}, {"headers": ((b"x", b"%d" % n),)}),
        "names": lambda n: ({"headers": {f"x{n}": "*"}}, {"headers": ((b"x%d" % n, b""),)}),
        "group": lambda n: ({"session": {"n": n}}, {}),
    }
    for kind, make in kinds.items():
        table = table_of(**{f"r{n}": make(n)[0] for n in range(count)})
        sampled = [0, 1, 1500, count - 1]
        if kind != "group":
            assert [names(table, **make(n)[1]) for n in sampled] == [[f"r{n}"] for n in sampled]
        less = table.changed({f"r{n}": None for n in range(0, count, 2)})
        assert len(less) == count // 2
        assert len(table) == count
        if kind != "group":
            assert [names(table, **make(n)[1]) for n in sampled] == [[f"r{n}"] for n in sampled]
        if kind == "group":
            assert len(names(less)) == count // 2
        else:
            assert [names(less, **make(n)[1]) for n in sampled] == [[f"r{n}"] if n % 2 else [] for n in sampled]
        assert len(less.changed({f"r{n}": None for n in range(count)})) == 0


def test_two_routes_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="name='r': two routes have it"):
        GatewayTable([gateway_route("r", "/a", to=1), gateway_route("r", "/b", to=2)])
    with pytest.raises(ConfigurationError, match="the route's name is 'r'"):
        GatewayTable().changed({"x": gateway_route("r", "/a", to=1)})
