"""Items that another service pushed, taken over.

Theory of operation. A note beside the item says which of its versions was taken last, and which version that gave here:
so what comes twice, or late, changes nothing, and a change that was made here meanwhile is seen. Two items can't be
written in one step. So the note says first that a version is *begun*, then the item is written, then the note says that
it is *taken*. Who finds that a newer version than theirs was begun leaves it at that; one that was begun and not taken
may not be there yet, and is taken when it comes again.

Invariants. A version is written into the item only after it was begun, at the version that the item had before that. So
no older one gets over a newer one, in whatever order they come and wherever a worker dies. The note has the tier of the
item: what loses the one loses the other, and the item can be pushed again.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Literal, NamedTuple

from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.state.arguments import json_of
from traffic_cop_middleware.abstractions.state.house import StateHouse
from traffic_cop_middleware.abstractions.state.merge_patch import merge_patch
from traffic_cop_middleware.abstractions.state.writing import conflict
from traffic_cop_middleware.contracts import Item, StateKey, Tier
from traffic_cop_middleware.contracts.state import check_end
from traffic_cop_middleware.errors import ConfigurationError, StateConflict, StoreError

How = Literal["last", "merge", "strict"]

TAKEN = "tc.taken"
KEPT_FOR = 30 * 86_400.0
"""Seconds that a note outlives its item."""
TURNS = 64
"""How often an item is taken over anew, because it was changed here meanwhile."""
MOST_TEXTS = 8


class Pushed(NamedTuple):
    """An item as a service gets it. `value` is `None` where it was deleted; `expires_at` is when it ends, in seconds
    since the epoch, or `None`."""

    tenant: str
    namespace: str
    key: str
    version: int
    value: Any
    deleted: bool
    expires_at: float | None = None


class Note(NamedTuple):
    """Of an item that is taken over: the other side's version that was taken last, and the version that this gave here;
    the newest that was begun, and hashes of the values that were begun since `taken`."""

    taken: int = 0
    given: int = 0
    begun: int = 0
    texts: tuple[str, ...] = ()


async def take_over(house: StateHouse, key: StateKey, pushed: Pushed, *, how: How, tier: Tier | None) -> Item | None:
    """Take an item that another service pushed; what is here of it then.

    Raises:
        StateConflict: "strict", and it was changed here since the last time.
        ConfigurationError: it can't be kept.
        NotDurable: the tier can't be kept.
    """
    house.writer.check(tier)
    for _ in range(TURNS):
        item = await house.reader.one(key, strong=True)
        note, version = await _noted(house, key)
        if pushed.version <= note.taken or pushed.version < note.begun:
            return item
        there = item if item is not None and item.value is not None else None
        here = 0 if there is None else there.version
        if how == "strict" and here not in (0, note.given) and (there is None or _hash(there.value) not in note.texts):
            raise conflict(key, note.given, item)
        value, ends = _made(house, key, there, pushed, how)
        kept = tier or ("cache" if item is None else item.tier)
        begun = note._replace(begun=pushed.version, texts=(*note.texts, _hash(value))[-MOST_TEXTS:])
        try:
            version = await _write(house, key, begun, version, kept, ends=None)
            item = await house.writer.write(key, value, tier=tier, if_version=here, expires_at=ends)
        except StateConflict:
            continue
        house.wrote(item)
        ended = house.now() if item.value is None else item.expires_at
        await _taken(house, begun, version, pushed.version, item=item, ends=ended)
        return item
    raise StoreError(f"{key.namespace}/{key.key} is changed here as fast as it is taken over")


async def _taken(house: StateHouse, note: Note, version: int, taken: int, *, item: Item, ends: float | None) -> None:
    """Note that a version is taken: it became `item`."""
    key = item.key
    for _ in range(TURNS):
        if taken <= note.taken:
            return
        texts = () if note.begun <= taken else note.texts  # what was begun since may be here already
        try:
            await _write(house, key, Note(taken, item.version, note.begun, texts), version, item.tier, ends=ends)
        except StateConflict:
            note, version = await _noted(house, key)
            continue
        return


async def _noted(house: StateHouse, key: StateKey) -> tuple[Note, int]:
    """The note of an item, and the version at which it stands."""
    item = await house.reader.one(_place(key), strong=True)
    if item is None or item.value is None:
        return Note(), 0
    taken, given, begun, texts = loads(item.value)
    return Note(taken, given, begun, tuple(texts)), item.version


async def _write(house: StateHouse, key: StateKey, note: Note, version: int, tier: Tier, *, ends: float | None) -> int:
    kept_until = None if ends is None else ends + KEPT_FOR
    written = await house.writer.write(_place(key), dumps(note), tier=tier, if_version=version, expires_at=kept_until)
    return written.version


def _made(
    house: StateHouse, key: StateKey, there: Item | None, pushed: Pushed, how: How
) -> tuple[str | None, float | None]:
    """What the item becomes, as a JSON text, and when it ends."""
    if pushed.deleted:
        return None, None
    value, ends = pushed.value, pushed.expires_at
    try:
        check_end(ends)
        if how == "merge":
            value = merge_patch(None if there is None else loads(there.value or "null"), value)
            ends = ends if there is None else there.expires_at
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"{key.namespace}/{key.key} can't be taken over: {exc}") from exc
    return json_of(key, value, most=house.most), ends


def _hash(text: str | None) -> str:
    return sha256((text or "").encode()).hexdigest()[:32]


def _place(key: StateKey) -> StateKey:
    return StateKey(key.tenant, TAKEN, sha256("\0".join(key).encode()).hexdigest())
