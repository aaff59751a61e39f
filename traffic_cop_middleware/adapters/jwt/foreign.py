"""Tokens that other issuers signed: Auth0, Keycloak, Google, another service of yours."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from traffic_cop_middleware.adapters.jwt.algorithms import ASYMMETRIC
from traffic_cop_middleware.adapters.jwt.codec import check_times
from traffic_cop_middleware.adapters.jwt.fetch import check_url
from traffic_cop_middleware.adapters.jwt.jwks import PublishedKeys
from traffic_cop_middleware.adapters.jwt.strict import (
    check_form,
    check_moment,
    check_subject,
    decode_segment,
    parse_object,
    split,
)
from traffic_cop_middleware.errors import ConfigurationError, InvalidToken

__all__ = ["ForeignIssuers", "Issuer"]

LARGEST = 16_384
"""Bytes of a token: what servers take of a header field, and more than an access token needs."""
NOT_UNDERSTOOD = frozenset(("b64", "crit", "jku", "jwk", "x5c", "x5u", "zip"))
"""Header members that bring a key along, or change what the signature means (RFC 7515 section 4.1, RFC 7797)."""
ACCESS_TOKEN = ("at+jwt", "application/at+jwt")
WELL_KNOWN = "/.well-known/jwks.json"


@dataclass(frozen=True, slots=True)
class Issuer:
    """Another issuer whose tokens are let in: `Issuer("https://login.example.com/", audience="https://api.example.com")`.

    `iss` and `audience` are what its tokens say, to the letter. Its keys are at `jwks_url`, by default at
    `<iss>/.well-known/jwks.json`; of an OpenID provider the address stands in `<iss>/.well-known/openid-configuration`
    as `jwks_uri`. `access_tokens_only` asks for `typ` "at+jwt" (RFC 9068 section 4): set it where the issuer writes
    that, because without it an ID token for the same audience passes as well.

    Raises:
        ConfigurationError: a setting can't be used.
    """

    iss: str
    _: KW_ONLY
    audience: str
    jwks_url: str | None = None
    algorithms: Sequence[str] = ("RS256", "ES256", "EdDSA")
    access_tokens_only: bool = False

    def __post_init__(self) -> None:
        for name, value in (("iss", self.iss), ("audience", self.audience)):
            try:
                check_subject(value, name=name)
            except (TypeError, ValueError) as exc:
                raise ConfigurationError(f"{name}={value!r}: {exc}. Write it as it stands in the tokens") from None
        if self.jwks_url is not None:
            check_url(self.jwks_url, name="jwks_url")
        elif check_url(self.iss, name="jwks_url is missing, and iss can't stand for it: iss").query:
            raise ConfigurationError(f"iss={self.iss!r}: it has a query, so write jwks_url= too")
        algorithms = self.algorithms
        if (
            isinstance(algorithms, str)
            or not isinstance(algorithms, Sequence)
            or not algorithms
            or not all(isinstance(name, str) and name in ASYMMETRIC for name in algorithms)
        ):
            raise ConfigurationError(
                f"algorithms={algorithms!r}: some of {', '.join(map(repr, ASYMMETRIC))}, as in ('RS256',)"
            )
        object.__setattr__(self, "algorithms", tuple(algorithms))

    @property
    def keys_at(self) -> str:
        """The URL of its JWK Set."""
        return self.iss.rstrip("/") + WELL_KNOWN if self.jwks_url is None else self.jwks_url


class ForeignIssuers:
    """`ForeignTokens` over the JWK Sets of some issuers, for one event loop at a time (asyncio or trio).

    `leeway` and `max_lifetime` are in seconds, as for our own tokens; where a token has no `iat`, `max_lifetime` counts
    from now. `clock` gives seconds that never go back, for the age of the keys. `patience` is how many seconds the
    fetch of a set may take.

    Raises:
        ConfigurationError: a setting can't be used, or two issuers have one `iss`.
    """

    def __init__(
        self,
        issuers: Sequence[Issuer],
        *,
        leeway: float = 5.0,
        max_lifetime: float = 86_400.0,
        clock: Callable[[], float] = time.monotonic,
        patience: float = 3.0,
    ) -> None:
        check_times(leeway=leeway, max_lifetime=max_lifetime)
        if isinstance(patience, bool) or not isinstance(patience, (int, float)) or not 0 < patience <= 60:
            raise ConfigurationError(
                f"patience={patience!r}: seconds that a fetch of keys may take, above 0; 3 is usual"
            )
        self._leeway = leeway
        self._max_lifetime = max_lifetime
        self._issuers: dict[str, tuple[Issuer, PublishedKeys]] = {}
        for issuer in issuers:
            if not isinstance(issuer, Issuer):
                raise ConfigurationError(f"issuers: each is an Issuer(…), not a {type(issuer).__name__}")
            if issuer.iss in self._issuers:
                raise ConfigurationError(f"issuers: two have iss={issuer.iss!r}. Leave one out")
            keys = PublishedKeys(issuer.keys_at, algorithms=issuer.algorithms, clock=clock, patience=patience)
            self._issuers[issuer.iss] = (issuer, keys)

    def knows(self, token: str | bytes) -> bool:
        try:
            _, _, payload, _ = split(token, LARGEST)
            return self._of(parse_object(decode_segment(payload), "claims")) is not None
        except InvalidToken:
            return False

    async def verify(self, token: str | bytes, *, now: float) -> Mapping[str, Any]:
        # Whose keys are asked for stands in the claims, so they are read before the signature is checked. All that can
        # be refused without a key is refused first: such a token makes nobody fetch anything.
        signed, header, payload, signature = split(token, LARGEST)
        claims = parse_object(decode_segment(payload), "claims")
        known = self._of(claims)
        if known is None:
            raise InvalidToken("iss: no issuer that is known here")
        issuer, keys = known
        kid, algorithm = _read_header(header, issuer)
        self._check(claims, issuer, now)
        key = await keys.find(kid)
        if key.algorithm != algorithm:
            raise InvalidToken("alg: not the one of the key")
        if not key.verify(signed, decode_segment(signature)):
            raise InvalidToken("the signature does not match")
        return claims

    def _of(self, claims: Mapping[str, Any]) -> tuple[Issuer, PublishedKeys] | None:
        iss = claims.get("iss")
        return self._issuers.get(iss) if isinstance(iss, str) else None

    def _check(self, claims: Mapping[str, Any], issuer: Issuer, now: float) -> None:
        audience = claims.get("aud")
        if isinstance(audience, list):
            if not all(isinstance(each, str) for each in audience) or issuer.audience not in audience:
                raise InvalidToken("aud: the token is for another audience")
        elif audience != issuer.audience:
            raise InvalidToken("aud: the token is for another audience")
        check_form(claims, max_lifetime=self._max_lifetime, needs_iat=False)
        check_moment(claims, now=now, leeway=self._leeway)
        if "iat" not in claims and not claims["exp"] - now <= self._max_lifetime:
            raise InvalidToken("exp: the token lives longer than tokens may")


def _read_header(segment: bytes, issuer: Issuer) -> tuple[str, str]:
    """The `kid` and the `alg` of a header. Members that only describe are let through, as `x5t` is."""
    header = parse_object(decode_segment(segment), "header")
    if not NOT_UNDERSTOOD.isdisjoint(header):
        raise InvalidToken("the header brings its own key or rules")
    kid, algorithm = header.get("kid"), header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        raise InvalidToken("alg: none that this issuer may use")
    if not isinstance(kid, str) or not kid:
        raise InvalidToken("kid: the token does not name its key")
    # A media type, so upper and lower case are the same (RFC 7515 section 4.1.9).
    typ = header.get("typ", "JWT")
    allowed = ACCESS_TOKEN if issuer.access_tokens_only else (*ACCESS_TOKEN, "jwt")
    if not isinstance(typ, str) or typ.lower() not in allowed:
        raise InvalidToken("typ: the token is of another type")
    return kid, algorithm
