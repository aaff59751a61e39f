"""Which layers stand around an app, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import ASGIApp

from traffic_cop_middleware.abstractions.balancing.affinity_tokens import AffinityTokens
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.composition.parts import Parts
from traffic_cop_middleware.cop.counting import Counting
from traffic_cop_middleware.cop.live import Live
from traffic_cop_middleware.cop.needs import Needs
from traffic_cop_middleware.middleware.client_address import ClientAddress
from traffic_cop_middleware.middleware.cors import CorsLayer
from traffic_cop_middleware.middleware.marks import Marks
from traffic_cop_middleware.middleware.owners import AffinityCookies
from traffic_cop_middleware.middleware.plans import Planner
from traffic_cop_middleware.middleware.promotion import PromotionLayer
from traffic_cop_middleware.middleware.rate_limit import RateLimitLayer, RateLimitSettings
from traffic_cop_middleware.middleware.route_table import RouteTable
from traffic_cop_middleware.middleware.routing import RoutingLayer
from traffic_cop_middleware.middleware.sessions import SessionLayer, SessionLayerSettings
from traffic_cop_middleware.middleware.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Puts the layers of one cop around apps. `counting` is `None` where nothing is counted."""

    limits: RateLimitSettings
    session_layer: SessionLayerSettings
    counting: Counting | None
    needs: Needs
    planner: Planner
    live: Live
    parts: Parts
    observers: Observers
    client_address: ClientAddress

    def set_up(self, stack: Stack, app: ASGIApp, layer: str) -> None:
        """Make a middleware the stack around `app`: the whole one ("traffic_cop"), or that of one part.

        Raises:
            OrderError: another stack of ours stands inside `app` where it can't work.
        """
        table = RouteTable(app, strict=self.limits.strict_routes, check=self._check_marks)
        Stack.__init__(
            stack,
            app,
            layer=layer,
            parts=self.parts,
            client_address=self.client_address,
            table=table,
            cors=self.live.cors,
            build=lambda inner: self._around(inner, table, layer),
        )

    def _around(self, app: ASGIApp, table: RouteTable, layer: str) -> ASGIApp:
        """From the innermost to the outermost."""
        inside = app
        if layer == "promotion":
            return PromotionLayer(app, parts=self.parts, table=table)
        if layer in ("traffic_cop", "routing"):
            app = self._router(app)
        if layer in ("traffic_cop", "rate_limit"):
            app = self._limiter(app, table, unrouted=inside)
        if self.needs.sessions:
            app = SessionLayer(app, settings=self.session_layer, parts=self.parts)
        if layer == "traffic_cop":
            app = CorsLayer(app, policies=self.live.cors, observers=self.observers)
        recorder = self.parts.recorder
        if self.counting is not None and recorder is not None:
            app = self.counting.layer(app, recorder=recorder, table=table, gateway=self.live.gateway)
        return app

    def _router(self, app: ASGIApp) -> ASGIApp:
        keys = self.parts.affinity_keys
        cookies = AffinityCookies(AffinityTokens(keys), self.session_layer.cookie) if keys else None
        return RoutingLayer(app, gateway=self.live.gateway, observers=self.observers, cookies=cookies)

    def _limiter(self, app: ASGIApp, table: RouteTable, *, unrouted: ASGIApp) -> ASGIApp:
        return RateLimitLayer(
            app,
            unrouted=unrouted,
            settings=self.limits,
            planner=self.planner,
            table=table,
            parts=self.parts,
            observers=self.observers,
            trusting=self.client_address.trusting,
            gateway=self.live.gateway,
        )

    def _check_marks(self, template: str, marks: Marks) -> None:
        self.needs.check_keys(marks.limits, f"{template}: ")
        self.planner.learn(template, marks.limits)
