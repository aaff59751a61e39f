"""Metadata of files as rows, and the walk along the lineage."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from traffic_cop_middleware.adapters.sqlite.file import raw_of
from traffic_cop_middleware.adapters.sqlite.files_statements import LOAD
from traffic_cop_middleware.adapters.sqlite.rows import where
from traffic_cop_middleware.contracts import Edge, FileRow, Promotion, Relation, Relative, StateKey
from traffic_cop_middleware.contracts.file_checks import plain_all


def file_binds(app: str, tenant: str, id: str) -> dict[str, Any]:
    """The parameters that name a file."""
    return {"app": app, "tenant": raw_of(tenant), "id": raw_of(id)}


def row_binds(app: str, row: FileRow) -> dict[str, Any]:
    """The parameters of a row."""
    words = {name: raw_of(getattr(row, name)) for name in ("id", "path", "sha256", "about")}
    return row._asdict() | words | where(app, row.key)


def line_binds(app: str, promotion: Promotion) -> dict[str, Any]:
    """The parameters of a line of history."""
    words = {name: raw_of(getattr(promotion, name)) for name in ("former", "to", "file")}
    reasons = {"reasons": json.dumps(plain_all(promotion.reasons))}
    return promotion._asdict() | words | reasons | where(app, promotion.key)


def edge_binds(app: str, tenant: str, edge: Edge) -> dict[str, Any]:
    """The parameters of an edge."""
    words = {"tenant": raw_of(tenant), "child": raw_of(edge.child), "parent": raw_of(edge.parent)}
    return {"app": app, "relation": edge.relation, "at": edge.at} | words


def row_of(row: Sequence[Any]) -> FileRow:
    """From a row that has the columns of a file."""
    tenant, namespace, key, id, *rest = row
    return FileRow(id, StateKey(tenant, namespace, key), *rest)


def line_of(key: StateKey, row: Sequence[Any]) -> Promotion:
    """From a row that has the columns of a line of an item's history, without its key."""
    version, former, to, at, score, reasons, file = row
    return Promotion(key, version, former, to, at, score, tuple(json.loads(reasons)), file)


def relatives(
    connection: sqlite3.Connection, neighbours: str, start: Mapping[str, Any], most: int
) -> Sequence[Relative]:
    """The files that `neighbours` leads to from a file (`file_binds`), nearest first, `most` of them.

    Level by level, so that each comes once and at its fewest steps, whatever diamonds and circles there are: a
    recursive query would know a row again only together with its steps, and go round in a circle.
    """
    found: list[Relative] = []
    first = start["id"].decode("utf-8", "surrogatepass")
    known, level, steps = {first}, [first], 0
    while level and len(found) < most:
        steps += 1
        nearest: dict[str, tuple[str, Relation]] = {}
        for each in level:
            for other, relation in connection.execute(neighbours, {**start, "id": raw_of(each)}):
                if other not in known:
                    nearest[other] = min(nearest.get(other, (each, relation)), (each, relation))
        level = sorted(nearest)[: most - len(found)]
        known.update(level)
        for each in level:
            row = row_of(connection.execute(LOAD, {**start, "id": raw_of(each)}).fetchone())
            found.append(Relative(row, *nearest[each], steps))
    return found
