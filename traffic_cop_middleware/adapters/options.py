"""The options of a URL, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

from traffic_cop_middleware.errors import ConfigurationError


class Bounds(NamedTuple):
    """A number that an option may be, both ends included; `default` where it is left out."""

    least: float
    most: float
    default: float | None
    says: str


def numbers(query: str, known: Mapping[str, Bounds], *, name: str) -> dict[str, float | None]:
    """The options of a query, all of them numbers. `name` is the URL as it may be printed.

    Raises:
        ConfigurationError: one that is not known, or that is no number within its bounds.
    """
    options: dict[str, float | None] = {option: bounds.default for option, bounds in known.items()}
    for option, text in parse_qsl(query, keep_blank_values=True):
        if option not in known:
            offered = ", ".join(f"{each} ({bounds.says})" for each, bounds in known.items())
            raise ConfigurationError(f"{name}: {option!r} is no option here; there is {offered}")
        least, most, _, says = known[option]
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise ConfigurationError(
                f"{name}: {option}={text[:40]!r} can't be used: write {says}, from {least:g} to {most:g}"
            )
        options[option] = value
    return options
