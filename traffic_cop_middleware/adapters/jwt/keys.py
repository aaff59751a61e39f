"""Keys and sets of them: read and checked once, where they are configured."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from traffic_cop_middleware.adapters.jwt.algorithms import ASYMMETRIC, HS256
from traffic_cop_middleware.adapters.jwt.pems import KeyMaterial, der_of, load_pem, read_secret
from traffic_cop_middleware.errors import ConfigurationError

__all__ = ["Key", "KeyMaterial", "KeySet", "keyset"]

ALLOWED = ("HS256", *ASYMMETRIC)
KID = re.compile(r"[!#-\[\]-~]{1,128}")
"""Visible ASCII without quotes and backslashes: it is the same text in every header."""

_set = object.__setattr__


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Key:
    """One key of one algorithm: `Key(secret)`, or `Key(pem, algorithm="ES256")` with a PEM or the `Path` of one.

    HS256 takes a secret of at least 32 bytes. ES256 (P-256), EdDSA (Ed25519) and RS256 (2,048 bits and up) take a
    private key in PEM; a public one makes a key that verifies and can't sign. `kid` names the key in the header of its
    tokens: by default its RFC 7638 thumbprint, or a short one-way hash of a secret. What is secret in a key stands in
    none of its fields, and in no message.

    Raises:
        ConfigurationError: it can't be used; the message says what to write instead.
    """

    algorithm: str
    kid: str
    can_sign: bool
    public_jwk: Mapping[str, str] | None = field(repr=False)
    """The public key (RFC 7517 section 4); `None` for a secret."""
    sign: Callable[[bytes], bytes] = field(repr=False)
    verify: Callable[[bytes, bytes], bool] = field(repr=False)
    """Whether the second is a signature of the first."""
    derive: Callable[[bytes], bytes] | None = field(repr=False)
    """Another secret of 32 bytes for a purpose, always the same; `None` for a public key."""

    def __init__(self, material: KeyMaterial, *, algorithm: str = "HS256", kid: str | None = None) -> None:
        if algorithm not in ALLOWED:
            raise ConfigurationError(f"algorithm={algorithm!r}: one of {', '.join(map(repr, ALLOWED))}")
        if kid is not None and (not isinstance(kid, str) or not KID.fullmatch(kid)):
            raise ConfigurationError(f"kid={kid!r}: 1 to 128 visible ASCII characters, such as '2025-07'")
        if algorithm == "HS256":
            self._take_secret(read_secret(material), kid)
        else:
            self._take_pair(*load_pem(material, algorithm=algorithm), algorithm, kid)

    def _take_secret(self, secret: bytes, kid: str | None) -> None:
        _set(self, "algorithm", "HS256")
        _set(self, "kid", kid or _kid_of_secret(secret))
        _set(self, "can_sign", True)
        _set(self, "public_jwk", None)
        _set(self, "sign", lambda message: HS256.sign(message, secret))
        _set(self, "verify", lambda message, signature: HS256.verify(message, secret, signature))
        _set(self, "derive", partial(_derived, secret))

    def _take_pair(self, private: Any, public: Any, algorithm: str, kid: str | None) -> None:
        pairs = ASYMMETRIC[algorithm]
        fault = pairs.fault_of(public)
        if fault is not None:
            raise ConfigurationError(
                f"key: {fault}, and {algorithm} takes {pairs.takes}. Make one: {pairs.make}, or write the algorithm "
                f"that the key is for: {', '.join(map(repr, ASYMMETRIC))}"
            )
        jwk = pairs.jwk_of(public)
        kid = kid or _thumbprint(jwk)
        crypto = pairs.crypto
        _set(self, "algorithm", algorithm)
        _set(self, "kid", kid)
        _set(self, "can_sign", private is not None)
        _set(self, "public_jwk", {**jwk, "kid": kid, "alg": algorithm, "use": "sig"})
        _set(self, "sign", _refuse_to_sign if private is None else lambda message: crypto.sign(message, private))
        _set(self, "verify", lambda message, signature: crypto.verify(message, public, signature))
        _set(self, "derive", None if private is None else partial(_derived, der_of(private)))


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys that are valid together: the first signs, and each verifies the tokens that name its `kid`.

    To rotate, put the new key first and keep the old one behind it until its last token has expired.

    Raises:
        ConfigurationError: none is given, the first can't sign, two have one `kid`, or secrets stand with key pairs.
    """

    keys: tuple[Key, ...]
    by_kid: Mapping[str, Key] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.keys, tuple) or not self.keys or not all(isinstance(key, Key) for key in self.keys):
            raise ConfigurationError("keys: a tuple of at least one Key. keyset(…) makes one of secrets and PEMs")
        if not self.keys[0].can_sign:
            raise ConfigurationError(
                f"keys: the first one signs, and {self.keys[0].kid!r} is a public key. Put a private one before it"
            )
        by_kid = {key.kid: key for key in self.keys}
        for key in self.keys:
            if by_kid[key.kid] is not key:
                raise ConfigurationError(
                    f"keys: two have the kid {key.kid!r}. Leave the copy out, or name them apart by Key(…, kid=…)"
                )
        if len({key.public_jwk is None for key in self.keys}) > 1:
            # RFC 8725 section 2.1: where both kinds stand together, a public key may be taken for a secret.
            raise ConfigurationError(
                "keys: secrets (HS256) and key pairs (ES256, EdDSA, RS256) can't stand in one set. Start with the new "
                "kind alone; tokens of the old kind end with that"
            )
        _set(self, "by_kid", by_kid)

    @property
    def signing(self) -> Key:
        return self.keys[0]

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JWK Set (RFC 7517 section 5), for others to verify with: empty for secrets."""
        return {"keys": [dict(key.public_jwk) for key in self.keys if key.public_jwk is not None]}


def keyset(keys: Key | KeyMaterial | Sequence[Key | KeyMaterial], *, algorithm: str = "HS256") -> KeySet:
    """A `KeySet` of one or several secrets, PEMs, paths of PEMs or `Key`s; `algorithm` is that of all but the `Key`s.

    Raises:
        ConfigurationError: one can't be used, or they can't be used together.
    """
    if not isinstance(keys, (Key, str, bytes, Path, Sequence)):
        raise ConfigurationError(
            f"keys: a secret, a PEM, a pathlib.Path or a list of them, not a {type(keys).__name__}"
        )
    several: Sequence[Key | KeyMaterial] = [keys] if isinstance(keys, (Key, str, bytes, Path)) else keys
    if not several:
        raise ConfigurationError("keys: an empty list; the first signs, so there is at least one secret, PEM or Key")
    made = []
    for number, key in enumerate(several, 1):
        try:
            made.append(key if isinstance(key, Key) else Key(key, algorithm=algorithm))
        except ConfigurationError as exc:
            place = f" (it is number {number} of {len(several)})" if len(several) > 1 else ""
            raise ConfigurationError(f"{exc}{place}") from exc.__cause__
    return KeySet(tuple(made))


def _derived(secret: bytes, purpose: bytes) -> bytes:
    """A secret of its own for a purpose. What is signed by `secret` itself never begins with these words."""
    return hmac.digest(secret, b"traffic-cop-middleware: a secret for another purpose\0" + purpose, hashlib.sha256)


def _refuse_to_sign(message: bytes) -> bytes:
    del message
    raise TypeError("a public key can't sign")


def _kid_of_secret(secret: bytes) -> str:
    """A name for a secret: 8 bytes of a hash that is used for nothing else.

    Everyone who holds a token reads it. It tells them nothing that the token does not tell: whoever guesses at a secret
    can try each guess on the token's signature just as well, and 32 random bytes are not guessed. The words before the
    secret keep it apart from a hash of the same secret that serves another purpose.
    """
    hashed = hashlib.sha256(b"traffic-cop-middleware: the kid of an HS256 secret\0" + secret).digest()
    return base64.urlsafe_b64encode(hashed[:8]).rstrip(b"=").decode()


def _thumbprint(jwk: Mapping[str, str]) -> str:
    """RFC 7638; for Ed25519 by RFC 8037 section 2. `jwk` holds the required members only."""
    text = json.dumps(jwk, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
