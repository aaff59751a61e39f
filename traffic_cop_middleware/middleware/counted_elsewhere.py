"""Tells which requests FastAPI reports by itself, so that an export beside it counts none of them twice.

FastAPI 0.142 and later records `http.server.request.duration` and `http.server.active_requests` in every app, from the
moment that there is a meter provider. It does so around its whole middleware stack: installed into an app, ours is
inside of that, and each request is in both; wrapped around one, ours also answers requests that FastAPI never sees.
So it is looked at request by request. While FastAPI watches one, its scope says so, whoever is inside or outside.

Starlette's own middleware for OpenTelemetry makes spans, and no metrics.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.types import ASGIApp, Scope

log = logging.getLogger("traffic_cop")

WATCHED = "fastapi.telemetry"
"""In a scope that FastAPI watches, for spans, logs or metrics; `None` where the app has excluded the request."""


class CountedElsewhere:
    """Knows what FastAPI counts of the requests that pass on their way to `app`."""

    def __init__(self, app: ASGIApp) -> None:
        from traffic_cop_middleware.adapters.opentelemetry import records

        self._recorded = records
        self._inside = next((each for each in _apps(app) if _telemetry(each) is not None), None)
        self._around: Mapping[str, Any] | None = None
        self._told = False

    def enters(self, scope: Scope) -> bool:
        """Whether FastAPI counts a request that comes in: then this stands inside of its app."""
        if scope.get(WATCHED) is None:
            return False
        self._around = _telemetry(scope.get("app")) or self._around  # apps further inside put themselves there
        return self._records(scope)

    def counts(self, scope: Scope) -> bool:
        """Whether FastAPI has this request, which is under way, in its hands and counts it."""
        return scope.get(WATCHED) is not None and self._records(scope)

    def gave_up(self, scope: Scope) -> bool:
        """Whether FastAPI has counted this request, which ended without an answer.

        From outside no watch is to be seen any more, only that some app was reached. One that FastAPI was told to
        exclude is taken for counted here.
        """
        app = scope.get("app")
        reached = app is not None and (self._inside is not None or _telemetry(app) is not None)
        return self.counts(scope) or (reached and self._records(scope))

    def _records(self, scope: Scope) -> bool:
        settings = self._around or _telemetry(self._inside) or _telemetry(scope.get("app")) or {}
        if not settings.get("metrics", True) or not self._recorded(settings.get("meter_provider")):
            return False
        if not self._told:
            self._told = True
            log.info(
                "FastAPI records http.server.request.duration and http.server.active_requests itself, so metrics_otlp "
                "exports them for the other requests only. OtlpExport(…, requests=True) exports all"
            )
        return True


def _apps(app: Any) -> Iterator[object]:
    for _ in range(100):
        yield app
        app = getattr(app, "app", None)
        if app is None:
            return


def _telemetry(app: object) -> Mapping[str, Any] | None:
    """What `FastAPI(telemetry={…})` was told, with its defaults; where that can't be read any more, the defaults go."""
    found = getattr(app, "_telemetry", None)
    return found if isinstance(found, Mapping) else None
