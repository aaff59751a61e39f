"""The example with state, as a client meets it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Gives the example as just started, every time on the same file."""
    monkeypatch.delenv("TRAFFIC_COP_BACKEND", raising=False)
    monkeypatch.setenv("SESSION_SECRET", "a secret for the example with state in it")
    monkeypatch.setenv("TRAFFIC_COP_DOCUMENTS", f"sqlite:///{tmp_path}/state.db")
    return lambda: importlib.reload(importlib.import_module("examples.state")).app


def test_a_cart_goes_with_the_session_and_orders_and_profiles_last(example: Any) -> None:
    with TestClient(example()) as client:
        assert client.get("/orders").json() == {}
        assert client.put("/cart/tea/2").status_code == 401
        client.post("/login/alice")
        assert client.post("/orders").status_code == 409
        assert client.put("/cart/tea/2").json() == {"tea": 2}
        assert client.put("/profile/language/de").json() == {"language": "de"}
        ordered = client.post("/orders").json()
        assert ordered["order"] == "1"
        assert client.post("/orders").status_code == 409, "the cart is empty now"
        assert client.post("/orders/1/pay").json()["paid"] is True
    with TestClient(example()) as client:
        assert client.get("/orders").json() == {"1": {"by": "alice", "cart": {"tea": 2}, "paid": True}}
        assert [each["value"]["paid"] for each in client.get("/orders/1/history").json()] == [True, False]
        client.post("/login/alice")
        assert client.put("/profile/color/red").json() == {"language": "de", "color": "red"}
        assert client.put("/cart/milk/1").json() == {"milk": 1}
