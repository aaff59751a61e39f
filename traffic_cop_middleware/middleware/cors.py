"""The layer that answers preflights, and says on each response which other origins' pages may read it.

Outside of sessions and limits: a preflight brings no credentials and must cost no token, and a page can read a 429 or
401 only if that has the fields too.

What an app raises passes as it came: the 500 that an outer middleware makes of it (Starlette's, around
`add_middleware`) has no field of ours.
"""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.abstractions.cors import LONGEST_TOKEN, CorsPolicy
from traffic_cop_middleware.abstractions.cors_answers import (
    Preflight,
    PreflightAnswer,
    answer_preflight,
    shared_fields,
)
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.gateway_routes import TOKEN
from traffic_cop_middleware.middleware.cors_policies import CorsPolicies
from traffic_cop_middleware.middleware.refusals import Refusal, answer_with, refuse

REFUSED = "CORS preflight refused"


class CorsLayer:
    """Applies the CORS policy of a request; where there is none, nothing changes at all.

    A preflight has the policy of the request that it asks about.

    A request without Origin is no CORS request, but a cache may keep its response and give it to one that is (Fetch,
    section "CORS protocol and HTTP caches"). So where there is a policy, responses to GET and HEAD always have the
    fields, and other methods without Origin, whose responses caches do not keep, go straight through. WebSocket
    handshakes too: CORS does not apply to them, and the session layer checks their Origin.
    """

    def __init__(self, app: ASGIApp, *, policies: CorsPolicies, observers: Observers) -> None:
        self.app = app
        self._policies = policies
        self._observers = observers

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine of its own where nothing is awaited: this is paid on every request.
        if not self._policies.active or scope["type"] != "http":
            return self.app(scope, receive, send)
        origin = _joined(scope, b"origin")
        method = scope["method"]
        if origin is None and method not in ("GET", "HEAD"):
            return self.app(scope, receive, send)
        asked = preflight_of(scope) if method == "OPTIONS" else None
        policy = self._policies.of(scope, asked.method if asked is not None and asked.method else method)
        if policy is None:
            return self.app(scope, receive, send)
        if asked is not None:
            return self._answer(scope, receive, send, policy=policy, asked=asked)

        def send_with_fields(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message = {**message, "headers": shared_fields(policy, message.get("headers", ()), origin=origin)}
            return send(message)

        return self.app(scope, receive, send_with_fields)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, *, policy: CorsPolicy, asked: Preflight
    ) -> None:
        answer = answer_preflight(policy, asked)
        self._observers.emit(
            "cors.preflight", {"policy": policy.name, "allowed": answer.allowed, "reason": answer.reason}
        )
        if not answer.allowed:
            await self._refuse(scope, receive, send, answer)
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.fields)})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    async def _refuse(scope: Scope, receive: Receive, send: Send, answer: PreflightAnswer) -> None:
        refusal = answer_with(Refusal(answer.status, (), "", 0, answer.detail), title=REFUSED, fields=answer.fields)
        await refuse(scope, receive, send, answer=refusal, fields=(), on_refusal=None)


def preflight_of(scope: Scope) -> Preflight | None:
    """What a CORS-preflight request asks; None for any other (Fetch, section "HTTP requests")."""
    if scope["type"] != "http" or scope["method"] != "OPTIONS":
        return None
    origin, method = _joined(scope, b"origin"), _joined(scope, b"access-control-request-method")
    if origin is None or method is None:
        return None
    if len(method) > LONGEST_TOKEN or not TOKEN.fullmatch(method):
        method = ""
    headers = _joined(scope, b"access-control-request-headers") or ""
    private = _joined(scope, b"access-control-request-private-network") == "true"
    return Preflight(origin, method, headers, private)


def _joined(scope: Scope, wanted: bytes) -> str | None:
    """A field's value; its lines joined where there are several, as RFC 9110, section 5.3 has it.

    So two Origins or two methods are no origin and no method, whichever of them another server would read.
    """
    found: bytes | None = None
    for name, value in scope.get("headers", ()):
        if name == wanted:
            found = value if found is None else found + b", " + value
    return None if found is None else found.decode("latin-1")
