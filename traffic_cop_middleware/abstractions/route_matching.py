"""Which gateway routes take a request, in order of precedence.

The order: the higher priority; an exact host, then a wildcard's (the longer first), then none; an exact path, then a
prefix (the longer first), then a pattern with parameters (more literal characters, then more segments, then one that
ends over one that goes on with "*"); methods over none; more headers; more query parameters; more session predicates;
the name.

Theory of operation. A table is a trie. From a host's `Bucket` an exact path leads to its place in one step; prefixes
and patterns go by segment, in two tries. From there on, the steps are what a route asks of headers and query, each a
`Fact` that holds of a request or does not: a look-up follows the request's facts and never walks over routes that ask
for others. Routes stand where their steps end, sorted. The places of a path are visited in order of precedence, and no
further than something of a higher priority may stand.

A table never changes. `changed` copies what lies on the way to a changed route and shares the rest with the old table:
a node belongs to the change that made it (`made_by`), and only that one writes to it. Maps with many keys are `Wide`,
in parts, of which a change copies one. Invariant: a table has the nodes that its routes' steps need and no others, so
that it answers as one built anew; only `top` and `deepest` may stay too high after a removal, and cost a look more.

Not flat: routes at one place that differ in methods or session predicates alone are walked over.
"""

from __future__ import annotations

import gc
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from urllib.parse import unquote, unquote_to_bytes

from traffic_cop_middleware.abstractions.gateway_routes import (
    PLAIN,
    PRESENT,
    GatewayRoute,
    canonical_host,
    canonical_path,
    ties,
)
from traffic_cop_middleware.abstractions.route_trie import (
    LOWEST,
    NOBODY,
    NOTHING,
    Bucket,
    Fact,
    Map,
    Node,
    Rank,
    Ranked,
    Step,
    put,
    standing,
)
from traffic_cop_middleware.errors import ConfigurationError

PREFIXES: Step = ("prefixes", None)
PATTERNS: Step = ("patterns", None)
PARAM: Step = ("param", None)
REST: Step = ("rest", None)
EXACT: Rank = (0,)
MANY = 1000
"""Puts from which on a change keeps the garbage collector off."""


class GatewayTable:
    """The routes of a gateway, ready to be looked up.

    Raises:
        ConfigurationError: two routes have one name.
    """

    __slots__ = (
        "_anywhere",
        "_first",
        "_has_hosts",
        "_headers",
        "_hosts",
        "_parameters",
        "_presences",
        "_routes",
        "_wildcards",
    )

    def __init__(self, routes: Iterable[GatewayRoute] = ()) -> None:
        self._routes: Map[str, GatewayRoute] = {}
        self._hosts: Map[str, Bucket] = {}
        self._wildcards: Map[str, Bucket] = {}
        self._anywhere: tuple[Bucket, ...] = ()
        self._first = -LOWEST
        self._presences = 0
        # How many routes ask for each header and query parameter: what nobody asks for is not looked at.
        self._headers: Map[bytes, int] = {}
        self._parameters: Map[bytes, int] = {}
        puts: dict[str, GatewayRoute] = {}
        for route in routes:
            if puts.setdefault(route.name, route) is not route:
                raise ConfigurationError(f"name={route.name!r}: two routes have it; give each a name of its own")
        self._change(puts)

    def __len__(self) -> int:
        return len(self._routes)

    def __iter__(self) -> Iterator[GatewayRoute]:
        """In no order."""
        return iter(self._routes.values())

    def named(self, name: str) -> GatewayRoute | None:
        return self._routes.get(name)

    def changed(self, puts: Mapping[str, GatewayRoute | None]) -> GatewayTable:
        """A table with these routes put in place of those of the same names; None takes one out, if it is there.

        Raises:
            ConfigurationError: a route stands under a name that is not its own.
        """
        for name, route in puts.items():
            if route is not None and route.name != name:
                raise ConfigurationError(f"puts[{name!r}]: the route's name is {route.name!r}; put it under that")
        table = GatewayTable.__new__(GatewayTable)
        table._anywhere, table._first, table._presences = self._anywhere, self._first, self._presences
        table._routes, table._hosts, table._wildcards = self._routes.copy(), self._hosts.copy(), self._wildcards.copy()
        table._headers, table._parameters = self._headers.copy(), self._parameters.copy()
        table._change(puts)
        return table

    def find(
        self, method: str, host: str, raw_path: bytes, headers: Iterable[tuple[bytes, bytes]], query: bytes
    ) -> tuple[GatewayRoute, ...]:
        """The candidates for a request, in order of precedence; empty when no route takes it.

        Everything holds of each but perhaps its session predicates, which the caller decides. The last is the first
        that has none, with those that tie with it (`ties`): one of these, by weight. `method`, `query` and the headers
        are as ASGI gives them, `host` as the Host header. `gateway_routes` says which paths are no route's.
        """
        plain = raw_path[:1] == b"/" and not raw_path.translate(None, PLAIN)
        path = raw_path if plain else canonical_path(raw_path)
        if path is None:
            return ()
        found: list[Ranked] = []
        facts: list[Fact] | None = None
        settled, alone = LOWEST, True
        for bucket in self._buckets(host) if self._has_hosts else self._anywhere:
            if bucket.top <= settled:
                continue
            place = bucket.exact.get(path)
            further: list[Node] | None = None
            while True:
                if place is None:
                    if further is None:
                        further = bucket.prefixed(path)
                    if not further:
                        break
                    place = further.pop()
                if place is bucket or place.facts is not NOTHING:
                    if facts is None:
                        facts = self._facts(headers, query)
                    if place is bucket:
                        ranked = [each for node in bucket.patterned(path) for each in standing(node, facts)]
                    else:
                        ranked = standing(place, facts)
                else:
                    ranked = place.routes
                if len(ranked) == 1:
                    methods = ranked[0][-1].methods
                    if methods is not None and method not in methods:
                        ranked = NOBODY
                elif ranked:
                    ranked = [each for each in ranked if each[-1].methods is None or method in each[-1].methods]
                    ranked.sort()
                    ranked = _cut(ranked)
                if ranked:
                    last = ranked[-1]
                    if not last[-1].session:
                        if not found and last[0] <= self._first:
                            return (last[-1],) if len(ranked) == 1 else tuple([each[-1] for each in ranked])
                        settled = max(settled, -last[0])
                    alone = not found
                    found = found + ranked
                    if bucket.top <= settled:
                        break
                place = None
        if not alone:
            found.sort(key=itemgetter(0))  # stable: all else is in order
            found = _cut(list({each[6]: each for each in found}.values()))  # a route of several hosts once
        return tuple([each[-1] for each in found])

    def _buckets(self, host: str) -> list[Bucket]:
        """The buckets of a request's host, in order of precedence."""
        bucket = self._hosts.get(host)  # as browsers send it
        if bucket is None:
            host = canonical_host(host)
            bucket = self._hosts.get(host)
        found = [] if bucket is None else [bucket]
        if self._wildcards:
            at = host.find(".", 1)
            while at > 0:
                bucket = self._wildcards.get(host[at:])
                if bucket is not None:
                    found.append(bucket)
                at = host.find(".", at + 1)
        found += self._anywhere
        return found

    def _facts(self, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> list[Fact]:
        """What holds of a request, of all that some route asks for."""
        facts: list[Fact] = []
        wanted = self._headers
        if wanted:
            for name, value in headers:
                if name in wanted:
                    facts.append((name, value))
        wanted = self._parameters
        if wanted and query:
            encoded = b"%" in query or b"+" in query
            seen = set()
            for pair in query.split(b"&"):
                name, _, value = pair.partition(b"=")
                if encoded:
                    name, value = _form_decoded(name), _form_decoded(value)
                if name in wanted and name not in seen:
                    seen.add(name)
                    facts.append((b"?", name, value))
        if self._presences:  # somebody asks whether a thing is there
            facts += [(*fact[:-1], None) for fact in facts]
        return facts if len(facts) < 2 else list(dict.fromkeys(facts))

    def _change(self, puts: Mapping[str, GatewayRoute | None]) -> None:
        """Write to this table, which nobody has seen yet."""
        pause = len(puts) > MANY and gc.isenabled()
        if pause:  # a million objects that all stay: searching them for garbage took four fifths of the time
            gc.disable()
        try:
            self._write(puts, object())
        finally:
            if pause:
                gc.enable()

    def _write(self, puts: Mapping[str, GatewayRoute | None], made_by: object) -> None:
        for name in puts:  # all of these first: they are searched for in lists that are still sorted
            old = self._routes.get(name)
            if old is not None:
                del self._routes[name]
                self._count(old, -1)
                for host in old.hosts or ("",):
                    self._take_out(old, host, made_by)
        crowded: dict[int, Node] = {}
        for name, route in puts.items():
            if route is not None:
                self._routes = put(self._routes, name, route)
                self._count(route, 1)
                for host in route.hosts or ("",):
                    node = self._put_in(route, host, made_by)
                    if len(node.routes) > 1:
                        crowded[id(node)] = node
        for node in crowded.values():
            node.routes.sort()
        self._has_hosts = len(self._hosts) + len(self._wildcards) > 0

    def _own(self, host: str, made_by: object) -> Bucket:
        """The bucket of a route's host ("" is any), to be written to."""
        if not host:
            bucket = self._anywhere[0] if self._anywhere else None
        else:
            bucket = self._wildcards.get(host[1:]) if host[0] == "*" else self._hosts.get(host)
        if bucket is None or bucket.made_by is not made_by:
            bucket = Bucket(made_by) if bucket is None else bucket.copied(made_by)
            if not host:
                self._anywhere = (bucket,)
            elif host[0] == "*":
                self._wildcards = put(self._wildcards, host[1:], bucket)
            else:
                self._hosts = put(self._hosts, host, bucket)
        return bucket

    def _put_in(self, route: GatewayRoute, host: str, made_by: object) -> Node:
        bucket = self._own(host, made_by)
        rank, steps = _way(route)
        bucket.top = max(bucket.top, route.priority)
        self._first = min(self._first, -route.priority)
        bucket.deepest = max(bucket.deepest, len(steps) - 1)
        node: Node = bucket
        for step in steps:
            node = node.own(step, made_by)
        if node.routes is NOBODY:
            node.routes = []
        node.routes.append(_ranked(route, rank))
        return node

    def _take_out(self, route: GatewayRoute, host: str, made_by: object) -> None:
        node: Node = self._own(host, made_by)
        rank, steps = _way(route)
        trail = []
        for step in steps:
            trail.append((node, step))
            node = node.own(step, made_by)
        del node.routes[bisect_left(node.routes, _ranked(route, rank))]
        while trail and node.is_empty():
            node, step = trail.pop()
            node.drop(step)
        if trail or not node.is_empty():
            return
        if not host:
            self._anywhere = ()
        elif host[0] == "*":
            del self._wildcards[host[1:]]
        else:
            del self._hosts[host]

    def _count(self, route: GatewayRoute, by: int) -> None:
        for fact in _asked(route):
            self._presences += by if fact[-1] is None else 0
            if len(fact) == 2:
                self._headers = _counted(self._headers, fact[0], by)
            else:
                self._parameters = _counted(self._parameters, fact[1], by)


def params(route: GatewayRoute, raw_path: bytes) -> dict[str, str]:
    """What the parameters of the route's pattern stand for in a path that it took, decoded ("%2F" too)."""
    if "{" not in route.pattern:
        return {}
    segments = (canonical_path(raw_path) or b"").decode().split("/")
    return {
        name[1:-1]: unquote(segment)
        for name, segment in zip(route.pattern.split("/"), segments, strict=False)
        if name[:1] == "{"
    }


def _cut(ranked: list[Ranked]) -> list[Ranked]:
    """Sorted routes up to the first without session predicates, and those that tie with it."""
    for at, each in enumerate(ranked, 1):
        if not each[-1].session:
            return ranked[:at] + [other for other in ranked[at:] if ties(each[-1], other[-1])]
    return ranked


def _way(route: GatewayRoute) -> tuple[Rank, list[Step]]:
    """How the route's pattern ranks, and the steps from a bucket to where it stands."""
    path = route.pattern.encode()
    rank = EXACT
    steps: list[Step]
    if b"{" in path:
        segments = path[1:].split(b"/")
        goes_on = segments[-1] == b"*"
        if goes_on:
            segments.pop()
        literals = [segment for segment in segments if segment[:1] != b"{"]
        rank = (2, -sum(map(len, literals)), -len(segments), goes_on)
        steps = [PATTERNS, *(PARAM if segment[:1] == b"{" else ("below", segment) for segment in segments)]
        if goes_on:
            steps.append(REST)
    elif path[-2:] == b"/*":
        rank = (1, -len(path))
        steps = [PREFIXES, *(("below", segment) for segment in path[1:-2].split(b"/") if segment)]
    else:
        steps = [("exact", path)]
    if route.headers or route.query:
        steps += [("facts", fact) for fact in _asked(route)]
    return rank, steps


def _asked(route: GatewayRoute) -> list[Fact]:
    """The facts that a route asks for, always in the same order."""
    asked: list[Fact] = [
        (name.encode(), None if value == PRESENT else value.encode("latin-1")) for name, value in route.headers
    ]
    asked += [(b"?", name.encode(), None if value == PRESENT else value.encode()) for name, value in route.query]
    return asked


def _ranked(route: GatewayRoute, rank: Rank) -> Ranked:
    counts = (-len(route.headers), -len(route.query), -len(route.session))
    return (-route.priority, rank, route.methods is None, *counts, route.name, route)


def _counted(counts: Map[bytes, int], name: bytes | None, by: int) -> Map[bytes, int]:
    if name is None:
        return counts
    count = (counts.get(name) or 0) + by
    if count:
        return put(counts, name, count)
    del counts[name]
    return counts


def _form_decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text
