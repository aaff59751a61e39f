"""The trie that gateway routes stand in.

A node belongs to the change that made it (`made_by`), and only that one writes to it: a change copies what lies on its
way and shares the rest with the table before it. Maps with many keys are `Wide`, in parts, of which a change copies
one. What it is for, and which steps lead where, is in `route_matching.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

from traffic_cop_middleware.abstractions.gateway_routes import MOST, GatewayRoute

K = TypeVar("K")
V = TypeVar("V")

Fact = tuple[bytes | None, ...]
"""(header, value) or ("?", query parameter, value); the value None says that it is there."""
Step = tuple[str, Hashable]
"""The slot of a node, and the key in the map that it holds; None where it holds one node."""
Rank = tuple[int, ...]
Ranked = tuple[int, Rank, bool, int, int, int, str, GatewayRoute]
"""A route behind what sorts it among those of one host. Names differ, so that no two routes are compared."""

LOWEST = -MOST - 1
NARROW = 1024
"""Keys that a plain dict has at the most: copying it takes a few microseconds."""


class Wide(Generic[K, V]):
    """A map in parts. A copy shares them, and copies one when it first writes to it."""

    __slots__ = ("_mask", "_own", "_parts", "_size")

    def __init__(self, content: Mapping[K, V] | Wide[K, V], parts: int = 64) -> None:
        self._fill(content.items(), parts)

    def _fill(self, items: Iterable[tuple[K, V]], parts: int) -> None:
        self._mask = parts - 1
        self._parts: list[dict[K, V]] = [{} for _ in range(parts)]
        self._own = set(range(parts))
        self._size = 0
        for key, value in items:
            self._parts[hash(key) & self._mask][key] = value
            self._size += 1

    def get(self, key: K) -> V | None:
        part = self._parts[hash(key) & self._mask]
        return part.get(key)

    def __contains__(self, key: K) -> bool:
        return key in self._parts[hash(key) & self._mask]

    def __len__(self) -> int:
        return self._size

    def items(self) -> Iterator[tuple[K, V]]:
        return (pair for part in self._parts for pair in part.items())

    def values(self) -> Iterator[V]:
        return (value for part in self._parts for value in part.values())

    def copy(self) -> Wide[K, V]:
        twin: Wide[K, V] = Wide.__new__(Wide)
        twin._mask, twin._size, twin._parts, twin._own = self._mask, self._size, self._parts.copy(), set()
        return twin

    def _writable(self, key: K) -> dict[K, V]:
        at = hash(key) & self._mask
        if at not in self._own:
            self._parts[at] = self._parts[at].copy()
            self._own.add(at)
        return self._parts[at]

    def __setitem__(self, key: K, value: V) -> None:
        part = self._writable(key)
        self._size += key not in part
        part[key] = value
        if self._size > 4 * len(self._parts) ** 2:  # a part would have become longer than what it saves
            self._fill(list(self.items()), 4 * len(self._parts))

    def __delitem__(self, key: K) -> None:
        del self._writable(key)[key]
        self._size -= 1


Map = dict[K, V] | Wide[K, V]

NOTHING: dict[Any, Any] = {}
NOBODY: list[Ranked] = []
"""What all nodes share that have no map or routes yet. Never written to."""


def put(content: Map[K, V], key: K, value: V) -> Map[K, V]:
    """The map with the key: itself, or another when it was `NOTHING` or becomes too large."""
    if content is NOTHING:
        return {key: value}
    content[key] = value
    return Wide(content) if len(content) > NARROW and isinstance(content, dict) else content


class Node:
    """One place of the trie, and what goes on from it.

    `routes` ask for nothing more, `facts` leads to those that do. `below` goes on by a segment's text, `param` by any
    segment; `rest` is the place of patterns that end in "*" here (a prefix ends at the node itself).
    """

    __slots__ = ("below", "facts", "made_by", "param", "rest", "routes")

    def __init__(self, made_by: object) -> None:
        self.made_by = made_by
        self.below: Map[bytes, Node] = NOTHING
        self.facts: Map[Fact, Node] = NOTHING
        self.param: Node | None = None
        self.rest: Node | None = None
        self.routes = NOBODY

    def copied(self, made_by: object) -> Self:
        twin = type(self)(made_by)
        twin.below, twin.facts = self.below.copy() or NOTHING, self.facts.copy() or NOTHING
        twin.param, twin.rest = self.param, self.rest
        twin.routes = self.routes.copy() or NOBODY
        return twin

    def is_empty(self) -> bool:
        return not (self.routes or self.facts or self.below or self.param or self.rest)

    def own(self, step: Step, made_by: object) -> Node:
        """The node behind a step from this one, made or copied if need be, so that it may be written to."""
        slot, key = step
        held: Any = getattr(self, slot)
        old: Node | None = held if key is None else held.get(key)
        if old is not None and old.made_by is made_by:
            return old
        new = Node(made_by) if old is None else old.copied(made_by)
        setattr(self, slot, new if key is None else put(held, key, new))
        return new

    def drop(self, step: Step) -> None:
        slot, key = step
        if key is None:
            setattr(self, slot, None)
        else:
            held = getattr(self, slot)
            del held[key]
            if not held:
                setattr(self, slot, NOTHING)


class Bucket(Node):
    """The routes of one host. `top` is their highest priority, `deepest` the most segments of a prefix or pattern."""

    __slots__ = ("deepest", "exact", "patterns", "prefixes", "top")

    def __init__(self, made_by: object) -> None:
        super().__init__(made_by)
        self.exact: Map[bytes, Node] = NOTHING
        self.prefixes: Node | None = None
        self.patterns: Node | None = None
        self.top = LOWEST
        self.deepest = 0

    def copied(self, made_by: object) -> Self:
        twin = super().copied(made_by)
        twin.exact = self.exact.copy() or NOTHING
        twin.prefixes, twin.patterns = self.prefixes, self.patterns
        twin.top, twin.deepest = self.top, self.deepest
        return twin

    def is_empty(self) -> bool:
        return not (self.exact or self.prefixes or self.patterns)

    def prefixed(self, path: bytes) -> list[Node]:
        """Where the prefixes of a path stand, the longest last. Before them the bucket itself, if it has patterns."""
        found: list[Node] = [] if self.patterns is None else [self]
        node = self.prefixes
        if node is None:
            return found
        if node.routes or node.facts is not NOTHING:
            found.append(node)
        if node.below is not NOTHING:
            # Not cut into more than the trie tells apart: a path may have thousands of segments.
            for segment in path[1:].split(b"/", self.deepest):
                node = node.below.get(segment)
                if node is None:
                    break
                if node.routes or node.facts is not NOTHING:
                    found.append(node)
        return found

    def patterned(self, path: bytes) -> list[Node]:
        """Where the patterns stand that fit a path, in no order."""
        found: list[Node] = []
        _find_patterns(self.patterns, path[1:].split(b"/", self.deepest), 0, found)
        return found


def _find_patterns(node: Node | None, segments: list[bytes], depth: int, found: list[Node]) -> None:
    """Gather the places of the patterns that fit the segments from `depth` on."""
    while node is not None:
        if node.rest is not None:
            found.append(node.rest)
        if depth == len(segments):
            found.append(node)
            return
        segment = segments[depth]
        depth += 1
        if node.param is not None and segment:
            _find_patterns(node.param, segments, depth, found)
        node = node.below.get(segment)


def standing(node: Node, facts: list[Fact]) -> list[Ranked]:
    """All routes that stand at a node or behind it, and ask for no more than these facts."""
    found = node.routes
    for fact in facts:
        asking = node.facts.get(fact)
        if asking is not None:
            more = standing(asking, facts) if asking.facts else asking.routes
            found = found + more if found else more
    return found
