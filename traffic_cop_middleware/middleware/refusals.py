"""What a refused request is answered: 429 (or 503 while the store is away) with the reason, for programs and people."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.abstractions.rate_limiting import Decision
from traffic_cop_middleware.middleware.fields import Header, missing_from

PROBLEM_TYPES = "https://iana.org/assignments/http-problem-types#"
WEBSOCKET_POLICY_VIOLATION = 1008
WHOSE = {
    "ip": "this client address",
    "api_key": "this API key",
    "route": "this route, for all clients together",
    "everyone": "all clients together",
    "user": "this user",
    "session": "this session",
    "tenant": "this tenant",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was refused, as `limits_on_refusal` gets it.

    `status` 429, or 503 while nobody can be asked, or 400 for a cost that no bucket can hold. `limits` are the names of
    the limits that refused, `key` the kind of the key whose bucket is empty ("ip"), `retry_after` whole seconds (0 when
    it will not help), `detail` a sentence for people.
    """

    status: int
    limits: tuple[str, ...]
    key: str
    retry_after: int
    detail: str


OnRefusal = Callable[[HTTPConnection, Refusal], ASGIApp | Awaitable[ASGIApp | None] | None]

TITLES = {400: "Cost above the limit", 429: "Too Many Requests", 503: "Service Unavailable"}
KINDS = {429: "quota-exceeded", 503: "temporary-reduced-capacity"}


class Answer(NamedTuple):
    """A refusal as it goes out: the response's body, and its fields but those of the limits."""

    refusal: Refusal
    headers: tuple[Header, ...]
    body: bytes


def answer_with(refusal: Refusal, *, title: str | None = None, fields: Iterable[Header] = ()) -> Answer:
    """The response for a refusal: application/problem+json (RFC 9457), with further header fields.

    A 429 must not be cached (RFC 6585, section 4).
    """
    kind = KINDS.get(refusal.status)
    members: dict[str, object] = {
        "type": PROBLEM_TYPES + kind if kind else "about:blank",
        "title": title or TITLES[refusal.status],
        "status": refusal.status,
        "detail": refusal.detail,
    }
    headers = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store"), *fields]
    if refusal.limits:
        members["violated-policies"] = list(refusal.limits)
        members["key"] = refusal.key
    if refusal.retry_after:
        members["retry-after"] = refusal.retry_after
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    body = json.dumps(members).encode()
    return Answer(refusal, (*headers, (b"content-length", b"%d" % len(body))), body)


UNAVAILABLE = answer_with(
    Refusal(503, (), "", 1, "The rate limits can't be checked at present. Try again in 1 second.")
)


def answer_to(decision: Decision) -> Answer:
    """The response for a refusing decision."""
    refusing = decision.refusing()
    if not refusing:
        return UNAVAILABLE
    names = tuple([charge.policy.name for charge in refusing])
    return _kept(names, refusing[0].subject.partition(":")[0].removeprefix("fn."), decision.retry_after)


@lru_cache(maxsize=4096)
def _kept(names: tuple[str, ...], kind: str, wait: int) -> Answer:
    """Kept, because who is refused comes back at once, and for a second the answer is the same."""
    whose = WHOSE.get(kind, f"this {kind.replace('_', ' ')}")
    names = tuple(dict.fromkeys(names))
    seconds = f"{wait} second{'' if wait == 1 else 's'}"
    detail = f"The limit {names[0]!r} for {whose} is used up. The same request will pass in {seconds}."
    return answer_with(Refusal(429, names, kind, wait, detail))


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    answer: Answer,
    fields: Iterable[Header],
    on_refusal: OnRefusal | None,
) -> None:
    """Answer a request, or a WebSocket handshake, with a refusal."""
    refusal, headers, body = answer
    kind = "http.response"
    if scope["type"] == "websocket":
        kind = "websocket.http.response"
        await receive()
        if kind not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": WEBSOCKET_POLICY_VIOLATION, "reason": refusal.detail[:120]})
            return
    elif on_refusal is not None:
        own = on_refusal(HTTPConnection(scope), refusal)
        if inspect.isawaitable(own):
            own = await own
        if own is not None:
            about_limits = [header for header in headers if not header[0].startswith(b"content-")]
            await own(scope, receive, _adding([*about_limits, *fields], send))
            return
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": [*headers, *fields]})
    await send({"type": f"{kind}.body", "body": body, "more_body": False})


def _adding(headers: list[Header], send: Send) -> Send:
    async def send_with_fields(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = list(message.get("headers", ()))
            message = {**message, "headers": [*own, *missing_from(own, headers)]}
        await send(message)

    return send_with_fields
