"""What the parts know of one request, made once and never copied: `scope["traffic_cop"]`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from os import urandom
from typing import Any

from starlette.types import Scope

from traffic_cop_middleware.abstractions.balancing.owners import StoredOwner
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.rate_limiting import Decision
from traffic_cop_middleware.abstractions.request_session import RequestSession
from traffic_cop_middleware.middleware.client_address import ClientAddress
from traffic_cop_middleware.middleware.route_table import UNMATCHED, Matched

KEY = "traffic_cop"

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class TrafficContext:
    """One request, as the traffic parts see it.

    `peer` is who called the server (`None`: it does not say), `route` what the request will reach, `decision` what the
    limits said (`None` where none applied), `session` the session's handle (`None` without sessions), `gateway_route`
    the gateway route that took it, `gateway_routes` those that may (`None`: not looked up). The rest is worked out when
    first asked for.
    """

    __slots__ = (
        *("_client", "_client_address", "_headers", "_other_ids", "_request_id", "_traceparent"),
        *("api_key", "decision", "gateway_route", "gateway_routes", "owner", "peer", "route", "session"),
    )

    api_key: str
    """Whose API key came with the request, set only where a limit's key has verified that."""
    owner: StoredOwner
    """Who owns the session, set only where that was asked for before the gateway's turn."""

    def __init__(self, scope: Scope, client_address: ClientAddress) -> None:
        # Not the scope itself: it holds this context, and a cycle per request would be the garbage collector's work.
        self._headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())
        self.peer: tuple[str, int] | None = scope.get("client")
        self._client_address = client_address
        self._client: str | None = None
        self._request_id = self._other_ids = self._traceparent = ""
        self.route: Matched = UNMATCHED
        self.decision: Decision | None = None
        self.session: RequestSession | None = None
        self.gateway_route: GatewayRoute | None = None
        self.gateway_routes: Sequence[GatewayRoute] | None = None

    def believe(self, client_address: ClientAddress) -> None:
        """Find the client by other trusted proxies from now on."""
        self._client_address = client_address
        self._client = None

    @property
    def client(self) -> str:
        """The client's address behind trusted proxies; an IPv6 client's /64 network; "unknown" where there is none."""
        client = self._client
        if client is None:
            client = self._client = self._client_address.of(self.peer, self._headers)
        return client

    @property
    def peer_trusted(self) -> bool:
        """Whether the peer is a proxy whose headers are believed."""
        address = self._client_address
        return address.trusting and self.peer is not None and address.trusts(self.peer[0])

    @property
    def request_id(self) -> str:
        """The `X-Request-ID` that came, if it is a short plain word, else a new one: 32 hexadecimal digits."""
        if not self._request_id:
            given = self._header(b"x-request-id")
            if given and REQUEST_ID.fullmatch(given):
                self._request_id = given.decode()
            else:
                made = urandom(40).hex()  # one call for the other ids too: the call is what costs
                self._request_id, self._other_ids = made[:32], made[32:]
        return self._request_id

    @property
    def traceparent(self) -> str:
        """The W3C trace context: the valid one that came, else a new one that is not sampled.

        See W3C Trace Context, section 3.2; version "ff" is invalid there.
        """
        if not self._traceparent:
            given = self._header(b"traceparent")
            if given and TRACEPARENT.fullmatch(given) and not given.startswith(b"ff"):
                self._traceparent = given.decode()
            else:
                made = self._other_ids or urandom(24).hex()
                self._traceparent = f"00-{made[:32]}-{made[32:]}-00"
        return self._traceparent

    def _header(self, name: bytes) -> bytes:
        for key, value in self._headers:  # a generator would cost as much again
            if key == name:
                return value
        return b""


def context_of(scope: Scope) -> TrafficContext:
    """The context of a request that passes one of our middlewares.

    Raises:
        LookupError: it does not.
    """
    context: Any = scope.get(KEY)
    if isinstance(context, TrafficContext):
        return context
    raise LookupError("this request does not pass Traffic Cop: install it with cop.install(app) or cop.wrap(app)")
