"""What happens to a request on its way along a gateway route: its path, fields and limits of time and size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_args

from traffic_cop_middleware.abstractions.balancing.checks import HealthCheck
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.destinations import Destination, header_fields
from traffic_cop_middleware.abstractions.forwarding import FRAMING, FieldChanges, ForwardedStyle
from traffic_cop_middleware.abstractions.gateway_routes import PARAM, GatewayRoute
from traffic_cop_middleware.abstractions.upstreams import Pool
from traffic_cop_middleware.contracts.transport import Deadlines
from traffic_cop_middleware.errors import ConfigurationError

LONGEST_DEADLINE = 366 * 86_400
NONE = frozenset(" ?#\\")
"""Characters that no path has."""

BALANCED = BalancingSettings()
"""How instances are chosen where a route says nothing else."""

MIRRORED = BalancingSettings(most_ejected=1.0, retry_share=0.0, retry_floor=0.0)
"""How the instances of a mirror are chosen. Nobody waits for their answers, so there are no retries, and where all of
them are dead none is asked for a while: that would help nobody."""

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
    """How requests of one route are forwarded. Checked when made.

    `strip_prefix` is taken off the path ("/billing"), or `rewrite` gives it anew: "/v2/{id}/*" has the pattern's
    parameters and its rest. Paths keep their bytes. `keep_host`: the upstream sees the client's Host; else its own.
    `forwarded`: which of X-Forwarded-* and Forwarded say who the client is. `request_headers` and `response_headers`
    are set, `remove_request_headers` and `remove_response_headers` taken out. `identity`: tell the upstream who is
    logged in, in X-Traffic-User and others; "signed": also as a token. Seconds: `connect_deadline` to reach an
    instance, `head_deadline` for the response to begin, `idle_deadline` between two pieces of a body. `max_body` and
    `max_headers` are bytes of a request.

    Raises:
        ConfigurationError: a value can't be used.
    """

    strip_prefix: str = ""
    rewrite: str = ""
    keep_host: bool = True
    forwarded: ForwardedStyle = "both"
    request_headers: Headers = ()
    response_headers: Headers = ()
    remove_request_headers: Iterable[str] = ()
    remove_response_headers: Iterable[str] = ()
    identity: bool | str = False
    connect_deadline: float = 5.0
    head_deadline: float = 60.0
    idle_deadline: float = 60.0
    max_body: int | None = None
    max_headers: int = 64 * 1024
    deadlines: Deadlines = field(init=False, repr=False, compare=False)
    request_changes: FieldChanges = field(init=False, repr=False, compare=False)
    response_changes: FieldChanges = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("connect_deadline", "head_deadline", "idle_deadline"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= LONGEST_DEADLINE:
                raise ConfigurationError(f"{name}={value!r}: seconds above 0, {LONGEST_DEADLINE} (a year) at most")
        for name, least in (("max_body", 0), ("max_headers", 1024)):
            value = getattr(self, name)
            if value is None and name == "max_body":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(f"{name}={value!r}: bytes, {least} or more")
        if self.forwarded not in get_args(ForwardedStyle):
            raise ConfigurationError(f"forwarded={self.forwarded!r}: one of {', '.join(get_args(ForwardedStyle))}")
        if self.identity not in (False, True, "signed"):
            raise ConfigurationError(f"identity={self.identity!r}: False, True or 'signed'")
        if not isinstance(self.keep_host, bool):
            raise ConfigurationError(f"keep_host={self.keep_host!r}: True or False")
        if self.strip_prefix and self.rewrite:
            raise ConfigurationError("strip_prefix and rewrite both change the path. Write one of them")
        if self.strip_prefix and not _is_path(self.strip_prefix):
            raise ConfigurationError(
                f"strip_prefix={self.strip_prefix!r}: a path such as '/billing', without a final /"
            )
        if self.rewrite and not (isinstance(self.rewrite, str) and self.rewrite.startswith("/")):
            raise ConfigurationError(f"rewrite={self.rewrite!r}: a path such as '/v2/{{id}}/*'")
        if self.rewrite and not (
            self.rewrite.isascii() and self.rewrite.isprintable() and not set(self.rewrite) & NONE
        ):
            raise ConfigurationError(f"rewrite={self.rewrite!r}: a path, percent-encoded, without '?', '#' and spaces")
        for name in ("request_headers", "response_headers"):
            value = getattr(self, name)
            try:
                pairs = tuple((k, v) for k, v in (value.items() if isinstance(value, Mapping) else value))
            except (TypeError, ValueError) as exc:
                raise ConfigurationError(
                    f"{name}={value!r}: a mapping of names to values: {{'X-Name': 'value'}}"
                ) from exc
            object.__setattr__(self, name, pairs)
        deadlines = Deadlines(self.connect_deadline, self.head_deadline, self.idle_deadline)
        object.__setattr__(self, "deadlines", deadlines)
        object.__setattr__(
            self, "request_changes", _changes("request_headers", self.request_headers, self.remove_request_headers)
        )
        object.__setattr__(
            self, "response_changes", _changes("response_headers", self.response_headers, self.remove_response_headers)
        )

    def check(self, pattern: str) -> None:
        """See that it fits a route's pattern.

        Raises:
            ConfigurationError: it does not.
        """
        segments = pattern.split("/")
        if self.strip_prefix:
            stripped = self.strip_prefix.split("/")
            if segments[: len(stripped)] != stripped:
                raise ConfigurationError(
                    f"strip_prefix={self.strip_prefix!r}: the pattern {pattern!r} does not begin with it"
                )
        if self.rewrite:
            known = {found[1] for segment in segments if (found := PARAM.fullmatch(segment))}
            for at, segment in enumerate(new := self.rewrite.split("/")):
                found = PARAM.fullmatch(segment)
                if found and found[1] not in known:
                    raise ConfigurationError(f"rewrite={self.rewrite!r}: the pattern {pattern!r} has no {segment}")
                if not found and set(segment) & set("{}"):
                    raise ConfigurationError(f"rewrite={self.rewrite!r}: a parameter is a whole segment: '/v2/{{id}}'")
                if segment == "*" and (at != len(new) - 1 or segments[-1] != "*"):
                    raise ConfigurationError(
                        f"rewrite={self.rewrite!r}: '*' is the last segment, for a pattern that ends with '*'"
                    )

    def path(self, pattern: str, raw_path: bytes) -> bytes:
        """The path that the upstream gets, in the bytes that came."""
        if self.strip_prefix:
            rest = raw_path.split(b"/", self.strip_prefix.count("/") + 1)[self.strip_prefix.count("/") + 1 :]
            return b"/" + rest[0] if rest else b"/"
        if not self.rewrite:
            return raw_path
        segments = pattern.split("/")
        came = raw_path.split(b"/")
        params = {found[1]: came[at] for at, segment in enumerate(segments) if (found := PARAM.fullmatch(segment))}
        written: list[bytes] = []
        for segment in self.rewrite.split("/"):
            if found := PARAM.fullmatch(segment):
                written.append(params[found[1]])
            elif segment == "*":
                written += came[len(segments) - 1 :]
            else:
                written.append(segment.encode("ascii"))
        return b"/".join(written)


@dataclass(frozen=True, slots=True)
class Action:
    """What is done with a request that a route takes: `GatewayRoute.to`.

    `balancing` is how an instance of the destination is chosen, where that has instances, and `check` how upstreams
    that it lists are asked for their health (a service has its own). `mirror` is a pool that gets
    a copy of each request, and whose answers are dropped. `limits` are the limiter's, `cors` names the CORS policy that
    applies in place of the path's.
    """

    destination: Destination
    policy: RoutePolicy
    mirror: Pool | None = None
    limits: Sequence[Any] = ()
    cors: str | None = None
    balancing: BalancingSettings = BALANCED
    check: HealthCheck | None = None


def policy_record(policy: RoutePolicy) -> dict[str, Any]:
    """A policy as JSON; what has its default is left out."""
    found: dict[str, Any] = {}
    for each in fields(policy):
        value = getattr(policy, each.name)
        if not each.init or (each.default is not MISSING and value == each.default):
            continue
        if each.name in ("request_headers", "response_headers"):
            value = [list(pair) for pair in value]
        elif each.name in ("remove_request_headers", "remove_response_headers"):
            value = sorted(value)
        found[each.name] = value
    return found


def action_of(route: GatewayRoute) -> Action:
    """What is done with a request of this route."""
    action: Action = route.to
    return action


def _is_path(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.startswith("/") and not text.endswith("/")


def _changes(argument: str, headers: Headers, remove: Iterable[str]) -> FieldChanges:
    if not isinstance(remove, Iterable):
        raise ConfigurationError(f"remove_{argument}={remove!r}: names of headers: ['X-Name']")
    names = [remove] if isinstance(remove, str) else list(remove)
    removed = frozenset(name for name, _ in header_fields(f"remove_{argument}", [(name, "") for name in names]))
    fields = header_fields(argument, headers)
    if framing := [name.decode() for name, _ in fields if name in FRAMING]:
        raise ConfigurationError(f"{argument}: {framing[0]!r} says where a message ends, which is not a route's to say")
    return FieldChanges(set=fields, remove=removed)
