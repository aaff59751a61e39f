"""The state of one request's session and user, as mappings that write what was changed.

Each is one item: a JSON object in the namespace "session" or "user" ("foreign_user" for tokens of other issuers), of
the tenant that the session's verified claims name. What was changed is merged by key into what is there by then, so two
requests that change different keys both keep their change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, overload

from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.lazy_mapping import LazyMapping
from traffic_cop_middleware.abstractions.request_session import RequestSession
from traffic_cop_middleware.abstractions.state.house import tenant_of, word_of
from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction
from traffic_cop_middleware.abstractions.state.reading import Question
from traffic_cop_middleware.contracts import Item, StateKey, Tier
from traffic_cop_middleware.errors import NobodysState, SessionNotReady

PARTS = ("session", "user")


class StateMapping(LazyMapping):
    """The state of a session or of a user: string keys, JSON values, changed as any dict.

    What was changed is written when the response starts, or by `save`. `tier` is where it is to be kept; `None` leaves
    it where it is, which for new state is "cache".
    """

    __slots__ = ("_called", "_found", "_name", "_of", "tier", "version")

    def __init__(self, of: RequestState, name: str) -> None:
        super().__init__()
        self._of = of
        self._name = name
        self._called = f"state.{name}"
        self._found: Mapping[str, str | None] | None = None
        self.unsettled = True
        self.tier: Tier | None = None
        self.version = 0
        """The version that was read, or written last; 0 while there is none."""

    async def load(self) -> None:
        """Read it, where that was not done with the session. One round trip."""
        if self.unsettled:
            item = await self._of.read(self._name)
            self.take(None if item is None else item.value, 0 if item is None else item.version)

    async def save(self) -> None:
        """Write what was changed, now. Two round trips, and two more for each write of others that came between.

        Raises:
            NobodysState: nobody's session, so there is nobody whose state this would be.
            StateConflict: it changed 64 times meanwhile.
            NotDurable: its `tier` can't be kept as configured.
        """
        changes = {} if self.unsettled else self._changes()
        if changes or (self.tier is not None and self._filled):
            await self._save(changes)

    async def commit(self) -> None:
        """Write what `changed` found, or what there is."""
        found, self._found = self._found, None
        changes = found if found is not None else ({} if self.unsettled else self._changes())
        if changes:
            await self._save(changes)

    async def _save(self, changes: Mapping[str, str | None]) -> None:
        texts = dict(changes)
        written = await self._of.change(self._name, lambda value: _merged(value, texts), self.tier)
        self._written(changes)
        self.version = written

    @overload
    def update(self, key: str, fn: Callable[[Any], Any], /) -> Awaitable[Any]: ...

    @overload
    def update(self, *others: Any, **values: Any) -> None: ...

    def update(  # pyright: ignore[reportIncompatibleMethodOverride] - the second overload takes what a dict's takes
        self, *arguments: Any, **values: Any
    ) -> Awaitable[Any] | None:
        """`await state.user.update(key, fn)` writes `fn` of what stands under a key by then; else a dict's `update`.

        `fn` gets the value (`None`: nothing) and gives the new one, which is the answer; it may be called again. Two
        round trips, and two more for each write of others that came between.
        """
        if len(arguments) == 2:
            return self._update(*arguments)
        super().update(*arguments, **values)
        return None

    async def _update(self, key: str, fn: Callable[[Any], Any]) -> Any:
        made: list[Any] = [None]

        def changed(value: Any) -> Any:
            held = dict(value) if isinstance(value, Mapping) else {}
            made[0] = fn(held.get(key))
            return {**held, key: made[0]}

        self.version = await self._of.change(self._name, changed, self.tier)
        if not self.unsettled:
            self._put(key, made[0], dumps(made[0]))
        return made[0]

    @property
    def changed(self) -> bool:
        """Whether there is something to write, which is kept for `commit`.

        Raises:
            TypeError, ValueError: something in it is no JSON.
        """
        self._found = {} if self.unsettled else self._changes()
        return bool(self._found)

    def take(self, text: str | None, version: int) -> None:
        """It has come."""
        value = loads(text) if text is not None else {}
        self.version = version
        self._hold({key: dumps(each) for key, each in value.items()} if isinstance(value, dict) else {})
        self.unsettled = False

    def _look(self) -> None:
        if self.unsettled:
            raise SessionNotReady(
                f"state.{self._name} was not read yet. Mark the endpoint with @uses_state({self._name!r}), and it "
                f"comes with the session; or await state.{self._name}.load()"
            )
        super()._look()


class RequestState:
    """The state of whoever sends this request: `session`, `user`, and `tenant` for all else of their tenant."""

    def __init__(self, state: StateManagementAbstraction, session: RequestSession) -> None:
        self._state = state
        self._house = state.house
        self._session = session
        self._asked: dict[str, Question | None] = {}
        self.session = StateMapping(self, "session")
        self.user = StateMapping(self, "user")

    @property
    def tenant(self) -> StateManagementAbstraction:
        """All state of the tenant that the session's verified claims name; of the app itself where they name none."""
        return self._state.of_tenant(self._tenant())

    def ask(self, names: Iterable[str]) -> None:
        """Ask for these, by the token, without waiting: they travel with the session's own question."""
        for name in names:
            if name not in self._asked:
                key = self._key(name)
                self._asked[name] = None if key is None else self._house.reader.ask(key)

    def lacks(self, name: str) -> bool:
        """Whether a part was not read yet."""
        return (self.session if name == "session" else self.user).unsettled

    async def settle(self) -> None:
        """Wait for what was asked; the session's record is there.

        Raises:
            StoreError: a store is away.
        """
        while self._asked:  # one at a time, so that `abandon` finds the others if this one fails
            name = next(iter(self._asked))
            question = self._asked.pop(name)
            item = None if question is None else await self._house.reader.hear(question)
            if question is not None and self._key(name) != question.key:
                item = None  # the session does not stand, and this is nobody's business any more
            there = item is not None and item.value is not None
            mapping = self.session if name == "session" else self.user
            mapping.take(item.value if item is not None else None, item.version if item is not None and there else 0)

    def abandon(self) -> None:
        """Nobody waits for what was asked."""
        asked, self._asked = self._asked, {}
        for question in filter(None, asked.values()):
            self._house.reader.let_go(question)

    @property
    def changed(self) -> bool:
        """Whether there is something to write. What there is is kept for `commit`."""
        changed = self.session.changed
        return self.user.changed or changed

    async def commit(self) -> None:
        """Write what was changed."""
        for mapping in (self.session, self.user):
            await mapping.commit()

    async def read(self, name: str) -> Item | None:
        """The item of a part; `None` where there is none, or nobody."""
        key = self._key(name)
        if key is None:
            return None
        item = await self._house.reader.one(key, strong=False)
        return None if item is None or item.value is None else item

    async def change(self, name: str, fn: Callable[[Any], Any], tier: Tier | None) -> int:
        """Make the item of a part `fn` of what is there by then. Gives its version."""
        key = self._key(name)
        if key is None:
            who = "no session" if name == "session" else "nobody logged in"
            raise NobodysState(f"state.{name}: this client has {who}, so there is nobody whose state this would be")
        ttl = self._session.lasts if name == "session" else None
        state = self._state.of_tenant(key.tenant)
        return (await state.update(key.namespace, key.key, fn, tier=tier, ttl=ttl)).version

    def _tenant(self) -> str:
        return tenant_of(self._session.claims)

    def _key(self, name: str) -> StateKey | None:
        session = self._session
        word = (session.known_id or None) if name == "session" else session.subject
        if word is None or (name == "session" and session.issuer):  # no record, so no session that could end
            return None
        namespace = name
        if session.issuer:  # apart from our own users, who may be called anything
            namespace, word = "foreign_user", f"{session.issuer} {word}"
        return StateKey(self._tenant(), namespace, word_of(word))


def _merged(value: Any, texts: Mapping[str, str | None]) -> dict[str, Any]:
    """An object with the members of `texts` replaced, and those that are `None` removed."""
    merged = dict(value) if isinstance(value, Mapping) else {}
    for key, text in texts.items():
        if text is None:
            merged.pop(key, None)
        else:
            merged[key] = loads(text)
    return merged
