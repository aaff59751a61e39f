"""Merging one JSON value into another (RFC 7396, JSON Merge Patch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merge_patch(target: Any, patch: Any) -> Any:
    """What `target` becomes by `patch`: of an object each member is replaced, or removed where it is `None`.

    A patch that is no object replaces the whole. Neither argument is changed.
    """
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def merge_diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The patch that makes `after` of `before`.

    Raises:
        ValueError: there is none: `after` has a `None` that `before` has not, and a patch removes a member by it.
    """
    patch: dict[str, Any] = dict.fromkeys(before.keys() - after.keys())
    for name, value in after.items():
        old = before.get(name)
        if name in before and old == value and type(old) is type(value):
            continue
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            inner = merge_diff(old, value)
            if inner:
                patch[name] = inner
        elif _has_null(value):
            raise ValueError(f"{name!r} holds None, and in a merge patch (RFC 7396) that means to remove it")
        elif isinstance(value, Mapping) and not value and not isinstance(old, Mapping):
            patch[name] = {}
        else:
            patch[name] = value
    return patch


def _has_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_null, value.values()))
    return value is None
