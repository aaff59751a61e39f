"""From a URL's scheme to an adapter: one of ours, or an entry point of a third party."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from traffic_cop_middleware.errors import ConfigurationError, MissingExtra

BUILT_IN = ("memory", "sqlite")
"""Adapters whose drivers come with Python, though not with each build of it."""


def adapter_for(url: str, *, kwarg: str, group: str, ours: Mapping[str, str], example: str) -> Any:
    """The `open` function for a URL's scheme.

    `ours` says for each scheme of ours the module under `adapters`; the first part of that is also the name of the
    extra that brings its driver, where it has one. `kwarg` is where the URL was written.

    Raises:
        ConfigurationError: nobody knows the scheme.
        MissingExtra: its driver is not installed.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in ours:
        try:
            return importlib.import_module(f"traffic_cop_middleware.adapters.{ours[scheme]}").open
        except ImportError as exc:
            part = ours[scheme].partition(".")[0]
            raise MissingExtra(
                f"{kwarg} {scheme}:// needs what this Python was built without ({exc}): install one that has it"
                if part in BUILT_IN
                else f"{kwarg} {scheme}:// needs a driver that is not installed ({exc}): "
                f"pip install 'traffic-cop-middleware[{part}]'"
            ) from exc
    for point in entry_points(group=group, name=scheme):
        return point.load()
    known = sorted({*ours, *(point.name for point in entry_points(group=group))})
    said = f"{scheme}:// is not known here" if scheme else "this is no URL: it begins with no scheme and '://'"
    raise ConfigurationError(
        f"{kwarg}: {said}. Write one of {', '.join(f'{name}://' for name in known)}, for example {example}"
    )
