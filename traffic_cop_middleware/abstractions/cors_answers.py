"""What a CORS policy makes of a preflight, and of a response.

Fetch standard (https://fetch.spec.whatwg.org), sections "CORS protocol" (HTTP requests, HTTP responses, HTTP new-header
syntax) and "CORS protocol and HTTP caches".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from traffic_cop_middleware.abstractions.cors import EVERYTHING, CorsPolicy
from traffic_cop_middleware.abstractions.gateway_routes import TOKEN
from traffic_cop_middleware.contracts.transport import Field

MOST_ASKED = 8 * 1024
"""Bytes of Access-Control-Request-Headers; what is longer is refused unread."""
LONGEST_SHOWN = 100

ORIGIN = b"access-control-allow-origin"
CORS_FIELDS = frozenset(
    {
        *(ORIGIN, b"access-control-allow-credentials", b"access-control-allow-headers"),
        *(b"access-control-allow-methods", b"access-control-allow-private-network"),
        *(b"access-control-expose-headers", b"access-control-max-age"),
    }
)
"""What only the policy says: where there is one, an upstream's own are taken out."""
PREFLIGHT_VARY = (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")


class Preflight(NamedTuple):
    """What a browser asks before a request: the values of its Origin and Access-Control-Request-* headers.

    `method` is "" where what came is no method, `headers` the list as it came.
    """

    origin: str
    method: str
    headers: str = ""
    private_network: bool = False


class PreflightAnswer(NamedTuple):
    """The answer to a preflight.

    `status` is 204, or 403 without anything allowed; `reason` is then "origin", "method", "headers", "too_large" or
    "private_network", and `detail` a sentence for people.
    """

    status: int
    fields: tuple[Field, ...]
    reason: str = ""
    detail: str = ""

    @property
    def allowed(self) -> bool:
        return not self.reason


def answer_preflight(policy: CorsPolicy, asked: Preflight) -> PreflightAnswer:
    """What a preflight is answered.

    A refusal is 403 with no allowing field, as the standard proposes it.
    """
    if len(asked.headers) > MOST_ASKED:
        return _refused("too_large", f"Access-Control-Request-Headers is longer than {MOST_ASKED} bytes.")
    if not policy.allows(asked.origin):
        return _refused("origin", f"Pages of the origin {_shown(asked.origin)} may not call this path.")
    if not asked.method:
        return _refused("method", "Access-Control-Request-Method names no method.")
    if asked.method not in policy.methods:
        return _refused("method", f"Pages of another origin may not use the method {_shown(asked.method)} here.")
    names = {name.strip(" \t").lower(): None for name in asked.headers.split(",")}
    names.pop("", None)  # empty elements of a list say nothing (RFC 9110, section 5.6.1)
    for name in names:
        if not TOKEN.fullmatch(name):
            return _refused("headers", f"Access-Control-Request-Headers has {_shown(name)}, which is no header's name.")
        if name not in policy.accepted and policy.headers != EVERYTHING:
            return _refused("headers", f"Pages of another origin may not send the header {_shown(name)} here.")
    if asked.private_network and not policy.private_network:
        return _refused("private_network", "Pages of a public network may not call this path of a private one.")
    allowed = [_origin_field(policy, asked.origin), *policy.allow_fields]
    # "*" would not do for what is asked: it does not cover Authorization, nor anything sent with credentials.
    if accepted := list(names) if policy.headers == EVERYTHING else sorted(policy.accepted):
        allowed.append((b"access-control-allow-headers", ", ".join(accepted).encode("ascii")))
    if asked.private_network:
        allowed.append((b"access-control-allow-private-network", b"true"))
    return PreflightAnswer(204, (*allowed, PREFLIGHT_VARY))


def shared_fields(policy: CorsPolicy, fields: Iterable[Field], *, origin: str | None) -> list[Field]:
    """A response's fields, with what the policy says of them to `origin` (None: the request named none).

    Where everybody is allowed, each response says so and none varies. Else each varies by Origin, also one that shares
    nothing and one to a request without an Origin: a cache would give it to a page that may read it, which then could
    not.
    """
    found = [each for each in fields if each[0].lower() not in CORS_FIELDS]
    if policy.everybody:
        return [*found, (ORIGIN, b"*"), *policy.share_fields]
    if policy.origins:
        _vary_by_origin(found)
    if origin is not None and policy.allows(origin):
        found += (_origin_field(policy, origin), *policy.share_fields)
    return found


def _origin_field(policy: CorsPolicy, origin: str) -> Field:
    return ORIGIN, b"*" if policy.everybody else origin.encode("latin-1")


def _vary_by_origin(fields: list[Field]) -> None:
    """Add Origin to the last Vary, if none has it or "*" (RFC 9110, section 12.5.5)."""
    last = None
    for at, (name, value) in enumerate(fields):
        if name.lower() == b"vary":
            names = [each.strip() for each in value.lower().split(b",")]
            if b"origin" in names or b"*" in names:
                return
            last = at
    if last is None or not fields[last][1].strip():
        fields.append((b"vary", b"Origin"))
    else:
        name, value = fields[last]
        fields[last] = name, value + b", Origin"


def _refused(reason: str, detail: str) -> PreflightAnswer:
    return PreflightAnswer(403, (PREFLIGHT_VARY,), reason, detail)


def _shown(text: str) -> str:
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…")
