"""Tokens of our own keys: JSON Web Tokens (RFC 7519) as compact JWS (RFC 7515).

Invariant: what `sign` gives, `verify` takes, until it expires. `sign` reads the claims back from the very bytes that it
is about to sign, by the functions that `verify` uses.

The order in `verify` is from cheap to dear, and nothing is believed before it is verified: length, shape, header
against the configured keys, signature, and only then are the claims parsed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import count
from typing import Any

from traffic_cop_middleware.adapters.jwt.keys import Key, KeySet
from traffic_cop_middleware.adapters.jwt.strict import (
    check_form,
    check_moment,
    check_subject,
    decode_segment,
    encode_segment,
    parse_object,
    split,
)
from traffic_cop_middleware.errors import ConfigurationError, InvalidToken, TokenTooLarge

__all__ = ["JwtCodec", "check_times"]

LARGEST = 4096
"""Bytes of a token: what browsers keep of a cookie."""
LONGEST_LEEWAY = 300
KNOWN_HEADERS = 16
HEADER = {"alg", "kid", "typ"}

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class _Ring:
    """One generation of keys. It is replaced as a whole, so that no `verify` sees half of a change.

    `headers` remembers what was read from headers of *valid* tokens: only a holder of a key can put something there.
    """

    __slots__ = ("generation", "headers", "keys")

    def __init__(self, keys: KeySet, generation: int) -> None:
        self.keys = keys
        self.generation = generation
        self.headers: dict[bytes, tuple[Key, str]] = {}


class JwtCodec:
    """`TokenCodec` over a `KeySet`.

    `issuer` and `audience` stand in each token and are asked for exactly. `leeway` (seconds) is how far the clocks of
    two hosts may be apart; `max_lifetime` (seconds) is the longest that a token may live, refresh tokens included.
    May be used from several threads.

    Raises:
        ConfigurationError: a setting can't be used.
    """

    def __init__(self, keys: KeySet, *, issuer: str, audience: str, leeway: float = 5.0, max_lifetime: float) -> None:
        for name, value in (("issuer", issuer), ("audience", audience)):
            try:
                check_subject(value, name=name)
            except (TypeError, ValueError) as exc:
                raise ConfigurationError(f"{name}={value!r}: {exc}. Write a name or a URL of this app") from None
        check_times(leeway=leeway, max_lifetime=max_lifetime)
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._max_lifetime = max_lifetime
        self._generations = count()
        self.replace_keys(keys)

    @property
    def generation(self) -> int:
        return self._ring.generation

    def replace_keys(self, keys: KeySet) -> None:
        """Use other keys from now on; `generation` counts up. Tokens of keys that are not among them are void.

        Raises:
            ConfigurationError: it is no `KeySet`.
        """
        if not isinstance(keys, KeySet):
            raise ConfigurationError(f"keys: a KeySet, not a {type(keys).__name__}. Write keyset(secret)")
        self._ring = _Ring(keys, next(self._generations))

    def jwks(self) -> dict[str, Any]:
        return self._ring.keys.jwks()

    def sign(self, claims: Mapping[str, Any], *, typ: str) -> str:
        if not isinstance(claims, Mapping) or not all(isinstance(name, str) for name in claims):
            raise TypeError("claims: a mapping with string keys")
        for name, value in (("iss", self._issuer), ("aud", self._audience)):
            if claims.get(name, value) != value:
                raise TypeError(f"claims: {name} is set by the codec. Leave it out")
        key = self._ring.keys.signing
        try:
            check_subject(typ, name="typ")
        except ValueError as exc:
            raise TypeError(f"typ={typ!r}: {exc}. Write 'at+jwt'") from exc
        try:
            header = _encode({"alg": key.algorithm, "kid": key.kid, "typ": typ})
            payload = _encode({**claims, "iss": self._issuer, "aud": self._audience}).encode("utf-8")
        except (TypeError, ValueError, RecursionError) as exc:
            raise TypeError(f"claims: they can't be written as JSON: {exc}") from exc
        signed = encode_segment(header.encode("utf-8")) + b"." + encode_segment(payload)
        if len(signed) <= LARGEST:
            try:
                check_form(parse_object(payload, "claims"), max_lifetime=self._max_lifetime)
            except InvalidToken as exc:
                raise TypeError(f"claims: they could not be verified again: {exc}") from exc
            token = signed + b"." + encode_segment(key.sign(signed))
            if len(token) <= LARGEST:
                return token.decode("ascii")
        raise TokenTooLarge(
            f"a token would have over {LARGEST:,} bytes. Put less into its claims, and the rest into the record"
        )

    def verify(self, token: str | bytes, *, typ: str, now: float) -> Mapping[str, Any]:
        ring = self._ring
        signed, header, payload, signature = split(token, LARGEST)
        known = ring.headers.get(header)
        key, found = known or _read_header(header, ring.keys)
        if found != typ:
            raise InvalidToken("typ: the token is of another type")
        if not key.verify(signed, decode_segment(signature)):
            raise InvalidToken("the signature does not match")
        if known is None and len(ring.headers) < KNOWN_HEADERS:
            ring.headers[header] = (key, found)
        claims = parse_object(decode_segment(payload), "claims")
        if claims.get("iss") != self._issuer:
            raise InvalidToken("iss: the token is of another issuer")
        if claims.get("aud") != self._audience:
            raise InvalidToken("aud: the token is for another audience")
        check_form(claims, max_lifetime=self._max_lifetime)
        check_moment(claims, now=now, leeway=self._leeway)
        return claims


def check_times(*, leeway: float, max_lifetime: float) -> None:
    """Nothing, for settings that can work.

    Raises:
        ConfigurationError: they can't.
    """
    if isinstance(leeway, bool) or not isinstance(leeway, (int, float)) or not 0 <= leeway <= LONGEST_LEEWAY:
        raise ConfigurationError(
            f"leeway={leeway!r}: seconds that two hosts' clocks may be apart, 0 to {LONGEST_LEEWAY}; 5 is usual"
        )
    if isinstance(max_lifetime, bool) or not isinstance(max_lifetime, (int, float)) or not 1 <= max_lifetime < math.inf:
        raise ConfigurationError(
            f"max_lifetime={max_lifetime!r}: the longest that a token lives, in seconds from 1 on; 900 is usual for "
            "access tokens"
        )


def _read_header(segment: bytes, keys: KeySet) -> tuple[Key, str]:
    """The key that a header names, and its `typ`.

    Nothing but these three members is allowed, so no `jku`, `x5u`, `x5c`, `jwk`, `crit`, `b64` or `zip` has to be
    understood, or misunderstood.
    """
    header = parse_object(decode_segment(segment), "header")
    if header.keys() != HEADER:
        raise InvalidToken("the header has not alg, kid and typ, or more than these")
    kid, algorithm, typ = header["kid"], header["alg"], header["typ"]
    if not isinstance(kid, str) or not isinstance(algorithm, str) or not isinstance(typ, str):
        raise InvalidToken("alg, kid and typ are strings")
    key = keys.by_kid.get(kid)
    if key is None:
        raise InvalidToken("kid: no key of ours has this name")
    if algorithm != key.algorithm:
        raise InvalidToken("alg: not the one of the key")
    return key, typ
