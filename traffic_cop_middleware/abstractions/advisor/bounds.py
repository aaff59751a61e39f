"""Between what bounds refusals lie, where only counts per span of time are known.

Let a bucket of `b` tokens gain `r` a second, and begin full. Of one key's requests it is known that `n_i` came
somewhere within the span `[s_i, e_i)`, each costing one token (another cost divides `b` and `r`). Spans are disjoint
and in order.

**At least refused** (arrivals spread as kindly as can be). Let `X_1 = b`, and in each span admit
`a_i = min(n_i, floor(X_i + r (e_i - s_i)))`, then `X_(i+1) = min(b, X_i + r (e_i - s_i) - a_i + r (s_(i+1) - e_i))`.
No arrangement admits more than the sum of these. *Proof.* A real bucket's level loses what is admitted, gains no more
than its rate, and is never below 0, so what it admits in each span obeys the same recursion, with `X_i` no less than
its level. To admit one more now lowers the level by one at the most, and a level lower by one loses one later
admission at the most (take the better run's admissions and leave out the first that would not fit); so admitting as
many as fit, as early as they fit, is best.

**At most refused** (arrivals bunched as badly as can be). A *cycle* begins at `u`, the last moment at which the bucket
was full, and `v` is the last refusal before it is full again. In between nothing is lost to a full bucket, so what was
admitted in `(u, v]` is `b + r (v - u)` less the level at `v`; that is below one, for `v` was refused: admitted is
more than `b - 1 + r (v - u)`, and being a whole number, at least `floor(b + r (v - u))`. If `u`'s first arrival is of
span `i` and `v` of span `j`, then `v - u >= s_j - e_i` (or 0). So a set of cycles admits at least the sum of
`floor(b + r max(0, s_j - e_i))` over them, and all of the `n_k` of spans in which nothing was refused. Two cycles may
share a span; leaving it out of the second makes that one no dearer and covers the same spans. So what is admitted is no
less than the cheapest way to cut the row of spans into runs `[i, j]` at that price and single spans at the price `n_k`:

    C(0) = 0;  C(j) = min(C(j-1) + n_j,  min over i <= j of C(i-1) + floor(b + r max(0, s_j - e_i)))

As `C` is whole, the floor may be taken of the minimum, and `min(C(i-1) - r e_i)` is carried along: one step a span.

**At most refused in one span** `i`: with the cycle that its last refusal belongs to, begun in span `j`, it is no more
than what came in `j…i` less what that cycle admitted: `max over j of n_j + … + n_i - floor(b + r max(0, s_i - e_j))`.
**At least**: any window admits at most `b + r w`, so `n_i - floor(b + r (e_i - s_i))`.

**What a cap put together** (`__other__`): hidden requests of a known key can only add refusals to its own, and at most
as many as they are, since one more arrival never lowers how many are admitted and raises it by one at the most. So they
raise the upper bound by their number, and the lower by nothing; that of a span by all that came up to its end.

How far the bounds are apart: with `b <= r (e - s)` a steady flood is admitted between half of what the rate gives (two
bunches at each second border) and all of it; from `b >= 2 r (e - s)` on they are nearly one. Shorter spans bring them
together.

**When requests are counted at their end**, up to `d` after they came (`d` at most as long as a span): what a bucket of
`b` admits at the moments they came conforms to one of `b + r d` at the moments they were counted (jitter adds `r d` to
a burst: Cruz, "A calculus for network delay", 1991), so the first bound is worked out with that. For the second, `i` is
the earliest and `j` the latest span in which requests of a cycle were counted; then `v - u >= s_j - d - e_i` (or 0),
and the rest holds as it stands. Of one span: some counted in the next may have been admitted before its last refusal,
at most as many as were counted there and as `b + r d` tokens pay for; so many more may have been refused in it.

**What few requests more can do** (such as were hidden, or took longer than `d`): as long as each run `i…j` has `m` less
than `floor(b + r max(0, s_j - e_i))`, `m` more requests of the key, at any time, are refused as little as its own. The
least of these differences is its `room`.

All is computed in whole multiples of one fraction of a token, so that nothing is rounded; the slack that limiters have
(`SLACK`) is added where it would let one more pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from traffic_cop_middleware.abstractions.advisor.simulation import Between
from traffic_cop_middleware.abstractions.policies import Rate
from traffic_cop_middleware.contracts import SLACK
from traffic_cop_middleware.errors import ConfigurationError


class Span(NamedTuple):
    """So many `requests` that came from `start` on, before `end` (microseconds since the epoch)."""

    start: int
    end: int
    requests: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket in whole units: `one` are a request's cost, `burst` its capacity, `gain` what a microsecond brings.

    `slack` is what a limiter lets through beyond the capacity. `delay` is after how long at most a request is counted,
    and `late` what the bucket gains meanwhile.
    """

    one: int
    burst: int
    gain: int
    slack: int
    delay: int = 0

    @property
    def late(self) -> int:
        return self.gain * self.delay

    @classmethod
    def of(cls, rate: Rate, burst: float, cost: float = 1, *, delay: int = 0) -> Bucket:
        """The bucket of a rate ("100/minute"), a capacity in tokens and the cost of each request in tokens.

        `delay` in microseconds.
        """
        price, capacity = Fraction(cost), Fraction(burst)
        if not 0 < price <= capacity:
            raise ConfigurationError(
                f"cost={cost!r}: a request costs more than 0 tokens, and at most the bucket's {burst:g}"
            )
        gain = Fraction(rate.count, rate.seconds * 1_000_000)
        units = (price.denominator * capacity.denominator * gain.denominator) or 1
        slack = ceil((SLACK + capacity * Fraction(SLACK) / 1000) * units)
        return cls(int(price * units), int(capacity * units), int(gain * units), slack, delay)


class Spanned(NamedTuple):
    """How many of a span's requests would have been refused."""

    span: Span
    refused: Between


class Best(NamedTuple):
    """Where runs may best have begun, as if that were at `end`: the least C(i-1) + r (end - e_i) in units, and the same
    of n_1 + … + n_(i-1) in place of C(i-1), for what may be refused in one span."""

    end: int
    cheapest: int
    widest: int


class KeyBounds:
    """Between what bounds the refusals of one key lie (see the head of this file), as its spans come.

    Spans are disjoint, in order of time, with counts of 0 or more. What is kept of them does not grow.
    """

    __slots__ = ("_before", "_bucket", "_harshly", "_held", "_kindly", "_last", "_level", "requests", "room")

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.requests = 0
        self._kindly = self._harshly = 0
        self._level = bucket.burst + bucket.late
        self._before: Best | None = None
        """Of all spans but the last: where a run that goes on may best have begun."""
        self._last: Best | None = None
        """The same of the last one: the delay may be longer than the gap after it."""
        self.room = bucket.burst // bucket.one
        """How many requests more, at any time, would not be refused, nor others because of them; below 0: some are."""
        self._held: tuple[Span, int, int] | None = None
        """The last span, how many of it are refused at least, and how many came that no bucket pays for."""

    def add(self, span: Span) -> Spanned | None:
        """Count a span; gives the bounds of the one before."""
        bucket = self._bucket
        start, end, count = span
        one, burst, gain, slack = bucket.one, bucket.burst, bucket.gain, bucket.slack
        roomy = burst + bucket.late
        gained = gain * (end - start)
        level = self._level
        if self._held is not None:
            level = min(roomy, level + gain * (start - self._held[0].end))
        passed = min(count, (level + gained + slack) // one)
        self._kindly += passed
        self._level = min(roomy, level + gained - passed * one)

        asked = self.requests
        run, admitted = self._harshly + burst // one, burst // one
        before, last = self._before, self._last
        if last is not None:
            paid = burst + max(0, gain * (start - last.end) - bucket.late)
            run = min(run, (paid + last.cheapest) // one)
            admitted = min(admitted, (paid + last.widest) // one - asked)
            if before is not None:
                paid = burst + gain * (start - before.end) - bucket.late
                run = min(run, (paid + before.cheapest) // one)
                admitted = min(admitted, (paid + before.widest) // one - asked)
                gap = gain * (last.end - before.end)
                last = Best(last.end, min(last.cheapest, before.cheapest + gap), min(last.widest, before.widest + gap))
            self._before = last
        self._last = Best(end, self._harshly * one, asked * one)
        self._harshly = min(self._harshly + count, run)
        self.requests = asked + count
        self.room = min(self.room, admitted - count)
        settled = self._settled(span)
        self._held = span, max(0, count - (roomy + gained + slack) // one), count - admitted
        return settled

    def end(self) -> Spanned | None:
        """The bounds of the last span."""
        return self._settled(None)

    def _settled(self, following: Span | None) -> Spanned | None:
        if self._held is None:
            return None
        bucket = self._bucket
        span, least, unpaid = self._held
        if bucket.delay and following is not None and following.start < span.end + bucket.delay:
            unpaid += min(following.requests, (bucket.burst + bucket.late + bucket.slack) // bucket.one)
        return Spanned(span, Between(least, max(0, min(span.requests, unpaid))))

    @property
    def refused(self) -> Between:
        """How many would have been refused so far."""
        return Between(self.requests - self._kindly, self.requests - self._harshly)
