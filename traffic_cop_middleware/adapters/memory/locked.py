"""One call at a time, over all threads: of a store whose every call changes several dicts."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class Locked(Protocol):
    _lock: threading.RLock


Store = TypeVar("Store", bound=Locked)
P = ParamSpec("P")
R = TypeVar("R")


def locked(method: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
    """A method that holds its store's lock. It is held for microseconds, so no event loop is held up by that."""

    @functools.wraps(method)
    def holding(self: Store, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return holding
