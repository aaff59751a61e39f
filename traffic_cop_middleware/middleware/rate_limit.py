"""The layer that takes tokens for a request, and refuses it where there are none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.rate_limiting import NOTHING, Decision
from traffic_cop_middleware.abstractions.request_session import RequestSession
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.composition.parts import FIRST_OPEN_PATIENCE, Parts
from traffic_cop_middleware.errors import ConfigurationError, CostTooHigh
from traffic_cop_middleware.middleware.context import KEY, TrafficContext
from traffic_cop_middleware.middleware.fields import Header, limit_fields, x_headers
from traffic_cop_middleware.middleware.gateway_matches import GatewayMatches, candidates_of, choose
from traffic_cop_middleware.middleware.marks import Limit, is_marked
from traffic_cop_middleware.middleware.owners import expect_owner
from traffic_cop_middleware.middleware.plans import Plan, Planner
from traffic_cop_middleware.middleware.refusals import Answer, OnRefusal, Refusal, answer_to, answer_with, refuse
from traffic_cop_middleware.middleware.request_state import ask_state
from traffic_cop_middleware.middleware.route_table import Matched, RouteTable

STARTS = ("http.response.start", "websocket.accept")


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
            ("limits_fields", self.fields),
            ("limits_x_headers", self.x_headers),
            ("strict_routes", self.strict_routes),
        ):
            if not isinstance(value, bool):
                raise ConfigurationError(f"{name}={value!r} must be True or False")
        if self.on_refusal is not None and not callable(self.on_refusal):
            raise ConfigurationError(
                f"limits_on_refusal={self.on_refusal!r} must be a function of the connection and the refusal that "
                "returns a response, or None for the usual one"
            )


class RateLimitLayer:
    """Takes from all the buckets that a request owes, or refuses it.

    The context must be in the scope; `trusting` says that its client may be another than the peer. What no gateway
    route takes goes to `unrouted`, past the layer for them. One round trip where the backend is shared, none for a
    standing refusal.
    """

    settles_sessions = True
    """It waits for the session's record before the app runs, so that both questions are one round trip."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        unrouted: ASGIApp,
        settings: RateLimitSettings,
        planner: Planner,
        table: RouteTable,
        parts: Parts,
        observers: Observers,
        trusting: bool,
        gateway: Gateway,
    ) -> None:
        self.app = app
        self._unrouted = unrouted
        self._on_refusal = settings.on_refusal
        self._planner = planner
        self._table = table
        self._parts = parts
        self._observers = observers
        self._trusting = trusting
        self._gateway = gateway
        self._routes = GatewayMatches()
        self._fields = _fields_by(settings)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine of its own where nothing is awaited, and few calls: all of this is paid on every request.
        if self._gateway.active:
            return self._with_gateway(scope, receive, send)
        if not self._table.marked and not self._planner.limits_all:
            return self._unlimited(self._unrouted, scope, receive, send)
        context: TrafficContext = scope[KEY]
        context.route = self._table.find(scope)
        return self._limit(scope, receive, send, context)

    def _with_gateway(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """There are gateway routes: one of them may take the request, and have limits of its own."""
        gateway = self._gateway
        limited = self._table.marked or self._planner.limits_all or gateway.limited
        if not limited and not gateway.keeps_sessions:
            return self._unlimited(self.app, scope, receive, send)
        context: TrafficContext = scope[KEY]
        candidates = context.gateway_routes = candidates_of(self._gateway, scope)
        if candidates:
            return self._along_route(scope, receive, send, context, candidates)
        context.route = self._table.find(scope)
        return self._limit(scope, receive, send, context)

    def _unlimited(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Nothing is limited: only see whether a marked route was added since the table was built."""

        def send_watching(message: Message) -> Awaitable[None]:
            if message["type"] in STARTS and is_marked(scope.get("endpoint")):
                self._table.noticed(scope, self._table.unmatched)
            return send(message)

        session = scope[KEY].session
        if session is not None and session.unsettled and not session.settle_at_once():
            return _settled(session, app, scope, receive, send_watching)
        return app(scope, receive, send_watching)

    async def _along_route(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        context: TrafficContext,
        candidates: Sequence[GatewayRoute],
    ) -> None:
        """Decide the gateway route, and take its limits; where one asks for the session's record, wait for that."""
        session = context.session
        if candidates[0].session and session is not None and session.unsettled:
            await session.settle()
        route = choose(candidates, session)
        context.gateway_route = route
        context.gateway_routes = () if route is None else (route,)
        if route is not None and self._gateway.keeps_sessions:
            expect_owner(context, route, self._gateway)  # it travels with what is taken
        matched = self._routes.matched(route) if route is not None else None
        if matched is None:
            matched = self._table.find(scope)
        context.route = matched
        await self._limit(scope, receive, send, context)

    def _limit(self, scope: Scope, receive: Receive, send: Send, context: TrafficContext) -> Awaitable[None]:
        method = scope.get("method", "GET")
        if context.route.marks.state and context.session is not None:
            ask_state(context.session, context.route.marks.state)
        plan: Plan | None = context.route.plans.get(method)
        if plan is None:
            plan = self._planner.plan(context.route, method, self._table.path(scope))
        opened, peer = self._parts.opened, context.peer
        owed = plan.bills.get(peer[0] if peer and not self._trusting else context.client)
        if owed is None or opened is None or (opened.loop is not None and self._parts.current() is not opened):
            return self._work_out(scope, receive, send, context, plan)
        asked = opened.rate_limits.take(owed)
        if type(asked) is Decision:
            return self._decided(scope, receive, send, context, asked)
        return self._when_decided(scope, receive, send, context, cast("Awaitable[Decision]", asked))

    def _work_out(
        self, scope: Scope, receive: Receive, send: Send, context: TrafficContext, plan: Plan
    ) -> Awaitable[None]:
        if not plan.applied:
            return self._pass_on(scope, receive, send, context)
        return self._take(scope, receive, send, context, plan)

    async def _take(self, scope: Scope, receive: Receive, send: Send, context: TrafficContext, plan: Plan) -> None:
        """Find out what the request owes, where that is not known beforehand, and take it."""
        opened = self._parts.current() or await self._parts.open(patience=FIRST_OPEN_PATIENCE)
        try:
            if plan.reads_session and context.session is not None and context.session.unsettled:
                await context.session.settle()
            if plan.by_client:
                client = context.peer[0] if context.peer and not self._trusting else context.client
                owed, guard, otherwise = plan.client_bill(client, context, scope), None, NOTHING
            else:
                owed, guard, otherwise = await plan.bill(context, scope)
        except CostTooHigh as exc:
            answer = answer_with(Refusal(400, (), "", 0, f"{exc}."))
            await refuse(scope, receive, send, answer=answer, fields=(), on_refusal=self._on_refusal)
            return
        if owed.takes:
            asked = opened.rate_limits.take(owed, guard=guard, otherwise=otherwise)
            decision = asked if isinstance(asked, Decision) else await asked
            await self._decided(scope, receive, send, context, decision)
        else:
            await self._pass_on(scope, receive, send, context)

    async def _when_decided(
        self, scope: Scope, receive: Receive, send: Send, context: TrafficContext, asked: Awaitable[Decision]
    ) -> None:
        await self._decided(scope, receive, send, context, await asked)

    def _decided(
        self, scope: Scope, receive: Receive, send: Send, context: TrafficContext, decision: Decision
    ) -> Awaitable[None]:
        context.decision = decision
        if not decision.admitted:
            answer, fields = self._refusal(context.route, decision), self._fields(decision)
            return refuse(scope, receive, send, answer=answer, fields=fields, on_refusal=self._on_refusal)
        told, source = context.route.told, decision.source
        self._observers.emit("limit.admitted", told if source == "store" else {**told, "source": source})
        return self._pass_on(scope, receive, send, context)

    def _pass_on(self, scope: Scope, receive: Receive, send: Send, context: TrafficContext) -> Awaitable[None]:
        def send_with_fields(message: Message) -> Awaitable[None]:
            kind = message["type"]
            if kind == "http.response.start":
                if scope.get("endpoint") is not context.route.endpoint:
                    self._table.noticed(scope, context.route)
                if context.decision is not None:
                    message = {**message}
                    message["headers"] = [*message.get("headers", ()), *self._fields(context.decision)]
            elif kind == "websocket.accept":
                self._table.noticed(scope, context.route)
            return send(message)

        app = self._unrouted if context.gateway_routes is None else self.app
        session = context.session
        if session is not None and ((session.unsettled and not session.settle_at_once()) or session.state is not None):
            return _settled(session, app, scope, receive, send_with_fields)
        return app(scope, receive, send_with_fields)

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


async def _settled(session: RequestSession, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Go on when the session's record has come; it was asked in the same round trip."""
    if session.unsettled:
        await session.settle()
    if session.state is not None:
        await session.state.settle()
    await app(scope, receive, send)


def _fields_by(settings: RateLimitSettings) -> Callable[[Decision], Sequence[Header]]:
    """The function that gives a response its fields."""
    if settings.fields and settings.x_headers:
        return lambda decision: [*limit_fields(decision), *x_headers(decision)]
    if settings.fields:
        return limit_fields
    return x_headers if settings.x_headers else lambda decision: ()
