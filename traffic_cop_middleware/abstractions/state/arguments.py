"""What callers of the state give, checked: each refusal is a `ConfigurationError` that says what to write instead."""

from __future__ import annotations

from typing import Any, Literal

from traffic_cop_middleware.abstractions.json_texts import dumps, dumps_sorted, is_unicode
from traffic_cop_middleware.contracts import StateKey
from traffic_cop_middleware.contracts.state import RESERVED, WHOLE, check_key, check_value, is_large, is_ours
from traffic_cop_middleware.errors import ConfigurationError

Consistency = Literal["near", "strong"]

LONGEST = 1e12
"""Seconds that an item stays at most: some 30,000 years, which every store can count."""


def check_words(key: StateKey) -> None:
    """See that words can be used, and by a caller of ours.

    Raises:
        ConfigurationError: they can't.
    """
    if not all(isinstance(word, str) for word in key):
        raise ConfigurationError(f"state {tuple(key)!r}: tenant, namespace and key are strings")
    if is_ours(key.namespace):
        raise ConfigurationError(
            f"namespace {key.namespace!r}: those that begin with {RESERVED!r} are Traffic Cop's own"
        )
    try:
        check_key(key)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    if not all(map(is_unicode, key)):
        raise ConfigurationError(f"state {tuple(key)!r}: a word is Unicode, and this one has a lone surrogate")


def check_text(name: str, text: object, *, none: bool = False) -> None:
    """See that something is a text, or `None` where that is allowed.

    Raises:
        ConfigurationError: it is something else.
    """
    if not isinstance(text, str) and not (none and text is None):
        raise ConfigurationError(f"{name}={text!r} must be a string{', or None' if none else ''}")


def check_count(name: str, count: object, most: int) -> None:
    """See that something counts items.

    Raises:
        ConfigurationError: it does not.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise ConfigurationError(f"{name}={count!r}: a number from 1 to {most}")


def check_version(name: str, version: object, *, none: bool = True) -> None:
    """See that something is a version, or `None` where that is allowed.

    Raises:
        ConfigurationError: it is something else.
    """
    if none and version is None:
        return
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < WHOLE:
        raise ConfigurationError(f"{name}={version!r}: the version that a get or put gave{', or None' if none else ''}")


def json_of(key: StateKey, value: Any, *, most: int) -> str:
    """A value as its JSON text, of at most so many bytes.

    Raises:
        ConfigurationError: it has none, or it is too large.
    """
    try:
        text = dumps(value)
        check_value(key, text, most=most)
        if is_large(text):  # it becomes a file, whose text is the canonical one
            text = dumps_sorted(value)
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"the value of {key.namespace}/{key.key} can't be kept as JSON: {exc}") from exc
    return text


def expected_of(if_version: int | None, *, create_only: bool = False) -> int | None:
    """The version that an item must have, 0 for none; `None`: any.

    Raises:
        ConfigurationError: it is no version, or the two exclude each other.
    """
    check_version("if_version", if_version)
    if create_only and if_version not in (None, 0):
        raise ConfigurationError(f"create_only=True and if_version={if_version!r} exclude each other")
    return 0 if create_only else if_version


def end_of(ttl: float | None, now: float) -> float | None:
    """When an item ends, in seconds since the epoch.

    Raises:
        ConfigurationError: `ttl` is no number of seconds.
    """
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not 0 < ttl <= LONGEST:
        raise ConfigurationError(f"ttl={ttl!r}: seconds that the item stays, above 0 and to {LONGEST:g}, or None")
    return now + ttl


def is_strong(consistency: Consistency) -> bool:
    """Whether the backend is to be asked.

    Raises:
        ConfigurationError: it is neither of the two.
    """
    if consistency not in ("near", "strong"):
        raise ConfigurationError(f"consistency={consistency!r} must be 'near' or 'strong'")
    return consistency == "strong"
