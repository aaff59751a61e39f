"""What a webhook is sent, how it is signed, and when it is sent again.

Signed as in Standard Webhooks 1.0.0 (standardwebhooks.com): `webhook-id` is the same for each try of one message, so
that a receiver can leave out what it has; `webhook-timestamp` is that of the try, so that nobody can send it again
later; `webhook-signature` is "v1," and the base64 of an HMAC-SHA256 over "id.timestamp.body", one for each secret.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from random import Random
from typing import Literal
from urllib.parse import urlsplit

from traffic_cop_middleware.abstractions.insights.notifying import Notification
from traffic_cop_middleware.abstractions.insights.values import Insight, name_of
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.contracts.transport import Field
from traffic_cop_middleware.errors import ConfigurationError

LOOPBACK = frozenset(("127.0.0.1", "::1", "localhost"))
PREFIX = "whsec_"
SHORTEST_SECRET, LONGEST_SECRET = 24, 64
PUBLIC = frozenset(("route", "method", "status", "upstream", "service", "limit", "tenant", "plan"))
"""Labels that go out as they are. Others may name a person."""
WITHHELD = "(withheld)"
FIRST_PAUSE, FACTOR, LONGEST_PAUSE = 5.0, 4.0, 1800.0
TRIES = 6
AGAIN = frozenset((408, 425, 429))
"""Refusals (4xx) that another try may not meet."""
GONE = 410


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where notifications go: `Webhook("https://hooks.example.com/traffic", secret="whsec_…")`.

    `secret` is "whsec_" and the base64 of 24 to 64 bytes; of several each signs, so that a receiver can change from one
    to the next. `insecure` allows plain http to other hosts than this one. The URL is one that you trust: where its
    name leads is not looked at. Checked when made.

    Raises:
        ConfigurationError: the URL or a secret can't be used; the message holds neither a secret nor a path, which may
            be one.
    """

    url: str = field(repr=False)
    secret: str | Sequence[str] = field(repr=False, kw_only=True)
    insecure: bool = field(default=False, kw_only=True)
    upstream: Upstream = field(init=False, compare=False)
    target: bytes = field(init=False, repr=False, compare=False)
    keys: tuple[bytes, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        url = self.url
        if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url or "#" in url:
            raise ConfigurationError("Webhook(url=…): a URL such as 'https://hooks.example.com/traffic'")
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ConfigurationError("Webhook(url=…): this URL can't be read") from None
        if "@" in parts.netloc:
            raise ConfigurationError("Webhook(url=…): it holds a user or a password; the signature says who sends")
        upstream = Upstream(f"{parts.scheme}://{parts.netloc}")
        if parts.scheme != "https" and parts.hostname not in LOOPBACK and not self.insecure:
            raise ConfigurationError(
                f"Webhook(url='http://{parts.netloc}/…'): https, or all on the way read it. insecure=True allows it"
            )
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        given: object = self.secret  # None, where a variable of the environment is not set
        secrets = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        if not secrets:
            raise ConfigurationError("Webhook(secret=[]): at least one secret, or nobody knows who sends")
        object.__setattr__(self, "upstream", upstream)
        object.__setattr__(self, "target", target.encode("ascii"))
        object.__setattr__(self, "keys", tuple(_key(each) for each in secrets))


def _key(secret: object) -> bytes:
    mend = (
        f"It is {PREFIX!r} and the base64 of {SHORTEST_SECRET} to {LONGEST_SECRET} random bytes: python -c 'import "
        f'base64, secrets; print("{PREFIX}" + base64.b64encode(secrets.token_bytes(32)).decode())\''
    )
    if not isinstance(secret, str):
        raise ConfigurationError(f"Webhook(secret=…): a {type(secret).__name__} is no secret. {mend}")
    if not secret.startswith(PREFIX):
        raise ConfigurationError(f"Webhook(secret=…): it does not begin with {PREFIX!r}. {mend}")
    try:
        key = b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise ConfigurationError(f"Webhook(secret=…): what follows {PREFIX!r} is no base64. {mend}") from None
    if not SHORTEST_SECRET <= len(key) <= LONGEST_SECRET:
        raise ConfigurationError(f"Webhook(secret=…): it has {len(key)} bytes. {mend}")
    return key


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent, until it is taken: its id is the same at each try."""

    id: str
    body: bytes


def message_of(notification: Notification) -> Message:
    """The message of a notification; the same one for the same notification, wherever it is made.

    Its id is made of what is sent, and of nothing that is withheld: a hash of a name tells who guesses it.
    """
    insight = without_persons(notification.insight)
    when = datetime.fromtimestamp(notification.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"type": f"insight.{notification.news}", "timestamp": when, "data": insight.record()}
    body = json.dumps(told, separators=(",", ":"), sort_keys=True).encode()
    return Message("msg_" + sha256(body).hexdigest()[:32], body)


def without_persons(insight: Insight) -> Insight:
    """The same without the values of labels that may name a person (users, sessions, addresses, keys)."""
    shown = {name: value if name in PUBLIC else WITHHELD for name, value in insight.labels.items()}
    if shown == insight.labels:
        return insight
    sentence = insight.sentence.replace(name_of(insight.labels), name_of(shown))
    return replace(insight, labels=shown, sentence=sentence)


def signed(message: Message, keys: Sequence[bytes], *, now: float) -> list[Field]:
    """The fields that a message is sent with at `now` (Unix seconds)."""
    identity, timestamp = message.id.encode("ascii"), b"%d" % int(now)
    content = b".".join((identity, timestamp, message.body))
    signatures = [b"v1," + b64encode(hmac.digest(key, content, "sha256")) for key in keys]
    return [
        (b"webhook-id", identity),
        (b"webhook-timestamp", timestamp),
        (b"webhook-signature", b" ".join(signatures)),
    ]


def verdict_on(status: int) -> Literal["taken", "again", "refused", "gone"]:
    """What an answer means. A redirect is a refusal: followed, it could lead into the internal network."""
    if 200 <= status < 300:
        return "taken"
    if status == GONE:
        return "gone"
    return "again" if status >= 500 or status in AGAIN else "refused"


def pause_before(attempt: int, random: Random, *, retry_after: float | None = None) -> float | None:
    """Seconds before try number `attempt` (the second is 2); `None` where there is none any more.

    Four times as long each time, half of it by chance, so that many senders do not come at once; not sooner than the
    receiver asked for, within bounds.
    """
    if attempt > TRIES:
        return None
    pause = min(FIRST_PAUSE * FACTOR ** (attempt - 2), LONGEST_PAUSE)
    pause *= random.uniform(0.5, 1.0)
    return max(pause, min(retry_after or 0.0, LONGEST_PAUSE))
