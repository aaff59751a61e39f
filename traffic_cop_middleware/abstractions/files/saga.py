"""The steps by which content becomes a file, and which any process can take up again.

Theory of operation. A file is a row and an object. The row is announced first (`pending`), the object is created where
nothing is, and one step makes the row `done` together with its line of history and its edges of lineage. Each step can
be repeated by anybody at any time and changes nothing then: the row's id comes of what is promoted, the object's path
ends in the hash of its content, and `finish` is one transaction. So a process that dies between two steps leaves at
worst a `pending` row, which says all that is needed to go on (`Resumed`), and replies that are lost do no harm.

"Something is there" is what a lost reply looks like, so it is read and compared: the same content is success. Anything
else is quarantined: nobody overwrites what they did not write.

An object is shared by files of one item whose content is equal: a file that is `done` names it, so it is no orphan
(`garbage.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from traffic_cop_middleware.abstractions.files.naming import digest_of, file_id, object_path
from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.contracts import (
    Edge,
    FileKind,
    FileMetadataStore,
    FileRow,
    ObjectStore,
    Promotion,
    Relation,
    StateKey,
)
from traffic_cop_middleware.contracts.file_checks import plain_all
from traffic_cop_middleware.contracts.files import MOST_ABOUT
from traffic_cop_middleware.errors import FileQuarantined, StoreError, StoreUnavailable

MOST_REASONS = MOST_ABOUT // 2
"""Bytes of the reasons that a row remembers until it is done."""
CREATED_AT_MOST = 3
"""How often an object is created that was there, and is gone when it is looked at."""
DELETED_AT_MOST = 100
"""How many deleted files of one version of an item may stand before another one is made."""


class Parent(NamedTuple):
    """A file that another one comes from."""

    id: str
    relation: Relation


class Why(NamedTuple):
    """Why something is promoted: for the history."""

    former: str
    score: float
    reasons: Sequence[str]


class FileSaga:
    """Makes files. `now` gives seconds since the epoch."""

    def __init__(
        self,
        objects: ObjectStore,
        metadata: FileMetadataStore,
        *,
        now: Callable[[], float],
        emit: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._objects = objects
        self._metadata = metadata
        self._now = now
        self._emit = emit

    async def keep(
        self,
        key: StateKey,
        version: int,
        content: bytes,
        *,
        kind: FileKind,
        why: Why,
        parents: Sequence[Parent] = (),
        about: Mapping[str, Any] | None = None,
    ) -> FileRow:
        """The file of this content, made unless it is there, also where it was deleted. Four round trips: three to the
        metadata, one to the objects.

        Raises:
            FileQuarantined: there is something else under its path.
            StoreUnavailable: a store is away; going on from here is what `resume` is for.
            StoreError: a store refused.
        """
        digest = await digest_of(content)
        former = await self._metadata.of_item(key, kind=kind, before=version, most=1)
        shared = next((row.path for row in former if row.sha256 == digest and row.size == len(content)), None)
        parents = [*parents, *(Parent(row.id, "supersedes") for row in former)]
        told = {
            "why": {"former": why.former, "score": why.score, "reasons": short(why.reasons)},
            "parents": [list(parent) for parent in parents],
        }
        for deleted in range(DELETED_AT_MOST):
            id = file_id(key, version, kind, deleted=deleted)
            row = FileRow(
                id=id,
                key=key,
                version=version,
                kind=kind,
                path=shared or object_path(key, id, digest),
                sha256=digest,
                size=len(content),
                status="pending",
                created_at=self._now(),
                about=dumps({**(about or {}), "saga": told}),
            )
            announced = await self._metadata.announce(row)
            if announced.status == "deleted":  # it stays so, and its object may go at any time
                continue
            _check_same(announced, digest, len(content))
            done = await self._finish(announced, content)
            if done.status == "deleted":
                continue
            if done.status == "done" and announced.about != row.about:  # another had begun it, and knew other parents
                done = await self._metadata.finish(done, None, self._edges(row.id, parents))
            return done
        raise StoreError(
            f"{key.namespace}/{key.key} at version {version} was made a file and deleted {DELETED_AT_MOST} times"
        )

    async def resume(self, row: FileRow, content: bytes | None) -> FileRow:
        """Go on with a file that was announced. Without `content` the object has to be there already.

        Raises:
            FileQuarantined, StoreUnavailable, StoreError: as `keep`.
            LookupError: the object is not there, and there is no content.
        """
        if content is not None:
            _check_same(row, await digest_of(content), len(content))
        return await self._finish(row, content)

    async def _finish(self, row: FileRow, content: bytes | None) -> FileRow:
        if row.status in ("done", "deleted"):
            return row
        await self._see_to_object(row, content)
        saga = loads(row.about)["saga"]
        now = self._now()
        why = saga["why"]
        line = Promotion(
            row.key, row.version, why["former"], "file", now, why["score"], tuple(why["reasons"]), file=row.id
        )
        edges = self._edges(row.id, [Parent(*parent) for parent in saga["parents"]])
        done = await self._metadata.finish(row._replace(status="done", done_at=now), line, edges)
        told = {"namespace": row.key.namespace, "key": row.key.key, "version": row.version}
        self._emit("file.kept", {**told, "file": row.id, "kind": row.kind, "size": row.size})
        return done

    def _edges(self, id: str, parents: Sequence[Parent]) -> list[Edge]:
        now = self._now()
        return [Edge(id, parent.id, parent.relation, now) for parent in parents if parent.id != id]

    async def _see_to_object(self, row: FileRow, content: bytes | None) -> None:
        for _ in range(CREATED_AT_MOST):
            if content is not None:
                made = await self._objects.create(row.path, content, sha256=row.sha256, about=_about(row))
                if made is not None:
                    return
            there = await self._objects.read(row.path)
            if there is not None:
                if len(there) == row.size and await digest_of(there) == row.sha256:
                    return
                await self._quarantine(row, f"under {row.path} there are {len(there)} bytes of something else")
            elif content is None:
                raise LookupError(row.path)
        raise StoreUnavailable(f"{self._objects.name}: the object {row.path} is there and gone, again and again")

    async def _quarantine(self, row: FileRow, reason: str) -> None:
        await self._metadata.set_status(
            row.key.tenant, row.id, "quarantined", reason=reason, unless="done", at=self._now()
        )
        self._emit("file.quarantined", {"file": row.id, "path": row.path, "reason": reason})
        raise FileQuarantined(
            f"{row.key.namespace}/{row.key.key} at version {row.version} can't be kept as a file: {reason}. Nothing "
            "was overwritten; look at that object, and remove it if it is not yours"
        )


def _check_same(row: FileRow, digest: str, size: int) -> None:
    if (digest, size) != (row.sha256, row.size):
        raise StoreError(
            f"the file {row.id} was announced with other content ({row.size} bytes, sha256 {row.sha256}) than this "
            f"({size} bytes): one version of an item has one value"
        )


def short(reasons: Sequence[str]) -> list[str]:
    """Reasons as a row has room for them."""
    kept: list[str] = []
    room = MOST_REASONS
    for reason in plain_all(reasons):
        room -= len(dumps(reason).encode())
        if room < 0:
            return [*kept, f"and {len(reasons) - len(kept)} more, which are too long to be kept"]
        kept.append(reason)
    return kept


def _about(row: FileRow) -> Mapping[str, str]:
    """What is kept beside an object, for whoever finds it without its row."""
    return {"file": row.id, "version": str(row.version), "kind": row.kind}
