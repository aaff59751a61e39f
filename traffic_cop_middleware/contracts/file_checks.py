"""What every store of file metadata refuses, so that all of them refuse the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite

from traffic_cop_middleware.contracts.files import (
    FILE_KINDS,
    FILE_STATUSES,
    MOST_ABOUT,
    RELATIONS,
    Access,
    Edge,
    FileRow,
    Promotion,
)
from traffic_cop_middleware.contracts.objects import MOST_PATH
from traffic_cop_middleware.contracts.state import MOST_WORD, WHOLE, StateKey, check_key

MOST_REASON = 4096
"""Characters of a reason that are kept."""


def check_row(row: FileRow) -> None:
    """Refuse a row that no store takes.

    Raises:
        ValueError: a word can't be used (`check_key`, `check_word`), a number is none that counts something, a path has
            more than 1024 bytes, `about` more than 16 KB, the kind or the status is none.
    """
    check_key(row.key)
    check_word("id", row.id)
    check_word("path", row.path, most=MOST_PATH)
    check_word("sha256", row.sha256)
    check_word("about", row.about, most=MOST_ABOUT)
    check_one_of("kind", row.kind, FILE_KINDS)
    check_one_of("status", row.status, FILE_STATUSES)
    check_counts(version=row.version, size=row.size)
    check_times(created_at=row.created_at, done_at=row.done_at or 0)


def check_promotion(promotion: Promotion) -> None:
    """Refuse a line of history that no store takes.

    Raises:
        ValueError: as `check_row`; or the score is not from 0 to 1.
    """
    check_key(promotion.key)
    check_word("tier", promotion.to)
    check_word("tier", promotion.former, least=0)
    if promotion.file is not None:
        check_word("id", promotion.file)
    check_counts(version=promotion.version)
    check_times(at=promotion.at)
    if not 0 <= promotion.score <= 1:
        raise ValueError(f"score={promotion.score!r}: a number from 0 to 1")


def check_finish(row: FileRow, promotion: Promotion | None, edges: Sequence[Edge]) -> None:
    """Refuse what `FileMetadataStore.finish` can't do.

    Raises:
        ValueError: as `check_row`; or the line is another tenant's, or an edge joins a file with itself.
    """
    check_row(row)
    if promotion is not None:
        check_promotion(promotion)
        if promotion.key.tenant != row.key.tenant:
            raise ValueError(f"a file of the tenant {row.key.tenant!r} has no history of another one's item")
    for edge in edges:
        check_word("child", edge.child)
        check_word("parent", edge.parent)
        check_one_of("relation", edge.relation, RELATIONS)
        check_times(at=edge.at)
        if edge.child == edge.parent:
            raise ValueError(f"the file {edge.child!r} does not come from itself")


def check_access(access: Access) -> None:
    """Refuse counts that no store takes.

    Raises:
        ValueError: as `check_row`.
    """
    check_key(access.key)
    check_word("worker", access.worker)
    check_counts(hour=access.hour, reads=access.reads, writes=access.writes)
    check_times(last_at=access.last_at)


def check_tenant(tenant: str) -> None:
    """Refuse a tenant that no item has.

    Raises:
        ValueError: as `check_key`.
    """
    check_key(StateKey(tenant, "-", "-"))


def check_word(name: str, word: str, *, least: int = 1, most: int = MOST_WORD) -> None:
    """Refuse a word that no store takes.

    Raises:
        ValueError: it has fewer or more bytes (UTF-8), or NUL.
    """
    size = len(word) if word.isascii() else len(word.encode("utf-8", "surrogatepass"))
    if not least <= size <= most or "\0" in word:
        raise ValueError(f"{name} {word[:80]!r}: from {least} to {most} bytes, and no NUL")


def check_one_of(name: str, word: str, known: Sequence[str]) -> None:
    """Refuse a word that is not one of those that there are.

    Raises:
        ValueError: it is another one.
    """
    if word not in known:
        raise ValueError(f"{name} {word!r} is none of {', '.join(known)}")


def check_counts(**counts: int) -> None:
    """Refuse what counts nothing.

    Raises:
        ValueError: no integer from 0 to 2**53 - 1.
    """
    for name, count in counts.items():
        if not isinstance(count, int) or not 0 <= count < WHOLE:
            raise ValueError(f"{name}={count!r}: an integer from 0 to 2**53 - 1")


def check_times(**times: float) -> None:
    """Refuse a time that no clock comes to.

    Raises:
        ValueError: infinite, or no number.
    """
    for name, time in times.items():
        if not isfinite(time):
            raise ValueError(f"{name}={time}: seconds since the epoch")


def plain(reason: str) -> str:
    """A reason as every store can keep it: what tells why something went wrong may hold anything."""
    return reason[:MOST_REASON].encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def plain_all(reasons: Iterable[str]) -> list[str]:
    """Reasons as every store can keep them."""
    return [plain(reason) for reason in reasons]
