"""Sessions: who is logged in, by a signed token, with a record that can be taken back.

The client carries a token: a session's secret id and its owner, signed. The store has a record under the *hash* of that
id. A request is logged in when the token is genuine and the record still stands, in the generation that the token
names: so logging out works at once, and nobody chooses a session's id but this app.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

from traffic_cop_middleware.abstractions.asking import answered, aside, let_go
from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.session_owners import SessionOwners
from traffic_cop_middleware.abstractions.session_policy import SessionPolicy
from traffic_cop_middleware.abstractions.subjects import subject_of
from traffic_cop_middleware.abstractions.verified_tokens import Verified, VerifiedTokens
from traffic_cop_middleware.contracts import (
    ForeignTokens,
    Loaded,
    SessionKey,
    SessionRouteStore,
    SessionStore,
    TokenCodec,
)
from traffic_cop_middleware.errors import InvalidToken, TooManySessions

if TYPE_CHECKING:
    from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction

COOKIE, ACCESS, REFRESH, IDENTITY = "session+jwt", "at+jwt", "rt+jwt", "identity+jwt"
"""The types of tokens (`typ`, RFC 8725, section 3.11): none is taken for another."""

RESERVED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "gen", "rot"})
TOPIC = "sessions"
IDENTITY_LIFETIME = 60
"""Seconds that a token for an upstream is good."""

Emit = Callable[[str, Mapping[str, Any]], None]
Publish = Callable[[Mapping[str, Any]], Awaitable[None]]


class Tokens(NamedTuple):
    """What a client without cookies keeps, as OAuth 2.0 names it (RFC 6749, section 5.1). `expires_in` is seconds."""

    access_token: str
    refresh_token: str
    expires_in: int
    token_type: str = "Bearer"  # noqa: S105 - the name of a scheme


class Owner(NamedTuple):
    """What a record says of its session: `meta` in the store.

    `since` and `authenticated` are seconds since the epoch by the clock of the worker that wrote them.
    """

    subject: str | None
    claims: Mapping[str, Any]
    attributes: Mapping[str, Any]
    since: int
    authenticated: int

    @property
    def kind(self) -> str:
        return "anonymous" if self.subject is None else "user"

    def text(self) -> str:
        return dumps(list(self))


def owner_from(meta: str) -> Owner | None:
    """What `Owner.text` wrote; `None` for anything else."""
    try:
        owner = Owner(*loads(meta))
    except (TypeError, ValueError):
        return None
    if not isinstance(owner.claims, dict) or not isinstance(owner.attributes, dict):
        return None
    return owner if isinstance(owner.since, int) and isinstance(owner.authenticated, int) else None


class SessionAbstraction:
    """Makes, verifies and ends sessions. `clock` gives seconds since the epoch, for the tokens' times.

    `publish` tells the other workers of what ended. Every method that asks the store raises `StoreUnavailable` while it
    is away: nobody is ever taken for logged in because it can't be asked.
    """

    def __init__(
        self,
        store: SessionStore,
        codec: TokenCodec,
        *,
        policy: SessionPolicy,
        emit: Emit,
        publish: Publish,
        clock: Callable[[], float],
        foreign: ForeignTokens | None = None,
        routes: SessionRouteStore | None = None,
    ) -> None:
        self.store = store
        self.codec = codec
        self.policy = policy
        self.emit = emit
        self.foreign = foreign
        self.clock = clock
        self.publish = publish
        self.state: StateManagementAbstraction | None = None
        """Where the state of sessions and users is, if the backend keeps state."""
        self.owners = SessionOwners(routes, ttl=policy.idle)
        self._verified = VerifiedTokens(codec, clock=clock, place=key_of)

    # Tokens

    def known(self, token: bytes, *, typ: str) -> Verified:
        """Who a token of ours says it is of, and where the record would be; its signature is checked, no store asked.

        Raises:
            InvalidToken: it is not ours, not of this type, or not valid now.
        """
        return self._verified.verify(token, typ=typ)

    async def verify(self, token: str | bytes) -> Verified:
        """Who an access token is of, if its session stands; one round trip.

        Tokens of other issuers are verified by their keys; there is no record of those.

        Raises:
            InvalidToken: it is not valid, or was revoked.
            KeysUnavailable: the issuer's keys can't be had.
        """
        raw = _bytes_of(token)
        if self.foreign is not None and self.foreign.knows(raw):
            return await self.verify_foreign(raw)
        verified = self.known(raw, typ=ACCESS)
        if await answered(self.store.load(verified.key, generation=verified.generation)) is None:
            raise InvalidToken("the session of this token has ended")
        return verified

    async def verify_foreign(self, token: bytes) -> Verified:
        """Who a token of another issuer is of.

        Raises:
            InvalidToken: it is not valid.
            KeysUnavailable: the issuer's keys can't be had.
        """
        if self.foreign is None:
            raise InvalidToken("no other issuers are known here")
        claims = await self.foreign.verify(token, now=self.clock())
        subject = claims.get("sub")
        if not isinstance(subject, str):
            raise InvalidToken("the token names no subject")
        key = SessionKey(subject_of("user", f"{claims['iss']}|{subject}"), "")
        own = {name: value for name, value in claims.items() if name not in RESERVED}
        return Verified(subject=subject, claims=own, key=key, expires=claims["exp"], issuer=str(claims["iss"]))

    def cookie_token(self, session: Identity, *, left: float) -> str:
        """A token for the session cookie; it lives as long as the idle period, `left` seconds at most."""
        now = int(self.clock())
        claims = self._claims(session, now, now + max(1, int(min(self.policy.idle, left))))
        return self.codec.sign({**session.owner.claims, **claims}, typ=COOKIE)

    def tokens(self, session: Identity, *, rotation: int = 0, left: float) -> Tokens:
        """Tokens for a client without cookies. `left` is the seconds until the session ends in any case.

        A refresh token tells the same whenever it is made, so that two that are asked for at once are equal.
        """
        now = int(self.clock())
        expires_in = max(1, int(min(self.policy.access, left)))
        access = self.codec.sign({**session.owner.claims, **self._claims(session, now, now + expires_in)}, typ=ACCESS)
        since = session.owner.since
        ends = since + int(self.policy.lifetime)
        refresh = self.codec.sign({**self._claims(session, since, ends), "rot": rotation}, typ=REFRESH)
        return Tokens(access, refresh, expires_in)

    def identity_token(self, subject: str, claims: Mapping[str, Any]) -> str:
        """A token that tells an upstream who is logged in, good for a minute; verified by the public keys."""
        now = int(self.clock())
        own = {name: value for name, value in claims.items() if name not in RESERVED}
        return self.codec.sign({**own, "sub": subject, "iat": now, "exp": now + IDENTITY_LIFETIME}, typ=IDENTITY)

    @staticmethod
    def _claims(session: Identity, issued: int, expires: int) -> dict[str, Any]:
        claims: dict[str, Any] = {"sid": session.secret, "gen": session.generation, "iat": issued, "exp": expires}
        if session.owner.subject is not None:
            claims["sub"] = session.owner.subject
        return claims

    # Records

    def new_owner(
        self, subject: str | None, claims: Mapping[str, Any] | None = None, attributes: Mapping[str, Any] | None = None
    ) -> Owner:
        """An owner as of now.

        Raises:
            TypeError, ValueError: the subject or the claims can't stand in a token, or the attributes are no JSON.
        """
        claims = deepcopy(dict(claims or {}))
        taken = sorted(RESERVED & claims.keys())
        if taken:
            raise ValueError(f"claims: {', '.join(taken)} is set by the session itself. Choose other names")
        now = int(self.clock())
        owner = Owner(subject, claims, deepcopy(dict(attributes or {})), now, now)
        trial = Identity("", SessionKey("", ""), 0, owner)
        self.codec.sign({**claims, **self._claims(trial._replace(secret="0" * 32), now, now + 1)}, typ=COOKIE)
        owner.text()
        return owner

    def identity(self, verified: Verified, meta: str) -> Identity | None:
        """The session of a genuine token, and what its record says of it; `None` where the two don't fit."""
        known, identity = verified.known
        if known != meta:
            owner = owner_from(meta)
            identity = None
            if owner is not None and owner.subject == verified.subject:
                identity = Identity(verified.secret, verified.key, verified.generation, owner)
            verified.known = meta, identity
        found: Identity | None = identity
        return found

    async def create(
        self, owner: Owner, data: Mapping[str, str], *, secret: str | None = None, replaces: str | None = None
    ) -> Identity:
        """Make a session's record, under a new id that this app chose; one round trip.

        With `replaces` the owner's session of that id ends by the same operation, and counts no more.

        Raises:
            TooManySessions: the owner has as many as the limit allows, and the policy is to refuse.
            SessionTooLarge: the data is over the limit.
        """
        self.policy.check_size(data)
        secret = secret or new_secret()
        key = key_of(owner.subject, secret)
        created = await answered(
            self.store.create(
                key,
                kind=owner.kind,
                meta=owner.text(),
                data=data,
                idle=self.policy.idle,
                lifetime=self.policy.lifetime,
                limit=self.policy.limit if owner.subject is not None else None,
                end_oldest=self.policy.on_limit == "end_oldest",
                replaces=replaces,
            )
        )
        if not created.admitted:
            self.emit("session.refused", {"kind": owner.kind, "limit": self.policy.limit})
            raise TooManySessions(
                f"this user has {self.policy.limit} sessions already, and no more are allowed. End one first"
            )
        former = [replaces] if created.replaced else []
        await self._told(owner, key, {"displaced": created.ended, "login": former})
        return Identity(secret, key, created.generation, owner)

    async def _told(self, owner: Owner, key: SessionKey, ended: Mapping[str, Any]) -> None:
        """Tell of a new session, and of those that it ended, by reason."""
        counts = {f"created.{owner.kind}": 1}
        self.emit("session.created", {"session": key.id, "kind": owner.kind})
        for reason, ids in ended.items():
            if ids:
                counts[f"ended.{reason}"] = len(ids)
                await self.tell_ended(owner.kind, ids, reason)
        await self.count(counts)

    async def move(self, session: Identity, owner: Owner) -> Identity | None:
        """Give a session of a user's a new id; the old one is dead. `None` where it does not exist any more."""
        secret = new_secret()
        key = key_of(owner.subject, secret)
        moved = await answered(
            self.store.move(session.key, key, meta=owner.text(), generation=session.generation, idle=self.policy.idle)
        )
        if not moved:
            return None
        self.emit("session.regenerated", {"session": key.id, "former": session.key.id, "kind": owner.kind})
        await self.publish({"ids": [session.key.id]})
        return Identity(secret, key, session.generation, owner)

    async def end(self, key: SessionKey, kind: str, reason: str) -> bool:
        """End one session; whether there was one."""
        ended = await answered(self.store.end(key))
        if ended:
            await self.tell_ended(kind, [key.id], reason)
            await self.count({f"ended.{reason}": 1})
        return ended

    async def count(self, counts: Mapping[str, int]) -> None:
        """Count what happened, for the figures."""
        await aside(lambda: self.store.tally(counts))

    async def tell_ended(self, kind: str, ids: Any, reason: str) -> None:
        """Tell of sessions that were ended, here and to the other workers."""
        for id in ids:
            self.emit("session.revoked", {"session": id, "kind": kind, "reason": reason})
            await self.owners.end(id)
        await self.publish({"ids": list(ids)})

    async def refresh(self, token: str | bytes) -> tuple[Tokens, Verified, Loaded]:
        """New tokens for a refresh token, which is spent by that; one round trip.

        The same token once more within the grace (a retry, another tab) gets the same successor; a spent one ends the
        session, for somebody has it who should not (RFC 9700, section 4.14.2).

        Raises:
            InvalidToken: it is not valid, was spent, or its session has ended.
        """
        verified = self.known(_bytes_of(token), typ=REFRESH)
        asked = self.store.rotate(
            verified.key,
            verified.rotation,
            grace=self.policy.grace,
            generation=verified.generation,
            idle=self.policy.idle,
        )
        loading = self.store.load(verified.key, generation=verified.generation)
        try:
            rotated, loaded = await answered(asked), await answered(loading)
        finally:
            let_go(loading)
        if rotated.outcome == "reused":
            self.emit("session.reuse_detected", {"session": verified.key.id, "kind": "user"})
            await self.tell_ended("user", [verified.key.id], "reuse")
            await self.count({"ended.reuse": 1})
            raise InvalidToken("this refresh token was used before: the session has ended. Log in again")
        session = self.identity(verified, loaded.meta) if loaded is not None else None
        if rotated.outcome == "gone" or loaded is None or session is None:
            raise InvalidToken("the session of this token has ended")
        kind = session.owner.kind
        self.emit("session.refreshed", {"session": verified.key.id, "kind": kind, "how": rotated.outcome})
        return self.tokens(session, rotation=rotated.rotation, left=loaded.left), verified, loaded


class Identity(NamedTuple):
    """A session that exists: its secret id, where its record is, of which generation, and whose it is."""

    secret: str
    key: SessionKey
    generation: int
    owner: Owner


def _bytes_of(token: str | bytes) -> bytes:
    try:
        return token.encode() if isinstance(token, str) else token
    except UnicodeEncodeError as exc:
        raise InvalidToken("the token is no text") from exc


def new_secret() -> str:
    """A session's secret id: 192 bits (OWASP ASVS 5.0, 7.2.3 asks for 128)."""
    return secrets.token_urlsafe(24)


def key_of(subject: str | None, secret: str) -> SessionKey:
    """Where the record of a session is."""
    id = hashlib.sha256(secret.encode()).hexdigest()[:32]
    return SessionKey(id if subject is None else subject_of("user", subject), id)
