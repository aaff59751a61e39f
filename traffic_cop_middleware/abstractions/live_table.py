"""What the records of one kind say, checked: a whole table or none.

A change is taken over only if all of it can be read: while there is a record that can't, the table stays as it was, and
what was changed meanwhile waits. So nobody goes by half a change. A worker that starts has no table to stay with; it
takes what can be read, and of records that don't go together the one that came first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel

from traffic_cop_middleware.abstractions.json_texts import loads
from traffic_cop_middleware.contracts import Changes
from traffic_cop_middleware.errors import ConfigurationError

log = logging.getLogger("traffic_cop")

SLICE = 50
"""Records that are parsed before requests have their turn: some milliseconds."""

T = TypeVar("T")

Parse = Callable[[str, Any], T]
Swap = Callable[[Mapping[str, T | None]], None]
Emit = Callable[[str, Mapping[str, Any]], None]


class LiveTable(Generic[T]):
    """The values of a kind's records by name.

    `parse` makes a value of a record's name and JSON value, and raises `ValueError` where it can't be used. `swap` is
    told of each change that holds as a whole: what is new under a name, or `None` for what is gone; `values` are
    changed by then. It raises `ConfigurationError` where they don't go together.
    """

    def __init__(self, kind: str, *, parse: Parse[T], swap: Swap[T], emit: Emit) -> None:
        self.kind = kind
        self.values: dict[str, T] = {}
        self._parse = parse
        self._swap = swap
        self._emit = emit
        self._unusable: dict[str, str] = {}
        self._clashing: dict[str, str] = {}
        self._waiting: dict[str, T | None] = {}
        self._parsed: dict[tuple[str, str], T | str] = {}
        self._begun = False

    @property
    def refused(self) -> Mapping[str, str]:
        """The records that can't be used, or not with the others, and the reason."""
        return {**self._clashing, **self._unusable}

    async def ready(self, changes: Changes) -> None:
        """Parse what will be heard, a slice at a time, so that requests go on meanwhile."""
        parsed: dict[tuple[str, str], T | str] = {}
        for at, (name, _, text) in enumerate(changes.records, 1):
            if text is not None:
                parsed[name, text] = self._read(name, text)
            if at % SLICE == 0:
                await anyio.lowlevel.checkpoint()
        self._parsed = parsed

    def _read(self, name: str, text: str) -> T | str:
        """The value of a record, or why it can't be used."""
        try:
            return self._parse(name, loads(text))
        except (TypeError, ValueError, ArithmeticError) as exc:
            return str(exc)

    def heard(self, changes: Changes) -> None:
        """Take over what has changed."""
        before, puts = self.refused, self._waiting
        if changes.whole:
            self._unusable.clear()
            puts.clear()
            puts.update(dict.fromkeys(self.values))
        for name, _, text in changes.records:
            self._unusable.pop(name, None)
            puts.pop(name, None)
            if text is None:
                if name in self.values:
                    puts[name] = None
                continue
            value = self._parsed.get((name, text)) or self._read(name, text)
            if isinstance(value, str):
                self._unusable[name] = value
            else:
                puts[name] = value
        self._parsed = {}
        if not (self._unusable and self._begun):
            self._take_over(puts)
        for name, reason in self.refused.items():
            if before.get(name) != reason:
                self._tell(name, reason)
        self._begun = True

    def _take_over(self, puts: dict[str, T | None]) -> None:
        self._clashing.clear()
        self._waiting = self._taken(puts)

    def _taken(self, puts: dict[str, T | None]) -> dict[str, T | None]:
        """Take all of it, or none; at the start as much as goes together. What has to wait is given back."""
        before = {name: self.values.get(name) for name in puts}
        self._put(puts)
        try:
            self._swap(puts)
        except ConfigurationError as exc:
            self._put(before)
            if not self._begun and len(puts) > 1:
                names = list(puts)
                halves = names[: len(names) // 2], names[len(names) // 2 :]
                return {k: v for half in halves for k, v in self._taken({name: puts[name] for name in half}).items()}
            self._clashing.update(dict.fromkeys([name for name in puts if puts[name] is not None] or puts, str(exc)))
            return puts
        return {}

    def _put(self, puts: Mapping[str, T | None]) -> None:
        for name, value in puts.items():
            if value is None:
                self.values.pop(name, None)
            else:
                self.values[name] = value

    def _tell(self, name: str, reason: str) -> None:
        stays = "the table stays as it was until it is put right or removed" if self._begun else "it is left out"
        log.error("the record %r of the %s can't be used, and %s: %s", name, self.kind, stays, reason)
        self._emit("records.refused", {"kind": self.kind, "name": name, "reason": reason})
