"""Where a file comes from and what came of it, as a tree for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from traffic_cop_middleware.contracts import FileKind, FileRow, FileStatus, Relation, Relative


class StoredFile(NamedTuple):
    """A file of a tenant. `version` is the item's that it holds; `size` is in bytes, `created_at` in seconds since the
    epoch. `sha256` (hex) is its content's."""

    id: str
    kind: FileKind
    namespace: str
    key: str
    version: int
    size: int
    sha256: str
    path: str
    status: FileStatus
    created_at: float
    reason: str = ""

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        return f"{self.kind} {self.id[:12]} {self.namespace}/{self.key} version {self.version}, {self.size} bytes, {at}"


def stored(row: FileRow) -> StoredFile:
    """What callers see of a row."""
    key = row.key
    return StoredFile(
        row.id,
        row.kind,
        key.namespace,
        key.key,
        row.version,
        row.size,
        row.sha256,
        row.path,
        row.status,
        row.created_at,
        row.reason,
    )


class Branch(NamedTuple):
    """A file beside another one: how they are related, and what lies beyond it."""

    file: StoredFile
    relation: Relation
    branches: Sequence[Branch]


class Lineage(NamedTuple):
    """A file, what it comes from (`ancestors`), and what came from it (`descendants`). `str` of it is a tree."""

    file: StoredFile
    ancestors: Sequence[Branch]
    descendants: Sequence[Branch]

    def __str__(self) -> str:
        lines = [str(self.file)]
        for title, branches, words in (
            ("comes from", self.ancestors, FROM),
            ("and from it came", self.descendants, TO),
        ):
            if branches:
                lines += [title, *_drawn(branches, words)]
        return "\n".join(lines)


FROM: dict[Relation, str] = {
    "supersedes": "took the place of",
    "restored_from": "restored from",
    "part_of": "holds",
    "copy_of": "same version as",
}
TO: dict[Relation, str] = {
    "supersedes": "replaced by",
    "restored_from": "restored as",
    "part_of": "held by",
    "copy_of": "same version as",
}


def _drawn(branches: Sequence[Branch], words: dict[Relation, str]) -> Iterator[str]:
    waiting = [("", place == 0, branch) for place, branch in enumerate(reversed(branches))]
    while waiting:
        indent, last, branch = waiting.pop()
        yield f"{indent}{'└── ' if last else '├── '}{words[branch.relation]}: {branch.file}"
        below = indent + ("    " if last else "│   ")
        waiting += [(below, place == 0, each) for place, each in enumerate(reversed(branch.branches))]


def branches_of(id: str, relatives: Sequence[Relative]) -> Sequence[Branch]:
    """The tree of relatives around a file. Each is in it once, beside the one by which it is nearest; newest first."""
    beside: dict[str, list[Relative]] = {}
    for relative in sorted(relatives, key=lambda each: (-each.row.version, each.row.id)):
        beside.setdefault(relative.via, []).append(relative)
    # From the farthest inwards, so that no depth of lineage is a depth of calls.
    made: dict[str, Branch] = {}
    for relative in sorted(relatives, key=lambda each: -each.steps):
        beyond = [made[each.row.id] for each in beside.get(relative.row.id, ()) if each.row.id in made]
        made[relative.row.id] = Branch(stored(relative.row), relative.relation, beyond)
    return [made[each.row.id] for each in beside.get(id, ())]
