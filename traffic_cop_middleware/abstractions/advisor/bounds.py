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

All is computed in whole multiples of one fraction of a token, so that nothing is rounded; the slack that limiters have
(`SLACK`) is added where it would let one more pass.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    `slack` is what a limiter lets through beyond the capacity.
    """

    one: int
    burst: int
    gain: int
    slack: int

    @classmethod
    def of(cls, rate: Rate, burst: float, cost: float = 1) -> Bucket:
        """The bucket of a rate ("100/minute"), a capacity in tokens and the cost of each request in tokens."""
        price, capacity = Fraction(cost), Fraction(burst)
        if not 0 < price <= capacity:
            raise ConfigurationError(
                f"cost={cost!r}: a request costs more than 0 tokens, and at most the bucket's {burst:g}"
            )
        gain = Fraction(rate.count, rate.seconds * 1_000_000)
        units = (price.denominator * capacity.denominator * gain.denominator) or 1
        slack = ceil((SLACK + capacity * Fraction(SLACK) / 1000) * units)
        return cls(int(price * units), int(capacity * units), int(gain * units), slack)


class SpanBounds(NamedTuple):
    """Of one key: how many would have been refused in all, and in each of its spans."""

    refused: Between
    spans: tuple[Between, ...]


def bounds(spans: Sequence[Span], bucket: Bucket) -> SpanBounds:
    """Between what bounds the refusals of one key lie (see the head of this file). Linear in the spans.

    `spans` are disjoint, in order of time, with counts of 0 or more.
    """
    one, burst, gain, slack = bucket.one, bucket.burst, bucket.gain, bucket.slack
    asked = kindly = harshly = 0
    level, before = burst, 0
    cheapest: int | None = None
    """The least C(i-1) - r e_i of the spans so far, in units: where a run that goes on may best have begun."""
    widest = 0
    """The same of n_1 + … + n_(i-1) in place of C(i-1): for what may be refused in one span."""
    each: list[Between] = []
    for start, end, count in spans:
        gained = gain * (end - start)
        level = min(burst, level + gain * (start - before)) + gained if each else burst + gained
        passed = min(count, (level + slack) // one)
        kindly += passed
        level = min(burst, level - passed * one)
        before = end

        run, admitted = harshly + burst // one, burst // one
        if cheapest is None:
            cheapest, widest = -gain * end, -gain * end
        else:
            run = min(run, (burst + gain * start + cheapest) // one)
            admitted = min(admitted, (burst + gain * start + widest) // one - asked)
            cheapest = min(cheapest, harshly * one - gain * end)
            widest = min(widest, asked * one - gain * end)
        harshly = min(harshly + count, run)
        asked += count
        least = count - (burst + gained + slack) // one
        each.append(Between(max(0, least), max(0, min(count, count - admitted))))
    return SpanBounds(Between(asked - kindly, asked - harshly), tuple(each))
