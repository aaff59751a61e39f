"""Leases: of all who ask for one, one has it at a time, and until it ends.

Whoever holds a lease can't know that they still do: between looking and writing a process may be held up until the
lease has ended, and another one holds it. So each lease has a *fencing token*, and what it guards keeps the highest
token that has written to it and refuses a lower one (`passes`; in Redis `adapters/redis/fenced.lua`). The lease spares
work that is done twice, the token keeps what is written whole (docs/decisions/0018-leases.md). Source: Kleppmann, "How
to do distributed locking" (2016).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NamedTuple, Protocol

MOST_LEASE_NAME = 128
"""Bytes (UTF-8) of a lease's name, and of a holder's."""
SHORTEST_LEASE, LONGEST_LEASE = 0.1, 86_400.0
"""Seconds that a lease may be asked for."""


class Lease(NamedTuple):
    """The lease `name` is `holder`'s for another `ends_in` seconds, counted from when it was asked for.

    `token` is the fencing token, an integer below 2**53: it stays while the lease is renewed, and each later holder has
    a larger one.
    """

    name: str
    holder: str
    token: int
    ends_in: float


class LeaseStore(Protocol):
    """Leases by name, timed by the store's own clock.

    A store in this process answers at once; a shared one gives something to await. Tokens of a name grow, also where
    the store lost everything: a new one is the time in microseconds, or more.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes ask for the same leases (asking then costs a round trip)."""
        ...

    def acquire(self, name: str, holder: str, *, ttl: float) -> Lease | Awaitable[Lease | None] | None:
        """The lease for `ttl` seconds from now, or `None` while another holder has it. One round trip.

        Who holds it already has it for longer, or shorter, and keeps the token; so who got no answer asks again. A
        lease that has ended, or was lost, is a new one with a larger token, also for who had it before.

        Raises:
            ValueError: the name, the holder or `ttl` can't be used (`check_lease`).
            StoreUnavailable: not reached, or not in time; it may or may not have been given.
            StoreError: the store answered with an error.
        """
        ...

    def release(self, lease: Lease) -> bool | Awaitable[bool]:
        """End a lease before its time, so that the next one who asks gets it. One round trip.

        Gives whether it was still held: with that holder and that token.

        Raises:
            StoreUnavailable: not reached, or not in time; it may or may not have ended. It ends by itself.
            StoreError: the store answered with an error.
        """
        ...


def passes(token: int, *, highest: int | None) -> bool:
    """Whether a write with this token may be made, where `highest` is the highest one that has written (`None`: none).

    For a store that checks by itself: read `highest`, write, and keep `token` beside what is written, in one
    transaction. In SQL it is the condition `where fence <= :token` of the same statement. Whoever has taken over writes
    its token before it reads: from then on nothing changes under it.
    """
    return highest is None or token >= highest


def check_lease(name: str, holder: str, ttl: float) -> None:
    """Refuse what no store takes.

    Raises:
        ValueError: the name or the holder is empty, has braces or NUL, or is longer than 128 bytes; `ttl` is not from
            0.1 to 86,400 seconds.
    """
    for what, word in (("a lease's name", name), ("a lease's holder", holder)):
        if not word or set(word) & set("{}\0") or len(word.encode("utf-8", "surrogatepass")) > MOST_LEASE_NAME:
            raise ValueError(f"{what} {word[:80]!r}: it is a word without braces, of at most {MOST_LEASE_NAME} bytes")
    if not SHORTEST_LEASE <= ttl <= LONGEST_LEASE:
        raise ValueError(
            f"the lease {name!r} for {ttl!r} s: a lease is for {SHORTEST_LEASE:g} to {LONGEST_LEASE:g} seconds. Take a "
            "short one, and renew it"
        )
