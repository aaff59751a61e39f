"""Limits and routes as JSON, as they stand in records that all workers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from traffic_cop_middleware.abstractions.destinations import destination_from, destination_record
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute, record_of
from traffic_cop_middleware.abstractions.route_policies import action_of, policy_record
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
from traffic_cop_middleware.middleware.routes import route

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
    key = KEYS.get(members.pop("key", "ip"))
    if key is None:
        raise ConfigurationError(f"a limit's record has the key {record['key']!r}; there are {', '.join(KEYS)}")
    return limit(members.pop("rate"), key=key, **members)


def route_record(each: GatewayRoute) -> dict[str, Any]:
    """A gateway route as JSON; `route_from` makes an equal one of it.

    Raises:
        ConfigurationError: it leads to an ASGI app, or has a limit by a function.
    """
    action = action_of(each)
    record: dict[str, Any] = {**record_of(each), **policy_record(action.policy)}
    del record["name"]
    record["to"] = destination_record(action.destination)
    if action.mirror is not None:
        record["mirror"] = destination_record(action.mirror)
    if action.limits:
        record["limits"] = [limit_record(one) for one in action.limits]
    return record


def route_from(name: str, record: Mapping[str, Any]) -> GatewayRoute:
    """The route of a record.

    Raises:
        ConfigurationError: it is none.
    """
    members = dict(record)
    if missing := [needed for needed in ("pattern", "to") if needed not in members]:
        raise ConfigurationError(f"the record of route {name!r} has no {missing[0]!r}")
    if "mirror" in members:
        members["mirror"] = destination_from(members["mirror"])
    if "limits" in members:
        limits = members["limits"]
        if not isinstance(limits, Sequence) or isinstance(limits, str):
            raise ConfigurationError(f"the record of route {name!r}: limits={limits!r} is a list")
        members["limits"] = [limit_from(one) for one in limits]
    return route(members.pop("pattern"), to=destination_from(members.pop("to")), name=name, **members)
