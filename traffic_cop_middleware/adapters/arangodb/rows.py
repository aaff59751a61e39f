"""Items as documents of ArangoDB.

`_key` is made of the app, the tenant, the namespace and the key, in the characters and the 254 bytes that ArangoDB
allows; of what is longer it is a hash. So each document also has the words themselves, as `place` and `order`, and they
are compared: a collision is an error and no mix-up. Both are in hexadecimal digits, which any collation of a server
sorts as bytes, so by code point, and which hold lone surrogates. `tenant`, `namespace` and `key` are for who looks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from traffic_cop_middleware.contracts import Item, StateKey
from traffic_cop_middleware.errors import StoreError

MOST_KEY = 230
"""Bytes; a version and a colon are added in the history, and 254 is the most."""
SAFE = "@()+,;$!*'"
"""What `_key` may have beside letters, digits and `_.-`. The colon separates, `%` escapes, `=` begins a hash."""


def raw_of(word: str) -> bytes:
    return word.encode("utf-8", "surrogatepass")


def document_key(app: str, key: StateKey) -> str:
    words = (app, *key)
    plain = ":".join(quote(raw_of(word), safe=SAFE).replace("~", "%7E") for word in words)
    if len(plain) <= MOST_KEY:
        return plain
    return "=" + hashlib.sha256(b"\0".join(map(raw_of, words))).hexdigest()


def place_of(app: str, tenant: str, namespace: str) -> str:
    """What all items of a namespace have in common."""
    return ".".join(raw_of(word).hex() for word in (app, tenant, namespace))


def document_of(app: str, item: Item) -> dict[str, Any]:
    return {
        "_key": document_key(app, item.key),
        "app": app,
        "place": place_of(app, item.key.tenant, item.key.namespace),
        "order": raw_of(item.key.key).hex(),
        **{name: raw_of(word).decode("utf-8", "replace") for name, word in item.key._asdict().items()},
        "version": item.version,
        "value": written(item.value),
        "tier": item.tier,
        "named": item.named,
        "written_at": item.written_at,
        "expires_at": item.expires_at,
        "tombstone_at": item.written_at if item.value is None else None,
    }


def written(value: str | None) -> str | Mapping[str, str] | None:
    """A value as it is kept: as it is; with lone surrogates, which the server does not take, in hexadecimal digits."""
    if value is None:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"hex": raw_of(value).hex()}
    return value


def read(value: str | Mapping[str, str] | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return text_of(value["hex"])


def text_of(digits: str) -> str:
    return bytes.fromhex(digits).decode("utf-8", "surrogatepass")


def item_of(document: Mapping[str, Any]) -> Item:
    """From a document, or from a version in the history."""
    _, tenant, namespace = map(text_of, document["place"].split("."))
    expires_at = document["expires_at"]
    return Item(
        StateKey(tenant, namespace, text_of(document["order"])),
        document["version"],
        read(document["value"]),
        document["tier"],
        float(document["written_at"]),
        None if expires_at is None else float(expires_at),
        bool(document.get("named")),  # kept since promotion
    )


def check_words(name: str, document: Mapping[str, Any], app: str, key: StateKey) -> None:
    """Refuse a document that is another item's.

    Raises:
        StoreError: two items have one `_key`.
    """
    if document["place"] != place_of(app, key.tenant, key.namespace) or document["order"] != raw_of(key.key).hex():
        raise StoreError(
            f"{name}: under the _key {document_key(app, key)!r} is another item, {item_of(document).key}: change one "
            "of the two keys"
        )
