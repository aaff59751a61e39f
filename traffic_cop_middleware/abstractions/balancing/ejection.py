"""Passive ejection: who answers badly gets no requests for a while."""

from __future__ import annotations

from traffic_cop_middleware.abstractions.balancing.instances import Instance
from traffic_cop_middleware.abstractions.balancing.outcomes import FAILURES, Outcome
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings

WINDOW = 10.0
"""Seconds over which shares and mean latencies are taken."""
FIRST_PRICE = 1.0
"""Seconds that a failure counts as while no good answer has come yet."""
LEARN = 1 / 64
"""What one answer more counts in the pool's mean latency."""


class Outliers:
    """Judges instances by how attempts on them end. The facts are kept in the instances.

    Theory: outlier detection as Envoy has it. Out goes who fails `consecutive_failures` times in a row, fails
    `error_share` of at least `request_volume` in a window, or is `latency_factor` times slower than the others' mean in
    it. It stays out for `ejection` seconds times the number of its ejections so far, which falls by one for each such
    time that it serves well. Who comes back is on probation (as a half-open circuit breaker): its first failure puts it
    out again, its first good answer ends the probation.
    How many may be out at a time is the pool's business.
    Invariant: an instance is put out only by an attempt that ended in a failure or, by latency, in an answer.
    """

    def __init__(self, settings: BalancingSettings) -> None:
        self.settings = settings
        self._mean = 0.0
        self._window_ends = 0.0
        self._good = 0
        self._seconds = 0.0

    def price(self, seconds: float) -> float:
        """Seconds that a failure counts as, which took so many: a slow answer, by the pool's own measure."""
        if not self.settings.failure_price:
            return seconds
        return max(seconds, self._mean * self.settings.failure_price or FIRST_PRICE)

    def good(self, instance: Instance, seconds: float | None, now: float) -> str | None:
        """Take in a good answer; the reason to put the instance out, if that is one."""
        if now >= instance.window_ends:
            self._open(instance, now)
        instance.requests += 1
        instance.streak = 0
        if seconds is None:
            return None
        self._mean += (seconds - self._mean) * (LEARN if self._mean else 1.0)
        factor = self.settings.latency_factor
        if factor is None:
            return None
        least = self.settings.request_volume
        instance.window_good += 1
        instance.window_seconds += seconds
        self._good += 1
        self._seconds += seconds
        if instance.window_good < least or now < instance.ejected_until:
            return None
        others = self._good - instance.window_good
        if others < least:
            return None
        own = instance.window_seconds / instance.window_good
        mean = (self._seconds - instance.window_seconds) / others
        if own <= factor * mean:
            return None
        return f"its answers take {own:.3f} s on average, the others' {mean:.3f} s"

    def bad(self, instance: Instance, outcome: Outcome, now: float, *, again: bool = False) -> str | None:
        """Take in a failure; the reason to put the instance out, if that is one.

        `again`: the attempt has been counted already, as a good answer.
        """
        if outcome not in FAILURES:
            return None
        if now >= instance.window_ends:
            self._open(instance, now)
        if not again:
            instance.requests += 1
        instance.failures += 1
        instance.streak += 1
        instance.window_failures += 1
        if now < instance.ejected_until:
            return None
        settings = self.settings
        if instance.streak >= settings.consecutive_failures:
            many = f"{instance.streak} failures in a row" if instance.streak > 1 else "a failure"
            return f"{many}: {outcome.value}"
        share = settings.error_share
        requests = max(instance.requests - instance.window_first, instance.window_failures)
        if share is not None and requests >= settings.request_volume and instance.window_failures >= share * requests:
            return f"{instance.window_failures} of {requests} requests failed: {outcome.value}"
        return None

    def eject(self, instance: Instance, reason: str, now: float) -> float:
        """Put it out; for how many seconds."""
        settings = self.settings
        well = max(0.0, now - max(instance.ejected_until, instance.healthy_since))
        instance.ejections = max(0, instance.ejections - int(well / settings.ejection)) + 1
        seconds = min(settings.longest_ejection, settings.ejection * instance.ejections)
        instance.ejected_until = now + seconds
        instance.ejected_for = reason
        instance.streak = settings.consecutive_failures - 1  # on probation when it comes back
        if instance.window_ends == self._window_ends:
            self._good -= instance.window_good
            self._seconds -= instance.window_seconds
        instance.window_ends = 0.0
        return seconds

    def _open(self, instance: Instance, now: float) -> None:
        """A window begins for an instance; for the pool with the first of them."""
        ends = (now // WINDOW + 1) * WINDOW
        if ends != self._window_ends:
            self._window_ends, self._good, self._seconds = ends, 0, 0.0
        instance.window_ends = ends
        instance.window_first = instance.requests
        instance.window_failures = instance.window_good = 0
        instance.window_seconds = 0.0
