"""Every error that this package raises, as one tree.

Adapters map their driver's errors to these and keep the driver's as `__cause__`; configuration errors are raised where
the configuration is written, and name the setting, the value and what to write instead.
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "CostTooHigh",
    "MissingExtra",
    "OrderError",
    "StoreError",
    "StoreTimeout",
    "StoreUnavailable",
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
