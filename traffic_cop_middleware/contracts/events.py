"""One kind of event to one synchronous observer: logs, metrics and subscribers all listen here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Event(NamedTuple):
    """Something that happened, as it is told to every observer.

    `kind` is a dotted name (`limit.admitted`, `limit.refused`, `store.lost`, …; the list is in `docs/api.md`), `time`
    seconds since the epoch, `attributes` plain values; equal events may share them. No attribute carries a client's
    address, key or token.
    """

    kind: str
    time: float
    attributes: Mapping[str, Any]


Observer = Callable[[Event], None]
