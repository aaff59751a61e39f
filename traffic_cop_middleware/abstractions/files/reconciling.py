"""Bringing to an end what a process that died had begun.

A `pending` row says all that is needed: the version and hash of what was promoted, and what the file comes from. Where
the object is there, what is left is to say so. Where it is not, the content may still be had: the item at that version,
or the documents' history of it. Else it is abandoned: whoever began it was told of no success, and what is newer is
promoted by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from traffic_cop_middleware.abstractions.files.house import FileHouse
from traffic_cop_middleware.abstractions.files.naming import content_of, hash_of
from traffic_cop_middleware.abstractions.files.pointers import pointer_of
from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction
from traffic_cop_middleware.contracts import FileRow
from traffic_cop_middleware.contracts.state import is_pointer
from traffic_cop_middleware.errors import FileQuarantined, StoreError, StoreUnavailable

PAGE = 100
MOST_PAGES = 10_000

LOOKS = 3
"""How often an object is looked at that is there, and gone when it is read."""

Action = Literal["finished", "made", "abandoned", "quarantined", "failed"]


class Reconciliation(NamedTuple):
    """A row, and what was done with it: `finished`: the object was there; `made`: its content was still to be had;
    `abandoned`, `quarantined`: see `reason`; `failed`: it stays as it is, for that `reason`."""

    tenant: str
    file: str
    namespace: str
    key: str
    version: int
    action: Action
    reason: str


class Reconciled(NamedTuple):
    """What was done with each row; `dry_run`: what would be."""

    rows: Sequence[Reconciliation]
    dry_run: bool

    def __str__(self) -> str:
        would = "would be " if self.dry_run else ""
        lines = [
            f"{row.file[:12]} {row.namespace}/{row.key} version {row.version}: "
            f"{'' if row.action == 'failed' else would}{row.action} ({row.reason})"
            for row in self.rows
        ]
        return "\n".join([*lines, f"{len(self.rows)} files were begun and not finished"])


async def reconcile(
    house: FileHouse, state: StateManagementAbstraction, *, older_than: float, dry_run: bool
) -> Reconciled:
    """Go through the pending rows of all tenants. `state` is any tenant's. One that can't be seen to holds up no other.

    Raises:
        StoreUnavailable: a store is away; the rows before it are done.
    """
    done: list[Reconciliation] = []
    after: str | None = None
    before = house.now() - older_than
    for _ in range(MOST_PAGES):
        rows = await house.metadata.pending(before=before, after=after, most=PAGE)
        for row in rows:
            try:
                done.append(await _see_to(house, state, row, dry_run=dry_run))
            except StoreUnavailable:
                raise
            except StoreError as exc:
                done.append(_told(row, "failed", str(exc)))
                house.emit("file.not_reconciled", {"file": row.id, "path": row.path, "reason": str(exc)})
        if len(rows) < PAGE:
            break
        after = rows[-1].id
    return Reconciled(done, dry_run)


async def _see_to(
    house: FileHouse, state: StateManagementAbstraction, row: FileRow, *, dry_run: bool
) -> Reconciliation:
    for _ in range(LOOKS):
        found = await house.objects.stat(row.path)
        content = await _content(state, row) if found is None else None
        if found is None and content is None:
            return await _give_up(house, state, row, dry_run=dry_run)
        if not dry_run:
            try:
                await house.saga.resume(row, content)
            except FileQuarantined as exc:
                return _told(row, "quarantined", str(exc))
            except LookupError:
                continue  # it was there a moment ago
        if found is None:
            return _told(row, "made", "its content was still to be had")
        return _told(row, "finished", "the object was there")
    raise StoreError(f"{house.objects.name}: the object {row.path} is there and gone, again and again")


async def _give_up(
    house: FileHouse, state: StateManagementAbstraction, row: FileRow, *, dry_run: bool
) -> Reconciliation:
    """There is no object, and no content for one."""
    status: Literal["quarantined", "abandoned"] = "abandoned"
    reason = "there is no object, and the item is gone or newer"
    if await _is_pointed_at(state, row):
        status, reason = "quarantined", "the item's value was in this object, and it is gone"
    if not dry_run:
        tenant, now = row.key.tenant, house.now()
        if not await house.metadata.set_status(tenant, row.id, status, reason=reason, unless="done", at=now):
            return _told(row, "finished", "whoever had begun it has ended meanwhile")
        house.emit(f"file.{status}", {"file": row.id, "path": row.path, "reason": reason})
    return _told(row, status, reason)


async def _content(state: StateManagementAbstraction, row: FileRow) -> bytes | None:
    """What the file was to hold, where the item or its history still has it."""
    if row.kind not in ("promoted", "archive"):
        return None
    item = await state.house.reader.raw(row.key, strong=True)
    texts = [item.value] if item is not None and item.version == row.version else []
    revisions = await state.house.documents.history(row.key, before=row.version + 1, most=1)
    texts += [revision.item.value for revision in revisions if revision.item.version == row.version]
    for text in texts:
        if text is not None and not is_pointer(text):
            content = content_of(text)
            if hash_of(content) == row.sha256:
                return content
    return None


async def _is_pointed_at(state: StateManagementAbstraction, row: FileRow) -> bool:
    """Whether a file has the value of its item, in the backend or in the documents."""
    pointers = [pointer_of(item.value) for item in await state.house.everywhere(row.key)]
    return any(pointer is not None and pointer.path == row.path for pointer in pointers)


def _told(row: FileRow, action: Action, reason: str) -> Reconciliation:
    return Reconciliation(row.key.tenant, row.id, row.key.namespace, row.key.key, row.version, action, reason)
