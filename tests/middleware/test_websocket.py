"""WebSocket handshakes take tokens like requests and are refused before they are accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from tests.asgi import send_through, websocket_scope
from traffic_cop_middleware import TrafficCop, limit
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.testing import FakeClock


def chat() -> FastAPI:
    app = FastAPI()
    TrafficCop(MemoryBackend(clock=FakeClock()), limits="100/minute").install(app)

    @app.websocket("/chat")
    @limit("1/minute")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            try:
                await socket.send_text(await socket.receive_text())
            except WebSocketDisconnect:
                return

    return app


def test_an_admitted_socket_works_and_its_messages_are_not_charged() -> None:
    with TestClient(chat()) as client, client.websocket_connect("/chat") as socket:
        for word in ("one", "two", "three"):
            socket.send_text(word)
            assert socket.receive_text() == word


def test_a_refused_handshake_gets_the_denial_response() -> None:
    with TestClient(chat()) as client:
        with client.websocket_connect("/chat"):
            pass
        with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/chat"):
            pass
        assert refused.value.status_code == 429
        assert refused.value.headers["retry-after"] == "60"
        assert refused.value.headers["ratelimit"].endswith('"/chat 1/minute";r=0;t=60')
        assert refused.value.json()["violated-policies"] == ["/chat 1/minute"]


@pytest.mark.asyncio
async def test_a_server_without_denial_responses_closes_with_1008() -> None:
    app: Any = chat()
    connect = {"type": "websocket.connect"}
    await send_through(app, websocket_scope("/chat"), [connect, {"type": "websocket.disconnect", "code": 1000}])
    sent = await send_through(app, websocket_scope("/chat"), [connect])
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]
    assert len(sent[0]["reason"].encode()) <= 123


@pytest.mark.asyncio
async def test_the_denial_response_is_one_start_and_one_body() -> None:
    app: Any = TrafficCop(limits="1/day").wrap(chat_without_cop())
    connect = {"type": "websocket.connect"}
    scope = websocket_scope("/chat", extensions={"websocket.http.response": {}})
    await send_through(app, dict(scope), [connect, {"type": "websocket.disconnect", "code": 1000}])
    sent = await send_through(app, dict(scope), [connect])
    assert [message["type"] for message in sent] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert json.loads(sent[1]["body"])["status"] == 429


def chat_without_cop() -> FastAPI:
    app = FastAPI()

    @app.websocket("/chat")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    return app
