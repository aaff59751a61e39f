"""How the frameworks' routes are read: by what they match, and the shape of their paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from types import EllipsisType
from typing import Any

from starlette.routing import PARAM_FORMAT_REGEX, BaseRoute, Match
from starlette.types import Scope

from traffic_cop_middleware.middleware.route_index import Shape, one_segment

FRAMEWORKS = ("starlette.routing", "fastapi.routing")

Matches = Callable[[Scope], tuple[Match, Scope]]


def matches_of(original: Any, effective: Any) -> Matches:
    """The `matches` that the framework will ask."""
    own: Matches = effective.matches
    if effective is not original and not isinstance(effective, BaseRoute) and not is_frameworks(original.matches):
        return partial(_matches_included, original, effective)
    return own


def _matches_included(original: Any, effective: Any, scope: Scope) -> tuple[Match, Scope]:
    """A route class with a `matches` of its own, in an included router: FastAPI tells it of the prefix by the scope."""
    inside = {**scope.get("fastapi", {}), "effective_route_context": effective}
    found: tuple[Match, Scope] = original.matches({**scope, "fastapi": inside})
    return found


def is_frameworks(matches: Matches) -> bool:
    """Whether a route's `matches` is the frameworks' own, which looks at the type, method and path alone."""
    return getattr(getattr(matches, "__func__", None), "__module__", "") in FRAMEWORKS


def is_compiled(route: Any, path_format: str, convertors: dict[str, Any]) -> bool:
    """Whether a route's `path_regex` is what starlette.routing makes of its path."""
    regex: re.Pattern[str] | None = getattr(route, "path_regex", None)
    pattern = "^"
    for position, part in enumerate(PARAM_FORMAT_REGEX.split(path_format)):
        if position % 2 == 0:
            pattern += re.escape(part)
        elif part in convertors:
            pattern += f"(?P<{part}>{convertors[part].regex})"
    return regex is not None and regex.pattern == pattern + "$" and regex.flags == re.UNICODE


def shape_of(path: str | None, convertors: dict[str, Any]) -> Shape:
    """The segments of a path: text, `None` for any one segment, `...` (as the last) for any number of them."""
    if path is None:
        return [...]
    shape: list[str | EllipsisType | None] = []
    for segment in path.rstrip("\n").split("/"):
        if "{" not in segment:
            shape.append(segment)
        elif all(one_segment(convertor) for name, convertor in convertors.items() if f"{{{name}}}" in segment):
            shape.append(None)
        else:
            shape.append(...)
            break
    return shape
