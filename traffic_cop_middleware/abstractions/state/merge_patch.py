"""Merging one JSON value into another (RFC 7396, JSON Merge Patch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merge_patch(target: Any, patch: Any) -> Any:
    """What `target` becomes by `patch`: of an object each member is replaced, or removed where it is `None`.

    A patch that is no object replaces the whole. Neither argument is changed.

    Raises:
        ValueError: the patch is nested too deeply.
    """
    try:
        return _merged(target, patch)
    except RecursionError as exc:
        raise ValueError("the patch is nested too deeply") from exc


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged
