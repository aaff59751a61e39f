"""A dict that is filled when it is first looked at, from a JSON text for each key."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.errors import SessionNotReady

log = logging.getLogger("traffic_cop")

NO_TEXTS: Mapping[str, str] = {}
UNREAD = "\0unread"
"""Stands in the dict until it is filled, so that `json.dumps`, which asks a dict's size first, does not take it for an
empty one."""
SCALARS = frozenset({str, int, float, bool, type(None)})
NO_SCALAR = object()
LONGEST_SCALAR = 64
READS = (
    *("__contains__", "__eq__", "__ge__", "__getitem__", "__gt__", "__iter__", "__le__", "__len__", "__lt__", "__ne__"),
    *("__or__", "__repr__", "__reversed__", "__ror__", "copy", "get", "items", "keys", "values"),
)
WRITES = ("__delitem__", "__ior__", "__setitem__", "clear", "pop", "popitem", "setdefault", "update")


class LazyMapping(dict[str, Any]):
    """Every method of a dict fills it first. `accessed` tells whether one was called; copies are plain dicts.

    While it is `unsettled` its texts have not come, and it can't be looked at.

    C code that copies a dict goes through `keys` and `__getitem__` where `__iter__` is not dict's own, so that
    `dict(x)` and `{**x}` see what is in it.
    """

    __slots__ = ("_filled", "_original", "_texts", "accessed", "unsettled")

    _called = "session"
    """What errors call it."""

    def __init__(self) -> None:
        self._texts = NO_TEXTS
        self._original: dict[str, Any] = {}
        self._filled = False
        self.unsettled = False
        self.accessed = False

    def mark_accessed(self) -> None:
        """What Starlette calls when an app asks for `request.session`; it is filled by then.

        For there are serializers in C and Rust that look into a dict past all of its methods.
        """
        self.accessed = True
        if not self._filled and not self.unsettled:
            self._look()

    def _hold(self, texts: Mapping[str, str]) -> None:
        """Be filled from these texts when looked at."""
        self._texts = texts
        if texts:
            dict.__setitem__(self, UNREAD, None)

    @classmethod
    def fromkeys(cls, keys: Iterable[str], value: Any = None, /) -> dict[str, Any]:  # type: ignore[override]
        return dict.fromkeys(keys, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def __hash__(self) -> int:  # type: ignore[override]
        raise TypeError(f"unhashable type: {type(self).__name__!r}")

    def _look(self) -> None:
        self.accessed = True
        if self.unsettled:
            raise SessionNotReady(
                "the session's record is still on its way: only the token's claims are known here. Mark a key or cost "
                "function that reads the record with @reads_session; it then costs a second round trip"
            )
        if not self._filled:
            self._filled = True
            found: dict[str, Any] = {}
            for key, text in self._texts.items():
                try:
                    value = _known_scalar(text) if len(text) < LONGEST_SCALAR else loads(text)
                    found[key] = loads(text) if value is NO_SCALAR else value
                except ValueError:
                    self._left_out(key)
            dict.clear(self)
            dict.update(self, found)
            self._original = found

    def _left_out(self, key: str) -> None:
        """What stands under `key` is no JSON."""
        log.warning("a session's record holds something under %r that is no JSON; it is left out", key)

    def _changes(self) -> dict[str, str | None]:
        """What differs from the record: its new text for each key, `None` where it is gone.

        Raises:
            TypeError, ValueError: a key is no string, or a value is no JSON.
        """
        if not self._filled:
            return {}
        changes: dict[str, str | None] = {}
        texts, original = self._texts, self._original
        for key, value in dict.items(self):
            if type(value) in SCALARS and original.get(key, UNREAD) is value:
                continue  # it is the very same: what can't change inside need not be encoded
            text = _text(key, value, self._called)
            if text != texts.get(key):
                changes[key] = text
        if len(texts) + len(changes) != dict.__len__(self) or changes:
            for key in texts:
                if not dict.__contains__(self, key):
                    changes[key] = None
        return changes

    def _texts_now(self) -> dict[str, str]:
        """All of it as JSON texts."""
        self._look()
        return {key: _text(key, value, self._called) for key, value in dict.items(self)}

    def _recorded(self, texts: Mapping[str, str]) -> None:
        """All of it stands in a record now, as these texts."""
        self._texts = texts
        self._original = dict(dict.items(self))

    def _written(self, changes: Mapping[str, str | None]) -> None:
        """These changes stand in the record now."""
        if changes:
            texts = {**self._texts, **changes}
            self._recorded({key: text for key, text in texts.items() if text is not None})

    def _put(self, key: str, value: Any, text: str) -> None:
        """This value stands in the record now."""
        self._look()
        dict.__setitem__(self, key, value)
        self._texts = {**self._texts, key: text}
        self._original[key] = value


@functools.lru_cache(maxsize=4096)
def _known_scalar(text: str) -> Any:
    """The value of a short text, kept, for sessions hold the same few words and numbers again and again.

    `NO_SCALAR` for a list or an object: those can be changed, so each session has its own.
    """
    return NO_SCALAR if text.startswith(("[", "{")) else loads(text)


def _text(key: object, value: object, called: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{called}[{key!r}]: a {called}'s keys are strings")
    try:
        key.encode()
        return dumps(value)
    except TypeError as exc:
        raise TypeError(
            f"{called}[{key!r}] can't be kept: {exc}. Keep what JSON has: text, numbers, lists, dicts"
        ) from exc
    except ValueError as exc:
        raise ValueError(f"{called}[{key!r}] can't be kept: {exc}") from exc


def _looking(name: str) -> Callable[..., Any]:
    plain = getattr(dict, name)

    @functools.wraps(plain)
    def method(self: LazyMapping, *args: Any, **kwargs: Any) -> Any:
        self.accessed = True
        if not self._filled:
            self._look()
        return plain(self, *args, **kwargs)

    return method


for _name in (*READS, *WRITES):
    setattr(LazyMapping, _name, _looking(_name))
