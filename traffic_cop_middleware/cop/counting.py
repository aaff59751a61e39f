"""How a cop counts its requests, and where Prometheus reads the figures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp

from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.metrics.recorder import Recorder
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.composition.metrics_settings import MetricsSettings
from traffic_cop_middleware.middleware.access_log import AccessLog
from traffic_cop_middleware.middleware.counted_elsewhere import CountedElsewhere
from traffic_cop_middleware.middleware.exposition import Exposition
from traffic_cop_middleware.middleware.metrics import MetricsLayer
from traffic_cop_middleware.middleware.route_table import RouteTable
from traffic_cop_middleware.middleware.stack import stacks_inside


class Counting:
    """The metrics of a cop that has any.

    `path`, `token` and `public` are those of `metrics_path`; `analytics` gives the figures that are shown there.

    Raises:
        ConfigurationError: the path can't be used, or strangers could read it.
    """

    def __init__(
        self,
        settings: MetricsSettings,
        *,
        path: str | None,
        token: str | None,
        public: bool,
        analytics: Callable[[], Awaitable[AnalyticsAbstraction]],
    ) -> None:
        self._exposition: Exposition | None = None
        if path is not None:
            self._exposition = Exposition(
                path, token=token, public=public, analytics=analytics, business=settings.instruments
            )
        self._access_log = AccessLog(settings.access_log) if settings.access_log else None
        self._left_to_others = settings.otlp is not None and settings.otlp.requests is None
        self._cost = settings.cost

    def layer(self, app: ASGIApp, *, recorder: Recorder, table: RouteTable, gateway: Gateway) -> MetricsLayer:
        """The layer that counts what `app` does, with the parts of ours inside of it."""
        for inside in stacks_inside(app):  # a part of ours that stands alone tells its own observers
            inside.observers.subscribe(recorder.hear)
        return MetricsLayer(
            app,
            recorder=recorder,
            table=table,
            gateway=gateway,
            exposition=self._exposition,
            access_log=self._access_log,
            elsewhere=CountedElsewhere(app) if self._left_to_others else None,
            cost=self._cost,
        )
