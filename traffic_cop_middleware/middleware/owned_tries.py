"""The attempts of a request whose session an instance owns."""

from __future__ import annotations

from traffic_cop_middleware.abstractions.balancing.affinity_tokens import CookieOwner
from traffic_cop_middleware.abstractions.balancing.instances import Instance
from traffic_cop_middleware.abstractions.balancing.owners import StoredOwner
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.contracts.balancing import BalancingKey
from traffic_cop_middleware.middleware.refusals import Answer
from traffic_cop_middleware.middleware.tries import Tries

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
            tried = [each.name for each in self._tried[:-1]]
            if await self._owner.claim(found.name, tried) or not turns:
                self._key = BalancingKey(self._owner.text, found.name)
                return found
            self.ended()  # nothing was sent
            self._attempt = None
            self._tried.pop()
            self._unreached -= bool(self._tried)  # nor did it knock anew

    def retry(self, *, same: bool = False) -> Instance | None:
        """The owner again, where that will do: what it may have seen is asked nowhere else, for its session is here."""
        return super().retry(same=True) if same else None
