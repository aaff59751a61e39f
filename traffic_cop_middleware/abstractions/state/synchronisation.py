"""Items pushed to named services, and what became of that.

Theory of operation. A push first writes down that it is due, beside the items and in a tier that is as lasting as the
configuration allows, and then tries. So what `status` says is true at any moment, also after a crash: `pending` until
the service has taken the item, `done` at the version that it took, `failed` with the reason where it refuses, or where
all tries are used up. Pending ones are tried again in the background, by one worker at a time: whose lease ended while
it was held up writes nothing down any more. Several may push one item at once; of what they find out the newest version
stands, and of one version that it was taken.

What is pushed is always the newest version: a service that was away gets one item, not all that it missed.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import anyio

from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.state.house import StateHouse
from traffic_cop_middleware.abstractions.state.items import StateItem
from traffic_cop_middleware.abstractions.state.taking_over import Pushed
from traffic_cop_middleware.contracts import Item, StateKey, Tier
from traffic_cop_middleware.contracts.leases import passes
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
PERIOD = 2.0
"""Seconds between two looks for what is to be pushed again."""
PATIENCE = 30.0
"""Seconds that a service may take for an item."""
ABANDONED = 60.0
"""Seconds after which a mark without a pending push is taken away."""
TURNS = 64
"""How often an outcome is noted anew, because another one was noted meanwhile."""


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
        pushes = []
        for name in names:
            ends = self._house.now() + KEPT_FOR
            place = _place(key, name)
            # The mark before the note, so none is missed.
            mark = await self._house.writer.write(_mark(place), "1", tier=self._tier, expires_at=ends)
            due = await self._note(key, name, partial(self._due, name, item))
            pushes.append(await self._try(key, due, mark))
        return pushes

    def _due(self, name: str, item: Item | None, before: Push | None) -> Push:
        """What is noted before the first try."""
        last = 0 if before is None else before.version
        version = last + 1 if item is None else item.version  # nothing of it is left, and that is newer
        return Push(name, "pending", max(version, last), self._house.now())

    async def status(self, key: StateKey) -> Sequence[Push]:
        """What became of the pushes of an item, by service; of those that were ever asked for."""
        places = [_place(key, name) for name in self._services]
        found = await self._house.reader.several(places, strong=True)
        return [note.push for note in map(_note_of, found.values()) if note is not None]

    async def retry(self, *, token: int | None = None) -> int:
        """Try again what is pending and due. Gives how many were tried.

        `token` is that of the lease under which this is done: outcomes of who held it before are noted no longer.

        Raises:
            StoreError: a store is away.
        """
        tried = 0
        after: str | None = None
        for _ in range(MOST_PAGES):
            page = await self._house.list("", DUE, prefix="", after=after, most=PAGE)
            places = [mark.key._replace(namespace=NAMESPACE) for mark in page.items]
            notes = await self._house.reader.several(places, strong=True)
            due: dict[str, list[tuple[StateKey, Push, Item]]] = {}
            for mark, place in zip(page.items, places, strict=True):
                note = _note_of(notes[place])
                if note is None or note.push.status != "pending":
                    if self._house.now() - mark.written_at > ABANDONED:  # whoever began, or ended, died at once
                        await self._unmark(mark)
                    continue
                push = note.push
                pause = min(PAUSE_LONGEST, PAUSE_FIRST * 2 ** max(0, push.tries - 1))
                at = push.at + pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
                if push.service in self._services and self._house.now() >= at:
                    due.setdefault(push.service, []).append((note.key, push, mark))
            failures: list[StoreError] = []
            async with anyio.create_task_group() as tasks:  # a service that hangs holds up no other
                for pushes in due.values():
                    tasks.start_soon(self._try_several, pushes, token, failures)
            if failures:
                raise failures[0]
            tried += sum(map(len, due.values()))
            after = page.after
            if after is None:
                break
        return tried

    async def _try_several(
        self, pushes: Sequence[tuple[StateKey, Push, Item]], token: int | None, failures: list[StoreError]
    ) -> None:
        try:
            for key, push, mark in pushes:
                await self._try(key, push, mark, token=token)
        except StoreError as exc:
            failures.append(exc)

    async def keep_trying(self, *, token: int) -> None:
        """Try again now and then, under a lease's token, until cancelled."""
        while True:
            await anyio.sleep(PERIOD * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret
            try:
                await self.retry(token=token)
            except StoreError as exc:
                log.debug("pushes were not tried again: %s", exc)

    async def _try(self, key: StateKey, due: Push, mark: Item, *, token: int | None = None) -> Push:
        item = await self._house.reader.one(key, strong=True)
        there = item is not None and item.value is not None
        pushed = Pushed(
            *key,
            version=due.version if item is None else max(item.version, due.version),
            value=StateItem(item).value if item is not None and there else None,
            deleted=not there,
            expires_at=item.expires_at if item is not None and there else None,
        )
        status: Status = "pending"
        reason = f"no answer within {PATIENCE:g} s"
        try:
            with anyio.move_on_after(PATIENCE):
                await self._services[due.service](pushed)
                status, reason = "done", ""
        except (StateConflict, ValueError) as exc:
            status, reason = "failed", f"refused: {exc}"
        except Exception as exc:  # noqa: BLE001 - whatever a service raises, the status tells of it
            reason = f"{type(exc).__name__}: {exc}"
        if status == "pending" and due.tries + 1 >= TRIES:
            status = "failed"
        found = Push(due.service, status, pushed.version, self._house.now(), due.tries + 1, reason[:MOST_REASON])
        if status != "done":
            log.warning("%s/%s was not pushed to %s (%s): %s", key.namespace, key.key, due.service, status, reason)
        self._emit("state.pushed", {"namespace": key.namespace, "service": due.service, "status": status})
        stands = await self._note(key, due.service, partial(_outcome, found), token=token)
        if stands.status != "pending":
            await self._unmark(mark)
        return stands

    async def _note(
        self, key: StateKey, service: str, made: Callable[[Push | None], Push], *, token: int | None = None
    ) -> Push:
        """Note of a push what `made` makes of what stands there, and give what stands there then.

        What one noted who has lost the lease since is not written: under a larger token somebody else has gone on.
        """
        place = _place(key, service)
        for _ in range(TURNS):
            item = await self._house.reader.one(place, strong=True)
            before = _note_of(item)
            highest = 0 if before is None else before.token
            if before is not None and token is not None and not passes(token, highest=highest):
                return before.push
            push = made(None if before is None else before.push)
            if before is not None and push is before.push:
                return push
            text = dumps({"key": list(key), "push": list(push), "token": max(token or 0, highest)})
            ends = self._house.now() + KEPT_FOR
            version = 0 if item is None or before is None else item.version
            with contextlib.suppress(StateConflict):
                await self._house.writer.write(place, text, tier=self._tier, if_version=version, expires_at=ends)
                return push
        raise StoreError(f"what became of the push of {key.namespace}/{key.key} changes as fast as it is noted")

    async def _unmark(self, mark: Item) -> None:
        """Take a mark away, unless a push began anew since."""
        with contextlib.suppress(StateConflict):
            await self._house.writer.write(mark.key, None, tier=None, if_version=mark.version)


class Note(NamedTuple):
    """What became of a push, as it stands; `token` is the largest of those under which it was tried again."""

    key: StateKey
    push: Push
    token: int


def _note_of(item: Item | None) -> Note | None:
    if item is None or item.value is None:
        return None
    held = loads(item.value)
    return Note(StateKey(*held["key"]), Push(*held["push"]), held["token"])


def _outcome(found: Push, before: Push | None) -> Push:
    """What stands after a try: a try of an older version tells nothing of a newer one, and what a service has taken
    stays taken whatever became of another try of the same version."""
    if before is None or found.version > before.version:
        return found
    if found.version < before.version or (before.status == "done" and found.status != "done"):
        return before
    return found


def _mark(place: StateKey) -> StateKey:
    return place._replace(namespace=DUE)


def _place(key: StateKey, service: str) -> StateKey:
    return StateKey("", NAMESPACE, f"{service[:200]} {sha256(chr(0).join(key).encode()).hexdigest()}")
