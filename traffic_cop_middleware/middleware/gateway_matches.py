"""Which gateway route a request takes, and what the limiter keeps for it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from starlette.types import Scope

from traffic_cop_middleware.abstractions.destinations import TheApp
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.request_session import RequestSession
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.middleware.exchange import raw_path_of
from traffic_cop_middleware.middleware.marks import Marks
from traffic_cop_middleware.middleware.route_table import Matched

MOST_KEPT = 4096


class GatewayMatches:
    """A `Matched` for each gateway route, so that the limiter plans it once; the last routes are kept."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[GatewayRoute, Matched]] = {}

    def matched(self, route: GatewayRoute) -> Matched | None:
        """What the limiter takes a request along this route for; `None` for one to the app, which has its own."""
        kept = self._kept.get(route.name)
        if kept is not None and kept[0] is route:
            return kept[1]
        action = action_of(route)
        if isinstance(action.destination, TheApp) and not action.limits:
            return None
        if len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        matched = Matched(route.pattern, None, Marks(limits=tuple(action.limits)))
        self._kept[route.name] = (route, matched)
        return matched


def candidates_of(gateway: Gateway, scope: Scope, *, method: str | None = None) -> Sequence[GatewayRoute]:
    """The gateway routes that may take a request, best first; with `method` as if it had that one."""
    table = gateway.table
    if not table:
        return ()
    headers = scope.get("headers", ())
    host = b""
    for name, value in headers:  # a generator would cost as much again
        if name == b"host":
            host = value
            break
    asked: str = method or scope.get("method", "GET")
    return table.find(asked, host.decode("latin-1"), raw_path_of(scope), headers, scope.get("query_string", b""))


def choose(candidates: Sequence[GatewayRoute], session: RequestSession | None) -> GatewayRoute | None:
    """The route among the candidates, once the session is known."""
    if len(candidates) == 1 and not candidates[0].session:
        return candidates[0]
    for at, route in enumerate(candidates):
        if route.session and not _holds(route, session):
            continue
        tied = [other for other in candidates[at:] if other.session == route.session]
        return route if len(tied) == 1 else _by_weight(tied, session)
    return None


def _holds(route: GatewayRoute, session: RequestSession | None) -> bool:
    if session is None:
        return False
    attributes, claims = session.attributes, session.claims
    for name, value in route.session:
        found = attributes[name] if name in attributes else claims.get(name)
        if found != value or type(found) is not type(value):
            return False
    return True


def _by_weight(routes: Sequence[GatewayRoute], session: RequestSession | None) -> GatewayRoute | None:
    """One of routes that tie, by their weights: the same one for all of a session's requests."""
    total = sum(route.weight for route in routes)
    if not total:
        return None
    id = session.known_id if session is not None else ""
    if not id:
        point = random.random() * total  # noqa: S311 - a share of the traffic, no secret
    else:
        digest = hashlib.sha256(f"{routes[0].pattern} {id}".encode()).digest()
        point = int.from_bytes(digest[:8], "big") / 2**64 * total
    for route in routes:
        point -= route.weight
        if point < 0:
            return route
    return routes[-1]
