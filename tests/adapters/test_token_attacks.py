"""Tokens as an attacker writes them: each gives `InvalidToken`, with a reason that holds nothing of the token."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.adapters.test_tokens import UNSEEN
from tests.adapters.tokens import (
    ALGORITHMS,
    AUDIENCE,
    CLAIMS,
    FULL,
    ISSUER,
    NOW,
    OTHER_SECRET,
    SECRET,
    b64,
    forge,
    hs256,
    material,
    private_key,
    public_der,
    public_pem,
)
from traffic_cop_middleware.adapters.jwt import JwtCodec, Key, keyset
from traffic_cop_middleware.adapters.jwt.codec import KNOWN_HEADERS
from traffic_cop_middleware.errors import InvalidToken

KEY = Key(SECRET, kid="current")
HEADER: Mapping[str, Any] = {"alg": "HS256", "kid": "current", "typ": "at+jwt"}
CODEC = JwtCodec(keyset(KEY), issuer=ISSUER, audience=AUDIENCE, leeway=5, max_lifetime=3600)
SIGN = hs256(SECRET)
VALID = forge(HEADER, FULL, SIGN)


def with_header(**changes: Any) -> str:
    """A token with a genuine signature whose header is changed: a key holder's mistake, or a server to be confused."""
    return forge({**HEADER, **changes}, FULL, SIGN)


def without_header(name: str) -> str:
    return forge({k: v for k, v in HEADER.items() if k != name}, FULL, SIGN)


def with_claims(**changes: Any) -> str:
    return forge(HEADER, {**FULL, **changes}, SIGN)


def without_claim(name: str) -> str:
    return forge(HEADER, {k: v for k, v in FULL.items() if k != name}, SIGN)


def raw_claims(find: str, put: str) -> str:
    """The claims as text, with one piece replaced by what `json.dumps` does not write."""
    text = json.dumps(dict(FULL))
    assert find in text
    return forge(HEADER, text.replace(find, put, 1).encode("utf-8"), SIGN)


def signature(token: str) -> str:
    return token.rpartition(".")[2]


def other_spelling(token: str) -> str:
    """The same bytes with other bits behind the end of the signature: 32 bytes leave two bits of the last character."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]
    decode = base64.urlsafe_b64decode
    assert decode(signature(other) + "=") == decode(signature(token) + "=")
    return other


def serialised() -> str:
    protected, payload, sig = VALID.split(".")
    return json.dumps({"protected": protected, "payload": payload, "signature": sig})


EXP, IAT = f'"exp": {NOW + 600}', f'"iat": {NOW}'
NESTED = "[" * 1200 + "]" * 1200

ATTACKS: dict[str, tuple[Callable[[], Any], str]] = {
    # shape and size
    "empty": (lambda: "", "three segments"),
    "two segments": (lambda: VALID.rpartition(".")[0], "three segments"),
    "four segments": (lambda: VALID + ".AAAA", "three segments"),
    "five segments (JWE)": (lambda: VALID + ".AAAA.AAAA", "three segments"),
    "JSON-serialised JWS": (serialised, "three segments"),
    "only dots": (lambda: "..", "header"),
    "4097 bytes": (lambda: "a" * 4097, "too long"),
    "8 MB": (lambda: "a" * 8_000_000, "too long"),
    "8 MB of dots": (lambda: b"." * 8_000_000, "too long"),
    "no text": (lambda: None, "no text"),
    "number": (lambda: 7, "no text"),
    "bytearray": (lambda: bytearray(VALID.encode()), "no text"),
    "non-ASCII": (lambda: VALID + "é", "base64url"),
    "lone surrogate": (lambda: VALID + "\ud800", "base64url"),
    "non-UTF-8 bytes": (lambda: VALID.encode() + b"\xff\xfe", "base64url"),
    "NUL": (lambda: VALID + "\0", "base64url"),
    "space before": (lambda: " " + VALID, "base64url"),
    "newline after": (lambda: VALID + "\n", "base64url"),
    "newline inside": (lambda: VALID[:10] + "\n" + VALID[10:], "base64url"),
    "trailing =": (lambda: VALID + "=", "base64url"),
    "header padded": (lambda: VALID.replace(".", "=.", 1), "base64url"),
    "another spelling of the signature": (lambda: other_spelling(VALID), "canonical"),
    "standard base64": (lambda: VALID.rpartition(".")[0] + "." + "+/" * 21 + "A", "base64url"),
    # signature
    "no signature": (lambda: VALID.rpartition(".")[0] + ".", "signature"),
    "signature cut": (lambda: VALID[:-3], "signature"),
    "signature of another secret": (lambda: forge(HEADER, FULL, hs256(OTHER_SECRET)), "signature"),
    "signature of another token": (
        lambda: VALID.rpartition(".")[0] + "." + signature(with_claims(sub="user-2")),
        "signature",
    ),
    "claims changed": (
        lambda: ".".join(
            (VALID.split(".")[0], b64(json.dumps({**FULL, "sub": "root"}).encode()).decode(), signature(VALID))
        ),
        "signature",
    ),
    # alg
    "alg none": (lambda: forge({**HEADER, "alg": "none"}, FULL, lambda _: b""), "alg"),
    "alg nOnE": (lambda: forge({**HEADER, "alg": "nOnE"}, FULL, lambda _: b""), "alg"),
    "alg none, with a signature": (lambda: with_header(alg="none"), "alg"),
    "alg array": (lambda: with_header(alg=["HS256"]), "strings"),
    "alg int": (lambda: with_header(alg=256), "strings"),
    "alg null": (lambda: with_header(alg=None), "strings"),
    "alg empty": (lambda: with_header(alg=""), "alg"),
    "alg missing": (lambda: without_header("alg"), "header"),
    "alg hs256": (lambda: with_header(alg="hs256"), "alg"),
    "alg HS512": (lambda: with_header(alg="HS512"), "alg"),
    "alg RS256": (lambda: with_header(alg="RS256"), "alg"),
    "alg twice": (lambda: forge(b'{"alg":"none","alg":"HS256","kid":"current","typ":"at+jwt"}', FULL, SIGN), "twice"),
    # kid
    "kid missing": (lambda: without_header("kid"), "header"),
    "kid of another case": (lambda: with_header(kid="Current"), "kid"),
    "kid path traversal": (lambda: with_header(kid="../../../../dev/null"), "kid"),
    "kid SQL": (lambda: with_header(kid="x' UNION SELECT 'secret' --"), "kid"),
    "kid NUL": (lambda: with_header(kid="current\0"), "kid"),
    "kid of 2.5 KB": (lambda: with_header(kid="k" * 2500), "kid"),
    "kid of 4 KB": (lambda: with_header(kid="k" * 4096), "too long"),
    "kid empty": (lambda: with_header(kid=""), "kid"),
    "kid int": (lambda: with_header(kid=0), "strings"),
    "kid list": (lambda: with_header(kid=["current"]), "strings"),
    "kid object": (lambda: with_header(kid={}), "strings"),
    "kid null": (lambda: with_header(kid=None), "strings"),
    "kid twice": (lambda: forge(b'{"alg":"HS256","kid":"x","kid":"current","typ":"at+jwt"}', FULL, SIGN), "twice"),
    # other header members
    "embedded jwk": (lambda: with_header(jwk={"kty": "oct", "k": b64(SECRET.encode()).decode()}), "more than these"),
    "jku": (lambda: with_header(jku="https://evil.example/jwks.json"), "more than these"),
    "x5u": (lambda: with_header(x5u="https://evil.example/cert.pem"), "more than these"),
    "x5c": (lambda: with_header(x5c=["AAAA"]), "more than these"),
    "crit": (lambda: with_header(crit=["exp"]), "more than these"),
    "crit empty": (lambda: with_header(crit=[]), "more than these"),
    "b64 false": (lambda: with_header(b64=False, crit=["b64"]), "more than these"),
    "b64 true": (lambda: with_header(b64=True), "more than these"),
    "zip": (lambda: with_header(zip="DEF"), "more than these"),
    "cty": (lambda: with_header(cty="JWT"), "more than these"),
    # typ
    "refresh token as access token": (lambda: with_header(typ="rt+jwt"), "typ"),
    "typ missing": (lambda: without_header("typ"), "header"),
    "typ JWT": (lambda: with_header(typ="JWT"), "typ"),
    "typ of another case": (lambda: with_header(typ="AT+JWT"), "typ"),
    "typ long form": (lambda: with_header(typ="application/at+jwt"), "typ"),
    "typ null": (lambda: with_header(typ=None), "strings"),
    # header as JSON
    "header null": (lambda: forge(b"null", FULL, SIGN), "header is no JSON object"),
    "header list": (lambda: forge(b"[]", FULL, SIGN), "header is no JSON object"),
    "header no JSON": (lambda: forge(b"{", FULL, SIGN), "header is no JSON"),
    "header UTF-16": (lambda: forge(json.dumps(HEADER).encode("utf-16"), FULL, SIGN), "header is no JSON"),
    "header UTF-16 without mark": (
        lambda: forge(json.dumps(HEADER).encode("utf-16-le"), FULL, SIGN),
        "header is no JSON",
    ),
    "header with BOM": (lambda: forge(b"\xef\xbb\xbf" + json.dumps(HEADER).encode(), FULL, SIGN), "header is no JSON"),
    "header nested": (lambda: forge(NESTED.encode(), FULL, SIGN), "header is nested"),
    # exp
    "exp past": (lambda: with_claims(iat=NOW - 1000, exp=NOW - 5), "expired"),
    "exp missing": (lambda: without_claim("exp"), "exp"),
    "exp null": (lambda: with_claims(exp=None), "exp"),
    "exp list": (lambda: with_claims(exp=[NOW + 600]), "exp"),
    "exp object": (lambda: with_claims(exp={}), "exp"),
    "exp true": (lambda: with_claims(exp=True), "exp: whole seconds"),
    "exp string": (lambda: with_claims(exp=str(NOW + 600)), "exp"),
    "exp float": (lambda: with_claims(exp=NOW + 600.5), "exp"),
    "exp whole float": (lambda: with_claims(exp=NOW + 600.0), "exp"),
    "exp 1e9": (lambda: raw_claims(EXP, '"exp": 1.75e9'), "exp"),
    "exp NaN": (lambda: raw_claims(EXP, '"exp": NaN'), "NaN"),
    "exp Infinity": (lambda: raw_claims(EXP, '"exp": Infinity'), "Infinity"),
    "exp -Infinity": (lambda: raw_claims(EXP, '"exp": -Infinity'), "Infinity"),
    "exp 1e400": (lambda: raw_claims(EXP, '"exp": 1e400'), "too large"),
    "exp 10^30": (lambda: with_claims(exp=10**30), "too long"),
    "exp 2^63": (lambda: with_claims(exp=2**63 - 1), "lives longer"),
    "exp 3000 digits": (lambda: raw_claims(EXP, '"exp": ' + "9" * 2700), "too long"),
    "exp 5000 digits": (lambda: raw_claims(EXP, '"exp": ' + "9" * 5000), "too long"),
    "exp negative": (lambda: with_claims(exp=-1), "ends before"),
    "exp at iat": (lambda: with_claims(exp=NOW), "ends before"),
    "exp twice": (lambda: raw_claims(EXP, f'"exp": 1, {EXP}'), "twice"),
    "lifetime over the maximum": (lambda: with_claims(exp=NOW + 3601), "lives longer"),
    # iat and nbf
    "iat missing": (lambda: without_claim("iat"), "iat"),
    "iat null": (lambda: with_claims(iat=None), "iat"),
    "iat 0": (lambda: with_claims(iat=0), "iat"),
    "iat negative": (lambda: with_claims(iat=-NOW), "iat"),
    "iat true": (lambda: with_claims(iat=True), "iat"),
    "iat string": (lambda: with_claims(iat=str(NOW)), "iat"),
    "iat float": (lambda: with_claims(iat=float(NOW)), "iat"),
    "iat in the future": (lambda: with_claims(iat=NOW + 6), "future"),
    "iat twice": (lambda: raw_claims(IAT, f"{IAT}, {IAT}"), "twice"),
    "nbf in the future": (lambda: with_claims(nbf=NOW + 6), "not valid yet"),
    "nbf true": (lambda: with_claims(nbf=True), "nbf"),
    "nbf string": (lambda: with_claims(nbf="0"), "nbf"),
    "nbf float": (lambda: with_claims(nbf=0.5), "nbf"),
    "nbf null": (lambda: with_claims(nbf=None), "nbf"),
    "nbf after exp": (lambda: with_claims(nbf=NOW + 601), "nbf"),
    # iss and aud
    "iss missing": (lambda: without_claim("iss"), "iss"),
    "iss wrong": (lambda: with_claims(iss="https://evil.example"), "iss"),
    "iss prefix": (lambda: with_claims(iss=ISSUER[:-1]), "iss"),
    "iss with more": (lambda: with_claims(iss=ISSUER + "/"), "iss"),
    "iss list": (lambda: with_claims(iss=[ISSUER]), "iss"),
    "iss empty": (lambda: with_claims(iss=""), "iss"),
    "iss null": (lambda: with_claims(iss=None), "iss"),
    "aud missing": (lambda: without_claim("aud"), "aud"),
    "aud wrong": (lambda: with_claims(aud="another"), "aud"),
    "aud prefix": (lambda: with_claims(aud=AUDIENCE[:-1]), "aud"),
    "aud with more": (lambda: with_claims(aud=AUDIENCE + "s"), "aud"),
    "aud list": (lambda: with_claims(aud=[AUDIENCE]), "aud"),
    "aud empty list": (lambda: with_claims(aud=[]), "aud"),
    "aud empty": (lambda: with_claims(aud=""), "aud"),
    "aud null": (lambda: with_claims(aud=None), "aud"),
    "aud number": (lambda: with_claims(aud=0), "aud"),
    # sub and jti
    "sub null": (lambda: with_claims(sub=None), "sub"),
    "sub int": (lambda: with_claims(sub=1), "sub"),
    "sub list": (lambda: with_claims(sub=["user-1"]), "sub"),
    "sub of 2.5 KB": (lambda: with_claims(sub="s" * 2500), "sub"),
    "sub twice": (lambda: raw_claims('"sub"', '"sub": "root", "sub"'), "twice"),
    "sub twice, once escaped": (lambda: raw_claims('"sub"', '"\\u0073ub": "root", "sub"'), "twice"),
    "jti int": (lambda: with_claims(jti=7), "jti"),
    "jti with CR": (lambda: with_claims(jti="a\rb"), "jti"),
    # claims as JSON
    "claims null": (lambda: forge(HEADER, b"null", SIGN), "claims is no JSON object"),
    "claims list": (lambda: forge(HEADER, json.dumps([FULL]).encode(), SIGN), "claims is no JSON object"),
    "claims string": (lambda: forge(HEADER, b'"sub"', SIGN), "claims is no JSON object"),
    "claims empty": (lambda: forge(HEADER, b"", SIGN), "no JSON"),
    "claims with more behind": (lambda: forge(HEADER, json.dumps(FULL).encode() + b"{}", SIGN), "no JSON"),
    "claims with a comma": (lambda: raw_claims("}", ",}"), "no JSON"),
    "claims with a raw newline": (lambda: raw_claims("user-1", "user\n1"), "no JSON"),
    "claims UTF-16": (lambda: forge(HEADER, json.dumps(FULL).encode("utf-16"), SIGN), "no JSON"),
    "claims UTF-16 without mark": (lambda: forge(HEADER, json.dumps(FULL).encode("utf-16-be"), SIGN), "no JSON"),
    "claims UTF-32": (lambda: forge(HEADER, json.dumps(FULL).encode("utf-32"), SIGN), "no JSON"),
    "claims with BOM": (lambda: forge(HEADER, b"\xef\xbb\xbf" + json.dumps(FULL).encode(), SIGN), "no JSON"),
    "claims Latin-1": (
        lambda: forge(HEADER, json.dumps({**FULL, "n": "é"}, ensure_ascii=False).encode("latin-1"), SIGN),
        "JSON",
    ),
    "claims overlong UTF-8": (lambda: forge(HEADER, b'{"a":"\xc0\x80"}', SIGN), "no JSON"),
    "claims with surrogates in UTF-8": (lambda: forge(HEADER, b'{"a":"\xed\xa0\x80"}', SIGN), "no JSON"),
    "lone surrogate in another claim": (lambda: with_claims(tenant="\ud800"), "no JSON"),
    "lone surrogate in a name": (lambda: with_claims(**{"\udfff": 1}), "no JSON"),
    "lone surrogate deep inside": (lambda: with_claims(tenant=[{"a": ["\ud83d"]}]), "no JSON"),
    "nested 1,200 times": (lambda: raw_claims('"acme"', NESTED), "nested"),
    "nested 40 times": (lambda: raw_claims('"acme"', "[" * 40 + "]" * 40), "nested"),
    "objects nested 40 times": (lambda: raw_claims('"acme"', '{"a":' * 40 + "1" + "}" * 40), "nested"),
    "nested 100,000 times": (lambda: raw_claims('"acme"', "[" * 100_000), "too long"),
    "member twice, deep inside": (lambda: raw_claims('"acme"', '[{"a": 1, "a": 2}]'), "twice"),
    "another claim 1e400": (lambda: raw_claims('"acme"', "1e400"), "too large"),
    "another claim 3000 digits": (lambda: raw_claims('"acme"', "9" * 2700), "too long"),
} | {f"sub {name}": (lambda subject=subject: with_claims(sub=subject), "sub|JSON") for name, subject in UNSEEN.items()}


def refusal(token: Any, codec: JwtCodec = CODEC, *, now: float = NOW) -> InvalidToken:
    with pytest.raises(InvalidToken) as caught:
        codec.verify(token, typ="at+jwt", now=now)
    return caught.value


def test_what_the_attacks_are_made_from_is_valid() -> None:
    for token in (
        VALID,
        VALID.encode(),
        with_header(),
        with_claims(),
        with_claims(nbf=NOW + 5),
        with_claims(iat=NOW + 5),
    ):
        assert CODEC.verify(token, typ="at+jwt", now=NOW)["sub"] == "user-1"


@pytest.mark.parametrize(("build", "reason"), ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_is_refused_for_its_reason(build: Callable[[], Any], reason: str) -> None:
    token = build()
    exc = refusal(token)
    assert any(each in str(exc) for each in reason.split("|"))
    assert exc.__cause__ is None
    assert exc.__suppress_context__ or exc.__context__ is None
    if isinstance(token, str):
        assert not any(piece in str(exc) for piece in token.split(".") if len(piece) > 8)
    assert not any(word in str(exc) for word in ("user-1", "acme", "current", "evil.example", str(NOW), SECRET))
    assert len(str(exc)) < 120


@pytest.mark.parametrize("algorithm", ALGORITHMS[1:])
def test_a_public_key_is_not_taken_for_a_secret(algorithm: str) -> None:
    pair = private_key(algorithm)
    key = Key(material(algorithm), algorithm=algorithm)
    codec = JwtCodec(keyset(key), issuer=ISSUER, audience=AUDIENCE, max_lifetime=3600)
    jwk = codec.jwks()["keys"][0]
    for secret in (
        public_pem(pair),
        public_pem(pair).strip(),
        public_der(pair),
        json.dumps(jwk),
        json.dumps(jwk, separators=(",", ":")),
        json.dumps(codec.jwks()),
        jwk.get("n") or jwk["x"],
        "",
    ):
        for alg, reason in (("HS256", "alg"), (algorithm, "signature")):
            header = {"alg": alg, "kid": key.kid, "typ": "at+jwt"}
            assert reason in str(refusal(forge(header, FULL, hs256(secret)), codec))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_signature_of_another_algorithm_does_not_match(algorithm: str) -> None:
    key = Key(material(algorithm), algorithm=algorithm, kid="one")
    codec = JwtCodec(keyset(key), issuer=ISSUER, audience=AUDIENCE, max_lifetime=3600)
    for other in ALGORITHMS:
        stranger = Key(material(other, 5), algorithm=other)
        forged = forge({"alg": algorithm, "kid": "one", "typ": "at+jwt"}, FULL, stranger.sign)
        assert "signature" in str(refusal(forged, codec))
    for broken in (b"", b"\0", b"\0" * 32, b"\0" * 64, b"\xff" * 64, b"\0" * 256, b"\xff" * 512):
        forged = forge({"alg": algorithm, "kid": "one", "typ": "at+jwt"}, FULL, lambda _, broken=broken: broken)
        assert "signature" in str(refusal(forged, codec))


def test_a_flood_of_headers_is_not_remembered() -> None:
    codec = JwtCodec(keyset(KEY), issuer=ISSUER, audience=AUDIENCE, max_lifetime=3600)
    text = json.dumps(HEADER)
    for spaces in range(50):
        padded = text.replace("{", "{" + " " * spaces).encode()
        refusal(forge(padded, FULL, hs256(OTHER_SECRET)), codec)
    assert codec._ring.headers == {}
    for spaces in range(50):
        padded = text.replace("{", "{" + " " * spaces).encode()
        assert codec.verify(forge(padded, FULL, SIGN), typ="at+jwt", now=NOW) == FULL
    assert len(codec._ring.headers) == KNOWN_HEADERS


def test_a_known_header_is_checked_against_the_type_that_is_asked_for() -> None:
    codec = JwtCodec(keyset(KEY), issuer=ISSUER, audience=AUDIENCE, max_lifetime=3600)
    refresh = codec.sign(CLAIMS, typ="rt+jwt")
    codec.verify(refresh, typ="rt+jwt", now=NOW)
    assert "typ" in str(refusal(refresh, codec))


# --- whatever bytes come


def outcome(token: Any) -> Mapping[str, Any] | None:
    """The claims, or `None` for a refusal; any other exception fails the test."""
    try:
        return CODEC.verify(token, typ="at+jwt", now=NOW)
    except InvalidToken:
        return None


SEGMENTS = st.binary(max_size=40).map(b64) | st.binary(max_size=40) | st.sampled_from(VALID.encode().split(b"."))
TEXT = st.text(st.characters(), max_size=20)  # lone surrogates too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
MEMBERS = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "exp", "iat", "nbf", "iss", "aud", "sub", "jti"])
LIKELY = st.sampled_from([None, *HEADER.values(), *FULL.values(), "", 0, -1, True, 10**20, 0.5, "none", [], {}])
CHANGES = st.dictionaries(MEMBERS, LIKELY | JSON, max_size=4)


@given(st.binary(max_size=200) | st.text(max_size=200) | st.lists(SEGMENTS, max_size=6).map(b".".join))
@settings(max_examples=250, deadline=None)
@example(b"..")
@example(b"e30.e30.e30")
@example("eyJhbGciOiJub25lIn0.e30.")
def test_bytes_of_any_kind_are_refused_and_nothing_worse(token: bytes | str) -> None:
    as_text = token.decode("latin-1") if isinstance(token, bytes) else token
    assert (outcome(token) is None) == (as_text != VALID)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_valid_token_with_any_piece_changed_is_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(VALID)))
    end = data.draw(st.integers(start, min(len(VALID), start + 4)))
    changed = VALID[:start].encode() + data.draw(st.binary(max_size=4)) + VALID[end:].encode()
    assert (outcome(changed) is None) == (changed != VALID.encode())


@given(CHANGES)
@settings(max_examples=250, deadline=None)
def test_a_genuine_signature_over_another_header_does_not_help(changes: dict[str, Any]) -> None:
    header = {**HEADER, **changes}
    assert (outcome(forge(header, FULL, SIGN)) is None) == (header != HEADER)


@given(CHANGES)
@settings(max_examples=250, deadline=None)
def test_whatever_a_key_holder_signs_is_verified_as_it_is_or_refused(changes: dict[str, Any]) -> None:
    claims = {**FULL, **changes}
    verified = outcome(forge(HEADER, claims, SIGN))
    if verified is not None:
        assert verified == claims
        assert (verified["iss"], verified["aud"]) == (ISSUER, AUDIENCE)
        assert type(verified["exp"]) is int
        assert type(verified["iat"]) is int
        assert 0 < verified["exp"] - verified["iat"] <= 3600


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=150, deadline=None)
def test_any_bytes_as_header_or_claims_are_refused_and_nothing_worse(data: bytes) -> None:
    assert outcome(forge(data, FULL, SIGN)) is None
    assert outcome(forge(HEADER, data, SIGN)) is None
