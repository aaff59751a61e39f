"""One line of JSON per request, through the logger `traffic_cop.access`."""

from __future__ import annotations

import json
import logging
import random
import time

from starlette.types import Scope

from traffic_cop_middleware.middleware.context import TrafficContext

log = logging.getLogger("traffic_cop.access")


class AccessLog:
    """Writes a share of the requests, and all that failed (5xx, exceptions).

    A line has no query, no header and no body: what is secret usually stands there.
    """

    def __init__(self, share: float) -> None:
        self._share = share

    def write(
        self,
        scope: Scope,
        context: TrafficContext,
        *,
        route: str,
        status: int,
        seconds: float,
        bytes_in: int,
        bytes_out: int,
        failed: BaseException | None,
    ) -> None:
        """Write a request's line, if it is one of the share."""
        if self._share < 1 and status < 500 and failed is None and random.random() >= self._share:  # noqa: S311
            return
        if not log.isEnabledFor(logging.INFO):
            return
        line = {
            "time": round(time.time(), 3),
            "method": scope["method"],
            "path": scope["path"],
            "route": route,
            "status": status,
            "seconds": round(seconds, 6),
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "client": context.client,
            "request_id": context.request_id,
            "trace_id": context.traceparent[3:35],
        }
        session = context.session
        owner = session.standing if session is not None else None
        if owner is not None and owner.subject is not None:
            line["user"] = owner.subject
        if failed is not None:
            line["error"] = type(failed).__name__
        log.info("%s", json.dumps(line))
