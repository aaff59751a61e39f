"""What the stores in a database of ArangoDB have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

from traffic_cop_middleware.adapters.arangodb.link import INDEXES, ArangoWorker, Indexes, Link, Server, SetUp
from traffic_cop_middleware.adapters.threads import OnThreads, Threads
from traffic_cop_middleware.contracts import Event


class ArangoStore(OnThreads[Link]):
    """A store in a database, over up to `threads` connections. `clock` gives the seconds since the epoch."""

    indexes: ClassVar[Indexes] = INDEXES
    """Of its collections, which are made where they are missing."""

    def __init__(
        self,
        server: Server,
        *,
        namespace: str,
        deadline: float,
        notify: Callable[[Event], None],
        threads: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        set_up, name = SetUp(self.indexes), server.name
        super().__init__(
            Threads(lambda: ArangoWorker(server, set_up), name=name, count=threads, deadline=deadline, notify=notify)
        )
        self._app = namespace
        self._clock = clock
