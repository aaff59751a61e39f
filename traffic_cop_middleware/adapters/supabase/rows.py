"""Rows as JSON, and filters as PostgREST reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from traffic_cop_middleware.contracts import Access, Edge, FileRow, Promotion, StateKey
from traffic_cop_middleware.contracts.file_checks import plain_all

Row = dict[str, Any]

COLUMNS = "tenant,namespace,key,id,version,kind,path,sha256,size,status,created_at,done_at,reason,about"
LINE_COLUMNS = "version,from_tier,to_tier,at,score,reasons,file"
QUOTE = '"'
MOST_FILTER = 6000
"""Bytes of a list in a URL: gateways refuse a request line of more than 8 KB."""


def check_texts(*texts: str | None) -> None:
    """Refuse what JSON and PostgreSQL can't hold.

    Raises:
        ValueError: a lone surrogate.
    """
    for text in texts:
        if text is not None and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{text[:80]!r}: half a surrogate pair is no text in PostgreSQL") from None


def item_words(app: str, key: StateKey) -> Row:
    """The columns that name an item."""
    return {"app": app, **key._asdict()}


def file_json(app: str, row: FileRow) -> Row:
    """A file as a row."""
    values = row._asdict()
    del values["key"]
    return values | item_words(app, row.key)


def line_json(app: str, promotion: Promotion) -> Row:
    """A line of history as a row."""
    return item_words(app, promotion.key) | {
        "version": promotion.version,
        "from_tier": promotion.former,
        "to_tier": promotion.to,
        "at": promotion.at,
        "score": promotion.score,
        "reasons": plain_all(promotion.reasons),
        "file": promotion.file,
    }


def edge_json(app: str, tenant: str, edge: Edge) -> Row:
    """An edge as a row."""
    return {"app": app, "tenant": tenant, **edge._asdict()}


def access_json(app: str, access: Access) -> Row:
    """Counts of use as a row."""
    values = access._asdict()
    del values["key"]
    return values | item_words(app, access.key)


def file_of(row: Row) -> FileRow:
    """From a row of a file."""
    return FileRow(
        row["id"],
        StateKey(row["tenant"], row["namespace"], row["key"]),
        row["version"],
        row["kind"],
        row["path"],
        row["sha256"],
        row["size"],
        row["status"],
        float(row["created_at"]),
        None if row["done_at"] is None else float(row["done_at"]),
        row["reason"],
        row["about"],
    )


def line_of(key: StateKey, row: Row) -> Promotion:
    """From a row of an item's history."""
    return Promotion(
        key,
        row["version"],
        row["from_tier"],
        row["to_tier"],
        float(row["at"]),
        float(row["score"]),
        tuple(row["reasons"]),
        row["file"],
    )


def any_of(words: Sequence[str]) -> str:
    """What an `in` filter is given for these words.

    Each is quoted: the client quotes only where it sees a need, and it sees none in blanks and in nothing.
    """
    escaped = (word.replace("\\", "\\\\").replace('"', '\\"') for word in words)
    return f"({','.join(f'{QUOTE}{word}{QUOTE}' for word in escaped)})"


def batches(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """All of these words, in parts that each fit into a URL as a filter."""
    some: list[str] = []
    size = 0
    for word in dict.fromkeys(words):
        length = len(quote(any_of([word]), safe=""))
        if some and size + length > MOST_FILTER:
            yield some
            some, size = [], 0
        some.append(word)
        size += length
    if some:
        yield some
