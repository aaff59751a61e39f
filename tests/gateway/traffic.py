"""Clients that ask a gateway without a pause, and what became of each of their requests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from tests.gateway.raw import Peer, client, eventually, get, post

PAUSE = 0.004
"""Seconds between an answer and the next request: the machine has others to serve."""


class Asked(NamedTuple):
    """A request and its answer: `status` 0 where it was cut, `who` answered, `began` in monotonic seconds."""

    request: str
    began: float
    ended: float
    status: int
    who: str

    @property
    def method(self) -> str:
        return self.request.partition(" ")[0]


class Traffic:
    """What was asked so far. Each request has a target of its own, and an answer to another one fails the test."""

    def __init__(self, port: int, methods: Iterable[str]) -> None:
        self.port = port
        self.done: list[Asked] = []
        self.mixed_up: list[Asked] = []
        self._ends = False
        self._numbers = itertools.count()
        self._methods = itertools.cycle(methods)

    def since(self, moment: float, method: str = "") -> list[Asked]:
        """Those that began after a moment and are done."""
        return [each for each in self.done if each.began >= moment and method in each.request]

    def failed(self, moment: float = 0.0) -> list[Asked]:
        return [each for each in self.since(moment) if each.status != 200]

    def who(self, moment: float) -> Counter[str]:
        """How many requests since then each answered."""
        return Counter(each.who for each in self.since(moment) if each.status == 200)

    async def more(self, count: int, method: str = "") -> float:
        """Wait until so many have begun from now on and are done; gives the moment from which they count."""
        moment = time.monotonic()
        await eventually(lambda: len(self.since(moment, method)) >= count, within=60)
        return moment

    async def run(self) -> None:
        """One client: it asks on one connection as long as that is open."""
        while not self._ends:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                async with client(self.port) as peer:
                    while not self._ends:
                        await self._ask(peer)
                        await asyncio.sleep(PAUSE)

    async def _ask(self, peer: Peer) -> None:
        method, target = next(self._methods), f"/{next(self._numbers)}"
        began, status, who = time.monotonic(), 0, ""
        try:
            await peer.send(get(target.encode()) if method == "GET" else post(b"hello", target=target.encode()))
            found = await peer.message()
            status = found.status
            if status == 200:
                who, _, answered = found.body.decode().partition(" ")
        finally:
            asked = Asked(f"{method} {target}", began, time.monotonic(), status, who)
            self.done.append(asked)
        if status == 200 and answered != target:
            self.mixed_up.append(asked)

    def end(self) -> None:
        self._ends = True


@contextlib.asynccontextmanager
async def traffic(port: int, *, clients: int = 6, methods: Iterable[str] = ("GET",)) -> AsyncIterator[Traffic]:
    """Clients that ask while the context lasts."""
    found = Traffic(port, methods)
    tasks = [asyncio.create_task(found.run()) for _ in range(clients)]
    try:
        yield found
    finally:
        found.end()
        await asyncio.wait(tasks, timeout=15)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [each for each in ends if each is not None] == []
    assert found.mixed_up == []
