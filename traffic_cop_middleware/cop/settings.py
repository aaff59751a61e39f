"""The kwargs of the cop and of each part that stands alone, for type checkers, and what is said of a mistyped one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from inspect import Signature
from typing import TYPE_CHECKING, Required, TypedDict, TypeVar

from traffic_cop_middleware.abstractions.business.costs import Costs
from traffic_cop_middleware.abstractions.business.declarations import BusinessMetric
from traffic_cop_middleware.abstractions.cors import CorsPolicy
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.insights.quotas import Quotas
from traffic_cop_middleware.abstractions.insights.webhooks import Webhook
from traffic_cop_middleware.abstractions.promotion.hooks import PromotionHook
from traffic_cop_middleware.abstractions.promotion.settings import Preset
from traffic_cop_middleware.abstractions.rate_limiting import OnOutage
from traffic_cop_middleware.abstractions.session_policy import OnLimit
from traffic_cop_middleware.abstractions.state.synchronisation import Service
from traffic_cop_middleware.composition.otlp import OtlpExport
from traffic_cop_middleware.composition.session_settings import Secret
from traffic_cop_middleware.composition.telling import OnInsight
from traffic_cop_middleware.contracts import Backend, DocumentStore, FileMetadataStore, ObjectStore, Observer, Tier
from traffic_cop_middleware.errors import ConfigurationError, UnknownSetting
from traffic_cop_middleware.middleware.client_address import TrustedProxies
from traffic_cop_middleware.middleware.cookies import SameSite
from traffic_cop_middleware.middleware.csrf import Csrf
from traffic_cop_middleware.middleware.refusals import OnRefusal
from traffic_cop_middleware.middleware.routes import Limits

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter

    from traffic_cop_middleware.adapters.jwt import Issuer


T = TypeVar("T")


class BackendKwargs(TypedDict, total=False):
    """The kwargs that every middleware of ours takes, as `TrafficCop` explains them."""

    backend: str | Backend
    on_outage: OnOutage | Mapping[str, OnOutage]
    trusted_proxies: TrustedProxies
    observer: Observer | None
    namespace: str
    deadline: float
    expected_workers: int


class CopSettings(BackendKwargs, total=False):
    """The kwargs of `TrafficCop`."""

    limits: Limits
    limits_fields: bool
    limits_x_headers: bool
    limits_on_refusal: OnRefusal | None
    strict_routes: bool
    session_secret: Secret | None
    session_algorithm: str
    session_cookie: str | None
    session_same_site: SameSite
    session_secure: bool
    session_csrf: Csrf
    session_trusted_origins: Iterable[str]
    session_idle: float
    session_lifetime: float
    session_access: float
    session_grace: float
    session_limit: int | None
    session_on_limit: OnLimit
    session_size: int
    session_issuer: str
    session_audience: str
    session_issuers: Sequence[Issuer]
    documents: str | DocumentStore
    documents_deadline: float
    state_near_items: int
    state_services: Mapping[str, Service]
    files: str | ObjectStore | None
    file_metadata: str | FileMetadataStore | None
    files_deadline: float
    files_grace: float
    promotion: bool
    promotion_hooks: Iterable[PromotionHook]
    promotion_preset: Preset
    promotion_critical_fields: Iterable[str]
    promotion_critical_types: Iterable[str]
    promotion_preferences: Mapping[str, Tier]
    promotion_file_bytes: int
    promotion_hook_timeout: float
    proxy_routes: Iterable[GatewayRoute]
    cors: Mapping[str, CorsPolicy]
    metrics: bool
    metrics_path: str | None
    metrics_token: str | None
    metrics_public: bool
    metrics_interval: float
    metrics_series: int
    metrics_access_log: float
    metrics_history: bool
    metrics_otlp: MetricExporter | OtlpExport | None
    metrics_on_insight: OnInsight | None
    metrics_webhook: Webhook | None
    metrics_quotas: Quotas | None
    business_metrics: Iterable[BusinessMetric]
    business_metrics_cost: Costs | None


class RateLimitKwargs(BackendKwargs, total=False):
    """The kwargs of `RateLimitMiddleware`."""

    limits: Limits
    strict_routes: bool
    fields: bool
    x_headers: bool
    on_refusal: OnRefusal | None


class SessionKwargs(BackendKwargs, total=False):
    """The kwargs of `SessionMiddleware`: those of `TrafficCop` without `session_`."""

    secret: Required[Secret]
    algorithm: str
    cookie: str | None
    same_site: SameSite
    secure: bool
    csrf: Csrf
    trusted_origins: Iterable[str]
    idle: float
    lifetime: float
    access: float
    grace: float
    limit: int | None
    on_limit: OnLimit
    size: int
    issuer: str
    audience: str
    issuers: Sequence[Issuer]


class RoutingKwargs(BackendKwargs, total=False):
    """The kwargs of `RoutingMiddleware`: those of `TrafficCop` without `proxy_`."""

    routes: Required[Iterable[GatewayRoute]]


class PromotionKwargs(BackendKwargs, total=False):
    """The kwargs of `PromotionMiddleware`: those of `TrafficCop` without `promotion_`."""

    documents: str | DocumentStore
    documents_deadline: float
    state_near_items: int
    state_services: Mapping[str, Service]
    files: str | ObjectStore | None
    file_metadata: str | FileMetadataStore | None
    files_deadline: float
    files_grace: float
    hooks: Iterable[PromotionHook]
    preset: Preset
    critical_fields: Iterable[str]
    critical_types: Iterable[str]
    preferences: Mapping[str, Tier]
    file_bytes: int
    hook_timeout: float


class MetricsKwargs(BackendKwargs, total=False):
    """The kwargs of `MetricsMiddleware`: those of `TrafficCop` without `metrics_`."""

    path: str | None
    token: str | None
    public: bool
    interval: float
    series: int
    access_log: float
    otlp: MetricExporter | OtlpExport | None
    on_insight: OnInsight | None
    webhook: Webhook | None
    quotas: Quotas | None


PREFIX = re.compile("(limits|session|proxy|metrics|promotion)_")
SWITCHES = (
    ("metrics", ("metrics_", "business_metrics"), "nothing is counted without metrics=True. Write it too"),
    ("session_secret", ("session_",), "there are no sessions without session_secret=…. Write it too"),
)
"""What a part is asked for by, how its other settings begin, and what to do."""


def refuse_unknown(what: str, known: Iterable[str], given: Mapping[str, object]) -> None:
    """A mistyped setting, with the one that was meant."""
    known = list(known)
    for name in given:
        if name not in known:
            bare = PREFIX.sub("", name)
            near = [bare] if bare in known else difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]}=?" if near else f"there are {', '.join(known)}"
            raise UnknownSetting(f"{what} has no setting {name!r}: {meant}")


def refuse_useless(given: CopSettings, signature: Signature) -> None:
    """Settings of a part that is not there, as it was not asked for. `signature` has the defaults."""
    values: Mapping[str, object] = given
    changed = [
        name
        for name, parameter in signature.parameters.items()
        if (each := values.get(name)) != parameter.default and (each or parameter.default)  # [] is as () is
    ]
    for switch, prefixes, mend in SWITCHES:
        useless = [name for name in changed if name.startswith(prefixes) and name != switch]
        if useless and values.get(switch) in (None, False):
            raise ConfigurationError(f"{', '.join(useless)}: {mend}")


def listed(name: str, value: Iterable[T]) -> list[T]:
    """A setting that is a list.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{name}={value!r}: a list is wanted here, as in {name}=[…]")
    return list(value)
