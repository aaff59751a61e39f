"""Tells of insights, as they come up: to a function of the app, and to a webhook; one worker does it for all.

Theory of operation. Every 5 minutes, when a bucket of 5 is in the history, the worker that has the lease looks at the
last hour, and `Notifier` decides what is news. What was told is kept in the records that all workers share, and changed
by compare-and-set before anything is told: so who follows the leader does not tell it again, and who was held up and
has lost the lease meanwhile tells nothing. A worker that dies between writing and telling has told nobody: an insight
is told once at the most, and again after an hour if it goes on.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio

from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.history.keeping import SETTLED
from traffic_cop_middleware.abstractions.history.ranges import FIVE
from traffic_cop_middleware.abstractions.insights.notifying import Notification, Notifier
from traffic_cop_middleware.abstractions.insights.quotas import Quotas, quotas_of
from traffic_cop_middleware.abstractions.insights.values import Insight
from traffic_cop_middleware.abstractions.insights.webhooks import Webhook
from traffic_cop_middleware.abstractions.leader import Leader
from traffic_cop_middleware.composition.gateway import EXTRA, open_transport
from traffic_cop_middleware.composition.webhooks import WebhookSender
from traffic_cop_middleware.contracts import Backend, Lease
from traffic_cop_middleware.errors import ConfigurationError, MissingExtra, StoreError

log = logging.getLogger("traffic_cop")

OnInsight = Callable[[Notification], Awaitable[object] | object]
"""What is called with each notification: a function, or a coroutine function."""

KIND = "insights"
"""The records of what was told."""
LEASE, LEASE_SECONDS = "traffic-insights", 30.0
LOOK = "1h"
ENDED = 1_200.0
"""Seconds after its end from which on something in the last hour goes on no longer."""
AFTER = SETTLED + 30.0
"""Seconds after 5 minutes are over from which on they are looked at: by then they are in the history."""
MOST_TOLD = 500
"""Things of which it is remembered that they were told."""
AGAIN = 15.0
"""Seconds until the next try where a store was away."""
LONGEST_CALL = 30.0
"""Seconds that an async function may take for a notification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TellingSettings:
    """Who is told of insights, those on `quotas` among them. Checked when made.

    Raises:
        ConfigurationError: it can't be called, or is no webhook; a quota can't be used, or nobody is told of it.
        MissingExtra: there is a webhook, and no driver for it.
    """

    on_insight: OnInsight | None = None
    webhook: Webhook | None = None
    quotas: Quotas | None = None

    def __post_init__(self) -> None:
        if self.on_insight is not None and not callable(self.on_insight):
            raise ConfigurationError(
                f"metrics_on_insight={self.on_insight!r}: a function, plain or async, of one notification"
            )
        if self.webhook is not None:
            if not isinstance(self.webhook, Webhook):
                raise ConfigurationError(
                    "metrics_webhook=…: a webhook has a secret that signs what it is sent. Write "
                    "metrics_webhook=Webhook('https://hooks.example.com/traffic', secret=os.environ['WEBHOOK_SECRET'])"
                )
            try:
                open_transport()  # only to see whether there is a driver
            except MissingExtra as exc:
                raise MissingExtra(f"metrics_webhook needs a driver: pip install '{EXTRA}'") from exc
        quotas_of(self.quotas, setting="metrics_quotas")
        if self.quotas is not None and not self.on:
            raise ConfigurationError(
                "metrics_quotas says of which quotas metrics_on_insight or metrics_webhook are told: give one of "
                "them. To ask now and then write await cop.analytics.insights(quotas=…)"
            )

    @property
    def on(self) -> bool:
        return self.on_insight is not None or self.webhook is not None


class Telling:
    """Looks for insights and tells of them, in one of all workers that share their figures."""

    def __init__(self, backend: Backend, analytics: AnalyticsAbstraction, settings: TellingSettings) -> None:
        self._analytics = analytics
        self._settings = settings
        self._notifier = Notifier(most=MOST_TOLD)
        self._sender: WebhookSender | None = None
        # A backend of a third party may be older than either.
        shares = backend.metrics is not None and backend.metrics.shared
        self._leases = getattr(backend, "leases", None) if shares else None
        self._records = getattr(backend, "records", None)

    async def run(self) -> None:
        """Tell wherever this worker leads, until cancelled."""
        webhook = self._settings.webhook
        if webhook is not None and not _is_asyncio():
            log.error("metrics_webhook needs asyncio, and this app runs on trio: nothing is sent")
            webhook = None
        if webhook is None:
            await self._look_on()
            return
        transport = open_transport()
        self._sender = WebhookSender(webhook, transport)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._sender.run)
                await self._look_on()
        finally:
            with anyio.CancelScope(shield=True):
                await transport.close()

    async def _look_on(self) -> None:
        if self._leases is None:
            await self._keep_looking()
        else:
            await Leader(self._leases, LEASE, self._lead, ttl=LEASE_SECONDS).run()

    async def _lead(self, _: Lease) -> None:
        await self._keep_looking()

    async def _keep_looking(self) -> None:
        looked = True
        while True:
            await anyio.sleep(FIVE - (self._analytics.now - AFTER) % FIVE if looked else AGAIN)
            looked = await self._looked()

    async def _looked(self) -> bool:
        """Whether there was a look; false where it is to be tried again."""
        try:
            await self.look()
        except StoreError as exc:
            log.debug("insights wait for their stores: %s", exc)
            return False
        except Exception:
            log.exception("the traffic was not looked at for insights; the next look is in %d s", FIVE)
        return True

    async def look(self) -> Sequence[Notification]:
        """Look at the last hour, tell what is news of it, and give that.

        Raises:
            StoreError: a store is away; nothing was told.
        """
        insights = await self._analytics.insights(LOOK, quotas=self._settings.quotas)
        news = await self._decided(insights)
        if self._sender is not None:
            self._sender.send(news)
        if self._settings.on_insight is not None:
            for each in news:
                await self._call(self._settings.on_insight, each)
        return news

    async def _decided(self, insights: Sequence[Insight]) -> Sequence[Notification]:
        """What is news, written down as told; nothing where another worker was faster."""
        now = self._analytics.now
        insights = [each for each in insights if each.evidence.get("until", now) > now - ENDED]
        if self._records is None:
            return self._notifier.look(insights, now=now)
        known = await answered(self._records.read(KIND))
        before = {record.name: record.value for record in known.records if record.value is not None}
        try:
            self._notifier.recall(before.values())
        except ValueError as exc:
            log.warning("%s: it is begun anew", exc)  # of a newer version, during a rolling update
            self._notifier.recall(())
        news = self._notifier.look(insights, now=now)
        after = self._notifier.records()
        changed: dict[str, str | None] = {name: text for name, text in after.items() if before.get(name) != text}
        changed.update({name: None for name in before if name not in after})
        if changed and await answered(self._records.change(KIND, changed, at=known.version)) is None:
            log.info("another worker has told of the insights meanwhile")
            return []
        return news

    async def _call(self, on_insight: OnInsight, notification: Notification) -> None:
        """What fails in there is the app's trouble, and told as such."""
        try:
            with anyio.fail_after(LONGEST_CALL):
                answer = on_insight(notification)
                if inspect.isawaitable(answer):
                    await answer
        except Exception:
            log.exception("metrics_on_insight failed with %r", notification.insight.sentence)


def _is_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
