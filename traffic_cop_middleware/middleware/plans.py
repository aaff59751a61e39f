"""Which limits a request owes: worked out once per route and kept there.

The stack's limits come first, then those of subtrees, then the marks on the endpoint; an exempt endpoint owes its own
marks only. Limits of one name share a bucket and are charged once. Records change a limit by its name or add one to a
subtree (`live_limits.py`); then all plans are worked out anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple
from weakref import WeakSet

from starlette.requests import HTTPConnection
from starlette.types import Scope

from traffic_cop_middleware.abstractions.policies import MOST, Policy, capacity
from traffic_cop_middleware.abstractions.rate_limiting import NOTHING, Bill, Charge, bill
from traffic_cop_middleware.contracts import Guard
from traffic_cop_middleware.errors import CostTooHigh
from traffic_cop_middleware.middleware.context import TrafficContext
from traffic_cop_middleware.middleware.keys import Key, needs_record
from traffic_cop_middleware.middleware.limit_records import LiveLimit
from traffic_cop_middleware.middleware.marks import Cost, Limit
from traffic_cop_middleware.middleware.route_table import METHODS, Matched
from traffic_cop_middleware.middleware.subtrees import Subtree

OTHER_METHOD = "_OTHER"
EVERYWHERE = "/*"
BILLS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Applied:
    """A policy, whose bucket, and what it costs."""

    policy: Policy
    key: Key
    cost: Cost


class Owed(NamedTuple):
    """A bill; with a `guard`, `otherwise` is owed where the session that it is for does not stand."""

    bill: Bill
    guard: Guard | None
    otherwise: Bill


class Plan:
    """What a request to one route owes.

    Where every key is the client's address (or nothing of the request) and every cost a number, one client's bill is
    the same each time, and the last clients' `bills` are kept; of other plans none is.
    """

    __slots__ = ("__weakref__", "_keep", "_room", "applied", "bills", "by_client", "reads_session")

    def __init__(self, applied: Sequence[Applied], keep: Callable[[], None]) -> None:
        self._keep = keep
        self.applied = tuple(applied)
        self.by_client = all(each.key.by_client and not callable(each.cost) and each.cost for each in applied)
        self.reads_session = any(needs_record(part) for each in applied for part in (each.key, each.cost))
        self.bills: dict[str | None, Bill] = {}
        self._room: dict[tuple[int, ...], Any] = {}

    def client_bill(self, client: str | None, context: TrafficContext, scope: Scope) -> Bill:
        """The bill of a client; only where `by_client`. `client` is what it is known by: `None` asks the context."""
        client = client or context.client
        owed = self.bills.get(client)
        if owed is None:
            self._keep()
            owed = self.bills[client] = bill(
                [
                    Charge(each.policy, each.key.subject(context, scope), each.cost)  # type: ignore[arg-type]
                    for each in self.applied
                ],
                room=self._room,
            )
        return owed

    async def bill(self, context: TrafficContext, scope: Scope) -> Owed:
        """The request's bill, asking the key and cost functions.

        Raises:
            CostTooHigh: a cost function says more than fits, or less than nothing.
            TypeError: a function returned something else than it may.
        """
        charges, otherwise = [], []
        guarded = False
        for each in self.applied:
            subject = each.key.subject(context, scope)
            if inspect.isawaitable(subject):
                subject = await subject
            if subject is None:
                continue
            cost = each.cost
            if callable(cost):
                said = cost(HTTPConnection(scope))
                cost = await said if inspect.isawaitable(said) else said
                if isinstance(cost, int) and abs(cost) > MOST:
                    raise CostTooHigh(f"this request costs more tokens than any limit holds ({MOST})")
                if isinstance(cost, bool) or not isinstance(cost, (int, float)) or not isfinite(cost):
                    raise TypeError(f"the cost function of limit {each.policy.name!r} returned {cost!r}, not a number")
            if cost:
                charges.append(Charge(each.policy, subject, cost))
                anonymous = each.key.anonymous_subject(context, scope) if each.key.by_session else subject
                guarded |= anonymous != subject
                otherwise.append(Charge(each.policy, anonymous, cost))
        if guarded and context.session is not None and context.session.verified is not None:
            return Owed(bill(charges), context.session.verified.guard, bill(otherwise))
        return Owed(bill(charges), None, NOTHING)


class Planner:
    """Works out plans for one stack's limits and subtrees."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = tuple(limits)
        self._own_subtrees: tuple[Subtree, ...] = ()
        self._marked: dict[tuple[str, Limit], None] = {}
        self._live: Mapping[str, LiveLimit] = {}
        self._everywhere: tuple[Limit, ...] = ()
        self._subtrees: tuple[Subtree, ...] = ()
        self._plans: WeakSet[Plan] = WeakSet()
        self._planned: WeakSet[Matched] = WeakSet()
        self._bills = 0
        self._methods = METHODS
        self.limits_all = bool(limits)
        """Whether there is any limit but those that marks say."""
        self._learn_methods(limits)

    def add(self, subtree: Subtree) -> None:
        """Limit a subtree from now on."""
        self._own_subtrees = (*self._own_subtrees, subtree)
        self._begin_anew()

    def learn(self, template: str, limits: Iterable[Limit]) -> None:
        """Limits that are marked on a route: `standing` tells of them before the first request comes."""
        self._marked.update(dict.fromkeys((template, each) for each in limits))

    def change(self, live: Mapping[str, LiveLimit]) -> None:
        """Go by these records from now on."""
        self._live = live
        self._begin_anew()

    def standing(self, marked: Iterable[tuple[str, Limit]] = ()) -> Iterator[tuple[str, Limit]]:
        """All limits as they apply, each with where: "" for every route, a subtree's pattern, a route's template.

        `marked` are those of routes that `learn` did not tell of.
        """
        return self._sources([*self._marked, *marked], self._subtrees, exempt=False)

    def _begin_anew(self) -> None:
        added = [(live.paths, live.limit()) for live in self._live.values() if live.paths is not None]
        self._everywhere = tuple(each for paths, each in added if paths == EVERYWHERE)
        below = [Subtree(paths, (each,)) for paths, each in added if paths != EVERYWHERE]
        self._subtrees = (*self._own_subtrees, *below)
        self.limits_all = bool(self._limits or self._everywhere or self._subtrees)
        self._learn_methods(self._everywhere)
        for subtree in self._subtrees:
            self._learn_methods(subtree.limits)
        for matched in self._planned:
            matched.plans.clear()
        self._planned.clear()

    def plan(self, matched: Matched, method: str, path: str) -> Plan:
        """What a request to this route owes. `path` is the one below the app's root path."""
        subtrees = self._subtrees
        if subtrees:
            subtrees = tuple([subtree for subtree in subtrees if subtree.takes_in(path)])
        plan: Plan | None = matched.plans.get(self._place(method, subtrees))
        return plan or self._new_plan(matched, method, subtrees)

    def _new_plan(self, matched: Matched, method: str, subtrees: tuple[Subtree, ...]) -> Plan:
        """Work a plan out and keep it. Methods that nothing here names are one, so that nobody can fill the memory."""
        method = method.upper()
        named = (method in (each.methods or ()) for each in matched.marks.limits)
        if method not in self._methods and not any(named):
            method = OTHER_METHOD
        place = self._place(method, subtrees)
        plan: Plan | None = matched.plans.get(place)
        if plan is None:
            self._planned.add(matched)
            plan = matched.plans[place] = self._work_out(matched, method, subtrees)
        return plan

    def _place(self, method: str, subtrees: tuple[Subtree, ...]) -> object:
        """Where `Matched.plans` has a plan: by the method alone only where nothing else decides it."""
        return (method, subtrees) if self._subtrees else method

    def _kept(self) -> None:
        """A bill will be kept. All plans together keep `BILLS_KEPT`; then they start over, for new ones cost little."""
        self._bills += 1
        if self._bills > BILLS_KEPT:
            self._bills = 1
            for plan in self._plans:
                plan.bills.clear()

    def _learn_methods(self, limits: Iterable[Limit]) -> None:
        for each in limits:
            self._methods |= each.methods or frozenset()

    def _sources(
        self, marked: Iterable[tuple[str, Limit]], subtrees: Iterable[Subtree], *, exempt: bool
    ) -> Iterator[tuple[str, Limit]]:
        """Limits as the records have them, each with where it stands, in the order in which they are taken."""
        found: list[tuple[str, Limit]] = []
        if not exempt:
            found += [("", each) for each in (*self._limits, *self._everywhere)]
            found += [(subtree.pattern, each) for subtree in subtrees for each in subtree.limits]
        found += marked
        for where, each in found:
            live = self._live.get(each.name) if each.name is not None else None
            yield where, each if live is None or live.paths is not None else live.changed(each)

    def _work_out(self, matched: Matched, method: str, subtrees: Iterable[Subtree]) -> Plan:
        marked = [(matched.template, each) for each in matched.marks.limits]
        applied: list[Applied] = []
        seen: set[tuple[object, ...]] = set()
        for where, each in self._sources(marked, subtrees, exempt=matched.marks.exempt):
            if not _is_for(each, method):
                continue
            for policy in policies(each, f"{where} " if where else ""):
                same = (policy.bucket, policy.burst, policy.rate, each.key, each.cost)
                if same in seen:
                    continue
                seen.add(same)
                applied.append(Applied(policy, each.key, each.cost))
                if each.key.beside is not None:
                    by = f" by {each.key.beside.kind}"
                    beside = Policy(policy.name + by, policy.bucket + by, policy.burst, policy.rate)
                    applied.append(Applied(beside, each.key.beside, each.cost))
        plan = Plan(_distinct(applied), self._kept)
        self._plans.add(plan)
        return plan


def _is_for(each: Limit, method: str) -> bool:
    """Whether a limit is for requests of a method. Routes that answer GET answer HEAD by the same endpoint."""
    return each.methods is None or method in each.methods or (method == "HEAD" and "GET" in each.methods)


def policies(each: Limit, place: str) -> list[Policy]:
    """The policies of a limit. Without a `name` they are called by their rate, at their place ("/search 10/minute").

    Unnamed limits that differ in their methods or burst have buckets of their own.
    """
    found = []
    for rate in each.rates:
        burst = capacity(rate, each.burst)
        if each.name is None:
            name = place + rate.text + (f" {'+'.join(sorted(each.methods))}" if each.methods else "")
            bucket = name if each.burst is None else f"{name} burst {burst:g}"
        else:
            name = bucket = each.name if len(each.rates) == 1 else f"{each.name} {rate.text}"
        found.append(Policy(name, bucket, burst, rate.count / rate.seconds))
    return found


def _distinct(plan: Iterable[Applied]) -> list[Applied]:
    """The same limits with names and buckets that tell them apart: no bucket is taken from twice by one request."""
    names: set[str] = set()
    distinct = []
    for each in plan:
        name, bucket, number = each.policy.name, each.policy.bucket, 1
        while name in names:
            number += 1
            suffix = f" by {each.key.kind}" if number == 2 else f" #{number}"
            name, bucket = each.policy.name + suffix, each.policy.bucket + suffix
        names.add(name)
        distinct.append(Applied(Policy(name, bucket, each.policy.burst, each.policy.rate), each.key, each.cost))
    return distinct
