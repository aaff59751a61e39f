"""The registry: services ("pillars") announce their instances, and whoever sends requests knows which are live.

An announcement runs out unless it is made again (a *heartbeat* is the same call), by the store's own clock: who dies is
gone after its `ttl`. What a service's list says has a version: heartbeats leave it, everything else changes it, so who
watches asks by version and is told "unchanged". Versions grow and are never used twice, also where the store lost
everything: the first one is the time in microseconds. They are integers below 2**53.

Several processes may announce one instance (the workers of one server): each is a *holder*, and the instance is live
while one of them is.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, Protocol

MOST_WORD = 128
"""Bytes (UTF-8) of a service's name, of an instance's and of a holder's."""
MOST_URL = 512
MOST_METADATA = 1024
"""Bytes of an instance's metadata, as JSON in ASCII."""
MOST_WEIGHT = 1_000_000
SHORTEST_TTL, LONGEST_TTL = 0.5, 86_400.0
"""Seconds that an announcement may be good for."""
MOST_INSTANCES = 1_000
MOST_HOLDERS = 10_000
"""How many instances a service may have, and how many holders they may have together."""


class Instance(NamedTuple):
    """An instance of a service: where it is (`url`), and its share of the requests (`weight`; 0 gets none).

    `name` tells it from the service's others. `metadata` is words about it (a zone, a version). `ttl` is the seconds
    that it lives after a heartbeat; 0 for one that was not announced (an address of a DNS name).
    """

    service: str
    name: str
    url: str
    weight: int = 1
    metadata: Mapping[str, str] = {}
    ttl: float = 10.0


class Instances(NamedTuple):
    """The live instances of a service, in order of their names.

    `version` is the list's (0 where nothing was ever announced, or the store has lost it), `begun` the one that the
    list began with: where it is later than a version that somebody knows, the store had lost the list meanwhile.
    """

    version: int
    begun: int
    instances: Sequence[Instance]


class InstanceStore(Protocol):
    """Who has announced what. A store in this process answers at once; a shared one gives something to await."""

    @property
    def shared(self) -> bool:
        """Whether other processes see the same instances (asking then costs a round trip)."""
        ...

    def register(self, instance: Instance, *, holder: str) -> bool | Awaitable[bool]:
        """Announce an instance for `instance.ttl` seconds from now, or go on announcing it. One round trip.

        Gives whether the list has changed by it: the instance is new, or another than before.

        Raises:
            ValueError: it can't be announced (`check_instance`).
            StoreUnavailable: not reached, or not in time; it may or may not be announced.
            StoreError: the store answered with an error, or the service has too many instances or holders.
        """
        ...

    def unregister(self, service: str, name: str, *, holder: str) -> bool | Awaitable[bool]:
        """End a holder's announcement before its time. One round trip.

        Gives whether the list has changed by it: nobody else holds the instance.

        Raises:
            ValueError: a word can't be used.
            StoreUnavailable: not reached, or not in time; it may or may not have ended. It ends by itself.
            StoreError: the store answered with an error.
        """
        ...

    def read(self, service: str, *, since: int = 0) -> Instances | Awaitable[Instances | None] | None:
        """The live instances, or `None` while the list is still at the version `since`. One round trip.

        Raises:
            ValueError: the service's name can't be used.
            StoreUnavailable: not reached, or not in time.
            StoreError: the store answered with an error.
        """
        ...

    def figures(self) -> Mapping[str, int] | Awaitable[Mapping[str, int]]:
        """How many live instances each service has; those that have none are left out. One round trip."""
        ...


def check_word(what: str, word: str) -> None:
    """Refuse a name that no store takes.

    Raises:
        ValueError: it is empty, has braces or NUL, or is longer than 128 bytes.
    """
    if not word or set(word) & set("{}\0") or len(word.encode("utf-8", "surrogatepass")) > MOST_WORD:
        raise ValueError(f"{what} {word[:80]!r}: it is a word without braces, of at most {MOST_WORD} bytes")


def check_instance(instance: Instance, holder: str) -> None:
    """Refuse an announcement that no store takes.

    Raises:
        ValueError: a word is empty, has braces or NUL, or is longer than 128 bytes; the URL is no http:// or https://
            URL in printable ASCII of at most 512 bytes; the weight is no whole number from 0 to 1,000,000; the metadata
            is not texts by name, or longer than 1 KB; `ttl` is not from 0.5 to 86,400 seconds.
    """
    check_word("a service's name", instance.service)
    check_word("an instance's name", instance.name)
    check_word("an instance's holder", holder)
    url, weight, ttl, it = instance.url, instance.weight, instance.ttl, f"the instance {instance.name!r}"
    fits = url.isascii() and url.isprintable() and " " not in url and len(url) <= MOST_URL
    if not fits or not url.startswith(("http://", "https://")):
        raise ValueError(f"{it} at {url[:80]!r}: a URL such as 'http://10.0.0.5:8080', of at most {MOST_URL} bytes")
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= MOST_WEIGHT:
        raise ValueError(f"{it} with weight={weight!r}: a whole number from 0 to {MOST_WEIGHT}")
    if not all(isinstance(part, str) for pair in instance.metadata.items() for part in pair):
        raise ValueError(f"{it} with metadata={instance.metadata!r}: texts by name, as in {{'zone': 'a'}}")
    if (size := len(metadata_text(instance.metadata))) > MOST_METADATA:
        raise ValueError(f"{it} has {size} bytes of metadata, and {MOST_METADATA} is the most: announce a key to them")
    if not SHORTEST_TTL <= ttl <= LONGEST_TTL:
        raise ValueError(f"{it} for {ttl!r} s: it is announced for {SHORTEST_TTL:g} to {LONGEST_TTL:g} seconds")


def metadata_text(metadata: Mapping[str, str]) -> str:
    """Metadata as JSON in ASCII; equal ones have equal texts."""
    return json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"))
