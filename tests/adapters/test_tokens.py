"""Tokens of our own: what is signed is verified, until its keys or its time are over."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapters.tokens import (
    ALGORITHMS,
    AUDIENCE,
    CLAIMS,
    FULL,
    ISSUER,
    NOW,
    OTHER_SECRET,
    SECRET,
    material,
    private_key,
    private_pem,
    public_der,
    public_pem,
)
from traffic_cop_middleware.adapters.jwt import JwtCodec, Key, KeySet, check_subject, keyset
from traffic_cop_middleware.contracts import TokenCodec
from traffic_cop_middleware.errors import ConfigurationError, InvalidToken, TokenTooLarge

PAIRS = [name for name in ALGORITHMS if name != "HS256"]


def codec_of(*keys: Key | str | bytes, algorithm: str = "HS256", **settings: Any) -> JwtCodec:
    chosen = {"issuer": ISSUER, "audience": AUDIENCE, "leeway": 0, "max_lifetime": 3600, **settings}
    return JwtCodec(keyset(keys, algorithm=algorithm), **chosen)


# --- the round trip


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_signed_is_verified_by_each_algorithm(algorithm: str) -> None:
    codec: TokenCodec = codec_of(material(algorithm), algorithm=algorithm)
    token = codec.sign(CLAIMS, typ="at+jwt")
    for form in (token, token.encode()):
        for _ in range(2):  # the second time the header is known
            assert codec.verify(form, typ="at+jwt", now=NOW) == FULL
    header = jwt.get_unverified_header(token)
    assert (header["alg"], header["typ"], set(header)) == (algorithm, "at+jwt", {"alg", "kid", "typ"})


@pytest.mark.parametrize("algorithm", PAIRS)
def test_another_library_verifies_our_tokens_by_our_jwk_set(algorithm: str) -> None:
    codec = codec_of(material(algorithm), algorithm=algorithm)
    token = codec.sign({**CLAIMS, "iat": 1, "exp": 2}, typ="at+jwt")
    listed = jwt.PyJWKSet.from_dict(codec.jwks())
    key = listed[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, audience=AUDIENCE, issuer=ISSUER, options={"verify_exp": False})
    assert claims["sub"] == "user-1"


def test_an_access_token_is_no_refresh_token() -> None:
    codec = codec_of(SECRET)
    access, refresh = codec.sign(CLAIMS, typ="at+jwt"), codec.sign(CLAIMS, typ="rt+jwt")
    assert codec.verify(refresh, typ="rt+jwt", now=NOW) == FULL
    for token, typ in ((refresh, "at+jwt"), (access, "rt+jwt"), (access, "AT+JWT"), (access, "")):
        with pytest.raises(InvalidToken, match="typ"):
            codec.verify(token, typ=typ, now=NOW)


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (NOW - 6, "from the future"),
        (NOW - 5, None),
        (NOW, None),
        (NOW + 604.9, None),
        (NOW + 605, "expired"),
        (float("nan"), "expired"),
        (float("inf"), "expired"),
        (float("-inf"), "from the future"),
    ],
)
def test_a_token_is_valid_from_iat_to_exp_give_or_take_the_leeway(at: float, reason: str | None) -> None:
    codec = codec_of(SECRET, leeway=5)
    token = codec.sign(CLAIMS, typ="at+jwt")
    if reason is None:
        assert codec.verify(token, typ="at+jwt", now=at) == FULL
    else:
        with pytest.raises(InvalidToken, match=reason):
            codec.verify(token, typ="at+jwt", now=at)


def test_nbf_holds_a_token_back_until_its_leeway() -> None:
    codec = codec_of(SECRET, leeway=5)
    token = codec.sign({**CLAIMS, "nbf": NOW + 60}, typ="at+jwt")
    with pytest.raises(InvalidToken, match="not valid yet"):
        codec.verify(token, typ="at+jwt", now=NOW + 54.9)
    assert codec.verify(token, typ="at+jwt", now=NOW + 55)["nbf"] == NOW + 60


# --- what can't be verified is not signed


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW + 600}, "iat"),
        ({"iat": NOW}, "exp"),
        ({**CLAIMS, "iat": 0}, "iat"),
        ({**CLAIMS, "iat": True}, "iat"),
        ({**CLAIMS, "exp": float(NOW + 600)}, "exp"),
        ({**CLAIMS, "exp": str(NOW + 600)}, "exp"),
        ({**CLAIMS, "exp": NOW}, "ends before it begins"),
        ({**CLAIMS, "exp": NOW + 3601}, "lives longer"),
        ({**CLAIMS, "nbf": NOW + 600}, "nbf"),
        ({**CLAIMS, "sub": ""}, "sub"),
        ({**CLAIMS, "sub": None}, "sub"),
        ({**CLAIMS, "sub": "a\r\nb"}, "sub"),
        ({**CLAIMS, "sub": "\ud800"}, "JSON"),
        ({**CLAIMS, "jti": 7}, "jti"),
        ({**CLAIMS, "iss": "https://another.example"}, "iss is set by the codec"),
        ({**CLAIMS, "aud": ["app"]}, "aud is set by the codec"),
        ({**CLAIMS, "tenant": object()}, "JSON"),
        ({**CLAIMS, "tenant": float("nan")}, "JSON"),
        ({**CLAIMS, "tenant": 10**30}, "too long"),
        ({**CLAIMS, "tenant": 10**5000}, "JSON"),
        ({**CLAIMS, "tenant": {1: "a", "1": "b"}}, "twice"),
        ({**CLAIMS, 1: "a"}, "string keys"),
        ([], "mapping"),
    ],
)
def test_claims_that_could_not_be_verified_are_not_signed(claims: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        codec_of(SECRET).sign(claims, typ="at+jwt")


def test_claims_nested_too_deeply_are_not_signed() -> None:
    codec = codec_of(SECRET)
    for depth in (40, 100_000):
        nested: list[Any] = []
        for _ in range(depth):
            nested = [nested]
        with pytest.raises(TypeError):
            codec.sign({**CLAIMS, "deep": nested}, typ="at+jwt")


def test_many_lists_beside_each_other_are_not_deep() -> None:
    codec = codec_of(SECRET)
    claims = {**CLAIMS, "roles": [["a"] for _ in range(100)], "text": "[{" * 100}
    assert codec.verify(codec.sign(claims, typ="at+jwt"), typ="at+jwt", now=NOW)["roles"] == [["a"]] * 100


@pytest.mark.parametrize("typ", ["", "at\njwt", None])
def test_a_typ_that_is_none_is_not_signed(typ: Any) -> None:
    with pytest.raises(TypeError, match="typ"):
        codec_of(SECRET).sign(CLAIMS, typ=typ)


@pytest.mark.parametrize("algorithm", ["HS256", "RS256"])
def test_a_token_has_at_most_4096_bytes(algorithm: str) -> None:
    codec = codec_of(material(algorithm), algorithm=algorithm)
    fits, lengths = 0, []
    for size in range(2200, 3200):
        try:
            lengths.append(len(codec.sign({**CLAIMS, "filler": "x" * size}, typ="at+jwt")))
            fits = size
        except TokenTooLarge:
            break
    assert 4092 <= lengths[-1] <= 4096
    longest = codec.sign({**CLAIMS, "filler": "x" * fits}, typ="at+jwt")
    assert codec.verify(longest, typ="at+jwt", now=NOW)["filler"] == "x" * fits
    with pytest.raises(TokenTooLarge, match="4,096"):
        codec.sign({**CLAIMS, "filler": "x" * 100_000}, typ="at+jwt")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(further=st.dictionaries(st.text() | st.sampled_from(["sub", "jti", "nbf", "exp"]), JSON, max_size=5))
@settings(deadline=None)
def test_what_sign_takes_verify_gives_back(further: dict[str, Any]) -> None:
    codec = codec_of(SECRET)
    claims = {**CLAIMS, **further}
    try:
        token = codec.sign(claims, typ="at+jwt")
    except (TypeError, TokenTooLarge):
        return
    at = max(NOW, claims.get("nbf", 0))
    assert codec.verify(token, typ="at+jwt", now=at) == {**claims, "iss": ISSUER, "aud": AUDIENCE}


# --- subjects


@pytest.mark.parametrize("subject", ["a", "x" * 256, "user 1", "Ünïcode", "משתמש", "用户", "auth0|5f7c", "👤"])
def test_a_subject_of_any_script_is_carried(subject: str) -> None:
    check_subject(subject)
    codec = codec_of(SECRET)
    token = codec.sign({**CLAIMS, "sub": subject}, typ="at+jwt")
    assert codec.verify(token, typ="at+jwt", now=NOW)["sub"] == subject


@pytest.mark.parametrize("subject", [None, 7, b"bytes", ["list"], True])
def test_a_subject_is_a_string(subject: object) -> None:
    with pytest.raises(TypeError, match="sub"):
        check_subject(subject)


UNSEEN = {
    "empty": "",
    "too long": "x" * 257,
    "NUL": "a\0b",
    "CR": "a\rb",
    "LF": "a\n",
    "DEL": "a\x7f",
    "C1": "a\x85b",
    "lone surrogate": "a\ud800",
    "zero-width space": "a\u200bb",
    "zero-width joiner": "a\u200db",
    "word joiner": "a\u2060b",
    "byte order mark": "\ufeffa",
    "soft hyphen": "a\u00adb",
    "right-to-left mark": "a\u200fb",
    "right-to-left override": "a\u202eb",
    "isolate": "a\u2066b",
    "line separator": "a\u2028b",
    "no-break space": "a\u00a0b",
    "Hangul filler": "a\u3164b",
    "grapheme joiner": "a\u034fb",
    "variation selector": "a\ufe0fb",
    "tag": "a\U000e0041b",
    "private use": "a\ue000b",
}


@pytest.mark.parametrize("subject", UNSEEN.values(), ids=UNSEEN.keys())
def test_a_subject_that_looks_like_another_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="sub") as caught:
        check_subject(subject)
    assert not subject or subject not in str(caught.value)


# --- rotation


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rotation_keeps_the_tokens_of_the_old_key_until_it_is_removed(algorithm: str) -> None:
    old, new = Key(material(algorithm, 1), algorithm=algorithm), Key(material(algorithm, 2), algorithm=algorithm)
    codec = codec_of(old)
    token = codec.sign(CLAIMS, typ="at+jwt")
    assert codec.verify(token, typ="at+jwt", now=NOW) == FULL
    before = codec.generation

    codec.replace_keys(keyset([new, old]))
    assert codec.generation == before + 1
    assert codec.verify(token, typ="at+jwt", now=NOW) == FULL
    renewed = codec.sign(CLAIMS, typ="at+jwt")
    assert jwt.get_unverified_header(renewed)["kid"] == new.kid

    codec.replace_keys(keyset(new))
    assert codec.generation == before + 2
    with pytest.raises(InvalidToken, match="kid"):
        codec.verify(token, typ="at+jwt", now=NOW)
    assert codec.verify(renewed, typ="at+jwt", now=NOW) == FULL


def test_another_secret_under_the_same_kid_voids_tokens_whose_header_is_known() -> None:
    codec = codec_of(Key(SECRET, kid="one"))
    token = codec.sign(CLAIMS, typ="at+jwt")
    codec.verify(token, typ="at+jwt", now=NOW)
    codec.replace_keys(keyset(Key(OTHER_SECRET, kid="one")))
    with pytest.raises(InvalidToken, match="signature"):
        codec.verify(token, typ="at+jwt", now=NOW)


def test_key_pairs_of_two_algorithms_overlap() -> None:
    rsa_key, ec_key = Key(material("RS256"), algorithm="RS256"), Key(material("ES256"), algorithm="ES256")
    codec = codec_of(rsa_key)
    token = codec.sign(CLAIMS, typ="at+jwt")
    codec.replace_keys(keyset([ec_key, rsa_key]))
    assert codec.verify(token, typ="at+jwt", now=NOW) == FULL
    assert [(k["kid"], k["alg"], k["use"]) for k in codec.jwks()["keys"]] == [
        (ec_key.kid, "ES256", "sig"),
        (rsa_key.kid, "RS256", "sig"),
    ]


@pytest.mark.parametrize("algorithm", PAIRS)
def test_a_public_key_verifies_and_does_not_sign(algorithm: str) -> None:
    pair = private_key(algorithm)
    token = codec_of(private_pem(pair), algorithm=algorithm).sign(CLAIMS, typ="at+jwt")
    public = Key(public_pem(pair), algorithm=algorithm)
    assert not public.can_sign
    with pytest.raises(TypeError, match="public"):
        public.sign(b"message")
    codec = codec_of(Key(material(algorithm, 9), algorithm=algorithm), public)
    assert codec.verify(token, typ="at+jwt", now=NOW) == FULL
    with pytest.raises(ConfigurationError, match=r"the first one signs.*Put a private one before it"):
        keyset([public])


# --- key sets as others see them


@pytest.mark.parametrize("algorithm", PAIRS)
def test_the_jwk_set_holds_nothing_private(algorithm: str) -> None:
    codec = codec_of(material(algorithm), algorithm=algorithm)
    (jwk,) = codec.jwks()["keys"]
    assert not {"d", "p", "q", "dp", "dq", "qi", "k", "key_ops"} & jwk.keys()
    jwk["kid"] = "changed by the caller"
    assert codec.jwks()["keys"][0]["kid"] != "changed by the caller"


def test_a_secret_is_not_published() -> None:
    assert codec_of(SECRET).jwks() == {"keys": []}


def test_the_kid_of_a_key_pair_is_its_rfc_7638_thumbprint() -> None:
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM"
        "stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5"
        "hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    public = jwt.PyJWK({"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256"}).key
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert Key(pem, algorithm="RS256").kid == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"  # section 3.1


def test_the_kid_of_a_secret_tells_it_apart_and_says_nothing_of_it() -> None:
    kids = {Key(secret).kid for secret in (SECRET, SECRET.encode(), OTHER_SECRET)}
    assert len(kids) == 2
    assert all(len(kid) == 11 for kid in kids)


# --- configuration


def test_a_key_may_be_given_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(private_pem(private_key("ES256")))
    key = Key(path, algorithm="ES256")
    assert key.kid == Key(path.read_text(), algorithm="ES256").kid
    with pytest.raises(ConfigurationError, match=r"missing\.pem.*No such file"):
        Key(tmp_path / "missing.pem", algorithm="ES256")


def certificate() -> bytes:
    key = private_key("ES256")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    made = x509.CertificateBuilder(
        name, name, key.public_key(), 7, datetime(2025, 1, 1, tzinfo=UTC), datetime(2035, 1, 1, tzinfo=UTC)
    ).sign(key, hashes.SHA256())
    return made.public_bytes(Encoding.PEM)


def encrypted() -> bytes:
    pem: bytes = private_key("ES256").private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")
    )
    return pem


UNUSABLE: dict[str, tuple[Any, str, str]] = {
    "secret of 31 bytes": ("x" * 31, "HS256", r"31 bytes.*python -c \"import secrets"),
    "empty secret": ("", "HS256", "0 bytes"),
    "secret that is no text": ("\ud800" * 40, "HS256", "surrogates"),
    "number as a secret": (7, "HS256", "not a int"),
    "path as a secret": (Path("secret.txt"), "HS256", "read_text"),
    "private PEM as a secret": (material("RS256"), "HS256", "algorithm='ES256'"),
    "public PEM as a secret": (public_pem(private_key("RS256")), "HS256", "not a secret"),
    "certificate as a secret": (certificate(), "HS256", "not a secret"),
    "public DER as a secret": (public_der(private_key("RS256")), "HS256", "not a secret"),
    "private DER as a secret": (
        private_key("ES256").private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        "HS256",
        "not a secret",
    ),
    "encrypted DER as a secret": (
        private_key("ES256").private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"p")),
        "HS256",
        "not a secret",
    ),
    "DER in base64 as a secret": (base64.b64encode(public_der(private_key("ES256"))), "HS256", "not a secret"),
    "PEM body without its lines as a secret": (
        b"\n".join(public_pem(private_key("RS256")).splitlines()[1:-1]),
        "HS256",
        "not a secret",
    ),
    "JWK as a secret": (json.dumps({"kty": "RSA", "n": "x" * 40, "e": "AQAB"}), "HS256", "not a secret"),
    "JWK Set as a secret": (json.dumps({"keys": [{"kty": "EC", "x": "x" * 40}]}), "HS256", "not a secret"),
    "JWK in base64url as a secret": (
        base64.urlsafe_b64encode(json.dumps({"kty": "OKP", "x": "?" * 40}).encode()).rstrip(b"="),
        "HS256",
        "not a secret",
    ),
    "SSH key as a secret": ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA" + "A" * 40, "HS256", "not a secret"),
    "secret for RS256": (SECRET, "RS256", "takes a key in PEM"),
    "file name for ES256": ("/etc/keys/es256.pem", "ES256", r"pathlib\.Path"),
    "number for ES256": (7, "ES256", "not a int"),
    "certificate for ES256": (certificate(), "ES256", "openssl x509 -pubkey"),
    "encrypted key for ES256": (encrypted(), "ES256", "Decrypt it"),
    "broken private PEM": (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "ES256", "can't be read"),
    "broken public PEM": (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "ES256", "can't be read"),
    "RSA key for ES256": (material("RS256"), "ES256", "takes a key of the curve P-256.*Make one: openssl"),
    "EC key for RS256": (material("ES256"), "RS256", "takes an RSA key"),
    "EC key for EdDSA": (material("ES256"), "EdDSA", "takes an Ed25519 key"),
    "P-384 for ES256": (private_pem(ec.generate_private_key(ec.SECP384R1())), "ES256", "curve secp384r1"),
    "Ed448 for EdDSA": (private_pem(ed448.Ed448PrivateKey.generate()), "EdDSA", "Ed448"),
    "RSA of 1,024 bits": (private_pem(rsa.generate_private_key(65537, 1024)), "RS256", "1024 bits"),
    "alg none": (SECRET, "none", "one of 'HS256'"),
    "alg hs256": (SECRET, "hs256", "one of 'HS256'"),
    "alg HS512": (SECRET, "HS512", "one of 'HS256'"),
    "alg PS256": (material("RS256"), "PS256", "one of 'HS256'"),
    "alg a list": (SECRET, ["HS256"], "one of 'HS256'"),
    "no keys": ([], "HS256", "at least one secret, PEM or Key"),
    "no key material": (None, "HS256", "not a NoneType"),
    "the same secret twice": ([SECRET, SECRET], "HS256", "two have the kid"),
    "the second too short": ([SECRET, "short"], "HS256", r"5 bytes.*number 2 of 2"),
    "a secret beside a key pair": ([SECRET, Key(material("ES256"), algorithm="ES256")], "HS256", "can't stand in one"),
}


@pytest.mark.parametrize(("given", "algorithm", "reason"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_key_that_can_not_be_used_fails_when_it_is_made(given: Any, algorithm: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        keyset(given, algorithm=algorithm)
    shown = str(caught.value) + repr(caught.value)
    for text in given if isinstance(given, list) else [given]:
        plain = text.decode("latin-1") if isinstance(text, bytes) else text
        if isinstance(plain, str) and len(plain) >= 5 and not plain.startswith("/"):
            assert plain not in shown
            assert not any(line in shown for line in plain.splitlines() if len(line) > 16 and "-----" not in line)


@given(st.binary(min_size=32, max_size=64))
def test_random_bytes_are_never_taken_for_a_key(secret: bytes) -> None:
    for form in (secret, base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
        assert Key(form).can_sign


@pytest.mark.parametrize("kid", ["", "a b", "a\nb", 'a"b', "a\\b", "é", "x" * 129, 7])
def test_a_kid_is_short_plain_text(kid: Any) -> None:
    with pytest.raises(ConfigurationError, match="kid="):
        Key(SECRET, kid=kid)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_shows_nothing_of_its_secret(algorithm: str) -> None:
    given = material(algorithm)
    text = given.decode() if isinstance(given, bytes) else given
    key = Key(given, algorithm=algorithm)
    shown = repr(key) + repr(keyset(key)) + repr(codec_of(key)) + str(vars(codec_of(key)))
    assert f"kid={key.kid!r}" in shown
    assert not any(line in shown for line in text.splitlines() if "-----" not in line)
    with pytest.raises(AttributeError):
        key.kid = "another"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("issuer", ""),
        ("issuer", None),
        ("audience", ["app"]),
        ("audience", "a\nb"),
        ("leeway", -1),
        ("leeway", 301),
        ("leeway", True),
        ("leeway", float("nan")),
        ("max_lifetime", 0),
        ("max_lifetime", "900"),
        ("max_lifetime", float("inf")),
    ],
)
def test_a_setting_that_can_not_work_fails_when_the_codec_is_made(setting: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{setting}="):
        codec_of(SECRET, **{setting: value})


def test_a_codec_takes_a_key_set() -> None:
    with pytest.raises(ConfigurationError, match=r"not a str. Write keyset\(secret\)"):
        JwtCodec(SECRET, issuer=ISSUER, audience=AUDIENCE, max_lifetime=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="at least one Key"):
        KeySet((SECRET,))  # type: ignore[arg-type]


def test_importing_the_package_does_not_load_pyjwt() -> None:
    script = "import sys, traffic_cop_middleware; print('jwt' in sys.modules or 'cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_key_derives_secrets_for_other_purposes_the_same_ones_each_time() -> None:
    private = private_key("ES256")
    pem, secret = private_pem(private), "a secret of this test, of 32 bytes or more"
    for text, algorithm in ((secret, "HS256"), (pem, "ES256")):
        one, again = Key(text, algorithm=algorithm), Key(text, algorithm=algorithm, kid="another")
        assert one.derive is not None
        assert again.derive is not None
        made = one.derive(b"cookies")
        assert len(made) == 32
        assert again.derive(b"cookies") == made != one.derive(b"something else")
        assert made != one.sign(b"cookies")
    assert Key(public_pem(private), algorithm="ES256").derive is None
