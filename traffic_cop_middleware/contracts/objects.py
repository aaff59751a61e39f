"""Objects: bytes under a path, written once and never changed, as file systems and cloud storage keep them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from traffic_cop_middleware.contracts.events import Event

MOST_PATH = 1024
"""Bytes (UTF-8) of a path: what Cloud Storage takes."""
MOST_SEGMENT = 200
"""Bytes of one of its parts, so that a file of that name with something added has room everywhere."""
MOST_OBJECT = 64 * 1024 * 1024
"""Bytes of an object."""
MOST_ABOUT = 2048
"""Bytes (UTF-8) of what is kept beside an object, keys and values together."""
ABOUT_KEY = re.compile(r"[a-z0-9_-]+", re.ASCII)


class StoredObject(NamedTuple):
    """What is known of an object without reading it.

    `generation` tells this object apart from any other that ever was or will be under the path. `size` is in bytes,
    `created_at` in seconds since the epoch. `sha256` (hex) is what the writer said of the content, "" where it is not
    known: only reading proves it. `about` is what the writer wanted kept beside it.
    """

    path: str
    generation: int
    size: int
    created_at: float
    sha256: str = ""
    about: Mapping[str, str] = {}


class ObjectPage(NamedTuple):
    """Objects in the order of their paths (by code point), and the path to go on after; `None` at the end."""

    objects: Sequence[StoredObject]
    after: str | None


class ObjectStore(Protocol):
    """Objects by path. A path is `/`-separated, of printable ASCII, without empty parts, `.` and `..` (`check_path`).

    An object is there whole or not at all, whatever ends half-way, and it is durable when `create` returns.

    Every method raises:
        ValueError: a path can't be used, or the content is larger than `MOST_OBJECT`.
        StoreUnavailable: not reached, refused for now (429, 503), no room left, or not within the deadline
            (`StoreTimeout`); what was written may be there or not, but never in part.
        StoreError: the store answered with an error.
    """

    @property
    def name(self) -> str:
        """The store, as it may be printed."""
        ...

    async def create(
        self, path: str, content: bytes, *, sha256: str, about: Mapping[str, str] | None = None
    ) -> StoredObject | None:
        """Keep `content` under a path where nothing is; `None` where something is, be it the same or not: a reply that
        was lost looks just so, and the caller compares (`stat`, `read`).

        `about` has ASCII keys of `[a-z0-9_-]` and values of any text, 2 KB in all.
        """
        ...

    async def read(self, path: str, *, most: int = MOST_OBJECT) -> bytes | None:
        """The content; `None` where there is nothing.

        Raises:
            StoreError: it is larger than `most` bytes, or the bytes that came are not those that the store holds
                (its own checksum).
        """
        ...

    async def stat(self, path: str) -> StoredObject | None:
        """What is known of an object; `None` where there is none."""
        ...

    async def delete(self, path: str, *, generation: int) -> bool:
        """Remove an object if it is the one of this generation. Gives whether it was there, and is gone now."""
        ...

    async def list(self, prefix: str = "", *, after: str | None = None, most: int = 500) -> ObjectPage:
        """The objects whose paths begin with `prefix`, from the first path after `after` on. A page may have fewer than
        `most`, and another one after it. What was not finished is no object and is not listed."""
        ...

    async def sweep(self, *, older_than: float) -> int:
        """Remove what uploads that died left behind and that is no object, if older than so many seconds; 0 where the
        store sees to that itself."""
        ...

    async def connect(self, *, patience: float = 1.0) -> None:
        """As `Backend.connect`."""
        ...

    async def close(self) -> None:
        """As `DocumentStore.close`."""
        ...


class ObjectOpener(Protocol):
    """What an adapter exports as an entry point `traffic_cop_middleware.files` under the name of a URL scheme."""

    def __call__(self, url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> ObjectStore:
        """A store for `url`, checked but not yet connected; all its paths lie under `namespace`. As `Opener`.

        Raises:
            ConfigurationError: the URL can't be used.
        """
        ...


def is_path(path: str) -> bool:
    """Whether stores take a path (`check_path`)."""
    return (
        0 < len(path) <= MOST_PATH
        and path.isascii()
        and path.isprintable()
        and "\\" not in path
        and all(part and not part.startswith(".") and len(part) <= MOST_SEGMENT for part in path.split("/"))
    )


def check_path(path: str) -> None:
    """Refuse a path that no store takes.

    Raises:
        ValueError: it is empty or longer than 1024 bytes; a part is empty, `.`, `..`, begins with `.`, or is longer
            than 200 bytes; there is something else than printable ASCII in it, or a backslash.
    """
    if not is_path(path):
        raise ValueError(
            f"path {path[:80]!r}: it has at most {MOST_PATH} bytes of printable ASCII, in parts of 1 to {MOST_SEGMENT} "
            "bytes between '/', of which none begins with '.'"
        )


def check_content(path: str, content: bytes) -> None:
    """Refuse content that no store takes.

    Raises:
        ValueError: it is larger than `MOST_OBJECT`.
    """
    if len(content) > MOST_OBJECT:
        raise ValueError(f"{path}: {len(content)} bytes, and an object has at most {MOST_OBJECT}")


def check_about(path: str, about: Mapping[str, str]) -> None:
    """Refuse what can't be kept beside an object.

    Raises:
        ValueError: a key is not of `[a-z0-9_-]`, a value is no text that UTF-8 can say, or all of it is larger than
            `MOST_ABOUT`.
    """
    for key in about:
        if not ABOUT_KEY.fullmatch(key):
            raise ValueError(f"{path}: about[{key[:80]!r}]: a key is made of a-z, 0-9, '_' and '-'")
    size = sum(len(key) + len(value.encode()) for key, value in about.items())  # a lone surrogate is a ValueError too
    if size > MOST_ABOUT:
        raise ValueError(f"{path}: {size} bytes beside it, and there is room for {MOST_ABOUT}")
