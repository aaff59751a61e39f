"""Consistent hashing with bounded loads: a key stays with its instance while that is there and not too busy."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from hashlib import blake2b
from math import ceil, sqrt
from random import Random

from traffic_cop_middleware.abstractions.balancing.two_choices import P2c
from traffic_cop_middleware.contracts.balancing import BalancingKey, Candidate

POINTS = 128
"""Points on the ring for each unit of share (`_unit`): shares come out within some 9 % (one standard deviation)."""
STEP = 4.0
"""Times its size, from one unit of share to the next larger one."""
DIGEST = 64
"""Bytes of one hash, cut into eight points."""
BOUND = 1.25
"""Times its fair share of the requests in flight that an instance takes before keys move on."""


class ConsistentHash:
    """The candidate that follows the key's hash on the ring and is not above its bound.

    Theory: instances and keys are hashed onto a ring, a key belongs to the next instance on it (Karger et al.:
    Consistent Hashing and Random Trees, 1997); each instance has many points, in proportion to its share. Plain
    hashing lets a hot key bury its instance. With bounded loads (Mirrokni, Thorup and Zadimoghaddam: Consistent Hashing
    with Bounded Loads, 2016) an instance takes at most `bound` times its share of what is in flight, rounded up, and
    what is above goes on to the next with room. A ring was chosen over Maglev's table (Eisenbud et al., 2016), which
    finds as fast but moves some keys of instances that did not change.
    Invariants: a key moves only if its instance went, weighs less now or is above its bound, or to an instance that
    came or weighs more now (others move too where the mean weight crosses a step of `_unit`); of m requests in flight,
    each candidate has at most ceil(bound * (m + 1) * its share), so long as all are placed by this policy.
    All workers agree, since names are hashed and nothing else; the bound is each worker's own. A request without a key
    goes to the less busy of two.
    """

    def __init__(self, random: Random, *, bound: float = BOUND) -> None:
        self._bound = bound
        self._without = P2c(random)
        self._points: list[int] = []
        self._owners: list[str] = []
        self._ring: list[tuple[int, str]] = []
        self._counts: dict[str, int] = {}
        self._seen: Sequence[Candidate] | None = None
        self._named: dict[str, Candidate] = {}
        self._total = 1.0

    def changed(self, instances: Sequence[Candidate]) -> None:
        """Make the ring of all of them: who is away for a while gets its keys back."""
        shares = {each.name: each.share for each in instances if each.share > 0}
        unit = _unit(shares.values())
        counts = {name: ceil(POINTS * share / unit) for name, share in shares.items()}
        others = {name for name in {*counts, *self._counts} if counts.get(name) != self._counts.get(name)}
        self._seen = None
        if not others:
            return
        self._counts = counts
        self._ring = [each for each in self._ring if each[1] not in others]
        self._ring += sorted((point, name) for name in others for point in _points(name, counts.get(name, 0)))
        self._ring.sort()  # two runs that are in order already: in proportion to their lengths
        self._points = [point for point, _ in self._ring]
        self._owners = [name for _, name in self._ring]

    def pick(
        self, candidates: Sequence[Candidate], key: BalancingKey | None, *, now: float, in_flight: int
    ) -> Candidate:
        """The key's own one, or the next with room."""
        if key is None or not key.text:
            return self._without.pick(candidates, None, now=now, in_flight=in_flight)
        if candidates is not self._seen:
            self._seen = candidates
            self._named = {each.name: each for each in candidates}
            self._total = sum(each.share for each in candidates)
        room = self._bound * (in_flight + 1) / self._total
        points, owners, named = self._points, self._owners, self._named
        start = bisect_left(points, _hash(key.text))
        for at in range(start - len(points), start):
            found = named.get(owners[at])
            if found is not None and found.in_flight < ceil(room * found.share):
                return found
        return min(candidates, key=lambda each: each.in_flight / each.share)


def _unit(shares: Collection[float]) -> float:
    """The share that has `POINTS` points.

    Were it the largest, all would get other points when that one goes. So it is a power of `STEP`, and stays while
    the mean share does not pass from below 2.83 units to above, or back.
    """
    unit = 1.0
    while sum(shares) > len(shares) * unit * sqrt(2 * STEP):
        unit *= STEP
    return unit


def _points(name: str, count: int) -> list[int]:
    """Where an instance stands on the ring: of few points and many the first are the same."""
    found: list[int] = []
    for turn in range(ceil(count * 8 / DIGEST)):
        digest = blake2b(f"{turn}\0{name}".encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest()
        found += (int.from_bytes(digest[at : at + 8], "big") for at in range(0, DIGEST, 8))
    return found[:count]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
