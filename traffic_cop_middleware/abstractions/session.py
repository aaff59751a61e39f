"""One request's session: a mapping that remembers, and a handle to log in and out by.

It is a real `dict`, so that code written for `request.session` works as it is. What the record holds is decoded when
the mapping is first looked at, and compared when the response starts: so nested changes are seen, and a request that
never looks pays for neither.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, overload

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.lazy_mapping import NO_TEXTS, LazyMapping
from traffic_cop_middleware.abstractions.session_owners import Routes
from traffic_cop_middleware.abstractions.sessions import (
    COOKIE,
    Identity,
    Owner,
    SessionAbstraction,
    Tokens,
    new_secret,
)
from traffic_cop_middleware.abstractions.verified_tokens import Verified
from traffic_cop_middleware.contracts import Loaded, SessionKey
from traffic_cop_middleware.errors import InvalidToken, NoRecord, StoreError

log = logging.getLogger("traffic_cop")

NOBODY = Identity("", SessionKey("", ""), 0, Owner(None, {}, {}, 0, 0))
UPDATE_TRIES = 64
TOUCH_AFTER = 0.25
"""The part of the idle period after which a use is worth a write."""


class Session(LazyMapping):
    """What is known of this client, and the handle to change it: anonymous until `await session.login(subject)`.

    As a mapping it holds what the app keeps for the client: string keys, JSON values, changed as any dict; what was
    changed is written when the response starts. Two requests that change different keys both keep their change; for one
    key that several change at once there are `incr` and `update`.
    """

    # What nearly every request sets stands in slots; the rest costs nothing until it is set.
    __slots__ = ("__dict__", "_house", "_identity", "_outgoing", "_touch", "verified")

    _asked: Any = None
    _beside: Verified | None = None
    _barred: Callable[[], None] | None = None
    _found: dict[str, str | None] | None = None
    _left: float = 0.0
    _moved: Callable[[], None] | None = None
    _next_secret: str = ""
    moving: bool = False
    """Whether it is getting another id: that the old one ends is its own doing then."""

    def __init__(self, house: SessionAbstraction) -> None:
        self._texts = NO_TEXTS
        self._filled = self.unsettled = self.accessed = self._touch = False
        self._house = house
        self._identity: Identity | None = None
        self._outgoing = ""
        self.verified: Verified | None = None

    # Whose it is

    @property
    def subject(self) -> str | None:
        """Who is logged in; `None` for an anonymous client. While the record is on its way: who the token says."""
        if self.unsettled and self.verified is not None:
            return self.verified.subject
        return self._now.owner.subject

    @property
    def authenticated(self) -> bool:
        """Whether somebody is logged in."""
        return self._now.owner.subject is not None

    @property
    def claims(self) -> Mapping[str, Any]:
        """What was signed into the token at the login (`tenant`, `plan`); a copy."""
        if self.unsettled and self.verified is not None:
            return deepcopy(self.verified.claims)
        return deepcopy(self._now.owner.claims)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What the record was given at the login; a copy."""
        return deepcopy(self._now.owner.attributes)

    @property
    def since(self) -> int:
        """When it began, in seconds since the epoch; 0 while there is no session."""
        return self._now.owner.since

    @property
    def authenticated_at(self) -> int:
        """When its owner last proved who they are (`login`, `step_up`), in seconds since the epoch; 0 for nobody."""
        return self._now.owner.authenticated if self.authenticated else 0

    @property
    def id(self) -> str | None:
        """What lists and events call it, no use to a thief. `None` while there is no session."""
        return self._now.key.id or None

    @property
    def issuer(self) -> str:
        """Who signed the token, where that is another than this app; else empty."""
        return self.verified.issuer if self.verified is not None else ""

    @property
    def csrf_token(self) -> str:
        """A token for this session's forms, that other sites can't know.

        As `X-CSRF-Token` it lets a request pass that would be refused as another site's. In a form's hidden field
        `csrf_token` it is for browsers that don't say where a request comes from: checked with `session_csrf="forms"`,
        else the app's to compare (`hmac.compare_digest`). An anonymous client gets a session by this, so that the token
        can be checked when the form comes back.
        """
        secret = self._now.secret
        if not secret:
            secret = self._next_secret = self._next_secret or new_secret()
        return csrf_token_of(secret)

    @property
    def _now(self) -> Identity:
        """Whose session it is at present; `NOBODY` while there is none."""
        if self.unsettled or not self.accessed:
            self._look()
        return self._identity or NOBODY

    # Coming and going

    async def login(self, subject: str, *, claims: Mapping[str, Any] | None = None, **attributes: Any) -> Tokens:
        """Log somebody in, under a new session id; what an anonymous client had in its session goes along.

        `claims` are signed into the token, so that limits and routes see them without asking the store; `attributes`
        stay in the record. A browser gets its cookie by itself; the tokens given back are for other clients. A session
        of the same user gives way to the new one, also where they have as many as the limit allows. One round trip, two
        where there was a session of somebody else, or an anonymous one.

        Raises:
            TypeError, ValueError: the subject or claims can't stand in a token.
            TooManySessions: the user has as many as the limit allows, and the policy is to refuse.
            StoreUnavailable: the store is away; nobody is logged in.
        """
        if not isinstance(subject, str):
            raise TypeError(f"login({subject!r}): the subject is who logs in, as a string")
        former = self._now
        if self._barred is not None:
            self._barred()
        owner = self._house.new_owner(subject, claims, attributes)
        if former.owner.subject not in (None, subject):
            self.clear()
        texts = self._texts_now()
        again = former.secret and former.owner.subject == subject
        with self._moves():
            routes = self._house.owners.of(former.key.id)  # asked together with what makes the new one
            identity = await self._house.create(owner, texts, replaces=former.key.id if again else None)
            if former.secret and not again:
                await self._house.end(former.key, former.owner.kind, "login")
            if former.secret and former.owner.subject in (None, subject):
                await self._take_along(former, identity, routes)
            self._recorded(texts)
            self._left = self._house.policy.lifetime
            return self._become(identity)

    async def logout(self) -> None:
        """End this session, on all workers at once; the mapping is empty from now on. One round trip.

        Where the request brought a bearer token, and a cookie of another session of the same user, both end, in two
        round trips: the cookie is taken away, so it must not work for anybody who has a copy.

        Raises:
            StoreUnavailable: the store is away; the session stands, and the client keeps what it can end it by.
        """
        former, beside = self._now, self._beside
        if beside is not None:
            await self._house.end(beside.key, "anonymous" if beside.subject is None else "user", "logout")
        if former.secret:
            await self._house.end(former.key, former.owner.kind, "logout")
        self._forget()
        self._outgoing = "clear"

    async def regenerate(self) -> Tokens:
        """Go on under a new session id: the old one, and every token of it, is dead.

        Raises:
            InvalidToken: the session has ended meanwhile.
        """
        return await self._regenerate((await self._existing()).owner)

    async def step_up(self, **attributes: Any) -> Tokens:
        """The owner proved again who they are (a password, a second factor): `authenticated_at` is now.

        `attributes` are added to the record's. The session goes on under a new id, for its rights have changed (OWASP
        ASVS 5.0, 7.2.4).

        Raises:
            InvalidToken: nobody is logged in, or the session has ended meanwhile.
        """
        owner = self._now.owner
        if owner.subject is None:
            raise InvalidToken("nobody is logged in, so there is nothing to step up. Call login() first")
        await self._existing()
        now = int(self._house.clock())
        return await self._regenerate(owner._replace(attributes={**owner.attributes, **attributes}, authenticated=now))

    async def refresh(self, token: str | bytes) -> Tokens:
        """New tokens for a refresh token, which is spent by that; this becomes its session. One round trip.

        Raises:
            InvalidToken: it is not valid, was spent, or its session has ended.
        """
        tokens, verified, loaded = await self._house.refresh(token)
        if self.verified is not None and self.verified.typ == COOKIE and self.verified.key != verified.key:
            self._beside = self.verified
        with self._moves():
            self._forget()
            self._filled = False
            self._outgoing = ""
            self.verified = verified
            self._begin(verified, loaded)
        return tokens

    # Writing

    async def save(self) -> None:
        """Write what was changed, now: for what is changed after the response has started. One round trip.

        Raises:
            SessionTooLarge, TypeError, ValueError: it is too much, or no JSON.
            StoreUnavailable: the store is away; nothing was written.
        """
        if self.unsettled:
            self._look()
        await self._save(self._changes())

    async def _save(self, changes: Mapping[str, str | None]) -> None:
        if self._identity is None:
            if changes or self._next_secret:
                await self._existing()
            return
        if not changes:
            await self._used_now()
            return
        identity = await self._existing()
        version = await answered(self._house.store.merge(identity.key, changes, **self._terms(identity)))
        if version is None:
            self._vanished(len(changes))
            return
        self._written(changes)
        self._touch = False

    async def incr(self, key: str, amount: int = 1) -> int:
        """Add to a whole number in the record; the sum. None of several at once is lost. One round trip.

        Raises:
            TypeError: what stands there is no whole number.
            InvalidToken: the session has ended meanwhile.
        """
        if isinstance(amount, bool) or not isinstance(amount, int):
            raise TypeError(f"incr({key!r}, {amount!r}): the amount is a whole number")
        identity = await self._existing()
        total = await answered(self._house.store.add(identity.key, key, amount, **self._terms(identity)))
        if total is None:
            self._vanished(1)
            raise InvalidToken("this session has ended meanwhile")
        self._put(key, total, dumps(total))
        self._touch = False
        return total

    @overload
    def update(self, key: str, fn: Callable[[Any], Any], /) -> Awaitable[Any]: ...

    @overload
    def update(self, *others: Any, **values: Any) -> None: ...

    def update(  # pyright: ignore[reportIncompatibleMethodOverride] - the second overload takes what a dict's takes
        self, *arguments: Any, **values: Any
    ) -> Awaitable[Any] | None:
        """`await session.update(key, fn)` writes `fn` of what stands under a key by then; else a dict's `update`.

        `fn` gets the value (`None`: nothing) and gives the new one, which is the answer. It may be called again, for
        another request was faster: it only works the value out. Two round trips, and two more for each time that
        another was faster.

        Raises:
            InvalidToken: the session has ended meanwhile.
            StoreError: others were faster 64 times in a row.
        """
        if len(arguments) == 2:
            key, fn = arguments
            return self._update(key, fn)
        super().update(*arguments, **values)
        return None

    async def _update(self, key: str, fn: Callable[[Any], Any]) -> Any:
        identity = await self._existing()
        store = self._house.store
        for _ in range(UPDATE_TRIES):
            loaded = await answered(store.load(identity.key, generation=identity.generation))
            if loaded is None:
                break
            before = loaded.data.get(key)
            value = fn(self._read(key, before))
            after = dumps(value)
            swapped = await answered(store.swap(identity.key, key, before, after, **self._terms(identity)))
            if swapped:
                self._put(key, value, after)
                self._touch = False
                return value
            if swapped is None:
                break
        else:
            raise StoreError(f"update({key!r}): {UPDATE_TRIES} others were faster. Use incr, or keys of their own")
        self._vanished(1)
        raise InvalidToken("this session has ended meanwhile")

    @staticmethod
    def _read(key: str, text: str | None) -> Any:
        try:
            return loads(text) if text is not None else None
        except ValueError:
            log.warning("a session's record holds something under %r that is no JSON; it is taken for nothing", key)
            return None

    # Within

    def _begin(self, verified: Verified, loaded: Loaded | None) -> None:
        """The record came, or there is none."""
        if verified.issuer:
            owner = Owner(verified.subject, verified.claims, {}, verified.issued, verified.issued)
            self._identity = Identity("", verified.key, 0, owner)
        elif loaded is None:
            # A browser keeps its cookie: another request may have given it a new one by now, and that would be lost.
            self.verified = None
            if self._moved is not None:
                self._moved()
        else:
            identity = self._house.identity(verified, loaded.meta)
            if identity is None:
                self._unreadable(verified.key.id, "record")
                self._begin(verified, None)
                return
            self._identity = identity
            self._hold(loaded.data)
            self._left = loaded.left
            idle = self._house.policy.idle
            self._touch = loaded.idle_left < idle * (1 - TOUCH_AFTER) and loaded.idle_left < loaded.left - 1
            if verified.typ == COOKIE:
                life = idle if idle < loaded.left else loaded.left
                if verified.expires - self._house.clock() < life - idle * TOUCH_AFTER:
                    self._outgoing = "set"

    def _left_out(self, key: str) -> None:
        super()._left_out(key)
        self._unreadable(self.id or "", "data")

    def _unreadable(self, id: str, part: str) -> None:
        """Something else stands in the store than was written there."""
        self._house.emit("session.unreadable", {"session": id, "part": part})

    def _become(self, identity: Identity) -> Tokens:
        """This is the session from now on, under a token that the client does not have yet."""
        by_token = self.verified is not None and self.verified.typ != COOKIE
        self._identity = identity
        self._next_secret = ""
        self._touch = False
        if not by_token:
            self._outgoing = "set"
        return self._house.tokens(identity, left=self._left)

    async def _existing(self) -> Identity:
        """The session's record, made where there is none."""
        identity = self._now
        if identity.secret:
            return identity
        if self.issuer:
            raise NoRecord(
                f"this client is logged in by a token of {self.issuer}, and there is no record for it here: nothing "
                "can be kept in its session. Log it in (await session.login(…)) to begin one"
            )
        texts = self._texts_now()
        self._left = self._house.policy.lifetime
        with self._moves():
            identity = await self._house.create(self._house.new_owner(None), texts, secret=self._next_secret or None)
            self._recorded(texts)
            self._become(identity)
        return identity

    async def _regenerate(self, owner: Owner) -> Tokens:
        former = await self._existing()
        with self._moves():
            routes = self._house.owners.of(former.key.id)
            if owner.subject is None:  # its keys are of its own, so it can't just be renamed
                identity: Identity | None = await self._house.create(owner, self._texts_now())
                await self._house.end(former.key, owner.kind, "regenerated")
                self._left = self._house.policy.lifetime
            else:
                identity = await self._house.move(former, owner)
            if identity is None:
                self._vanished(0)
                raise InvalidToken("this session has ended meanwhile")
            await self._take_along(former, identity, routes)
            return self._become(identity)

    async def _take_along(self, former: Identity, identity: Identity, routes: Routes) -> None:
        """The session's state and owners go where the session goes."""
        await self._house.owners.take(routes, identity.key.id)
        if self._house.state is not None:
            await self._house.state.house.move_session(former, identity, ttl=self._left)

    @contextmanager
    def _moves(self) -> Iterator[None]:
        """While it gets another id; whoever watches it is told of the one that it has afterwards."""
        self.moving = True
        try:
            yield
        finally:
            self.moving = False
            if self._moved is not None:
                self._moved()

    def _terms(self, identity: Identity) -> Any:
        policy = self._house.policy
        return {"generation": identity.generation, "idle": policy.idle, "most": policy.size}

    async def _used_now(self) -> None:
        """Tell the record of a use that changed nothing, if it is time; where that fails the next use will do."""
        identity = self._identity
        if not self._touch or identity is None:
            return
        self._touch = False
        try:
            touched = await answered(self._house.store.merge(identity.key, {}, **self._terms(identity)))
        except StoreError as exc:
            log.debug("a session's use was not told: %s", exc)
            return
        if touched is None:
            self._vanished(0)

    def _forget(self) -> None:
        self.clear()
        self._recorded(NO_TEXTS)
        self._identity = None
        self._next_secret = ""
        self._touch = False

    def _vanished(self, changes: int) -> None:
        """It was ended while this request ran: what this request would have written is dropped."""
        if changes and self._identity is not None:
            told = {"session": self._identity.key.id, "kind": self._identity.owner.kind, "keys": changes}
            self._house.emit("session.write_dropped", told)
        self._forget()
        self._outgoing = ""


def csrf_token_of(secret: str) -> str:
    """A session's token against cross-site requests: only who knows its secret id can work it out."""
    return hashlib.sha256(b"csrf " + secret.encode()).hexdigest()
