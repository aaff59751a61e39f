"""Commands and their replies: what goes on the wire, where a reply goes, and what an error reply means."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, cast

import hiredis
from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError

from traffic_cop_middleware.errors import ConfigurationError, StoreError, StoreUnavailable

NOT_SERVING = frozenset(
    ("LOADING", "MASTERDOWN", "READONLY", "NOREPLICAS", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "OOM")
)
"""Error replies of a server that can't serve at present: the same as one that can't be reached."""
NOT_ALLOWED = (
    "NOPERM ",
    "ERR unknown command 'EVAL",
    "ERR The user executing the script can't",
    "ERR ACL failure in script",
)
"""Error replies where a permission is missing, or scripts are taken away: nobody is served until an operator acts."""

NEVER = float("inf")
"""The deadline of what has failed already and only keeps its place among the replies."""

Arguments = Sequence[str | bytes | int | float]


class Sink(Protocol):
    """Where the reply to one command goes."""

    expires: float

    def resolve(self, reply: Any) -> None: ...

    def fail(self, error: StoreError) -> None: ...


class Answer:
    """The sink of a command that one caller waits for."""

    __slots__ = ("expires", "future")

    def __init__(self, future: asyncio.Future[Any], expires: float) -> None:
        self.future = future
        self.expires = expires

    def resolve(self, reply: Any) -> None:
        if not self.future.done():
            if isinstance(reply, hiredis.ReplyError):
                self.future.set_exception(reply_error(reply))
            else:
                self.future.set_result(reply)

    def fail(self, error: StoreError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def reply_error(reply: Exception) -> StoreError:
    """An error reply, as the error that callers know: unavailable where the server can't serve at present."""
    kind = StoreUnavailable if code_of(reply) in NOT_SERVING else StoreError
    error = kind(f"Redis answered: {reply}")
    error.__cause__ = reply
    return error


def serves_nobody(reply: Exception) -> bool:
    """Whether the server says by this that it can't serve at present, whoever asks."""
    return code_of(reply) in NOT_SERVING or str(reply).startswith(NOT_ALLOWED)


def code_of(error: Exception) -> str:
    """The first word of an error reply; redis-py takes it off the text of those that it knows."""
    return str(getattr(error, "status_code", None) or str(error).partition(" ")[0])


def refuses(error: Exception) -> bool:
    """Whether the server turned this client away for what the URL says, and not because it can't serve at present."""
    if isinstance(error, (AuthenticationError, AuthorizationError, ConfigurationError)):
        return True
    return isinstance(error, ResponseError) and code_of(error) not in NOT_SERVING


def packed(command: Arguments) -> bytes:
    """A command on the wire. A lone surrogate, which a key made of a client's bytes may hold, goes as its bytes."""
    try:
        return cast("bytes", hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]  # its stub: memoryview
    except UnicodeEncodeError:
        return packed([part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in command])
