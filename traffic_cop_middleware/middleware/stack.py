"""The outermost callable of a stack: it owns the lifespan and makes the context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.composition.parts import FIRST_OPEN_PATIENCE, Parts
from traffic_cop_middleware.middleware.client_address import ClientAddress
from traffic_cop_middleware.middleware.context import KEY, TrafficContext
from traffic_cop_middleware.middleware.cors import CorsLayer
from traffic_cop_middleware.middleware.cors_policies import CorsPolicies
from traffic_cop_middleware.middleware.lifespan import run_lifespan
from traffic_cop_middleware.middleware.pipeline import check_order, warn_of_cors_inside
from traffic_cop_middleware.middleware.route_table import RouteTable


class Stack:
    """Runs the layers of ours around `app`; what is no request or lifespan passes untouched.

    `build` puts the layers around the app. `layer` is its name in the pipeline's order. While there are no `cors`
    policies their layer, the outermost where there is one, is left out.

    Raises:
        OrderError: another layer of ours stands inside `app` where it can't work.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        layer: str,
        parts: Parts,
        client_address: ClientAddress,
        table: RouteTable,
        cors: CorsPolicies,
        build: Callable[[ASGIApp], ASGIApp],
    ) -> None:
        check_order(layer, app)
        self.app = app
        self._layer = layer
        layers: Any = build(app)
        self._layers = layers
        self._cors = cors
        # Bound once: that costs less to call than an object with a `__call__`.
        self._run: ASGIApp = layers.__call__
        inner: Any = layers.app if isinstance(layers, CorsLayer) else layers
        self._run_without_cors: ASGIApp = inner.__call__
        self._parts = parts
        self._client_address = client_address
        self._table = table
        self._checked = False
        self._begun = False
        inside = next(stacks_inside(app), None)
        if inside is not None:
            parts.share(inside._parts)

    @property
    def settles_sessions(self) -> bool:
        """Whether a session's record that a part right outside asked for is waited for in here."""
        return getattr(self._layers, "settles_sessions", False)

    @property
    def observers(self) -> Observers:
        """Those who hear of this part's events."""
        return self._parts.observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http" or kind == "websocket":  # noqa: PLR1714 - the faster of the two on every request
            if not self._begun or self._parts.opened is None:
                await self._begin(scope)
            context = scope.get(KEY)
            if context is None or type(context) is not TrafficContext:
                scope[KEY] = TrafficContext(scope, self._client_address)
            elif self._client_address.trusting:  # a part of ours outside made it, and this one knows the proxies
                context.believe(self._client_address)
            await (self._run if self._cors.active else self._run_without_cors)(scope, receive, send)
        elif kind == "lifespan":
            parts = self._parts
            await run_lifespan(
                self.app, scope, receive, send, open_parts=self._start, close_parts=parts.stop, work=parts.work
            )
        else:
            await self.app(scope, receive, send)

    async def _begin(self, scope: Scope) -> None:
        """What is due with the first requests."""
        if not self._checked:
            self._check()
        if self._parts.opened is None and self._parts.watches:
            await self._parts.open(patience=FIRST_OPEN_PATIENCE)
        if self._client_address.watched:
            self._client_address.watch(scope)
        self._begun = not self._client_address.watched

    async def _start(self) -> None:
        if not self._checked:
            self._check()
        await self._parts.start()

    def _check(self) -> None:
        """See once, when all is put together, that it can work."""
        check_order(self._layer, self.app)
        self._table.build()
        warn_of_cors_inside(self.app)
        self._checked = True


def stacks_inside(app: ASGIApp) -> Iterator[Stack]:
    """The other parts of ours around an app, outermost first."""
    inside: Any = app
    for _ in range(100):
        if isinstance(inside, Stack):
            yield inside
        inside = getattr(inside, "app", None)
        if inside is None:
            return
