"""What users give as keys: secrets and PEMs, read and checked. No message holds any of it."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)
from jwt.exceptions import InvalidKeyError

from traffic_cop_middleware.adapters.jwt.algorithms import HS256
from traffic_cop_middleware.errors import ConfigurationError

__all__ = ["KeyMaterial", "load_pem", "read_secret"]

KeyMaterial: TypeAlias = str | bytes | Path
"""A secret, a PEM, or the path of a PEM."""

SHORTEST_SECRET = 32
"""Bytes: as many as the hash gives (RFC 7518 section 3.2)."""
STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
HOW_TO_MAKE_ONE = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'


def read_secret(material: KeyMaterial) -> bytes:
    """A secret's bytes.

    Raises:
        ConfigurationError: it is short, or is a key of another kind.
    """
    if isinstance(material, Path):
        raise ConfigurationError("secret: HS256 takes the secret itself. Write path.read_text().strip()")
    if not isinstance(material, (str, bytes)):
        raise ConfigurationError(f"secret: a str or bytes, not a {type(material).__name__}")
    try:
        secret = material.encode("utf-8") if isinstance(material, str) else bytes(material)
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"secret: it holds lone surrogates, which are no text. Make one: {HOW_TO_MAKE_ONE}"
        ) from None
    if len(secret) < SHORTEST_SECRET:
        raise ConfigurationError(
            f"secret: {len(secret)} bytes; HS256 takes at least {SHORTEST_SECRET}. Make one: {HOW_TO_MAKE_ONE}"
        )
    if _is_a_key(secret):
        # Who knows the public half of a key pair could sign with it: RS256 taken for HS256 (RFC 8725 section 2.1).
        raise ConfigurationError(
            "secret: this is a key or a certificate (PEM, DER, JWK or SSH), not a secret. For a PEM write beside it "
            f"algorithm='ES256', 'EdDSA' or 'RS256', or make a secret: {HOW_TO_MAKE_ONE}"
        )
    return secret


def _is_a_key(secret: bytes) -> bool:
    # A key may also come as one long line: a PEM without its first and last one, or a JWK in base64.
    letters = b"".join(secret.split()).rstrip(b"=").translate(STANDARD_ALPHABET)
    try:
        bare = base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
    except binascii.Error:
        bare = b""
    for candidate in filter(None, (secret, bare)):
        try:
            HS256.prepare_key(candidate)  # PyJWT looks for PEM, SSH, JWK, public keys and certificates in DER
        except InvalidKeyError:
            return True
        for load in (load_der_public_key, _load_der_private_key):
            try:
                load(candidate)
            except TypeError:  # it is encrypted: a key nevertheless
                return True
            except (ValueError, UnsupportedAlgorithm):
                continue
            return True
    return False


def _load_der_private_key(data: bytes) -> Any:
    return load_der_private_key(data, None)


def load_pem(material: KeyMaterial, *, algorithm: str) -> tuple[Any, Any]:
    """The private key of a PEM, or `None` where it holds a public one only, and the public key.

    Raises:
        ConfigurationError: it can't be read.
    """
    pem = _read(material, algorithm)
    if b"PRIVATE KEY-----" not in pem:
        try:
            return None, load_pem_public_key(pem)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ConfigurationError(f"key: this PEM can't be read as a public key for {algorithm}") from None
    try:
        private = load_pem_private_key(pem, None)
    except TypeError:
        raise ConfigurationError(
            "key: this private key is encrypted. Decrypt it: openssl pkey -in key.pem -out plain.pem"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"key: this PEM can't be read as a private key for {algorithm}") from None
    return private, private.public_key()


def der_of(private: Any) -> bytes:
    """A private key as its bytes (PKCS #8), the same ones whatever PEM it came from."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    found: bytes = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return found


def _read(material: KeyMaterial, algorithm: str) -> bytes:
    if isinstance(material, Path):
        try:
            pem = material.read_bytes()
        except OSError as exc:
            raise ConfigurationError(f"key: {str(material)!r} can't be read: {exc.strerror}") from exc
    elif isinstance(material, (str, bytes)):
        pem = material.encode("utf-8", "replace") if isinstance(material, str) else bytes(material)
    else:
        raise ConfigurationError(f"key: a PEM as str or bytes, or its pathlib.Path, not a {type(material).__name__}")
    if b"-----BEGIN CERTIFICATE" in pem:
        raise ConfigurationError("key: this is a certificate. Take its key: openssl x509 -pubkey -noout -in cert.pem")
    if b"-----BEGIN " not in pem:
        raise ConfigurationError(
            f"key: {algorithm} takes a key in PEM ('-----BEGIN PRIVATE KEY-----'), and this is none. Write "
            "pathlib.Path('key.pem') for one in a file, or algorithm='HS256' for a secret"
        )
    return pem
