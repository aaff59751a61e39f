"""Start and stop around the app's own: ours opens first and closes last, and the app's is left as it is.

An app that raises at the lifespan scope has none (ASGI lifespan protocol); that passes through as well, and the parts
open with the first request.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.errors import ConfigurationError

Work = Callable[[], Coroutine[Any, Any, None]]


async def run_lifespan(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    open_parts: Callable[[], Awaitable[object]],
    close_parts: Callable[[], Awaitable[None]],
    work: Work | None = None,
) -> None:
    """Open, run the app's lifespan, close. What fails before the app's start goes out as a failed start-up, and is
    raised.

    `work` runs beside the app, and has ended when the server hears of the end: one that was interrupted ends the event
    loop right after that, and would tell of whatever still runs as of an error.
    """
    first: Message | None = await receive()
    try:
        await open_parts()
    except Exception as exc:
        text = f"Traffic Cop: {exc}" if isinstance(exc, ConfigurationError) else traceback.format_exc()
        await send({"type": "lifespan.startup.failed", "message": text})
        raise  # as Starlette does: a server has the message already, and a TestClient would wait for ever
    is_open = True
    beside = Beside(work)

    async def close() -> None:
        nonlocal is_open
        if is_open:
            is_open = False
            await close_parts()
        await beside.end()

    async def receive_again() -> Message:
        nonlocal first
        message, first = first, None
        return message if message is not None else await receive()

    async def send_after_closing(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            await close()
        await send(message)

    try:
        await beside.run(partial(app, scope, receive_again, send_after_closing))
    finally:
        await close()


class Beside:
    """Runs `work`, if there is any, beside something else."""

    def __init__(self, work: Work | None) -> None:
        self._work = work
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    async def run(self, other: Callable[[], Awaitable[None]]) -> None:
        """Wait for something else with the work beside it, which ends with it at the latest."""
        if self._work is None:
            await other()
            return
        failed: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._run, self._work)
                try:
                    await other()
                except Exception as exc:  # noqa: BLE001 - raised again outside: a task group would wrap it
                    failed = exc
                self._scope.cancel()
        finally:
            self._ended.set()  # one that was cancelled before it began says nothing itself
        if failed is not None:
            raise failed

    async def _run(self, work: Work) -> None:
        try:
            with self._scope:
                await work()
        finally:
            self._ended.set()

    async def end(self) -> None:
        """Cancel the work, and wait until it has ended."""
        if self._work is not None:
            self._scope.cancel()
            await self._ended.wait()
