"""Files of state: promoted items, snapshots, backups and archives, with where they come from, and back again."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import NamedTuple

import anyio

from traffic_cop_middleware.abstractions.files.bundles import (
    Bundled,
    SnapshotHead,
    backup_bytes,
    backup_snapshots,
    snapshot_bytes,
    snapshot_items,
)
from traffic_cop_middleware.abstractions.files.garbage import Collected, collect_garbage
from traffic_cop_middleware.abstractions.files.house import FileHouse
from traffic_cop_middleware.abstractions.files.lineage import Lineage, StoredFile, branches_of, stored
from traffic_cop_middleware.abstractions.files.pointers import pointer_of, pointer_text
from traffic_cop_middleware.abstractions.files.reconciling import Reconciled, reconcile
from traffic_cop_middleware.abstractions.files.saga import Parent, Why
from traffic_cop_middleware.abstractions.json_texts import loads
from traffic_cop_middleware.abstractions.state.arguments import check_words
from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction
from traffic_cop_middleware.abstractions.state.snapshots import items_of
from traffic_cop_middleware.contracts import MICRO, FileKind, FileRow, FileStatus, Item, Promotion, StateKey
from traffic_cop_middleware.contracts.files import FILE_KINDS
from traffic_cop_middleware.contracts.objects import MOST_OBJECT
from traffic_cop_middleware.contracts.state import size_of
from traffic_cop_middleware.errors import ConfigurationError, FileCorrupt, NoFile, StoreError

log = logging.getLogger("traffic_cop.files")

ASKED = Why("cache", 1.0, ("it was asked for",))
EVERYTHING = "*"
"""What stands for the prefix "" where a key is wanted."""
BACKUPS = "tc.backups"
GRACE = 86_400.0
RECONCILE_PERIOD = 60.0
COLLECT_TURNS = 60
RELATIVES = 100
POINTED_AT_MOST = 10


class Restored(NamedTuple):
    """What a restore wrote: the `file` that holds it as it is now (its lineage has where it was restored from), and how
    many items were written, as new versions."""

    file: StoredFile
    items: int


class FileManagementAbstraction:
    """The files of one tenant; `cop.files` are the app's own (tenant "").

    A file is content that never changes, with a row that says what it is of, and edges to the files that it comes from.
    What is written twice is written once: the same version of the same item is one file.

    Every method raises:
        StoreUnavailable: the files or their metadata are away; asked again later, it goes on where it was.
        StoreError: one of them answered with an error.
    """

    def __init__(self, house: FileHouse, state: StateManagementAbstraction, *, grace: float = GRACE) -> None:
        self._house = house
        self._state = state
        self._grace = grace

    def of_tenant(self, tenant: str) -> FileManagementAbstraction:
        """The files of another tenant: for programs. No operation of one tenant's files reaches another's."""
        return FileManagementAbstraction(self._house, self._state.of_tenant(tenant), grace=self._grace)

    # From the state

    async def promote(self, namespace: str, key: str, *, clean_up: bool = False) -> StoredFile:
        """Make a file of an item as it is now.

        With `clean_up` a pointer takes the place of the value in the backend and the documents, if the item is still at
        that version; reading follows it, so that callers see no difference but the time it takes.

        Raises:
            LookupError: there is no such item.
            FileQuarantined: something else is where the file was to go.
        """
        return await self._keep(namespace, key, "promoted", clean_up=clean_up)

    async def archive(self, namespace: str, key: str) -> StoredFile:
        """Make a file of an item, and remove the hot copy: a pointer stands in its place, which reading follows.

        Raises: as `promote`.
        """
        return await self._keep(namespace, key, "archive", clean_up=True)

    async def _keep(self, namespace: str, key: str, kind: FileKind, *, clean_up: bool) -> StoredFile:
        where = self._key(namespace, key)
        reader = self._state.house.reader
        raw = await reader.raw(where, strong=True)
        if raw is None or raw.value is None:
            raise LookupError(f"there is no item {namespace}/{key} to make a file of")
        item = await reader.whole(raw)
        why = ASKED._replace(former=item.tier)
        row = await self._house.keep_item(item, kind=kind, why=why)
        for _ in range(POINTED_AT_MOST):
            if not clean_up or not await self._state.house.writer.reshape(raw, pointer_text(row)):
                return stored(row)
            led_to, row = row, await self._house.keep_item(item, kind=kind, why=why)
            if row.id == led_to.id:
                return stored(row)
            # It was deleted before the pointer led to it, so there is another one.
        raise StoreError(f"the files of {namespace}/{key} are deleted as fast as they are made")

    async def snapshot(self, namespace: str, *, prefix: str = "") -> StoredFile:
        """Make a file of all items whose keys begin with `prefix`, each as it is at a moment during the call.

        Raises:
            ConfigurationError: they come to more than 64 MB: take several prefixes.
        """
        return stored(await self._snapshot(namespace, prefix))

    async def _snapshot(self, namespace: str, prefix: str, *, parents: Sequence[Parent] = ()) -> FileRow:
        where = self._key(namespace, prefix or EVERYTHING)
        taken_at = self._house.now()
        items: list[Item] = []
        size, content, count = 0, b"", 0
        async for raw in items_of(self._state, namespace, prefix=prefix):
            items.append(await self._state.house.reader.whole(raw))
            size += size_of(items[-1].value or "")
            if size > MOST_OBJECT:
                break
        else:
            content, count = snapshot_bytes(SnapshotHead(namespace, prefix, taken_at), items)
        if max(size, len(content)) > MOST_OBJECT:
            raise ConfigurationError(
                f"snapshot({namespace!r}, prefix={prefix!r}): the items come to more than {MOST_OBJECT} bytes. Take "
                "several prefixes"
            )
        return await self._house.saga.keep(
            where,
            int(taken_at * MICRO),
            content,
            kind="snapshot",
            why=ASKED,
            parents=parents,
            about={"prefix": prefix, "items": count},
        )

    async def backup(self, namespaces: Sequence[str], *, name: str = "backup") -> StoredFile:
        """Take a snapshot of each namespace, and make a file that names them all with their hashes."""
        if isinstance(namespaces, str) or not namespaces:
            raise ConfigurationError(f"backup({namespaces!r}): a list of namespaces, as in ['order', 'cart']")
        check_words(StateKey(self._state.tenant, "-", name))
        taken_at = self._house.now()
        snapshots = [await self._snapshot(namespace, "") for namespace in dict.fromkeys(namespaces)]
        return stored(await self._backup(name, taken_at, snapshots))

    async def _backup(
        self, name: str, taken_at: float, snapshots: Sequence[FileRow], *, parents: Sequence[Parent] = ()
    ) -> FileRow:
        return await self._house.saga.keep(
            StateKey(self._state.tenant, BACKUPS, name),
            int(taken_at * MICRO),
            backup_bytes(name, taken_at, snapshots),
            kind="backup",
            why=ASKED,
            parents=[*parents, *(Parent(row.id, "part_of") for row in snapshots)],
            about={"snapshots": len(snapshots)},
        )

    # Back into the state

    async def restore(self, file: str | StoredFile, *, exact: bool = False) -> Restored:
        """Write what a file holds as new versions, in the tiers where the items were kept. What was written since then
        stays in the history.

        All that is to be written is read and checked first, so that of a corrupt file nothing is written. What a
        snapshot's items had as their end still holds: those whose time is over stay away. With `exact`, items under a
        snapshot's prefix that are not in it are deleted.

        Raises:
            NoFile: this tenant has no such file.
            FileCorrupt: its content is not what was kept, or not there.
        """
        row = await self._row(file)
        if row.kind == "snapshot":
            return await self._restore_snapshots(row, [row], exact=exact)
        if row.kind == "backup":
            return await self._restore_snapshots(row, await self._parts(row), exact=exact)
        text = (await self._content(row)).decode()
        loads(text)
        where = row.key
        held = await self._state.house.reader.raw(where, strong=True)
        tier = held.tier if held is not None and held.named else loads(row.about).get("tier")
        item = await self._state.house.writer.write(where, text, tier=tier)
        self._state.house.wrote(item)
        made = await self._house.keep_item(
            item._replace(value=text),
            kind="promoted",
            why=ASKED._replace(former=item.tier, reasons=(f"restored from the file {row.id}",)),
            parents=[Parent(row.id, "restored_from")],
        )
        return Restored(stored(made), 1)

    async def _parts(self, backup: FileRow) -> list[FileRow]:
        named = backup_snapshots(await self._content(backup))
        rows = await self._house.metadata.load(self._state.tenant, [id for id, _ in named])
        found: list[FileRow] = []
        for (id, digest), row in zip(named, rows, strict=True):
            if row is None or row.status != "done" or row.sha256 != digest:
                raise FileCorrupt(f"the backup {backup.id} names the snapshot {id}, which is not there as it was")
            found.append(row)
        return found

    async def _restore_snapshots(self, asked: FileRow, rows: Sequence[FileRow], *, exact: bool) -> Restored:
        read: list[tuple[SnapshotHead, list[Bundled]]] = []
        for row in rows:  # all of them before anything is written
            read.append(snapshot_items(await self._content(row)))
        now, count = self._house.now(), 0
        house, tenant = self._state.house, self._state.tenant
        for head, items in read:
            kept = set()
            for each in items:
                if each.expires_at is not None and each.expires_at <= now:
                    continue
                key = StateKey(tenant, head.namespace, each.key)
                item = await house.writer.write(key, each.text, tier=each.tier, expires_at=each.expires_at)
                house.wrote(item)
                kept.add(each.key)
                count += 1
            if exact:
                async for item in items_of(self._state, head.namespace, prefix=head.prefix):
                    if item.key.key not in kept:
                        await self._state.delete(head.namespace, item.key.key)
        parents = [Parent(asked.id, "restored_from")]
        made = [
            await self._snapshot(head.namespace, head.prefix, parents=parents if asked.kind == "snapshot" else ())
            for head, _ in read
        ]
        if asked.kind == "snapshot":
            return Restored(stored(made[0]), count)
        return Restored(stored(await self._backup(asked.key.key, self._house.now(), made, parents=parents)), count)

    # What there is

    async def get(self, file: str) -> StoredFile | None:
        """A file by its id, whatever its status; `None` where this tenant has none."""
        (row,) = await self._house.metadata.load(self._state.tenant, (file,))
        return None if row is None else stored(row)

    async def read(self, file: str | StoredFile) -> bytes:
        """The content of a file. Of a promoted item or an archive it is JSON; of a snapshot JSON lines, a head first.

        Raises:
            NoFile: this tenant has no such file.
            FileCorrupt: it is not what was kept.
        """
        return await self._content(await self._row(file))

    async def list(
        self, *, kind: FileKind | None = None, after: str | None = None, most: int = 100
    ) -> Sequence[StoredFile]:
        """This tenant's files in the order of their ids; the next page is `after` the last id of this one."""
        if kind is not None and kind not in FILE_KINDS:
            raise ConfigurationError(f"kind={kind!r}: one of {', '.join(map(repr, FILE_KINDS))}, or None")
        rows = await self._house.metadata.list(self._state.tenant, kind=kind, after=after, most=most)
        return [stored(row) for row in rows]

    async def of_item(self, namespace: str, key: str, *, most: int = 100) -> Sequence[StoredFile]:
        """The files of an item, newest version first."""
        rows = await self._house.metadata.of_item(self._key(namespace, key), most=most)
        return [stored(row) for row in rows]

    async def history(self, namespace: str, key: str, *, most: int = 100) -> Sequence[Promotion]:
        """When an item was promoted or demoted, and why; newest first."""
        return await self._house.metadata.history(self._key(namespace, key), most=most)

    async def lineage(self, file: str | StoredFile, *, most: int = RELATIVES) -> Lineage:
        """What a file comes from, and what came from it, as trees of up to `most` files each; `str` of it draws them.

        Raises:
            NoFile: this tenant has no such file.
        """
        row = await self._row(file)
        tenant, metadata = self._state.tenant, self._house.metadata
        before = await metadata.ancestors(tenant, row.id, most=most)
        after = await metadata.descendants(tenant, row.id, most=most)
        return Lineage(stored(row), branches_of(row.id, before), branches_of(row.id, after))

    async def delete(self, file: str | StoredFile, *, reason: str = "it was asked for") -> bool:
        """Delete a file; false where there was none. Its row says so from now on, and its object goes with the next
        `collect_garbage` after the grace, unless another file has the same content.

        Raises:
            ConfigurationError: its item's value is in it, or is about to be; or a backup names it.
        """
        id = file.id if isinstance(file, StoredFile) else file
        (row,) = await self._house.metadata.load(self._state.tenant, (id,))
        if row is None or row.status == "deleted":
            return False
        await self._check_unneeded(row)
        deleted = await self._set_status(row, "deleted", reason, unless="deleted")
        try:
            await self._check_unneeded(row)  # who lets a pointer lead to it looks at its row after that (`_keep`)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._set_status(row, row.status, row.reason, unless="pending")
            raise
        return deleted

    async def _set_status(self, row: FileRow, status: FileStatus, reason: str, *, unless: FileStatus) -> bool:
        tenant, now = self._state.tenant, self._house.now()
        return await self._house.metadata.set_status(tenant, row.id, status, reason=reason, unless=unless, at=now)

    async def _check_unneeded(self, row: FileRow) -> None:
        if row.kind in ("promoted", "archive"):
            items = await self._state.house.everywhere(row.key)
            if any(self._needs(item, row) for item in items):
                raise ConfigurationError(
                    f"the file {row.id} has the value of {row.key.namespace}/{row.key.key}: delete or rewrite that "
                    "first"
                )
        elif row.kind == "snapshot":
            for near in await self._house.metadata.descendants(self._state.tenant, row.id):
                if near.relation == "part_of" and near.via == row.id and near.row.status == "done":
                    raise ConfigurationError(f"the backup {near.row.id} names the snapshot {row.id}: delete that first")

    def _needs(self, item: Item, row: FileRow) -> bool:
        """Whether an item's value is in this file, or waits to be."""
        promoter, pointer = self._state.house.promoter, pointer_of(item.value)
        if pointer is not None or item.version != row.version or row.kind != "promoted":
            return pointer is not None and pointer.file == row.id
        return item.tier != "cache" and promoter is not None and promoter.needs_file(item)

    # Chores

    async def reconcile(self, *, dry_run: bool = False, older_than: float = 60.0) -> Reconciled:
        """Bring to an end what was begun over `older_than` seconds ago and never finished, of all tenants, and tell
        what was done with each; `dry_run` only tells. `str` of it is for people.
        """
        return await reconcile(self._house, self._state, older_than=older_than, dry_run=dry_run)

    async def collect_garbage(self, *, dry_run: bool = False, grace: float | None = None) -> Collected:
        """Remove objects that no file names and that are older than `grace` seconds (`files_grace`), of all tenants;
        each only if it is still the one that was looked at. `dry_run` only tells. `str` of it is for people.
        """
        return await collect_garbage(self._house, grace=self._grace if grace is None else grace, dry_run=dry_run)

    def migration_sql(self) -> str:
        """The SQL that the metadata's database needs, once, as shipped with this package; "" where there is none.

        It may be run again at any time. `python -m traffic_cop_middleware.adapters.supabase` prints it too.
        """
        return self._house.metadata.migration

    async def keep_clean(self) -> None:
        """Reconcile every minute or so, and collect garbage every hour; until cancelled."""
        turns = 0
        while True:
            await anyio.sleep(RECONCILE_PERIOD * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret
            turns += 1
            try:
                await self.reconcile()
                if turns % COLLECT_TURNS == 0:
                    await self.collect_garbage()
            except StoreError as exc:
                log.warning("files could not be cleaned up (%s); the next time will do", exc)

    # Within

    async def _row(self, file: str | StoredFile) -> FileRow:
        id = file.id if isinstance(file, StoredFile) else file
        (row,) = await self._house.metadata.load(self._state.tenant, (id,))
        if row is None or row.status != "done":
            status = "" if row is None else f" (it is {row.status}{': ' + row.reason if row.reason else ''})"
            raise NoFile(f"there is no file {id!r} here{status}: await cop.files.list() tells which there are")
        return row

    async def _content(self, row: FileRow) -> bytes:
        return await self._house.reader.content(row.path, sha256=row.sha256, size=row.size)

    def _key(self, namespace: str, key: str) -> StateKey:
        where = StateKey(self._state.tenant, namespace, key)
        check_words(where)
        return where
