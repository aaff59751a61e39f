"""Routes for clients: new tokens, logging out, one's own sessions, and the public keys."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from traffic_cop_middleware.abstractions.session import Session
from traffic_cop_middleware.abstractions.session_management import SessionManagementAbstraction
from traffic_cop_middleware.abstractions.sessions import SessionAbstraction
from traffic_cop_middleware.errors import ConfigurationError, InvalidToken
from traffic_cop_middleware.middleware.sessions import require_session, session_of

MOST_BODY = 8192
PUBLIC_FOR = 300
"""Seconds that others may keep the public keys."""
NO_STORE = {"Cache-Control": "no-store"}

Parts = Callable[[], tuple[SessionAbstraction, SessionManagementAbstraction]]


def endpoints(prefix: str, parts: Parts) -> list[Route]:
    """The routes below `prefix`, and `/.well-known/jwks.json`. `parts` gives what is open when one is called.

    Raises:
        ConfigurationError: `prefix` is no path.
    """
    if not isinstance(prefix, str) or (prefix and not prefix.startswith("/")) or prefix.endswith("/"):
        raise ConfigurationError(f"cop.session_routes(prefix={prefix!r}): a path such as '/auth', or '' for none")

    async def refresh(request: Request) -> Response:
        """`{"refresh_token": …}` as JSON or a form; new tokens (RFC 6749, section 6)."""
        token = (await _body(request)).get("refresh_token")
        if not isinstance(token, str) or not token:
            return _oauth_error("invalid_request", "Send the refresh token as refresh_token, in JSON or a form.")
        try:
            tokens = await session_of(request).refresh(token)
        except InvalidToken as exc:
            return _oauth_error("invalid_grant", f"{str(exc)[:1].upper()}{str(exc)[1:]}.")
        return JSONResponse(tokens._asdict(), headers=NO_STORE)

    async def logout(request: Request) -> Response:
        await session_of(request).logout()
        return Response(status_code=204)

    async def logout_all(request: Request) -> Response:
        """End all of one's sessions, with `?others=true` all but this one."""
        session = _own(request)
        others = request.query_params.get("others", "").lower() in ("1", "true", "yes")
        ended = await parts()[1].revoke_user(str(session.subject), keep=session.id if others else None)
        if not others:
            await session.logout()
        return JSONResponse({"ended": ended}, headers=NO_STORE)

    async def sessions(request: Request) -> Response:
        """One's sessions, oldest first."""
        session = _own(request)
        listed = await parts()[1].sessions_of(str(session.subject))
        shown = [{**info._asdict(), "current": info.id == session.id} for info in listed]
        return JSONResponse({"sessions": shown}, headers=NO_STORE)

    async def end_session(request: Request) -> Response:
        session = _own(request)
        ended = await parts()[1].revoke(str(session.subject), request.path_params["id"])
        return Response(status_code=204 if ended else 404)

    async def jwks(request: Request) -> Response:
        headers = {"Cache-Control": f"public, max-age={PUBLIC_FOR}"}
        return JSONResponse(dict(parts()[0].codec.jwks()), headers=headers, media_type="application/jwk-set+json")

    def route(path: str, endpoint: Callable[[Request], Awaitable[Response]], method: str) -> Route:
        return Route(prefix + path, endpoint, methods=[method], include_in_schema=False)

    return [
        route("/refresh", refresh, "POST"),
        route("/logout", logout, "POST"),
        route("/logout-all", logout_all, "POST"),
        route("/sessions", sessions, "GET"),
        route("/sessions/{id}", end_session, "DELETE"),
        Route("/.well-known/jwks.json", jwks, methods=["GET"], include_in_schema=False),
    ]


def _own(request: Request) -> Session:
    """The session of somebody who is logged in here.

    Another issuer names its users as it likes, so who has its token for "alice" is not our alice.

    Raises:
        HTTPException: 401 where nobody is logged in, 403 where a token of another issuer says who.
    """
    session = require_session(request)
    if session.issuer:
        raise HTTPException(403, "Another issuer signed your token: there are no sessions for it here.")
    return session


async def _body(request: Request) -> Mapping[str, Any]:
    """A small JSON object or form; nothing for anything else."""
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MOST_BODY:
            return {}
    try:
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return dict(parse_qsl(raw.decode()))
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _oauth_error(error: str, description: str) -> Response:
    """RFC 6749, section 5.2."""
    return JSONResponse({"error": error, "error_description": description}, 400, headers=NO_STORE)
