"""Where state stands in Redis: partitions, keys, items as texts, and cursors.

A partition is a slot of a Redis Cluster. What one write touches, the item, its index, the outbox and the changes, is in
one partition, so one script writes it in one step.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from zlib import crc32

from traffic_cop_middleware.adapters.redis.calls import text_of
from traffic_cop_middleware.contracts import MICRO, Item, StateKey, Tier
from traffic_cop_middleware.contracts.state import check_key

PARTITIONS = 32
TIERS: dict[bytes, tuple[Tier, bool]] = {
    b"c": ("cache", False),
    b"d": ("delayed", False),
    b"i": ("immediate", False),
    b"C": ("cache", True),
    b"D": ("delayed", True),
    b"I": ("immediate", True),
}
"""The tier, and whether a caller named it."""
ID = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")
NOTHING = "0-0"
"""The id before the first one of a stream."""


class Partition(NamedTuple):
    """The keys of a partition; `items` and `indexes` are what theirs begin with (state.lua)."""

    number: int
    items: str
    indexes: str
    ends: str
    queued: str
    outbox: str
    dead: str
    changes: str


class Spot(NamedTuple):
    """Where an item is."""

    partition: Partition
    place: str

    @property
    def key(self) -> str:
        return self.partition.items + self.place


class Places:
    """The partitions of a namespace. What items' keys begin with, `items`, begins no other key."""

    def __init__(self, namespace: str) -> None:
        self.items = f"{namespace}:st:"
        kinds = ("st", "si", "se", "sq", "so", "sd", "sc")
        self.partitions = [
            Partition(number, *(f"{namespace}:{kind}:{{p{number:02d}}}" for kind in kinds))
            for number in range(PARTITIONS)
        ]

    def of(self, key: StateKey) -> Spot:
        place = "\0".join(key)
        number = crc32(place.encode("utf-8", "surrogatepass")) % PARTITIONS
        return Spot(self.partitions[number], place)

    def key_at(self, name: bytes) -> StateKey | None:
        """The item whose key in Redis is `name`; `None` for what is none."""
        _, closing, place = name.partition(b"}")
        try:
            parts = text_of(place).split("\0")
        except UnicodeDecodeError:
            return None
        return StateKey(*parts) if closing and len(parts) == 3 else None


def by_partition(spots: Iterable[Spot], most: int) -> list[tuple[Partition, list[int]]]:
    """The positions of what is in one partition, at most so many together: what one script is asked."""
    positions: dict[int, list[int]] = defaultdict(list)
    partitions: dict[int, Partition] = {}
    for position, spot in enumerate(spots):
        positions[spot.partition.number].append(position)
        partitions[spot.partition.number] = spot.partition
    return [
        (partitions[number], found[start : start + most])
        for number, found in positions.items()
        for start in range(0, len(found), most)
    ]


def place_of(tenant: str, namespace: str, prefix: str) -> str:
    """What the places begin with whose keys begin with `prefix`.

    Raises:
        ValueError: no key can.
    """
    check_key(StateKey(tenant, namespace, prefix or "-"))
    return f"{tenant}\0{namespace}\0{prefix}"


# Items


def item_of(key: StateKey, text: bytes | None, now: int | None) -> Item | None:
    """What stands under an item's key, a tombstone from its end on (`now`: microseconds); `None` for what is none."""
    parts = (text or b"").split(b" ", 4)
    if len(parts) < 5 or parts[1] not in TIERS:
        return None
    version, letter, written, ends, value = parts
    tier, named = TIERS[letter]
    try:
        expires_at = None if ends == b"-" else float(ends)
        item = Item(key, int(version), text_of(value[1:]), tier, int(written) / MICRO, expires_at, named)
    except ValueError:
        return None
    if value[:1] != b"=" or (now is not None and expires_at is not None and expires_at * MICRO <= now):
        return item._replace(value=None, expires_at=None)
    return item


def text_for(item: Item) -> str:
    """An item as it stands (state.lua)."""
    dates = f"{round(item.written_at * MICRO)} {end_of(item.expires_at)}"
    return f"{item.version} {letter_of(item.tier, named=item.named)} {dates} {kept_value(item.value)}"


def kept_value(value: str | None) -> str:
    return "-" if value is None else f"={value}"


def letter_of(tier: Tier, *, named: bool) -> str:
    return tier[0].upper() if named else tier[0]


def end_of(expires_at: float | None) -> str:
    return "-" if expires_at is None else repr(float(expires_at))


# Cursors


def cursor_of(ids: Sequence[str]) -> str:
    """The last entry that was seen of each partition's changes, as one text."""
    return ",".join("" if id == NOTHING else id for id in ids)


def read_cursor(text: str) -> list[str]:
    """What `cursor_of` wrote.

    Raises:
        ValueError: it is none.
    """
    ids = text.split(",", PARTITIONS)
    if len(ids) != PARTITIONS or not all(id == "" or ID.fullmatch(id) for id in ids):
        raise ValueError(f"{text[:40]!r}… is no cursor of this store: give the one that `changes` gave, or None")
    return [id or NOTHING for id in ids]


def id_after(id: str) -> str:
    """The id that follows: what Redis 6.0 has no `(` for."""
    ms, _, turn = id.partition("-")
    return f"{ms}-{int(turn) + 1}"
