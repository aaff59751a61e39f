"""Which node of a Redis Cluster has which key: slots, the map that a node gives of them, and where it sends one on.

A key's slot is the CRC16 of its hash tag (the Redis Cluster specification, "Key distribution model"). What nodes say is
read with bounds: a map has 16,384 slots and `MOST_NODES` nodes at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from traffic_cop_middleware.adapters.redis.replies import Arguments
from traffic_cop_middleware.errors import StoreError, StoreUnavailable

__all__ = ["SLOTS", "Address", "Layout", "layout_of", "redirection", "slot_of", "slot_of_command"]

MOST_NODES = 1_000
LONGEST_HOST = 255
SCRIPTS = frozenset(("EVALSHA", "EVAL"))


class Address(NamedTuple):
    """Where a node listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Layout(NamedTuple):
    """The master of each slot (`None`: nobody serves it), and the replicas."""

    masters: Sequence[Address | None]
    replicas: Sequence[Address]


def slot_of(key: str | bytes) -> int:
    return int(key_slot(key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key))


def slot_of_command(command: Arguments) -> int:
    """The slot of a command's first key; all that we ask name one, and their others share its slot."""
    key = command[3 if command[0] in SCRIPTS else 1]
    return slot_of(key if isinstance(key, str | bytes) else str(key))


def layout_of(reply: Any, asked: Address) -> Layout:
    """What CLUSTER SLOTS says; a node that does not know its own host is reached by the one that was `asked`.

    Raises:
        StoreUnavailable: no slot is served.
        StoreError: it is no map of slots.
    """
    masters: list[Address | None] = [None] * SLOTS
    replicas: dict[Address, None] = {}
    try:
        if len(reply) > SLOTS:
            raise ValueError(f"{len(reply)} ranges")  # noqa: TRY301 - the same end as a range of another shape
        for first, last, *nodes in reply:
            if not 0 <= first <= last < SLOTS:
                raise ValueError(f"slots {first} to {last}")  # noqa: TRY301
            places = [_address(host, port, asked) for host, port, *_ in nodes[:MOST_NODES]]
            masters[first : last + 1] = [places[0]] * (last + 1 - first)
            replicas.update((place, None) for place in places[1:] if place is not None)
    except (TypeError, ValueError, IndexError) as exc:
        raise StoreError(f"{asked} gave a map of slots that can't be read: {exc}") from exc
    known = {place for place in masters if place is not None}
    if not known:
        raise StoreUnavailable(f"{asked} knows no node that serves a slot")
    if len(known) > MOST_NODES:
        raise StoreError(f"{asked} gave a map of slots with {len(known)} masters; {MOST_NODES} is the most")
    return Layout(masters, list(replicas)[:MOST_NODES])


def redirection(text: str, asked: Address) -> Address | None:
    """Where `MOVED <slot> <host>:<port>` or `ASK …` sends a command; `None` where that can't be read."""
    words = text.split()
    host, colon, port = words[2].rpartition(":") if len(words) == 3 else ("", "", "")
    try:
        return _address(host.encode(), int(port), asked) if colon else None
    except ValueError:
        return None


def _address(host: bytes | None, port: int, asked: Address) -> Address | None:
    """`None` where the cluster does not know (yet) under which name its node is reached."""
    if host == b"?":
        return None
    name = (host or b"").decode()
    if not 0 < port < 65_536 or len(name) > LONGEST_HOST:
        raise ValueError(f"a node at port {port}")
    return Address(name or asked.host, port)
