"""How a pool balances: the policy, thresholds, budgets and deadlines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Final, Literal, cast

from traffic_cop_middleware.abstractions.balancing.policies import POLICIES
from traffic_cop_middleware.contracts.balancing import BalancingPolicy
from traffic_cop_middleware.errors import ConfigurationError

Affinity = Literal["session", "cookie"]
HASHED = ("session", "client")
"""What "hash" can go by, beside what has a name."""
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
YEAR = 366 * 86_400.0
MANY = 1_000_000
RETRIED = frozenset({502, 503, 504})
OWN_POLICY: Final = "a name, or an object with `changed` and `pick` (`BalancingPolicy`)"

SECONDS = {
    "tau": (0.001, YEAR),
    "ejection": (0.001, YEAR),
    "longest_ejection": (0.001, YEAR),
    "slow_start": (0.0, YEAR),
    "pending_deadline": (0.001, YEAR),
    "try_deadline": (0.001, YEAR),
    "total_deadline": (0.001, YEAR),
}
NUMBERS = {
    "failure_price": (0.0, float(MANY), "times the mean latency, 0 to price a failure as what it took"),
    "bound": (1.0, 1_000.0, "times the fair share"),
    "error_share": (0.0, 1.0, "a share of the requests; None for no such ejection"),
    "latency_factor": (1.0, float(MANY), "times the others' mean; None for no such ejection"),
    "most_ejected": (0.0, 1.0, "a share of the instances"),
    "retry_share": (0.0, 1.0, "retries per request"),
    "retry_floor": (0.0, float(MANY), "retries per second"),
}
COUNTS = {"consecutive_failures": 1, "request_volume": 1, "most_in_flight": 1, "most_pending": 0}
OPTIONAL = frozenset({"error_share", "latency_factor", "most_in_flight", "try_deadline", "total_deadline"})
ABOVE = frozenset({"error_share", "latency_factor"})
"""Numbers that lie above their least, not at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancingSettings:
    """How a pool chooses instances and what it does about bad ones. Checked when made.

    Choosing. `policy`: "peak-ewma", "p2c", "least-requests", "weighted", "round-robin", "random", "hash", or an object
    of your own for this pool alone. `affinity`: "session" keeps each session with the instance that it was first at,
    by a stored route; "cookie" each browser, by a cookie; while that instance can take requests. `hash_by`: what "hash"
    goes by: "session", "client", "header:x-cart" or "attribute:shard" (of the session, or a claim of it).
    `tau`: seconds in which a latency fades. `failure_price`: a failure counts as an answer that took so many times the
    mean. `bound`: what an instance takes under "hash", times its fair share.

    Ejection, for `ejection` seconds times its count, `longest_ejection` at most: after `consecutive_failures`; when
    `error_share` of the requests fail, or answers take `latency_factor` times as long as the others', of
    `request_volume` at least in ten seconds. If more than `most_ejected` of the instances would be out, all are in.
    `slow_start`: seconds until an instance that came, or is fit again, gets its full share.

    Limits, of each worker: `most_in_flight` requests per instance, `most_pending` that wait for one, each up to
    `pending_deadline` seconds. Retries: `retry_share` per request, or `retry_floor` per second if that is more;
    `retry_statuses` (502, 503, 504) of answers that are worth one. `try_deadline`: seconds for one attempt to answer;
    `total_deadline`: for all attempts together, until the answer begins.

    Raises:
        ConfigurationError: a value can't be used.
    """

    policy: str | BalancingPolicy = "peak-ewma"
    affinity: Affinity | None = None
    hash_by: str = "session"
    tau: float = 10.0
    failure_price: float = 25.0
    bound: float = 1.25
    consecutive_failures: int = 5
    error_share: float | None = 0.5
    latency_factor: float | None = None
    request_volume: int = 20
    ejection: float = 10.0
    longest_ejection: float = 300.0
    most_ejected: float = 0.5
    slow_start: float = 10.0
    most_in_flight: int | None = None
    most_pending: int = 128
    pending_deadline: float = 1.0
    retry_share: float = 0.2
    retry_floor: float = 3.0
    retry_statuses: Iterable[int] = ()
    try_deadline: float | None = None
    total_deadline: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.policy, str):
            if self.policy not in POLICIES:
                raise ConfigurationError(f"policy={self.policy!r}: one of {', '.join(POLICIES)}; or {OWN_POLICY}")
        elif isinstance(self.policy, type) or not all(
            callable(getattr(self.policy, name, None)) for name in ("changed", "pick")
        ):
            raise ConfigurationError(f"policy={self.policy!r}: {OWN_POLICY}")
        if self.affinity not in (None, "session", "cookie"):
            raise ConfigurationError(f"affinity={self.affinity!r}: 'session', 'cookie', or None for none")
        self._check_hash_by()
        for name, (low, high) in SECONDS.items():
            self._check_number(name, low, high, "seconds")
        for name, (low, high, what) in NUMBERS.items():
            self._check_number(name, low, high, what)
        for name, least in COUNTS.items():
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MANY:
                none = "; None for no limit" if name in OPTIONAL else ""
                raise ConfigurationError(f"{name}={value!r}: a whole number from {least} to {MANY}{none}")
        if self.longest_ejection < self.ejection:
            raise ConfigurationError(
                f"longest_ejection={self.longest_ejection!r}: shorter than ejection={self.ejection!r}. Raise it"
            )
        if self.try_deadline and self.total_deadline and self.try_deadline > self.total_deadline:
            raise ConfigurationError(
                f"try_deadline={self.try_deadline!r}: one attempt may not take longer than "
                f"total_deadline={self.total_deadline!r}. Lower it"
            )
        given = self.retry_statuses
        statuses = tuple(given) if isinstance(given, Iterable) else ("none",)
        if any(not isinstance(each, int) or each not in RETRIED for each in statuses):
            raise ConfigurationError(f"retry_statuses={given!r}: some of {sorted(RETRIED)}, such as (503,)")
        object.__setattr__(self, "retry_statuses", frozenset(statuses))

    def record(self) -> dict[str, Any]:
        """They as JSON; what has its default is left out.

        Raises:
            ConfigurationError: the policy is an object, which can't be told to other workers.
        """
        if not isinstance(self.policy, str):
            raise ConfigurationError(
                f"policy={self.policy!r}: an object can't be put into settings that other workers share. Name one of "
                f"{', '.join(POLICIES)}; or give your own at start"
            )
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "retry_statuses":
                if value:
                    found[each.name] = sorted(value)
            elif each.default is MISSING or value != each.default:
                found[each.name] = value
        return found

    def _check_hash_by(self) -> None:
        given: object = self.hash_by
        what, _, name = given.partition(":") if isinstance(given, str) else ("", "", "")
        if given in HASHED or (what == "attribute" and name) or (what == "header" and TOKEN.fullmatch(name)):
            return
        raise ConfigurationError(
            f"hash_by={given!r}: 'session', 'client', 'header:' with a header's name, or 'attribute:' with that of an "
            "attribute or claim of the session"
        )

    def _check_number(self, name: str, low: float, high: float, what: str) -> None:
        value: object = getattr(self, name)
        if value is None and name in OPTIONAL:
            return
        above = name in ABOVE
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        if not fits or (above and value == low):
            first = f"above {low:g}, {high:g} at most" if above else f"from {low:g} to {high:g}"
            raise ConfigurationError(f"{name}={value!r}: {what}, {first}")


def balancing_of(given: object) -> BalancingSettings:
    """The settings that a user means by the name of a policy, a policy of their own, or settings.

    Raises:
        ConfigurationError: it is nothing of that kind.
    """
    return given if isinstance(given, BalancingSettings) else BalancingSettings(policy=cast("str", given))


def balancing_from(record: object) -> BalancingSettings:
    """The settings of a record.

    Raises:
        ConfigurationError: they are none, or a value can't be used.
    """
    known = [each.name for each in fields(BalancingSettings)]
    if not isinstance(record, Mapping) or any(name not in known for name in record):
        raise ConfigurationError(f"load balancing settings are a mapping with some of {', '.join(known)}: {record!r}")
    if not isinstance(record.get("policy", ""), str):
        raise ConfigurationError(f"policy={record['policy']!r}: one of {', '.join(POLICIES)}")
    return BalancingSettings(**record)
