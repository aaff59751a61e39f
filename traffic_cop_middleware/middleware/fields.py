"""What a response says of the limits: `RateLimit-Policy` and `RateLimit`, as structured fields.

draft-ietf-httpapi-ratelimit-headers-10: lists (RFC 9651, section 3.1) of strings with parameters. `q` is the bucket's
capacity, `w` the seconds in which an empty one fills up; `r` whole tokens left, `t` seconds until there is one more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import ceil

from traffic_cop_middleware.abstractions.policies import Policy
from traffic_cop_middleware.abstractions.rate_limiting import Decision
from traffic_cop_middleware.contracts import MICRO

Header = tuple[bytes, bytes]
MOST_KEPT = 64


def sf_string(text: str) -> str:
    """A structured field's string (RFC 9651, section 3.3.3); what it can't hold is percent-encoded."""
    plain = "".join(
        char if " " <= char <= "~" else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "replace"))
        for char in text
    )
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


@lru_cache(maxsize=4096)
def templates(policies: tuple[Policy, ...]) -> tuple[Header, bytes]:
    """The `RateLimit-Policy` field, and `RateLimit`'s value with room for each bucket's two numbers.

    The window is left out below one second: it is a whole number on the wire.
    """
    names = [sf_string(policy.name) for policy in policies]
    items = [
        f"{name};q={int(policy.burst)}" + (f";w={policy.window}" if policy.burst >= policy.rate else "")
        for name, policy in zip(names, policies, strict=True)
    ]
    room = ", ".join(f"{name.replace('%', '%%')};r=%d;t=%d" for name in names)
    return (b"ratelimit-policy", ", ".join(items).encode("ascii")), room.encode("ascii")


def limit_fields(decision: Decision) -> Sequence[Header]:
    """`RateLimit-Policy` and `RateLimit` for a decision; none where no bucket was asked."""
    owed, answers = decision.owed, decision.answers
    if not answers:
        return ()
    room = owed.room
    told = tuple(answers)
    fields: Sequence[Header] | None = room.get(told) if room is not None else None
    if fields is None:
        policy_field, value = templates(owed.policies)
        fields = policy_field, (b"ratelimit", value % tuple(decision.levels()))
        # Who keeps well below a limit finds the bucket full each time: what is missing is what the request cost.
        if room is not None and answers[0] == owed.takes[0].cost * MICRO:
            if len(room) >= MOST_KEPT:
                room.clear()
            room[told] = fields
    return fields


def x_headers(decision: Decision) -> list[Header]:
    """`X-RateLimit-Limit`, `-Remaining` and `-Reset` (seconds until full) of the bucket that is nearest to empty."""
    remaining = decision.levels()[::2]
    if not remaining:
        return []
    tightest = min(range(len(remaining)), key=lambda index: (decision.answers[index] >= 0, remaining[index]))
    policy = decision.owed.policies[tightest]
    missing = policy.burst - remaining[tightest]
    return [
        (b"x-ratelimit-limit", b"%d" % int(policy.burst)),
        (b"x-ratelimit-remaining", b"%d" % remaining[tightest]),
        (b"x-ratelimit-reset", b"%d" % ceil(missing / policy.rate - 1e-9)),
    ]


def missing_from(headers: Iterable[Header], wanted: Iterable[Header]) -> list[Header]:
    """Those of `wanted` whose name `headers` does not have."""
    names = {name.lower() for name, _ in headers}
    return [header for header in wanted if header[0] not in names]
