"""The objects below a folder in the order of their paths.

A folder's own order is not that of the paths: `a-b` comes before `a/b`, and `a0` after it. So each folder is sorted
with a `/` after the names of folders, which is right for all that they hold, since no name has a `/`. A page reads the
names of the folders that it touches, and opens the files that it tells of.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from traffic_cop_middleware.adapters.filesystem.folder import Folder
from traffic_cop_middleware.adapters.filesystem.form import SUFFIX, segment_of_folder
from traffic_cop_middleware.contracts.objects import is_path


def paths(folder: Folder, prefix: str, after: str | None) -> Iterator[str]:
    """The paths that begin with `prefix`, of those after `after`; what they lead to was not looked at."""
    start = prefix.rpartition("/")[0]
    if not start or is_path(start):
        yield from _below(folder, f"{start}/" if start else "", prefix, after)


def _below(folder: Folder, start: str, prefix: str, after: str | None) -> Iterator[str]:
    """`start` is the beginning that all paths of a folder share."""
    folder.check_time()
    found = []
    with folder.opened(start.split("/")[:-1]) as fd:
        if fd is None:
            return
        with os.scandir(fd) as entries:
            for entry in entries:
                key = _key(entry, start)
                if key is not None and _wanted(key, prefix, after):
                    found.append(key)
    for key in sorted(found):
        if key.endswith("/"):
            yield from _below(folder, key, prefix, after)
        else:
            yield key


def _key(entry: os.DirEntry[str], start: str) -> str | None:
    """An object's path, or the beginning that a folder's objects share; `None` for what is none of ours."""
    if entry.is_dir(follow_symlinks=False):
        segment = segment_of_folder(entry.name)
        return f"{start}{segment}/" if segment is not None and is_path(start + segment) else None
    path = start + entry.name.removesuffix(SUFFIX)
    own = entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False) and is_path(path)
    return path if own else None


def _wanted(key: str, prefix: str, after: str | None) -> bool:
    leads = key.endswith("/")
    begins = key.startswith(prefix) or (leads and prefix.startswith(key))
    return begins and (after is None or key > after or (leads and after.startswith(key)))
