"""The times that access logs have, as seconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
"""From which number on it counts nano-, micro- and milliseconds: the year 5138 in the next larger unit."""
LONGEST = 64
LATEST = 253_402_214_400
"""The last day of the year 9999: what is later has no date."""


def seconds_of(value: object) -> float:
    """A number (seconds, milli-, micro- or nanoseconds, by its size) or a text of one, ISO 8601, or `10/Oct/2000:…`.

    A text without a zone is taken as UTC.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _of_number(float(value))
    if not isinstance(value, str) or len(value) > LONGEST:
        raise ValueError(f"{value!r} is no time")
    return _of_text(value)


@lru_cache(maxsize=4096)
def _of_text(text: str) -> float:
    if text[2:3] == "/":
        return logged_time(text)
    try:
        return _of_number(float(text))
    except ValueError:
        found = datetime.fromisoformat(text.strip())
        return _since_1970(found if found.tzinfo is not None else found.replace(tzinfo=UTC))


def _of_number(number: float) -> float:
    for least, unit in UNITS:
        if number >= least:
            number /= unit
            break
    if not 0 <= number < 1e11:
        raise ValueError(f"{number!r} is no time")
    return number


@lru_cache(maxsize=4096)
def logged_time(text: str) -> float:
    """`10/Oct/2000:13:55:36 -0700`, as the common log format has it; a fraction of the second may follow it.

    Raises:
        ValueError: it is something else.
    """
    # strptime takes ten times as long, and goes by the process's locale for the name of the month.
    month = MONTHS.get(text[3:6])
    if month is None or text[2] != "/" or text[6] != "/":
        raise ValueError(f"{text!r} is no time")
    clock, _, zone = text[12:].partition(" ")
    fraction = 0.0
    if len(clock) > 8:
        if clock[8] not in ".," or not clock[9:].isdecimal():
            raise ValueError(f"{text!r} is no time")
        fraction = float(f"0.{clock[9:]}")
    offset = timedelta(hours=int(zone[:3]), minutes=int(zone[0] + zone[3:5])) if zone else timedelta()
    moment = datetime(
        int(text[7:11]),
        month,
        int(text[:2]),
        int(clock[:2]),
        int(clock[3:5]),
        min(59, int(clock[6:8])),
        tzinfo=timezone(offset),
    )
    return _since_1970(moment) + fraction


def _since_1970(moment: datetime) -> float:
    seconds = moment.timestamp()
    if not 0 <= seconds < LATEST:
        raise ValueError(f"{moment.isoformat()} is not from 1970 to 9999")
    return seconds
