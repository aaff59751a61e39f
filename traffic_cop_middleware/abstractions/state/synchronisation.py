"""Items pushed to named services, and what became of that.

Theory of operation. A push first writes down that it is due, beside the items and in a tier that is as lasting as the
configuration allows, and then tries. So what `status` says is true at any moment, also after a crash: `pending` until
the service has taken the item, `done` at the version that it took, `failed` with the reason where it refuses, or where
all tries are used up. Pending ones are tried again in the background, by one worker at a time where several look.

What is pushed is always the newest version: a service that was away gets one item, not all that it missed.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import anyio

from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.state.house import StateHouse
from traffic_cop_middleware.abstractions.state.items import StateItem
from traffic_cop_middleware.abstractions.state.merge_patch import merge_patch
from traffic_cop_middleware.abstractions.state.writing import conflict
from traffic_cop_middleware.contracts import Item, StateKey, Tier
from traffic_cop_middleware.errors import ConfigurationError, StateConflict, StoreError

log = logging.getLogger("traffic_cop.state")

NAMESPACE, DUE = "tc.pushes", "tc.pushes_due"
"""Where it stands what became of a push, and a mark for each that is pending: so a look costs what those are."""
KEPT_FOR = 30 * 86_400.0
"""Seconds that it stands what became of a push."""
TRIES = 10
PAUSE_FIRST, PAUSE_LONGEST = 1.0, 300.0
"""Seconds until a push that failed is tried again; twice as long each time."""
PAGE = 200
MOST_PAGES = 1_000
MOST_REASON = 500
Status = Literal["pending", "done", "failed"]
How = Literal["last", "merge", "strict"]
PERIOD = 2.0
"""Seconds between two looks for what is to be pushed again."""
TAKEN = "tc.taken"
TURNS = 64
"""How often an item is taken over anew, because it was changed here meanwhile."""


class Pushed(NamedTuple):
    """An item as a service gets it. `value` is `None` where it was deleted."""

    tenant: str
    namespace: str
    key: str
    version: int
    value: Any
    deleted: bool


Service = Callable[[Pushed], Awaitable[None]]
"""Takes an item, and returns when it has it; it may get one twice, which `version` tells.

`StateConflict` or `ValueError` is a refusal; whatever else it raises, it is tried again."""


class Push(NamedTuple):
    """What became of a push. `version` is the item's that the service took last, or is to take; `at` is when that was
    found out, in seconds since the epoch; `reason` says why it is `pending` or `failed`."""

    service: str
    status: Status
    version: int
    at: float
    tries: int = 0
    reason: str = ""


class StatePushes:
    """Pushes items to services. `now` gives seconds since the epoch."""

    def __init__(
        self, house: StateHouse, services: Mapping[str, Service], *, emit: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self._house = house
        self._services = dict(services)
        self._emit = emit
        self._tier: Tier = "delayed" if house.lasts else "cache"

    async def push(self, key: StateKey, to: Iterable[str]) -> Sequence[Push]:
        """Push an item as it is now, and give what became of it for each service.

        Raises:
            ConfigurationError: a service has no such name.
        """
        names = [to] if isinstance(to, str) else list(dict.fromkeys(to))
        for name in names:
            if name not in self._services:
                known = ", ".join(map(repr, self._services)) or "none: write TrafficCop(state_services={'billing': …})"
                raise ConfigurationError(f"to={name!r}: a service of this name is not known; there is {known}")
        item = await self._house.reader.one(key, strong=True)
        version = 0 if item is None else item.version
        pushes = []
        for name in names:
            due = Push(name, "pending", version, self._house.now())
            await self._note(key, due)
            pushes.append(await self._try(key, due))
        return pushes

    async def status(self, key: StateKey) -> Sequence[Push]:
        """What became of the pushes of an item, by service; of those that were ever asked for."""
        places = [_place(key, name) for name in self._services]
        found = await self._house.reader.several(places, strong=True)
        return [_push(item)[1] for item in found.values() if item is not None and item.value is not None]

    async def retry(self) -> int:
        """Try again what is pending and due. Gives how many were tried.

        Raises:
            StoreError: a store is away.
        """
        tried = 0
        after: str | None = None
        for _ in range(MOST_PAGES):
            page = await self._house.list("", DUE, prefix="", after=after, most=PAGE)
            places = [mark.key._replace(namespace=NAMESPACE) for mark in page.items]
            notes = await self._house.reader.several(places, strong=True)
            for mark, place in zip(page.items, places, strict=True):
                item = notes[place]
                if item is None or item.value is None or item.version < mark.version:
                    continue  # it is being pushed at this moment
                key, push = _push(item)
                if push.status != "pending":  # whoever wrote that died before the mark was taken away
                    await self._house.writer.write(mark.key, None, tier=None)
                pause = min(PAUSE_LONGEST, PAUSE_FIRST * 2 ** max(0, push.tries - 1))
                due = push.at + pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
                if push.status == "pending" and push.service in self._services and self._house.now() >= due:
                    await self._try(key, push)
                    tried += 1
            after = page.after
            if after is None:
                break
        return tried

    async def keep_trying(self) -> None:
        """Try again now and then, until cancelled."""
        while True:
            await anyio.sleep(PERIOD * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret
            try:
                await self.retry()
            except StoreError as exc:
                log.debug("pushes were not tried again: %s", exc)

    async def _try(self, key: StateKey, due: Push) -> Push:
        item = await self._house.reader.one(key, strong=True)
        there = item is not None and item.value is not None
        pushed = Pushed(
            *key,
            version=0 if item is None else item.version,
            value=StateItem(item).value if item is not None and there else None,
            deleted=not there,
        )
        status: Status = "done"
        reason = ""
        try:
            await self._services[due.service](pushed)
        except (StateConflict, ValueError) as exc:
            status, reason = "failed", f"refused: {exc}"
        except Exception as exc:  # noqa: BLE001 - whatever a service raises, the status tells of it
            status = "failed" if due.tries + 1 >= TRIES else "pending"
            reason = f"{type(exc).__name__}: {exc}"
        push = Push(due.service, status, pushed.version, self._house.now(), due.tries + 1, reason[:MOST_REASON])
        await self._note(key, push)
        if status != "done":
            log.warning("%s/%s was not pushed to %s (%s): %s", key.namespace, key.key, due.service, status, reason)
        self._emit("state.pushed", {"namespace": key.namespace, "service": due.service, "status": status})
        return push

    async def _note(self, key: StateKey, push: Push) -> None:
        text = dumps({"key": list(key), "push": list(push)})
        place = _place(key, push.service)
        mark = place._replace(namespace=DUE)
        ends = self._house.now() + KEPT_FOR
        if push.status == "pending" and push.tries == 0:  # before the note, so none is missed
            await self._house.writer.write(mark, "1", tier=self._tier, expires_at=ends)
        await self._house.writer.write(place, text, tier=self._tier, expires_at=ends)
        if push.status != "pending":
            await self._house.writer.write(mark, None, tier=None)


async def take_over(house: StateHouse, key: StateKey, pushed: Pushed, *, how: How) -> Item | None:
    """Take an item that another service pushed; what is here of it then.

    Which of its versions was taken last is kept beside it, with the version that this gave here: so what comes twice,
    or late, changes nothing, and a change that was made here meanwhile is seen.
    """
    note = StateKey(key.tenant, TAKEN, sha256(dumps(list(key)).encode()).hexdigest())
    tier: Tier = "delayed" if house.lasts else "cache"
    for turn in range(TURNS):
        found = await house.reader.several((key, note), strong=True)
        item, noted = found[key], found[note]
        taken, given = loads(noted.value) if noted is not None and noted.value is not None else (0, 0)
        if pushed.version <= taken:
            return item
        here = item.version if item is not None and item.value is not None else 0
        if how == "strict" and here not in (0, given):
            raise conflict(key, given, item)
        value: str | None = None
        if not pushed.deleted:
            before = loads(item.value) if item is not None and item.value is not None else None
            value = dumps(merge_patch(before, pushed.value) if how == "merge" else pushed.value)
        try:
            item = await house.writer.write(key, value, tier=None, if_version=here)
        except StateConflict:
            if turn == TURNS - 1:
                raise
            continue
        house.wrote(item)
        await house.writer.write(note, dumps([pushed.version, item.version]), tier=tier)
        return item
    return None


def _place(key: StateKey, service: str) -> StateKey:
    name = sha256(dumps(list(key)).encode()).hexdigest()
    return StateKey("", NAMESPACE, f"{service[:200]} {name}")


def _push(item: Item) -> tuple[StateKey, Push]:
    held = loads(item.value or "null")
    return StateKey(*held["key"]), Push(*held["push"])
