"""What a cop's settings need of each other: that there are sessions for what goes by them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.cors import CorsPolicy
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.marks import Limit
from traffic_cop_middleware.middleware.sessions import SessionLayerSettings

log = logging.getLogger("traffic_cop")


class Needs:
    """Checks limits, routes and pools, those that were given and those that come while the app runs.

    `sessions` is whether the cop has any. Each check raises `ConfigurationError`, which says what to write.
    """

    sessions_may_be_outside = False
    """Whether another middleware, outside of this one, may have the sessions."""

    def __init__(self, *, sessions: bool) -> None:
        self.sessions = sessions

    def check_keys(self, limits: Iterable[Limit], where: str) -> None:
        """See that there are sessions for the keys that need them."""
        for each in limits:
            if each.key.by_session and not self.sessions and not self.sessions_may_be_outside:
                raise ConfigurationError(
                    f"{where}limit({each.text!r}, key={each.key!r}): {each.key!r} needs sessions. Write "
                    "TrafficCop(session_secret=…)"
                )

    def check_route(self, route: GatewayRoute) -> None:
        """See that there is what a route needs."""
        action = action_of(route)
        self.check_keys(action.limits, f"route {route.name!r}: ")
        wants = "session=…" if route.session else "identity=…" if action.policy.identity else ""
        if wants and not self.sessions and not self.sessions_may_be_outside:
            raise ConfigurationError(
                f"route {route.name!r}: {wants} needs sessions. Write TrafficCop(session_secret=…)"
            )
        self.check_balancing(action.balancing, f"route {route.name!r}")

    def check_balancing(self, settings: BalancingSettings, where: str) -> None:
        """See that there is what it goes by."""
        wanting = "affinity='session'" if settings.affinity == "session" else ""
        if settings.hash_by.startswith("attribute:"):
            wanting = f"hash_by={settings.hash_by!r}"
        if wanting and not self.sessions and not self.sessions_may_be_outside:
            raise ConfigurationError(f"{where}: {wanting} needs sessions. Write TrafficCop(session_secret=…)")
        if settings.affinity == "cookie" and not self.sessions:
            raise ConfigurationError(
                f"{where}: affinity='cookie' needs a secret that all workers share, so that the cookie tells nobody "
                "else of an instance. Write TrafficCop(session_secret=…)"
            )


def warn_of_untrusted(policies: Mapping[str, CorsPolicy], session_layer: SessionLayerSettings) -> None:
    """Tell of origins that may call with credentials, and whose POST with the cookie is refused all the same."""
    if not session_layer.csrf:
        return
    allowed = {origin for policy in policies.values() if policy.credentials for origin in policy.origins}
    missing = sorted(allowed - session_layer.trusted_origins)
    if missing:
        log.warning(
            "cors lets pages of %s%s send credentials, but a POST of theirs with the session cookie is answered "
            "403, as one of another site. List them in session_trusted_origins=[…], each by itself without '*.', "
            "or leave credentials out of the policy",
            ", ".join(map(repr, missing[:5])),
            " and others" if len(missing) > 5 else "",
        )
