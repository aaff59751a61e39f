"""What the state of all tenants has in common: how it is read, written, watched and kept."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import anyio

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.files.house import FileHouse
from traffic_cop_middleware.abstractions.files.pointers import pointer_of
from traffic_cop_middleware.abstractions.json_texts import dumps, is_unicode
from traffic_cop_middleware.abstractions.promotion.judging import StateJudging
from traffic_cop_middleware.abstractions.promotion.promoter import StatePromoter
from traffic_cop_middleware.abstractions.promotion.promotion import StatePromotionAbstraction
from traffic_cop_middleware.abstractions.promotion.uses import StateUses
from traffic_cop_middleware.abstractions.sessions import Identity
from traffic_cop_middleware.abstractions.state.flusher import StateFlusher
from traffic_cop_middleware.abstractions.state.items import StateRevision, revision_of
from traffic_cop_middleware.abstractions.state.reading import StateReader
from traffic_cop_middleware.abstractions.state.snapshots import StateSnapshots
from traffic_cop_middleware.abstractions.state.watching import StateWatches
from traffic_cop_middleware.abstractions.state.writing import StateWriter
from traffic_cop_middleware.contracts import DocumentStore, Item, Page, StateKey, StateStore
from traffic_cop_middleware.contracts.state import MOST_HOT, MOST_STATE, MOST_WORD, size_of
from traffic_cop_middleware.errors import FileCorrupt, NotDurable, StateConflict, StoreError

log = logging.getLogger("traffic_cop.state")

NEAR_ITEMS = 10_000
PAGE_BYTES = 16 * 1024 * 1024
"""A page of a list ends with the item that brings its values to so many bytes, those in files included."""
MOST_TURNS = 8
"""How often a session's state is moved anew, because it was written meanwhile."""
CLEAN_UP_PERIOD = 3600.0
EXPIRED_FOR = 86_400.0
TOMBSTONES_FOR = 7 * 86_400.0
"""Seconds that the documents keep what expired or was deleted: what still waits in an outbox may be older."""


def session_key(claims: Mapping[str, Any], id: str) -> StateKey:
    """Where the state of a session is."""
    return StateKey(tenant_of(claims), "session", id)


def tenant_of(claims: Mapping[str, Any]) -> str:
    """The tenant that verified claims name; "" where they name none.

    One that is no text has its JSON text for a name, so 42 is "42", and one that is too long its hash (`word_of`): two
    tenants are never one, and none is the app itself.
    """
    tenant = claims.get("tenant")
    if tenant is None or tenant == "":
        return ""
    return word_of(tenant if isinstance(tenant, str) else dumps(tenant))


def word_of(text: str) -> str:
    """A text as a word that every store takes: as it is, or a hash of it where it is too long, or is odd."""
    raw = text.encode("utf-8", "surrogatepass")
    if "\0" in text or len(raw) > MOST_WORD or not is_unicode(text):
        return f"sha256 {sha256(raw).hexdigest()}"
    return text


class StateHouse:
    """The parts of the state on one backend and its documents, open on one event loop.

    `now` gives seconds since the epoch, `clock` seconds that never go back; `near_items` is how many items this worker
    keeps near. `judge` chooses the tier of what is written without one, `files` take what is large, and `uses` are
    counted; none of the three where it is `None`.
    """

    def __init__(
        self,
        store: StateStore,
        documents: DocumentStore,
        *,
        emit: Callable[[str, Mapping[str, Any]], None],
        now: Callable[[], float],
        clock: Callable[[], float],
        near_items: int = NEAR_ITEMS,
        judge: StatePromotionAbstraction | None = None,
        files: FileHouse | None = None,
        uses: StateUses | None = None,
    ) -> None:
        lasting = documents if documents.durable else None
        self._store = store
        self._lasting = lasting
        self._emit = emit
        self.documents = documents
        self.judge = judge if lasting is not None else None
        """Chooses tiers; `None` where nobody does."""
        self.now = now
        self.flusher: StateFlusher | None = None
        """Takes what waits to the documents; `None` where nothing ever waits."""
        outbox = None if lasting is None else store.outbox or lasting.outbox
        self.promoter: StatePromoter | None = None
        """Takes items where they deserve to be; `None` where nothing lasts."""
        promoter = None
        if lasting is not None:
            promoter = self.promoter = StatePromoter(
                store, lasting, judge=judge, files=files, uses=uses, now=now, clock=clock, emit=emit
            )
            if outbox is not None:
                self.flusher = StateFlusher(outbox, lasting, promoter, emit=emit)
        self.rejudging: StateJudging | None = None
        """Judges what is asked of it, and what was judged before, anew; `None` where promotion chooses no tier."""
        if judge is not None and promoter is not None and lasting is not None:
            self.rejudging = StateJudging(store, lasting, promoter, clock=clock)
        self.reader = StateReader(
            store,
            lasting,
            now=now,
            clock=clock,
            most=near_items,
            files=None if files is None else files.reader,
            uses=uses,
        )
        self.writer = StateWriter(
            store,
            lasting,
            self.reader,
            kick=self._kick,
            promoter=promoter,
            judge=None if self.rejudging is None else self.rejudging.ask,
        )
        self.most = MOST_STATE if files is None or lasting is None else MOST_HOT
        """Bytes that a value may have."""
        self.watches = StateWatches(store)
        self.snapshots = StateSnapshots(documents, now=now)

    @property
    def lasts(self) -> bool:
        """Whether what is written can wait in an outbox for documents that last."""
        return self.flusher is not None

    async def keep_clean(self) -> None:
        """Remove now and then from the documents what expired, and what tells that something was deleted."""
        while self._lasting is not None:
            await anyio.sleep(CLEAN_UP_PERIOD * random.uniform(0.5, 1.5))  # noqa: S311 - the workers take turns
            now = self.now()
            try:
                await self._lasting.clean_up(now=now - EXPIRED_FOR, tombstones_before=now - TOMBSTONES_FOR)
            except StoreError as exc:
                log.warning("the documents could not be cleaned up (%s); the next time will do", exc)

    async def end(self, *, within: float) -> None:
        """Flush what waits and judge what is asked for, as far as that comes to an end within so many seconds; the rest
        waits on for another, or was promised to nobody.

        A store that is away costs nothing: what it has in its outbox stays there.
        """
        with anyio.move_on_after(within):
            try:
                if self.flusher is not None:
                    await self.flusher.flush()
                if self.rejudging is not None:
                    await self.rejudging.judge_asked()
            except StoreError as exc:
                log.warning("not all state was flushed at the end (%s); it waits in the outbox", exc)
        self.close()

    def close(self) -> None:
        """Hear no longer what others write."""
        self.reader.close()
        self.watches.close()

    def _kick(self) -> None:
        if self.flusher is not None:
            self.flusher.kick()

    def wrote(self, item: Item) -> None:
        """An item was written here."""
        self.watches.wake((item.key,))
        if self.rejudging is not None:
            self.rejudging.wrote(item.key)
        told = {"namespace": item.key.namespace, "tier": item.tier, "version": item.version}
        self._emit("state.written", {**told, "deleted": item.value is None})

    async def move_session(self, former: Identity, identity: Identity, *, ttl: float) -> None:
        """A session has another id from now on: its state goes along. One round trip where it has none."""
        before = session_key(former.owner.claims, former.key.id)
        after = session_key(identity.owner.claims, identity.key.id)
        try:
            for _ in range(MOST_TURNS):
                held = await self.reader.one(before, strong=True)
                if held is None or held.value is None:
                    return
                tier = held.tier if held.named else None
                self.wrote(await self.writer.write(after, held.value, tier=tier, expires_at=self.now() + ttl))
                with contextlib.suppress(StateConflict):  # a request under the old id wrote meanwhile: that goes along
                    self.wrote(await self.writer.write(before, None, tier=None, if_version=held.version))
                    return
        except (StoreError, NotDurable) as exc:
            log.warning("a session has a new id, and its state could not go along (%s): it is under the old one", exc)
            self._emit("state.write_dropped", {"session": identity.key.id})

    async def everywhere(self, key: StateKey) -> Sequence[Item]:
        """An item as the backend has it, and as the documents do; pointers as they are. One round trip to each."""
        kept = () if self._lasting is None else await self._lasting.load((key,))
        return [item for item in (*await answered(self._store.load((key,))), *kept) if item is not None]

    async def revisions(self, key: StateKey, *, before: int | None, most: int) -> Sequence[StateRevision]:
        """The versions that the documents had of an item, newest first. One whose file is gone hides no other."""
        revisions = await self.documents.history(key, before=before, most=most)
        found = []
        items = await self.reader.each_whole([revision.item for revision in revisions])
        for item, (former, stored_at) in zip(items, revisions, strict=True):
            lost = str(item) if isinstance(item, FileCorrupt) else ""
            found.append(revision_of(former if isinstance(item, FileCorrupt) else item, stored_at, lost=lost))
        return found

    async def list(self, tenant: str, namespace: str, *, prefix: str, after: str | None, most: int) -> Page:
        """A page of what the backend and the documents have together; of each item the higher version, pointers as they
        are."""
        page = await answered(self._store.list(tenant, namespace, prefix=prefix, after=after, most=most))
        if self._lasting is None:
            return page
        kept = await self._lasting.list(tenant, namespace, prefix=prefix, after=after, most=most)
        # Up to here both pages are whole. What lies beyond comes with the next one.
        ends = [end for end in (page.after, kept.after) if end is not None]
        end = min(ends, default=None)
        found = {item.key: item for item in page.items}
        last = {item.key: item for item in kept.items}
        beside = [item for item in kept.items if item.key not in found]
        known = await answered(self._store.load([item.key for item in beside])) if beside else ()
        # Of an `immediate` item that the documents did not list they may know of a deletion, as the backend of others.
        gone = [
            item.key
            for item in page.items
            if item.tier == "immediate" and item.key not in last and (end is None or item.key.key <= end)
        ]
        buried = await self._lasting.load(gone) if gone else ()
        for item in (*kept.items, *known, *buried):
            if item is not None and ((there := found.get(item.key)) is None or there.version < item.version):
                found[item.key] = item
        items = sorted(
            (item for item in found.values() if item.value is not None and (end is None or item.key.key <= end)),
            key=lambda item: item.key.key,
        )
        room = min(most, _as_many_as_fit(items))
        if len(items) > room:
            items = items[:room]
            end = items[-1].key.key
        return Page(items, end)


def _as_many_as_fit(items: Sequence[Item]) -> int:
    """How many of these a page may have: it ends with the one whose value, or whose file, brings it to `PAGE_BYTES`."""
    size = 0
    for place, item in enumerate(items):
        pointer = pointer_of(item.value)
        size += pointer.size if pointer is not None else size_of(item.value or "")
        if size >= PAGE_BYTES:
            return place + 1
    return len(items)
