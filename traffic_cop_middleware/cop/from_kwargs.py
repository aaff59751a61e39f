"""What the kwargs of `TrafficCop` say, as the settings of each part.

Each function takes all kwargs, so that which of them concern a part is told here and nowhere else. The settings check
themselves when made; here is what concerns several of them.
"""

# `TrafficCop.__init__` has a default for each that was left out, so all are there:
# pyright: reportTypedDictNotRequiredAccess=false

from __future__ import annotations

from collections.abc import Sequence

from traffic_cop_middleware.abstractions.business.costs import CostOf
from traffic_cop_middleware.abstractions.business.declarations import declared
from traffic_cop_middleware.abstractions.promotion.hooks import PromotionHook, check_hook
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.abstractions.session_policy import SessionPolicy
from traffic_cop_middleware.composition.backend_settings import BackendSettings
from traffic_cop_middleware.composition.files_settings import FilesSettings
from traffic_cop_middleware.composition.metrics_settings import MetricsSettings
from traffic_cop_middleware.composition.otlp import otlp_export
from traffic_cop_middleware.composition.session_settings import SessionSettings
from traffic_cop_middleware.composition.state_settings import StateSettings
from traffic_cop_middleware.composition.telling import TellingSettings
from traffic_cop_middleware.cop.settings import CopSettings, listed
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.cookies import CookieSettings
from traffic_cop_middleware.middleware.csrf import trusted_origins
from traffic_cop_middleware.middleware.marks import limits_of
from traffic_cop_middleware.middleware.rate_limit import RateLimitSettings
from traffic_cop_middleware.middleware.sessions import SessionLayerSettings


def rate_limit_settings(given: CopSettings) -> RateLimitSettings:
    return RateLimitSettings(
        limits=limits_of(given["limits"], "limits"),
        fields=given["limits_fields"],
        x_headers=given["limits_x_headers"],
        on_refusal=given["limits_on_refusal"],
        strict_routes=given["strict_routes"],
    )


def session_layer_settings(given: CopSettings) -> SessionLayerSettings:
    csrf = given["session_csrf"]
    if not isinstance(csrf, bool) and csrf != "forms":
        raise ConfigurationError(f"session_csrf={csrf!r} must be True or False, or 'forms'")
    return SessionLayerSettings(
        cookie=CookieSettings(
            name=given["session_cookie"], same_site=given["session_same_site"], secure=given["session_secure"]
        ),
        csrf=bool(csrf),
        form_tokens=csrf == "forms",
        trusted_origins=trusted_origins(given["session_trusted_origins"]),
    )


def session_settings(given: CopSettings) -> SessionSettings | None:
    """`None` where there are no sessions; how long they would live is checked all the same."""
    policy = SessionPolicy(
        idle=given["session_idle"],
        lifetime=given["session_lifetime"],
        access=given["session_access"],
        grace=given["session_grace"],
        limit=given["session_limit"],
        on_limit=given["session_on_limit"],
        size=given["session_size"],
    )
    secret = given["session_secret"]
    if secret is None:
        return None
    return SessionSettings(
        secret=secret,
        algorithm=given["session_algorithm"],
        issuer=given["session_issuer"],
        audience=given["session_audience"],
        issuers=listed("session_issuers", given["session_issuers"]),
        policy=policy,
    )


def checked_hooks(given: CopSettings) -> list[PromotionHook]:
    promotion = given["promotion"]
    if not isinstance(promotion, bool):
        raise ConfigurationError(f"promotion={promotion!r} must be True or False; hooks go into promotion_hooks")
    hooks = listed("promotion_hooks", given["promotion_hooks"])
    for hook in hooks:
        check_hook(hook)
    return hooks


def promotion_settings(given: CopSettings) -> PromotionSettings | None:
    """`None` where nothing is judged; how it would be is checked all the same."""
    preferences = given["promotion_preferences"]
    settings = PromotionSettings(
        preset=given["promotion_preset"],
        critical_fields=given["promotion_critical_fields"],
        critical_types=given["promotion_critical_types"],
        preferences=preferences if preferences is not None else {},
        file_bytes=given["promotion_file_bytes"],
        hook_timeout=given["promotion_hook_timeout"],
    )
    return settings if given["promotion"] else None


def backend_settings(given: CopSettings, *, hooks: Sequence[PromotionHook], keeps_state: bool) -> BackendSettings:
    """With the state, which is kept in the backend and behind it. `hooks` may get longer until the start."""
    promotion = promotion_settings(given)
    services = given["state_services"]
    return BackendSettings(
        backend=given["backend"],
        namespace=given["namespace"],
        deadline=given["deadline"],
        on_outage=given["on_outage"],
        expected_workers=given["expected_workers"],
        state=StateSettings(
            documents=given["documents"],
            deadline=given["documents_deadline"],
            near_items=given["state_near_items"],
            services=services if services is not None else {},
            files=FilesSettings(
                objects=given["files"],
                metadata=given["file_metadata"],
                deadline=given["files_deadline"],
                grace=given["files_grace"],
            ),
            promotion=promotion,
            hooks=hooks,
            on=keeps_state,
        ),
    )


def metrics_settings(given: CopSettings) -> MetricsSettings | None:
    """`None` where nothing is counted."""
    cost = given["business_metrics_cost"]
    settings = MetricsSettings(
        interval=given["metrics_interval"],
        series=given["metrics_series"],
        access_log=given["metrics_access_log"],
        history=given["metrics_history"],
        otlp=otlp_export(given["metrics_otlp"]),
        telling=TellingSettings(
            on_insight=given["metrics_on_insight"], webhook=given["metrics_webhook"], quotas=given["metrics_quotas"]
        ),
        business=declared(given["business_metrics"]),
        cost=CostOf(cost) if cost is not None else None,
    )
    on = given["metrics"]
    path, token, public = given["metrics_path"], given["metrics_token"], given["metrics_public"]
    if not isinstance(on, bool):
        raise ConfigurationError(f"metrics={on!r} must be True or False")
    if path is None and (token is not None or public):
        raise ConfigurationError("metrics_token and metrics_public need metrics_path='/metrics'")
    return settings if on else None
