"""Which service, and which instance of it, owns a session."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, Protocol


class SessionRoute(NamedTuple):
    """A session's owner: `id` names the session, `service` the service ("pillar"), `instance` which one of it.

    `version` counts changes from 1, `expires_in` is the seconds left, `age` the seconds since it was made.
    """

    id: str
    service: str
    instance: str
    version: int
    expires_in: float
    age: float


class SessionRouteStore(Protocol):
    """Session routes. Answers at once, or gives something to await, as `SessionStore` does; raises as it does."""

    def create(self, id: str, *, service: str, instance: str, ttl: float) -> SessionRoute | Awaitable[SessionRoute]:
        """Give a session and service an owner, unless it has one: then that one is answered. One operation."""
        ...

    def validate(
        self, id: str, *, service: str, ttl: float | None = None
    ) -> SessionRoute | Awaitable[SessionRoute | None] | None:
        """The route of a session to a service, if it has a live one; with `ttl` that begins anew."""
        ...

    def update(
        self, id: str, *, service: str, instance: str, version: int, ttl: float
    ) -> SessionRoute | Awaitable[SessionRoute | None] | None:
        """Give the session another owner, if the route still has `version`; `None` if not (or there is none)."""
        ...

    def end(self, id: str, *, service: str | None = None) -> int | Awaitable[int]:
        """Delete a session's route to a service, or all of its routes; how many there were."""
        ...

    def of(self, id: str) -> Sequence[SessionRoute] | Awaitable[Sequence[SessionRoute]]:
        """A session's live routes, by service."""
        ...

    def active(
        self, *, service: str | None = None, instance: str | None = None, most: int = 1000
    ) -> Sequence[SessionRoute] | Awaitable[Sequence[SessionRoute]]:
        """Live routes, newest first."""
        ...

    def sweep(self, *, most: int = 1000) -> int | Awaitable[int]:
        """Clear away what ran out; how many there were."""
        ...

    def figures(self) -> Mapping[str, Mapping[str, int]] | Awaitable[Mapping[str, Mapping[str, int]]]:
        """How many live routes each instance of each service has."""
        ...
