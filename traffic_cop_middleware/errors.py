"""Every error that this package raises, as one tree.

Adapters map their driver's errors to these and keep the driver's as `__cause__`; configuration errors are raised where
the configuration is written, and name the setting, the value and what to write instead.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ConfigurationError",
    "CostTooHigh",
    "InvalidToken",
    "KeysUnavailable",
    "MissingExtra",
    "NoRecord",
    "OrderError",
    "SessionNotReady",
    "SessionTooLarge",
    "StoreError",
    "StoreTimeout",
    "StoreUnavailable",
    "TokenTooLarge",
    "TooManySessions",
    "TrafficCopError",
    "UnknownSetting",
]


class TrafficCopError(Exception):
    """The root: catch it to catch all of ours."""


class ConfigurationError(TrafficCopError, ValueError):
    """A setting can't be used; the message names it, its value and what to write instead."""


class UnknownSetting(ConfigurationError, TypeError):
    """A keyword that no setting has; the message names the nearest one."""


class MissingExtra(ConfigurationError, ImportError):
    """A URL needs a driver that is not installed; the message has the `pip install` line."""


class OrderError(ConfigurationError):
    """Our middlewares stand in an order that can't work; the message says which goes where."""


class CostTooHigh(TrafficCopError):
    """A request asks for more tokens than its bucket can ever hold (answered 400)."""


class StoreError(TrafficCopError):
    """A backend answered a question with an error of its own."""


class StoreUnavailable(StoreError):
    """A backend can't be reached; asked again later it may answer."""


class StoreTimeout(StoreUnavailable):
    """A backend did not answer within the deadline."""


class SessionNotReady(TrafficCopError, RuntimeError):
    """A session's record was looked at before it came; the message says how to declare that."""


class SessionTooLarge(TrafficCopError, ValueError):
    """A session would hold more than it may; nothing of the change was written."""


class NoRecord(TrafficCopError):
    """A token of another issuer has no record here to keep anything in (403 where the app does not catch it)."""


class TooManySessions(TrafficCopError):
    """A user has as many sessions as the limit allows (answered 409 where the app does not catch it)."""


class TokenTooLarge(TrafficCopError, ValueError):
    """A token would be longer than a cookie holds: put less into its claims, and the rest into the record."""


class InvalidToken(TrafficCopError):
    """A token that can't be believed; the message says why, and holds nothing of the token."""


class KeysUnavailable(TrafficCopError):
    """An issuer's keys can't be had at present, so its tokens can't be checked."""


class ExportFailed(TrafficCopError):
    """Metrics were not taken by the exporter, or nobody knows whether they were; they go with the next ones."""


class RecordConflict(TrafficCopError):
    """Records that were to be changed at one version have another one by now."""


class NotDurable(TrafficCopError):
    """A tier was asked for that the configuration can't keep; the message says which URL is missing."""


class StateConflict(TrafficCopError):
    """An item was not at the version that a write asked for; nothing was written.

    `expected` is that version (0: it was not to exist), `current` what is there: a version and a value, or `None`.
    """

    def __init__(self, message: str, *, expected: int, current: object | None) -> None:
        super().__init__(message)
        self.expected = expected
        self.current = current


class StateCursorLost(StoreError):
    """The changes since a cursor are not all remembered: list anew, and watch from there."""


class NobodysState(TrafficCopError):
    """The state of a session or user was to be written, and there is none (401 where the app does not catch it)."""


class NoSnapshot(TrafficCopError, LookupError):
    """There is no snapshot of this id, for this tenant."""


class NoFile(TrafficCopError, LookupError):
    """There is no file of this id, for this tenant; or it was deleted."""


class FileCorrupt(StoreError):
    """A file's content is not what was kept: nothing of it was used. The message names the file."""


class FileQuarantined(StoreError):
    """There is something else where a file was to go; nothing was overwritten."""


class NoAddress(TrafficCopError):
    """A host's name has no address, or nobody said so in time; asked again later it may have one."""


class UpstreamError(TrafficCopError):
    """An upstream did not answer as it should (answered 502)."""


class UpstreamUnreachable(UpstreamError):
    """No connection to the upstream, so nothing was sent; another one may be tried."""


class UpstreamBroken(UpstreamError):
    """The connection broke, or what came is no HTTP.

    `unanswered`: the upstream closed it before a byte of the answer came. `stale`: so it did with a kept one, which it
    may have done before the request.
    """

    def __init__(self, message: str, *, unanswered: bool = False, stale: bool = False) -> None:
        super().__init__(message)
        self.unanswered = unanswered or stale
        self.stale = stale


class UpstreamTimeout(UpstreamError):
    """The upstream did not answer, or did not go on, in time (answered 504)."""


class UpstreamRefused(UpstreamError):
    """The upstream did not take a WebSocket; `status`, `fields` and `body` are what it answered."""

    def __init__(
        self, message: str, *, status: int, fields: Sequence[tuple[bytes, bytes]] = (), body: bytes = b""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields
        self.body = body
