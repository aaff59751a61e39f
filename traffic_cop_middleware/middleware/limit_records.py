"""Limits as JSON, as they stand in routes' records and in records of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.keys import (
    Key,
    by_api_key,
    by_everyone,
    by_ip,
    by_route,
    by_session,
    by_tenant,
    by_user,
)
from traffic_cop_middleware.middleware.marks import Limit, limit
from traffic_cop_middleware.middleware.subtrees import Subtree

log = logging.getLogger("traffic_cop")

KEYS: Mapping[str, Key] = {
    "ip": by_ip,
    "user": by_user,
    "session": by_session,
    "tenant": by_tenant,
    "route": by_route,
    "everyone": by_everyone,
    "api_key": by_api_key,
}
"""The keys that a record can name; a function can't be told to other workers."""


def limit_record(each: Limit) -> dict[str, Any]:
    """A limit as JSON; what has its default is left out.

    Raises:
        ConfigurationError: its key or cost is a function.
    """
    key = next((name for name, known in KEYS.items() if known is each.key), None)
    if key is None or callable(each.cost):
        what = "cost" if key is not None else "key"
        raise ConfigurationError(
            f"limit {each.text!r}: its {what} is a function, which can't be told to other workers. Put it into the "
            f"code (limits=…), or use a number and one of by_{', by_'.join(KEYS)}"
        )
    record: dict[str, Any] = {"rate": each.text}
    if each.burst is not None:
        record["burst"] = each.burst
    if each.cost != 1:
        record["cost"] = each.cost
    if key != "ip":
        record["key"] = key
    if each.name is not None:
        record["name"] = each.name
    if each.methods is not None:
        record["methods"] = sorted(each.methods)
    return record


def limit_from(record: object) -> Limit:
    """The limit of a record: a rate, or a mapping.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(record, str):
        return limit(record)
    known = ("rate", "burst", "cost", "key", "name", "methods")
    if not isinstance(record, Mapping) or "rate" not in record or any(name not in known for name in record):
        raise ConfigurationError(
            f"a limit's record is a rate such as '10/minute', or has {', '.join(known)}: {record!r}"
        )
    members = dict(record)
    named = members.pop("key", "ip")
    key = KEYS.get(named) if isinstance(named, str) else None
    if key is None:
        raise ConfigurationError(f"a limit's record has the key {record['key']!r}; there are {', '.join(KEYS)}")
    return limit(members.pop("rate"), key=key, **members)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLimit:
    """What a record says of the limit `name`. Checked when made.

    Without `paths` it changes the limits of that name in the code: their rate, and their burst and cost where it says
    some. With `paths` ("/api/*"; "/*" is every route) it is a limit of its own.
    """

    name: str
    rate: str
    burst: float | None = None
    cost: float | None = None
    key: str | None = None
    methods: Iterable[str] | None = None
    paths: str | None = None

    def __post_init__(self) -> None:
        if self.paths is None and (self.key is not None or self.methods is not None):
            raise ConfigurationError(
                f"limit {self.name!r}: key and methods of a limit in the code stay as they are. For a limit of its own "
                "write paths='/api/*' as well"
            )
        if self.methods is not None and not isinstance(self.methods, Iterable):
            raise ConfigurationError(f"limit {self.name!r}: methods={self.methods!r} must be a list, as in ['POST']")
        if self.methods is not None and not isinstance(self.methods, str):
            object.__setattr__(self, "methods", tuple(self.methods))
        own = self.limit()
        if self.paths is not None:
            Subtree(self.paths, (own,))

    def limit(self) -> Limit:
        """As a limit of its own.

        Raises:
            ConfigurationError: a value can't be used.
        """
        members = {"rate": self.rate, "burst": self.burst, "cost": self.cost, "key": self.key, "methods": self.methods}
        return limit_from({"name": self.name, **{name: each for name, each in members.items() if each is not None}})

    def changed(self, each: Limit) -> Limit:
        """A limit of the code as this says; as it was where that can't be (its cost is above the new burst)."""
        try:
            return self.on(each)
        except ConfigurationError as exc:
            log.error("the limit %r stays %r: %s", self.name, each.text, exc)  # noqa: TRY400 - its message says all
            return each

    def on(self, each: Limit) -> Limit:
        """A limit of the code with what this says.

        Raises:
            ConfigurationError: its cost is above the new burst.
        """
        cost = each.cost if self.cost is None else self.cost
        new = limit(self.rate, burst=self.burst, cost=cost, key=each.key, name=each.name)
        return replace(new, methods=each.methods)

    def record(self) -> dict[str, Any]:
        """It as JSON, without its name."""
        found = {each: getattr(self, each) for each in ("rate", "burst", "cost", "key", "methods", "paths")}
        return {each: value for each, value in found.items() if value is not None}


def live_limit_from(name: str, record: object) -> LiveLimit:
    """What a record says.

    Raises:
        ConfigurationError: it can't be used.
    """
    known = ("rate", "burst", "cost", "key", "methods", "paths")
    if not isinstance(record, Mapping) or "rate" not in record or any(each not in known for each in record):
        raise ConfigurationError(f"the record of limit {name!r} has {', '.join(known)}, and needs a rate: {record!r}")
    return LiveLimit(name=name, **record)
