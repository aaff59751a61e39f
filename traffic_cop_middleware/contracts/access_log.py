"""What a line of an access log tells of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class LoggedRequest(NamedTuple):
    """One request, as it was logged.

    `time` is seconds since the epoch. `peer` is the address that called the server, `forwarded` what its
    `X-Forwarded-For` said, if that was logged. `path` is decoded, without its query. `route` is the template, where the
    log has it. `fields` is the whole object of a JSON line.
    """

    time: float
    peer: str
    user: str
    method: str
    path: str
    forwarded: str = ""
    route: str = ""
    fields: Mapping[str, Any] | None = None
