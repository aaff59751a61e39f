"""The token in a form's hidden field, for browsers that don't say where a request comes from.

A page of any site can make a browser send a POST in one of three types without asking first (Fetch standard, section
"CORS-safelisted request-header"). Where neither `Origin` nor `Sec-Fetch-Site` came with it, only the token tells whose
page it was. It is looked for in the beginning of a form, and the app gets the body as it came.
"""

from __future__ import annotations

from hmac import compare_digest

from starlette.types import Message, Receive, Scope

FIELD = b"csrf_token"
MOST = 65_536
"""Bytes of a form in which the token is looked for; more is not kept."""
URLENCODED = b"application/x-www-form-urlencoded"
FORMS = frozenset({URLENCODED, b"multipart/form-data", b"text/plain"})


def form_type(scope: Scope) -> bytes:
    """The type of what may be a form that doesn't say where it comes from; empty for anything else."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return b""
    kind = b""
    for name, value in scope["headers"]:
        if name == b"origin" or name == b"sec-fetch-site":  # noqa: PLR1714 - as everywhere else
            return b""
        if name == b"content-type":
            kind = value.partition(b";")[0].strip(b" \t").lower()
    return kind if kind in FORMS else b""


async def after_token(receive: Receive, expected: str) -> Receive | None:
    """The same body once more, if its beginning is a form that has the token in it; else `None`."""
    body = bytearray()
    more = True
    while more and len(body) < MOST:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    token = expected.encode()
    pairs = [bytes(pair).partition(b"=") for pair in body[:MOST].split(b"&")]
    if not any(name == FIELD and compare_digest(value, token) for name, _, value in pairs):
        return None
    first: Message | None = {"type": "http.request", "body": bytes(body), "more_body": more}

    async def receive_again() -> Message:
        nonlocal first
        message, first = first, None
        return message if message is not None else await receive()

    return receive_again
