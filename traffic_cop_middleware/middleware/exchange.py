"""One HTTP request through the gateway: to an instance, and its response back, both as streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import quote

from starlette.types import Message, Receive, Scope, Send

from traffic_cop_middleware.abstractions.balancing.attempts import Attempt
from traffic_cop_middleware.abstractions.balancing.instances import Instance
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome, outcome_of
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.forwarding import (
    BODILESS,
    MOST_DIGITS,
    TOKEN,
    Client,
    MalformedRequest,
    request_fields,
    response_fields,
    sound,
    target,
)
from traffic_cop_middleware.abstractions.route_policies import RoutePolicy
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.contracts.balancing import BalancingKey
from traffic_cop_middleware.contracts.transport import Field, Incoming, Outgoing, Transport
from traffic_cop_middleware.errors import UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from traffic_cop_middleware.middleware.client_body import ClientBody, ClientGone, ResponseNotTaken
from traffic_cop_middleware.middleware.owned_tries import OwnedTries, Owner
from traffic_cop_middleware.middleware.refusals import Answer, Refusal, answer_with, refuse
from traffic_cop_middleware.middleware.tries import TOO_LATE, Tries

REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that may be asked again where the connection turned out to be closed (RFC 9110, section 9.2.1)."""
CLOSE = (b"connection", b"close")

BAD_GATEWAY = answer_with(
    Refusal(502, (), "", 1, "The service behind this route did not answer as it should."), title="Bad Gateway"
)
TOO_LARGE = answer_with(
    Refusal(413, (), "", 0, "The request's body is larger than this route takes."), title="Content Too Large"
)
FIELDS_TOO_LARGE = answer_with(
    Refusal(431, (), "", 0, "The request's header fields are larger than this route takes."),
    title="Request Header Fields Too Large",
)
TOO_SLOW = answer_with(
    Refusal(408, (), "", 0, "The request's body did not come in time."), title="Request Timeout", fields=[CLOSE]
)
NOT_FORWARDED = answer_with(
    Refusal(405, (), "", 0, "This method is not forwarded."),
    title="Method Not Allowed",
    fields=[(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")],
)
LAST_HOP = Answer(Refusal(204, (), "", 0, ""), (), b"")
"""What OPTIONS is answered that may go no further (RFC 9110, section 7.6.2)."""

Emit = Callable[[str, Mapping[str, Any]], None]


class Forwarding(NamedTuple):
    """One request that is to be forwarded: by which route, to where, and what the gateway says with it."""

    route: str
    pattern: str
    policy: RoutePolicy
    pool: BalancedPool
    client: Client
    own: Sequence[Field]
    mirror: BalancedPool | None = None
    key: BalancingKey | None = None
    owner: Owner | None = None


MOST_MIRRORING = 100
"""Copies that are under way at once; what is above is not mirrored."""


async def _pieces(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Exchange:
    """Forwards requests. `emit` hears of every request and of every attempt that failed.

    `transport` gives the running event loop's.
    """

    def __init__(self, transport: Callable[[], Transport], emit: Emit) -> None:
        self._transport = transport
        self._emit = emit
        self._mirroring: set[asyncio.Task[None]] = set()  # a loop holds its tasks weakly

    def run(self, scope: Scope, receive: Receive, send: Send, forwarding: Forwarding) -> Awaitable[None]:
        """Answer a request by an upstream."""
        refused = refusal_of(scope, forwarding.policy)
        if refused is not None:
            return refuse(scope, receive, send, answer=refused, fields=(), on_refusal=None)
        if expected := has_body(scope):
            # Some servers add a request's trailers to its fields as they come: what counts is what came first.
            scope = {**scope, "headers": tuple(scope["headers"])}
        return self._run(scope, receive, send, forwarding, expected=expected)

    async def _run(self, scope: Scope, receive: Receive, send: Send, forwarding: Forwarding, *, expected: bool) -> None:
        policy = forwarding.policy
        body = ClientBody(receive, expected=expected, most=policy.max_body, idle=policy.idle_deadline)
        if forwarding.mirror is not None:
            body.copied = []
        start = monotonic()
        told: dict[str, Any] = {"route": forwarding.route, "upstream": None, "attempts": 0, "status": None}
        pool, owner = forwarding.pool, forwarding.owner
        tries = (
            Tries(pool, forwarding.key, timed=body.ended)
            if owner is None
            else OwnedTries(pool, owner, timed=body.ended)
        )
        incoming: Incoming | None = None
        try:
            found = await self._ask(scope, forwarding, body, tries, told)
            if not isinstance(found, Answer):
                incoming = found
                if not sound(incoming.fields):
                    tries.answered(Outcome.BROKEN)
                    found = BAD_GATEWAY
            if isinstance(found, Answer):
                told["status"] = found.refusal.status
                body.close()
                await refuse(scope, receive, send, answer=found, fields=(), on_refusal=None)
                return
            incoming = found
            tries.answered(outcome_of(incoming.status))
            told["status"] = incoming.status
            await self._pass_back(scope, send, incoming, policy, body)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not body.gone or (task is not None and task.uncancel() > 0):
                raise
            told["gone"] = True
        except ClientGone:
            told["gone"] = True
        except (UpstreamError, ResponseNotTaken) as exc:  # the response has begun: breaking it is all that is left
            told["error"] = type(exc).__name__
            if not await body.left():
                if isinstance(exc, UpstreamError):
                    tries.ended(verdict_on(exc, body, cut=tries.cut))
                raise
            told["gone"] = True
        finally:
            body.close()
            if incoming is not None:
                incoming.close()
            tries.ended()
            told["seconds"] = monotonic() - start
            self._emit("route.forwarded", told)
        if forwarding.mirror is not None and body.ended and body.copied is not None and incoming is not None:
            self._mirror(scope, forwarding, forwarding.mirror, body.copied)

    def _mirror(self, scope: Scope, forwarding: Forwarding, pool: BalancedPool, copied: Sequence[bytes]) -> None:
        """Send a copy on, now that the client has its answer; nobody waits for what comes back."""
        instance = pool.pick()
        if not isinstance(instance, Instance) or len(self._mirroring) >= MOST_MIRRORING:
            self._emit("route.not_mirrored", {"route": forwarding.route})
            return
        copy = outgoing(scope, forwarding, instance.upstream, None)
        if copied:
            copy = copy._replace(body=_pieces(copied))
        attempt = pool.began(instance)
        task = asyncio.create_task(self._drop_answer(attempt, copy, forwarding))
        self._mirroring.add(task)
        task.add_done_callback(self._mirroring.discard)
        task.add_done_callback(lambda _: attempt.ended(Outcome.CANCELLED))

    async def _drop_answer(self, attempt: Attempt, copy: Outgoing, forwarding: Forwarding) -> None:
        upstream = attempt.instance.upstream
        told: dict[str, Any] = {"route": forwarding.route, "upstream": upstream.name, "status": None}
        incoming: Incoming | None = None
        deadlines = forwarding.policy.deadlines
        try:
            async with asyncio.timeout(sum(deadlines)):
                incoming = await self._transport().send(upstream.origin, copy, deadlines=deadlines)
                told["status"] = incoming.status
                attempt.answered()  # of whatever status: errors are what somebody mirrors to see
                async for _ in incoming.chunks():
                    pass
        except UpstreamError as exc:
            told["error"] = type(exc).__name__
            attempt.ended(outcome_of(exc))
        except TimeoutError as exc:
            told["error"] = type(exc).__name__
            attempt.ended(Outcome.TIMEOUT)
        finally:
            if incoming is not None:
                incoming.close()
        self._emit("route.mirrored", told)

    async def _ask(
        self, scope: Scope, forwarding: Forwarding, body: ClientBody, tries: Tries, told: dict[str, Any]
    ) -> Incoming | Answer:
        """The response of the first instance that gives one; an answer of our own where none does.

        Where no connection was found the next instance is asked. What one may have seen is asked once more at most, if
        it is safe and its body is not under way, and the retry budget allows it.
        """
        repeatable = scope["method"] in REPEATABLE and body.ended
        settings = forwarding.pool.settings
        found = tries.next() or await tries.wait()
        while isinstance(found, Instance):
            upstream = found.upstream
            told["upstream"] = upstream.name
            told["attempts"] += 1
            try:
                request = outgoing(scope, forwarding, upstream, body)
                incoming = await tries.within(
                    self._transport().send(upstream.origin, request, deadlines=forwarding.policy.deadlines)
                )
            except MalformedRequest as exc:
                return malformed(exc)
            except UpstreamError as exc:
                self._failed(forwarding, upstream, type(exc).__name__)
                left = await body.left()
                tries.ended(verdict_on(exc, body, cut=tries.cut))
                if body.too_large:
                    return TOO_LARGE
                if body.too_slow:
                    return TOO_SLOW
                if left:
                    raise ClientGone from exc
                if isinstance(exc, UpstreamUnreachable):
                    found = tries.next() or await tries.wait()
                    continue
                late = isinstance(exc, UpstreamTimeout)
                # Also where the connection was new: one that is killed leaves connections that it never took.
                unanswered = isinstance(exc, UpstreamBroken) and exc.unanswered
                stale = isinstance(exc, UpstreamBroken) and exc.stale
                if repeatable and (unanswered or (late and settings.try_deadline is not None)):
                    repeatable = False
                    if (other := tries.retry(same=stale)) is not None:
                        found = other
                        continue
                return TOO_LATE if late else BAD_GATEWAY
            if repeatable and incoming.status in settings.retry_statuses:
                repeatable = False
                tries.answered(outcome_of(incoming.status))
                if (other := tries.retry()) is not None:
                    incoming.close()
                    self._failed(forwarding, upstream, str(incoming.status))
                    found = other
                    continue
            return incoming
        return found

    def _failed(self, forwarding: Forwarding, upstream: Upstream, error: str) -> None:
        self._emit("upstream.failed", {"route": forwarding.route, "upstream": upstream.name, "error": error})

    @staticmethod
    async def _pass_back(scope: Scope, send: Send, incoming: Incoming, policy: RoutePolicy, body: ClientBody) -> None:
        status = incoming.status
        fields = response_fields(
            incoming.fields, status=status, http_version=incoming.http_version, changes=policy.response_changes
        )
        await send({"type": "http.response.start", "status": status, "headers": fields})
        if scope["method"] != "HEAD" and status not in BODILESS:
            left = -1
            for name, value in fields:
                if name == b"content-length":
                    left = int(value)
            if left:
                blocks = False  # a server has room for a first piece
                async for chunk in incoming.chunks():
                    left -= len(chunk)
                    if not left:
                        body.close()
                    message = {"type": "http.response.body", "body": chunk, "more_body": left != 0}
                    if blocks:
                        await _taken(send, message, policy.idle_deadline)
                    else:
                        await send(message)
                        blocks = True
                if not left:
                    return
        body.close()  # or the server's "disconnect" after a response would cancel what others do after ours
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def verdict_on(exc: UpstreamError, body: ClientBody, *, cut: bool) -> Outcome:
    """What an error says of the instance: nothing where it is the client who did not send its request as it should.

    `cut`: the time of the attempt was over, which is no fault of an instance that waits for the request.
    """
    at_fault = body.gone or body.too_large or body.too_slow or (cut and not body.ended)
    return Outcome.CANCELLED if at_fault else outcome_of(exc)


async def _taken(send: Send, message: Message, idle: float) -> None:
    try:
        async with asyncio.timeout(idle):
            await send(message)
    except TimeoutError as exc:
        raise ResponseNotTaken from exc


def outgoing(scope: Scope, forwarding: Forwarding, upstream: Upstream, body: ClientBody | None) -> Outgoing:
    """A request as an instance gets it.

    Raises:
        MalformedRequest: it can be read in two ways, or holds what can't be forwarded.
    """
    policy = forwarding.policy
    method: str = scope.get("method", "GET")
    if method not in REPEATABLE and (not method.isascii() or method.encode().translate(None, TOKEN)):
        raise MalformedRequest("its method is none")
    version = scope.get("http_version", "1.1")
    fields = request_fields(
        scope.get("headers", ()),
        client=forwarding.client,
        host=forwarding.client.host if policy.keep_host and forwarding.client.host else upstream.authority,
        method=method,
        http_version=version,
        style=policy.forwarded,
        own=forwarding.own,
        changes=policy.request_changes,
    )
    path = upstream.prefix + policy.path(forwarding.pattern, raw_path_of(scope))
    streamed = body.chunks() if body is not None and not body.ended else None
    return Outgoing(method, target(path, scope.get("query_string", b"")), fields, streamed)


def raw_path_of(scope: Scope) -> bytes:
    """The path as it came; where a server does not tell, as it must have been."""
    raw: bytes | None = scope.get("raw_path")
    if raw is not None:
        return raw.partition(b"?")[0]
    return quote(scope["path"], safe="/!$&'()*+,;=:@-._~").encode("ascii")


def has_body(scope: Scope) -> bool:
    """Whether a body follows, by its framing (RFC 9112, section 6.3); HTTP/2 needs none, so it may always."""
    named = False
    for name, value in scope.get("headers", ()):
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            return True
        named = named or name == b"content-length"
    return not named and scope.get("http_version", "1.1") not in ("1.0", "1.1") and scope["method"] not in REPEATABLE


def refusal_of(scope: Scope, policy: RoutePolicy) -> Answer | None:
    """What a request is answered that is not forwarded at all."""
    method = scope["method"]
    if method in ("TRACE", "CONNECT"):
        return NOT_FORWARDED
    size = 0
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
        if name == b"content-length" and policy.max_body is not None and value.isdigit():
            if len(value) > MOST_DIGITS or int(value) > policy.max_body:
                return TOO_LARGE
        elif name == b"max-forwards" and method == "OPTIONS" and value.isdigit() and not value.strip(b"0"):
            return LAST_HOP
    return FIELDS_TOO_LARGE if size > policy.max_headers else None


def malformed(exc: MalformedRequest) -> Answer:
    """Nobody knows where such a request ends, so its connection does (RFC 9112, section 6.1)."""
    refusal = Refusal(400, (), "", 0, f"The request can't be forwarded: {exc}.")
    return answer_with(refusal, title="Bad Request", fields=[CLOSE])
