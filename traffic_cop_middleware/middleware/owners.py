"""Which instance a request belongs to: by its session's stored route, by a cookie, or by what is hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from dataclasses import replace

from starlette.types import Message, Scope, Send

from traffic_cop_middleware.abstractions.balancing.affinity_tokens import AffinityTokens, CookieOwner
from traffic_cop_middleware.abstractions.balancing.owners import Emit, StoredOwner
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.destinations import is_forwarded
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.request_session import RequestSession
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.contracts.balancing import BalancingKey
from traffic_cop_middleware.middleware.context import TrafficContext
from traffic_cop_middleware.middleware.cookies import CookieSettings, unshared
from traffic_cop_middleware.middleware.credentials import credentials
from traffic_cop_middleware.middleware.fields import Header
from traffic_cop_middleware.middleware.owned_tries import Owner

STARTS = ("http.response.start", "websocket.accept")
NAME = "affinity"


class AffinityCookies:
    """The cookies of pools with `affinity="cookie"`; `settings` are those of the session cookie but for its name.

    One for each pool, named by a hash of the pool's name; it lasts until the browser is closed.
    """

    def __init__(self, tokens: AffinityTokens, settings: CookieSettings) -> None:
        self._tokens = tokens
        self._settings = settings
        self._prefix = "__Host-" if settings.secure else ""

    def settings_of(self, pool: str) -> CookieSettings:
        """How the cookie of a pool goes out."""
        digest = hashlib.sha256(pool.encode("utf-8", "surrogatepass")).hexdigest()
        return replace(self._settings, name=f"{self._prefix}{NAME}-{digest[:8]}")

    def owner(self, scope: Scope, pool: BalancedPool, emit: Emit, *, id: str, text: str) -> CookieOwner:
        """Whom a request's cookie names, if it brought one. `id` is its session's, `text` what it is hashed by."""
        values, _ = credentials(scope["headers"], self.settings_of(pool.name).cookie.encode("ascii"))
        token = values[0].decode("latin-1") if len(values) == 1 else ""
        return CookieOwner(emit, pool, self._tokens.named(pool, token), token=token, id=id, text=text)

    def sending(self, send: Send, owner: CookieOwner) -> Send:
        """`send` that gives the browser the cookie where its own says something else, or says it by a former key."""

        def send_with_cookie(message: Message) -> Awaitable[None]:
            if message["type"] in STARTS and owner.instance is not None:
                token = self._tokens.token(owner.pool, owner.instance)
                if token != owner.token:
                    fields: list[Header] = [(b"set-cookie", self.settings_of(owner.pool.name).set(token, age=None))]
                    message = {**message, "headers": [*unshared(message.get("headers", ())), *fields]}
            return send(message)

        return send_with_cookie


def expect_owner(context: TrafficContext, route: GatewayRoute, gateway: Gateway) -> None:
    """Ask for the owner of a request's session, where its route's pool goes by that."""
    if is_forwarded(action_of(route).destination):
        pool = gateway.pool_of(route)
        if pool.settings.affinity == "session" and (session := context.session) is not None and session.known_id:
            context.owner = _stored(session, pool, gateway)


def _stored(session: RequestSession, pool: BalancedPool, gateway: Gateway) -> StoredOwner:
    return StoredOwner(gateway.owners, gateway.session_routes(), session.known_id, pool, ttl=session.house.policy.idle)


def owner_of(
    scope: Scope, context: TrafficContext, pool: BalancedPool, gateway: Gateway, cookies: AffinityCookies | None
) -> Owner | None:
    """What says whose request this is, in a pool with an affinity; `None` where nothing does: the policy chooses."""
    session = context.session
    id = session.known_id if session is not None else ""
    text = text_of(scope, context, pool.settings.hash_by)
    if pool.settings.affinity == "cookie":
        if cookies is None:
            return None
        return cookies.owner(scope, pool, gateway.owners.emit, id=id, text=text)
    gateway.keeps_sessions = True
    if session is None or not id:
        return None
    owner: StoredOwner | None = getattr(context, "owner", None)
    if owner is None or owner.pool is not pool or owner.id != id:
        owner = _stored(session, pool, gateway)
    else:
        del context.owner  # a gateway inside of this one has pools of its own
    owner.text = text
    return owner


def key_of(scope: Scope, context: TrafficContext, settings: BalancingSettings) -> BalancingKey | None:
    """What a request is placed by under "hash", and what policies of one's own see.

    Where it lacks what `hash_by` names: its session, or where it has none its client's address.
    """
    if isinstance(settings.policy, str) and settings.policy != "hash":
        return None
    return BalancingKey(text_of(scope, context, settings.hash_by))


def text_of(scope: Scope, context: TrafficContext, by: str) -> str:
    """What a request has of what `hash_by` names."""
    what, _, name = by.partition(":")
    session = context.session
    text = ""
    if what == "header":
        wanted = name.lower().encode("ascii")
        text = next((value.decode("latin-1") for key, value in scope["headers"] if key == wanted), "")
    elif what == "attribute" and session is not None:
        attributes = session.attributes
        value = attributes[name] if name in attributes else session.claims.get(name)
        text = "" if value is None else str(value)
    if not text and what != "client" and session is not None:
        text = session.known_id
    return text or context.client
