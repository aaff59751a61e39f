"""The layer that counts requests and WebSockets: with a stopwatch around the app, and nothing that waits.

A request is counted when its response has ended, under what it has reached by then. The duration goes to the moment
when the last byte was handed to the server; what an app does after that (background tasks) is not in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Collection, Mapping
from time import perf_counter
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.abstractions.business.costs import CostOf
from traffic_cop_middleware.abstractions.destinations import TheApp
from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.business import COST
from traffic_cop_middleware.abstractions.metrics.figures import Name
from traffic_cop_middleware.abstractions.metrics.recorder import Recorder
from traffic_cop_middleware.abstractions.metrics.series import (
    DISCONNECTED,
    MOST_PENDING,
    OTHER_METHOD,
    UNMATCHED,
    Exemplar,
    Series,
)
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.abstractions.sessions import Owner
from traffic_cop_middleware.abstractions.verified_tokens import Verified
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.middleware.access_log import AccessLog
from traffic_cop_middleware.middleware.context import KEY, TrafficContext
from traffic_cop_middleware.middleware.counted_elsewhere import CountedElsewhere
from traffic_cop_middleware.middleware.exposition import Exposition
from traffic_cop_middleware.middleware.gateway_matches import candidates_of
from traffic_cop_middleware.middleware.metered_socket import MeteredSocket
from traffic_cop_middleware.middleware.route_table import METHODS, RouteTable
from traffic_cop_middleware.middleware.route_table import UNMATCHED as NOT_LOOKED_UP

STREAM_AFTER = 30.0
"""Seconds after which a response that comes in pieces is a long stream, with figures of its own."""
STREAMS = (b"text/event-stream", b"application/grpc", b"multipart/x-mixed-replace")
"""Content types that are streams from the start."""
MOST_UNDER_WAY = 10_000
"""Requests under way that are told apart by their route."""


class MetricsLayer:
    """Counts what passes. The context must be in the scope.

    `elsewhere` says what FastAPI counts too, `cost` what a request costs.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        recorder: Recorder,
        table: RouteTable,
        gateway: Gateway,
        exposition: Exposition | None = None,
        access_log: AccessLog | None = None,
        elsewhere: CountedElsewhere | None = None,
        cost: CostOf | None = None,
    ) -> None:
        self.app = app
        self._recorder = recorder
        self._table = table
        self._gateway = gateway
        self._exposition = exposition
        self._access_log = access_log
        self._elsewhere = elsewhere
        self._cost = cost
        self._templates: Mapping[int, str] = {}
        self._generation = -1
        self._under_way: dict[TrafficContext, Scope] = {}
        recorder.gauges.append(self._gauges)
        recorder.routes.append(self._routes)

    @property
    def settles_sessions(self) -> bool:
        """Whether a session's record that a part right outside asked for is waited for in here."""
        return getattr(self.app, "settles_sessions", False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: PLR0915
        # One coroutine and two closures, one of them plain: each further call would be paid on every request.
        if scope["type"] != "http":
            await self._socket(scope, receive, send)
            return
        if self._exposition is not None and self._exposition.takes(scope):
            await self._exposition(scope, receive, send)
            return
        context: TrafficContext = scope[KEY]
        root_path = scope.get("root_path")  # a mount changes it
        status = bytes_in = bytes_out = 0
        first = end = 0.0
        gone = pieces = stream = False
        elsewhere = self._elsewhere
        told = elsewhere is not None and elsewhere.enters(scope)
        failed: BaseException | None = None
        head: Any = ()

        async def receive_counted() -> Message:
            nonlocal bytes_in, gone
            message = await receive()
            if message["type"] == "http.request":
                bytes_in += len(message.get("body", b""))
            elif not end:
                gone = True
            return message

        def send_counted(message: Message) -> Awaitable[None]:
            nonlocal status, first, end, bytes_out, pieces, head, stream, told
            kind = message["type"]
            if kind == "http.response.body":
                body = message.get("body")
                if body:
                    bytes_out += len(body)
                if not message.get("more_body"):
                    end = perf_counter()
                elif not pieces:
                    pieces = True
                    stream = _is_stream(head)
            elif kind == "http.response.start":
                first = perf_counter()
                status = message["status"]
                head = message.get("headers", ())
                if elsewhere is not None and not told:
                    told = elsewhere.counts(scope)
            elif kind == "http.response.pathsend":
                end = perf_counter()
            return send(message)

        self._under_way[context] = scope
        start = perf_counter()
        try:
            await self.app(scope, receive_counted, send_counted)
        except BaseException as exc:
            failed = exc
            raise
        finally:
            del self._under_way[context]
            if failed is not None:
                gone = gone or _means_disconnect(failed, send)
            elif end:
                gone = False
            if not end:
                end = perf_counter()
                status = status or 500
            if gone:
                status, failed = DISCONNECTED, None
            seconds = end - start
            recorder = self._recorder
            if end >= recorder.due:
                recorder.turn()
            if pieces and seconds > STREAM_AFTER:
                stream = True
            series = None if stream else recorder.fast.get((id(scope.get("endpoint")), scope["method"], status))
            if series is None:
                series = self._series(scope, context, root_path, status, stream=stream)
            pending = series.pending
            pending.append((seconds, first - start if first else 0.0, bytes_in, bytes_out))
            if len(pending) >= MOST_PENDING:
                with recorder.counting:  # where two loops add up at once, one would undo what the other does
                    series.settle()
            if gone:
                series.disconnects += 1
            elif failed is not None:
                series.exceptions += 1
            if seconds > series.slowest:
                series.note(Exemplar(seconds, context.traceparent[3:35], recorder.clock()))
            cost = 0
            if self._cost is not None:
                template = self._template(scope, context, root_path)
                method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
                cost = self._costs(template, method, status, seconds, bytes_out)
            if context.session is not None or context.decision is not None:
                self._use(context, status, bytes_in, bytes_out, cost)
            if elsewhere is not None and not stream and (told or (not first and elsewhere.gave_up(scope))):
                series.count_elsewhere(seconds)
            if self._access_log is not None:
                self._access_log.write(
                    scope,
                    context,
                    route=self._template(scope, context, root_path),
                    status=status,
                    seconds=seconds,
                    bytes_in=bytes_in,
                    bytes_out=bytes_out,
                    failed=failed,
                )

    def _series(
        self, scope: Scope, context: TrafficContext, root_path: str | None, status: int, *, stream: bool
    ) -> Series:
        method = scope["method"]
        known = method in METHODS
        key = (self._template(scope, context, root_path), method if known else OTHER_METHOD, status)
        fast = self._recorder.fast
        series = self._recorder.series(key, stream=stream)
        endpoint = scope.get("endpoint")
        if known and not stream and endpoint is not None and self._templates.get(id(endpoint)):
            fast[id(endpoint), method, status] = series
        return series

    def _template(self, scope: Scope, context: TrafficContext, root_path: str | None) -> str:
        """Of the route that took the request; where none did, of the one that would have."""
        endpoint = scope.get("endpoint")
        if endpoint is not None:
            template = self._template_of(endpoint, scope)
            if template is not None:
                return template or self._looked_up(scope, context, root_path, endpoint)
            return UNMATCHED  # behind an app that shows no routes
        route = context.gateway_route
        if route is None and self._gateway.active:  # answered before one was chosen: which it would have been
            route = next(iter(candidates_of(self._gateway, scope)), None)
        if route is not None and not isinstance(action_of(route).destination, TheApp):
            return route.pattern
        return self._looked_up(scope, context, root_path, None)

    def _template_of(self, endpoint: object, scope: Scope | None) -> str | None:
        """The only template that leads to an endpoint; empty where several do, `None` where none is known."""
        table = self._table
        for _ in range(2):
            if self._generation != table.generation:
                self._templates = table.templates()
                self._generation = table.generation
            template = self._templates.get(id(endpoint))
            if template is not None or scope is None:
                return template
            table.noticed(scope, table.unmatched)
        return None

    def _looked_up(self, scope: Scope, context: TrafficContext, root_path: str | None, endpoint: object | None) -> str:
        matched = context.route
        if matched is NOT_LOOKED_UP or (endpoint is not None and matched.endpoint is not endpoint):
            as_it_came = {name: value for name, value in scope.items() if name not in ("endpoint", "path_params")}
            matched = self._table.find({**as_it_came, "root_path": root_path or ""})
        return matched.template

    def _costs(self, template: str, method: str, status: int, seconds: float, bytes_out: int) -> int:
        """What a request costs, in millionths; it is counted by its route."""
        if self._cost is None:
            return 0
        cost = self._cost(template, method, status, seconds, bytes_out)
        if cost:
            with self._recorder.counting:
                self._recorder.running.business.add((COST, template), cost)
        return cost

    def _use(self, context: TrafficContext, status: int, bytes_in: int, bytes_out: int, cost: int) -> None:
        """Count for the verified user, tenant, plan and API key."""
        usage = self._recorder.running.usage
        session = context.session
        owner: Owner | Verified | None = session.standing if session is not None else None
        if session is not None and session.unsettled and _was_refused(context):
            owner = session.verified  # no refusal waits for the record: the token is genuine, and may have been revoked
        if owner is not None and owner.subject is not None:
            usage.add("user", owner.subject, status, bytes_in, bytes_out, cost=cost)
            for kind in ("tenant", "plan"):
                name = owner.claims.get(kind)
                if isinstance(name, (str, int)) and name != "":
                    usage.add(kind, str(name), status, bytes_in, bytes_out, cost=cost)
        api_key = getattr(context, "api_key", None)
        if api_key is not None:
            usage.add("api_key", api_key, status, bytes_in, bytes_out, cost=cost)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: TrafficContext = scope[KEY]
        root_path = scope.get("root_path")
        metered, start = MeteredSocket(receive, send), perf_counter()
        self._under_way[context] = scope
        try:
            await self.app(scope, metered.receive, metered.send)
        except BaseException:
            metered.failed = True
            raise
        finally:
            del self._under_way[context]
            self._recorder.turn()
            template = self._template(scope, context, root_path)
            with self._recorder.counting:
                metered.count(self._recorder.running, template)
            seconds = perf_counter() - start
            cost = self._costs(template, "WEBSOCKET", metered.status, seconds, metered.bytes_out)
            self._use(context, metered.status, metered.bytes_in, metered.bytes_out, cost)

    def _routes(self) -> Mapping[str, Collection[str]]:
        found = {template: set(methods) for template, methods in self._table.declared().items()}
        for route in self._gateway.table:
            if not isinstance(action_of(route).destination, TheApp):
                found.setdefault(route.pattern, set()).update(route.methods or ())
        return found

    def _gauges(self) -> Mapping[Name, int]:
        found: dict[Name, int] = defaultdict(int)
        for at, (context, scope) in enumerate(self._under_way.copy().items()):  # others begin and end
            endpoint, route = scope.get("endpoint"), context.gateway_route
            template = self._template_of(endpoint, None) if endpoint is not None and at < MOST_UNDER_WAY else None
            if not template and route is not None and endpoint is None:
                template = route.pattern
            if not template:
                template = context.route.template
            if scope["type"] == "websocket":
                found[families.SOCKETS_OPEN, template] += 1
            else:
                method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
                found[families.IN_FLIGHT, template, method] += 1
                if self._elsewhere is not None and self._elsewhere.counts(scope):
                    found[families.IN_FLIGHT_ELSEWHERE, template, method] += 1
        return found


def _means_disconnect(failed: BaseException, send: Send) -> bool:
    """Whether an app was left because its client, or the server, gave the request up.

    A server says so by an OSError from `send` (ASGI 2.4). One of the app's own, of a file for example, is none: only
    where it was raised `send` was called.
    """
    if isinstance(failed, ClientDisconnect) or not isinstance(failed, Exception):
        return True
    if not isinstance(failed, OSError):
        return False
    code = getattr(getattr(send, "__func__", send), "__code__", None)
    trace = failed.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is code:
            return True
        trace = trace.tb_next
    return False


def _was_refused(context: TrafficContext) -> bool:
    return context.decision is not None and not context.decision.admitted


def _is_stream(headers: Any) -> bool:
    return any(name.lower() == b"content-type" and value.lower().startswith(STREAMS) for name, value in headers)
