"""One attempt of one request on one instance, and the line of those that wait for one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from typing import Protocol

from traffic_cop_middleware.abstractions.balancing.instances import Instance
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome
from traffic_cop_middleware.contracts.balancing import BalancingKey


class Nobody(Enum):
    """Why no instance can have a request; the text is for people, and names nothing internal."""

    NONE = "no instance of the service is known"
    UNFIT = "no instance of the service is fit to answer"
    TRIED = "every instance of the service has been tried"
    FULL = "every instance of the service has as many requests as it may"


class Judge(Protocol):
    """What hears of attempts: the pool."""

    def answered(self, attempt: Attempt, outcome: Outcome, seconds: float | None) -> None: ...

    def ended(self, attempt: Attempt, outcome: Outcome) -> None: ...


class Attempt:
    """A request that is at an instance. Told how it goes, it tells its pool; each is heard once.

    `answered` when the answer's head came, `ended` in any case when nothing of it is under way any more: use it in a
    `finally`. An attempt that ends without an answer is judged by its end.
    """

    __slots__ = ("_judge", "before", "began", "done", "instance", "timed", "verdict")

    before: int
    """The instance's failures in a row before the answer; set with that."""

    def __init__(self, judge: Judge, instance: Instance, began: float, *, timed: bool) -> None:
        self._judge = judge
        self.instance = instance
        self.began = began
        self.timed = timed
        self.verdict: Outcome | None = None
        self.done = False

    def answered(self, outcome: Outcome = Outcome.OK, *, seconds: float | None = None) -> None:
        """The head of the answer is here; `seconds` where it took another time than passed since the attempt began."""
        if self.verdict is None and not self.done:
            self.verdict = outcome
            self._judge.answered(self, outcome, seconds)

    def ended(self, outcome: Outcome = Outcome.OK) -> None:
        """Nothing of it is under way any more. After an answer, BROKEN and TIMEOUT are of its body."""
        if not self.done:
            self.done = True
            self._judge.ended(self, outcome)


class Pending:
    """A request that waits for an instance: `attempt` is there once `wake` was called."""

    __slots__ = ("attempt", "key", "timed", "tried", "wake")

    def __init__(
        self, wake: Callable[[], None], tried: Collection[Instance], key: BalancingKey | None, *, timed: bool
    ) -> None:
        self.wake = wake
        self.tried = tried
        self.key = key
        self.timed = timed
        self.attempt: Attempt | None = None
