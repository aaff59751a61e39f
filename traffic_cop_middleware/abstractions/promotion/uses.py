"""How items are used: counted in this worker, told to the metadata now and then, and heard back for the verdict.

What one worker counted in one hour is one absolute row of its own, so it can be told again after a lost reply, and
nothing is counted twice.
"""

from __future__ import annotations

import logging
import os
import random
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import anyio

from traffic_cop_middleware.abstractions.patience import Patience
from traffic_cop_middleware.contracts import Access, FileMetadataStore, StateKey, Usage
from traffic_cop_middleware.contracts.state import is_ours
from traffic_cop_middleware.errors import StoreError

log = logging.getLogger("traffic_cop.promotion")

HOUR = 3600
MOST_ITEMS = 10_000
"""Items that a worker counts; beyond that the one that was begun first is told and begins anew."""
PERIOD = 60.0
"""Seconds between two times that counts are told."""
AT_ONCE = 500
LOOKED_BACK = 24
"""Hours whose uses count for a verdict."""
KEPT_HOURS = 24 * 35
LAST_WORD = 2.0
"""Seconds that the end may take."""
WITHIN, PAUSE = 1.0, 30.0
"""Seconds that a verdict waits for what others counted, and for which nobody asks after that failed."""
HEARD_FOR = 300.0
"""Seconds for which what others counted of an item is not asked for again."""


class Count:
    """Uses of an item in one hour. `untold`: the metadata has not heard of the last of them.

    `counter` is nobody else's: what is evicted and comes back in the same hour is counted from 0 in a row of its own.
    """

    __slots__ = ("counter", "hour", "last_at", "reads", "untold", "writes")

    def __init__(self, counter: str, hour: int) -> None:
        self.counter = counter
        self.hour = hour
        self.reads = 0
        self.writes = 0
        self.last_at = 0.0
        self.untold = True


class Heard(NamedTuple):
    usage: Usage
    until: float


class StateUses:
    """Counts uses of items, but for this package's own. `now` gives seconds since the epoch. Without `metadata` this
    worker's are all there are."""

    def __init__(self, metadata: FileMetadataStore | None, *, now: Callable[[], float], most: int = MOST_ITEMS) -> None:
        self._metadata = metadata
        self._now = now
        self._most = most
        self._worker = os.urandom(8).hex()
        self._begun = 0
        self._counts: OrderedDict[StateKey, Count] = OrderedDict()
        self._earlier: list[tuple[StateKey, Count]] = []
        self._heard: OrderedDict[StateKey, Heard] = OrderedDict()
        self._patience = Patience(within=WITHIN, pause=PAUSE, now=now)

    def read(self, key: StateKey) -> None:
        """An item was read."""
        if not is_ours(key.namespace):
            self._count(key).reads += 1

    def wrote(self, key: StateKey) -> None:
        """An item was written."""
        if not is_ours(key.namespace):
            self._count(key).writes += 1

    def _count(self, key: StateKey) -> Count:
        now = self._now()
        count = self._counts.get(key)
        if count is None or now >= (count.hour + 1) * HOUR:
            count = self._begin(key, int(now // HOUR))
        count.last_at = now
        count.untold = True
        return count

    def _begin(self, key: StateKey, hour: int) -> Count:
        ended = self._counts.pop(key, None)
        if ended is not None and ended.untold:
            self._leave(key, ended)
        self._begun += 1
        count = self._counts[key] = Count(f"{self._worker}-{self._begun:x}", hour)
        if len(self._counts) > self._most:
            key, ended = self._counts.popitem(last=False)
            if ended.untold:
                self._leave(key, ended)
        return count

    def _leave(self, key: StateKey, count: Count) -> None:
        if self._metadata is not None and len(self._earlier) < self._most:
            self._earlier.append((key, count))

    async def usage(self, key: StateKey) -> Usage:
        """How an item was used in the last 24 hours, as far as is known. At most one round trip, every five minutes.

        Where the metadata is away, what this worker has counted is all, and a verdict does not wait for more.
        """
        own = self._counts.get(key)
        here = Usage(own.reads, own.writes, own.last_at) if own is not None else Usage(0, 0, None)
        if self._metadata is None:
            return here
        now = self._now()
        heard = self._heard.get(key)
        if heard is None or heard.until <= now:
            try:
                since = int(now // HOUR) - LOOKED_BACK
                usage = await self._patience.ask(partial(self._metadata.usage, key, since_hour=since))
            except StoreError as exc:
                log.debug("how others use an item is not known (%s)", exc)
                usage = Usage(0, 0, None)
            self._heard.pop(key, None)
            heard = self._heard[key] = Heard(usage, now + HEARD_FOR)
            if len(self._heard) > self._most:
                self._heard.popitem(last=False)
        told = heard.usage
        return Usage(max(told.reads, here.reads), max(told.writes, here.writes), here.last_at or told.last_at)

    async def keep_telling(self) -> None:
        """Tell the metadata now and then what was counted; until cancelled."""
        while True:
            await anyio.sleep(PERIOD * random.uniform(0.5, 1.5))  # noqa: S311 - the workers take turns
            try:
                await self.tell()
            except StoreError as exc:
                log.warning("uses of state could not be told (%s); they are told the next time", exc)

    async def tell(self) -> int:
        """Tell the metadata what was counted since the last time. Gives of how many items and hours.

        Raises:
            StoreError: the metadata is away; what was not told stays for the next time.
        """
        if self._metadata is None:
            return 0
        waiting = [*self._earlier, *((key, count) for key, count in self._counts.items() if count.untold)]
        self._earlier = []
        for start in range(0, len(waiting), AT_ONCE):
            some = waiting[start : start + AT_ONCE]
            for _, count in some:
                count.untold = False
            try:
                await self._metadata.saw(
                    [
                        Access(key, count.counter, count.hour, count.reads, count.writes, count.last_at)
                        for key, count in some
                    ]
                )
            except BaseException:
                for key, count in waiting[start:]:
                    count.untold = True
                    if self._counts.get(key) is not count:
                        self._leave(key, count)
                raise
        return len(waiting)

    async def end(self) -> None:
        """Tell what was not told yet; where the metadata is away it is lost, for it is only of help to a verdict."""
        try:
            with anyio.move_on_after(LAST_WORD):
                await self.tell()
        except StoreError as exc:
            log.warning("the last uses of state could not be told (%s)", exc)

    async def keep_forgetting(self) -> None:
        """Remove now and then what was counted over a month ago; until cancelled."""
        while self._metadata is not None:
            await anyio.sleep(HOUR * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret
            try:
                await self._metadata.forget_usage(before_hour=int(self._now() // HOUR) - KEPT_HOURS)
            except StoreError as exc:
                log.warning("old uses of state could not be removed (%s); the next time will do", exc)
