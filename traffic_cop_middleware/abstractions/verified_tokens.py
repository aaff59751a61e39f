"""Tokens that were verified before: their signature need not be checked again.

Only that is skipped. Whether the session still stands is asked of the store each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from traffic_cop_middleware.contracts import Guard, SessionKey, TokenCodec
from traffic_cop_middleware.errors import InvalidToken

MOST_KEPT = 8192


class Verified:
    """What a genuine token says: whose it is, its further `claims`, and where the session's record is.

    `guard` makes a take of tokens depend on that record. `issuer` is empty for our own tokens. `known` is room for what
    was read of the record the last time.
    """

    __slots__ = (
        *("claims", "expires", "generation", "guard", "issued", "issuer", "key", "known", "rotation", "secret"),
        *("subject", "typ"),
    )

    def __init__(
        self,
        *,
        subject: str | None,
        claims: Mapping[str, Any],
        key: SessionKey,
        expires: int,
        generation: int = 0,
        secret: str = "",
        typ: str = "",
        issued: int = 0,
        rotation: int = 0,
        issuer: str = "",
    ) -> None:
        self.subject = subject
        self.claims = claims
        self.key = key
        self.expires = expires
        self.generation = generation
        self.secret = secret
        self.typ = typ
        self.issued = issued
        self.rotation = rotation
        self.issuer = issuer
        self.known: tuple[str, Any] = ("", None)
        self.guard = None if issuer else Guard(key.record, key.generation, generation, ())


class VerifiedTokens:
    """The last tokens that were verified, by their hash: what is kept here is no use to who reads it.

    Keys that were changed empty it. The oldest go first; failures are not kept, so that a flood of them can't empty it.
    """

    def __init__(
        self, codec: TokenCodec, *, clock: Callable[[], float], place: Callable[[str | None, str], SessionKey]
    ) -> None:
        self._codec = codec
        self._clock = clock
        self._place = place
        self._kept: dict[bytes, Verified] = {}
        self._generation = codec.generation

    def verify(self, token: bytes, *, typ: str) -> Verified:
        """What a token says.

        Raises:
            InvalidToken: it is not genuine, not of this type, or not valid now.
        """
        if self._generation != self._codec.generation:
            self._kept.clear()
            self._generation = self._codec.generation
        hashed = sha256(token).digest()
        kept = self._kept.get(hashed)
        if kept is not None and kept.typ == typ:
            if kept.expires > self._clock():
                return kept
            del self._kept[hashed]
        verified = self._verify(token, typ)
        if len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[hashed] = verified
        return verified

    def _verify(self, token: bytes, typ: str) -> Verified:
        claims = dict(self._codec.verify(token, typ=typ, now=self._clock()))
        secret, generation, rotation = claims.pop("sid", None), claims.pop("gen", None), claims.pop("rot", 0)
        subject = claims.pop("sub", None)
        if not isinstance(secret, str) or not 22 <= len(secret) <= 64 or not secret.isascii():
            raise InvalidToken("the token names no session")
        for number in (generation, rotation):
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 53:
                raise InvalidToken("the token names no generation or rotation")
        expires, issued = claims.pop("exp"), claims.pop("iat")
        for name in ("iss", "aud", "nbf", "jti"):
            claims.pop(name, None)
        key = self._place(subject, secret)
        return Verified(
            subject=subject,
            claims=claims,
            key=key,
            expires=expires,
            generation=generation,
            secret=secret,
            typ=typ,
            issued=issued,
            rotation=rotation,
        )
