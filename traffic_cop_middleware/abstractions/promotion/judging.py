"""Judging items that did not come out of an outbox: when asked, when a session ends, and now and then.

What was judged may come to deserve less, or more, without being written: it grows old, or is used more. So a worker
looks again at what it has judged. And where what is written can't wait in an outbox it is judged here, soon after.
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence

import anyio

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.promotion.promoter import Shaped, StatePromoter
from traffic_cop_middleware.abstractions.promotion.rules import Trigger
from traffic_cop_middleware.contracts import DocumentStore, Event, Item, StateKey, StateStore
from traffic_cop_middleware.errors import StoreError, StoreUnavailable
from traffic_cop_middleware.loops import Signal

log = logging.getLogger("traffic_cop.promotion")

SESSIONS = "session"
"""The namespace of sessions' state."""
EVERYONE = "*"
"""What events have in place of a session's id where all sessions have ended."""
MOST_ASKED = 10_000
"""Items that wait to be judged; the oldest go first."""
AT_ONCE = 100
PERIOD = 300.0
"""Seconds between two looks at what was judged."""
LINGER = 0.05
"""Seconds that an item waits, so that what is written often is judged once."""


class StateJudging:
    """Judges items. `clock` gives seconds that never go back."""

    def __init__(
        self, store: StateStore, documents: DocumentStore, promoter: StatePromoter, *, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._documents = documents
        self._promoter = promoter
        self._clock = clock
        self._asked: OrderedDict[StateKey, Trigger] = OrderedDict()
        self._sessions: OrderedDict[str, StateKey] = OrderedDict()
        self._wanted = Signal()

    def ask(self, key: StateKey, trigger: Trigger) -> None:
        """Judge an item soon."""
        self._asked.pop(key, None)
        self._asked[key] = trigger
        if len(self._asked) > MOST_ASKED:
            self._asked.popitem(last=False)
        self._wanted.set()

    def heard(self, event: Event) -> None:
        """Judge the state of a session that has ended, as far as this worker has seen who it was of."""
        if event.kind in ("session.revoked", "session.expired"):
            id = str(event.attributes.get("session", ""))
            ended = list(self._sessions) if id == EVERYONE else [id]
            for key in filter(None, [self._sessions.pop(each, None) for each in ended]):
                self.ask(key, "session_end")

    def wrote(self, key: StateKey) -> None:
        """An item was written: of a session's, remember whose it is, for that its end tells the session's id alone."""
        if key.namespace == SESSIONS:
            self._sessions.pop(key.key, None)
            self._sessions[key.key] = key
            if len(self._sessions) > MOST_ASKED:
                self._sessions.popitem(last=False)

    async def run(self) -> None:
        """Judge what is asked for, and look again at what was judged; until cancelled."""
        while True:
            with anyio.move_on_after(PERIOD * random.uniform(0.5, 1.0)):  # noqa: S311 - the workers take turns
                await self._wanted.wait()
                await anyio.sleep(LINGER)
            self._wanted = Signal()
            try:
                await self.judge_all()
            except StoreError as exc:
                log.warning("state could not be judged (%s); it stays where it is until the next time", exc)
            except Exception:
                log.exception("state could not be judged; it stays where it is until the next time")

    async def judge_all(self) -> int:
        """Judge what waits, and what was judged long enough ago. Gives how many items were moved.

        Raises:
            StoreUnavailable: as `judge_asked`.
        """
        moved = await self.judge_asked()
        old = self._promoter.due(before=self._clock() - PERIOD)
        for start in range(0, len(old), AT_ONCE):
            moved += await self._judge_some(old[start : start + AT_ONCE], "schedule")
        return moved

    async def judge_asked(self) -> int:
        """Judge what waits. Gives how many items were moved.

        Raises:
            StoreUnavailable: a store is away; what was asked for and not judged waits on.
        """
        moved = 0
        while self._asked:
            some = dict(self._asked.popitem(last=False) for _ in range(min(AT_ONCE, len(self._asked))))
            try:
                for trigger in dict.fromkeys(some.values()):
                    keys = [key for key, asked in some.items() if asked == trigger]
                    moved += await self._judge_some(keys, trigger)
                    for key in keys:
                        del some[key]
            finally:
                self._asked = OrderedDict({**some, **self._asked})
        return moved

    async def _judge_some(self, keys: Sequence[StateKey], trigger: Trigger) -> int:
        """As `judge`, but one that can't be judged is told of, and left where it is."""
        moved, failures = await self._judge(keys, trigger)
        for key, why in failures.items():
            if isinstance(why, StoreUnavailable):
                raise why
            log.error("%s/%s can't be judged, and stays where it is", key.namespace, key.key, exc_info=why)
        return moved

    async def judge(self, keys: Sequence[StateKey], *, trigger: Trigger) -> int:
        """Judge these now, and move those whose tier is another one. Gives how many.

        Raises:
            StoreError: a store is away, or one of these can't be judged: the others are.
        """
        moved, failures = await self._judge(keys, trigger)
        for failure in failures.values():
            raise failure
        return moved

    async def _judge(self, keys: Sequence[StateKey], trigger: Trigger) -> tuple[int, dict[StateKey, Exception]]:
        """How many were moved, and why some can't be judged."""
        items = []
        for key, item in zip(keys, await answered(self._store.load(keys)), strict=True):
            if item is not None and self._promoter.judges(item):
                items.append(item)
            else:
                self._promoter.forget(key)
        moved, failures = 0, {}
        for item, shaped in zip(items, await self._promoter.shape(items, trigger=trigger), strict=True):
            if isinstance(shaped, Exception):
                failures[item.key] = shaped
            else:
                moved += await self._move(item, shaped)
        return moved, failures

    async def _move(self, item: Item, shaped: Shaped) -> bool:
        """Up: first the documents have it, then the backend says so. What comes down to `cache` leaves the documents
        when it is written or deleted the next time: until then they have it at the same version."""
        if shaped.item == item:
            return False
        if shaped.item.tier != "cache":
            await self._documents.store((shaped.item,))
            await self._documents.reshape((shaped.item,))  # where they had this version already
        await self._promoter.settle([(item, shaped.item)])
        return True
