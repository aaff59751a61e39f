"""The limit advisor over access logs, as functions and as `python -m traffic_cop_middleware.advisor`."""

from traffic_cop_middleware.advisor.log_advice import simulate_log, suggest_limits

__all__ = ["simulate_log", "suggest_limits"]
