"""Session records, as a store sees them.

A record is what is known of one session: `meta`, a text that is written when the session is made, and `data`, a JSON
text per key, so that two requests that write different keys both keep their write. Its key is made of a *tag* (whose
session it is) and an *id* (the hash of the secret that the client's token carries). All keys of one tag live in one
slot of a Redis Cluster: the records, the revocation generation, and the list of the tag's sessions.

A session is valid while its record exists and the tag's generation is the one that it was made with: counting the
generation up ends all sessions of a tag at once. A record ends after its idle period without use, and at the end of
its lifetime at the latest; both are timed by the store's own clock, so the workers' clocks need not agree.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol


class SessionKey(NamedTuple):
    """Where a session lives: `tag` names its owner (`user:alice`; an anonymous session is its own), `id` the session.

    Both are plain words without braces.
    """

    tag: str
    id: str

    @property
    def record(self) -> str:
        """The record's key, below the namespace: also `Guard.record`."""
        return f"s:{{{self.tag}}}{self.id}"

    @property
    def generation(self) -> str:
        """The key of the tag's generation, below the namespace: also `Guard.generation_key`."""
        return generation_key(self.tag)


def generation_key(tag: str) -> str:
    return f"g:{{{tag}}}"


class Created(NamedTuple):
    """What came of `create`.

    `generation` is the one that the new session is of. `ended` has the ids of sessions that made room for it, and
    `replaced` says whether the one that it was to replace was there. With `admitted` false there are as many already as
    the limit allows; nothing was made, and nothing ended.
    """

    admitted: bool
    generation: int
    ended: Sequence[str] = ()
    replaced: bool = False


class Loaded(NamedTuple):
    """A session's record.

    `version` counts its changes from 1. `idle_left` and `left` are the seconds until it ends unless it is used, and in
    any case; `age` the seconds since it was made. `rotation` counts its refresh tokens from 0.
    """

    version: int
    age: float
    idle_left: float
    left: float
    rotation: int
    meta: str
    data: Mapping[str, str]


class Listed(NamedTuple):
    """A session in the list of its owner's: as in `Loaded`, without the data."""

    id: str
    version: int
    age: float
    idle_left: float
    left: float
    meta: str


class Rotated(NamedTuple):
    """What came of a refresh token.

    `rotated`: it was the current one, and `rotation` is its successor. `replayed`: it was the one before, within the
    grace, and `rotation` is the current one. `reused`: it was spent; the record is deleted. `gone`: there is no such
    session. `age` is the seconds since the current rotation was made.
    """

    outcome: Literal["rotated", "replayed", "reused", "gone"]
    rotation: int = 0
    age: float = 0.0


class SessionFigures(NamedTuple):
    """`active` sessions by kind, and how often each thing that `tally` was told of has happened."""

    active: Mapping[str, int]
    counts: Mapping[str, int]


class SessionStore(Protocol):
    """Session records.

    A store in this process answers at once; a shared one gives something to await, and its question is asked by the
    call: several asked before the first is awaited share one round trip. Wherever a `generation` is given, a session
    of another generation is answered as if it did not exist. Durations are seconds.

    Every method raises:
        StoreUnavailable: not reached, or not within the deadline (`StoreTimeout`).
        StoreError: the store answered with an error.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes see the same records (asking then costs a round trip)."""
        ...

    def create(
        self,
        key: SessionKey,
        *,
        kind: str,
        meta: str,
        data: Mapping[str, str],
        idle: float,
        lifetime: float,
        limit: int | None = None,
        end_oldest: bool = True,
        replaces: str | None = None,
    ) -> Created | Awaitable[Created]:
        """Make a session, and list it under its tag. `kind` is what it is counted as (a plain word).

        It takes the place of the tag's session with the id `replaces`, which ends by that. With `limit`, a tag has at
        most that many: the oldest ones end (`end_oldest`), or nothing is made. Ending, counting and making are one
        operation. An existing record is never overwritten: that is a `StoreError`.
        """
        ...

    def load(self, key: SessionKey, *, generation: int) -> Loaded | Awaitable[Loaded | None] | None:
        """The record, unchanged; `None` where there is none, or what stands there is no session. One command."""
        ...

    def merge(
        self, key: SessionKey, changes: Mapping[str, str | None], *, generation: int, idle: float, most: int
    ) -> int | Awaitable[int | None] | None:
        """Write some keys (`None` deletes one), leave the others, and begin the idle period anew.

        Gives the new version (no changes: the same one, a touch), or `None` where the session does not exist: it is
        never made again. One command; a touch may take a second.

        Raises:
            SessionTooLarge: keys and texts together would have over `most` bytes (UTF-8). Nothing is written.
        """
        ...

    def add(
        self, key: SessionKey, name: str, amount: int, *, generation: int, idle: float, most: int
    ) -> int | Awaitable[int | None] | None:
        """Add to the whole number under `name` (0 where there is none); gives the sum, `None` for no session.

        Raises:
            TypeError: what stands there is no whole number, or the sum would be 2**53 or more (or as far below zero).
            SessionTooLarge: as in `merge`.
        """
        ...

    def swap(
        self,
        key: SessionKey,
        name: str,
        before: str | None,
        after: str | None,
        *,
        generation: int,
        idle: float,
        most: int,
    ) -> bool | Awaitable[bool | None] | None:
        """Write `after` under `name` if `before` stands there (`None`: nothing). Whether it did; `None`: no session.

        Raises:
            SessionTooLarge: as in `merge`.
        """
        ...

    def rotate(
        self, key: SessionKey, presented: int, *, grace: float, generation: int, idle: float
    ) -> Rotated | Awaitable[Rotated]:
        """Spend the refresh token of a rotation; one operation, so that parallel ones get the same successor.

        The last one before the current is answered with the current one for `grace` seconds after the rotation
        (0: never). Every other ends the session.
        """
        ...

    def move(
        self, key: SessionKey, to: SessionKey, *, meta: str, generation: int, idle: float
    ) -> bool | Awaitable[bool]:
        """Give a session another id of the same tag, and another `meta`; false where it does not exist.

        Data, version, age, lifetime and rotation stay. The old id is dead from then on.
        """
        ...

    def end(self, key: SessionKey) -> bool | Awaitable[bool]:
        """Delete a session; whether there was one."""
        ...

    def list(self, tag: str) -> Sequence[Listed] | Awaitable[Sequence[Listed]]:
        """The valid sessions of a tag, oldest first."""
        ...

    def revoke(self, tag: str, *, keep: str | None = None) -> Sequence[str] | Awaitable[Sequence[str]]:
        """End all sessions of a tag, and give their ids; with `keep` all but that one.

        Without `keep` the generation counts up as well, in the same operation: what was missed in the list, or is being
        made from an older load, is dead too. The generation is remembered for as long as any session of it could live.
        """
        ...

    def revoke_all(self) -> int | Awaitable[int]:
        """End every session of every tag; how many there were. As many round trips as it takes."""
        ...

    def sweep(
        self, *, most: int = 1000
    ) -> Sequence[tuple[SessionKey, str]] | Awaitable[Sequence[tuple[SessionKey, str]]]:
        """Sessions that ran out (their key and kind), each told to one caller only, over all workers."""
        ...

    def tally(self, counts: Mapping[str, int]) -> Awaitable[None] | None:
        """Count what happened (`created.user`: 1), for `figures`."""
        ...

    def figures(self) -> SessionFigures | Awaitable[SessionFigures]:
        """What was counted, over all workers."""
        ...
