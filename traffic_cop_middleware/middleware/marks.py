"""`@limit` and `@exempt`: marks on an endpoint. They wrap nothing and ask for no argument; the limiter reads them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from starlette.requests import HTTPConnection

from traffic_cop_middleware.abstractions.policies import Rate, capacity, parse_rates
from traffic_cop_middleware.abstractions.state.request_state import PARTS
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.keys import Key, KeyFunction, by_ip, key_of

__all__ = ["Cost", "Limit", "Marks", "exempt", "limit", "limits_of", "marks_of", "uses_state"]

ATTRIBUTE = "__traffic_cop__"

Endpoint = TypeVar("Endpoint")
Cost = float | Callable[[HTTPConnection], float | Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit as configured, made by `limit(...)`. As a decorator it marks an endpoint and returns it unchanged."""

    text: str
    rates: tuple[Rate, ...]
    burst: float | None
    cost: Cost
    key: Key
    name: str | None
    methods: frozenset[str] | None

    def __call__(self, endpoint: Endpoint) -> Endpoint:
        marks = marks_of(endpoint)
        _mark(endpoint, replace(marks, limits=(self, *marks.limits)), f"@limit({self.text!r})")
        return endpoint


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands on an endpoint."""

    limits: tuple[Limit, ...] = field(default=())
    exempt: bool = False
    state: tuple[str, ...] = ()
    """Which parts of the state come with the session: "session", "user"."""


def limit(
    rate: str,
    *,
    burst: float | None = None,
    cost: Cost = 1,
    key: Key | KeyFunction = by_ip,
    name: str | None = None,
    methods: Iterable[str] | None = None,
) -> Limit:
    """A limit: as a decorator on an endpoint (sync, async or a class), in `limits=`, or in `cop.limit(prefix, …)`.

    Args:
        rate: tokens per time, as "100/minute"; several as "10/second; 1000/day", each with a bucket of its own.
        burst: the bucket's capacity in tokens; the rate's count when left out.
        cost: tokens that a request takes: a number, or a function of the connection (sync or async).
        key: whose bucket: `by_ip`, `by_api_key`, `by_route`, `by_everyone`, or a function of the connection (sync or
            async) that returns a string, or `None` where the limit does not apply.
        name: limits of one name share a bucket (per key); by default each route template ("/items/{id}") has its own,
            which the methods and hosts that it stands under share.
        methods: the limit is for these HTTP methods only.

    Raises:
        ConfigurationError: one of them can't be used.
    """
    rates = parse_rates(rate)
    if burst is not None and len(rates) > 1:
        raise ConfigurationError(
            f"limit {rate!r} has several rates, and burst={burst!r} can't be for all: write a limit for each"
        )
    for each in rates:
        most = capacity(each, burst)
        if not callable(cost) and not _is_cost(cost, most):
            raise ConfigurationError(
                f"limit {rate!r}: cost={cost!r} must be a number from 0 up to the bucket's capacity, {most:g}; a "
                "request that costs more could never pass. Raise burst, or lower the cost"
            )
    if name is not None and not (
        isinstance(name, str) and 0 < len(name) <= 64 and name.isascii() and name.isprintable()
    ):
        raise ConfigurationError(f"limit {rate!r}: name={name!r} must be 1 to 64 printable ASCII characters")
    if name is not None and set(name) & set('"\\{}'):
        raise ConfigurationError(f"limit {rate!r}: name={name!r} can't have quotes, backslashes or braces in it")
    if isinstance(methods, str):
        raise ConfigurationError(f"limit {rate!r}: methods={methods!r} must be a list, as in [{methods!r}]")
    methods = None if methods is None else list(methods)
    if methods is not None and not (methods and all(isinstance(method, str) and method for method in methods)):
        raise ConfigurationError(f"limit {rate!r}: methods={methods!r} must be names of methods, as in ['POST']")
    return Limit(
        text=rate,
        rates=rates,
        burst=burst,
        cost=cost,
        key=key_of(key, f"limit {rate!r}"),
        name=name,
        methods=frozenset(method.upper() for method in methods) if methods is not None else None,
    )


def exempt(endpoint: Endpoint) -> Endpoint:
    """Free an endpoint of the stack's limits and those of subtrees. Its own `@limit` marks, if any, still count."""
    _mark(endpoint, replace(marks_of(endpoint), exempt=True), "@exempt")
    return endpoint


def uses_state(*parts: str) -> Callable[[Endpoint], Endpoint]:
    """Mark an endpoint as one that reads `state_of(request)`: the state then comes in the session's round trip.

    `parts` are "session", "user" or both; both when left out. `Depends(state_of)` says the same.

    Raises:
        ConfigurationError: there is no such part.
    """
    wanted = parts or PARTS
    for part in wanted:
        if part not in PARTS:
            raise ConfigurationError(
                f"@uses_state({part!r}): there are {', '.join(map(repr, PARTS))}"
                + (". Write it with parentheses: @uses_state()" if callable(part) else "")
            )

    def mark(endpoint: Endpoint) -> Endpoint:
        marks = marks_of(endpoint)
        _mark(endpoint, replace(marks, state=tuple(dict.fromkeys((*marks.state, *wanted)))), "@uses_state")
        return endpoint

    return mark


def marks_of(endpoint: Any) -> Marks:
    """The marks on an endpoint, through methods and partial functions."""
    while True:
        marks = getattr(endpoint, ATTRIBUTE, None)
        if isinstance(marks, Marks):
            return marks
        inner = getattr(endpoint, "func", None) or getattr(endpoint, "__func__", None)
        if inner is None or inner is endpoint:
            return Marks()
        endpoint = inner


def is_marked(endpoint: Any) -> bool:
    """Whether marks stand on an endpoint; cheaper than reading them."""
    return hasattr(endpoint, ATTRIBUTE) or (isinstance(endpoint, partial) and marks_of(endpoint) != Marks())


def limits_of(limits: str | Limit | Iterable[str | Limit] | None, where: str) -> tuple[Limit, ...]:
    """What `limits=` says, as a tuple: from a string, a `limit(...)` or several of either.

    Raises:
        ConfigurationError: it is none of these.
    """
    if limits is None:
        return ()
    if isinstance(limits, (str, Limit)):
        limits = (limits,)
    try:
        each = list(limits)
    except TypeError:
        each = [None]  # type: ignore[list-item]
    found = []
    for one in each:
        if isinstance(one, str):
            found.append(limit(one))
        elif isinstance(one, Limit):
            found.append(one)
        else:
            raise ConfigurationError(
                f"{where}={limits!r}: write a string like '100/minute', limit('100/minute', …), or a list of them"
            )
    return tuple(found)


def _is_cost(cost: object, most: float) -> bool:
    return isinstance(cost, (int, float)) and not isinstance(cost, bool) and 0 <= cost <= most


def _mark(endpoint: Any, marks: Marks, what: str) -> None:
    target = getattr(endpoint, "__func__", endpoint)
    if not callable(target):
        raise ConfigurationError(
            f"{what} marks an endpoint function or class, not {endpoint!r}: write it under the route's decorator"
        )
    try:
        setattr(target, ATTRIBUTE, marks)
    except AttributeError as exc:
        raise ConfigurationError(f"{what} can't mark {endpoint!r}: it takes no attributes; mark a function") from exc
