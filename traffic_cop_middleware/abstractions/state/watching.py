"""Hearing of writes: the store's log of changes, read from a cursor on.

The log is the truth, and is read in order, so a watcher that goes on from its cursor misses nothing and hears nothing
twice. That there is something to read is told by the store's invalidations where it has them, and by what this worker
writes itself; else it is looked for now and then.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence

import anyio

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.state.items import StateChange
from traffic_cop_middleware.contracts import StateKey, StateStore
from traffic_cop_middleware.errors import StateCursorLost
from traffic_cop_middleware.loops import Signal

PERIOD = 0.5
"""Seconds between two looks while nothing tells of a change."""
AT_ONCE = 500


class StateWatches:
    """The watchers of one store, and what wakes them."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._waking: dict[Signal, tuple[str, str, str]] = {}
        self._stop: Callable[[], None] | None = None
        self._watchers = 0
        self._counting = threading.Lock()

    def close(self) -> None:
        """Hear no longer what others write."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def wake(self, keys: Sequence[StateKey] | None) -> None:
        """These were written; `None`: something may have been."""
        for event, (tenant, namespace, prefix) in [*self._waking.items()]:
            if keys is None or any(
                key.tenant == tenant and key.namespace == namespace and key.key.startswith(prefix) for key in keys
            ):
                event.set()

    async def watch(
        self, tenant: str, namespace: str, *, prefix: str, from_cursor: str | None, period: float = PERIOD
    ) -> AsyncIterator[StateChange]:
        """Each write from the cursor on; without one, from now on.

        Raises:
            StateCursorLost: the store does not remember as far back.
            ValueError: it is no cursor.
        """
        with self._counting:  # of several event loops, maybe
            if self._watchers == 0:
                self._stop = self._store.invalidations(self.wake)
            self._watchers += 1
        woken = Signal()
        self._waking[woken] = (tenant, namespace, prefix)
        try:
            cursor = from_cursor
            while True:
                changed = await answered(
                    self._store.changes(tenant, namespace, prefix=prefix, since=cursor, most=AT_ONCE)
                )
                if changed.lost:
                    raise StateCursorLost(
                        f"the changes of {namespace!r} since this cursor are not all remembered. List the items, and "
                        "watch from there: without from_cursor, before you list"
                    )
                cursor = changed.cursor
                for each in changed.changes:
                    yield StateChange(each.key.namespace, each.key.key, each.version, each.deleted, each.cursor)
                if changed.changes:
                    continue
                with anyio.move_on_after(period):
                    await woken.wait()
                del self._waking[woken]
                woken = Signal()
                self._waking[woken] = (tenant, namespace, prefix)
        finally:
            del self._waking[woken]
            with self._counting:
                self._watchers -= 1
                if self._watchers == 0:
                    self.close()
