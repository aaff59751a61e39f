"""The registry in Redis: a list per service, each operation one script (instances.lua), and an index for figures.

The list decides, and is what a caller waits for. The index lies in another slot of a cluster, so it is told by a second
command, which nobody waits for: a note that is lost comes again with the next heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from traffic_cop_middleware.adapters.redis.calls import Script, counted, text_of, unheard
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.contracts import MICRO, Instance, Instances
from traffic_cop_middleware.contracts.registry import (
    MOST_HOLDERS,
    MOST_INSTANCES,
    check_instance,
    check_word,
    metadata_text,
)
from traffic_cop_middleware.errors import StoreError

log = logging.getLogger("traffic_cop")

INSTANCES = Script("instances.lua")
INDEX = Script("instances_index.lua")

KEPT = 86_400
"""Seconds that a list's keys live after its last announcement has run out."""


class RedisInstances:
    """`InstanceStore` on Redis, timed by the server's clock.

    Keys begin with `<namespace>:{instances:<service>}:`; the index is `<namespace>:{instances}`.
    """

    shared = True

    def __init__(self, link: Link, *, namespace: str) -> None:
        self._link = link
        self._prefix = f"{namespace}:"
        self._index = f"{namespace}:{{instances}}"

    def register(self, instance: Instance, *, holder: str) -> asyncio.Future[bool]:
        """As in the contract. One command, and one for the index."""
        check_instance(instance, holder)
        about = f"{round(instance.ttl * MICRO)} {instance.weight} {instance.url} {metadata_text(instance.metadata)}"
        ttl = round(instance.ttl * MICRO)
        arguments = (instance.name, holder, about, ttl, ttl // 1000 + KEPT * 1000, MOST_INSTANCES, MOST_HOLDERS)
        return self._ask(instance.service, ("register", *arguments), partial(self._registered, instance))

    def unregister(self, service: str, name: str, *, holder: str) -> asyncio.Future[bool]:
        """As in the contract. One command, and one for the index."""
        check_word("a service's name", service)
        check_word("an instance's name", name)
        check_word("an instance's holder", holder)
        return self._ask(service, ("unregister", name, holder), partial(self._unregistered, service, name))

    def read(self, service: str, *, since: int = 0) -> asyncio.Future[Instances | None]:
        """As in the contract. One command."""
        check_word("a service's name", service)
        return self._ask(service, ("read", since), partial(_read, service))

    def figures(self) -> asyncio.Future[Mapping[str, int]]:
        """As in the contract. One command; it knows of a change as soon as that was noted, right after it."""
        return INDEX.ask(self._link, (self._index,), ("figures",), _figures)

    def _ask(self, service: str, arguments: Sequence[Any], read: Any) -> asyncio.Future[Any]:
        tag = f"{self._prefix}{{instances:{service}}}:"
        return INSTANCES.ask(self._link, [tag + name for name in ("head", "rows", "ends", "holders")], arguments, read)

    def _registered(self, instance: Instance, reply: Sequence[int]) -> bool:
        changed, ends = reply
        self._note("put", counted(instance.service) + instance.name, ends)
        return bool(changed)

    def _unregistered(self, service: str, name: str, changed: int) -> bool:
        if changed:
            self._note("remove", counted(service) + name)
        return bool(changed)

    def _note(self, *arguments: Any) -> None:
        with contextlib.suppress(StoreError):  # the list stands; see above
            INDEX.ask(self._link, (self._index,), arguments).add_done_callback(unheard)


def _read(service: str, reply: Sequence[Any] | None) -> Instances | None:
    if reply is None:
        return None
    version, begun, *flat = reply
    found: list[Instance] = []
    for name, row in zip(flat[::2], flat[1::2], strict=True):
        try:
            found.append(_instance(service, name, row))
        except ValueError:  # one row that is not ours is no reason to lose the others, or the link
            log.warning("what is announced of the instance %r of %s can't be read, and is left out", name, service)
    return Instances(version, begun, sorted(found, key=attrgetter("name")))


def _instance(service: str, name: bytes, row: bytes) -> Instance:
    _, ttl, weight, url, metadata = row.split(b" ", 4)
    return Instance(service, text_of(name), url.decode(), int(weight), json.loads(metadata), int(ttl) / MICRO)


def _figures(reply: Sequence[Any]) -> Mapping[str, int]:
    return {text_of(name).partition(":")[2]: number for name, number in zip(reply[::2], reply[1::2], strict=True)}
