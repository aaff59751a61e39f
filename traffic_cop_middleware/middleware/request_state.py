"""`state_of`: the state of whoever sends a request, asked for with their session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.requests import HTTPConnection

from traffic_cop_middleware.abstractions.request_session import RequestSession
from traffic_cop_middleware.abstractions.state.request_state import PARTS, RequestState
from traffic_cop_middleware.middleware.marks import Marks, marks_of

MOST_DEEP = 20


def state_of(connection: HTTPConnection) -> RequestState:
    """The state of this request's session and user: `state.session` and `state.user` are mappings that write what
    changed when the response starts; `state.tenant` has everything else of their tenant.

    Fit for FastAPI: `state: RequestState = Depends(state_of)`; the state then comes in the session's round trip. So it
    does where the endpoint is marked with `@uses_state()`. Elsewhere `await state.user.load()` reads it.

    Raises:
        LookupError: the request does not pass sessions of ours.
    """
    session = connection.scope.get("session")
    if isinstance(session, RequestSession):
        session.mark_accessed()
        return state_with(session)
    raise LookupError(
        "this request passes no sessions of Traffic Cop, so it is nobody's: write TrafficCop(session_secret=…) and "
        "cop.install(app). State of the app itself is in cop.state"
    )


def state_with(session: RequestSession) -> RequestState:
    """The state that hangs on a session's handle.

    Raises:
        LookupError: the backend keeps no state.
    """
    state = session.state
    if state is None:
        kept = session.house.state
        if kept is None:
            raise LookupError("this backend keeps no state. Use memory:// or redis://, or TrafficCop instead of a part")
        state = session.state = RequestState(kept, session)
    return state


def state_marks(route: Any, marks: Marks) -> Marks:
    """The marks on an endpoint, and what its FastAPI dependencies say of the state."""
    parts = dict.fromkeys(marks.state)
    dependants = [getattr(route, "dependant", None)]
    for _ in range(MOST_DEEP):
        below: list[Any] = []
        for dependant in dependants:
            for each in getattr(dependant, "dependencies", ()):
                parts.update(dict.fromkeys(PARTS if each.call is state_of else marks_of(each.call).state))
                below.append(each)
        if not below:
            break
        dependants = below
    return replace(marks, state=tuple(parts)) if len(parts) != len(marks.state) else marks


def ask_state(session: RequestSession, parts: tuple[str, ...]) -> None:
    """Ask for the state that an endpoint reads, without waiting; of nobody's session there is none.

    Raises:
        StoreError: the backend is away.
    """
    if session.house.state is not None:
        state_with(session).ask(parts)
