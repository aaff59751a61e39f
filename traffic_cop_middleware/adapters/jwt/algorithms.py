"""The four algorithms of the allow-list, by PyJWT, each with the one kind of key that it takes (RFC 8725 section 3.1).

PyJWT's registry is not used: any code of the process may put algorithms into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import Algorithm, ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

__all__ = ["ASYMMETRIC", "HS256", "KeyPairs"]

RSA_SIZES = range(2048, 8193)
"""Bits: fewer are weak (NIST SP 800-131A), more cost time that whoever publishes the key would choose."""

HS256 = HMACAlgorithm(HMACAlgorithm.SHA256)


@dataclass(frozen=True, slots=True)
class KeyPairs:
    """An algorithm of key pairs: `kty` and `members` are those of its JWKs that make the key (RFC 7638 section 3.2)."""

    crypto: Algorithm
    kty: str
    members: tuple[str, ...]
    takes: str
    make: str

    def fault_of(self, public: object) -> str | None:
        """Why a public key can't be used with it, in words for whoever configures; `None` where it can."""
        if self.kty == "RSA" and isinstance(public, RSAPublicKey):
            if public.key_size in RSA_SIZES:
                return None
            return f"this RSA key has {public.key_size} bits"
        if self.kty == "EC" and isinstance(public, EllipticCurvePublicKey):
            if isinstance(public.curve, SECP256R1):
                return None
            return f"this key is of the curve {public.curve.name}"
        if self.kty == "OKP" and isinstance(public, Ed25519PublicKey):
            return None
        return f"this is an {type(public).__name__}"

    def jwk_of(self, public: Any) -> dict[str, str]:
        """The members that make the public key."""
        jwk: Mapping[str, str] = self.crypto.to_jwk(public, as_dict=True)
        return {member: jwk[member] for member in self.members}


ASYMMETRIC: Mapping[str, KeyPairs] = {
    "ES256": KeyPairs(
        ECAlgorithm(ECAlgorithm.SHA256, SECP256R1),
        "EC",
        ("crv", "kty", "x", "y"),
        "a key of the curve P-256",
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
    ),
    "EdDSA": KeyPairs(
        OKPAlgorithm(), "OKP", ("crv", "kty", "x"), "an Ed25519 key", "openssl genpkey -algorithm ED25519"
    ),
    "RS256": KeyPairs(
        RSAAlgorithm(RSAAlgorithm.SHA256),
        "RSA",
        ("e", "kty", "n"),
        f"an RSA key of {RSA_SIZES.start} to {RSA_SIZES.stop - 1} bits",
        f"openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:{RSA_SIZES.start}",
    ),
}
"""By the `alg` of RFC 7518 section 3.1 and RFC 8037 section 3.1."""
