"""Asking a store for what is only of help: not for long, and after a failure not again for a while."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from traffic_cop_middleware.errors import StoreTimeout, StoreUnavailable

T = TypeVar("T")


class Patience:
    """Whoever asks waits at most `within` seconds; after a failure nobody is let through for `pause` seconds. `now`
    gives seconds."""

    def __init__(self, *, within: float, pause: float, now: Callable[[], float]) -> None:
        self._within = within
        self._pause = pause
        self._now = now
        self._away_until = float("-inf")

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question.

        Raises:
            StoreTimeout: it took too long.
            StoreUnavailable: the store is away, or was a moment ago.
            StoreError: the store answered with an error.
        """
        if self._now() < self._away_until:
            raise StoreUnavailable("it was away a moment ago, and is not asked for this again yet")
        answers: list[T] = []
        try:
            with anyio.move_on_after(self._within):
                answers.append(await question())
            if not answers:
                raise StoreTimeout(f"no answer within {self._within:g} s")
        except StoreUnavailable:
            self._away_until = self._now() + self._pause
            raise
        return answers[0]
