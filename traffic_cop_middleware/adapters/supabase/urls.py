"""What a `supabase+https://` URL names. It holds a key, so what is said of a URL never quotes it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from traffic_cop_middleware.adapters.options import Bounds, numbers
from traffic_cop_middleware.errors import ConfigurationError

OPTIONS = {
    "deadline": Bounds(0.01, 300, None, "seconds per call, in place of the stack's deadline"),
    "threads": Bounds(1, 64, 4, "connections, each in a thread"),
    "insecure": Bounds(0, 1, 0, "1 to send the key over plain HTTP beyond private networks"),
}
FORMS = "supabase+https://KEY@project.supabase.co or supabase+https://KEY:TOKEN@project.supabase.co"


class Project(NamedTuple):
    """Where the project is. `key` is what the gateway knows, `token` the JWT of the role that asks, which may be the
    same. `name` is what may be printed of it: neither of them."""

    url: str
    key: str
    token: str
    ca_file: str | None
    name: str

    def __repr__(self) -> str:
        return f"Project({self.name})"


def project_of(url: str) -> tuple[Project, dict[str, float | None]]:
    """The project that a URL names, and its options.

    Raises:
        ConfigurationError: it can't be used.
    """
    parts = _split(url)
    host = parts.hostname or ""
    place = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port else "")
    name = f"{parts.scheme}://{place}"
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    ca_file = query.pop("ca_file", None)
    options = numbers(urlencode(query), OPTIONS, name=f"file_metadata='{name}'")
    tls = parts.scheme == "supabase+https"
    if not tls and not options["insecure"] and not _near(host):
        raise ConfigurationError(
            f"file_metadata='{name}' would send the key over plain HTTP. Write supabase+https://, or add ?insecure=1 "
            "where the network is yours"
        )
    if ca_file is not None and not tls:
        raise ConfigurationError(f"file_metadata='{name}': ca_file needs TLS. Write supabase+https://, or leave it out")
    key = unquote(parts.username or "")
    token = unquote(parts.password or "") or key
    if not key or not all("!" <= letter <= "~" for letter in key + token):
        raise ConfigurationError(
            f"file_metadata='{name}': the key is missing, or has a letter that no key has. Write {FORMS}"
        )
    return Project(f"{'https' if tls else 'http'}://{place}", key, token, ca_file, name), options


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.fragment or parts.port == 0 or "@" in parts.query or parts.path not in ("", "/") or not parts.hostname:
            raise ValueError("not to be told apart")  # noqa: TRY301 - the same end as urlsplit's own
    except ValueError:
        raise ConfigurationError(
            "file_metadata: this Supabase URL can't be read: it has no host, or a path (the client adds /rest/v1), its "
            f"port is no number from 1 to 65535, or the key holds one of : / ? # [ ] @ as it is. Write {FORMS}"
        ) from None
    return parts


def _near(host: str) -> bool:
    """Whether a host is this one or has an address of a private network."""
    try:
        return ip_address(host).is_private
    except ValueError:
        return host == "localhost"
