"""Sends notifications to a webhook over the gateway's kind of connections, in the background."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from random import Random

import anyio

from traffic_cop_middleware.abstractions.insights.notifying import Notification
from traffic_cop_middleware.abstractions.insights.webhooks import (
    TRIES,
    Message,
    Webhook,
    message_of,
    pause_before,
    signed,
    verdict_on,
)
from traffic_cop_middleware.contracts.transport import Deadlines, Field, Outgoing, Transport
from traffic_cop_middleware.errors import UpstreamError

log = logging.getLogger("traffic_cop")

MOST_WAITING = 100
DEADLINE = 10.0
"""Seconds that a receiver has to answer."""


class WebhookSender:
    """Sends what it is given, in order, while its `run` runs.

    Nobody waits for it: `most` notifications wait at the most, and where more come the oldest is left out (`lost`
    counts those, and those that were given up). One receiver has one queue: while it is away all wait. A redirect is
    not followed; 410 ends the sending for good (`gone`). What waits when the process ends is not sent.
    """

    def __init__(
        self,
        webhook: Webhook,
        transport: Transport,
        *,
        deadline: float = DEADLINE,
        most: int = MOST_WAITING,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
        random: Random | None = None,
    ) -> None:
        self._webhook = webhook
        self._transport = transport
        self._deadline = deadline
        self._most = most
        self._now = now
        self._sleep = sleep
        self._random = random or Random()  # noqa: S311 - spreads tries in time, no secret
        self._waiting: deque[Message] = deque()
        self._more = anyio.Event()
        self.sent = 0
        self.lost = 0
        self.gone = False

    @property
    def waiting(self) -> int:
        """Notifications that are yet to be sent."""
        return len(self._waiting)

    def send(self, notifications: Iterable[Notification]) -> None:
        """Have them sent; returns at once."""
        for each in notifications:
            if self.gone:
                self.lost += 1
                continue
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self.lost += 1
            self._waiting.append(message_of(each))
        self._more.set()

    async def run(self) -> None:
        """Send until cancelled, or until the receiver says that it is gone."""
        while not self.gone:
            if not self._waiting:
                self._more = anyio.Event()
                await self._more.wait()
                continue
            message = self._waiting[0]
            taken = await self._deliver(message)
            # It may have been left out meanwhile, for newer ones; then that is counted already.
            if self._waiting and self._waiting[0] is message:
                self._waiting.popleft()
                self.lost += not taken
            self.sent += taken
        self.lost += len(self._waiting)
        self._waiting.clear()

    async def _deliver(self, message: Message) -> bool:
        """Whether it was taken, after as many tries as it has."""
        name = self._webhook.upstream.name
        for attempt in range(1, TRIES + 1):
            verdict, why, retry_after = await self._try(message)
            if verdict == "taken":
                return True
            if verdict in ("refused", "gone"):
                self.gone = verdict == "gone"
                log.warning("the webhook at %s did not take %s: %s", name, message.id, why)
                return False
            pause = pause_before(attempt + 1, self._random, retry_after=retry_after)
            if pause is None:
                log.warning("the webhook at %s did not take %s in %d tries: %s", name, message.id, TRIES, why)
                return False
            await self._sleep(pause)
        return False

    async def _try(self, message: Message) -> tuple[str, str, float | None]:
        """What came of one try, why, and the seconds that the receiver asked to wait."""
        webhook = self._webhook
        fields: list[Field] = [
            (b"host", webhook.upstream.authority),
            (b"user-agent", b"traffic-cop-webhook"),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(message.body)),
            *signed(message, webhook.keys, now=self._now()),
        ]
        request = Outgoing("POST", webhook.target, fields, _once(message.body))
        deadlines = Deadlines(self._deadline, self._deadline, self._deadline)
        try:
            with anyio.fail_after(self._deadline):
                incoming = await self._transport.send(webhook.upstream.origin, request, deadlines=deadlines)
        except TimeoutError:
            return "again", f"no answer within {self._deadline:g} s", None
        except UpstreamError as exc:
            return "again", str(exc), None
        # What it says beside its status is of no use, and could be without end.
        incoming.close()
        why = f"it was answered {incoming.status}"
        return verdict_on(incoming.status), why, _retry_after(incoming.fields)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _retry_after(fields: Iterable[Field]) -> float | None:
    """The seconds of a Retry-After; of a date nothing."""
    for name, value in fields:
        if name.lower() == b"retry-after" and value.isdigit() and len(value) <= 6:
            return float(value)
    return None
