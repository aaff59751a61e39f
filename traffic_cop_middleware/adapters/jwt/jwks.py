"""JWK Sets of other issuers (RFC 7517): read strictly, fetched seldom.

Theory of operation. A set is fresh for ten minutes. A `kid` that is not in it, or a set that is no longer fresh, makes
one request fetch it, while the others go on with what is known; between the starts of two fetches lie at least ten
seconds, whatever the clients send. Where a fetch fails, the old set serves for one hour more.

Invariant: a set is replaced as a whole or not at all, and only by an answer that was read to its end.
"""

from __future__ import annotations

import binascii
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from cryptography.exceptions import UnsupportedAlgorithm
from jwt.exceptions import PyJWTError

from traffic_cop_middleware.adapters.jwt.algorithms import ASYMMETRIC
from traffic_cop_middleware.adapters.jwt.fetch import fetch
from traffic_cop_middleware.adapters.jwt.strict import parse_object
from traffic_cop_middleware.errors import InvalidToken, KeysUnavailable
from traffic_cop_middleware.loops import Signal

__all__ = ["PublishedKey", "PublishedKeys", "read_set"]

log = logging.getLogger("traffic_cop")

FRESH = 600.0
"""Seconds that a set is used without asking again."""
STALE = 3600.0
"""Seconds that it is used beyond that while it can't be had anew."""
INTERVAL = 10.0
"""Seconds between the starts of two fetches, at least."""
LONGEST_MEMBER = 1400
"""Characters of one member of a key: a modulus of 8,192 bits has 1,366."""
LONGEST_EXPONENT = 11
"""Characters: 64 bits. A long public exponent only makes each check slow."""


@dataclass(frozen=True, slots=True, eq=False)
class PublishedKey:
    """A public key of an issuer; `verify(message, signature)` says whether the second is a signature of the first."""

    algorithm: str
    verify: Callable[[bytes, bytes], bool]


def read_set(data: bytes, *, algorithms: Sequence[str]) -> dict[str, PublishedKey]:
    """The keys of a JWK Set that sign tokens by one of `algorithms`, by `kid`. Keys for other purposes are left out.

    Raises:
        KeysUnavailable: the set can't be believed: it is no strict JSON, two keys have one `kid`, or a secret is in it.
    """
    try:
        listed = parse_object(data, "JWK Set").get("keys")
    except InvalidToken as exc:
        raise KeysUnavailable(f"the JWK Set can't be read: {exc}") from None
    if not isinstance(listed, list):
        raise KeysUnavailable("the JWK Set has no list of keys")
    found: dict[str, PublishedKey] = {}
    seen: set[str] = set()
    for jwk in listed:
        if not isinstance(jwk, dict):
            continue
        if jwk.get("kty") == "oct" or "k" in jwk:
            # A published secret is none, and beside public keys it invites RS256 to be taken for HS256 (RFC 8725, 2.1).
            raise KeysUnavailable("the JWK Set holds a shared secret (kty oct)")
        kid = jwk.get("kid")
        if not isinstance(kid, str) or not kid:
            continue
        if kid in seen:
            raise KeysUnavailable("two keys of the JWK Set have one kid")
        seen.add(kid)
        key = _read_key(jwk, algorithms)
        if key is not None:
            found[kid] = key
    return found


def _read_key(jwk: Mapping[str, Any], algorithms: Sequence[str]) -> PublishedKey | None:
    """A key for signatures of one of the algorithms; `None` for any other, and for one that is weak or broken."""
    algorithm = next((name for name, pairs in ASYMMETRIC.items() if pairs.kty == jwk.get("kty")), None)
    if algorithm is None or algorithm not in algorithms or jwk.get("alg", algorithm) != algorithm:
        return None
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    if "d" in jwk:  # the private half is out: anyone may sign with it
        return None
    pairs = ASYMMETRIC[algorithm]
    members = {member: jwk.get(member) for member in pairs.members}
    for member, value in members.items():
        most = LONGEST_EXPONENT if member == "e" else LONGEST_MEMBER
        if not isinstance(value, str) or not 0 < len(value) <= most:
            return None
    crypto = pairs.crypto
    try:
        public = crypto.from_jwk(members)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, binascii.Error):
        return None
    if pairs.fault_of(public) is not None:
        return None
    return PublishedKey(algorithm, lambda message, signature: crypto.verify(message, public, signature))


class PublishedKeys:
    """The keys that one issuer publishes at `url`, for the event loops of this process (asyncio or trio).

    `clock` gives seconds that never go back; `patience` is how many a fetch may take.
    """

    def __init__(self, url: str, *, algorithms: Sequence[str], clock: Callable[[], float], patience: float) -> None:
        self._url = url
        self._shown = url.partition("?")[0]  # a query may hold a password
        self._algorithms = algorithms
        self._clock = clock
        self._patience = patience
        self._keys: Mapping[str, PublishedKey] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._trouble: str | None = "not fetched yet"
        self._fetching: Signal | None = None
        self._reading = False

    async def find(self, kid: str) -> PublishedKey:
        """The key of this name. One round trip where it is not known, or no longer fresh; none otherwise.

        Raises:
            InvalidToken: the issuer has no such key.
            KeysUnavailable: its keys can't be had at present.
        """
        if kid not in self._keys or not self._younger_than(FRESH):
            if self._fetching is None:
                if self._tried is None or self._clock() - self._tried >= INTERVAL:
                    await self._refresh()
            elif kid not in self._keys or not self._younger_than(FRESH + STALE):
                await self._fetching.wait()
        if not self._younger_than(FRESH + STALE):
            raise KeysUnavailable(f"the keys at {self._shown} can't be had: {self._trouble}")
        key = self._keys.get(kid)
        if key is not None:
            return key
        if self._trouble is not None:
            raise KeysUnavailable(f"the keys at {self._shown} can't be had anew: {self._trouble}")
        raise InvalidToken("kid: the issuer has no key of this name")

    def _younger_than(self, age: float) -> bool:
        return self._fetched is not None and self._clock() - self._fetched < age

    async def _refresh(self) -> None:
        """Fetch the set; failing that, leave everything as it is, and `_trouble` says why."""
        self._tried = self._clock()
        fetching = self._fetching = Signal()
        try:
            self._keys = await self._fetch()
        except KeysUnavailable as exc:
            self._trouble = str(exc)
            log.warning(
                "the keys at %s can't be had: %s. Asking again in %g s at the earliest", self._shown, exc, INTERVAL
            )
        else:
            self._fetched = self._tried
            self._trouble = None
            if not self._keys:
                log.warning("no key at %s is one for %s: all its tokens are refused", self._shown, self._algorithms)
        finally:
            self._fetching = None
            fetching.set()

    async def _fetch(self) -> dict[str, PublishedKey]:
        if self._reading:
            raise KeysUnavailable("the fetch before still hangs")
        # Shielded: a client that hangs up while its request fetches must not spoil the fetch for the others. The
        # thread is not counted against the app's own threads, and there is one per issuer at most.
        with anyio.move_on_after(self._patience, shield=True):
            return await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
        raise KeysUnavailable(f"no answer within {self._patience:g} s")

    def _read(self) -> dict[str, PublishedKey]:
        """In a thread."""
        self._reading = True
        try:
            return read_set(fetch(self._url, patience=self._patience), algorithms=self._algorithms)
        finally:
            self._reading = False
