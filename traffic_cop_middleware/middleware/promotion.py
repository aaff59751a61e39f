"""State and its promotion where they stand alone, inside of sessions of ours."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from traffic_cop_middleware.abstractions.request_session import RequestSession
from traffic_cop_middleware.composition.parts import FIRST_OPEN_PATIENCE, Parts
from traffic_cop_middleware.middleware.request_state import state_with
from traffic_cop_middleware.middleware.route_table import RouteTable


class PromotionLayer:
    """Lends its state to the sessions of the part outside, which write it as their own when the response starts, and
    reads what the endpoint names (`@uses_state`).

    In a whole stack there is no such layer: there the sessions have the state from the beginning.
    """

    def __init__(self, app: ASGIApp, *, parts: Parts, table: RouteTable) -> None:
        self.app = app
        self._parts = parts
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened = self._parts.current() or await self._parts.open(patience=FIRST_OPEN_PATIENCE)
        session = scope.get("session")
        if isinstance(session, RequestSession):
            if session.house.state is not opened.state:
                session.house.state = opened.state
            named = self._table.find(scope).marks.state
            if named:
                state = state_with(session)
                state.ask(name for name in named if state.lacks(name))
                await state.settle()
        await self.app(scope, receive, send)
