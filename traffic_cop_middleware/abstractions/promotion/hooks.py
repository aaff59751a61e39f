"""What an app says to a verdict: functions of its own, in order, that can break nothing."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import anyio

from traffic_cop_middleware.abstractions.promotion.verdict import Verdict
from traffic_cop_middleware.abstractions.state.items import StateItem
from traffic_cop_middleware.errors import ConfigurationError

log = logging.getLogger("traffic_cop.promotion")

PromotionHook: TypeAlias = Callable[[StateItem, Verdict], Verdict | Awaitable[Verdict | None] | None]
"""Gives the verdict that it wants, or `None` for the one that there is. It may be asked several times of one item."""


class HookWord(NamedTuple):
    """What a hook said: `verdict` after it, or `failure` where it failed and was left out."""

    hook: str
    verdict: Verdict
    failure: str = ""


def check_hook(hook: object) -> None:
    """See that something can be a hook.

    Raises:
        ConfigurationError: it can't be called with a state and a verdict.
    """
    try:
        inspect.signature(hook).bind(None, None)  # type: ignore[arg-type]
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(
            f"promotion_hook: {hook!r} must be a function of a state and its verdict, plain or async: "
            "def hook(state, verdict)"
        ) from exc


class PromotionHooks:
    """The hooks, asked in order; each sees what the one before made of the verdict. After a veto no further is asked.

    One that raises, gives something else than a verdict, or takes more than `timeout` seconds (async ones) is logged,
    told of by the event `promotion.hook_failed`, and left out.
    """

    def __init__(
        self, hooks: Sequence[PromotionHook], *, timeout: float, emit: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self._hooks = hooks
        self._timeout = timeout
        self._emit = emit

    async def ask(self, item: StateItem, verdict: Verdict) -> tuple[Verdict, tuple[HookWord, ...]]:
        """The verdict after all hooks, and what each made of it."""
        words: list[HookWord] = []
        for hook in tuple(self._hooks):
            if verdict.vetoed:
                break
            name = getattr(hook, "__qualname__", None) or repr(hook)
            failure = ""
            try:
                said = await self._said(hook, item, verdict)
                verdict = verdict if said is None else _checked(said, verdict)
            except Exception as exc:
                failure = f"{type(exc).__name__}: {exc}"
                log.exception("the promotion hook %s failed on %r and is left out", name, item)
                self._emit(
                    "promotion.hook_failed",
                    {"hook": name, "namespace": item.namespace, "key": item.key, "error": failure},
                )
            words.append(HookWord(name, verdict, failure))
        return verdict, tuple(words)

    async def _said(self, hook: PromotionHook, item: StateItem, verdict: Verdict) -> Any:
        said: Any = hook(item, verdict)
        if not inspect.isawaitable(said):
            return said
        answer: list[Any] = []
        failures: list[Exception] = []

        async def wait() -> None:
            try:
                answer.append(await said)
            except Exception as exc:  # noqa: BLE001 - raised where the hook was asked
                failures.append(exc)

        # In a task of its own: what it makes of a cancellation is not what this worker makes of it.
        with anyio.move_on_after(self._timeout):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
        if failures:
            raise failures[0]
        if not answer:
            raise TimeoutError(f"it said nothing within {self._timeout:g} s (promotion_hook_timeout)")
        return answer[0]


def _checked(said: Any, verdict: Verdict) -> Verdict:
    if not isinstance(said, Verdict):
        raise TypeError(f"a promotion hook gives a verdict or None, not {said!r}"[:200])
    # One that a hook made anew does not know where the item is.
    return said if said.present == verdict.present else replace(said, present=verdict.present)
