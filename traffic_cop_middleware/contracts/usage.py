"""Recorded use: how many requests came in which span of time, and whose they were."""

from __future__ import annotations

from typing import NamedTuple

REST = "__other__"
"""The key of what is no longer told apart, because a cap on keys was reached."""


class UsageCount(NamedTuple):
    """So many `requests` of `key` that came from `start` on, within `step` seconds (the end is not in it).

    `start` is seconds since the epoch. `key` is `REST` for those that a cap put together: whose they were is not known.
    `route` is a route's template; empty where it was not recorded. Equal ones (the parts of several workers) add up.
    """

    key: str
    start: float
    step: float
    requests: int
    route: str = ""
