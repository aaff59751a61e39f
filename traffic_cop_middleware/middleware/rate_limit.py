"""The layer that takes tokens for a request, and refuses it where there are none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

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
from traffic_cop_middleware.middleware.plans import Plan, Planner
from traffic_cop_middleware.middleware.refusals import Answer, OnRefusal, Refusal, answer_to, answer_with, refuse
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

    settles_sessions = True
    """It waits for the session's record before the app runs, so that both questions are one round trip."""

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
        gateway: Gateway,
    ) -> None:
        self.app = app
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
        table, planner = self._table, self._planner
        if not table.marked and not planner.limits_all and not self._gateway.limited:
            send = self._watching_for_marks(scope, send)
            return self._settled(scope, receive, send) if self._unsettled(scope) else self.app(scope, receive, send)
        context: TrafficContext = scope[KEY]
        if self._gateway.table and (candidates := candidates_of(self._gateway, scope)):
            return self._along_route(scope, receive, send, context, candidates)
        matched = context.route = table.find(scope)
        return self._limit(scope, receive, send, context, matched)

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
        context.gateway_routes = () if route is None else (route,)
        matched = self._routes.matched(route) if route is not None else None
        if matched is None:
            matched = self._table.find(scope)
        context.route = matched
        await self._limit(scope, receive, send, context, matched)

    def _limit(
        self, scope: Scope, receive: Receive, send: Send, context: TrafficContext, matched: Matched
    ) -> Awaitable[None]:
        table, planner = self._table, self._planner
        method = scope.get("method", "GET")
        plan: Plan | None = matched.plans.get(method) if planner.plain else None
        if plan is None:
            plan = planner.plan(matched, method, table.path(scope))
        if not plan.applied:
            return self._pass_on(scope, receive, send, matched, None)
        opened = self._parts.opened
        if plan.by_client and opened is not None and (opened.loop is None or self._parts.current() is opened):
            peer = scope.get("client")
            owed = plan.bills.get(peer[0] if peer and not self._trusting else context.client)
            if owed is not None:
                asked = opened.rate_limits.take(owed)
                if isinstance(asked, Decision):
                    return self._decided(scope, receive, send, context, asked)
                return self._when_decided(scope, receive, send, context, asked)
        return self._work_out(scope, receive, send, context, plan)

    async def _work_out(self, scope: Scope, receive: Receive, send: Send, context: TrafficContext, plan: Plan) -> None:
        """Find out what the request owes, where that is not known beforehand."""
        opened = self._parts.current() or await self._parts.open(patience=FIRST_OPEN_PATIENCE)
        try:
            if plan.reads_session and context.session is not None and context.session.unsettled:
                await context.session.settle()
            if plan.by_client:
                peer = scope.get("client")
                client = peer[0] if peer and not self._trusting else context.client
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
            await self._pass_on(scope, receive, send, context.route, None)

    async def _when_decided(
        self, scope: Scope, receive: Receive, send: Send, context: TrafficContext, asked: Awaitable[Decision]
    ) -> None:
        await self._decided(scope, receive, send, context, await asked)

    def _decided(
        self, scope: Scope, receive: Receive, send: Send, context: TrafficContext, decision: Decision
    ) -> Awaitable[None]:
        context.decision = decision
        matched = context.route
        if decision.admitted:
            self._observers.emit("limit.admitted", {"route": matched.template, "source": decision.source})
            return self._pass_on(scope, receive, send, matched, decision)
        answer, fields = self._refusal(matched, decision), self._fields(decision)
        return refuse(scope, receive, send, answer=answer, fields=fields, on_refusal=self._on_refusal)

    def _pass_on(
        self, scope: Scope, receive: Receive, send: Send, matched: Matched, decision: Decision | None
    ) -> Awaitable[None]:
        def send_with_fields(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                if scope.get("endpoint") is not matched.endpoint:
                    self._table.noticed(scope, matched)
                if decision is not None:
                    message = {**message, "headers": [*message.get("headers", ()), *self._fields(decision)]}
            elif message["type"] == "websocket.accept":
                self._table.noticed(scope, matched)
            return send(message)

        if self._unsettled(scope):
            return self._settled(scope, receive, send_with_fields)
        return self.app(scope, receive, send_with_fields)

    @staticmethod
    def _unsettled(scope: Scope) -> bool:
        """Whether there is a session whose record is still on its way."""
        session: RequestSession | None = scope[KEY].session
        return session is not None and session.unsettled and not session.settle_at_once()

    async def _settled(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on when the session's record has come; it was asked in the same round trip."""
        await scope[KEY].session.settle()
        await self.app(scope, receive, send)

    def _watching_for_marks(self, scope: Scope, send: Send) -> Send:
        """Nothing is limited: only see whether a marked route was added since the table was built."""

        def send_watching(message: Message) -> Awaitable[None]:
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
