"""A trie over path segments that narrows many routes to the few whose shape fits a path.

It never decides: what it leaves out can't match, what it gives may or may not. A shape is a list of segments: text, or
`None` for any one segment, or `...` (Ellipsis) as the last for whatever follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import Any, Generic, TypeVar

from starlette.convertors import FloatConvertor, IntegerConvertor, StringConvertor, UUIDConvertor

T = TypeVar("T")

ONE_SEGMENT = (StringConvertor, IntegerConvertor, FloatConvertor, UUIDConvertor)
Shape = Sequence[str | EllipsisType | None]


def one_segment(convertor: Any) -> bool:
    """Whether what this path parameter matches never has a slash in it."""
    return type(convertor) in ONE_SEGMENT


class Node(Generic[T]):
    __slots__ = ("any", "ends", "rest", "texts")

    def __init__(self) -> None:
        self.texts: dict[str, Node[T]] = {}
        self.any: Node[T] | None = None
        self.ends: list[tuple[int, T]] = []
        self.rest: list[tuple[int, T]] = []


class RouteIndex(Generic[T]):
    """Routes by the shape of their paths, in the order they were added."""

    def __init__(self) -> None:
        self._root: Node[T] = Node()
        self._size = 0

    def add(self, shape: Shape, route: T) -> None:
        node = self._root
        for segment in shape:
            if isinstance(segment, EllipsisType):
                node.rest.append((self._size, route))
                break
            if segment is None:
                node.any = node.any or Node()
                node = node.any
            else:
                node = node.texts.setdefault(segment, Node())
        else:
            node.ends.append((self._size, route))
        self._size += 1

    def candidates(self, path: str) -> list[T]:
        """The routes that may match `path`, in the order they were added."""
        # The frameworks' patterns end in `$`, which also matches before a last newline.
        found: list[tuple[int, T]] = []
        self._collect(self._root, path.rstrip("\n").split("/"), 0, found)
        if len(found) > 1:
            found.sort(key=lambda numbered: numbered[0])
        return [route for _, route in found]

    def _collect(self, node: Node[T], segments: list[str], depth: int, found: list[tuple[int, T]]) -> None:
        if node.rest:
            found += node.rest
        if depth == len(segments):
            found += node.ends
            return
        below = node.texts.get(segments[depth])
        if below is not None:
            self._collect(below, segments, depth + 1, found)
        if node.any is not None:
            self._collect(node.any, segments, depth + 1, found)
