"""A clock that stands still until it is told to go on."""

from __future__ import annotations

NANO = 1_000_000_000


class FakeClock:
    """Seconds that pass only by `advance`: give it as the `clock` of a `MemoryBackend`.

    It counts whole nanoseconds, so ten times `advance(0.1)` is `advance(1)` exactly.
    """

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = round(start * NANO)

    def __call__(self) -> float:
        """The time now, in seconds."""
        return self._now / NANO

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass.

        Raises:
            ValueError: they are below 0; a backend's clock never goes back.
        """
        if not seconds >= 0:
            raise ValueError(f"advance({seconds!r}): a backend's clock never goes back, so give 0 seconds or more")
        self._now += round(seconds * NANO)

    def __repr__(self) -> str:
        return f"<FakeClock at {self():g} s>"
