"""The layer that takes tokens for a request, and refuses it where there are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.rate_limiting import Decision
from traffic_cop_middleware.composition.parts import Parts
from traffic_cop_middleware.errors import ConfigurationError, CostTooHigh
from traffic_cop_middleware.middleware.context import KEY, TrafficContext
from traffic_cop_middleware.middleware.fields import Header, limit_fields, x_headers
from traffic_cop_middleware.middleware.marks import Limit, is_marked
from traffic_cop_middleware.middleware.plans import Planner
from traffic_cop_middleware.middleware.refusals import Answer, OnRefusal, Refusal, answer_to, answer_with, refuse
from traffic_cop_middleware.middleware.route_table import Matched, RouteTable

STARTS = ("http.response.start", "websocket.accept")
FIRST_OPEN_PATIENCE = 0.05
"""Seconds that a first request waits for the backend where no lifespan opened it; the deadline bounds what follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitSettings:
    """What the limiter does with a request. Checked when made."""

    limits: tuple[Limit, ...] = ()
    fields: bool = True
    x_headers: bool = False
    on_refusal: OnRefusal | None = None
    strict_routes: bool = False

    def __post_init__(self) -> None:
        for name, value in (
            ("fields", self.fields),
            ("x_headers", self.x_headers),
            ("strict_routes", self.strict_routes),
        ):
            if not isinstance(value, bool):
                raise ConfigurationError(f"{name}={value!r} must be True or False")
        if self.on_refusal is not None and not callable(self.on_refusal):
            raise ConfigurationError(
                f"on_refusal={self.on_refusal!r} must be a function of the connection and the refusal that returns a "
                "response, or None for the usual one"
            )


class RateLimitLayer:
    """Takes from all the buckets that a request owes, or refuses it.

    The context must be in the scope; `trusting` says that its client may be another than the peer. One round trip where
    the backend is shared, none for a standing refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: RateLimitSettings,
        planner: Planner,
        table: RouteTable,
        parts: Parts,
        observers: Observers,
        trusting: bool,
    ) -> None:
        self.app = app
        self._on_refusal = settings.on_refusal
        self._planner = planner
        self._table = table
        self._parts = parts
        self._observers = observers
        self._trusting = trusting
        self._fields = _fields_by(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Every function call here is paid on every request, so the usual path makes few.
        table, planner = self._table, self._planner
        if not table.marked and not planner.limits_all:
            await self.app(scope, receive, self._watching_for_marks(scope, send))
            return
        context: TrafficContext = scope[KEY]
        matched = context.route = table.find(scope)
        method = scope.get("method", "GET")
        plan = matched.plans.get(method) if planner.plain else None
        if plan is None:
            plan = planner.plan(matched, method, table.path(scope))
        decision: Decision | None = None
        if plan.applied:
            opened = self._parts.opened
            if opened is None or opened.loop is not None:
                opened = self._parts.current() or await self._parts.open(patience=FIRST_OPEN_PATIENCE)
            try:
                if plan.by_client:
                    peer = scope.get("client")
                    client = peer[0] if peer and not self._trusting else None
                    owed = plan.bills.get(client) or plan.client_bill(client, context, scope)
                else:
                    owed = await plan.bill(context, scope)
            except CostTooHigh as exc:
                answer = answer_with(Refusal(400, (), "", 0, f"{exc}."))
                await refuse(scope, receive, send, answer=answer, fields=(), on_refusal=self._on_refusal)
                return
            if owed.takes:
                asked = opened.rate_limits.take(owed)
                decision = context.decision = asked if isinstance(asked, Decision) else await asked
                if not decision.admitted:
                    answer, fields = self._refusal(matched, decision), self._fields(decision)
                    await refuse(scope, receive, send, answer=answer, fields=fields, on_refusal=self._on_refusal)
                    return
                self._observers.emit("limit.admitted", {"route": matched.template, "source": decision.source})

        def send_with_fields(message: Message) -> Any:
            if message["type"] == "http.response.start":
                if scope.get("endpoint") is not matched.endpoint:
                    table.noticed(scope, matched)
                if decision is not None:
                    message = {**message, "headers": [*message.get("headers", ()), *self._fields(decision)]}
            elif message["type"] == "websocket.accept":
                table.noticed(scope, matched)
            return send(message)

        await self.app(scope, receive, send_with_fields)

    def _watching_for_marks(self, scope: Scope, send: Send) -> Send:
        """Nothing is limited: only see whether a marked route was added since the table was built."""

        def send_watching(message: Message) -> Any:
            if message["type"] in STARTS and is_marked(scope.get("endpoint")):
                self._table.noticed(scope, self._table.unmatched)
            return send(message)

        return send_watching

    def _refusal(self, matched: Matched, decision: Decision) -> Answer:
        answer = answer_to(decision)
        refusal = answer.refusal
        told = {
            "route": matched.template,
            "source": decision.source,
            "limits": refusal.limits,
            "key": refusal.key,
            "retry_after": refusal.retry_after,
        }
        self._observers.emit("limit.refused", told)
        return answer


def _fields_by(settings: RateLimitSettings) -> Callable[[Decision], Sequence[Header]]:
    """The function that gives a response its fields."""
    if settings.fields and settings.x_headers:
        return lambda decision: [*limit_fields(decision), *x_headers(decision)]
    if settings.fields:
        return limit_fields
    return x_headers if settings.x_headers else lambda decision: ()
