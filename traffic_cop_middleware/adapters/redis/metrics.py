"""What the workers have counted, in Redis: each writes its own fields, by one script (metrics_flush.lua).

Keys, all in one slot: `<namespace>:{metrics}:live`; a hash per window, `:10s:<slot>`, `:1m:<minute>` and
`:tail:<minute>`, with a field per worker; for a day `:gone:<worker>` of each that went into the record. Many workers
are read in pages, so that no reply keeps others waiting for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from traffic_cop_middleware.adapters.redis.calls import Script, text_of
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.contracts import (
    MICRO,
    SEALED,
    Flush,
    Flushed,
    MetricsRecord,
    MetricsWindow,
    Totals,
    WorkerTotal,
)
from traffic_cop_middleware.errors import StoreError

FLUSH, RETIRE = Script("metrics_flush.lua"), Script("metrics_retire.lua")
READ, SEAL = Script("metrics_read.lua"), Script("metrics_seal.lua")

KEPT = 30 * 86_400
"""Seconds that totals are kept when nobody writes any more."""
GONE_KEPT = 86_400
"""Seconds that a worker which is in the record may still come back, or repeat itself, without being counted twice."""
WINDOWS_KEPT = {"10s": 240, "1m": 1_500, "tail": 1_500}
"""Seconds that a window of a kind is kept after the last write."""
PAGE, WINDOW_PAGE = 32, 8
"""Workers that one question asks for; their parts of a window may be a hundred KiB each."""
MOST_TURNS = 10


class RedisMetrics:
    """`MetricsStore` on Redis."""

    shared = True

    def __init__(self, link: Link, *, namespace: str) -> None:
        self._link = link
        self._prefix = f"{namespace}:{{metrics}}:"
        self._live = f"{self._prefix}live"

    def _gone(self, worker: str) -> str:
        return f"{self._prefix}gone:{worker}"

    def flush(self, worker: str, flush: Flush) -> asyncio.Future[Flushed]:
        kept = {name: WINDOWS_KEPT[name.partition(":")[0]] for name in flush.windows}
        windows = [part for name, blob in flush.windows.items() for part in (blob, kept[name])]
        arguments: list[Any] = [
            worker,
            flush.sequence,
            flush.through,
            int(flush.final),
            int(flush.total is not None),
            flush.total or b"",
            flush.now,
            KEPT,
            *windows,
        ]
        keys = [self._live, self._gone(worker), *(self._prefix + name for name in flush.windows)]
        return FLUSH.ask(self._link, keys, arguments, _flushed)

    def totals(self) -> Awaitable[Totals]:
        """As in the contract: one round trip, and one more for every 32 workers."""
        return self._totals(self._workers())

    def record(self) -> Awaitable[MetricsRecord]:
        return self._record(self._workers())

    def _workers(self) -> asyncio.Future[Any]:
        return READ.ask(self._link, (self._live,), ("workers",))

    async def _record(self, asked: asyncio.Future[Any]) -> MetricsRecord:
        _, epoch, version, record, *_ = await asked
        return MetricsRecord(int(epoch), int(version), record)

    async def _totals(self, asked: asyncio.Future[Any]) -> Totals:
        for _ in range(MOST_TURNS):
            now, epoch, version, value, *names = await asked
            record = MetricsRecord(int(epoch), int(version), value)
            workers: dict[str, WorkerTotal] = {}
            for start in range(0, len(names), PAGE):
                page = names[start : start + PAGE]
                its_epoch, its_version, at, *parts = await READ.ask(self._link, (self._live,), ("some", *page))
                if (its_epoch, its_version) != (epoch, version):
                    break  # a worker went into the record meanwhile: it would count twice, or not at all
                for name, header, total, after in zip(page, parts[::3], parts[1::3], parts[2::3], strict=True):
                    if header:
                        workers[text_of(name)] = _worker(header, total, after, int(at))
            else:
                return Totals(workers, record, max(0, int(now) - record.epoch) / MICRO)
            asked = self._workers()
        raise StoreError("the record of the metrics changes faster than it can be read")

    def retire(self, at: MetricsRecord, value: bytes, workers: Mapping[str, int]) -> asyncio.Future[bool]:
        pairs = [part for pair in workers.items() for part in pair]
        arguments: list[Any] = [at.epoch, at.version, value, GONE_KEPT, *pairs]
        return RETIRE.ask(self._link, (self._live, *map(self._gone, workers)), arguments, bool)

    def stamps(self, names: Sequence[str]) -> asyncio.Future[Sequence[int]]:
        return READ.ask(self._link, [self._prefix + name for name in names], ("stamps",), _numbers)

    def window(self, name: str) -> Awaitable[MetricsWindow]:
        """As in the contract: one round trip where it is sealed, otherwise one more for every 8 workers."""
        return self._window((self._prefix + name,))

    async def _window(self, key: Sequence[str]) -> MetricsWindow:
        stamp, sealed, *names = await READ.ask(self._link, key, ("window",))
        if sealed:
            return MetricsWindow(int(stamp), {SEALED: sealed[0]})
        parts: dict[str, bytes] = {}
        for start in range(0, len(names), WINDOW_PAGE):
            page = names[start : start + WINDOW_PAGE]
            for worker, part in zip(page, await READ.ask(self._link, key, ("parts", *page)), strict=True):
                if part is not None:
                    parts[text_of(worker)] = part
        return MetricsWindow(int(stamp), parts)

    def seal(self, name: str, value: bytes, stamp: int) -> asyncio.Future[Any]:
        return SEAL.ask(self._link, (self._prefix + name,), (value, stamp))


def _numbers(reply: Sequence[bytes]) -> Sequence[int]:
    return [int(number) for number in reply]


def _flushed(reply: Sequence[Any]) -> Flushed:
    accepted, epoch, version, *gone = reply
    return Flushed(accepted == 1, int(epoch), int(version), (gone[0], gone[1]) if gone else None)


def _worker(header: bytes, total: bytes, after: bytes, now: int) -> WorkerTotal:
    sequence, _through, final, at = header.split()
    return WorkerTotal(int(sequence), max(0, now - int(at)) / MICRO, final == b"1", total, after)
