"""The index leaves out only what can't match, keeps the order, and does not look at every route."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.convertors import CONVERTOR_TYPES, StringConvertor
from starlette.routing import Mount, Route

from traffic_cop_middleware.middleware.route_index import RouteIndex, Shape, one_segment

SEGMENTS = ("a", "b", "\u00e9", "", "\n", "1")


def fits(shape: Shape, segments: list[str]) -> bool:
    """What the index stands for, said the slow way."""
    for position, wanted in enumerate(shape):
        if wanted is ...:
            return True
        if position >= len(segments) or wanted not in (None, segments[position]):
            return False
    return len(shape) == len(segments)


shapes = st.builds(
    lambda segments, rest: ["", *segments, *rest],
    st.lists(st.sampled_from((*SEGMENTS[:4], None)), max_size=4),
    st.sampled_from(([], [...])),
)
paths = st.one_of(
    st.lists(st.sampled_from(SEGMENTS), max_size=6).map(lambda segments: "/".join(["", *segments])),
    st.text(alphabet="/ab\n", max_size=6),
)


@given(st.lists(shapes, max_size=30), st.lists(paths, min_size=1, max_size=10))
def test_candidates_are_the_routes_whose_shape_fits_in_their_order(added: list[Shape], asked: list[str]) -> None:
    index: RouteIndex[int] = RouteIndex()
    for number, shape in enumerate(added):
        index.add(shape, number)
    for path in asked:
        segments = path.rstrip("\n").split("/")
        assert index.candidates(path) == [number for number, shape in enumerate(added) if fits(shape, segments)]


@given(st.text(alphabet="/ab1\n\u00e9.", max_size=12))
def test_no_route_that_starlette_matches_is_left_out(path: str) -> None:
    written: dict[str, Shape] = {
        "/": ["", ""],
        "/a": ["", "a"],
        "/a/": ["", "a", ""],
        "//a": ["", "", "a"],
        "/{x}": ["", None],
        "/a/{x}": ["", "a", None],
        "/{x}/b": ["", None, "b"],
        "/{x}.{y}": ["", None],
        "/{x:int}/{y:float}": ["", None, None],
        "/a/{x:path}": ["", "a", ...],
        "/{x:path}/b": ["", ...],
    }
    index: RouteIndex[str] = RouteIndex()
    for template, shape in written.items():
        index.add(shape, template)
    index.add(["", "a", ...], "mount")
    candidates = index.candidates(path)
    for template in written:
        assert template in candidates or not Route(template, print).path_regex.match(path)
    assert "mount" in candidates or not Mount("/a", app=print).path_regex.match(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["str", "int", "float", "uuid"])
def test_parameters_of_one_segment_never_match_a_slash(name: str) -> None:
    convertor = CONVERTOR_TYPES[name]
    assert one_segment(convertor)
    value = "12345678-1234-5678-1234-567812345678" if name == "uuid" else "1"
    assert re.fullmatch(convertor.regex, value)
    for at in range(len(value) + 1):
        assert not re.fullmatch(convertor.regex, value[:at] + "/" + value[at:])


def test_a_path_parameter_and_a_convertor_of_ones_own_may_match_slashes() -> None:
    class Own(StringConvertor):
        regex = ".+"

    assert not one_segment(CONVERTOR_TYPES["path"])
    assert not one_segment(Own())


@pytest.mark.parametrize("size", [10, 1_000, 10_000])
def test_a_look_up_visits_few_nodes_however_many_routes_there_are(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    index: RouteIndex[int] = RouteIndex()
    for number in range(size):
        index.add(["", "items", f"{number}", None, f"part{number}"], number)
        index.add(["", None, f"{number}", ...], -number)
    visited = 0
    collect = RouteIndex._collect

    def counted(self: RouteIndex[int], *args: object) -> None:
        nonlocal visited
        visited += 1
        collect(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(RouteIndex, "_collect", counted)
    last = size - 1
    assert index.candidates(f"/items/{last}/x/part{last}") == [last, -last]
    assert index.candidates("/items" * 2_000) == []
    assert index.candidates("/items/nothing/x/part1") == []
    assert visited < 20


def test_a_path_longer_than_any_route_is_no_deep_recursion() -> None:
    index: RouteIndex[str] = RouteIndex()
    index.add(["", ...], "rest")
    index.add(["", None, None], "two")
    assert index.candidates("/" * 100_000) == ["rest"]
