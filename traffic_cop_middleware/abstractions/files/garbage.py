"""Removing objects that nobody names.

An object is garbage when no row names its path and it is older than the grace: a row is announced before its object is
created, so what has none was left by a row that was deleted or abandoned, or came from elsewhere under our prefix.
Every removal names the generation that was looked at, so what was written anew in the meantime stays.

A file may share the object of an earlier one that is `done` (`saga.py`). A row that was deleted still counts as naming
its object for as long as the grace: whoever looked at it before that has announced their own row by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from traffic_cop_middleware.abstractions.files.house import FileHouse
from traffic_cop_middleware.contracts import StoredObject

PAGE = 200
MOST_PAGES = 100_000


class Collected(NamedTuple):
    """The objects that were removed, or with `dry_run` would be; how many were looked at, and how many remains of
    uploads that died were swept away."""

    objects: Sequence[StoredObject]
    looked_at: int
    swept: int
    dry_run: bool

    @property
    def size(self) -> int:
        """Bytes that are free now."""
        return sum(each.size for each in self.objects)

    def __str__(self) -> str:
        would = "would be " if self.dry_run else ""
        lines = [f"{each.path} ({each.size} bytes): {would}removed, no file names it" for each in self.objects]
        return "\n".join([*lines, f"{len(self.objects)} of {self.looked_at} objects, {self.size} bytes"])


async def collect_garbage(house: FileHouse, *, grace: float, dry_run: bool) -> Collected:
    """Go through all objects.

    Raises:
        StoreError: a store is away; what was removed before that is removed.
    """
    gone: list[StoredObject] = []
    looked_at = 0
    after: str | None = None
    for _ in range(MOST_PAGES):
        page = await house.objects.list(after=after, most=PAGE)
        looked_at += len(page.objects)
        before = house.now() - grace
        old = [each for each in page.objects if each.created_at <= before]
        named = await house.metadata.referred([each.path for each in old], gone_since=before) if old else set()
        for each in old:
            if each.path in named:
                continue
            if dry_run or await house.objects.delete(each.path, generation=each.generation):
                gone.append(each)
                house.emit("file.collected", {"path": each.path, "size": each.size, "dry_run": dry_run})
        after = page.after
        if after is None:
            break
    swept = 0 if dry_run else await house.objects.sweep(older_than=grace)
    return Collected(gone, looked_at, swept, dry_run)
