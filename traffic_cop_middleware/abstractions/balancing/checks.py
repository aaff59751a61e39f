"""Active health checks: somebody asks each instance how it is, and all workers go by what was found.

One worker asks for all (`Leader`), so that many gateways don't bury a service in questions. What it finds stands in a
record for each pool, the reasons by the names of those that are unhealthy, and changes only when somebody's health
does. An instance is unhealthy after so many bad answers in a row, and healthy again after so many good ones: one lost
packet is no reason. While the records can't be written the last marks go on.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import anyio

from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.roster import Emit
from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.abstractions.live_table import LiveTable
from traffic_cop_middleware.abstractions.messaging import MessagingAbstraction
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.contracts import Lease
from traffic_cop_middleware.contracts.records import MOST_VALUE
from traffic_cop_middleware.errors import ConfigurationError, StoreError

log = logging.getLogger("traffic_cop")

HEALTH = "health"
"""The kind of these records."""
AT_ONCE = 50
"""Instances of a pool that are asked at the same time."""
MOST_REASON = 200


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How instances are asked for their health: `Service("billing", check=HealthCheck("/health", interval=2))`, or
    `route("/billing/*", to=[…], check=HealthCheck("/health"))` for upstreams that a route lists.

    `GET path` every `interval` seconds, by one worker for all; 2xx within `deadline` seconds is a good answer, anything
    else a bad one. After `unhealthy` bad ones in a row an instance gets no requests, after `healthy` good ones it does.

    Raises:
        ConfigurationError: a value can't be used.
    """

    path: str = "/health"
    interval: float = field(default=5.0, kw_only=True)
    deadline: float = field(default=1.0, kw_only=True)
    healthy: int = field(default=2, kw_only=True)
    unhealthy: int = field(default=3, kw_only=True)

    def __post_init__(self) -> None:
        path = self.path
        fits = isinstance(path, str) and path.isascii() and path.isprintable() and path.startswith("/")
        if not fits or set(path) & set(" #"):
            raise ConfigurationError(f"HealthCheck({path!r}): a path, percent-encoded, such as '/health'")
        for name in ("interval", "deadline"):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.01 <= value <= 3_600:
                raise ConfigurationError(f"HealthCheck({name}={value!r}): seconds, from 0.01 to 3,600")
        for name in ("healthy", "unhealthy"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000:
                raise ConfigurationError(f"HealthCheck({name}={value!r}): answers in a row, from 1 to 1,000")

    def record(self) -> dict[str, Any]:
        """It as JSON; what has its default is left out."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) != each.default}


def check_from(record: object) -> HealthCheck:
    """The health check of a record.

    Raises:
        ConfigurationError: it is none.
    """
    known = [each.name for each in fields(HealthCheck)]
    if not isinstance(record, Mapping) or any(name not in known for name in record):
        raise ConfigurationError(f"a health check has some of {', '.join(known)}; not {record!r}")
    return HealthCheck(**record)


class HealthMarks:
    """Who is unhealthy, by pool, as whoever checks them has told all workers. `made` gives the running event loop's
    pools; those that are checked here (`checks`) go by the marks, and no others."""

    def __init__(
        self,
        made: Callable[[], Any],
        messaging: Callable[[], MessagingAbstraction],
        *,
        emit: Emit,
    ) -> None:
        self._made = made
        self._messaging = messaging
        self._checked: WeakKeyDictionary[BalancedPool, str] = WeakKeyDictionary()
        self.live: LiveTable[Mapping[str, str]] = LiveTable(
            HEALTH, parse=lambda _, record: _marks_from(record), swap=self._swap, emit=emit
        )

    def checks(self, pool: BalancedPool, key: str) -> None:
        """This pool is checked: it goes by the marks from now on, which stand under a key."""
        self._checked[pool] = key
        self.obey(pool)

    def unchecked(self, pool: BalancedPool) -> None:
        """This pool is checked no longer: it has no marks."""
        self._checked.pop(pool, None)
        self.obey(pool)

    def obey(self, pool: BalancedPool) -> None:
        """Apply the marks to a pool: it has other instances, or there are other marks."""
        marks = self.of(pool)
        well = "it answers its checks" if pool in self._checked else "it is checked no longer"
        with pool.together():
            for name in {*pool.unhealthy(), *marks}:
                with contextlib.suppress(LookupError):  # it is not there; should it come, this is asked again
                    pool.mark(name, healthy=name not in marks, reason=marks.get(name, well))

    def of(self, pool: BalancedPool) -> Mapping[str, str]:
        """Why who is unhealthy."""
        key = self._checked.get(pool)
        return {} if key is None else self.live.values.get(key, {})

    async def tell(self, pool: BalancedPool, marks: Mapping[str, str]) -> None:
        """Tell all workers who is unhealthy now, if the pool is checked. Three round trips.

        Raises:
            StoreUnavailable: the backend is away.
        """
        key = self._checked.get(pool)
        if key is not None:
            await self._messaging().publish(HEALTH, {key: dumps(dict(marks)) if marks else None})

    def _swap(self, puts: Mapping[str, Mapping[str, str] | None]) -> None:
        for each in self._made():
            if self._checked.get(each) in puts:
                self.obey(each)


def _marks_from(record: object) -> Mapping[str, str]:
    if not isinstance(record, Mapping) or any(not isinstance(each, str) for pair in record.items() for each in pair):
        raise ConfigurationError(f"marks of unhealthy instances are reasons by their names: {record!r}")
    return dict(record)


def fitting(marks: Mapping[str, str]) -> Mapping[str, str]:
    """Marks as one record holds them, the same for the same ones: where they are many their reasons are shorter, and
    where even the names are too many the last of them are left out."""
    found = {name: marks[name] for name in sorted(marks)}
    for longest in (50, 0):
        if len(dumps(found).encode()) > MOST_VALUE:
            found = {name: reason[:longest] for name, reason in found.items()}
    while len(dumps(found).encode()) > MOST_VALUE:
        found = dict(list(found.items())[: len(found) * 9 // 10])
    return found


def plain(reason: str) -> str:
    """A reason, in which an instance may have had a say, as text that may be shown and stored."""
    return "".join(each if each.isprintable() else "?" for each in reason[:MOST_REASON])


Ask = Callable[[Upstream, HealthCheck], Awaitable[str]]
"""Asks an instance; gives why its answer is bad, or "" for a good one."""


class Checker:
    """Asks the instances of one pool again and again, for all workers."""

    def __init__(self, pool: BalancedPool, check: HealthCheck, ask: Ask, marks: HealthMarks) -> None:
        self._pool = pool
        self._check = check
        self._ask = ask
        self._marks = marks
        self._rows: dict[str, int] = {}
        """By instance: good answers in a row, or bad ones as a number below 0."""

    async def run(self, lease: Lease) -> NoReturn:
        """Ask every `interval` seconds, give or take a tenth, until cancelled. Rows of an earlier term don't go on."""
        self._rows = {}
        while True:
            await self.look()
            await anyio.sleep(self._check.interval * random.uniform(0.9, 1.1))  # noqa: S311 - jitter, no secret

    async def look(self) -> None:
        """Ask each instance once, and tell where somebody's health is another one."""
        upstreams = {each.name: self._pool[each.name].upstream for each in self._pool.snapshot().instances}
        found: dict[str, str] = {}
        room = anyio.CapacityLimiter(AT_ONCE)

        async def ask(name: str, upstream: Upstream) -> None:
            async with room:
                try:
                    found[name] = plain(await self._ask(upstream, self._check))
                except Exception:  # ours, so it says nothing of the instance
                    log.exception("%s of %s could not be asked for its health", name, self._pool.name)

        async with anyio.create_task_group() as tasks:
            for name, upstream in upstreams.items():
                tasks.start_soon(ask, name, upstream)
        known = self._marks.of(self._pool)
        marks = {name: reason for name, reason in known.items() if name in upstreams}
        rows = {name: self._rows.get(name, 0) for name in found}
        for name, reason in found.items():
            rows[name] = min(0, rows[name]) - 1 if reason else max(0, rows[name]) + 1
            if rows[name] <= -self._check.unhealthy:
                marks.setdefault(name, reason)
            elif rows[name] >= self._check.healthy:
                marks.pop(name, None)
        self._rows = rows
        if (fit := fitting(marks)) != known:
            with contextlib.suppress(StoreError):  # the backend has told of its loss; the next look tells it again
                await self._marks.tell(self._pool, fit)
