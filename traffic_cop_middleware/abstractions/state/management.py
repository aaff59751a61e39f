"""State of the app, of its sessions, users and workflows: one versioned API over memory, Redis and documents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from traffic_cop_middleware.abstractions.json_texts import loads
from traffic_cop_middleware.abstractions.promotion.explanation import Explanation
from traffic_cop_middleware.abstractions.state.arguments import (
    Consistency,
    check_count,
    check_text,
    check_version,
    check_words,
    end_of,
    expected_of,
    is_strong,
    json_of,
)
from traffic_cop_middleware.abstractions.state.house import StateHouse
from traffic_cop_middleware.abstractions.state.items import (
    StateChange,
    StateItem,
    StatePage,
    StateRevision,
    StateSnapshot,
    items_of,
)
from traffic_cop_middleware.abstractions.state.merge_patch import merge_patch
from traffic_cop_middleware.abstractions.state.near_cache import MISSING
from traffic_cop_middleware.abstractions.state.synchronisation import Push, StatePushes
from traffic_cop_middleware.abstractions.state.taking_over import How, Pushed, take_over
from traffic_cop_middleware.abstractions.state.writing import conflict
from traffic_cop_middleware.contracts import StateKey, Tier
from traffic_cop_middleware.contracts.state import is_pointer
from traffic_cop_middleware.errors import ConfigurationError, StateConflict

UPDATE_TRIES = 64
MOST_LISTED = 1000


class StateManagementAbstraction:
    """The state of one tenant; `cop.state` is the app's own (tenant "").

    A value is JSON. Each item has one version, an integer below 2**53 that grows with each write, also over a deletion
    and over a store that lost everything.

    `tier` says what a put's acknowledgement means, and where the item is kept: `"cache"`: in the backend only (memory:
    until this process ends; Redis: until Redis loses it); `"delayed"`: in the backend and its outbox, the documents get
    it within seconds; `"immediate"`: in the documents. Left out, the item stays in its tier; a new one is `"cache"`.

    `consistency="near"` may give what this worker has kept: as fresh as the backend's news of what others write, which
    is milliseconds while they come, and at most `STALE_BOUND` seconds where the connection dies in silence. A worker
    always sees its own writes. `"strong"` asks the backend, and of an `"immediate"` item the documents too: so what was
    acknowledged is there also after a fail-over of Redis that lost it. Changes (`patch`, `update`, `delete`) read so.

    Every method raises:
        StoreUnavailable: a store is away, or not in time (`StoreTimeout`); a write may have happened or not.
        StoreError: a store answered with an error.
        ConfigurationError: an argument can't be used.
    """

    def __init__(self, house: StateHouse, pushes: StatePushes, *, tenant: str = "") -> None:
        self.house = house
        """What the state of all tenants has in common."""
        self._pushes = pushes
        self._tenant = tenant

    @property
    def tenant(self) -> str:
        """Whose state this is."""
        return self._tenant

    def of_tenant(self, tenant: str) -> StateManagementAbstraction:
        """The state of another tenant: for programs. In a request the tenant comes from verified claims (`state_of`).

        No operation of one tenant's state reaches another's.
        """
        check_words(StateKey(tenant, "-", "-"))
        return StateManagementAbstraction(self.house, self._pushes, tenant=tenant)

    # One item

    async def get(self, namespace: str, key: str, *, consistency: Consistency = "near") -> StateItem | None:
        """An item; `None` where there is none, it was deleted, or has expired. No round trip where it is kept near."""
        item: Any = MISSING
        if consistency == "near":
            item = self.house.reader.kept(StateKey(self._tenant, namespace, key))
        if item is MISSING:
            item = await self.house.reader.one(self._key(namespace, key), strong=is_strong(consistency))
        elif item is not None and is_pointer(item.value):
            item = await self.house.reader.whole(item)
        return None if item is None or item.value is None else StateItem(item)

    async def get_many(
        self, namespace: str, keys: Sequence[str], *, consistency: Consistency = "near"
    ) -> dict[str, StateItem]:
        """Those of the items that there are, by key, as in `list`. One round trip for all that is not kept near."""
        if isinstance(keys, str):
            raise ConfigurationError(f"get_many({namespace!r}, {keys!r}): keys is a list, as in [{keys!r}]")
        asked = [self._key(namespace, key) for key in keys]
        found = await self.house.reader.several_raw(asked, strong=is_strong(consistency))
        there = [item for item in found.values() if item is not None and item.value is not None]
        return {item.key: item for item in items_of(there, await self.house.reader.each_whole(there))}

    async def put(
        self,
        namespace: str,
        key: str,
        value: Any,
        *,
        if_version: int | None = None,
        create_only: bool = False,
        ttl: float | None = None,
        tier: Tier | None = None,
    ) -> StateItem:
        """Write an item, and give it with its new version. One round trip to the backend.

        `if_version` is the version that it must have (0: it must not exist); `create_only` the same as 0. After `ttl`
        seconds it is gone, everywhere; without one it stays.

        Raises:
            StateConflict: it has another version; the error has what is there.
            NotDurable: the tier can't be kept as configured.
        """
        where = self._key(namespace, key)
        text = json_of(where, value, most=self.house.most)
        expected = expected_of(if_version, create_only=create_only)
        item = await self.house.writer.write(where, text, tier=tier, if_version=expected, expires_at=self._end(ttl))
        self.house.wrote(item)
        return StateItem(item)

    async def patch(
        self,
        namespace: str,
        key: str,
        patch: Any,
        *,
        if_version: int | None = None,
        ttl: float | None = None,
        tier: Tier | None = None,
    ) -> StateItem:
        """Merge into an item (RFC 7396: members are replaced, `None` removes one), and give the result.

        Patches of several at once that name different members all come through. Without `ttl` an item keeps its end.
        Two round trips, and two more for each write of others that came between.

        Raises:
            StateConflict: with `if_version`, it has another version; without, it changed 64 times meanwhile.
            NotDurable: the tier can't be kept as configured.
        """
        where = self._key(namespace, key)

        def merged(value: Any) -> Any:
            try:
                return merge_patch(value, patch)
            except ValueError as exc:
                raise ConfigurationError(f"the patch of {namespace}/{key} can't be merged: {exc}") from exc

        return await self._change(where, merged, if_version, ttl, tier)

    async def update(
        self,
        namespace: str,
        key: str,
        fn: Callable[[Any], Any],
        *,
        ttl: float | None = None,
        tier: Tier | None = None,
    ) -> StateItem:
        """Make an item's value `fn(value)` (of `None` where there is none), whatever others write at the same time.

        `fn` is plain and quick, and may be called several times. Round trips as in `patch`.

        Raises:
            StateConflict: it changed 64 times meanwhile.
            NotDurable: the tier can't be kept as configured.
        """
        return await self._change(self._key(namespace, key), fn, None, ttl, tier)

    async def explain(self, namespace: str, key: str) -> Explanation | None:
        """Why an item is kept where it is, and where it would go if it were judged now; `None` where there is none.

        `print` it: `str` of it is for people. Changes nothing.

        Raises:
            ConfigurationError: nothing is judged here (`promotion=False`, or documents that don't last).
        """
        where = self._key(namespace, key)
        judge, promoter = self.house.judge, self.house.promoter
        if promoter is None or judge is None:
            raise ConfigurationError(
                "cop.state.explain: promotion judges nothing here. Write "
                "TrafficCop(documents='sqlite:///state.db'), and leave out promotion=False"
            )
        item = await self.house.reader.one(where, strong=True)
        return None if item is None or item.value is None else await promoter.explain(item, judge)

    async def flush(self) -> int:
        """Take what waits in the outbox where it belongs, now, of all tenants; that happens by itself within a second
        or so. Gives how many entries were settled.

        Raises:
            StoreError: a store is away, or refuses; what was not settled waits on.
        """
        return 0 if self.house.flusher is None else await self.house.flusher.flush()

    async def promote(self, namespace: str, key: str) -> StateItem | None:
        """Judge an item now, and move it where it deserves to be; the item as it is then. One whose tier a caller named
        stays where it is.

        Raises:
            ConfigurationError: as `explain`.
        """
        where = self._key(namespace, key)
        if self.house.rejudging is None:
            raise ConfigurationError("cop.state.promote: promotion judges nothing here, see cop.state.explain")
        await self.house.reader.raw(where, strong=True)  # the backend knows it then, if only the documents did
        await self.house.rejudging.judge((where,), trigger="explicit")
        self.house.reader.wrote(where)
        return await self.get(namespace, key, consistency="strong")

    async def delete(self, namespace: str, key: str, *, if_version: int | None = None) -> bool:
        """Delete an item; false where there was none. One round trip, two without `if_version`.

        Raises:
            StateConflict: it has another version than `if_version`.
        """
        where = self._key(namespace, key)
        expected = expected_of(if_version)
        if not expected:
            found = await self.house.reader.raw(where, strong=True)
            if found is None or found.value is None:
                return False
        item = await self.house.writer.write(where, None, tier=None, if_version=expected)
        self.house.wrote(item)
        return True

    async def _change(
        self,
        key: StateKey,
        fn: Callable[[Any], Any],
        if_version: int | None,
        ttl: float | None,
        tier: Tier | None,
    ) -> StateItem:
        expected = expected_of(if_version)
        ends = self._end(ttl)
        self.house.writer.check(tier)
        for turn in range(UPDATE_TRIES):
            found = await self.house.reader.one(key, strong=True)
            there = found is not None and found.value is not None
            version = found.version if found is not None and there else 0
            if expected is not None and expected != version:
                raise conflict(key, expected, found)
            value = fn(loads(found.value) if found is not None and found.value is not None else None)
            end = ends if ttl is not None or found is None or not there else found.expires_at
            try:
                item = await self.house.writer.write(
                    key, json_of(key, value, most=self.house.most), tier=tier, if_version=version, expires_at=end
                )
            except StateConflict:
                if expected is not None or turn == UPDATE_TRIES - 1:
                    raise
                continue
            self.house.wrote(item)
            return StateItem(item)
        raise AssertionError("the last turn returns or raises")

    # Several

    async def list(self, namespace: str, *, prefix: str = "", cursor: str | None = None, most: int = 100) -> StatePage:
        """Items in the order of their keys (by code point): those whose key begins with `prefix`.

        From the beginning, or on from a page's `cursor`; at most 1,000 at once, and those that bring it to 16 MB. An
        item that is written meanwhile may be in a page or not; one that was there all the time is in exactly one. One
        whose file is gone, or is not what was kept, hides no other (`StateItem.lost`).
        """
        self._check_place(namespace, prefix)
        check_text("cursor", cursor, none=True)
        check_count("most", most, MOST_LISTED)
        page = await self.house.list(self._tenant, namespace, prefix=prefix, after=cursor, most=most)
        return StatePage(items_of(page.items, await self.house.reader.each_whole(page.items)), page.after)

    async def watch(
        self, namespace: str, *, prefix: str = "", from_cursor: str | None = None
    ) -> AsyncIterator[StateChange]:
        """Each write of an item whose key begins with `prefix`, in the order of each item's versions, without end.

        From now on, or on from the `cursor` of a change: without a gap, and nothing twice. Read the value by `get`; it
        may be a newer one by then.

        Raises:
            StateCursorLost: the backend does not remember as far back (it keeps about 10,000 writes of each of its
                parts, and none over its own end): list the items, and watch from there.
        """
        self._check_place(namespace, prefix)
        check_text("from_cursor", from_cursor, none=True)
        try:
            async for change in self.house.watches.watch(
                self._tenant, namespace, prefix=prefix, from_cursor=from_cursor
            ):
                yield change
        except ValueError as exc:
            raise ConfigurationError(f"from_cursor={from_cursor!r}: the cursor of a change, or None. {exc}") from exc

    # What lasts

    async def history(
        self, namespace: str, key: str, *, before: int | None = None, most: int = 20
    ) -> Sequence[StateRevision]:
        """The versions that the documents had, newest first; only those below the version `before`.

        Of `delayed` items that are written often, versions may never reach the documents. At least the last 100 stay,
        but those whose files were deleted.
        """
        where = self._key(namespace, key)
        check_version("before", before)
        check_count("most", most, MOST_LISTED)
        return await self.house.revisions(where, before=before, most=most)

    async def snapshot(self, namespace: str, *, prefix: str = "") -> StateSnapshot:
        """Keep the items as they are now, in the documents. Each is kept as it was at a moment during the call.

        Raises:
            NotDurable: there are no documents that last (`documents=`).
        """
        self._check_place(namespace, prefix)
        return await self.house.snapshots.take(self, namespace, prefix=prefix)

    async def restore(self, snapshot: str | StateSnapshot, *, exact: bool = False) -> int:
        """Write the items of a snapshot again, as new versions. Gives how many there were.

        With `exact`, items under its prefix that are not in it are deleted. Items whose time is over stay away.

        Raises:
            NoSnapshot: this tenant has none of this id.
        """
        id = snapshot.id if isinstance(snapshot, StateSnapshot) else snapshot
        check_text("snapshot", id)
        return await self.house.snapshots.restore(self, id, exact=exact)

    async def snapshots(self) -> Sequence[StateSnapshot]:
        """This tenant's snapshots, oldest first."""
        return await self.house.snapshots.all_of(self._tenant)

    # Other services

    async def push(self, namespace: str, key: str, *, to: str | Iterable[str]) -> Sequence[Push]:
        """Push an item as it is now to services (`TrafficCop(state_services={"billing": …})`), and give what became of
        that: `done`, `pending` (it is tried again, with the newest version), or `failed` with the reason.

        Raises:
            ConfigurationError: a service of that name is not known.
        """
        return await self._pushes.push(self._key(namespace, key), to)

    async def pushes(self, namespace: str, key: str) -> Sequence[Push]:
        """What became of the pushes of an item: the last one to each service."""
        return await self._pushes.status(self._key(namespace, key))

    async def take_over(self, pushed: Pushed, *, how: How = "last", tier: Tier | None = None) -> StateItem | None:
        """Take an item that another service pushed, under this tenant; what is here of it then.

        `how`: "last" takes its value and its end, "merge" merges it into the one here (RFC 7396), "strict" is "last"
        unless the item was changed here since the last time. What comes twice, or after a newer one, changes nothing;
        who gets an error, or dies half-way, takes the same item again. `tier` as in `put`.

        Raises:
            StateConflict: "strict", and it was changed here; the error has both versions.
            ConfigurationError: the item is of another tenant, or can't be kept.
            NotDurable: the tier can't be kept as configured.
        """
        if how not in ("last", "merge", "strict"):
            raise ConfigurationError(f"how={how!r} must be 'last', 'merge' or 'strict'")
        if pushed.tenant != self._tenant:
            raise ConfigurationError(
                f"the item is of the tenant {pushed.tenant!r}, and this is the state of {self._tenant!r}: where it may "
                "be taken, write cop.state.of_tenant(…).take_over(…)"
            )
        where = self._key(pushed.namespace, pushed.key)
        check_version("version", pushed.version, none=False)
        item = await take_over(self.house, where, pushed, how=how, tier=tier)
        return None if item is None or item.value is None else StateItem(item)

    # Within

    def _key(self, namespace: str, key: str) -> StateKey:
        where = StateKey(self._tenant, namespace, key)
        check_words(where)
        return where

    def _check_place(self, namespace: str, prefix: str) -> None:
        check_text("prefix", prefix)
        self._key(namespace, prefix or "-")

    def _end(self, ttl: float | None) -> float | None:
        return end_of(ttl, self.house.now())
