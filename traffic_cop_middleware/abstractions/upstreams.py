"""Upstreams, and pools of them."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import urlsplit

from traffic_cop_middleware.contracts.transport import Origin
from traffic_cop_middleware.errors import ConfigurationError

LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
LONGEST_HOST = 253
PORTS = {"http": 80, "https": 443}
MOST_WEIGHT = 1_000_000
MOST_UPSTREAMS = 10_000
REPR_MOST = 5


@dataclass(frozen=True, slots=True)
class Upstream:
    """One instance of a service: `Upstream("http://billing-1:8080", weight=3)`.

    The URL names scheme, host and port; a path in it is put before the path of each request. `weight` is its share of
    the requests; 0 gets none. For https: `ca` is a file of certificates to trust in place of the system's,
    `certificate` a file with this gateway's own certificate and key (`key` where that is another file). Checked when
    made.

    Raises:
        ConfigurationError: the URL or a file can't be used.
    """

    url: str
    weight: int = 1
    ca: str | None = field(default=None, kw_only=True)
    certificate: str | None = field(default=None, kw_only=True)
    key: str | None = field(default=None, kw_only=True)
    origin: Origin = field(init=False, repr=False, compare=False)
    authority: bytes = field(init=False, repr=False, compare=False)
    prefix: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.weight, bool) or not isinstance(self.weight, int) or not 0 <= self.weight <= MOST_WEIGHT:
            raise ConfigurationError(f"Upstream(…, weight={self.weight!r}): a whole number from 0 to {MOST_WEIGHT}")
        scheme, host, port, path = _parts(self.url)
        for name in ("ca", "certificate", "key"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigurationError(f"Upstream({self.url!r}, {name}={value!r}): the path of a PEM file, as text")
        if scheme != "https" and (self.ca or self.certificate or self.key):
            raise ConfigurationError(f"Upstream({self.url!r}): ca, certificate and key are for https://")
        if self.key and not self.certificate:
            raise ConfigurationError(f"Upstream({self.url!r}, key=…): it belongs to a certificate=…, which is missing")
        tls = self._tls() if self.ca or self.certificate else None
        shown = f"[{host}]" if ":" in host else host
        authority = shown if port == PORTS[scheme] else f"{shown}:{port}"
        object.__setattr__(self, "origin", Origin(scheme, host, port, tls))
        object.__setattr__(self, "authority", authority.encode("ascii"))
        object.__setattr__(self, "prefix", path.encode("ascii"))

    @property
    def name(self) -> str:
        """What events call it: its URL, without anything secret, for there is nothing secret in one."""
        return self.url

    def at(self, url: str, weight: int) -> Upstream:
        """The same service at the URL of one of its addresses.

        It is asked under this one's `Host`, and by TLS under this one's name and with its certificates.

        Raises:
            ConfigurationError: the URL can't be used.
        """
        scheme, host, port, path = _parts(url)
        name = self.origin.host if scheme == "https" else None
        found = copy(self)
        for field_name, value in (
            ("url", url),
            ("weight", weight),
            ("origin", Origin(scheme, host, port, self.origin.tls, name)),
            ("prefix", path.encode("ascii")),
        ):
            object.__setattr__(found, field_name, value)
        return found

    def record(self) -> dict[str, Any]:
        """It as JSON."""
        optional = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        found: dict[str, Any] = {"url": self.url}
        if self.weight != 1:
            found["weight"] = self.weight
        return {**found, **{name: value for name, value in optional.items() if value is not None}}

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigurationError(
                f"Upstream({self.url!r}): its certificates can't be read: {exc}. ca, certificate and key are PEM files"
            ) from exc
        return context


def _parts(url: object) -> tuple[str, str, int, str]:
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(f"Upstream({_shown(url)!r}): a URL such as 'http://billing:8080'")
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ConfigurationError("Upstream: a URL with a user or password; set an Authorization header on the route")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        if "@" in url:  # a password with "/" in it, which the error would show
            raise ConfigurationError(f"Upstream({_shown(url)!r}): a URL such as 'http://billing:8080'") from None
        raise ConfigurationError(f"Upstream({url!r}): {exc}") from exc
    host = parts.hostname
    if parts.scheme not in PORTS or not host:
        raise ConfigurationError(f"Upstream({url!r}): a URL such as 'http://billing:8080' or 'https://…'")
    if not _is_host(host):
        raise ConfigurationError(f"Upstream({url!r}): {host!r} is no host; a name, or an address ('[::1]' of IPv6)")
    if port == 0:
        raise ConfigurationError(f"Upstream({url!r}): a port is a number from 1 to 65535")
    if parts.query or parts.fragment:
        raise ConfigurationError(f"Upstream({url!r}): a URL without query and fragment")
    return parts.scheme, host, port or PORTS[parts.scheme], parts.path.rstrip("/")


def _shown(url: object) -> object:
    """What is said of a URL that can't be used: whatever may be a password in it is left out."""
    return "…@" + url.rpartition("@")[2] if isinstance(url, str) and "@" in url else url


def _is_host(host: str) -> bool:
    """Whether a resolver can be asked for it."""
    if ":" in host:
        try:
            IPv6Address(host)
        except ValueError:
            return False
        return "%" not in host
    return len(host) <= LONGEST_HOST and all(LABEL.fullmatch(label) for label in host.removesuffix(".").split("."))


class Pool:
    """The instances of one service, as they are configured; `BalancedPool` chooses among them.

    Raises:
        ConfigurationError: there is no upstream, or all weights are 0.
    """

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        self.upstreams = tuple(upstreams)
        if not any(upstream.weight for upstream in self.upstreams):
            raise ConfigurationError("a pool needs at least one upstream with a weight above 0")
        if len(self.upstreams) > MOST_UPSTREAMS:
            raise ConfigurationError(f"a pool of {len(self.upstreams)} upstreams; {MOST_UPSTREAMS} is the most")

    def __repr__(self) -> str:
        shown = [repr(each.url) if each.weight == 1 else repr(each) for each in self.upstreams[:REPR_MOST]]
        return f"Pool([{', '.join(shown)}{', …' * (len(self.upstreams) > REPR_MOST)}])"


def upstream_from(record: Mapping[str, Any] | str) -> Upstream:
    """The upstream of a record: a URL, or its members.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(record, str):
        return Upstream(record)
    known = ("url", "weight", "ca", "certificate", "key")
    if not isinstance(record, Mapping) or "url" not in record or any(name not in known for name in record):
        raise ConfigurationError(f"an upstream is a URL, or a mapping with {', '.join(known)}; not {record!r}")
    return Upstream(**record)
