"""Start and stop around the app's own: ours opens first and closes last, and the app's is left as it is.

See the ASGI lifespan protocol: an app that raises before it takes the first message has no lifespan of its own; then
this one answers for it.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.errors import ConfigurationError

log = logging.getLogger("traffic_cop")


async def run_lifespan(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    open_parts: Callable[[], Awaitable[object]],
    close_parts: Callable[[], Awaitable[None]],
) -> None:
    """Open, run the app's lifespan, close. What fails before the app's start goes out as a failed start-up."""
    first = await receive()
    try:
        await open_parts()
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is told as a failed start
        text = f"Traffic Cop: {exc}" if isinstance(exc, ConfigurationError) else traceback.format_exc()
        await close_parts()
        await send({"type": "lifespan.startup.failed", "message": text})
        return
    took_first = False

    async def receive_again() -> Message:
        nonlocal took_first
        if not took_first:
            took_first = True
            return first
        return await receive()

    async def send_after_closing(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            await close_parts()
        await send(message)

    try:
        try:
            await app(scope, receive_again, send_after_closing)
        except Exception:
            if took_first:
                raise
            log.debug("the app has no lifespan; answering for it", exc_info=True)
        if not took_first:
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send_after_closing({"type": "lifespan.shutdown.complete"})
    finally:
        await close_parts()
