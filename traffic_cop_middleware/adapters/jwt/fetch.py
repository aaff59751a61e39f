"""One small document over HTTP, with a bound on everything: time, size, where to."""

from __future__ import annotations

import time
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import SplitResult, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from traffic_cop_middleware.errors import ConfigurationError, KeysUnavailable

__all__ = ["check_url", "fetch"]

LARGEST = 65_536
"""Bytes of a JWK Set."""
PIECE = 8192
LOOPBACK = frozenset(("127.0.0.1", "::1", "localhost"))


def check_url(url: object, *, name: str) -> SplitResult:
    """The parts of a URL that keys may be fetched from; `name` is the setting that it was given by.

    https alone, because who can change the keys on their way signs what he likes; http on this host, for tests. No
    user or password: the URL stands in messages.

    Raises:
        ConfigurationError: it is another one.
    """
    mend = "Write an address such as 'https://login.example.com/.well-known/jwks.json'"
    if not isinstance(url, str):
        raise ConfigurationError(f"{name}: a URL as a str, not a {type(url).__name__}. {mend}")
    try:
        parts = urlsplit(url)
        usable = parts.port != 0 and bool(parts.hostname)
    except ValueError:
        raise ConfigurationError(f"{name}: this URL can't be read. {mend}") from None
    if "@" in parts.netloc:
        raise ConfigurationError(f"{name}: it holds a user or a password, which would be logged. {mend}")
    if not usable or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(f"{name}={url!r}: no URL of a document. {mend}")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ConfigurationError(f"{name}={url!r}: keys come by https, or by http from 127.0.0.1 in tests. {mend}")
    return parts


def _opener(url: str) -> OpenerDirector:
    """http and https, and nothing else that `build_opener` brings: no file:, ftp: and data:, and no redirects.

    A redirect is an answer like a 404: followed, it could lead to plain http, or into the internal network.
    """
    opener = OpenerDirector()
    proxies = ProxyHandler({}) if urlsplit(url).hostname in LOOPBACK else ProxyHandler()
    for handler in (
        proxies,
        HTTPHandler(),
        HTTPSHandler(),
        HTTPDefaultErrorHandler(),
        HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def fetch(url: str, *, patience: float) -> bytes:
    """The body of a 200 from `url` (blocking). Each read ends after `patience` seconds, and so does the whole body.

    A server that sends its header in drops can take longer: whoever waits for this waits with a deadline of his own.

    Raises:
        KeysUnavailable: there is none, or it is over 64 KB.
    """
    request = Request(  # noqa: S310 - check_url let http and https pass only
        url, headers={"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
    )
    ends = time.monotonic() + patience
    body = bytearray()
    try:
        with _opener(url).open(request, timeout=patience) as response:
            if response.status != 200:
                raise KeysUnavailable(f"the answer is {response.status}, not 200")
            while piece := response.read1(PIECE):
                body += piece
                if len(body) > LARGEST:
                    raise KeysUnavailable(f"the answer has over {LARGEST:,} bytes")
                if time.monotonic() > ends:
                    raise KeysUnavailable(f"the answer did not end within {patience:g} s")
    except HTTPError as exc:
        exc.close()
        hint = ". Write the address that it leads to as jwks_url" if 300 <= exc.code < 400 else ""
        raise KeysUnavailable(f"the answer is {exc.code}, not 200{hint}") from exc
    except (OSError, HTTPException, ValueError) as exc:
        raise KeysUnavailable(f"there is no answer: {type(exc).__name__}") from exc
    return bytes(body)
