"""What a token must look like before anything in it is believed (RFC 8725; the gaps that PyJWT leaves open).

Every refusal is `InvalidToken` with a reason of ours: none of the token's bytes are in it, and the parser's own error
is not kept as a cause, because it holds the text that it could not parse.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from traffic_cop_middleware.errors import InvalidToken

__all__ = ["check_form", "check_moment", "check_subject", "encode_segment", "parse_object", "decode_segment", "split"]

LONGEST_SUBJECT = 256
"""Characters."""
LONGEST_NUMBER = 19
"""Characters: what 64 bits hold. Longer ones cost more than linear time to read, and overflow in other languages."""
DEEPEST = 32

# What `str.isprintable` lets through, although nobody sees it: letters and marks that Unicode has ignored by default
# (DerivedCoreProperties, Default_Ignorable_Code_Point). `isprintable` itself refuses control characters, zero-width
# and bidi controls, lone surrogates, separators other than the space, and what is not assigned.
UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")

_text_of = base64.urlsafe_b64encode
_bytes_of = base64.urlsafe_b64decode


def check_subject(subject: object, *, name: str = "sub") -> None:
    """Nothing, for a subject that a token can carry: 1 to 256 characters, each of which can be seen.

    Letters of every script are welcome, right-to-left ones too; what reorders or hides them is not, because two
    subjects that look alike must be alike.

    Raises:
        TypeError: it is no string.
        ValueError: it is empty, too long, or holds control characters, invisible ones or lone surrogates.
    """
    if not isinstance(subject, str):
        raise TypeError(f"{name}: it is a string, and nothing else")
    if not subject:
        raise ValueError(f"{name}: it is empty. Leave it out for nobody")
    if len(subject) > LONGEST_SUBJECT:
        raise ValueError(f"{name}: it has at most {LONGEST_SUBJECT} characters")
    if not subject.isprintable() or (not subject.isascii() and UNSEEN.search(subject)):
        raise ValueError(f"{name}: it holds control characters, invisible ones, or text that is no Unicode")


def split(token: str | bytes, most: int) -> tuple[bytes, bytes, bytes, bytes]:
    """The signed part, header, payload and signature of a compact JWS (RFC 7515 section 7.1) of at most `most` bytes.

    Nothing is decoded: of a token that is too long only the length is looked at.

    Raises:
        InvalidToken: it is too long, no ASCII, or has not three segments.
    """
    if not isinstance(token, (str, bytes)):
        raise InvalidToken("the token is no text")
    if len(token) > most:
        raise InvalidToken("the token is too long")
    if isinstance(token, str):
        if not token.isascii():
            raise InvalidToken("the token holds other than base64url and dots")
        token = token.encode("ascii")
    segments = token.split(b".")
    if len(segments) != 3:
        raise InvalidToken("the token has not three segments")
    header, payload, signature = segments
    return token[: len(header) + 1 + len(payload)], header, payload, signature


def decode_segment(segment: bytes) -> bytes:
    """The bytes of one segment.

    Only what encodes to the very same segment again passes. That refuses padding, other alphabets, white space and
    stray bits at the end at once, so that no token has a second spelling.

    Raises:
        InvalidToken: it is not base64url without padding (RFC 7515 section 2).
    """
    try:
        decoded = _bytes_of(segment + b"==")
    except binascii.Error:
        raise InvalidToken("a segment is no base64url") from None
    if encode_segment(decoded) != segment:
        raise InvalidToken("a segment is no base64url, or not in its one canonical form")
    return decoded


def encode_segment(data: bytes) -> bytes:
    """base64url without padding (RFC 7515 section 2)."""
    return _text_of(data).rstrip(b"=")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidToken("a JSON member stands there twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise InvalidToken("a JSON number is too long")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidToken("a JSON number is too large")
    return number


def _constant(name: str) -> NoReturn:
    del name
    raise InvalidToken("NaN and Infinity are no JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_members, parse_int=_integer, parse_float=_real, parse_constant=_constant)


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object (RFC 8259) that `data` holds in UTF-8; `what` names it in the refusal.

    Refused, where Python's `json` is lenient: members that stand twice (the last one would win), UTF-16 and UTF-32, a
    byte order mark, NaN and Infinity, numbers beyond 64 bits or a double, nesting deeper than 32, lone surrogates.

    Raises:
        InvalidToken: it is none.
    """
    try:
        value = _decoder.decode(data.decode("utf-8"))
        if data.count(b"[") + data.count(b"{") > DEEPEST:
            _check_depth(value, what)
        if b"\\u" in data:
            # UTF-8 itself has no surrogates; an escape is the only way in, and `str.encode` fails on it much later.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise InvalidToken(f"the {what} is nested too deeply") from None
    except ValueError:
        raise InvalidToken(f"the {what} is no JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise InvalidToken(f"the {what} is no JSON object")
    return value


def _check_depth(value: Any, what: str) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    if any(isinstance(inner, (dict, list)) for inner in level):
        raise InvalidToken(f"the {what} is nested too deeply")


def check_form(claims: Mapping[str, Any], *, max_lifetime: float, needs_iat: bool = True) -> None:
    """Nothing, for claims whose registered members have the form that RFC 7519 section 4.1 gives them, at any time.

    Times are whole seconds: PyJWT would take strings, floats and booleans too. `max_lifetime` is in seconds.

    Raises:
        InvalidToken: they have not.
    """
    expires = claims.get("exp")
    if type(expires) is not int:
        raise InvalidToken("exp: whole seconds since the epoch are required")
    if needs_iat or "iat" in claims:
        issued = claims.get("iat")
        if type(issued) is not int or issued <= 0:
            raise InvalidToken("iat: whole seconds since the epoch, above 0, are required")
        if not 0 < expires - issued <= max_lifetime:
            raise InvalidToken("exp: the token lives longer than tokens may, or ends before it begins")
    if "nbf" in claims:
        begins = claims["nbf"]
        if type(begins) is not int or not 0 <= begins < expires:
            raise InvalidToken("nbf: whole seconds since the epoch, before exp")
    for name in ("sub", "jti"):
        if name in claims:
            try:
                check_subject(claims[name], name=name)
            except (TypeError, ValueError) as exc:
                raise InvalidToken(str(exc)) from None


def check_moment(claims: Mapping[str, Any], *, now: float, leeway: float) -> None:
    """Nothing, for well-formed claims that are valid at `now`, give or take `leeway` (both in seconds).

    Valid from `iat - leeway` and `nbf - leeway` on, and before `exp + leeway`.

    Raises:
        InvalidToken: they are not yet, or no longer.
    """
    # Each asks for what must hold, so that a `now` that is NaN refuses.
    if not now < claims["exp"] + leeway:
        raise InvalidToken("the token has expired")
    if "iat" in claims and not claims["iat"] <= now + leeway:
        raise InvalidToken("iat: the token is from the future")
    if "nbf" in claims and not claims["nbf"] <= now + leeway:
        raise InvalidToken("nbf: the token is not valid yet")
