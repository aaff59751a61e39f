"""The layer that takes tokens for a request, and refuses it where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.rate_limiting import Decision
from traffic_cop_middleware.composition.parts import Parts
from traffic_cop_middleware.errors import ConfigurationError, CostTooHigh
from traffic_cop_middleware.middleware.context import TrafficContext
from traffic_cop_middleware.middleware.fields import Header, limit_fields, x_headers
from traffic_cop_middleware.middleware.marks import Limit, is_marked
from traffic_cop_middleware.middleware.plans import Planner
from traffic_cop_middleware.middleware.refusals import OnRefusal, Refusal, refusal_of, refuse
from traffic_cop_middleware.middleware.route_table import Matched, RouteTable, route_path

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

    The context must be in the scope. One round trip where the backend is shared, none for a standing refusal.
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
    ) -> None:
        self.app = app
        self._settings = settings
        self._planner = planner
        self._table = table
        self._parts = parts
        self._observers = observers
        self._tells = settings.fields or settings.x_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: TrafficContext = scope["traffic_cop"]
        table = self._table
        if not table.marked and not self._planner.limits_all:
            await self.app(scope, receive, self._watching_for_marks(scope, send))
            return
        matched = context.route = table.find(scope)
        root_path = scope.get("root_path", "")
        path = route_path(scope["path"], root_path) if root_path else scope["path"]
        plan = self._planner.plan(matched, scope.get("method", "GET"), path)
        decision: Decision | None = None
        if plan.applied:
            opened = self._parts.current() or await self._parts.open(patience=FIRST_OPEN_PATIENCE)
            try:
                owed = plan.client_bill(context, scope) if plan.by_client else await plan.bill(context, scope)
            except CostTooHigh as exc:
                await self._refuse(scope, receive, send, Refusal(400, (), "", 0, f"{exc}."), None)
                return
            if owed.takes:
                answer = opened.rate_limits.take(owed)
                decision = answer if isinstance(answer, Decision) else await answer
                context.decision = decision
                self._tell(matched, decision)
                if not decision.admitted:
                    await self._refuse(scope, receive, send, refusal_of(decision), decision)
                    return
        told = decision if self._tells else None

        def send_with_fields(message: Message) -> Any:
            if message["type"] == "http.response.start":
                if scope.get("endpoint") is not matched.endpoint:
                    table.noticed(scope, matched)
                if told is not None:
                    message = {**message, "headers": [*message.get("headers", ()), *self._fields(told)]}
            return send(message)

        await self.app(scope, receive, send_with_fields)

    def _watching_for_marks(self, scope: Scope, send: Send) -> Send:
        """Nothing is limited: only see whether a marked route was added since the table was built."""

        def send_watching(message: Message) -> Any:
            if message["type"] == "http.response.start" and is_marked(scope.get("endpoint")):
                self._table.build()
            return send(message)

        return send_watching

    def _fields(self, decision: Decision) -> Sequence[Header]:
        fields = limit_fields(decision) if self._settings.fields else ()
        return [*fields, *x_headers(decision.standings())] if self._settings.x_headers else fields

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, refusal: Refusal, decision: Decision | None
    ) -> None:
        await refuse(
            scope,
            receive,
            send,
            refusal=refusal,
            fields=self._fields(decision) if decision is not None else (),
            on_refusal=self._settings.on_refusal,
        )

    def _tell(self, matched: Matched, decision: Decision) -> None:
        attributes: dict[str, Any] = {"route": matched.template, "source": decision.source}
        if decision.admitted:
            self._observers.emit("limit.admitted", attributes)
            return
        refusal = refusal_of(decision)
        attributes |= {"limits": refusal.limits, "key": refusal.key, "retry_after": refusal.retry_after}
        self._observers.emit("limit.refused", attributes)
