"""CORS policies: who may call from another origin, and with what, as frozen values that are checked when made.

After the Fetch standard (https://fetch.spec.whatwg.org), sections "CORS protocol" and "`Origin` header": an origin is
compared byte by byte in the one form that browsers write, methods are case-sensitive, header names are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from traffic_cop_middleware.abstractions.gateway_routes import LABELS, LONGEST_HOST, TOKEN, gateway_route
from traffic_cop_middleware.abstractions.origins import NULL, checked_origin
from traffic_cop_middleware.contracts.transport import Field
from traffic_cop_middleware.errors import ConfigurationError

EVERYTHING = "*"
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
KNOWN_METHODS = frozenset({*METHODS, "OPTIONS", "QUERY"})
FORBIDDEN_METHODS = frozenset({"CONNECT", "TRACE", "TRACK"})
"""Fetch, section "Methods": no script can send them."""
SAFELISTED = ("accept", "accept-language", "content-language", "content-type", "range")
"""Names of CORS-safelisted request-headers: asked about all the same when a value is not safe, as application/json."""
MOST_ORIGINS = 10_000
MOST_NAMES = 256
MOST_PATHS = 1000
LONGEST_TOKEN = 128
LONGEST_ORIGIN = LONGEST_HOST + 64
MOST_SECONDS = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsPolicy:
    """Which pages of other origins may call, and what they may send and read. Checked when made; all in one form.

    `origins`: "https://app.example.com" (as browsers write it), "https://*.example.com" (its subdomains of any depth,
    never itself), "null" (sandboxed frames, files; never implied by others), or "*" for everybody; empty for nobody.
    `methods` are case-sensitive; GET, HEAD and POST can come without a question whatever stands here. `headers` that a
    page may send, "*" for what it asks; those of the safelist (Content-Type and others) always. `expose`: response
    headers that it may read beyond the safelisted ones, "*" for all. `credentials`: it may send and get cookies, and
    read what they show. `max_age`: seconds that a browser may remember the answer to a preflight (browsers stop at
    7200 or 86400). `paths`: those that it is for, in patterns and with the precedence of
    gateway routes ("/*" too stands before one with "{parameters}"); empty for a policy that only gateway routes name.
    `private_network`: pages of public networks may call this private one.

    Raises:
        ConfigurationError: a value can't be used, or two don't go together.
    """

    origins: str | Iterable[str]
    methods: str | Iterable[str] = METHODS
    headers: str | Iterable[str] = ()
    expose: str | Iterable[str] = ()
    credentials: bool = False
    max_age: int = 600
    paths: str | Iterable[str] = ("/*",)
    private_network: bool = False
    name: str = field(default="", init=False, compare=False)
    """What its table calls it; "" outside of one."""
    exact: frozenset[str] = field(init=False, repr=False, compare=False)
    wildcards: frozenset[str] = field(init=False, repr=False, compare=False)
    """Of "https://*.example.com:8443" it is "https://.example.com:8443"."""
    accepted: frozenset[str] = field(init=False, repr=False, compare=False)
    allow_fields: tuple[Field, ...] = field(init=False, repr=False, compare=False)
    """What the answer to an allowed preflight has, whoever asks."""
    share_fields: tuple[Field, ...] = field(init=False, repr=False, compare=False)
    """What a response has beside its Access-Control-Allow-Origin."""

    def __post_init__(self) -> None:
        origins = _listed("origins", self.origins, most=MOST_ORIGINS)
        everybody = EVERYTHING in origins
        if everybody and len(origins) > 1:
            raise ConfigurationError(
                "origins=['*', …]: '*' is everybody, whoever stands beside it. Write origins='*', or leave it out"
            )
        checked = () if everybody else tuple(sorted({checked_origin(each) for each in origins}))
        methods = tuple(sorted({_method(each) for each in _listed("methods", self.methods, most=MOST_NAMES)}))
        headers = _header_names("headers", self.headers)
        expose = _header_names("expose", self.expose)
        paths = tuple(sorted({_path(each) for each in _listed("paths", self.paths, most=MOST_PATHS)}))
        for argument in ("credentials", "private_network"):
            value = getattr(self, argument)
            if not isinstance(value, bool):
                raise ConfigurationError(f"{argument}={value!r}: True or False")
        if isinstance(self.max_age, bool) or not isinstance(self.max_age, int) or not 0 <= self.max_age <= MOST_SECONDS:
            raise ConfigurationError(f"max_age={self.max_age!r}: whole seconds, 0 or more; 0 is not to remember it")
        if self.credentials:
            _check_credentials(everybody, checked, expose)
        for argument, value in (
            ("origins", EVERYTHING if everybody else checked),
            ("methods", methods),
            ("headers", EVERYTHING if EVERYTHING in headers else headers),
            ("expose", EVERYTHING if EVERYTHING in expose else expose),
            ("paths", paths),
            ("exact", frozenset(each for each in checked if "*" not in each)),
            ("wildcards", frozenset(each.replace("*", "", 1) for each in checked if "*" in each)),
            ("accepted", frozenset((*headers, *SAFELISTED))),
        ):
            object.__setattr__(self, argument, value)
        credentials = [(b"access-control-allow-credentials", b"true")] if self.credentials else []
        allowed = [*credentials, (b"access-control-max-age", b"%d" % self.max_age)]
        if methods:
            allowed.append((b"access-control-allow-methods", ", ".join(methods).encode("ascii")))
        exposed = [(b"access-control-expose-headers", ", ".join(expose).encode("ascii"))] if expose else []
        object.__setattr__(self, "allow_fields", tuple(allowed))
        object.__setattr__(self, "share_fields", (*credentials, *exposed))

    @property
    def everybody(self) -> bool:
        """Whether all origins are allowed, so that no answer depends on which one asks."""
        return self.origins == EVERYTHING

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may call: the value of an Origin header, as it came."""
        if self.everybody or origin in self.exact:
            return True
        if not self.wildcards or len(origin) > LONGEST_ORIGIN:
            return False
        scheme, _, host = origin.partition("://")
        at = host.find(".", 1)
        while at > 0:
            if f"{scheme}://{host[at:]}" in self.wildcards:
                return LABELS.fullmatch(host[:at]) is not None
            at = host.find(".", at + 1)
        return False

    def record(self) -> dict[str, Any]:
        """It as JSON; what has its default is left out, as is the name. `cors_policy_from` makes an equal one."""
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.init and (each.default is MISSING or value != each.default):
                found[each.name] = list(value) if isinstance(value, tuple) else value
        return found


def cors_policy_from(record: Mapping[str, Any]) -> CorsPolicy:
    """The policy of a record, checked.

    Raises:
        ConfigurationError: it can't be used, has no origins, or has a key that no policy has.
    """
    if not isinstance(record, Mapping):
        raise ConfigurationError(f"a CORS policy's record is a mapping, not {record!r}")
    known = [each.name for each in fields(CorsPolicy) if each.init]
    if unknown := [key for key in record if key not in known]:
        raise ConfigurationError(f"a CORS policy's record has the key {unknown[0]!r}: its keys are {', '.join(known)}")
    if "origins" not in record:
        raise ConfigurationError(f"a CORS policy's record has no 'origins': {dict(record)!r}")
    return CorsPolicy(**record)


def _check_credentials(everybody: bool, origins: tuple[str, ...], expose: tuple[str, ...]) -> None:
    if everybody:
        raise ConfigurationError(
            "origins='*', credentials=True: browsers refuse the two together (Fetch, section \"CORS protocol and "
            'credentials"), because any page could read what its visitor may. List the origins, or leave credentials '
            "out"
        )
    if NULL in origins:
        raise ConfigurationError(
            "origins='null', credentials=True: any page can have that origin, in a sandboxed frame, and could read "
            "what its visitor may. Leave one of the two out"
        )
    if EVERYTHING in expose:
        raise ConfigurationError(
            "expose='*', credentials=True: for a request with credentials browsers take '*' for a header of that "
            "name. List the headers"
        )


def _listed(argument: str, values: Any, *, most: int) -> list[str]:
    found = [values] if isinstance(values, str) else list(values) if isinstance(values, Iterable) else None
    if found is None or isinstance(values, (bytes, Mapping)):
        raise ConfigurationError(f"{argument}={values!r}: text, or a list of texts")
    if wrong := [each for each in found if not isinstance(each, str)]:
        raise ConfigurationError(f"{argument}={wrong[0]!r}: text, or a list of texts")
    if len(found) > most:
        raise ConfigurationError(f"{argument}: {len(found)} of them, and {most} is the most")
    return found


def _method(method: str) -> str:
    if method == EVERYTHING:
        raise ConfigurationError("methods='*': name each one, as 'GET'")
    if not TOKEN.fullmatch(method) or len(method) > LONGEST_TOKEN:
        raise ConfigurationError(f"methods={method!r}: a method is a word like 'GET'")
    if method not in KNOWN_METHODS and (upper := method.upper()) in KNOWN_METHODS:
        raise ConfigurationError(f"methods={method!r}: methods are case-sensitive; write {upper!r}")
    if method.upper() in FORBIDDEN_METHODS:
        raise ConfigurationError(f"methods={method!r}: browsers let no page send it; leave it out")
    return method


def _header_names(argument: str, values: Any) -> tuple[str, ...]:
    """Names in lower case; "*" alone where it is among them."""
    found = _listed(argument, values, most=MOST_NAMES)
    if wrong := [each for each in found if not TOKEN.fullmatch(each) or len(each) > LONGEST_TOKEN]:
        raise ConfigurationError(f"{argument}={wrong[0]!r}: a header's name is a word like 'X-Total'; '*' is for all")
    return (EVERYTHING,) if EVERYTHING in found else tuple(sorted({each.lower() for each in found}))


def _path(pattern: str) -> str:
    try:
        return gateway_route("paths", pattern, to=None).pattern
    except ConfigurationError as exc:
        why = str(exc).removeprefix(f"route 'paths': pattern={pattern!r}: ")
        raise ConfigurationError(f"paths={pattern!r}: {why}") from exc
