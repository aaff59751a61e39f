"""A Lua script asked as one command.

It is asked by its hash. Redis loads it at its first use after a start, a SCRIPT FLUSH or a fail-over: NOSCRIPT comes
before any effect, so the same call is asked again with the text.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import hiredis

from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.replies import NEVER, Answer, Arguments


class ScriptCall(Answer):
    """The sink of one call; `read` makes of the reply what the caller gets."""

    __slots__ = ("_link", "_read", "_retried", "_script", "arguments")

    def __init__(self, script: Script, link: Link, arguments: Arguments, read: Callable[[Any], Any] | None) -> None:
        super().__init__(link.loop.create_future(), link.gather(_nothing_more))
        self._script = script
        self._link = link
        self.arguments = arguments
        self._read = read
        self._retried = False

    def resolve(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOSCRIPT") and not (self._retried or self.expires == NEVER or self.future.done()):
                self._retried = True
                self._link.put(["EVAL", self._script.text, *self.arguments], self)
                return
        elif self._read is not None:
            reply = self._read(reply)  # also when nobody waits any more: what it did is done
        super().resolve(reply)


class Script:
    """A Lua file of this folder, or several that are one script."""

    def __init__(self, *names: str) -> None:
        folder = files("traffic_cop_middleware.adapters.redis")
        self.text = b"".join(folder.joinpath(name).read_bytes() for name in names)
        self.sha = hashlib.sha1(self.text).hexdigest()  # noqa: S324 - the name that Redis gives a script

    def ask(
        self,
        link: Link,
        keys: Sequence[str],
        arguments: Arguments,
        read: Callable[[Any], Any] | None = None,
    ) -> asyncio.Future[Any]:
        """Run it; the future has the reply, or what `read` makes of it.

        Raises:
            StoreUnavailable: the link is down.
        """
        call = ScriptCall(self, link, (len(keys), *keys, *arguments), read)
        link.put(["EVALSHA", self.sha, *call.arguments], call)
        return call.future


def _nothing_more() -> None:
    """Asked of `Link.gather` for the deadline alone: the command is put at once, to stand in the order of the calls."""


def text_of(reply: bytes) -> str:
    """A text as it was sent: `packed` writes a lone surrogate as its bytes."""
    return reply.decode("utf-8", "surrogatepass")


def counted(service: str) -> str:
    """A service's name with its length in bytes before it, so that what follows it can be told apart."""
    return f"{len(service.encode('utf-8', 'surrogatepass'))}:{service}"


def unheard(asked: asyncio.Future[Any]) -> None:
    """Nobody waits for it: take its error away, so that the loop does not complain."""
    if not asked.cancelled():
        asked.exception()
