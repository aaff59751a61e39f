"""Affinity by a cookie: a token that names an instance to us, and to nobody else.

Theory of operation. A token is a keyed hash of the pool's and the instance's names, under a key that is derived from
the session secret: all workers make and know the same ones, they last over restarts, and nothing can be read from one.
To find whom it means it is looked up among the tokens of the instances that are there. Who forges or copies one chooses
an instance, and nothing else: it proves nothing, and opens nothing that the route does not.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from traffic_cop_middleware.abstractions.balancing.instances import Instance
from traffic_cop_middleware.abstractions.balancing.owners import Emit, tell_rerouted
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool

SIZE = 16
"""Bytes of a token: no two instances of a pool have the same by chance."""
MOST_FORMER, MOST_POOLS = 1_000, 1_000
"""Tokens of a pool's name that are known on when its instances come or go, so that it can be told whose owner went; and
names of pools."""


class Known(NamedTuple):
    """The tokens of a pool with these instances."""

    instances: Mapping[str, Instance]
    named: Mapping[str, str]
    """Instances by their tokens under any key, also of some that were here."""
    tokens: Mapping[str, str]
    """Tokens that are given out now, by instance."""


class AffinityTokens:
    """Tokens under `keys`: the first makes them, those of the others are still known."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys
        self._known: WeakKeyDictionary[BalancedPool, Known] = WeakKeyDictionary()
        self._former: dict[str, Mapping[str, str]] = {}
        """By name, for a pool with other instances may be another pool."""

    def token(self, pool: BalancedPool, instance: str) -> str:
        """The token of an instance."""
        return self._of(pool).tokens.get(instance) or _token(self._keys[0], pool.name, instance)

    def named(self, pool: BalancedPool, token: str) -> str | None:
        """Which instance of a pool a token names: one that is there, or was; `None` for none that is known here."""
        return self._of(pool).named.get(token)

    def _of(self, pool: BalancedPool) -> Known:
        instances = pool.instances
        known = self._known.get(pool)
        if known is None or known.instances is not instances:
            former = dict(list(self._former.pop(pool.name, {}).items())[-MOST_FORMER:])
            tokens, *others = ({name: _token(key, pool.name, name) for name in instances} for key in self._keys)
            for each in (*others, tokens):
                former.update((token, name) for name, token in each.items())
            known = self._known[pool] = Known(instances, former, tokens)
            if len(self._former) >= MOST_POOLS:
                self._former.pop(next(iter(self._former)), None)
            self._former[pool.name] = former
        return known


class CookieOwner:
    """The owner of one request's browser: `named` by its cookie's `token`, if it brought one that we know.

    `id` is the session's, for events; empty where there is none.
    """

    def __init__(self, emit: Emit, pool: BalancedPool, named: str | None, *, token: str, id: str, text: str) -> None:
        self.id = id
        self.pool = pool
        self.text = text
        self.named = named
        self.token = token
        self.instance: str | None = None
        """Where the request went."""
        self._emit = emit

    async def owner(self) -> str | None:
        """The instance that the cookie names, or that the request was sent to last."""
        return self.instance or self.named

    async def claim(self, instance: str, tried: Collection[str]) -> bool:
        """The request goes to an instance; always true, for nobody else decides."""
        before, self.instance = self.instance or self.named, instance
        if before is not None and before != instance:
            tell_rerouted(self._emit, self.id, self.pool, before, instance, tried=tried, recorded=True)
        return True

    async def keep(self) -> None:
        """Nothing to keep: the browser has it."""


def _token(key: bytes, pool: str, instance: str) -> str:
    said = f"{len(pool)}:{pool}{instance}".encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(hmac.digest(key, said, hashlib.sha256)[:SIZE]).rstrip(b"=").decode()
