"""The session cookie, as it is set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.fields import Header

SameSite = Literal["lax", "strict", "none"]
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
LONGEST = 4096
"""Bytes of name, value and attributes that browsers keep (RFC 6265, section 6.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieSettings:
    """How the cookie goes out: always `HttpOnly; Path=/`, never with a `Domain`. Checked when made.

    `name`: by default `__Host-session`, which a browser takes only over https, from this host, for all of it
    (RFC 6265bis, section 4.1.3.2); `session` where `secure` is off. `secure` off is for http://localhost.

    Raises:
        ConfigurationError: a setting can't be used.
    """

    name: str | None = None
    same_site: SameSite = "lax"
    secure: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.secure, bool):
            raise ConfigurationError(f"session_secure={self.secure!r} must be True, or False for http://localhost")
        if self.same_site not in get_args(SameSite):
            raise ConfigurationError(f"session_same_site={self.same_site!r}: one of 'lax', 'strict', 'none'")
        if self.same_site == "none" and not self.secure:
            raise ConfigurationError(
                "session_same_site='none' without session_secure: browsers drop such a cookie. Leave session_secure "
                "on, or write session_same_site='lax'"
            )
        if self.name is not None and not (isinstance(self.name, str) and TOKEN.fullmatch(self.name)):
            raise ConfigurationError(
                f"session_cookie={self.name!r}: a cookie's name has letters, digits and !#$%&'*+.^_`|~- only (RFC 6265)"
            )
        if self.name is not None and self.name.lower().startswith(("__host-", "__secure-")) and not self.secure:
            raise ConfigurationError(
                f"session_cookie={self.name!r} without session_secure: browsers drop such a cookie. Choose a name "
                "without that prefix, or leave session_secure on"
            )

    @property
    def cookie(self) -> str:
        """The name of the cookie."""
        return self.name or ("__Host-session" if self.secure else "session")

    @property
    def _attributes(self) -> str:
        return f"; Path=/; HttpOnly; SameSite={self.same_site.capitalize()}" + ("; Secure" if self.secure else "")

    def set(self, token: str, *, age: int | None) -> bytes:
        """The value of `Set-Cookie` that gives the browser a token for `age` seconds; `None`: until it is closed."""
        lasts = "" if age is None else f"; Max-Age={age}"
        return f"{self.cookie}={token}{lasts}{self._attributes}".encode("ascii")

    def clear(self) -> bytes:
        """The value of `Set-Cookie` that takes it away."""
        return f'{self.cookie}=""; Max-Age=0{self._attributes}'.encode("ascii")


def unshared(headers: Iterable[Header]) -> list[Header]:
    """A response's fields, for one that sets a cookie: whoever kept it for others would hand them that."""
    kept = [field for field in headers if field[0].lower() != b"cache-control" or not _may_be_shared(field)]
    if all(name.lower() != b"cache-control" for name, _ in kept):
        kept.append((b"cache-control", b"no-store"))
    return kept


def _may_be_shared(field: Header) -> bool:
    """Whether a shared cache may keep a response with this Cache-Control (RFC 9111, section 3.5)."""
    directives = {part.strip().partition(b"=")[0] for part in field[1].lower().split(b",")}
    return not directives & {b"no-store", b"private"}
