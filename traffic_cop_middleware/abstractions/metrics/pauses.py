"""Pauses of a thread that computes for long, in which the event loop's thread has the interpreter."""

from __future__ import annotations

import time

EVERY, LENGTH = 0.002, 0.0002
"""Seconds."""


class Pauses:
    """Called often by a thread that computes, it pauses every two milliseconds.

    Python's threads share one lock. Who waits for it gets it after 5 ms (`sys.getswitchinterval`), or when the other
    one sleeps. A sleep of 0 is too short: the lock is taken back before the thread that waits has woken up.
    """

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = time.perf_counter() + EVERY

    def __call__(self) -> None:
        if time.perf_counter() >= self._next:
            time.sleep(LENGTH)
            self._next = time.perf_counter() + EVERY


def never() -> None:
    """No pause: what is computed is short, or the event loop itself computes it."""
