"""What Prometheus scrapes: all workers' counters at a path of one's choice, for who has the token."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio.to_thread
from starlette.types import Receive, Scope, Send

from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.metrics.instruments import Number
from traffic_cop_middleware.abstractions.metrics.prometheus import OPENMETRICS, TEXT, exposition
from traffic_cop_middleware.errors import ConfigurationError, StoreError
from traffic_cop_middleware.middleware.refusals import Refusal, answer_with, refuse
from traffic_cop_middleware.middleware.route_table import route_path

log = logging.getLogger("traffic_cop")

SHORTEST_TOKEN = 16
"""Characters: what is shorter can be guessed."""
UNAUTHORIZED = answer_with(
    Refusal(401, (), "", 0, "Send the metrics' token: Authorization: Bearer <token>."),
    title="Unauthorized",
    fields=[(b"www-authenticate", b'Bearer realm="metrics"')],
)
WRONG_METHOD = answer_with(
    Refusal(405, (), "", 0, "The metrics are read by GET."),
    title="Method Not Allowed",
    fields=[(b"allow", b"GET, HEAD")],
)
AWAY = answer_with(Refusal(503, (), "", 1, "The counters of all workers can't be read at present."))


class Exposition:
    """Answers a scrape. `analytics` gives what is open on the running event loop; `business` is told beside our own.

    Raises:
        ConfigurationError: the path is none, or nobody said who may read it.
    """

    def __init__(
        self,
        path: str,
        *,
        token: str | None,
        public: bool,
        analytics: Callable[[], Awaitable[AnalyticsAbstraction]],
        business: Sequence[Number] = (),
    ) -> None:
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigurationError(f"metrics_path={path!r}: a path begins with a slash, as in '/metrics'")
        if token is None and public is not True:
            raise ConfigurationError(
                f"metrics_path={path!r} needs metrics_token: the metrics tell strangers of your routes and traffic. "
                "Make one with python -c 'import secrets; print(secrets.token_urlsafe(32))', or write "
                "metrics_public=True where only Prometheus reaches this app"
            )
        if token is not None and public:
            raise ConfigurationError(
                "metrics_token and metrics_public=True contradict each other: leave one of them out"
            )
        if token is not None and (not isinstance(token, str) or len(token) < SHORTEST_TOKEN or not token.isascii()):
            raise ConfigurationError(
                f"metrics_token has {len(token) if isinstance(token, str) else 'no'} characters: at least "
                f"{SHORTEST_TOKEN} of ASCII, as secrets.token_urlsafe(32) makes"
            )
        self._path = path
        self._expected = None if token is None else b"bearer " + token.encode("ascii")
        self._analytics = analytics
        self._business = business

    def takes(self, scope: Scope) -> bool:
        """Whether a request is a scrape."""
        path: str = scope["path"]
        return (
            path.endswith(self._path)
            and scope["type"] == "http"
            and route_path(path, scope.get("root_path", "")) == self._path
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._admits(scope):
            await refuse(scope, receive, send, answer=UNAUTHORIZED, fields=(), on_refusal=None)
            return
        if scope["method"] not in ("GET", "HEAD"):
            await refuse(scope, receive, send, answer=WRONG_METHOD, fields=(), on_refusal=None)
            return
        openmetrics = any(
            name == b"accept" and b"application/openmetrics-text" in value.lower() for name, value in scope["headers"]
        )
        try:
            counted = await (await self._analytics()).totals()
        except StoreError as exc:
            log.debug("a scrape was not answered: %s", exc)
            await refuse(scope, receive, send, answer=AWAY, fields=(), on_refusal=None)
            return
        text = await anyio.to_thread.run_sync(
            partial(
                exposition,
                counted.figures,
                workers=counted.workers,
                openmetrics=openmetrics,
                business=self._business,
            )
        )
        body = text.encode()
        headers = [
            (b"content-type", (OPENMETRICS if openmetrics else TEXT).encode()),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"vary", b"Accept"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body if scope["method"] == "GET" else b""})

    def _admits(self, scope: Scope) -> bool:
        if self._expected is None:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._expected)
