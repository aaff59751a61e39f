"""Which limits a request owes: worked out once per route and kept there.

The stack's limits come first, then those of subtrees, then the marks on the endpoint; an exempt endpoint owes its own
marks only. Limits of one name share a bucket and are charged once.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from starlette.requests import HTTPConnection
from starlette.types import Scope

from traffic_cop_middleware.abstractions.policies import Policy, capacity
from traffic_cop_middleware.abstractions.rate_limiting import Bill, Charge, bill
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.context import TrafficContext
from traffic_cop_middleware.middleware.keys import Key
from traffic_cop_middleware.middleware.marks import Cost, Limit
from traffic_cop_middleware.middleware.route_table import METHODS, Matched

OTHER_METHOD = "_OTHER"
BILLS_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Applied:
    """A policy, whose bucket, and what it costs."""

    policy: Policy
    key: Key
    cost: Cost


class Plan:
    """What a request to one route owes.

    Where every key is the client's address (or nothing of the request) and every cost a number, one client's bill is
    the same each time, and the last clients' bills are kept.
    """

    __slots__ = ("applied", "bills", "by_client")

    def __init__(self, applied: Sequence[Applied]) -> None:
        self.applied = tuple(applied)
        self.by_client = all(each.key.by_client and not callable(each.cost) and each.cost for each in applied)
        self.bills: dict[str | None, Bill] = {}

    def client_bill(self, client: str | None, context: TrafficContext, scope: Scope) -> Bill:
        """The bill of a client; only where `by_client`. `client` is what it is known by: `None` asks the context."""
        client = client or context.client
        owed = self.bills.get(client)
        if owed is None:
            if len(self.bills) >= BILLS_KEPT:
                self.bills.clear()
            owed = self.bills[client] = bill(
                [
                    Charge(each.policy, each.key.subject(context, scope), each.cost)  # type: ignore[arg-type]
                    for each in self.applied
                ]
            )
        return owed

    async def bill(self, context: TrafficContext, scope: Scope) -> Bill:
        """The request's bill, asking the key and cost functions.

        Raises:
            CostTooHigh: a cost function says more than fits, or less than nothing.
            TypeError: a function returned something else than it may.
        """
        charges = []
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
                if isinstance(cost, bool) or not isinstance(cost, (int, float)) or not isfinite(cost):
                    raise TypeError(f"the cost function of limit {each.policy.name!r} returned {cost!r}, not a number")
            if cost:
                charges.append(Charge(each.policy, subject, cost))
        return bill(charges)


class Subtree:
    """Limits on all paths below a prefix."""

    __slots__ = ("_below", "_prefix", "limits")

    def __init__(self, pattern: str, limits: tuple[Limit, ...]) -> None:
        if (
            not isinstance(pattern, str)
            or not pattern.startswith("/")
            or not pattern.endswith("/*")
            or "*" in pattern[:-1]
        ):
            raise ConfigurationError(
                f"cop.limit({pattern!r}, …): a subtree is written as its prefix and a star, as in '/admin/*'; it takes "
                "in '/admin' and all below"
            )
        self._prefix = pattern[:-2]
        self._below = pattern[:-1]
        self.limits = limits

    @property
    def pattern(self) -> str:
        return self._below + "*"

    def takes_in(self, path: str) -> bool:
        return path.startswith(self._below) or path.rstrip("\n") == self._prefix


class Planner:
    """Works out plans for one stack's limits and subtrees."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = tuple(limits)
        self._subtrees: tuple[Subtree, ...] = ()
        self._methods = METHODS
        self.limits_all = bool(limits)
        """Whether there is any limit but those that marks say."""
        self.plain = True
        """Whether a plan depends on the route and the method alone: `Matched.plans` has it by its method."""
        self._learn_methods(limits)

    def add(self, subtree: Subtree) -> None:
        """Limit a subtree from now on."""
        self._subtrees = (*self._subtrees, subtree)
        self.limits_all = True
        self.plain = False
        self._learn_methods(subtree.limits)

    def plan(self, matched: Matched, method: str, path: str) -> Plan:
        """What a request to this route owes. `path` is the one below the app's root path."""
        subtrees = self._subtrees
        if subtrees:
            subtrees = tuple([subtree for subtree in subtrees if subtree.takes_in(path)])
        plan: Plan | None = matched.plans.get((method, subtrees) if subtrees else method)
        return plan or self._new_plan(matched, method, subtrees)

    def _new_plan(self, matched: Matched, method: str, subtrees: tuple[Subtree, ...]) -> Plan:
        """Work a plan out and keep it. Methods that nothing here names are one, so that nobody can fill the memory."""
        named = (method in (each.methods or ()) for each in matched.marks.limits)
        if method not in self._methods and not any(named):
            method = OTHER_METHOD
        place = (method, subtrees) if subtrees else method
        plan: Plan | None = matched.plans.get(place)
        if plan is None:
            plan = matched.plans[place] = self._work_out(matched, method, subtrees)
        return plan

    def _learn_methods(self, limits: Iterable[Limit]) -> None:
        for each in limits:
            self._methods |= each.methods or frozenset()

    def _work_out(self, matched: Matched, method: str, subtrees: Iterable[Subtree]) -> Plan:
        applied: dict[tuple[str, Key], Applied] = {}
        sources: list[tuple[str, Limit]] = []
        if not matched.marks.exempt:
            sources += [("", each) for each in self._limits]
            sources += [(f"{subtree.pattern} ", each) for subtree in subtrees for each in subtree.limits]
        sources += [(f"{matched.template} ", each) for each in matched.marks.limits]
        for place, each in sources:
            if each.methods is not None and method not in each.methods:
                continue
            for policy in policies(each, place):
                applied.setdefault((policy.bucket, each.key), Applied(policy, each.key, each.cost))
                if each.key.beside is not None:
                    name = f"{policy.name} by {each.key.beside.kind}"
                    beside = Policy(name, f"{policy.bucket} by {each.key.beside.kind}", policy.burst, policy.rate)
                    applied.setdefault((beside.bucket, each.key.beside), Applied(beside, each.key.beside, each.cost))
        return _distinct(applied.values())


def policies(each: Limit, place: str) -> list[Policy]:
    """The policies of a limit. Without a `name` they are called by their rate, at their place ("/search 10/minute")."""
    found = []
    for rate in each.rates:
        burst = capacity(rate, each.burst)
        if each.name is None:
            name = place + rate.text
        else:
            name = each.name if len(each.rates) == 1 else f"{each.name} {rate.text}"
        found.append(Policy(name, name, burst, rate.count / rate.seconds))
    return found


def _distinct(plan: Iterable[Applied]) -> Plan:
    """The same limits with names that tell them apart: two of a name differ in their key."""
    seen: dict[str, int] = {}
    distinct = []
    for each in plan:
        name = each.policy.name
        count = seen[name] = seen.get(name, 0) + 1
        if count > 1:
            name = f"{name} by {each.key.kind}" if count == 2 else f"{name} by {each.key.kind} {count}"
        policy = Policy(name, name if count > 1 else each.policy.bucket, each.policy.burst, each.policy.rate)
        distinct.append(Applied(policy, each.key, each.cost))
    return Plan(distinct)
