"""The layer that sends requests along gateway routes; what no route takes goes to the app."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

from traffic_cop_middleware.abstractions.balancing.affinity_tokens import CookieOwner
from traffic_cop_middleware.abstractions.destinations import FixedResponse, Redirect, TheApp, is_forwarded
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.forwarding import Client
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.request_session import RequestSession
from traffic_cop_middleware.abstractions.route_policies import RoutePolicy, action_of
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.contracts.transport import Field
from traffic_cop_middleware.middleware.context import KEY, TrafficContext
from traffic_cop_middleware.middleware.exchange import Exchange, Forwarding, raw_path_of
from traffic_cop_middleware.middleware.gateway_matches import candidates_of, choose
from traffic_cop_middleware.middleware.owners import AffinityCookies, key_of, owner_of
from traffic_cop_middleware.middleware.socket_exchange import SocketExchange

SCHEMES = {"ws": "http", "wss": "https"}


class RoutingLayer:
    """Forwards what a gateway route takes."""

    def __init__(
        self, app: ASGIApp, *, gateway: Gateway, observers: Observers, cookies: AffinityCookies | None = None
    ) -> None:
        self.app = app
        self._gateway = gateway
        self._observers = observers
        self._cookies = cookies
        self._exchange = Exchange(gateway.transport, observers.emit)
        self._sockets = SocketExchange(gateway.transport, observers.emit)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine of its own: each one between the server and the upstream is resumed for every piece of a body.
        context: TrafficContext = scope[KEY]
        candidates = context.gateway_routes
        if candidates is None:
            candidates = candidates_of(self._gateway, scope)
        else:
            context.gateway_routes = None  # a gateway inside of this one has routes of its own
        if not candidates:
            return self.app(scope, receive, send)
        route = context.gateway_route = choose(candidates, context.session)
        if route is None:
            return self.app(scope, receive, send)
        action = action_of(route)
        destination = action.destination
        if is_forwarded(destination):
            exchange = self._sockets if scope["type"] == "websocket" else self._exchange
            forwarding = forwarding_of(scope, context, route, self._gateway, self._cookies)
            if self._cookies is not None and isinstance(owner := forwarding.owner, CookieOwner):
                send = self._cookies.sending(send, owner)
            return exchange.run(scope, receive, send, forwarding)
        if isinstance(destination, TheApp):
            return self.app(scope, receive, send)
        if isinstance(destination, (Redirect, FixedResponse)):
            return self._respond(scope, receive, send, route, destination)
        return self._mounted(destination, scope, receive, send, action.policy)

    async def _respond(
        self, scope: Scope, receive: Receive, send: Send, route: GatewayRoute, destination: Redirect | FixedResponse
    ) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "this path takes no WebSocket"})
            return
        body, fields = b"", list[Field]()
        if isinstance(destination, Redirect):
            fields.append((b"location", location(scope, route, destination)))
        else:
            body, fields = destination.body.encode(), list(destination.fields)
        if destination.status not in (204, 304):
            fields.append((b"content-length", b"%d" % len(body)))
        self._observers.emit("route.answered", {"route": route.name, "status": destination.status})
        await send({"type": "http.response.start", "status": destination.status, "headers": fields})
        await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})

    @staticmethod
    async def _mounted(app: ASGIApp, scope: Scope, receive: Receive, send: Send, policy: RoutePolicy) -> None:
        """An ASGI app, with the stripped prefix as its root path, as `Mount` does it."""
        scope = dict(scope)  # what its router writes there says nothing of the wrapped app's routes
        if policy.strip_prefix:
            scope["root_path"] = scope.get("root_path", "") + policy.strip_prefix
        await app(scope, receive, send)


def forwarding_of(
    scope: Scope,
    context: TrafficContext,
    route: GatewayRoute,
    gateway: Gateway,
    cookies: AffinityCookies | None = None,
) -> Forwarding:
    """What the exchange is to do with a request that a route to a pool takes."""
    action = action_of(route)
    policy = action.policy
    own: list[Field] = [
        (b"x-request-id", context.request_id.encode("ascii")),
        (b"traceparent", context.traceparent.encode("ascii")),
    ]
    if policy.identity and context.session is not None:
        own += identity_fields(context.session, signed=policy.identity == "signed")
    pool = gateway.pool_of(route)
    return Forwarding(
        route=route.name,
        pattern=route.pattern,
        policy=policy,
        pool=pool,
        client=client_of(scope, context),
        own=own,
        mirror=None if action.mirror is None else gateway.mirror_of(route),
        key=key_of(scope, context, pool.settings),
        owner=owner_of(scope, context, pool, gateway, cookies) if pool.settings.affinity else None,
    )


def client_of(scope: Scope, context: TrafficContext) -> Client:
    """Who sent a request to this gateway."""
    host = b""
    for name, value in scope.get("headers", ()):
        if name == b"host":
            host = value
            break
    scheme: str = scope.get("scheme", "http")
    peer = scope.get("client")
    return Client(peer[0] if peer else "unknown", SCHEMES.get(scheme, scheme), host, context.peer_trusted)


def identity_fields(session: RequestSession, *, signed: bool) -> list[Field]:
    """Who is logged in, for the upstream. Nothing for an anonymous client."""
    subject = session.subject
    if subject is None:
        return []
    claims = dict(session.claims)
    fields = [(b"x-traffic-user", quote(subject, safe="!$&'()*+,;=:@-._~/|").encode("ascii"))]
    if session.id:
        fields.append((b"x-traffic-session", session.id.encode("ascii")))
    tenant = claims.get("tenant")
    if isinstance(tenant, str):
        fields.append((b"x-traffic-tenant", quote(tenant, safe="!$&'()*+,;=:@-._~/|").encode("ascii")))
    if claims:
        fields.append((b"x-traffic-claims", dumps_ascii(claims)))
    if signed:
        fields.append((b"x-traffic-identity", session.house.identity_token(subject, claims).encode("ascii")))
    return fields


def dumps_ascii(value: Any) -> bytes:
    """JSON without a character beyond ASCII."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def location(scope: Scope, route: GatewayRoute, destination: Redirect) -> bytes:
    """Where a redirect leads."""
    url = destination.url.encode("ascii")
    if not destination.keep_path:
        return url
    path = action_of(route).policy.path(route.pattern, raw_path_of(scope))
    query = scope.get("query_string", b"")
    found = url.rstrip(b"/") + path
    if found[:2] == b"//":  # of "/" and what a client wrote, it would lead to a host of the client's choice
        found = b"/" + found.lstrip(b"/")
    return found + (b"?" + query if query else b"")
