"""Files as the contract suite tells a `FileMetadataStore` of them."""

from __future__ import annotations

from collections.abc import Sequence

from traffic_cop_middleware.contracts import (
    Edge,
    FileKind,
    FileMetadataStore,
    FileRow,
    FileStatus,
    Promotion,
    Relation,
    Relative,
    StateKey,
)

NOW = 1_795_860_817.058_141
"""Seconds since the epoch, with more digits than a time stamp of microseconds keeps."""
HOUR = int(NOW // 3600)


def key_of(key: str = "42", *, namespace: str = "order", tenant: str = "acme") -> StateKey:
    return StateKey(tenant, namespace, key)


def row(
    id: str = "f1",
    *,
    key: StateKey | None = None,
    version: int = 7,
    kind: FileKind = "promoted",
    path: str | None = None,
    created_at: float = NOW,
    about: str = "{}",
) -> FileRow:
    """A row as a saga announces it."""
    where = f"acme/order/{id}" if path is None else path
    return FileRow(id, key or key_of(), version, kind, where, "ab" * 32, 1234, "pending", created_at, about=about)


def line(
    version: int = 7, to: str = "file", *, key: StateKey | None = None, at: float = NOW, file: str | None = None
) -> Promotion:
    """A line of history."""
    return Promotion(key or key_of(), version, "delayed", to, at, 0.75, ("it is large", "“read” often"), file)


def edge(child: str, parent: str, relation: Relation = "supersedes") -> Edge:
    return Edge(child, parent, relation, NOW)


async def done(
    store: FileMetadataStore,
    id: str,
    *edges: Edge,
    key: StateKey | None = None,
    version: int = 7,
    kind: FileKind = "promoted",
) -> FileRow:
    """A file that is there."""
    given = await store.announce(row(id, key=key, version=version, kind=kind))
    return await store.finish(given, None, edges)


async def status_of(store: FileMetadataStore, id: str = "f1", tenant: str = "acme") -> FileStatus | None:
    (found,) = await store.load(tenant, [id])
    return None if found is None else found.status


async def family(store: FileMetadataStore, parents: Sequence[tuple[str, str]]) -> None:
    """Files and what each comes from, (child, parent)."""
    for id in dict.fromkeys(id for pair in parents for id in reversed(pair)):
        await done(store, id)
    for child, parent in parents:
        await done(store, child, edge(child, parent))


def steps(relatives: Sequence[Relative]) -> list[tuple[str, str, int]]:
    return [(each.row.id, each.via, each.steps) for each in relatives]
