"""How an attempt on an instance ended."""

from __future__ import annotations

from enum import Enum

from traffic_cop_middleware.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)

ABOUT_THE_REQUEST = frozenset({501, 505})
"""Statuses from 500 that say that the request is not supported, not that the instance is ill (RFC 9110, 15.6)."""


class Outcome(Enum):
    """What an attempt says of its instance."""

    OK = "ok"
    FAILED = "it answered with an error"
    UNREACHABLE = "it can't be reached"
    TIMEOUT = "it did not answer in time"
    BROKEN = "its connection broke"
    CANCELLED = "cancelled"
    """No verdict: the client left, or the connection was closed before the instance saw the request."""

    __hash__ = object.__hash__  # by identity, as members are compared: an Enum's own is Python code, on every request


OK = Outcome.OK
"""For what runs on every request: up to Python 3.11 each look at a member by its name is a descriptor's call."""

FAILURES = frozenset({Outcome.FAILED, Outcome.UNREACHABLE, Outcome.TIMEOUT, Outcome.BROKEN})


def outcome_of(answer: int | UpstreamError) -> Outcome:
    """The outcome of an answer with this status, or of an attempt that ended in this error."""
    if isinstance(answer, int):
        return OK if answer < 500 or answer in ABOUT_THE_REQUEST else Outcome.FAILED
    if isinstance(answer, UpstreamRefused):
        return outcome_of(answer.status)
    if isinstance(answer, UpstreamUnreachable):
        return Outcome.UNREACHABLE
    if isinstance(answer, UpstreamTimeout):
        return Outcome.TIMEOUT
    if isinstance(answer, UpstreamBroken) and answer.stale:
        return Outcome.CANCELLED
    return Outcome.BROKEN
