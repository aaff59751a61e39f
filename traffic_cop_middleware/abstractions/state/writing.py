"""How an item is written: compared and set in the backend, and acknowledged when its tier has it.

The backend decides, in one step, whether the item is at the version that was asked for, and puts what is to last into
its outbox by the same step. An `immediate` item goes into the documents as well before the caller hears of it: where
that fails it waits in the outbox all the same, so the caller is told that it may come true yet. A backend without an
outbox has the documents' instead: there an item that could not be kept is forgotten, and what was before stands; it is
put back where the backend alone had it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.promotion.promoter import StatePromoter
from traffic_cop_middleware.abstractions.promotion.rules import Trigger
from traffic_cop_middleware.abstractions.state.items import StateItem
from traffic_cop_middleware.abstractions.state.reading import StateReader
from traffic_cop_middleware.contracts import DocumentStore, Item, StateKey, StateStore, Tier
from traffic_cop_middleware.contracts.state import TIERS, is_ours
from traffic_cop_middleware.errors import ConfigurationError, NotDurable, StateConflict, StoreError, StoreUnavailable

log = logging.getLogger("traffic_cop.state")

MOST_TURNS = 10


class StateWriter:
    """Writes items. `kick` is called when something waits for the documents.

    With `judge` promotion chooses the tier of what is written without one: what can wait in an outbox is judged when it
    leaves it, and of anything else `judge` is told.
    """

    def __init__(
        self,
        store: StateStore,
        documents: DocumentStore | None,
        reader: StateReader,
        *,
        kick: Callable[[], None],
        promoter: StatePromoter | None = None,
        judge: Callable[[StateKey, Trigger], None] | None = None,
    ) -> None:
        self._store = store
        self._documents = documents
        self._reader = reader
        self._kick = kick
        self._promoter = promoter
        self._judge = judge

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
        if tier == "delayed" and self._lacks_outbox:
            raise NotDurable(
                "tier='delayed' waits in an outbox, and neither this backend nor these documents have one. Write "
                "TrafficCop('redis://…'), or documents='sqlite:///state.db', or take tier='immediate'"
            )

    @property
    def _lacks_outbox(self) -> bool:
        return self._store.outbox is None and (self._documents is None or self._documents.outbox is None)

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
        chosen = self._judge is not None and not is_ours(key.namespace)  # if nobody names a tier, promotion does
        waits = chosen and self._documents is not None and not self._lacks_outbox
        # What nobody named may have come down from the documents without being written (`promotion/judging.py`).
        lasts = before is not None and (before.tier != "cache" or (chosen and not before.named))
        leaves = lasts and (tier == "cache" or (value is None and tier is None and not waits))
        judged = chosen and not waits and tier is None and value is not None
        for _ in range(MOST_TURNS):
            try:
                asked = self._store.write(
                    key, value, tier=tier, if_version=if_version, expires_at=expires_at, missing=missing, judge=waits
                )
                self._reader.wrote(key)
                written = await answered(asked)
            finally:
                self._reader.wrote(key)  # what was asked while the answer was on its way may be from before it
            item = written.item
            if written.outcome == "written" and item is not None:
                item = await self._keep(item, before)
                if judged and self._judge is not None and not item.named:
                    self._judge(key, "change")
                if self._reader.uses is not None:
                    self._reader.uses.wrote(key)
                if leaves and item.tier == "cache" and self._documents is not None:
                    await self._documents.store((item._replace(value=None),))
                return item
            if written.outcome == "conflict":
                raise conflict(key, if_version or 0, None if item is None else await self._reader.whole(item))
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

    async def _keep(self, item: Item, before: Item | None) -> Item:
        """See that an item's tier has it, and give the item as it is then; where it has not, `before` stands."""
        documents, outbox = self._documents, self._store.outbox
        if item.tier == "cache" or documents is None:
            return item  # where it came down from a higher tier, the flusher finds that with its next look
        if item.tier == "delayed" and outbox is not None:
            self._kick()
            return item
        try:
            if item.tier == "immediate":
                await self._keep_now(item, documents)
            elif documents.outbox is not None:
                await documents.outbox.append((item,))
                self._kick()
            else:
                self.check("delayed")
        except BaseException as exc:  # a caller who left was told nothing either
            if outbox is None and self._may_stay(item, before) and isinstance(exc, StoreError):
                return await self._stay(item, exc)
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
        return item

    @staticmethod
    def _may_stay(item: Item, before: Item | None) -> bool:
        """Whether nobody was ever told that an item lasts: then it need not, where it can't. A deletion has to."""
        return item.value is not None and not item.named and (before is None or before.tier == "cache")

    async def _stay(self, item: Item, why: StoreError) -> Item:
        """Keep an item whose tier is promotion's to choose where it is, and judge it later."""
        key, item = item.key, item._replace(tier="cache")
        await answered(self._store.reshape((item,)))
        log.warning("%s/%s stays in memory for now: %s", key.namespace, key.key, why)
        if self._judge is not None:
            self._judge(key, "change")
        return item

    async def reshape(self, item: Item, value: str) -> bool:
        """Let this value stand in place of an item's, which says the same, where the item is still at its version.
        Gives whether it is. Two round trips to the documents, then one to the backend, as what that has may be lost."""
        shaped, kept = item._replace(value=value), False
        if self._documents is not None and item.tier != "cache":
            # While it waited to be judged it was not there, and by now it may have come down without getting there.
            await self._documents.store((shaped,))
            (kept,) = await self._documents.reshape((shaped,))
        (there,) = await answered(self._store.reshape((shaped,)))
        self._reader.wrote(item.key)
        return there or kept

    async def _keep_now(self, item: Item, documents: DocumentStore) -> None:
        """Into the documents; what is too large for them into a file before."""
        lasting = item
        if self._promoter is not None and self._promoter.needs_file(item):
            (shaped,) = await self._promoter.shape((item,))
            if isinstance(shaped, Exception):
                raise shaped
            lasting = shaped.item
        await documents.store((lasting,))
        if self._promoter is not None:
            await self._promoter.settle([(item, lasting)])


def tiers_kept(store: StateStore, documents: DocumentStore) -> Collection[Tier]:
    """The tiers that can be kept on these."""
    waits = store.outbox is not None or documents.outbox is not None
    return [tier for tier in TIERS if tier == "cache" or (documents.durable and (waits or tier == "immediate"))]


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
