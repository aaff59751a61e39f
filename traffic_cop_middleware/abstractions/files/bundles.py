"""What snapshots and backups hold, as bytes.

A snapshot is JSON lines: a head, then one item a line, in the order of their keys. A backup is one JSON object that
names its snapshots with their hashes, so a backup is as whole as what it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.contracts import Item, Tier
from traffic_cop_middleware.contracts.state import TIERS
from traffic_cop_middleware.errors import FileCorrupt

FORMAT = 1


class Bundled(NamedTuple):
    """An item of a snapshot. `tier` is `None` where no caller had named one."""

    key: str
    text: str
    tier: Tier | None
    expires_at: float | None


class SnapshotHead(NamedTuple):
    namespace: str
    prefix: str
    taken_at: float


def snapshot_bytes(head: SnapshotHead, items: Iterable[Item]) -> tuple[bytes, int]:
    """A snapshot's content, and how many items are in it."""
    lines = [dumps({"format": FORMAT, "kind": "snapshot", **head._asdict()})]
    for item in items:
        told = {"key": item.key.key, "tier": item.tier if item.named else None, "expires_at": item.expires_at}
        lines.append(f'{dumps(told)[:-1]},"value":{item.value or "null"}}}')
    return "\n".join(lines).encode(), len(lines) - 1


def snapshot_items(content: bytes) -> tuple[SnapshotHead, list[Bundled]]:
    """What a snapshot holds.

    Raises:
        FileCorrupt: it is no snapshot that this version can read.
    """
    lines = content.decode().split("\n")
    head = _loaded(lines[0], "snapshot")
    items = []
    for line in lines[1:]:
        held = loads(line)
        tier = held["tier"] if held["tier"] in TIERS else None
        items.append(Bundled(held["key"], dumps(held["value"]), tier, held["expires_at"]))
    return SnapshotHead(head["namespace"], head["prefix"], head["taken_at"]), items


def backup_bytes(name: str, taken_at: float, snapshots: Sequence[Any]) -> bytes:
    """A backup's content: its snapshots' rows by id, hash and size."""
    named = [
        {"file": row.id, "namespace": row.key.namespace, "sha256": row.sha256, "size": row.size} for row in snapshots
    ]
    return dumps({"format": FORMAT, "kind": "backup", "name": name, "taken_at": taken_at, "snapshots": named}).encode()


def backup_snapshots(content: bytes) -> list[tuple[str, str]]:
    """The ids and hashes of what a backup holds.

    Raises:
        FileCorrupt: it is no backup that this version can read.
    """
    return [(each["file"], each["sha256"]) for each in _loaded(content.decode(), "backup")["snapshots"]]


def _loaded(text: str, kind: str) -> Any:
    try:
        held = loads(text)
        if held["kind"] == kind and held["format"] == FORMAT:
            return held
    except (ValueError, TypeError, KeyError) as exc:
        raise FileCorrupt(f"this file is no {kind}: {exc}") from exc
    raise FileCorrupt(f"this file is no {kind} of format {FORMAT}: {text[:80]!r}")
