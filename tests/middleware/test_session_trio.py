"""Sessions in memory on trio: a request, and a socket that is closed when its session is revoked."""

from __future__ import annotations

import trio

from tests.asgi import Message, websocket_scope
from tests.middleware.session_apps import COOKIE, Stage


def test_a_login_and_a_revoked_socket_on_trio() -> None:
    stage = Stage("memory://")

    async def scenario() -> None:
        login = await stage.send("POST", "/login?sub=alice")
        assert (await stage.send("GET", "/private", cookie=login.cookie)).json()["subject"] == "alice"
        to_app, from_client = trio.open_memory_channel[Message](10)
        to_client, from_app = trio.open_memory_channel[Message](10)
        cookie = (b"cookie", f"{COOKIE}={login.cookie}".encode())
        scope = websocket_scope("/socket", scheme="wss", headers=[(b"host", b"testserver"), cookie])
        with trio.fail_after(5):
            async with trio.open_nursery() as tasks:
                tasks.start_soon(stage.app, scope, from_client.receive, to_client.send)
                await to_app.send({"type": "websocket.connect"})
                assert (await from_app.receive())["type"] == "websocket.accept"
                assert (await from_app.receive())["text"] == '{"subject":"alice"}'
                await stage.cop.session_management.revoke_user("alice")
                closed = await from_app.receive()
                assert (closed["type"], closed["code"]) == ("websocket.close", 1008)

    trio.run(scenario)
