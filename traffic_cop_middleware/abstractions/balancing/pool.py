"""The instances of one service, and which one gets the next request.

The roster knows who is fit; the policy chooses among those alone; attempts tell how it went, from which the roster, the
policy's figures and the retry budget learn. Everything is one event loop's and answers at once.
Invariants (besides the roster's): a request goes to no instance twice; `in_flight` of an instance is the number of its
attempts that have not ended, and, where each choice is begun at once, never above `most_in_flight`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from random import Random
from time import monotonic
from typing import cast
from weakref import ref

from traffic_cop_middleware.abstractions.balancing.attempts import Attempt, Nobody, Pending
from traffic_cop_middleware.abstractions.balancing.choosing import policy_for
from traffic_cop_middleware.abstractions.balancing.instances import Instance, Member
from traffic_cop_middleware.abstractions.balancing.outcomes import FAILURES, OK, Outcome
from traffic_cop_middleware.abstractions.balancing.retry_budget import RetryBudget
from traffic_cop_middleware.abstractions.balancing.roster import Emit, Roster
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.balancing.snapshot import PoolSnapshot, snapshot_of
from traffic_cop_middleware.contracts.balancing import BalancingKey

MANY = 8
"""Tried ones, from which looking for each in them costs more than making a set."""
TRIES = 3
"""Choices before those that are full are sorted out, which costs time in proportion to the pool."""


class BalancedPool(Roster):
    """A pool: `instance = pool.pick(); attempt = pool.began(instance); … attempt.ended(Outcome.OK)`.

    `clock` gives seconds that never go back, `random` what the policies draw from, `emit` hears of what happens to
    instances: `instance.added`, `.removed`, `.ejected`, `.returned`, `.unhealthy`, `.healthy`, `.draining`, `.resumed`
    and `pool.panic`, with `pool`, `instance`, `reason` and others.

    A pool `after` another begins with what that one knows of the instances that both have (by name and URL), and has
    its retry budget. Requests that began in the one before go on there, to its instances alone; this one hears of them.

    Raises:
        ConfigurationError: two members have one name, or there are too many.
    """

    def __init__(
        self,
        name: str,
        members: Iterable[Member] = (),
        settings: BalancingSettings | None = None,
        *,
        clock: Callable[[], float] = monotonic,
        random: Random | None = None,
        emit: Emit = lambda kind, attributes: None,
        after: BalancedPool | None = None,
    ) -> None:
        super().__init__(name, settings or BalancingSettings(), clock=clock, emit=emit)
        self._random = random or Random()  # noqa: S311 - who gets a request is no secret
        now = clock()
        self._budget = RetryBudget(share=self.settings.retry_share, floor=self.settings.retry_floor, now=now)
        self._policy = policy_for(self.settings, self._random)
        self._told: object = None
        self._pending: dict[Pending, None] = {}
        self._before: list[ref[BalancedPool]] = []
        self._after: list[ref[BalancedPool]] = []
        if after is not None:
            self._follow(after, now)
            self._budget = after._budget
            self._budget.configure(share=self.settings.retry_share, floor=self.settings.retry_floor)
            self._before = [each for each in (*after._before, ref(after)) if each() is not None]
            for each in self._before:
                if (pool := each()) is not None:
                    pool._after = [*(one for one in pool._after if one() is not None), ref(self)]
        self.change(members)

    # Choosing

    def pick(self, tried: Collection[Instance] = (), key: BalancingKey | None = None) -> Instance | Nobody:
        """The instance that gets the request, which has been at the `tried` ones; or why there is none.

        The first choice for a request (nothing tried) pays into the retry budget.
        """
        now = self._clock()
        if now >= self._next:
            self._settle(now)
        if not tried:
            self._budget.paid_in(now)
            candidates = self._candidates
            if candidates and self.settings.most_in_flight is None:
                # Most requests end here. It is one of ours, for the candidates are; a `cast` would be a call.
                found = self._policy.pick(candidates, key, now=now, in_flight=self._in_flight)
                return found  # type: ignore[return-value]  # noqa: RET504 - of two lines, for the length of one
        return self._choose(tried, key, now)

    def _choose(self, tried: Collection[Instance], key: BalancingKey | None, now: float) -> Instance | Nobody:
        candidates = self._candidates
        if tried:
            gone = tried if len(tried) < MANY else frozenset(tried)
            candidates = tuple(each for each in candidates if each not in gone)
            if self._panic:  # a first choice may be an ejected one; who has been at one had better go elsewhere
                candidates = self._not_ejected(candidates) or candidates
        if not candidates:
            return self._why(tried)
        most = self.settings.most_in_flight
        for _ in range(1 if most is None else TRIES):
            instance = self._policy.pick(candidates, key, now=now, in_flight=self._in_flight)
            if most is None or instance.in_flight < most:  # it is one of ours: the candidates are
                return cast("Instance", instance)
            if self.settings.affinity and key is not None and key.owner == instance.name:
                return Nobody.FULL  # its session is there: better to wait than to be split
        candidates = tuple(each for each in candidates if each.in_flight < most) if most else ()
        if not candidates:
            return Nobody.FULL
        return cast("Instance", self._policy.pick(candidates, key, now=now, in_flight=self._in_flight))

    def _not_ejected(self, candidates: Collection[Instance]) -> tuple[Instance, ...]:
        """Those of them that are not ejected and have room."""
        most = self.settings.most_in_flight
        return tuple(each for each in candidates if not each.ejected_until and (most is None or each.in_flight < most))

    def _why(self, tried: Collection[Instance]) -> Nobody:
        if self._candidates:
            return Nobody.TRIED
        return Nobody.UNFIT if self._instances else Nobody.NONE

    def may_retry(self) -> bool:
        """Take one retry out of the budget, if it is there.

        For attempts whose request may have reached an instance; what found no connection is tried elsewhere for free.
        """
        return self._budget.take(self._clock())

    def wait(
        self,
        wake: Callable[[], None],
        tried: Collection[Instance] = (),
        key: BalancingKey | None = None,
        *,
        timed: bool = True,
    ) -> Pending | None:
        """Stand in line for an instance where all are full; `None` where the line is too long.

        `wake` is called once the `attempt` is there; `timed` as in `began`. Who no longer waits says so by `leave`.
        """
        if len(self._pending) >= self.settings.most_pending:
            return None
        pending = Pending(wake, tried, key, timed=timed)
        self._pending[pending] = None
        return pending

    def leave(self, pending: Pending) -> None:
        """It waits no longer; an attempt that it was given meanwhile and that nobody took over ends here."""
        self._pending.pop(pending, None)
        if pending.attempt is not None:
            pending.attempt.ended(Outcome.CANCELLED)

    # Attempts

    def began(self, instance: Instance, *, timed: bool = True) -> Attempt:
        """A request goes to an instance.

        `timed=False` where the time to the answer says nothing of the instance: it reads a body that a client sends
        slowly.
        """
        now = self._clock()
        self._count(instance, now, timed=timed)
        for pool, same in self._heard_after(instance) if self._after else ():
            pool._count(same, now, timed=timed)
        return Attempt(self, instance, now, timed=timed)

    def answered(self, attempt: Attempt, outcome: Outcome, seconds: float | None) -> None:
        """An attempt has an answer (`Attempt.answered`)."""
        instance, now = attempt.instance, self._clock()
        attempt.before = instance.streak
        passed = now - attempt.began if seconds is None else seconds
        self._judge(instance, outcome, passed, now, timed=attempt.timed)
        for pool, same in self._heard_after(instance) if self._after else ():
            pool._judge(same, outcome, passed, now, timed=attempt.timed)

    def ended(self, attempt: Attempt, outcome: Outcome) -> None:
        """Nothing of an attempt is under way any more (`Attempt.ended`)."""
        instance = attempt.instance
        broken = outcome in FAILURES and attempt.verdict is Outcome.OK
        if attempt.verdict is None:
            attempt.verdict = outcome
            self.answered(attempt, outcome, None)
        self._end(instance, outcome if broken else None, attempt.before)
        for pool, same in self._heard_after(instance) if self._after else ():
            pool._end(same, outcome if broken else None, attempt.before)

    def _heard_after(self, instance: Instance) -> Iterator[tuple[BalancedPool, Instance]]:
        """The pools that follow this one and have the instance too, each with its copy."""
        for each in self._after:
            pool = each()
            same = None if pool is None else pool._same(instance)
            if pool is not None and same is not None:
                yield pool, same

    def _count(self, instance: Instance, now: float, *, timed: bool) -> None:
        instance.in_flight += 1
        if instance.candidate:
            self._in_flight += 1
        if timed:
            instance.asked(now)

    def _judge(self, instance: Instance, outcome: Outcome, passed: float, now: float, *, timed: bool) -> None:
        reason: str | None = None
        if outcome is OK:
            if timed:
                instance.took(passed, now, owed=True)
                reason = self._outliers.good(instance, passed, now)
            else:
                reason = self._outliers.good(instance, None, now)
            if reason is None and self._panic and now < instance.ejected_until:
                self._readmit(instance, now, "it answers well")
        elif outcome in FAILURES:
            price = self._outliers.price(passed if timed else 0.0)
            if timed and outcome is not Outcome.TIMEOUT:
                instance.took(price, now, owed=True)
            else:
                if timed:
                    instance.given_up()
                instance.took(price, now)
            reason = self._outliers.bad(instance, outcome, now)
        elif timed:
            instance.given_up()
            instance.took_at_least(passed, now)
        if reason is not None:
            self._eject(instance, reason, now)

    def _end(self, instance: Instance, broken: Outcome | None, streak: int) -> None:
        if broken is not None:
            # Its head was counted as a good answer, which ended a row of failures that now goes on.
            now = self._clock()
            instance.streak = max(instance.streak, streak)
            instance.took(self._outliers.price(0.0), now)
            reason = self._outliers.bad(instance, broken, now, again=True)
            if reason is not None:
                self._eject(instance, reason, now)
        instance.in_flight -= 1
        if instance.candidate:
            self._in_flight -= 1
        if self._pending:
            now = self._clock()
            if now >= self._next:  # somebody's time is over, and nobody else may ask
                self._settle(now)
            else:
                self._hand_out(now)

    def _hand_out(self, now: float) -> None:
        """Give free places to those that wait, in their order."""
        for pending in list(self._pending):
            found = self._choose(pending.tried, pending.key, now)
            if isinstance(found, Instance):
                del self._pending[pending]
                pending.attempt = self.began(found, timed=pending.timed)
                pending.wake()
            elif not pending.tried and pending.key is None:
                return  # there is room for nobody

    def configure(self, settings: BalancingSettings) -> None:
        """Go by other settings from now on; what is known of the instances stays."""
        now = self._clock()
        before, self.settings = self.settings, settings
        self._outliers.settings = settings
        if all(each() is None for each in self._after):  # else the budget is that one's to set
            self._budget.configure(share=settings.retry_share, floor=settings.retry_floor)
        for each in self._instances.values():
            self._bound(each, now)
        if (before.policy, before.affinity, before.bound) != (settings.policy, settings.affinity, settings.bound):
            self._policy = policy_for(settings, self._random)
            self._policy.changed(tuple(self._instances.values()))
        self._settle(now)

    def _settle(self, now: float) -> None:
        if self._told is not self._instances:
            self._told = self._instances
            self._policy.changed(tuple(self._instances.values()))
        super()._settle(now)
        if self._pending:
            self._hand_out(now)

    def snapshot(self) -> PoolSnapshot:
        """The pool and its instances as they are now."""
        now = self._clock()
        if now >= self._next:
            self._settle(now)
        policy = self.settings.policy
        return PoolSnapshot(
            name=self.name,
            policy=policy if isinstance(policy, str) else type(policy).__name__,
            panic=self._panic,
            in_flight=sum(each.in_flight for each in self._instances.values()),
            pending=len(self._pending),
            retries_left=self._budget.left(now),
            instances=tuple(snapshot_of(each, now) for each in self._instances.values()),
        )
