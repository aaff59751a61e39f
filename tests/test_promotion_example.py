"""The example with promotion, as it prints and as a client meets it."""

from __future__ import annotations

import importlib
import re
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Gives the example as just started, every time on the same folder."""
    monkeypatch.setenv("TRAFFIC_COP_DATA", str(tmp_path))
    monkeypatch.setenv("SESSION_SECRET", "a secret for the example with promotion")
    for name in ("BACKEND", "DOCUMENTS", "FILES", "FILE_METADATA"):
        monkeypatch.delenv(f"TRAFFIC_COP_{name}", raising=False)
    return lambda: importlib.reload(importlib.import_module("examples.promotion")).app


def test_the_tour_tells_verdicts_lineage_and_what_is_left_over(
    example: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with TestClient(example()) as client:
        said = capsys.readouterr().out
        assert "visit/1: cache" in said
        assert "payment/1: immediate" in said
        assert "report/1: delayed, in a file" in said
        assert re.search(r"so it is <StateItem visit/1 version \d+ cache>", said)
        assert re.search(r"and promoted \w+ report/1 version", said)
        assert "├── took the place of: promoted" in said
        assert "└── restored from: promoted" in said
        assert "{'articles': ['tea'], 'paid': False}" in said
        assert said.count("holds: snapshot") == 2
        assert "would be removed, no file names it" in said
        client.post("/login/alice")
        assert client.put("/settings/theme/dark").json() == {"theme": "dark"}
        assert client.put("/settings/plan/gold").json() == {"theme": "dark", "plan": "gold"}
        ends = time.monotonic() + 10
        while "user/alice: immediate (it is in immediate)" not in (told := client.get("/why").text):
            assert time.monotonic() < ends, told
        assert "somebody pays for this" in told
        assert "restored as: promoted" in client.get("/files/order/1").text
        assert client.get("/files/order/2").status_code == 404
    with TestClient(example()) as client:
        client.post("/login/alice")
        assert client.put("/settings/color/red").json() == {"theme": "dark", "plan": "gold", "color": "red"}
