"""Items as rows, and what is newest of a key: of the documents, or of the outbox."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from traffic_cop_middleware.adapters.sqlite.file import raw_of
from traffic_cop_middleware.adapters.sqlite.statements import NEWEST
from traffic_cop_middleware.contracts import Item, StateKey


def where(app: str, key: StateKey) -> dict[str, Any]:
    """The parameters that name a key."""
    return {"app": app, "tenant": raw_of(key.tenant), "namespace": raw_of(key.namespace), "key": raw_of(key.key)}


def item_of(row: Sequence[Any]) -> Item:
    """From a row that begins with the columns of an item."""
    tenant, namespace, key, version, value, tier, named, written_at, expires_at = row[:9]
    return Item(StateKey(tenant, namespace, key), version, value, tier, written_at, expires_at, bool(named))


def row_of(app: str, item: Item) -> dict[str, Any]:
    """The parameters that are an item's columns."""
    return where(app, item.key) | {
        "version": item.version,
        "value": raw_of(item.value),
        "tier": item.tier,
        "named": item.named,
        "written_at": item.written_at,
        "expires_at": item.expires_at,
    }


def newest(connection: sqlite3.Connection, app: str, key: StateKey) -> Item | None:
    """The newest version of an item that this file has."""
    row = connection.execute(NEWEST, where(app, key)).fetchone()
    return None if row is None else item_of(row)
