"""Tokens of other issuers, against JWK Sets on a real server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.adapters.test_tokens import UNSEEN
from tests.adapters.tokens import CLAIMS, NOW, SECRET, b64, forge, hs256, material, private_key, public_der, public_pem
from traffic_cop_middleware.adapters.jwt import ForeignIssuers, Issuer, Key
from traffic_cop_middleware.adapters.jwt.fetch import LARGEST, fetch
from traffic_cop_middleware.adapters.jwt.jwks import FRESH, INTERVAL, STALE, read_set
from traffic_cop_middleware.contracts import ForeignTokens
from traffic_cop_middleware.errors import ConfigurationError, InvalidToken, KeysUnavailable

ISS = "https://login.example/"
API = "https://api.example"
FULL: Mapping[str, Any] = {**CLAIMS, "iss": ISS, "aud": API}
PAIRS = ("RS256", "ES256", "EdDSA")
RS = Key(material("RS256"), algorithm="RS256", kid="rs")
ES = Key(material("ES256"), algorithm="ES256", kid="es")
ED = Key(material("EdDSA"), algorithm="EdDSA", kid="ed")
NEW = Key(material("ES256", 7), algorithm="ES256", kid="new")
HEADER: Mapping[str, Any] = {"alg": "ES256", "kid": "es", "typ": "at+jwt"}

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def jwks(*keys: Key | Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": [dict(k.public_jwk or {}) if isinstance(k, Key) else k for k in keys]}).encode()


def token_of(key: Key, claims: Mapping[str, Any] = FULL, **header: Any) -> str:
    return forge({"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt", **header}, claims, key.sign)


class JwksServer:
    """An issuer's server: what it answers is changed by the test; it counts."""

    def __init__(self) -> None:
        self.body = jwks(RS, ES, ED)
        self.status = 200
        self.headers: dict[str, str] = {}
        self.fetches = 0
        self.paths: list[str] = []
        self.hanging = False
        self.dripping = False
        self.asked = threading.Event()
        """Set when a request has come."""
        self.go_on = threading.Event()
        """While `hanging`, answers wait for it."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.fetches += 1
                outer.paths.append(self.path)
                outer.asked.set()
                if outer.hanging:
                    outer.go_on.wait(30)
                try:
                    self.send_response(outer.status)
                    for name, value in outer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(outer.body)
                    while outer.dripping and not outer.go_on.wait(0.02):
                        self.wfile.write(b" ")
                except OSError:
                    self.close_connection = True  # nobody waits for it any more

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def server() -> Iterator[JwksServer]:
    server = JwksServer()
    yield server
    server.close()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def issuers_at(server: JwksServer, clock: Clock, *, patience: float = 20.0, **settings: Any) -> ForeignIssuers:
    issuer = Issuer(ISS, audience=API, jwks_url=server.url + "/jwks", **settings)
    return ForeignIssuers([issuer], leeway=5, max_lifetime=3600, clock=clock, patience=patience)


def run(call: Callable[[], Awaitable[Any]], backend: str = "asyncio") -> Any:
    return anyio.run(call, backend=backend)


def verify(issuers: ForeignIssuers, token: Any, *, now: float = NOW, backend: str = "asyncio") -> Any:
    return run(lambda: issuers.verify(token, now=now), backend)


# --- the round trip


@backends
@pytest.mark.parametrize("key", [RS, ES, ED], ids=PAIRS)
def test_a_token_of_a_known_issuer_is_verified_by_its_set(
    key: Key, backend: str, server: JwksServer, clock: Clock
) -> None:
    issuers: ForeignTokens = issuers_at(server, clock)
    token = token_of(key)
    assert issuers.knows(token)
    assert issuers.knows(token.encode())

    async def twice() -> None:
        for form in (token, token.encode()):
            assert await issuers.verify(form, now=NOW) == FULL

    run(twice, backend)
    assert (server.fetches, server.paths) == (1, ["/jwks"])


def test_without_jwks_url_the_set_is_at_the_well_known_path(server: JwksServer, clock: Clock) -> None:
    iss = server.url + "/tenant/"
    issuers = ForeignIssuers([Issuer(iss, audience=API)], clock=clock)
    assert verify(issuers, token_of(ES, {**FULL, "iss": iss}))["iss"] == iss
    assert server.paths == ["/tenant/.well-known/jwks.json"]


def test_each_issuer_has_keys_of_its_own(server: JwksServer, clock: Clock) -> None:
    other = JwksServer()
    try:
        other.body = jwks(NEW)
        issuers = ForeignIssuers(
            [
                Issuer(ISS, audience=API, jwks_url=server.url),
                Issuer("https://other.example", audience=API, jwks_url=other.url),
            ],
            clock=clock,
        )
        assert verify(issuers, token_of(NEW, {**FULL, "iss": "https://other.example"}))["sub"] == "user-1"
        for claims, key in ((FULL, NEW), ({**FULL, "iss": "https://other.example"}, ES)):
            with pytest.raises(InvalidToken, match="kid"):
                verify(issuers, token_of(key, claims))
    finally:
        other.close()


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        b"\xff.\xff.\xff",
        "é.é.é",
        None,
        "x" * 20_000,
        token_of(ES, {**FULL, "iss": "https://unknown.example"}),
        token_of(ES, {**FULL, "iss": [ISS]}),
        token_of(ES, {**FULL, "iss": None}),
        forge(HEADER, b"[1]", ES.sign),
        forge(HEADER, b"[" * 9000, ES.sign),
        forge(HEADER, f'{{"iss":"https://evil.example","iss":"{ISS}"}}'.encode(), ES.sign),
    ],
)
def test_a_token_that_says_nothing_of_a_known_issuer_is_not_known(token: Any, server: JwksServer, clock: Clock) -> None:
    issuers = issuers_at(server, clock)
    assert issuers.knows(token) is False
    with pytest.raises(InvalidToken):
        verify(issuers, token)
    assert server.fetches == 0


# --- what is let through, and what is not


LET_THROUGH: dict[str, str] = {
    "typ at+jwt": token_of(ES),
    "typ AT+JWT": token_of(ES, typ="AT+JWT"),
    "typ application/at+jwt": token_of(ES, typ="application/at+jwt"),
    "typ JWT": token_of(ES, typ="JWT"),
    "typ absent": forge({"alg": "ES256", "kid": "es"}, FULL, ES.sign),
    "x5t": token_of(ES, x5t="AAAA"),
    "aud list": token_of(ES, {**FULL, "aud": ["https://other.example", API]}),
    "no iat": token_of(ES, {k: v for k, v in FULL.items() if k != "iat"}),
    "no sub": token_of(ES, {k: v for k, v in FULL.items() if k != "sub"}),
    "over 4 KB": token_of(ES, {**FULL, "groups": ["a-group-of-the-directory"] * 200}),
    "iat at the leeway": token_of(ES, {**FULL, "iat": NOW + 5}),
    "expired within the leeway": token_of(ES, {**FULL, "iat": NOW - 100, "exp": NOW - 4}),
}


@pytest.mark.parametrize("token", LET_THROUGH.values(), ids=LET_THROUGH.keys())
def test_what_issuers_write_is_let_through(token: str, server: JwksServer, clock: Clock) -> None:
    assert verify(issuers_at(server, clock), token)["iss"] == ISS


REFUSED: dict[str, tuple[str, str]] = {
    "alg none": (forge({**HEADER, "alg": "none"}, FULL, lambda _: b""), "alg"),
    "alg list": (token_of(ES, alg=["ES256"]), "alg"),
    "alg missing": (forge({"kid": "es"}, FULL, ES.sign), "alg"),
    "alg of another key": (token_of(ES, alg="RS256"), "alg"),
    "HS256 with the PEM": (
        forge({"alg": "HS256", "kid": "rs"}, FULL, hs256(public_pem(private_key("RS256")))),
        "alg",
    ),
    "HS256 with the DER": (
        forge({"alg": "HS256", "kid": "rs"}, FULL, hs256(public_der(private_key("RS256")))),
        "alg",
    ),
    "HS256 with the JWK": (forge({"alg": "HS256", "kid": "rs"}, FULL, hs256(json.dumps(RS.public_jwk))), "alg"),
    "RS256 with an HMAC": (forge({"alg": "RS256", "kid": "rs"}, FULL, hs256(SECRET)), "signature"),
    "kid missing": (forge({"alg": "ES256"}, FULL, ES.sign), "kid"),
    "kid empty": (token_of(ES, kid=""), "kid"),
    "kid int": (token_of(ES, kid=1), "kid"),
    "kid unknown": (token_of(ES, kid="../../etc/passwd"), "kid"),
    "kid of another key": (token_of(NEW, kid="es"), "signature"),
    "jwk": (token_of(NEW, kid="es", jwk=dict(NEW.public_jwk or {})), "brings its own"),
    "jku": (token_of(ES, jku="https://evil.example"), "brings its own"),
    "x5u": (token_of(ES, x5u="https://evil.example"), "brings its own"),
    "x5c": (token_of(ES, x5c=[]), "brings its own"),
    "crit": (token_of(ES, crit=["exp"]), "brings its own"),
    "b64": (token_of(ES, b64=False), "brings its own"),
    "zip": (token_of(ES, zip="DEF"), "brings its own"),
    "typ id_token": (token_of(ES, typ="id+jwt"), "typ"),
    "typ logout token": (token_of(ES, typ="logout+jwt"), "typ"),
    "typ refresh token": (token_of(ES, typ="rt+jwt"), "typ"),
    "typ null": (token_of(ES, typ=None), "typ"),
    "kid twice": (forge(b'{"alg":"ES256","kid":"x","kid":"es"}', FULL, ES.sign), "twice"),
    "header UTF-16": (forge(json.dumps(HEADER).encode("utf-16"), FULL, ES.sign), "header"),
    "exp missing": (token_of(ES, {k: v for k, v in FULL.items() if k != "exp"}), "exp"),
    "exp past": (token_of(ES, {**FULL, "iat": NOW - 100, "exp": NOW - 5}), "expired"),
    "exp float": (token_of(ES, {**FULL, "exp": NOW + 60.5}), "exp"),
    "exp string": (token_of(ES, {**FULL, "exp": str(NOW + 60)}), "exp"),
    "exp true": (token_of(ES, {"iss": ISS, "aud": API, "exp": True}), "exp: whole seconds"),
    "lifetime over the maximum": (token_of(ES, {**FULL, "exp": NOW + 3601}), "lives longer"),
    "lifetime over the maximum, no iat": (token_of(ES, {"iss": ISS, "aud": API, "exp": NOW + 3601}), "lives longer"),
    "iat in the future": (token_of(ES, {**FULL, "iat": NOW + 6}), "future"),
    "iat null": (token_of(ES, {**FULL, "iat": None}), "iat"),
    "iat 0": (token_of(ES, {**FULL, "iat": 0}), "iat"),
    "nbf in the future": (token_of(ES, {**FULL, "nbf": NOW + 6}), "not valid yet"),
    "iss with more": (token_of(ES, {**FULL, "iss": ISS + "x"}), "iss"),
    "aud missing": (token_of(ES, {k: v for k, v in FULL.items() if k != "aud"}), "aud"),
    "aud of another": (token_of(ES, {**FULL, "aud": "https://other.example"}), "aud"),
    "aud prefix": (token_of(ES, {**FULL, "aud": API[:-1]}), "aud"),
    "aud list without us": (token_of(ES, {**FULL, "aud": [API + "/x"]}), "aud"),
    "aud list with a number": (token_of(ES, {**FULL, "aud": [API, 1]}), "aud"),
    "aud empty list": (token_of(ES, {**FULL, "aud": []}), "aud"),
    "aud object": (token_of(ES, {**FULL, "aud": {API: 1}}), "aud"),
    "trailing =": (token_of(RS) + "==", "base64url"),
    "signature missing": (token_of(ES).rpartition(".")[0] + ".", "signature"),
    "five segments": (token_of(ES) + ".a.b", "three"),
    "16 KB": (token_of(ES, {**FULL, "filler": "x" * 16_000}), "too long"),
    "nested": (forge(HEADER, json.dumps(FULL).replace('"acme"', "[" * 50 + "]" * 50).encode(), ES.sign), "nested"),
} | {f"sub {name}": (token_of(ES, {**FULL, "sub": sub}), "sub|JSON") for name, sub in UNSEEN.items()}


@pytest.mark.parametrize(("token", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_foreign_token_is_refused_for_its_reason(token: str, reason: str, server: JwksServer, clock: Clock) -> None:
    with pytest.raises(InvalidToken) as caught:
        verify(issuers_at(server, clock), token)
    assert any(each in str(caught.value) for each in reason.split("|"))
    assert caught.value.__cause__ is None
    assert not any(word in str(caught.value) for word in ("user-1", "acme", "evil", "passwd", "example"))
    assert server.fetches <= 1


def test_an_issuer_may_be_held_to_one_algorithm(server: JwksServer, clock: Clock) -> None:
    issuers = issuers_at(server, clock, algorithms=["RS256"])
    assert verify(issuers, token_of(RS)) == FULL
    with pytest.raises(InvalidToken, match="alg"):
        verify(issuers, token_of(ES))


@pytest.mark.parametrize("typ", ["JWT", None])
def test_access_tokens_only_refuses_an_id_token(typ: str | None, server: JwksServer, clock: Clock) -> None:
    issuers = issuers_at(server, clock, access_tokens_only=True)
    assert verify(issuers, token_of(ES)) == FULL
    header = {k: v for k, v in {**HEADER, "typ": typ}.items() if v is not None}
    with pytest.raises(InvalidToken, match="typ"):
        verify(issuers, forge(header, FULL, ES.sign))


SEGMENTS = st.binary(max_size=40).map(b64) | st.binary(max_size=40) | st.sampled_from(token_of(ED).encode().split(b"."))


@given(st.binary(max_size=200) | st.text(max_size=200) | st.lists(SEGMENTS, min_size=3, max_size=3).map(b".".join))
@settings(max_examples=150, deadline=None)
def test_bytes_of_any_kind_are_refused_and_nothing_worse(token: bytes | str) -> None:
    issuers = ForeignIssuers([Issuer(ISS, audience=API)], clock=Clock())
    issuers._issuers[ISS][1]._keys = read_set(jwks(ED), algorithms=PAIRS)
    issuers._issuers[ISS][1]._fetched = issuers._issuers[ISS][1]._tried = 0.0
    issuers._issuers[ISS][1]._trouble = None
    issuers.knows(token)
    try:
        assert verify(issuers, token) == FULL
    except InvalidToken:
        return
    assert token == token_of(ED).encode()


# --- how often keys are fetched


@backends
def test_a_flood_of_unknown_kids_fetches_once_per_interval(backend: str, server: JwksServer, clock: Clock) -> None:
    issuers = issuers_at(server, clock)

    async def refused(number: int) -> None:
        with pytest.raises(InvalidToken, match="kid"):
            await issuers.verify(token_of(ES, kid=f"made-up-{number}"), now=NOW)

    async def flood() -> None:
        for seconds in range(3):
            clock.now = seconds * INTERVAL
            async with anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(refused, number)
            assert server.fetches == seconds + 1
        clock.now += INTERVAL - 0.1
        await refused(0)
        assert server.fetches == 3

    run(flood, backend)


@backends
def test_parallel_first_tokens_share_one_fetch(backend: str, server: JwksServer, clock: Clock) -> None:
    issuers = issuers_at(server, clock)
    server.hanging = True
    done: list[Any] = []

    async def one() -> None:
        done.append(await issuers.verify(token_of(ES), now=NOW))

    async def all_at_once() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)
            await anyio.to_thread.run_sync(server.asked.wait, 20)
            assert done == []
            server.go_on.set()

    run(all_at_once, backend)
    assert (len(done), server.fetches) == (20, 1)


def test_a_new_key_is_found_when_its_first_token_comes(server: JwksServer, clock: Clock) -> None:
    issuers = issuers_at(server, clock)
    assert verify(issuers, token_of(ES)) == FULL
    server.body = jwks(NEW)
    with pytest.raises(InvalidToken, match="kid"):
        verify(issuers, token_of(NEW))  # so soon after the last fetch nobody asks again
    clock.now = INTERVAL
    assert verify(issuers, token_of(NEW)) == FULL
    with pytest.raises(InvalidToken, match="kid"):
        verify(issuers, token_of(ES))  # its issuer took it back
    assert server.fetches == 2


def test_a_set_is_asked_for_again_when_it_is_no_longer_fresh(server: JwksServer, clock: Clock) -> None:
    issuers = issuers_at(server, clock)
    assert verify(issuers, token_of(ES)) == FULL
    clock.now = FRESH - 1
    assert verify(issuers, token_of(ES)) == FULL
    assert server.fetches == 1
    server.body = jwks()
    clock.now = FRESH
    with pytest.raises(InvalidToken, match="kid"):
        verify(issuers, token_of(ES))
    assert server.fetches == 2


# --- an issuer that is away


@backends
def test_a_stale_set_serves_while_the_issuer_is_away_for_a_bounded_time(
    backend: str, server: JwksServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    issuers = issuers_at(server, clock)
    assert verify(issuers, token_of(ES), backend=backend) == FULL
    server.status = 500
    clock.now = FRESH
    for _ in range(3):
        assert verify(issuers, token_of(ES), backend=backend) == FULL
    assert server.fetches == 2
    assert "the answer is 500" in caplog.text
    with pytest.raises(KeysUnavailable, match="500"):
        verify(issuers, token_of(NEW), backend=backend)  # it may be a key that could not be asked for
    clock.now = FRESH + STALE - 1
    assert verify(issuers, token_of(ES), backend=backend) == FULL
    clock.now = FRESH + STALE
    with pytest.raises(KeysUnavailable, match=server.url):
        verify(issuers, token_of(ES), backend=backend)
    server.status = 200
    clock.now += INTERVAL
    assert verify(issuers, token_of(ES), backend=backend) == FULL


UNUSABLE: dict[str, tuple[Callable[[JwksServer], None], str]] = {
    "404": (lambda s: setattr(s, "status", 404), "404"),
    "204": (lambda s: s.__dict__.update(status=204, body=b""), "204"),
    "no JSON": (lambda s: setattr(s, "body", b"<html>"), "no JSON"),
    "list": (lambda s: setattr(s, "body", b"[]"), "no JSON object"),
    "no keys": (lambda s: setattr(s, "body", b"{}"), "no list of keys"),
    "keys an object": (lambda s: setattr(s, "body", b'{"keys": {}}'), "no list of keys"),
    "UTF-16": (lambda s: setattr(s, "body", jwks(ES).decode().encode("utf-16")), "no JSON"),
    "nested": (lambda s: setattr(s, "body", b'{"keys": ' + b"[" * 30_000), "nested"),
    "keys twice": (lambda s: setattr(s, "body", b'{"keys": [], "keys": []}'), "twice"),
    "huge": (lambda s: setattr(s, "body", jwks(ES)[:-1] + b" " * LARGEST + b"}"), "over 65,536 bytes"),
    "kid twice": (lambda s: setattr(s, "body", jwks(ES, {**dict(NEW.public_jwk or {}), "kid": "es"})), "one kid"),
    "secret beside public keys": (
        lambda s: setattr(s, "body", jwks(ES, {"kty": "oct", "k": "AAAA", "kid": "hs"})),
        "shared secret",
    ),
    "secret alone": (lambda s: setattr(s, "body", jwks({"kty": "oct", "k": "AAAA"})), "shared secret"),
}


@pytest.mark.parametrize(("spoil", "reason"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_set_that_can_not_be_believed_is_not_used(
    spoil: Callable[[JwksServer], None], reason: str, server: JwksServer, clock: Clock
) -> None:
    issuers = issuers_at(server, clock)
    spoil(server)
    for _ in range(5):
        with pytest.raises(KeysUnavailable, match=reason):
            verify(issuers, token_of(ES))
    assert server.fetches == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, server: JwksServer, clock: Clock) -> None:
    elsewhere = JwksServer()
    try:
        issuers = issuers_at(server, clock)
        for place in (elsewhere.url, "file:///etc/passwd", "ftp://127.0.0.1/jwks"):
            server.status, server.headers = status, {"Location": place}
            clock.now += INTERVAL
            with pytest.raises(KeysUnavailable, match=f"{status}.*jwks_url"):
                verify(issuers, token_of(ES))
        assert elsewhere.fetches == 0
    finally:
        elsewhere.close()


@backends
def test_a_server_that_hangs_makes_nobody_wait_beyond_the_patience(
    backend: str, server: JwksServer, clock: Clock
) -> None:
    issuers = issuers_at(server, clock, patience=0.05)
    server.hanging = True
    for _ in range(3):
        with pytest.raises(KeysUnavailable, match=r"within 0\.05 s|there is no answer"):
            verify(issuers, token_of(ES), backend=backend)
    assert server.fetches == 1


def test_a_body_that_never_ends_is_given_up(server: JwksServer) -> None:
    server.dripping = True
    with pytest.raises(KeysUnavailable, match=r"did not end within 0\.2 s"):
        fetch(server.url, patience=0.2)


def test_a_thread_that_still_hangs_is_not_joined_by_another(server: JwksServer, clock: Clock) -> None:
    issuers = issuers_at(server, clock, patience=0.05)
    keys = issuers._issuers[ISS][1]
    keys._reading = True  # as a fetch that was given up leaves it, until its thread ends
    with pytest.raises(KeysUnavailable, match="still hangs"):
        verify(issuers, token_of(ES))
    assert server.fetches == 0


def test_nobody_at_the_port_is_told_so(server: JwksServer, clock: Clock) -> None:
    issuers = issuers_at(server, clock)
    server.close()
    with pytest.raises(KeysUnavailable, match="there is no answer: URLError"):
        verify(issuers, token_of(ES))


@backends
def test_a_client_that_hangs_up_does_not_spoil_the_fetch_for_others(
    backend: str, server: JwksServer, clock: Clock
) -> None:
    issuers = issuers_at(server, clock)
    server.hanging = True

    async def scenario() -> None:
        async def first() -> None:
            await issuers.verify(token_of(ES), now=NOW)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await anyio.to_thread.run_sync(server.asked.wait, 20)
            tasks.cancel_scope.cancel()
            server.go_on.set()
        assert await issuers.verify(token_of(ES), now=NOW) == FULL

    run(scenario, backend)
    assert server.fetches == 1


@backends
def test_known_keys_serve_while_another_request_fetches(backend: str, server: JwksServer, clock: Clock) -> None:
    issuers = issuers_at(server, clock)

    async def scenario() -> None:
        assert await issuers.verify(token_of(ES), now=NOW) == FULL
        server.hanging = True
        server.asked.clear()
        clock.now = FRESH

        done: list[str] = []

        async def slow() -> None:
            assert await issuers.verify(token_of(ES), now=NOW) == FULL
            done.append("slow")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow)
            await anyio.to_thread.run_sync(server.asked.wait, 20)
            assert await issuers.verify(token_of(RS), now=NOW) == FULL
            assert done == []
            server.go_on.set()

    run(scenario, backend)
    assert server.fetches == 2


# --- single keys


def ec_jwk(curve: Any) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(ec.generate_private_key(curve).public_key(), as_dict=True), "kid": "es"}


def rsa_jwk(size: int) -> dict[str, Any]:
    jwk = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, size).public_key(), as_dict=True)
    return {**jwk, "kid": "rs"}


def changed(key: Key, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**(key.public_jwk or {}), **changes}.items() if value is not ...}


LEFT_OUT: dict[str, Any] = {
    "use enc": changed(ES, use="enc"),
    "use list": changed(ES, use=["sig"]),
    "key_ops without verify": changed(ES, key_ops=["encrypt"]),
    "key_ops empty": changed(ES, key_ops=[]),
    "key_ops a string": changed(ES, key_ops="verify"),
    "alg of another kind": changed(ES, alg="RS256"),
    "alg ES384": changed(ES, alg="ES384"),
    "alg none": changed(ES, alg="none"),
    "alg null": changed(ES, alg=None),
    "RSA for PSS": changed(RS, alg="PS256"),
    "RSA of 1,024 bits": rsa_jwk(1024),
    "RSA of 16,384 bits": changed(RS, n=b64(b"\xff" * 2048).decode()),
    "RSA with a long exponent": changed(RS, e=b64(b"\xff" * 256).decode()),
    "RSA with an exponent of 33 bytes": changed(RS, e=b64(b"\1" * 33).decode()),
    "RSA with exponent 1": changed(RS, e="AQ"),
    "RSA with an even modulus": changed(RS, n=b64(b"\xff" * 255 + b"\xfe").decode(), e="Ag"),
    "P-384": ec_jwk(ec.SECP384R1()),
    "secp256k1": ec_jwk(ec.SECP256K1()),
    "point off the curve": changed(ES, x=b64(b"\1" * 32).decode()),
    "coordinate cut": changed(ES, x="AAAA"),
    "coordinate missing": changed(ES, y=...),
    "coordinate a number": changed(ES, x=1),
    "coordinate no base64": changed(ES, x="!" * 43),
    "Ed448": changed(ED, crv="Ed448"),
    "X25519": changed(ED, crv="X25519"),
    "Ed25519 cut": changed(ED, x="AAAA"),
    "private key published": changed(ES, d="AAAA"),
    "kty missing": changed(ES, kty=...),
    "kty unknown": changed(ES, kty="AKP"),
    "kty list": changed(ES, kty=["EC"]),
    "kid missing": changed(ES, kid=...),
    "kid number": changed(ES, kid=1),
    "kid empty": changed(ES, kid=""),
    "no object": "key",
    "null": None,
}


@pytest.mark.parametrize("jwk", LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_a_key_that_can_not_be_used_is_left_out_and_the_others_serve(jwk: Any) -> None:
    assert read_set(jwks(jwk, NEW), algorithms=PAIRS).keys() == {"new"}


@pytest.mark.parametrize("key", [RS, ES, ED], ids=PAIRS)
def test_alg_use_and_key_ops_may_be_missing(key: Key) -> None:
    bare = changed(key, alg=..., use=...)
    assert read_set(jwks(bare, changed(NEW, key_ops=["sign", "verify"])), algorithms=PAIRS).keys() == {key.kid, "new"}


MEMBERS = st.sampled_from(["kty", "kid", "alg", "use", "key_ops", "crv", "x", "y", "n", "e"])
VALUES = st.text() | st.sampled_from(["EC", "RSA", "OKP", "P-256", "Ed25519", "sig", "AQAB", "A" * 43, "_" * 342])


@given(st.lists(st.dictionaries(MEMBERS, VALUES, max_size=8), max_size=4))
@settings(deadline=None)
def test_a_set_of_any_kind_is_read_or_refused_and_nothing_worse(keys: list[dict[str, str]]) -> None:
    try:
        read_set(jwks(*keys), algorithms=PAIRS)
    except KeysUnavailable:
        return


# --- configuration


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"iss": ""}, "iss="),
        ({"iss": 7}, "iss="),
        ({"iss": "my-issuer"}, "jwks_url is missing"),
        ({"iss": "http://login.example"}, "https"),
        ({"iss": "https://login.example?tenant=1"}, "jwks_url="),
        ({"jwks_url": "http://login.example/jwks"}, "https"),
        ({"jwks_url": "http://127.0.0.1.evil.example/jwks"}, "https"),
        ({"jwks_url": "file:///etc/passwd"}, "jwks_url="),
        ({"jwks_url": "ftp://127.0.0.1/jwks"}, "https"),
        ({"jwks_url": "https://"}, "jwks_url="),
        ({"jwks_url": "https://[::1/jwks"}, "can't be read"),
        ({"jwks_url": "https://login.example:port/jwks"}, "can't be read"),
        ({"jwks_url": "https://login.example/a b"}, "jwks_url="),
        ({"jwks_url": "https://login.example/\r\nHost: x"}, "jwks_url="),
        ({"jwks_url": ""}, "jwks_url="),
        ({"jwks_url": 7}, "not a int"),
        ({"audience": ""}, "audience="),
        ({"audience": ["a"]}, "audience="),
        ({"algorithms": ()}, "algorithms="),
        ({"algorithms": "RS256"}, "algorithms="),
        ({"algorithms": ("HS256",)}, "algorithms="),
        ({"algorithms": ("none",)}, "algorithms="),
        ({"algorithms": None}, "algorithms="),
    ],
)
def test_an_issuer_that_can_not_work_fails_when_it_is_made(settings: dict[str, Any], reason: str) -> None:
    chosen: dict[str, Any] = {"iss": ISS, "audience": API, **settings}
    with pytest.raises(ConfigurationError, match=reason):
        Issuer(chosen.pop("iss"), **chosen)


def test_a_password_in_a_url_is_refused_and_not_told() -> None:
    with pytest.raises(ConfigurationError, match="user or a password") as caught:
        Issuer(ISS, audience=API, jwks_url="https://user:hunter2@login.example/jwks")
    assert "hunter2" not in str(caught.value)


def test_what_a_query_holds_is_not_told(server: JwksServer, clock: Clock) -> None:
    issuers = ForeignIssuers([Issuer(ISS, audience=API, jwks_url=f"{server.url}/jwks?key=hunter2")], clock=clock)
    server.status = 403
    with pytest.raises(KeysUnavailable, match="403") as caught:
        verify(issuers, token_of(ES))
    assert "hunter2" not in str(caught.value)
    assert server.paths == ["/jwks?key=hunter2"]


@pytest.mark.parametrize(
    ("issuers", "settings", "reason"),
    [
        ([Issuer(ISS, audience=API), Issuer(ISS, audience="b")], {}, "two have iss="),
        (["https://login.example"], {}, "not a str"),
        ([], {"leeway": -1}, "leeway="),
        ([], {"max_lifetime": 0}, "max_lifetime="),
        ([], {"patience": 0}, "patience="),
    ],
)
def test_settings_that_can_not_work_fail_at_once(issuers: Any, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        ForeignIssuers(issuers, **settings)


def test_time_is_the_default_clock() -> None:
    assert ForeignIssuers([Issuer(ISS, audience=API)])._issuers[ISS][1]._clock is time.monotonic
