"""The attempts of a request whose session an instance owns."""

from __future__ import annotations

from time import monotonic

from traffic_cop_middleware.abstractions.balancing.affinity_tokens import CookieOwner
from traffic_cop_middleware.abstractions.balancing.instances import Instance
from traffic_cop_middleware.abstractions.balancing.owners import StoredOwner
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.contracts.balancing import BalancingKey
from traffic_cop_middleware.middleware.refusals import Answer
from traffic_cop_middleware.middleware.tries import TOO_LATE, Tries

TURNS = 4
"""Times that others may have been faster, before a request goes where it was to go."""

Owner = StoredOwner | CookieOwner


class OwnedTries(Tries):
    """Attempts at the session's owner; where that can't be had, at another one, which owns the session by then."""

    def __init__(self, pool: BalancedPool, owner: Owner, *, timed: bool = True) -> None:
        super().__init__(pool, None, timed=timed)
        self._owner = owner

    def next(self) -> None:
        """Not known at once: all workers are to agree on where the session goes."""

    async def wait(self) -> Instance | Answer:
        """As ever, once that is agreed on."""
        turns = TURNS
        while True:
            turns -= 1
            self._key = BalancingKey(self._owner.text, await self._owner.owner())
            found = super().next() or await super().wait()
            if not isinstance(found, Instance):
                return found
            if await self._claim(found) or not turns:
                if self._until is not None and monotonic() >= self._until:
                    self.ended()  # nothing was sent
                    return TOO_LATE
                self._key = BalancingKey(self._owner.text, found.name)
                return found
            self.ended()
            self._attempt = None
            self._tried.pop()
            self._unreached -= bool(self._tried)  # nor did it knock anew

    async def _claim(self, instance: Instance) -> bool:
        """Whether the request may be sent to an instance; what finding out takes is not that one's time."""
        start = monotonic()
        mine = await self._owner.claim(instance.name, [each.name for each in self._tried[:-1]])
        if self._attempt is not None:
            self._attempt.began += monotonic() - start
        return mine

    def retry(self, *, same: bool = False) -> Instance | None:
        """The owner again, where that will do: what it may have seen is asked nowhere else, for its session is here."""
        return super().retry(same=True) if same else None
