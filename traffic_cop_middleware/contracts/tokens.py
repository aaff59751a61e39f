"""Signed tokens, as the parts see them."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol


class TokenCodec(Protocol):
    """Signs and verifies JSON Web Tokens (RFC 7519) of this app's own keys."""

    @property
    def generation(self) -> int:
        """Counts up whenever the keys change: what was verified under another generation is to be verified anew."""
        ...

    def sign(self, claims: Mapping[str, Any], *, typ: str) -> str:
        """A compact JWS (RFC 7515) of `claims` with `typ` in its header ("at+jwt"), by the current key.

        `iss` and `aud` are added. The claims hold `iat` and `exp`, whole seconds since the epoch.

        Raises:
            TokenTooLarge: it would have over 4,096 bytes.
            TypeError: a claim is no JSON, or can't be verified again.
        """
        ...

    def verify(self, token: str | bytes, *, typ: str, now: float) -> Mapping[str, Any]:
        """The claims of a valid token of ours.

        Everything is checked that a token can be wrong in: size before anything is decoded, shape, header, `typ`,
        algorithm and key, signature, `iss`, `aud`, `exp`, `iat` and `nbf` at `now`, and the form of every claim.

        Raises:
            InvalidToken: it is not; the message says why in words that hold nothing of the token.
        """
        ...

    def jwks(self) -> Mapping[str, Any]:
        """The public keys as a JWK Set (RFC 7517): empty for a shared secret."""
        ...


class ForeignTokens(Protocol):
    """Verifies tokens that other issuers signed, by their JWK Sets."""

    def knows(self, token: str | bytes) -> bool:
        """Whether a token says it is of one of the issuers; nothing is verified. False for what can't be read."""
        ...

    def verify(self, token: str | bytes, *, now: float) -> Awaitable[Mapping[str, Any]]:
        """The claims of a valid token of a known issuer. Its keys are fetched where they are not known yet.

        Raises:
            InvalidToken: it is not valid.
            KeysUnavailable: the issuer's keys can't be had at present.
        """
        ...
