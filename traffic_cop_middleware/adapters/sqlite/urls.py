"""What a `sqlite://` URL names."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from traffic_cop_middleware.adapters.options import Bounds, numbers
from traffic_cop_middleware.errors import ConfigurationError

OPTIONS = {
    "deadline": Bounds(0.01, 300, None, "seconds per call, in place of the stack's deadline"),
    "max_mb": Bounds(1, 100_000_000, None, "megabytes that the file may have"),
}
FORMS = "sqlite:///relative.db or sqlite:////absolute/path.db"


def place_of(url: str, *, setting: str) -> tuple[str, dict[str, float | None]]:
    """The absolute path that a URL names, and its options. `setting` is the one that the URL is given by.

    Raises:
        ConfigurationError: it names no file, or an option can't be used.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)[1:]
    if parts.netloc or parts.fragment:
        raise ConfigurationError(
            f"{setting}={url!r}: what follows sqlite:// is no host and has no '#' (write %23). Write {FORMS}"
        )
    if not path or path.endswith("/") or "\0" in path or path == ":memory:":
        kept = "; for documents that are not kept, memory://" if setting == "documents" else ""
        raise ConfigurationError(f"{setting}={url!r} names no file. Write {FORMS}{kept}")
    return os.path.abspath(path), numbers(parts.query, OPTIONS, name=f"{setting}='sqlite:///{path}'")
