"""The instances of a pool, what is known of them, and which of them are fit to get requests.

Theory of operation. An instance has facts (drained, unhealthy, ejected, starting), set by people, active checks and the
attempts on it. From the facts follow the candidates, a tuple that is made anew when a fact changes or its time is over.
Times are looked at when somebody asks, so there are no timers: the clock that is passed in is the only one.

Invariants. Who drains, is marked unhealthy or has no weight is no candidate, whatever happens to the others. Of those
that are left, passive ejection keeps at most `most_ejected` away: if more would be out it is more likely that we, or
what all of them need, are ill, and the rest would drown; so all are in (panic). Marks of active checks are not capped:
somebody looked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from math import inf
from statistics import median
from typing import Any

from traffic_cop_middleware.abstractions.balancing.ejection import Outliers
from traffic_cop_middleware.abstractions.balancing.instances import Instance, Member
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.upstreams import MOST_UPSTREAMS
from traffic_cop_middleware.errors import ConfigurationError

SLOW_STEPS = 20
"""In so many steps an instance that starts slowly gets its full share."""
ROUNDING = 1e-9
SMALL, FEW = 10, 3
"""Instances: so many a request may fail to reach in any pool; and so many where all are known to be out."""

Emit = Callable[[str, Mapping[str, Any]], None]


class Roster:
    """Instances by name, and the candidates among them. `emit` hears of what happens to them."""

    def __init__(self, name: str, settings: BalancingSettings, *, clock: Callable[[], float], emit: Emit) -> None:
        self.name = name
        self.settings = settings
        self._clock = clock
        self._emit = emit
        self._outliers = Outliers(settings)
        self._instances: dict[str, Instance] = {}
        self._candidates: tuple[Instance, ...] = ()
        self._in_flight = 0
        self._panic = False
        self.most_unreached = FEW
        """Instances that one request may fail to reach: half of them and one more, so that it gets through while at
        most half are dead; in a small pool all. But where most are out, those that are not and one more, or a few: or
        each request would knock at a whole dead pool, whatever its size. Each failure brings an ejection nearer."""
        self._next = inf  # when a fact's time is over
        self._together = False
        self._due = False  # facts have changed, and the candidates were not drawn yet

    def __getitem__(self, name: str) -> Instance:
        found = self._instances.get(name)
        if found is None:
            raise LookupError(f"the pool {self.name!r} has no instance named {name!r}")
        return found

    def __len__(self) -> int:
        return len(self._instances)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Several marks, drains and resumes at once: the candidates, whose number is the cost, are drawn at the end."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
            if self._due:
                self._due = False
                self._settle(self._clock())

    @property
    def instances(self) -> Mapping[str, Instance]:
        """All of them by name: the same mapping, by identity, until others come or some go."""
        return self._instances

    def fit(self) -> Sequence[Instance]:
        """Those that may get requests now: the same sequence, by identity, until that changes."""
        if (now := self._clock()) >= self._next:
            self._settle(now)
        return self._candidates

    def unfit(self, name: str) -> str:
        """Why an instance gets no requests now; empty where it does."""
        instance = self._instances.get(name)
        if instance is None:
            return "it is no longer in the pool"
        self.fit()  # as of now
        return "" if instance.candidate else instance.reason(self._clock())

    def unhealthy(self) -> Collection[str]:
        """The names of those that active checks found ill."""
        return [name for name, each in self._instances.items() if each.unhealthy is not None]

    def drained(self) -> Collection[str]:
        """The names of those that are being drained."""
        return [name for name, each in self._instances.items() if each.draining is not None]

    def mark(self, name: str, *, healthy: bool, reason: str = "") -> None:
        """What active checks found. Who is healthy again starts slowly, and its past failures are forgotten.

        Raises:
            LookupError: there is no instance of this name.
        """
        instance, now = self[name], self._clock()
        if not healthy:
            new = instance.unhealthy is None
            instance.unhealthy = reason or "its checks fail"
            if new:
                self._tell("unhealthy", instance, reason=instance.unhealthy)
                self._said(now)
        elif instance.unhealthy is not None:
            instance.unhealthy = None
            self._start_anew(instance, now)
            self._tell("healthy", instance, reason=reason)
            self._said(now)

    def drain(self, name: str, *, reason: str = "it is being drained") -> None:
        """Send no new requests; those in flight end as they would.

        Raises:
            LookupError: there is no instance of this name.
        """
        instance = self[name]
        new = instance.draining is None
        instance.draining = reason
        if new:
            self._tell("draining", instance, reason=reason)
            self._said(self._clock())

    def resume(self, name: str) -> None:
        """Send requests again, slowly at first; past failures are forgotten.

        Raises:
            LookupError: there is no instance of this name.
        """
        instance, now = self[name], self._clock()
        if instance.draining is not None:
            instance.draining = None
            self._start_anew(instance, now)
            self._tell("resumed", instance, reason="")
            self._said(now)

    def change(self, members: Iterable[Member]) -> None:
        """These are the instances now. Who was there (by name and URL) keeps its state; who is new starts slowly.

        Where all are new they don't: nobody is there that could take more meanwhile.

        Raises:
            ConfigurationError: two have one name, or there are too many; nothing was changed then.
        """
        wanted: dict[str, Member] = {}
        for member in members:
            if member.name in wanted:
                raise ConfigurationError(f"the pool {self.name!r} has two instances named {member.name!r}")
            wanted[member.name] = member
        if len(wanted) > MOST_UPSTREAMS:
            raise ConfigurationError(f"a pool of {len(wanted)} instances; {MOST_UPSTREAMS} is the most")
        now = self._clock()
        kept = {name: each for name, each in self._instances.items() if _is(each, wanted.get(name))}
        usual = median(each.latency(now) for each in kept.values()) if kept else 0.0
        gone = [each for name, each in self._instances.items() if name not in kept]
        new: list[Instance] = []
        self._instances = {}
        for name, member in wanted.items():
            instance = kept.get(name)
            if instance is None:
                instance = Instance(member, tau=self.settings.tau, latency=usual, now=now)
                instance.slow_until = now + self.settings.slow_start if kept else 0.0
                new.append(instance)
            instance.upstream = member.upstream
            instance.metadata = member.metadata
            instance.share = float(member.upstream.weight)
            self._instances[name] = instance
        for instance in gone:
            instance.removed = True
            instance.candidate = False
            self._tell("removed", instance, reason="")
        for instance in new:
            self._tell("added", instance, reason="")
        self._settle(now)

    def _said(self, now: float) -> None:
        """A fact has changed."""
        if self._together:
            self._due = True
        else:
            self._settle(now)

    def _bound(self, instance: Instance, now: float) -> None:
        """Its times are no longer than the settings have them."""
        instance.tau = self.settings.tau
        instance.slow_until = min(instance.slow_until, now + self.settings.slow_start)
        instance.ejected_until = min(instance.ejected_until, now + self.settings.longest_ejection)

    def _follow(self, before: Roster, now: float) -> None:
        """Begin with what another roster knows of its instances, which tells no more of them: this one does.

        Both have copies of their own, so either goes on by itself.
        """
        self._outliers = copy(before._outliers)
        self._outliers.settings = self.settings
        self._panic = before._panic
        for name, each in before._instances.items():
            mine = self._instances[name] = copy(each)
            mine.candidate = False
            self._bound(mine, now)
        before._emit = _nobody_hears

    def _same(self, instance: Instance) -> Instance | None:
        """The copy of another roster's instance, if it is still here."""
        found = self._instances.get(instance.name)
        return found if found is not None and found.identity is instance.identity else None

    def _start_anew(self, instance: Instance, now: float) -> None:
        instance.ejected_until, instance.ejections, instance.streak = 0.0, 0, 0
        instance.healthy_since = now
        instance.slow_until = now + self.settings.slow_start

    def _eject(self, instance: Instance, reason: str, now: float) -> None:
        if instance.removed:
            return
        seconds = self._outliers.eject(instance, reason, now)
        self._tell("ejected", instance, reason=reason, seconds=seconds)
        self._settle(now)

    def _readmit(self, instance: Instance, now: float, reason: str) -> None:
        instance.ejected_until = 0.0
        instance.ejected_for = ""
        instance.healthy_since = now
        self._tell("returned", instance, reason=reason)
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Draw the candidates from the facts, and find out when to do so again."""
        slow = self.settings.slow_start
        able: list[Instance] = []
        out = 0
        self._next = inf
        for each in self._instances.values():
            each.candidate = False
            if each.ejected_until and now >= each.ejected_until:
                each.healthy_since, each.ejected_until = each.ejected_until, 0.0
                self._tell("returned", each, reason="its time is over")
            if each.ejected_until:
                self._next = min(self._next, each.ejected_until)
            if each.draining is None and each.unhealthy is None and each.share:
                able.append(each)
                out += each.ejected_until > 0
            each.weigh(now, slow)
            if now < each.slow_until:
                self._next = min(self._next, now + slow / SLOW_STEPS, each.slow_until)
        panic = out > int(len(able) * self.settings.most_ejected + ROUNDING)
        self._candidates = tuple(able if panic else [each for each in able if not each.ejected_until])
        self.most_unreached = max(FEW, 1 + min(len(able) - out, max(SMALL, len(able) // 2)))
        self._in_flight = 0
        for each in self._candidates:
            each.candidate = True
            self._in_flight += each.in_flight
        if panic != self._panic:
            self._panic = panic
            self._emit("pool.panic", {"pool": self.name, "panic": panic, "ejected": out, "instances": len(able)})

    def _tell(self, what: str, instance: Instance, **attributes: Any) -> None:
        self._emit(f"instance.{what}", {"pool": self.name, "instance": instance.name, **attributes})


def _nobody_hears(kind: str, attributes: Mapping[str, Any]) -> None:
    """Where another roster tells of the same instances."""


def _is(instance: Instance, member: Member | None) -> bool:
    """Whether a member is the instance that was there: what listens at another URL is another process."""
    return member is not None and member.upstream.url == instance.upstream.url
