"""The common and combined log formats, as nginx and Apache write them."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

from traffic_cop_middleware.adapters.access_logs.clocks import logged_time
from traffic_cop_middleware.contracts.access_log import LoggedRequest

QUOTED = r'"([^"\\]*(?:\\.[^"\\]*)*)"'
LINE = re.compile(
    r"(?:(?:[^\s:]+|\[\S+\]):\d+ )?"  # Apache's vhost_combined begins with the host and its port
    r"(\S+) \S+ (\S+(?: \S+){0,3}?) \[([^\]]{20,40})\] " + QUOTED + r" (\d{3}) \S+"
    rf"(?: {QUOTED} {QUOTED}(?: {QUOTED})?)?"
)
"""What follows the user agent in quotes is nginx's `main` format: `$http_x_forwarded_for`."""
UVICORN = re.compile(r'(?:INFO:\s+)?\S+:\d+ - "[A-Z]+ \S+ HTTP/[\d.]+" \d{3}\b')
_new = tuple.__new__  # half the time of a call of the class
ESCAPED = re.compile(r"\\x([0-9A-Fa-f]{2})|\\(.)")


def parse_line(text: str) -> LoggedRequest:
    """A line of the common or the combined format, or of nginx's `main`.

    Raises:
        ValueError: it is another.
    """
    found = LINE.match(text)
    if found is None:
        raise ValueError("not in the common or combined log format")
    peer, user, time, request, _status, _referer, _agent, forwarded = found.groups()
    method, path = request_line(request)
    fields = (
        logged_time(time),
        peer,
        "" if user == "-" else plain(user),
        method,
        path,
        "" if forwarded is None or forwarded == "-" else forwarded,
        "",
        None,
    )
    return _new(LoggedRequest, fields)


@lru_cache(maxsize=8192)
def request_line(text: str) -> tuple[str, str]:
    """The method and the decoded path of `GET /a%20b?q=1 HTTP/1.1`.

    Raises:
        ValueError: it is no request: what was sent was not HTTP.
    """
    parts = text.split(" ")
    if len(parts) < 2 or not parts[0].isalpha():
        raise ValueError("no request line")
    return parts[0].upper(), path_of(plain(" ".join(parts[1:-1]) if len(parts) > 2 else parts[1]))


@lru_cache(maxsize=8192)
def path_of(target: str) -> str:
    """The decoded path of a request's target: without query, and without `http://host`."""
    if "://" in target[:12]:
        target = "/" + target.partition("://")[2].partition("/")[2]
    return unquote(target.partition("?")[0])


def plain(text: str) -> str:
    r"""A text without the escapes of log formats: `\x22` and `\"`."""
    if "\\" not in text:
        return text
    return ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)
