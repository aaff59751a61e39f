"""When records end: finds those that did without looking at the others, and without a pause.

Theory of operation. A record stands in the whole second in which it was to end when it was put there. Putting its end
off (every use does) moves nothing: whoever goes through a second that is over and finds a record that lives puts it
where it ends now, so a record is moved once an idle period at most. A hand stands at the first second that is not
gone through, and each call looks at a few records from there on. Invariant: no record ends before the second that it
stands in, and no record stands before the hand.
"""

from __future__ import annotations

from itertools import islice
from typing import Generic, Protocol, TypeVar


class Ending(Protocol):
    """What ends at `expires` (seconds of the store's clock). `second` is where it stands; `put` alone writes it."""

    expires: float
    second: int


Record = TypeVar("Record", bound=Ending)


class Deadlines(Generic[Record]):
    """Records by the second in which they end."""

    def __init__(self) -> None:
        self._seconds: dict[int, dict[Record, None]] = {}
        self._hand = 0

    def put(self, record: Record) -> None:
        record.second = second = int(record.expires)
        self._seconds.setdefault(second, {})[record] = None
        self._hand = min(self._hand, second)

    def discard(self, record: Record) -> None:
        """Forget a record, if it is here."""
        records = self._seconds.get(record.second)
        if records is not None:
            records.pop(record, None)
            if not records:
                del self._seconds[record.second]

    def over(self, now: float, most: int) -> list[Record]:
        """Take out records that have ended. It looks at `most` at most; those that it did not come to are next."""
        ended = []
        looked = 0
        this_second = int(now)
        if this_second - self._hand > len(self._seconds):  # a long rest: go to the first rather than through each
            self._hand = min(this_second, min(self._seconds, default=this_second))
        while looked < most:
            for record in list(islice(self._seconds.get(self._hand, ()), most - looked)):
                looked += 1
                if record.expires <= now:
                    self.discard(record)
                    ended.append(record)
                elif int(record.expires) > self._hand:
                    self.discard(record)
                    self.put(record)
            if self._hand >= this_second:
                break
            if self._hand not in self._seconds:
                self._hand += 1
        return ended
