"""A session as the middleware handles it: its record comes while the request is under way, and leaves by a cookie."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from traffic_cop_middleware.abstractions.asking import answered, let_go
from traffic_cop_middleware.abstractions.session import Session
from traffic_cop_middleware.abstractions.sessions import Owner, SessionAbstraction
from traffic_cop_middleware.abstractions.verified_tokens import Verified
from traffic_cop_middleware.contracts import Loaded, SessionKey
from traffic_cop_middleware.errors import StoreError

if TYPE_CHECKING:
    from traffic_cop_middleware.abstractions.state.request_state import RequestState

log = logging.getLogger("traffic_cop")

Place = tuple[SessionKey, int]
"""Where a session's record is, and of which generation it is."""


class RequestSession(Session):
    """The handle of one request, with what the app need not see of it."""

    __slots__ = ()

    started: bool = False
    """Whether the response has."""
    failure: Exception | None = None
    """Why what the session holds could not be written."""
    held: list[MutableMapping[str, Any]] | None = None
    """An error page that is held back until it is known what became of the error."""
    state: RequestState | None = None
    """The state of its session and user, where the request has asked for that."""
    form_token: str = ""
    """What the request's form has to bring, where nothing else says that it is of this site."""

    @property
    def house(self) -> SessionAbstraction:
        """Where sessions are made and ended."""
        return self._house

    @property
    def known_id(self) -> str:
        """Its id, by the token where the record is still on its way; empty while there is no session."""
        if self.verified is not None:
            return self.verified.key.id
        return self._identity.key.id if self._identity is not None else ""

    @property
    def standing(self) -> Owner | None:
        """Whose session it is by its record, as far as that has come; looking here is no use of the session."""
        return None if self.unsettled or self._identity is None else self._identity.owner

    def expect(self, verified: Verified, asked: Loaded | Awaitable[Loaded | None] | None) -> None:
        """Somebody who is `verified` has this session if it stands, which the store was `asked`."""
        self.verified = verified
        self._asked = asked
        self.unsettled = True

    def stands_beside(self, by_cookie: Verified) -> None:
        """The cookie is of another session than the bearer token, which this one is of."""
        self._beside = by_cookie

    async def settle(self) -> None:
        """Wait for the record.

        Raises:
            StoreError: the store is away, or failed.
        """
        self._asked = await answered(self._asked)
        self.settle_at_once()

    def settle_at_once(self) -> bool:
        """Take the record, where the store has answered already; false where it has not."""
        asked, verified = self._asked, self.verified
        if verified is None or (asked is not None and type(asked) is not Loaded):
            return False
        self._asked = None
        self.unsettled = False
        self._begin(verified, asked)
        return True

    @property
    def place(self) -> Place | None:
        """Where the session's record is, by the token until it has come; `None` while there is none."""
        identity, verified = self._identity, self.verified
        if identity is not None and identity.secret:
            return identity.key, identity.generation
        if identity is None and verified is not None and not verified.issuer:
            return verified.key, verified.generation
        return None

    def on_move(self, moved: Callable[[], None] | None) -> None:
        """Call `moved` when `place` may be another one."""
        self._moved = moved

    async def stands(self, place: Place, *, used: bool) -> bool:
        """Whether a session is still there; where that can't be asked it is, until it can. A use keeps it alive."""
        (key, generation), store, policy = place, self._house.store, self._house.policy
        try:
            if used:
                touched = store.merge(key, {}, generation=generation, idle=policy.idle, most=policy.size)
                return await answered(touched) is not None
            return await answered(store.load(key, generation=generation)) is not None
        except StoreError:
            return True

    def abandon(self) -> None:
        """Nobody will settle this any more."""
        if self.unsettled:
            asked, self._asked = self._asked, None
            let_go(asked)
        if self.state is not None:
            self.state.abandon()

    def bar(self, barred: Callable[[], None]) -> None:
        """Call `barred` before a login: it raises where this request must not log anybody in."""
        self._barred = barred

    def at_rest(self) -> bool:
        """Whether there is nothing to write, and no cookie to set. What there is to write is kept for `commit`.

        Raises:
            TypeError, ValueError: something in it is no JSON.
        """
        if self._touch or self._outgoing or self._next_secret:
            return False
        if self.state is not None and self.state.changed:
            return False
        if self.unsettled or not self._filled:
            return True
        self._found = self._changes()
        return not self._found

    async def commit(self) -> None:
        """Write what `at_rest` found, or what there is; and tell of a use."""
        found, self._found = self._found, None
        if not self.unsettled:
            await self._save(found if found is not None else self._changes())
        if self.state is not None:
            await self.state.commit()

    @property
    def lasts(self) -> float:
        """Seconds until it ends in any case."""
        return max(1.0, self._left)

    @property
    def cookie_age(self) -> int:
        """For how many seconds the browser is to keep the cookie."""
        return max(1, int(min(self._house.policy.idle, self._left)))

    def tell_unsaved(self) -> None:
        """The response is out: what was changed since it started is told as lost, unless `save` was called."""
        changes = self._changes()
        if self.state is not None and self.state.changed:
            log.warning(
                "state was changed after the response had started, and that is lost: call await state.user.save() then"
            )
            self._house.emit("state.write_dropped", {"session": self.id})
        if changes:
            log.warning(
                "a session was changed after the response had started, and that is lost: call await session.save() then"
            )
            self._house.emit("session.write_dropped", {"session": self.id, "kind": "late", "keys": len(changes)})

    def cookie_token(self) -> str | None:
        """The token for the cookie; `None` while there is no session."""
        identity = self._identity
        return self._house.cookie_token(identity, left=self._left) if identity is not None else None

    def take_outgoing(self) -> str:
        """What is to happen to the client's cookie: "set", "clear", or "" for nothing; asked once."""
        outgoing, self._outgoing = self._outgoing, ""
        return outgoing

    def clear_cookie(self) -> None:
        """What the client has is no use to it."""
        self.accessed = True
        self._outgoing = "clear"
