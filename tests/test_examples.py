"""The examples do what they say."""

from __future__ import annotations

import asyncio
import importlib
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.servers import RedisServer
from traffic_cop_middleware.adapters import redis
from traffic_cop_middleware.contracts import BucketStore
from traffic_cop_middleware.testing import BucketStoreContract

ROOT = Path(__file__).parents[1]


def asked_until_refused(client: TestClient, path: str, *, burst: int, per_second: float) -> None:
    """A burst passes, then nothing but what has come back meanwhile: little, unless the machine stands still."""
    began, passed = time.monotonic(), 0
    while (status := client.get(path).status_code) == 200:
        passed += 1
        assert passed <= burst + per_second * (time.monotonic() - began) + 0.01
    assert status == 429
    assert passed >= burst


def test_minimal_refuses_the_eleventh_search() -> None:
    minimal = importlib.import_module("examples.minimal")
    with TestClient(minimal.app) as client:
        asked_until_refused(client, "/search?q=tea", burst=10, per_second=10 / 60)
        assert client.get("/health").status_code == 200


def test_redis_shared_counts_in_redis(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    plain = redis.open
    monkeypatch.setattr(redis, "open", lambda url, **options: plain(url, **{**options, "deadline": 30}))
    example = importlib.reload(importlib.import_module("examples.redis_shared"))
    with TestClient(example.app) as client:
        asked_until_refused(client, "/search", burst=10, per_second=10 / 60)
        asked_until_refused(client, "/report", burst=2, per_second=2)
    assert redis_server.command("EXISTS", "tc:b:{everyone:all}/report 1000/day").startswith(b":1")


def test_the_gateway_answers_redirects_and_is_closed_and_opened_while_it_runs() -> None:
    gateway = importlib.import_module("examples.gateway")
    with TestClient(gateway.app) as client:
        assert client.get("/").json() == {"from": "the app itself"}
        sent = client.get("/old/page?a=1", follow_redirects=False)
        assert (sent.status_code, sent.headers["location"]) == (308, "http://127.0.0.1:8000/billing/page?a=1")
        assert client.get("/shop").headers["retry-after"] == "3600"
        assert client.put("/maintenance").json()["version"] > 0
        assert client.get("/billing/invoices/7").text == "Billing is back at noon."
        assert client.delete("/maintenance").json() == {"removed": True}
        assert client.get("/billing/invoices/7").text != "Billing is back at noon."
    with TestClient(gateway.service("billing-1")) as client:
        assert client.get("/invoices/7").json()["from"] == "billing-1"


def test_the_gateway_goes_past_an_instance_that_is_killed_and_shows_it() -> None:
    command = (sys.executable, str(ROOT / "examples" / "gateway.py"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[int(cell) for cell in line.split()] for line in done.stdout.splitlines() if re.match(r" +\d+ +\d", line)]
    errors = sum(row[-1] for row in rows)
    assert errors <= 1, "an answer that had begun when its instance was killed is cut, and never repeated"
    one, other = ([row[at] for row in rows] for at in (1, 2))
    assert all(sum(row[at] for row in rows) for at in (1, 3, 4)), "the others go on"
    assert other[0] > 0
    assert sum(one[3:5]) > 0, "in its place"
    assert 0 in other[3:], "killed"
    assert other[-1] > 0, "and back"
    assert re.search(r"kill -9 \d+, which is billing-2", done.stdout)
    assert "billing-2 is unhealthy: its check failed" in done.stdout
    assert f"{sum(sum(row[1:]) for row in rows)} requests, {errors} errors" in done.stdout


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("examples.custom_backend")


def test_the_custom_backend_limits_an_app(in_a_folder: Any) -> None:
    with TestClient(in_a_folder.app) as client:
        asked_until_refused(client, "/", burst=10, per_second=10 / 60)


class TestCustomBackend(BucketStoreContract):
    """The example's store passes the suite that ours pass."""

    @pytest.fixture
    def store(self, in_a_folder: Any, tmp_path: Path) -> BucketStore:
        store: BucketStore = in_a_folder.SqliteBuckets(tmp_path / "contract.db")
        return store

    async def plant(self, store: BucketStore, key: str, value: str | int) -> None:
        buckets: Any = store
        link = buckets.connect()
        link.execute("insert or replace into guards values (?, ?)", (key, value if isinstance(value, int) else 0))
        link.close()


def test_analytics_tells_which_route_is_slow_and_which_one_fails_and_since_when(
    capsys: pytest.CaptureFixture[str],
) -> None:
    analytics = importlib.import_module("examples.analytics")
    asyncio.run(analytics.main(0.3))
    told = capsys.readouterr().out
    assert "simulated days, until Wednesday, 15:00 UTC" in told
    slow = re.search(r"critical: GET /search p95 [\d.]+ -> [\d.]+ ms since (1\d:\d\d) UTC", told)
    fails = re.search(r"critical: POST /orders fails for \d+ % of its requests since (14:\d\d) UTC", told)
    assert slow is not None, told
    assert fails is not None, told
    assert "13:40" <= slow[1] <= "14:15"  # 14:10 is in there; what the machine was late by just before joins it
    assert fails[1] in ("14:35", "14:40", "14:45")
    assert re.search(r"refused: [\d,]+ to [\d,]+ of [\d,]+ requests", told)  # by the history: bounds
    assert re.search(r"refused: [\d,]+ of [\d,]+ requests", told)


def test_metrics_tells_of_the_last_minute_and_asks_prometheus_for_the_token() -> None:
    metrics = importlib.import_module("examples.metrics")
    with TestClient(metrics.app) as client:
        for number in range(5):
            assert client.get(f"/items/{number}").status_code == 200
        told = client.get("/status").json()
        assert set(told["p95_by_route"]) == {"/items/{item}"}
        assert told["workers"] == 1
        assert client.get("/metrics").status_code == 401
        text = client.get("/metrics", headers={"Authorization": "Bearer a-token-that-nobody-guesses"}).text
        assert 'http_route="/items/{item}",http_response_status_code="200"} 5' in text
