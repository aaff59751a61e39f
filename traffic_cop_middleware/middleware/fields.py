"""What a response says of the limits: `RateLimit-Policy` and `RateLimit`, as structured fields.

draft-ietf-httpapi-ratelimit-headers-10: lists (RFC 9651, section 3.1) of strings with parameters. `q` is the bucket's
capacity, `w` the seconds in which an empty one fills up; `r` whole tokens left, `t` seconds until there is one more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from traffic_cop_middleware.abstractions.policies import Policy
from traffic_cop_middleware.abstractions.rate_limiting import Decision, Standing

Header = tuple[bytes, bytes]


def sf_string(text: str) -> str:
    """A structured field's string (RFC 9651, section 3.3.3); what it can't hold is percent-encoded."""
    plain = "".join(
        char if " " <= char <= "~" else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "replace"))
        for char in text
    )
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


@lru_cache(maxsize=4096)
def policy_item(policy: Policy) -> str:
    window = f";w={policy.window}" if policy.burst >= policy.rate else ""
    return f"{policy_name(policy)};q={int(policy.burst)}{window}"


@lru_cache(maxsize=4096)
def policy_name(policy: Policy) -> str:
    return sf_string(policy.name)


@lru_cache(maxsize=1024)
def policies_field(policies: tuple[Policy, ...]) -> bytes:
    """The value of `RateLimit-Policy`. The window is left out below one second: it is a whole number."""
    return ", ".join(map(policy_item, policies)).encode("ascii")


def limit_fields(decision: Decision) -> list[Header]:
    """`RateLimit-Policy` and `RateLimit` for a decision; none where no bucket was asked."""
    levels = decision.levels()
    if not levels:
        return []
    if len(levels) == 1:
        policy, remaining, more_in = levels[0]
        limits = f"{policy_name(policy)};r={remaining};t={more_in}"
    else:
        limits = ", ".join([f"{policy_name(policy)};r={remaining};t={more_in}" for policy, remaining, more_in in levels])
    return [
        (b"ratelimit-policy", policies_field(tuple([level[0] for level in levels]))),
        (b"ratelimit", limits.encode("ascii")),
    ]


def x_headers(standings: Sequence[Standing]) -> list[Header]:
    """`X-RateLimit-Limit`, `-Remaining` and `-Reset` (seconds until full) of the bucket that is nearest to empty."""
    if not standings:
        return []
    tightest = min(standings, key=lambda standing: (not standing.refused, standing.remaining))
    missing = tightest.policy.burst - tightest.remaining
    return [
        (b"x-ratelimit-limit", b"%d" % int(tightest.policy.burst)),
        (b"x-ratelimit-remaining", b"%d" % tightest.remaining),
        (b"x-ratelimit-reset", b"%d" % -int(-missing // tightest.policy.rate)),
    ]


def missing_from(headers: Iterable[Header], wanted: Iterable[Header]) -> list[Header]:
    """Those of `wanted` whose name `headers` does not have."""
    names = {name.lower() for name, _ in headers}
    return [header for header in wanted if header[0] not in names]
