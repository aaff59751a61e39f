"""Objects in the file system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from traffic_cop_middleware.adapters.filesystem.objects import FileObjects
from traffic_cop_middleware.adapters.options import Bounds, numbers
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.contracts.objects import check_path
from traffic_cop_middleware.errors import ConfigurationError

OPTIONS = {
    "deadline": Bounds(0.01, 300, None, "seconds per call, in place of the stack's deadline"),
    "threads": Bounds(1, 64, 4, "calls at once, each in a thread"),
}


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> FileObjects:
    """`file:///absolute/folder`: objects below `folder/namespace`. The folder is made if the one around it is there.

    `?deadline=10` is the seconds of a call, `?threads=4` how many calls are made at once. A reserved character in the
    path is written as %XX. There is no relative form, since a URL has none: `file:///./files` is `/files`.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if (
        parts.netloc not in {"", "localhost"}
        or parts.fragment
        or not path.isprintable()
        or not path.startswith("/")
        or not path.strip("/")
        or {".", ".."} & set(path.split("/"))
    ):
        here = (Path.cwd() / "files").as_uri()
        raise ConfigurationError(
            f"files={url!r} names no absolute folder. Write file:///absolute/folder, without a host, '.', '..' and '#' "
            f"(write %23); a folder here is {here!r}, or Path('files').resolve().as_uri()"
        )
    options = numbers(parts.query, OPTIONS, name=f"files='file://{path}'")
    try:
        check_path(namespace)
    except ValueError as exc:
        raise ConfigurationError(f"namespace={namespace!r} can't be a folder of {path}: {exc}") from exc
    return FileObjects(
        path.rstrip("/"),
        namespace=namespace,
        deadline=options["deadline"] or deadline,
        notify=notify,
        threads=int(options["threads"] or 1),
    )
