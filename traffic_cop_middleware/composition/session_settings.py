"""How sessions are configured, and what is made of that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from traffic_cop_middleware.abstractions.session_policy import SessionPolicy
from traffic_cop_middleware.contracts import ForeignTokens, TokenCodec
from traffic_cop_middleware.errors import ConfigurationError

if TYPE_CHECKING:
    from traffic_cop_middleware.adapters.jwt import Issuer, Key

Secret: TypeAlias = "str | bytes | Path | Key | Sequence[str | bytes | Path | Key]"  # noqa: S105 - a type


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """What tokens are signed and verified by, made once, and how long sessions live."""

    codec: TokenCodec
    foreign: ForeignTokens | None
    policy: SessionPolicy
    affinity: Sequence[bytes]
    """What affinity cookies are made by, and known by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What signs the tokens, whose other tokens are taken, and how long sessions live."""

    secret: Secret = field(repr=False)
    algorithm: str = "HS256"
    issuer: str = "traffic-cop"
    audience: str = "traffic-cop"
    issuers: Sequence[Issuer] = ()
    policy: SessionPolicy = field(default_factory=SessionPolicy)

    def keys(self) -> SessionKeys:
        """The keys, loaded.

        Raises:
            ConfigurationError: one can't be used, or an issuer can't.
        """
        from traffic_cop_middleware.adapters.jwt import ForeignIssuers, JwtCodec, keyset

        try:
            keys = keyset(self.secret, algorithm=self.algorithm)
            codec = JwtCodec(
                keys,
                issuer=self.issuer,
                audience=self.audience,
                max_lifetime=self.policy.lifetime,
            )
            foreign = ForeignIssuers(list(self.issuers)) if self.issuers else None
        except ConfigurationError as exc:
            # They begin with the name of a setting, and all keys are one here.
            said = re.sub(r"^keys?(?=:)", "secret", str(exc))
            said = re.sub(r"(?<=beside it )algorithm=", "session_algorithm=", said)
            raise ConfigurationError(f"session_{said}") from exc
        if any(issuer.iss == self.issuer for issuer in self.issuers):
            # Whose token it is can be told by `iss` alone: ours would all be looked up among that issuer's keys.
            raise ConfigurationError(
                f"session_issuers: one has iss={self.issuer!r}, which is what our own tokens say. Write another "
                "session_issuer="
            )
        affinity = [key.derive(b"affinity cookies") for key in keys.keys if key.derive is not None]
        return SessionKeys(codec, foreign, self.policy, affinity)
