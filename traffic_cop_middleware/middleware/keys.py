"""Whose bucket a request takes from.

A key gives a *subject*: a kind and a value (`ip:203.0.113.7`). What comes from a client is never used as it came: an
API key is hashed, and so is whatever is long or would break the store's key syntax. A refusal names the kind, never
the value.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from starlette.requests import HTTPConnection
from starlette.types import Scope

from traffic_cop_middleware.abstractions.subjects import digest, subject_of
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.client_address import client_network

if TYPE_CHECKING:
    from traffic_cop_middleware.abstractions.verified_tokens import Verified
    from traffic_cop_middleware.middleware.context import TrafficContext

__all__ = [
    "Key",
    "KeyFunction",
    "by_api_key",
    "by_everyone",
    "by_ip",
    "by_route",
    "by_session",
    "by_tenant",
    "by_user",
    "key_of",
    "needs_record",
    "reads_session",
]

KeyFunction = Callable[[HTTPConnection], str | Awaitable[str | None] | None]
Verify = Callable[[str], bool | str | Awaitable[bool | str | None] | None]

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
    by_session: bool = False
    """Whether the subject is of a session: then it holds only while that stands, and else `anonymous_subject` does."""

    def __repr__(self) -> str:
        return f"by_{self.kind}"

    def __call__(self, connection: HTTPConnection) -> str | Awaitable[str | None] | None:
        raise TypeError(f"{type(self).__name__} gives no value of its own")

    def subject(self, context: TrafficContext, scope: Scope) -> Any:
        """The subject `kind:value`, `None` where the limit does not apply, or an awaitable of either."""
        raise TypeError(f"{type(self).__name__} gives no subject")

    def anonymous_subject(self, context: TrafficContext, scope: Scope) -> str:
        """Whose bucket it is where nobody is logged in."""
        return f"ip:{context.client}"

    def subject_named(self, value: str) -> str:
        """The subject that people call `value`: an address, a user, a tenant, a key as it is sent."""
        return subject_of(self.kind, value)


class ByIp(Key):
    """The client's address; of an IPv6 client the /64 network. Behind a proxy, set `trusted_proxies`."""

    kind = "ip"
    by_client = True

    def __call__(self, connection: HTTPConnection) -> str:
        context: TrafficContext = connection.scope["traffic_cop"]
        return context.client

    def subject(self, context: TrafficContext, scope: Scope) -> str:
        return f"ip:{context.client}"

    def subject_named(self, value: str) -> str:
        return f"ip:{client_network(value)}"


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

    def subject_named(self, value: str) -> str:
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
        if not isinstance(connection, HTTPConnection):
            raise ConfigurationError(
                f"by_api_key({connection!r}): the key is read from X-API-Key. Write by_api_key, or "
                "by_api_key(verify=fn) with a function of the key"
            )
        given = _api_key(connection.scope)
        return digest(given) if given else None

    def subject(self, context: TrafficContext, scope: Scope) -> Any:
        given = _api_key(scope)
        if not given:
            return by_ip.subject(context, scope)
        if self._verify is not None:
            return self._verified(given, context, scope, self._verify)
        return f"api_key:{digest(given)}"

    def subject_named(self, value: str) -> str:
        return f"api_key:{digest(value)}" if self._verify is None else subject_of("api_key", value)

    async def _verified(self, given: str, context: TrafficContext, scope: Scope, verify: Verify) -> str:
        owner = verify(given)
        if inspect.isawaitable(owner):
            owner = await owner
        if not owner:
            return by_ip.subject(context, scope)
        subject = subject_of("api_key", owner) if isinstance(owner, str) else f"api_key:{digest(given)}"
        context.api_key = subject.removeprefix("api_key:")
        return subject


class ByIpBesideApiKey(ByIp):
    """The address of a client that brings an API key which nobody verified."""

    by_client = False

    def subject(self, context: TrafficContext, scope: Scope) -> str | None:  # type: ignore[override]
        return f"ip:{context.client}" if _api_key(scope) else None


class BySession(Key):
    """What a verified token says: its user, session or tenant. A client that nobody knows counts by its address."""

    by_session = True

    def __init__(self, kind: str, subject_in: Callable[[Verified], str | None]) -> None:
        self.kind = kind
        self._subject_in = subject_in

    def __call__(self, connection: HTTPConnection) -> str | None:
        context: TrafficContext = connection.scope["traffic_cop"]
        return self._known(context)

    def subject(self, context: TrafficContext, scope: Scope) -> str:
        return self._known(context) or self.anonymous_subject(context, scope)

    def _known(self, context: TrafficContext) -> str | None:
        session = context.session
        if session is None:
            raise ConfigurationError(
                f"{self!r} needs sessions: TrafficCop(session_secret=…), or SessionMiddleware outside of "
                "RateLimitMiddleware"
            )
        return self._subject_in(session.verified) if session.verified is not None else None


def _user(verified: Verified) -> str | None:
    return verified.key.tag if verified.subject is not None else None


def _session(verified: Verified) -> str | None:
    return f"session:{verified.key.id}" if verified.key.id else verified.key.tag


def _tenant(verified: Verified) -> str | None:
    tenant = verified.claims.get("tenant")
    return subject_of("tenant", str(tenant)) if isinstance(tenant, (str, int)) and tenant != "" else None


class ByFunction(Key):
    """A key function of the user's."""

    def __init__(self, function: KeyFunction) -> None:
        self._function = function
        if needs_record(function):
            setattr(self, READS_SESSION, True)
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
        return self.subject_named(value)

    def subject_named(self, value: str) -> str:
        return f"fn.{self.kind}:{digest(value)}"


by_ip = ByIp()
by_route = ByRoute()
by_everyone = ByEveryone()
by_api_key = ByApiKey()
by_user = BySession("user", _user)
by_session = BySession("session", _session)
by_tenant = BySession("tenant", _tenant)

F = TypeVar("F", bound=Callable[..., Any])
READS_SESSION = "__traffic_cop_reads_session__"


def reads_session(function: F) -> F:
    """Mark a key or cost function that looks into the session's record, and not only at its subject and claims.

    A request that owes such a limit takes a second round trip: the record has to come before the limits are asked.
    """
    setattr(function, READS_SESSION, True)
    return function


def needs_record(part: object) -> bool:
    """Whether a key or cost is marked by `reads_session`."""
    return getattr(part, READS_SESSION, False) is True


def key_of(key: Any, where: str) -> Key:
    """What `key=` says, as a `Key`.

    Raises:
        ConfigurationError: it is no function.
    """
    if isinstance(key, Key):
        return key
    if not callable(key) or inspect.isclass(key):
        raise ConfigurationError(
            f"{where}: key={key!r} must be by_ip, by_user, by_session, by_tenant, by_api_key, by_route, "
            "by_everyone, or a function of the connection that returns a string, or None where the limit does not apply"
        )
    return ByFunction(cast("KeyFunction", key))


def _api_key(scope: Scope) -> str:
    """The key that came, if any; one longer than `LONGEST_API_KEY` bytes is nobody's."""
    for name, value in scope.get("headers", ()):
        if name == API_KEY_HEADER and len(value) <= LONGEST_API_KEY:
            text: str = value.decode("latin-1")
            return text
    return ""
