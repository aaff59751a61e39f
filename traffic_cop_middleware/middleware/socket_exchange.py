"""One WebSocket through the gateway: the upstream's handshake first, then the client's, and then messages both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple

from starlette.types import Message, Receive, Scope, Send

from traffic_cop_middleware.abstractions.balancing.instances import Instance
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome, outcome_of
from traffic_cop_middleware.abstractions.forwarding import MalformedRequest, response_fields, socket_fields
from traffic_cop_middleware.contracts.transport import Field, Transport, UpstreamSocket
from traffic_cop_middleware.errors import UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from traffic_cop_middleware.middleware.exchange import (
    BAD_GATEWAY,
    Forwarding,
    malformed,
    outgoing,
    refusal_of,
)
from traffic_cop_middleware.middleware.owned_tries import OwnedTries
from traffic_cop_middleware.middleware.refusals import Answer
from traffic_cop_middleware.middleware.socket_relay import GOING_AWAY, Relay
from traffic_cop_middleware.middleware.tries import TOO_LATE, Tries

DENIAL = "websocket.http.response"
CLOSES = {502: 1014, 503: 1013, 504: 1014}
"""Close codes for a refusal where the server can't send its response; the others are 1008."""
SAID_BY_THE_SERVER = frozenset({b"date", b"server"})
"""Fields of a handshake that servers write by themselves; of two uvicorn's first implementation makes a 500."""

Emit = Callable[[str, Mapping[str, Any]], None]


class Denial(NamedTuple):
    """The response to a handshake that is refused."""

    status: int
    fields: Sequence[Field]
    body: bytes
    detail: str


class SocketExchange:
    """Forwards WebSockets. The client is accepted only when an upstream has taken the connection."""

    def __init__(self, transport: Callable[[], Transport], emit: Emit) -> None:
        self._transport = transport
        self._emit = emit

    async def run(self, scope: Scope, receive: Receive, send: Send, forwarding: Forwarding) -> None:
        """Connect a client with an upstream until one of them leaves."""
        start = monotonic()
        told: dict[str, Any] = {"route": forwarding.route, "upstream": None, "attempts": 0, "status": None}
        try:
            if (await receive())["type"] == "websocket.connect":
                await self._run(scope, receive, send, forwarding=forwarding, told=told)
        finally:
            told["seconds"] = monotonic() - start
            self._emit("route.forwarded", told)

    async def _run(
        self, scope: Scope, receive: Receive, send: Send, *, forwarding: Forwarding, told: dict[str, Any]
    ) -> None:
        refused = refusal_of({**scope, "method": "GET"}, forwarding.policy)
        if refused is not None:
            told["status"] = refused.refusal.status
            await _deny(scope, send, _own(refused))
            return
        pool, owner = forwarding.pool, forwarding.owner
        tries = Tries(pool, forwarding.key) if owner is None else OwnedTries(pool, owner)
        leaving = asyncio.create_task(_next(receive))  # before it is accepted a client can only leave
        opening = asyncio.create_task(self._connect(scope, forwarding, tries, told))
        found: UpstreamSocket | Denial | None = None
        try:
            await asyncio.wait({leaving, opening}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done() and leaving.result()["type"] == "websocket.disconnect":
                told["gone"] = True
                return
            found = await opening
            if isinstance(found, Denial):
                told["status"] = found.status
                await _deny(scope, send, found)
            else:
                await self._relay(receive, send, found, leaving=leaving, forwarding=forwarding, told=told)
        finally:
            try:
                for task in (leaving, opening):
                    task.cancel()
                _, opened = await asyncio.gather(leaving, opening, return_exceptions=True)
                if not isinstance(opened, (BaseException, Denial)):
                    await opened.close(GOING_AWAY, "")  # unless the relay has closed it
            finally:
                tries.ended()

    @staticmethod
    async def _relay(
        receive: Receive,
        send: Send,
        upstream: UpstreamSocket,
        *,
        leaving: asyncio.Task[Message],
        forwarding: Forwarding,
        told: dict[str, Any],
    ) -> None:
        told["status"] = 101
        fields = [field for field in upstream.fields if field[0].lower() not in SAID_BY_THE_SERVER]
        fields = _handshake_fields(response_fields(fields, changes=forwarding.policy.response_changes))
        try:
            await send({"type": "websocket.accept", "subprotocol": upstream.subprotocol, "headers": fields})
        except OSError:
            told["gone"] = True
            return
        relay = Relay(leaving, receive, send, upstream)
        keeping = None if forwarding.owner is None else asyncio.create_task(forwarding.owner.keep())
        try:
            await relay.run()
        finally:
            if keeping is not None:
                keeping.cancel()
            told.update(
                messages_up=relay.up, messages_down=relay.down, close_code=relay.code, closed_by=relay.closed_by
            )

    async def _connect(
        self, scope: Scope, forwarding: Forwarding, tries: Tries, told: dict[str, Any]
    ) -> UpstreamSocket | Denial:
        """A socket to the first instance that can be reached; what the client is answered where there is none."""
        found = tries.next() or await tries.wait()
        while isinstance(found, Instance):
            upstream = found.upstream
            told["upstream"] = upstream.name
            told["attempts"] += 1
            try:
                request = outgoing(scope, forwarding, upstream, None)
                request = request._replace(fields=_checked(socket_fields(request.fields)))
                socket = await tries.within(
                    self._transport().connect(
                        upstream.origin,
                        request,
                        subprotocols=scope.get("subprotocols", ()),
                        deadlines=forwarding.policy.deadlines,
                    )
                )
            except MalformedRequest as exc:
                return _own(malformed(exc))
            except UpstreamRefused as exc:
                tries.answered(outcome_of(exc))
                if not 300 <= exc.status <= 599:  # it takes the request for something else
                    return _own(BAD_GATEWAY)
                fields = response_fields(exc.fields, changes=forwarding.policy.response_changes)
                return Denial(
                    exc.status,
                    [*_handshake_fields(fields), (b"content-length", b"%d" % len(exc.body))],
                    exc.body,
                    "the service behind this route did not take the WebSocket",
                )
            except UpstreamError as exc:
                self._emit(
                    "upstream.failed",
                    {"route": forwarding.route, "upstream": upstream.name, "error": type(exc).__name__},
                )
                tries.ended(outcome_of(exc))
                if not isinstance(exc, UpstreamUnreachable):
                    return _own(TOO_LATE if isinstance(exc, UpstreamTimeout) else BAD_GATEWAY)
                found = tries.next() or await tries.wait()
            else:
                tries.answered(Outcome.OK)
                return socket
        return _own(found)


async def _next(receive: Receive) -> Message:
    return await receive()


def _checked(fields: Sequence[Field]) -> Sequence[Field]:
    """Fields that a handshake can carry.

    Raises:
        MalformedRequest: one is beyond what transports take as text.
    """
    try:
        for _, value in fields:
            value.decode()
    except UnicodeDecodeError as exc:
        raise MalformedRequest("a header field of a WebSocket's handshake is no UTF-8") from exc
    return fields


def _own(answer: Answer) -> Denial:
    """A denial by the gateway itself."""
    return Denial(answer.refusal.status, answer.headers, answer.body, answer.refusal.detail)


def _handshake_fields(fields: Sequence[Field]) -> list[Field]:
    """Fields of an upstream's answer without those that concern its own handshake or frame a body."""
    return [field for field in fields if not field[0].startswith(b"sec-websocket-") and field[0] != b"content-length"]


async def _deny(scope: Scope, send: Send, denial: Denial) -> None:
    """Answer a handshake with a response, or with a close code where the server can't send one."""
    if DENIAL not in scope.get("extensions", {}):
        code = CLOSES.get(denial.status, 1011 if denial.status >= 500 else 1008)
        await send({"type": "websocket.close", "code": code, "reason": denial.detail[:120]})
        return
    await send({"type": f"{DENIAL}.start", "status": denial.status, "headers": denial.fields})
    await send({"type": f"{DENIAL}.body", "body": denial.body, "more_body": False})
