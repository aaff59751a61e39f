"""Whose bucket a request takes from.

A key gives a *subject*: a kind and a value (`ip:203.0.113.7`). What comes from a client is never used as it came: an
API key is hashed, and so is whatever is long or would break the store's key syntax. A refusal names the kind, never
the value.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast, overload

from starlette.requests import HTTPConnection
from starlette.types import Scope

from traffic_cop_middleware.errors import ConfigurationError

if TYPE_CHECKING:
    from traffic_cop_middleware.middleware.context import TrafficContext

__all__ = ["Key", "KeyFunction", "by_api_key", "by_everyone", "by_ip", "by_route", "key_of"]

KeyFunction = Callable[[HTTPConnection], str | Awaitable[str | None] | None]
Verify = Callable[[str], bool | str | Awaitable[bool | str | None] | None]

PLAIN = re.compile(r"[A-Za-z0-9._:/@+=-]{1,96}")
API_KEY_HEADER = b"x-api-key"
LONGEST_API_KEY = 1024


class Key:
    """A key function: called with a connection it gives the subject's value, or `None` where it does not apply.

    `kind` is what people are told ("ip"). `beside` is a second key that every request is charged to as well.
    """

    kind: str = ""
    beside: Key | None = None
    by_client: bool = False
    """Whether the subject depends on the client's address and the route alone."""

    def __repr__(self) -> str:
        return f"by_{self.kind}"

    def __call__(self, connection: HTTPConnection) -> str | Awaitable[str | None] | None:
        raise TypeError(f"{type(self).__name__} gives no value of its own")

    def subject(self, context: TrafficContext, scope: Scope) -> Any:
        """The subject `kind:value`, `None` where the limit does not apply, or an awaitable of either."""
        raise TypeError(f"{type(self).__name__} gives no subject")


class ByIp(Key):
    """The client's address; of an IPv6 client the /64 network. Behind a proxy, set `trusted_proxies`."""

    kind = "ip"
    by_client = True

    def __call__(self, connection: HTTPConnection) -> str:
        context: TrafficContext = connection.scope["traffic_cop"]
        return context.client

    def subject(self, context: TrafficContext, scope: Scope) -> str:
        return f"ip:{context.client}"


class ByRoute(Key):
    """One bucket per route for all clients together."""

    kind = "route"
    by_client = True

    def __call__(self, connection: HTTPConnection) -> str:
        context: TrafficContext = connection.scope["traffic_cop"]
        return context.route.template

    def subject(self, context: TrafficContext, scope: Scope) -> str:
        return subject_of("route", context.route.template)


class ByEveryone(Key):
    """One bucket for all clients together."""

    kind = "everyone"
    by_client = True

    def __call__(self, connection: HTTPConnection) -> str:
        return "all"

    def subject(self, context: TrafficContext, scope: Scope) -> str:
        return "everyone:all"


class ByApiKey(Key):
    """The `X-API-Key` header, hashed; a client without one counts by its address.

    Anyone can invent a key, so by itself this also charges the client's address. With `verify` it does not:
    `by_api_key(verify=known)` asks `known(key)` (sync or async), and a key that it denies counts by address. `verify`
    may return a string to count by that instead, so that two keys of one customer share a bucket.
    """

    kind = "api_key"

    def __init__(self, verify: Verify | None = None) -> None:
        self._verify = verify
        self.beside = ByIpBesideApiKey() if verify is None else None

    @overload
    def __call__(self, connection: HTTPConnection) -> str | None: ...

    @overload
    def __call__(self, *, verify: Verify) -> ByApiKey: ...

    def __call__(
        self, connection: HTTPConnection | None = None, *, verify: Verify | None = None
    ) -> str | ByApiKey | None:
        if connection is None:
            if not callable(verify):
                raise ConfigurationError(f"by_api_key(verify={verify!r}): verify is a function of the key")
            return ByApiKey(verify)
        given = _api_key(connection.scope)
        return _digest(given) if given else None

    def subject(self, context: TrafficContext, scope: Scope) -> Any:
        given = _api_key(scope)
        if not given:
            return by_ip.subject(context, scope)
        if self._verify is not None:
            return self._verified(given, context, scope, self._verify)
        return f"api_key:{_digest(given)}"

    async def _verified(self, given: str, context: TrafficContext, scope: Scope, verify: Verify) -> str:
        owner = verify(given)
        if inspect.isawaitable(owner):
            owner = await owner
        if isinstance(owner, str) and owner:
            return subject_of("api_key", owner)
        return f"api_key:{_digest(given)}" if owner else by_ip.subject(context, scope)


class ByIpBesideApiKey(ByIp):
    """The address of a client that brings an API key which nobody verified."""

    by_client = False

    def subject(self, context: TrafficContext, scope: Scope) -> str | None:  # type: ignore[override]
        return f"ip:{context.client}" if _api_key(scope) else None


class ByFunction(Key):
    """A key function of the user's."""

    def __init__(self, function: KeyFunction) -> None:
        self._function = function
        self.kind = getattr(function, "__name__", type(function).__name__).strip("<>")[:64]

    def __repr__(self) -> str:
        return self.kind

    def __call__(self, connection: HTTPConnection) -> str | Awaitable[str | None] | None:
        return self._function(connection)

    async def subject(self, context: TrafficContext, scope: Scope) -> str | None:
        value = self._function(HTTPConnection(scope))
        if inspect.isawaitable(value):
            value = await value
        if value is None:
            return None
        if not isinstance(value, str):
            raise TypeError(f"key function {self.kind} returned {type(value).__name__}; it returns a string or None")
        return f"fn.{self.kind}:{_digest(value)}"


by_ip = ByIp()
by_route = ByRoute()
by_everyone = ByEveryone()
by_api_key = ByApiKey()


def key_of(key: Any, where: str) -> Key:
    """What `key=` says, as a `Key`.

    Raises:
        ConfigurationError: it is no function.
    """
    if isinstance(key, Key):
        return key
    if not callable(key) or inspect.isclass(key):
        raise ConfigurationError(
            f"{where}: key={key!r} must be by_ip, by_api_key, by_route, by_everyone, or a function of the connection "
            "that returns a string, or None where the limit does not apply"
        )
    return ByFunction(cast("KeyFunction", key))


def subject_of(kind: str, value: str) -> str:
    """`kind:value`, with a value that is long or has other than plain characters hashed."""
    return f"{kind}:{value}" if PLAIN.fullmatch(value) else f"{kind}:{_digest(value)}"


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _api_key(scope: Scope) -> str:
    """The key that came, if any; one longer than `LONGEST_API_KEY` bytes is nobody's."""
    for name, value in scope.get("headers", ()):
        if name == API_KEY_HEADER and len(value) <= LONGEST_API_KEY:
            text: str = value.decode("latin-1")
            return text
    return ""
