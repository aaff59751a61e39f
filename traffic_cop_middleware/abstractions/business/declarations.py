"""What an app says beforehand of each metric of its own, and which series a value then belongs to.

A mistyped name or attribute is an error of the program, and raised. A value is data: one that was not declared, or that
is one too many, is counted under `__overflow__`, so that no request fails of it and no series is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from traffic_cop_middleware.abstractions.metrics.business import Labelled
from traffic_cop_middleware.abstractions.metrics.instruments import text
from traffic_cop_middleware.abstractions.metrics.series import OVERFLOW
from traffic_cop_middleware.errors import ConfigurationError

Kind = Literal["count", "gauge", "observe"]
Attribute = str | int | None
MOST_METRICS, MOST_ATTRIBUTES, MOST_SERIES = 200, 10, 2_000
MOST_LETTERS = 200
"""Of an attribute's value; what is longer is cut."""
WORD = re.compile(r"[a-z][a-z0-9_]{0,49}")


@dataclass(frozen=True, slots=True)
class BusinessMetric:
    """A metric of the app's own: `BusinessMetric("orders", "count", attributes={"plan": ["free", "pro"]})`.

    `kind` is "count" (whole numbers that add up), "gauge" (what is at this moment: the last one said by any worker
    stands) or "observe" (a value each time, for sums, means and percentiles). `attributes` names what its values are
    told apart by: a list of names, or a mapping of each to the values that it may have, or to how many of them are told
    apart. What is beyond that, and beyond `series` of all attributes together (1 to 2,000, in each worker), is one
    series, `__overflow__`. `unit` and `help` are shown. Give money in its smallest unit where it is counted.

    Raises:
        ConfigurationError: a value can't be used; the message says what to write.
    """

    name: str
    kind: Kind
    attributes: Sequence[str] | Mapping[str, Iterable[str] | int] = ()
    unit: str = field(default="", kw_only=True)
    help: str = field(default="", kw_only=True)
    series: int = field(default=1_000, kw_only=True)

    def __post_init__(self) -> None:
        where = f"BusinessMetric({self.name!r})"
        if not isinstance(self.name, str) or not WORD.fullmatch(self.name):
            raise ConfigurationError(f"{where}: a name is of a-z, 0-9 and _, begins with a letter, and has 50 at most")
        if self.kind not in get_args(Kind):
            raise ConfigurationError(f"{where}: kind={self.kind!r}: there are 'count', 'gauge' and 'observe'")
        if isinstance(self.attributes, str) or not isinstance(self.attributes, (Sequence, Mapping)):
            raise ConfigurationError(f"{where}: attributes={self.attributes!r}: a list of names, or a mapping of them")
        names = list(self.attributes)
        for attribute in names:
            if not isinstance(attribute, str) or not WORD.fullmatch(attribute):
                raise ConfigurationError(f"{where}: the attribute {attribute!r}: of a-z, 0-9 and _, 50 at most")
        if len(names) > MOST_ATTRIBUTES or len({*names}) < len(names):
            raise ConfigurationError(f"{where}: {len(names)} attributes; {MOST_ATTRIBUTES} different ones are the most")
        if isinstance(self.attributes, Mapping):
            bounds = {name: _bound(where, name, bound) for name, bound in self.attributes.items()}
            object.__setattr__(self, "attributes", bounds)
        else:
            object.__setattr__(self, "attributes", tuple(names))
        for word, value in (("unit", self.unit), ("help", self.help)):
            if not isinstance(value, str) or len(value) > MOST_LETTERS or not value.isprintable():
                raise ConfigurationError(f"{where}: {word}={value!r}: one line of {MOST_LETTERS} characters at most")
        if not _is_number_of(self.series, MOST_SERIES):
            raise ConfigurationError(f"{where}: series={self.series!r}: a whole number from 1 to {MOST_SERIES}")


def _is_number_of(number: object, most: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= most


def _bound(where: str, name: str, bound: Iterable[str] | int) -> tuple[str, ...] | int:
    if isinstance(bound, int):
        if _is_number_of(bound, MOST_SERIES):
            return bound
    elif not isinstance(bound, str) and isinstance(bound, Iterable):
        values = tuple(bound)
        if values and all(isinstance(value, str) and 0 < len(value) <= MOST_LETTERS for value in values):
            return tuple(map(_word, values))
    raise ConfigurationError(
        f"{where}: the attribute {name!r} is bounded by {bound!r}: a list of the values that it may have, or how many "
        f"of them are told apart, from 1 to {MOST_SERIES}"
    )


def _word(value: str | int) -> str:
    """A value as its series has it: an enum's member by what it stands for (`str` would give its name)."""
    if isinstance(value, str):
        plain = str.__str__(value)[:MOST_LETTERS]
    else:
        plain = str(value) if isinstance(value, bool) else int.__repr__(value)
    return text(plain)[:MOST_LETTERS]  # two values that are told outside as one text are one series


def declared(metrics: Iterable[BusinessMetric]) -> Sequence[BusinessMetric]:
    """The metrics of an app.

    Raises:
        ConfigurationError: one is none, two have one name, or there are too many.
    """
    found: dict[str, BusinessMetric] = {}
    listed = isinstance(metrics, Iterable) and not isinstance(metrics, str)
    for metric in metrics if listed else ():
        if not isinstance(metric, BusinessMetric):
            raise ConfigurationError(
                f"business_metrics: {metric!r} is none. Write business_metrics=[BusinessMetric('orders', 'count')]"
            )
        if metric.name in found:
            raise ConfigurationError(f"business_metrics: there are two of the name {metric.name!r}")
        found[metric.name] = metric
    if not listed or len(found) > MOST_METRICS:
        raise ConfigurationError(
            f"business_metrics={str(metrics)[:80]}: a list of {MOST_METRICS} at most, as in "
            "business_metrics=[BusinessMetric('orders', 'count')]"
        )
    return tuple(found.values())


class SeriesOf:
    """Which series of a metric values belong to, in this process. Held by one thread at a time."""

    __slots__ = ("_allowed", "_every", "_quick", "_rest", "_seen", "_series", "metric", "names")

    def __init__(self, metric: BusinessMetric) -> None:
        self.metric = metric
        self.names = tuple(metric.attributes)
        self._every = frozenset(self.names)
        self._allowed: list[frozenset[str] | None] = []
        self._seen: list[tuple[set[str], int]] = []
        for name in self.names:
            bound = metric.attributes[name] if isinstance(metric.attributes, Mapping) else MOST_SERIES
            allowed = None if isinstance(bound, int) else frozenset(bound)
            self._allowed.append(allowed)
            self._seen.append((set(), bound if isinstance(bound, int) else 0))
        self._rest: Labelled = (metric.name, *(OVERFLOW for _ in self.names))
        self._series: set[Labelled] = set()
        self._quick: dict[tuple[Attribute, ...], Labelled] = {} if self.names else {(): self._rest}
        """Series by values that are texts: what most calls need."""

    def of(self, attributes: Mapping[str, Attribute]) -> Labelled:
        """The series of these attributes; one that is left out, or `None`, is empty.

        Raises:
            ConfigurationError: one is not declared, or is neither a text nor a whole number.
        """
        if not attributes.keys() <= self._every:
            unknown = next(name for name in attributes if name not in self._every)
            known = ", ".join(map(repr, self.names)) or "none"
            raise ConfigurationError(
                f"cop.business_metrics: {self.metric.name!r} has no attribute {unknown!r}; declared are {known}"
            )
        given = tuple([attributes.get(name) for name in self.names])
        try:
            return self._quick[given]
        except (KeyError, TypeError):
            return self._looked_up(given)

    def _looked_up(self, given: tuple[Attribute, ...]) -> Labelled:
        values = []
        for at, value in enumerate(given):
            if value is not None and not isinstance(value, (str, int)):
                raise ConfigurationError(
                    f"cop.business_metrics: {self.metric.name!r}, {self.names[at]}={value!r}: a text or a whole number"
                )
            values.append(self._bounded(at, "" if value is None else _word(value)))
        found: Labelled = (self.metric.name, *values)
        if found not in self._series:
            if found == self._rest or len(self._series) >= self.metric.series:
                return self._rest
            self._series.add(found)
        short = all(isinstance(value, str) and len(value) <= MOST_LETTERS for value in given)
        if short and len(self._quick) < MOST_SERIES:  # a long one would be kept whole
            self._quick[given] = found
        return found

    def _bounded(self, at: int, value: str) -> str:
        allowed = self._allowed[at]
        if not value or (allowed is not None and value in allowed):
            return value
        if allowed is not None:
            return OVERFLOW
        seen, most = self._seen[at]
        if value not in seen:
            if len(seen) >= most:
                return OVERFLOW
            seen.add(value)
        return value
