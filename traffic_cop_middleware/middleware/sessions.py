"""The layer that knows whose request it is: by cookie or bearer token, with a record that can be taken back."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.abstractions.request_session import RequestSession
from traffic_cop_middleware.abstractions.session import Session, csrf_token_of
from traffic_cop_middleware.abstractions.sessions import ACCESS, COOKIE
from traffic_cop_middleware.abstractions.verified_tokens import Verified
from traffic_cop_middleware.composition.parts import FIRST_OPEN_PATIENCE, Parts
from traffic_cop_middleware.errors import (
    InvalidToken,
    KeysUnavailable,
    NobodysState,
    NoRecord,
    StateConflict,
    StoreError,
    TooManySessions,
)
from traffic_cop_middleware.middleware.context import KEY
from traffic_cop_middleware.middleware.cookies import CookieSettings, unshared
from traffic_cop_middleware.middleware.credentials import credentials
from traffic_cop_middleware.middleware.csrf import SAFE_METHODS, brings_token, from_another_site
from traffic_cop_middleware.middleware.fields import Header
from traffic_cop_middleware.middleware.form_tokens import URLENCODED, after_token, form_type
from traffic_cop_middleware.middleware.refusals import Answer, Refusal, answer_with, refuse
from traffic_cop_middleware.middleware.session_socket import run_socket

log = logging.getLogger("traffic_cop")


AWAY = answer_with(Refusal(503, (), "", 1, "Your session can't be checked at present. Try again in 1 second."))
KEYS_AWAY = answer_with(Refusal(503, (), "", 5, "The issuer of your token can't be asked for its keys at present."))
NO_TOKEN = answer_with(
    Refusal(403, (), "", 0, "Nothing says which site this form is of. Send its token, as X-CSRF-Token or csrf_token."),
    title="Cross-site request",
)
CROSS_SITE = answer_with(
    Refusal(403, (), "", 0, "Another site sent this request with this site's cookie. Send it from this site itself."),
    title="Cross-site request",
)
TWO_SUBJECTS = answer_with(
    Refusal(400, (), "", 0, "The cookie and the bearer token are of different users. Send one of them."),
    title="Two credentials",
)
TWO_TOKENS = answer_with(
    Refusal(400, (), "", 0, "The request has two bearer tokens. Send one Authorization field."),
    title="Two credentials",
)
TOO_MANY = answer_with(
    Refusal(409, (), "", 0, "This user has as many sessions as are allowed. End one of them first."),
    title="Too many sessions",
)
NOTHING_KEPT = answer_with(
    Refusal(403, (), "", 0, "Another issuer signed your token: nothing can be kept for it here. Log in here first."),
    title="Forbidden",
)
NOBODY = answer_with(
    Refusal(401, (), "", 0, "This is for somebody who is logged in. Log in first."),
    title="Unauthorized",
    fields=[(b"www-authenticate", b"Bearer")],
)
CHANGED = answer_with(
    Refusal(409, (), "", 0, "Somebody else changed this at the same time. Look at it again, and decide anew."),
    title="Conflict",
)
ENDED = answer_with(
    Refusal(401, (), "", 0, "Your session has ended, or your token is not valid. Log in again."),
    title="Unauthorized",
    fields=[(b"www-authenticate", b'Bearer error="invalid_token"')],
)


class CrossSite(Exception):
    """Another site made a browser send this request with its cookie, or a login."""


class NoFormToken(CrossSite):
    """A form that may be of another site: nothing says where it comes from, and it has no token."""


class TwoSubjects(Exception):
    """The cookie and the bearer token are of two users."""


class TwoTokens(Exception):
    """There are two bearer tokens: whoever looked at the request before us may have taken the other one."""


ANSWERS: Sequence[tuple[type[Exception], Answer]] = (
    (StoreError, AWAY),
    (KeysUnavailable, KEYS_AWAY),
    (TooManySessions, TOO_MANY),
    (NoFormToken, NO_TOKEN),
    (CrossSite, CROSS_SITE),
    (TwoSubjects, TWO_SUBJECTS),
    (TwoTokens, TWO_TOKENS),
    (NoRecord, NOTHING_KEPT),
    (NobodysState, NOBODY),
    (StateConflict, CHANGED),
    (InvalidToken, ENDED),
)
"""What a request is answered where its endpoint lets one of these pass: none of them is the app's fault, so no 500."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLayerSettings:
    """What the layer does beside the sessions themselves."""

    cookie: CookieSettings = field(default_factory=CookieSettings)
    csrf: bool = True
    form_tokens: bool = False
    trusted_origins: frozenset[str] = frozenset()


class SessionLayer:
    """Puts the session of a request into its scope, and sets the cookie when the response starts.

    Where a token came, the store is asked before the next layer of ours runs, so that what that one asks travels along;
    the last of ours waits for both. Without a token nothing is asked.
    """

    def __init__(self, app: ASGIApp, *, settings: SessionLayerSettings, parts: Parts) -> None:
        self.app = app
        self._cookie = settings.cookie
        self._name = settings.cookie.cookie.encode("ascii")
        self._csrf = settings.csrf
        self._form_tokens = settings.form_tokens
        self._trusted = settings.trusted_origins
        self._parts = parts
        self._settles = not getattr(app, "settles_sessions", False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened = self._parts.opened
        if opened is None or opened.loop is not None:
            opened = self._parts.current() or await self._parts.open(patience=FIRST_OPEN_PATIENCE)
        session = RequestSession(opened.sessions)
        scope["session"] = scope[KEY].session = session

        def send_with_session(message: Message) -> Awaitable[None]:
            return send(message) if session.started else self._start(message, session, send)

        try:
            for name, _ in scope.get("headers", ()):
                if name == b"cookie" or name == b"authorization":  # noqa: PLR1714 - on every request
                    await self._find(scope, session)
                    break
            if self._form_tokens and session.form_token:
                receive = await self._with_token(scope, receive, session)
            if self._csrf and scope.get("method") not in SAFE_METHODS:
                session.bar(lambda: self._bar_login(scope, session))
            if scope["type"] == "websocket":
                management = opened.session_management
                app = self._settled if self._settles else self.app
                await run_socket(app, scope, receive, send_with_session, session=session, management=management)
            else:
                await self.app(scope, receive, send_with_session)
            if not session.started:
                await self._finish(send, session)
        except Exception as exc:
            failure = session.failure or exc
            answer = _answer_to(failure)
            if answer is None or session.started:
                raise
            log.debug("answered %d: %s", answer.refusal.status, failure)
            await self._answer(answer, scope, receive, send, session=session)
        finally:
            if session.unsettled or session.state is not None:
                session.abandon()
        if session.accessed and session.started:
            session.tell_unsaved()

    def _start(self, message: Message, session: RequestSession, send: Send) -> Awaitable[None]:
        """The response starts; or what comes before that, or an error page that may have to give way."""
        kind = message["type"]
        if kind == "http.response.start":
            if message["status"] >= 500 and _answer_to(sys.exception()):
                session.held = [message]
                return _nothing()
        elif kind == "http.response.body":
            if session.held is not None:
                session.held.append(message)
            return _nothing()
        elif kind != "websocket.accept":
            return send(message)
        if (session.accessed or session.verified is not None) and not session.at_rest():
            return self._commit(message, session, send)
        session.started = True
        return send(self._with_fields(message, session) if session.accessed else message)

    async def _commit(self, message: Message, session: RequestSession, send: Send) -> None:
        """Write what the session holds, then let the response start; a response that failed writes nothing."""
        if session.failure is not None:
            return  # the app caught it, and tries again
        if message.get("status", 0) < 500:
            try:
                await session.commit()
            except Exception as exc:
                session.failure = exc
                raise
        session.started = True
        await send(self._with_fields(message, session))

    async def _finish(self, send: Send, session: RequestSession) -> None:
        """The app has returned, and its response is not out."""
        if session.failure is not None:
            raise session.failure  # the app caught what `send` raised, so that its response was never begun
        held, session.held = session.held, None
        if held is not None:  # the app has handled the error by itself: what it answers stands
            session.started = True
            await send(self._with_fields(held[0], session))
            for message in held[1:]:
                await send(message)

    async def _find(self, scope: Scope, session: RequestSession) -> None:
        """Find the session of a request that brings cookies or a token, as far as that can be known here."""
        cookies, bearers = credentials(scope["headers"], self._name)
        if cookies or bearers:
            self._recognise(scope, session, cookies, bearers)
            if bearers and session.house.foreign is not None:
                await self._recognise_foreign(session, bearers[0])
            if self._settles and scope["type"] != "websocket" and session.unsettled and not session.settle_at_once():
                await session.settle()

    async def _settled(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket's app, once the record has come: it is watched by then, so no end of it is missed."""
        session = scope[KEY].session
        if session.unsettled and not session.settle_at_once():
            await session.settle()
        await self.app(scope, receive, send)

    def _recognise(
        self, scope: Scope, session: RequestSession, cookies: Sequence[bytes], bearers: Sequence[bytes]
    ) -> None:
        """Find out whose tokens came, and ask for the record.

        A token that is not valid makes nobody: the request goes on as an anonymous one.

        Raises:
            CrossSite: another site made a browser send this with its cookie.
            TwoSubjects, TwoTokens: the tokens are of two users, or may be.
            StoreError: the store is away.
        """
        if len(bearers) > 1:
            raise TwoTokens
        house = session.house
        by_cookie = self._known(session, cookies[0], COOKIE) if len(cookies) == 1 else None
        if cookies and by_cookie is None:
            session.clear_cookie()
            if len(cookies) > 1:
                house.emit("session.rejected", {"reason": "the session cookie came more than once"})
        by_bearer = None
        if bearers and (house.foreign is None or not house.foreign.knows(bearers[0])):
            by_bearer = self._known(session, bearers[0], ACCESS)
        if by_cookie is not None and by_bearer is not None and by_cookie.subject != by_bearer.subject:
            raise TwoSubjects
        verified = by_bearer or by_cookie
        if verified is None:
            return
        if by_cookie is not None and by_cookie.key != verified.key:
            session.stands_beside(by_cookie)
        if (
            by_bearer is None
            and self._csrf
            and scope.get("method") not in SAFE_METHODS
            and from_another_site(scope, self._trusted)
            and not brings_token(scope, csrf_token_of(verified.secret))
        ):
            house.emit("session.rejected", {"reason": "the request came from another site"})
            raise CrossSite
        if by_bearer is None and self._form_tokens and form_type(scope):
            token = csrf_token_of(verified.secret)
            session.form_token = "" if brings_token(scope, token) else token
        session.expect(verified, house.store.load(verified.key, generation=verified.generation))

    @staticmethod
    async def _with_token(scope: Scope, receive: Receive, session: RequestSession) -> Receive:
        """The body of a form that has the session's token.

        Raises:
            NoFormToken: it has not, or is no form whose fields can be seen here.
        """
        form = await after_token(receive, session.form_token) if form_type(scope) == URLENCODED else None
        if form is None:
            session.house.emit("session.rejected", {"reason": "a form of no known site came without its token"})
            raise NoFormToken
        return form

    @staticmethod
    async def _recognise_foreign(session: RequestSession, bearer: bytes) -> None:
        """A bearer token of another issuer: there is no record of it here.

        Raises:
            KeysUnavailable: the issuer's keys can't be had.
        """
        house = session.house
        if house.foreign is not None and house.foreign.knows(bearer):
            try:
                foreign = await house.verify_foreign(bearer)
            except InvalidToken as exc:
                house.emit("session.rejected", {"reason": str(exc)})
                return
            if session.verified is not None:
                raise TwoSubjects
            session.expect(foreign, None)

    @staticmethod
    def _known(session: RequestSession, token: bytes, typ: str) -> Verified | None:
        try:
            return session.house.known(token, typ=typ)
        except InvalidToken as exc:
            session.house.emit("session.rejected", {"reason": str(exc)})
            return None

    def _bar_login(self, scope: Scope, session: RequestSession) -> None:
        """A page of another site must not log its visitors in here as somebody it chose."""
        if from_another_site(scope, self._trusted):
            raise CrossSite
        if self._form_tokens and session.verified is None and form_type(scope):
            raise NoFormToken

    def _with_fields(self, message: Message, session: RequestSession) -> Message:
        """The start of a response, with what the session has to say."""
        headers: Iterable[Header] = message.get("headers", ())
        outgoing = session.take_outgoing()
        fields = self._fields(session, outgoing)
        if outgoing:
            headers = unshared(headers)
        return {**message, "headers": [*headers, *fields]}

    async def _answer(
        self, answer: Answer, scope: Scope, receive: Receive, send: Send, *, session: RequestSession
    ) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": answer.refusal.detail[:120]})
        else:
            fields = self._fields(session, session.take_outgoing())
            await refuse(scope, receive, send, answer=answer, fields=fields, on_refusal=None)

    def _fields(self, session: RequestSession, outgoing: str) -> list[Header]:
        """`Set-Cookie` where the client's cookie is to change, and `Vary` where the session was looked at."""
        fields: list[Header] = []
        if session.accessed:
            session.accessed = False
            fields.append((b"vary", b"Cookie"))
        token = session.cookie_token() if outgoing == "set" else None
        if token is not None:
            fields.append((b"set-cookie", self._cookie.set(token, age=session.cookie_age)))
        elif outgoing:
            fields.append((b"set-cookie", self._cookie.clear()))
        return fields


def _answer_to(exc: BaseException | None) -> Answer | None:
    return next((answer for kind, answer in ANSWERS if isinstance(exc, kind)), None)


async def _nothing() -> None:
    """What is sent of a response that another takes the place of."""


def session_of(connection: HTTPConnection) -> Session:
    """The session's handle of a request or WebSocket: always one, anonymous until `await session.login(subject)`.

    Fit for FastAPI: `session: Session = Depends(session_of)`.

    Raises:
        LookupError: the request does not pass sessions of ours.
    """
    session = connection.scope.get("session")
    if isinstance(session, Session):
        session.mark_accessed()
        return session
    raise LookupError(
        "this request passes no sessions of Traffic Cop: write TrafficCop(session_secret=…) and cop.install(app)"
    )


def require_session(connection: HTTPConnection) -> Session:
    """The session of somebody who is logged in; answers 401 where nobody is, and closes a WebSocket with 1008.

    Fit for FastAPI: `session: Session = Depends(require_session)`.
    """
    session = session_of(connection)
    if session.authenticated:
        return session
    if connection.scope["type"] == "websocket":
        raise WebSocketException(code=1008, reason="log in first")
    # RFC 6750, section 3: a request that brought no token is told of no error.
    brought = any(name == b"authorization" for name, _ in connection.scope["headers"])
    challenge = 'Bearer error="invalid_token"' if brought else "Bearer"
    raise HTTPException(401, "Log in first.", headers={"WWW-Authenticate": challenge})
