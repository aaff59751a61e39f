"""What a store gives for a question: the answer at once, or something to await whose question is on its way."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from traffic_cop_middleware.errors import StoreError

log = logging.getLogger("traffic_cop")

T = TypeVar("T")


async def answered(asked: T | Awaitable[T]) -> T:
    """The answer, now or later."""
    if isinstance(asked, Awaitable):
        return cast("T", await asked)
    return asked


def let_go(asked: Any) -> None:
    """Nobody waits for this answer any more: what is not sent yet need not be, and a failure is no news."""
    cancel = getattr(asked, "cancel", None)
    if cancel is not None and not cancel() and not asked.cancelled():
        asked.exception()


async def aside(ask: Callable[[], Any]) -> None:
    """Ask something whose answer nobody waits for, and whose failure changes nothing here."""
    try:
        asked = ask()
        if hasattr(asked, "add_done_callback"):
            asked.add_done_callback(_heard)
        else:
            await answered(asked)
    except StoreError as exc:
        log.debug("not told: %s", exc)


def heard(asked: Any) -> None:
    """This answer may be waited for or not: if not, its failure is no news."""
    if hasattr(asked, "add_done_callback"):
        asked.add_done_callback(_heard)


def _heard(asked: Any) -> None:
    if not asked.cancelled() and asked.exception() is not None:
        log.debug("not told: %s", asked.exception())
