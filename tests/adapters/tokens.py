"""Tokens and keys for the tests: whatever a library would not write is written by hand."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

NOW = 1_750_000_000
ISSUER = "https://app.example"
AUDIENCE = "app"
SECRET = "an-hs256-secret-of-the-tests-0001"
OTHER_SECRET = "an-hs256-secret-of-the-tests-0002"
ALGORITHMS = ("HS256", "ES256", "EdDSA", "RS256")
CLAIMS: Mapping[str, Any] = {"sub": "user-1", "iat": NOW, "exp": NOW + 600, "tenant": "acme"}
FULL: Mapping[str, Any] = {**CLAIMS, "iss": ISSUER, "aud": AUDIENCE}


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def hs256(secret: str | bytes) -> Callable[[bytes], bytes]:
    key = secret.encode() if isinstance(secret, str) else secret
    return lambda message: hmac.new(key, message, hashlib.sha256).digest()


def forge(header: Mapping[str, Any] | bytes, claims: Mapping[str, Any] | bytes, sign: Callable[[bytes], bytes]) -> str:
    """A compact JWS of exactly these bytes."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    signed = b".".join(b64(part) for part in parts)
    return (signed + b"." + b64(sign(signed))).decode()


@cache
def private_key(algorithm: str, number: int = 0) -> Any:
    """A key pair for an algorithm; another `number` gives another one."""
    del number
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def private_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def public_der(key: Any) -> bytes:
    der: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def material(algorithm: str, number: int = 0) -> str | bytes:
    """What a user writes as `secret` or `keys`."""
    if algorithm == "HS256":
        return f"an-hs256-secret-of-the-tests-{number:04}"
    return private_pem(private_key(algorithm, number))
