"""What Prometheus scrapes: who may, in which format, and that its own parsers read it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.asgi import headers, http_scope, send_through, status
from traffic_cop_middleware import TrafficCop, limit
from traffic_cop_middleware.abstractions.metrics.figures import Figures
from traffic_cop_middleware.abstractions.metrics.prometheus import exposition
from traffic_cop_middleware.abstractions.metrics.series import Exemplar, Series

TOKEN = "0123456789abcdef0123456789abcdef"
OPENMETRICS = (b"accept", b"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1")
BEARER = (b"authorization", f"Bearer {TOKEN}".encode())


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


def app(**settings: Any) -> Any:
    given = {"metrics": True, "metrics_path": "/metrics", "metrics_token": TOKEN, **settings}
    return TrafficCop(**given).wrap(Starlette(routes=[Route("/a/{x}", ok)]))


def scrape(app: Any, *fields: tuple[bytes, bytes], method: str = "GET", path: str = "/metrics", **more: Any) -> Any:
    return asyncio.run(send_through(app, http_scope(path, method, headers=list(fields), **more)))


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ((b"authorization", b"Bearer wrong"),),
        ((b"authorization", f"Basic {TOKEN}".encode()),),
        ((b"authorization", TOKEN.encode()),),
        ((b"authorization", b"Bearer " + TOKEN.encode() + b"x"),),
        ((b"authorization", b"Bearer \xff\xfe"),),
        (BEARER, BEARER),
        (BEARER, (b"authorization", b"Bearer wrong")),
    ],
)
def test_who_has_not_the_token_is_told_nothing(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    sent = scrape(app(), *fields)
    assert status(sent) == 401
    assert headers(sent)["www-authenticate"].startswith("Bearer")
    assert b"http_server" not in sent[1]["body"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_token_opens(scheme: str) -> None:
    sent = scrape(app(), (b"authorization", f"{scheme} {TOKEN}".encode()))
    assert status(sent) == 200
    assert headers(sent)["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert headers(sent)["cache-control"] == "no-store"
    assert int(headers(sent)["content-length"]) == len(sent[1]["body"])


def test_who_accepts_openmetrics_gets_it() -> None:
    sent = scrape(app(), BEARER, OPENMETRICS)
    assert headers(sent)["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert sent[1]["body"].endswith(b"# EOF\n")


def test_head_has_no_body_and_other_methods_are_refused() -> None:
    head = scrape(app(), BEARER, method="HEAD")
    assert (status(head), head[1]["body"]) == (200, b"")
    post = scrape(app(), BEARER, method="POST")
    assert (status(post), headers(post)["allow"]) == (405, "GET, HEAD")


def test_the_path_is_below_the_root_path_and_nothing_else_is_taken() -> None:
    assert status(scrape(app(), BEARER, path="/proxy/metrics", root_path="/proxy")) == 200
    assert status(scrape(app(), BEARER, path="/other/metrics")) == 404


def test_a_scrape_is_not_limited_and_not_counted() -> None:
    wrapped = app(limits=limit("1/minute", name="one"))

    async def scenario() -> list[int]:
        scrapes = [await send_through(wrapped, http_scope("/metrics", headers=[BEARER])) for _ in range(5)]
        assert b"_seconds_count{" not in scrapes[-1][1]["body"]
        return [status(sent) for sent in scrapes]

    assert asyncio.run(scenario()) == [200] * 5


def busy() -> Figures:
    """Figures with something of every family, and labels that are hard to write."""
    figures = Figures()
    for at, template in enumerate(('/a/{x:path("quoted")}', "/back\\slash", "/new\nline", "/lone\ud800", "/grüße")):
        for name in (figures.requests, figures.streams):
            series = name[template, "GET", 200 + at] = Series()
            series.pending += [(0.004 * each + 0.0001, 0.001, 10, 20) for each in range(100)]
            series.settle()
            series.note(Exemplar(0.2, "0af7651916cd43dd8448eb211c80319c", 1_700_000_000.123))
            series.exceptions = series.disconnects = at
        figures.count(("limit.refused", template, "store"))
        figures.count(("session", "created", "user"))
        figures.count(("upstream.failed", template, "http://up", "UpstreamTimeout"))
        figures.count(("socket.messages", template, "in"), 3)
        figures.count(("socket.closed", template, "1000"))
        figures.count(("socket.refused", template, "403"))
        figures.count(("store.lost", "redis://x"))
        figures.timing(("upstream", template, "http://up", "200")).add(0.3)
        figures.timing(("socket", template)).add(300)
        figures.gauges["in_flight", template, "GET"] = 2
        figures.gauges["sockets_open", template] = 1
    return figures


@pytest.mark.parametrize("openmetrics", [False, True])
def test_prometheus_own_parsers_read_every_family(openmetrics: bool) -> None:
    parse = parse_openmetrics if openmetrics else parse_text
    families = {family.name: family for family in parse(exposition(busy(), workers=4, openmetrics=openmetrics))}
    assert len(families) == 19
    duration = families["http_server_request_duration_seconds"]
    counts = [sample for sample in duration.samples if sample.name.endswith("_count")]
    assert {sample.value for sample in counts} == {100}
    assert {sample.labels["http_route"] for sample in counts} == {
        '/a/{x:path("quoted")}',
        "/back\\slash",
        "/new\nline",
        "/lone\\ud800",
        "/grüße",
    }
    buckets = [
        each for each in duration.samples if each.name.endswith("_bucket") and "/gr" in each.labels["http_route"]
    ]
    assert [bucket.labels["le"] for bucket in buckets][-1] == "+Inf"
    assert len(buckets) == 15
    assert [bucket.value for bucket in buckets] == sorted(bucket.value for bucket in buckets)
    exemplars = [bucket.exemplar for bucket in buckets if bucket.exemplar is not None]
    if openmetrics:
        (exemplar,) = exemplars
        assert exemplar.labels == {"trace_id": "0af7651916cd43dd8448eb211c80319c"}
        assert exemplar.value == 0.2
        assert duration.unit == "seconds"
    else:
        assert exemplars == []


def test_no_user_is_a_label() -> None:
    figures = busy()
    figures.usage.add("user", "alice@example.org", 200, 1, 1)
    assert "alice" not in exposition(figures, workers=1, openmetrics=True)
