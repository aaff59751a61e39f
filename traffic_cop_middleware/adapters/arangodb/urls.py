"""What an `arangodb://` URL names."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from traffic_cop_middleware.adapters.arangodb.link import Server
from traffic_cop_middleware.adapters.options import Bounds, numbers
from traffic_cop_middleware.errors import ConfigurationError

OPTIONS = {
    "deadline": Bounds(0.01, 300, None, "seconds per call, in place of the stack's deadline"),
    "threads": Bounds(1, 64, 4, "connections, each in a thread"),
}
FORMS = "arangodb://user:password@host:8529/database or arangodb+https://…"


def server_of(url: str) -> tuple[Server, dict[str, float | None]]:
    """The server that a URL names, and its options.

    Raises:
        ConfigurationError: it names none, or an option can't be used.
    """
    parts = _split(url)
    host = parts.hostname or "localhost"
    place = f"[{host}]" if ":" in host else host
    port = parts.port or 8529
    name = f"{parts.scheme}://{place}:{port}{parts.path}"
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    ca_file = query.pop("ca_file", None)
    options = numbers(urlencode(query), OPTIONS, name=f"documents='{name}'")
    database = unquote(parts.path[1:])
    if not database or "/" in database:
        raise ConfigurationError(f"documents='{name}' names no database. Write {FORMS}")
    tls = parts.scheme == "arangodb+https"
    if ca_file is not None and not tls:
        raise ConfigurationError(f"documents='{name}': ca_file needs TLS. Write arangodb+https://, or leave it out")
    server = Server(
        f"{'https' if tls else 'http'}://{place}:{port}",
        database,
        unquote(parts.username or "root"),
        unquote(parts.password or ""),
        ca_file,
        name,
    )
    return server, options


def _split(url: str) -> SplitResult:
    """The parts of a URL that can be told apart; what is said of another never quotes it, for it has a password."""
    try:
        parts = urlsplit(url)
        if parts.fragment or parts.port == 0 or "@" in parts.path or "@" in parts.query or not parts.hostname:
            raise ValueError("not to be told apart")  # noqa: TRY301 - the same end as urlsplit's own
    except ValueError:
        raise ConfigurationError(
            "documents: this ArangoDB URL can't be read: it has no host, its port is no number from 1 to 65535, or its "
            f"user or password holds one of : / ? # [ ] @ as it is (write %2F for a slash). Write {FORMS}"
        ) from None
    return parts
