"""How an item is written: compared and set in the backend, and acknowledged when its tier has it.

The backend decides, in one step, whether the item is at the version that was asked for, and puts what is to last into
its outbox by the same step. An `immediate` item goes into the documents as well before the caller hears of it: where
that fails it waits in the outbox all the same, so the caller is told that it may come true yet. A backend without an
outbox has the documents' instead: there an item that could not be kept is forgotten, and what was before stands; it is
put back where the backend alone had it.
"""

from __future__ import annotations

from collections.abc import Callable

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.state.items import StateItem
from traffic_cop_middleware.abstractions.state.reading import StateReader
from traffic_cop_middleware.contracts import DocumentStore, Item, StateKey, StateStore, Tier
from traffic_cop_middleware.contracts.state import TIERS
from traffic_cop_middleware.errors import ConfigurationError, NotDurable, StateConflict, StoreError, StoreUnavailable

MOST_TURNS = 10


class StateWriter:
    """Writes items. `kick` is called when something waits for the documents."""

    def __init__(
        self, store: StateStore, documents: DocumentStore | None, reader: StateReader, *, kick: Callable[[], None]
    ) -> None:
        self._store = store
        self._documents = documents
        self._reader = reader
        self._kick = kick

    def check(self, tier: Tier | None) -> None:
        """See that a tier can be kept.

        Raises:
            NotDurable: it can't be, as configured.
            ConfigurationError: there is no such tier.
        """
        if tier is None or tier == "cache":
            return
        if tier not in TIERS:
            raise ConfigurationError(f"tier={tier!r}: write one of {', '.join(map(repr, TIERS))}")
        if self._documents is None:
            raise NotDurable(
                f"tier={tier!r} outlives the backend, and there is nothing to keep it in. Write "
                "TrafficCop(documents='sqlite:///state.db'), or arangodb://…"
            )
        if tier == "delayed" and self._store.outbox is None and self._documents.outbox is None:
            raise NotDurable(
                "tier='delayed' waits in an outbox, and neither this backend nor these documents have one. Write "
                "TrafficCop('redis://…'), or documents='sqlite:///state.db', or take tier='immediate'"
            )

    async def write(
        self,
        key: StateKey,
        value: str | None,
        *,
        tier: Tier | None,
        if_version: int | None = None,
        expires_at: float | None = None,
    ) -> Item:
        """Write an item, or delete it (`value=None`), and give it as it is now. One round trip to the backend; two more
        where it knows nothing of the item and there are documents; one to the documents where it is `immediate`.

        Raises:
            NotDurable: the tier can't be kept.
            StateConflict: it is at another version than `if_version`.
            StoreUnavailable: a store is away, or full; it may or may not have been written.
        """
        self.check(tier)
        missing = self._documents is None
        before = await self._beside(key)
        leaves = tier == "cache" and before is not None and before.tier != "cache"
        for _ in range(MOST_TURNS):
            try:
                asked = self._store.write(
                    key, value, tier=tier, if_version=if_version, expires_at=expires_at, missing=missing
                )
                self._reader.wrote(key)
                written = await answered(asked)
            finally:
                self._reader.wrote(key)  # what was asked while the answer was on its way may be from before it
            item = written.item
            if written.outcome == "written" and item is not None:
                await self._keep(item, before)
                if leaves and self._documents is not None:
                    await self._documents.store((item._replace(value=None),))
                return item
            if written.outcome == "conflict":
                raise conflict(key, if_version or 0, item)
            if written.outcome == "full":
                raise StoreUnavailable(
                    f"the outbox is full, so {key.namespace}/{key.key} was not written: the documents take items more "
                    "slowly than they come, or are away. Try again later"
                )
            missing = (await self._reader.from_documents((key,)))[key] is None
        raise StoreError(f"the backend forgets {key.namespace}/{key.key} as fast as it is told of it")

    async def _beside(self, key: StateKey) -> Item | None:
        """What a backend without an outbox has beside documents, which hear of it only what they are told here."""
        if self._documents is None or self._store.outbox is not None:
            return None
        (held,) = await answered(self._store.load((key,)))
        return held

    async def _keep(self, item: Item, before: Item | None) -> None:
        """See that an item's tier has it; where it has not, `before` stands."""
        documents, outbox = self._documents, self._store.outbox
        if item.tier == "cache" or documents is None:
            return  # where it came down from a higher tier, the flusher finds that with its next look
        if item.tier == "delayed" and outbox is not None:
            self._kick()
            return
        try:
            if item.tier == "immediate":
                await documents.store((item,))
            elif documents.outbox is not None:
                await documents.outbox.append((item,))
                self._kick()
            else:
                self.check("delayed")
        except BaseException as exc:  # a caller who left was told nothing either
            if outbox is None:
                await answered(self._store.forget(item.key, version=item.version))
                if before is not None and before.tier == "cache":
                    await answered(self._store.warm((before,)))
                self._reader.wrote(item.key)
            elif isinstance(exc, StoreError):
                raise StoreUnavailable(
                    f"{item.key.namespace}/{item.key.key} is not in the documents yet ({exc}). Its version "
                    f"{item.version} waits in the outbox and will get there, unless a newer one does"
                ) from exc
            raise


def conflict(key: StateKey, expected: int, item: Item | None) -> StateConflict:
    """The error for an item that is not at the version that a write asked for."""
    there = item is not None and item.value is not None
    wanted = f"at version {expected}" if expected else "new"
    found = f"at version {item.version}" if item is not None and there else "not there"
    return StateConflict(
        f"{key.namespace}/{key.key} was to be {wanted}, and it is {found}: read it, and decide anew",
        expected=expected,
        current=StateItem(item) if item is not None and there else None,
    )
