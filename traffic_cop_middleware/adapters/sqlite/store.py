"""What the stores in a SQLite file have in common."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import ClassVar

from traffic_cop_middleware.adapters.sqlite.file import AT_ONCE, File
from traffic_cop_middleware.adapters.threads import OnThreads, Threads
from traffic_cop_middleware.contracts import Event


class SqliteStore(OnThreads[sqlite3.Connection]):
    """A store in the file at `path`, asked by one thread. `clock` gives the seconds since the epoch.

    `setting` is what names it, for messages; `schema` makes the tables that it has beside those of the documents.
    `share` is what it may take of the `max_mb` of the file.
    """

    setting: ClassVar[str] = "documents"
    schema: ClassVar[str] = ""
    share: ClassVar[float] = 1.0

    def __init__(
        self,
        path: str,
        *,
        namespace: str,
        deadline: float,
        notify: Callable[[Event], None],
        max_mb: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        most = None if max_mb is None else max_mb * self.share
        super().__init__(
            Threads(
                lambda: File(path, max_mb=most, setting=self.setting, schema=self.schema),
                name=path,
                count=1,
                at_once=AT_ONCE,
                deadline=deadline,
                notify=notify,
            )
        )
        self._app = namespace
        self._clock = clock
