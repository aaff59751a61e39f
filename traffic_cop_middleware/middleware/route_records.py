"""Routes as JSON, as they stand in records that all workers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from traffic_cop_middleware.abstractions.balancing.checks import check_from
from traffic_cop_middleware.abstractions.balancing.settings import balancing_from
from traffic_cop_middleware.abstractions.destinations import destination_from, destination_record
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute, record_of
from traffic_cop_middleware.abstractions.route_policies import action_of, policy_record
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.limit_records import limit_from, limit_record
from traffic_cop_middleware.middleware.routes import route


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
    if balancing := action.balancing.record():
        record["balancing"] = balancing
    if action.check is not None:
        record["check"] = action.check.record()
    if action.cors is not None:
        record["cors"] = action.cors
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
    if "balancing" in members:
        members["balancing"] = balancing_from(members["balancing"])
    if "check" in members:
        members["check"] = check_from(members["check"])
    if "limits" in members:
        limits = members["limits"]
        if not isinstance(limits, Sequence) or isinstance(limits, str):
            raise ConfigurationError(f"the record of route {name!r}: limits={limits!r} is a list")
        members["limits"] = [limit_from(one) for one in limits]
    return route(members.pop("pattern"), to=destination_from(members.pop("to")), name=name, **members)
