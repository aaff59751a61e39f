"""JSON Web Tokens by PyJWT: our own keys, and those of other issuers.

PyJWT checks signatures; everything else that makes a token valid is checked here (`strict.py` says what and why).
"""

from traffic_cop_middleware.adapters.jwt.codec import JwtCodec
from traffic_cop_middleware.adapters.jwt.foreign import ForeignIssuers, Issuer
from traffic_cop_middleware.adapters.jwt.keys import Key, KeySet, keyset
from traffic_cop_middleware.adapters.jwt.strict import check_subject

__all__ = ["ForeignIssuers", "Issuer", "JwtCodec", "Key", "KeySet", "check_subject", "keyset"]
