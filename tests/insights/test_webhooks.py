"""The webhook, against a receiver that takes, fails, hangs, redirects and leaves."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.adapters.load import poll
from tests.gateway.certificates import Authority, server_context
from tests.insights.test_notifying import SLOW
from traffic_cop_middleware.abstractions.insights.notifying import Notification
from traffic_cop_middleware.abstractions.insights.webhooks import (
    LONGEST_PAUSE,
    TRIES,
    Webhook,
    message_of,
    pause_before,
    signed,
    verdict_on,
)
from traffic_cop_middleware.adapters.http.aiohttp_transport import AiohttpTransport
from traffic_cop_middleware.composition.webhooks import WebhookSender
from traffic_cop_middleware.errors import ConfigurationError

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NOW = 1_767_571_200.0
NEW = Notification("new", SLOW, NOW)


class Receiver:
    """Notes what comes; `answers` one after another, the last one for ever."""

    def __init__(self, answers: Sequence[int | Callable[[], Awaitable[web.StreamResponse]]]) -> None:
        self.answers = list(answers)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.followed = 0
        self.url = ""
        self.hang = asyncio.Event()

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.got.append((request.path_qs, dict(request.headers), await request.read()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            return await answer()
        headers = {"location": self.url + "/followed"} if 300 <= answer < 400 else {}
        return web.Response(status=answer, headers=headers)

    async def follow(self, request: web.Request) -> web.StreamResponse:
        self.followed += 1
        return web.Response(status=204)

    async def hangs(self) -> web.StreamResponse:
        await self.hang.wait()
        return web.Response()


@contextlib.asynccontextmanager
async def receiving(*answers: Any, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver(answers or [204])
    app = web.Application()
    app.router.add_post("/hook/", receiver.take)
    app.router.add_route("*", "/followed", receiver.follow)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    receiver.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        receiver.hang.set()
        await runner.cleanup()


class Naps:
    """A sleep that takes no time and notes how long it was to be."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def sending(url: str, **settings: Any) -> AsyncIterator[WebhookSender]:
    transport = AiohttpTransport()
    settings.setdefault("sleep", Naps())
    sender = WebhookSender(Webhook(url, secret=SECRET), transport, now=lambda: NOW, random=random.Random(1), **settings)
    running = asyncio.create_task(sender.run())
    try:
        yield sender
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await transport.close()


def verified(headers: dict[str, str], body: bytes, key: bytes = KEY) -> bool:
    """As a receiver does it, by the words of the specification alone."""
    low = {name.lower(): value for name, value in headers.items()}
    content = f"{low['webhook-id']}.{low['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return f"v1,{expected}" in low["webhook-signature"].split(" ")


@pytest.mark.asyncio
async def test_a_notification_arrives_signed_and_whole() -> None:
    async with receiving() as receiver, sending(receiver.url + "/hook/?team=1") as sender:
        sender.send([NEW])
        await poll(lambda: sender.sent == 1)
        [(path, headers, body)] = receiver.got
        assert path == "/hook/?team=1"
        assert verified(headers, body)
        assert not verified(headers, body + b" ")
        assert headers["webhook-timestamp"] == str(int(NOW))
        assert headers["Content-Type"] == "application/json"
        told = json.loads(body)
        assert told["type"] == "insight.new"
        assert told["timestamp"] == "2026-01-05T00:00:00.000Z"
        assert told["data"] == SLOW.record()
        assert (sender.waiting, sender.lost) == (0, 0)


def test_the_signature_is_that_of_the_specifications_example() -> None:
    """The example of Svix' library and of Standard Webhooks."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    message = replace(message_of(NEW), id="msg_p5jXN8AQM9LWM0D4loKWxJek", body=b'{"test": 2432232314}')
    fields = dict(signed(message, [key], now=1614265330.7))
    assert fields[b"webhook-signature"] == b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.asyncio
async def test_what_fails_is_sent_again_under_the_same_id() -> None:
    async with receiving(500, 503, 204) as receiver, sending(receiver.url + "/hook/", sleep=Naps()) as sender:
        sender.send([NEW])
        await poll(lambda: sender.sent == 1)
        assert len(receiver.got) == 3
        assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 1
        assert all(verified(headers, body) for _, headers, body in receiver.got)


@pytest.mark.asyncio
async def test_after_as_many_tries_as_there_are_it_is_given_up_and_the_next_one_goes() -> None:
    naps = Naps()
    async with receiving(*[500] * TRIES, 204) as receiver, sending(receiver.url + "/hook/", sleep=naps) as sender:
        sender.send([NEW, replace(NEW, news="over")])
        await poll(lambda: sender.sent == 1)
        assert sender.lost == 1
        assert len(receiver.got) == TRIES + 1
        assert len(naps.taken) == TRIES - 1
        assert naps.taken == sorted(naps.taken)


@pytest.mark.asyncio
async def test_one_that_hangs_is_left_after_the_deadline_and_tried_again() -> None:
    async with receiving(204) as receiver:
        receiver.answers = [receiver.hangs, 204]
        async with sending(receiver.url + "/hook/", deadline=0.1) as sender:
            sender.send([NEW])
            await poll(lambda: sender.sent == 1)
            assert len(receiver.got) == 2


@pytest.mark.asyncio
async def test_while_nobody_listens_it_waits_and_is_sent_when_somebody_does() -> None:
    async with receiving() as receiver:
        port = int(receiver.url.rpartition(":")[2])
    async with sending(f"http://127.0.0.1:{port}/hook/", sleep=Naps()) as sender:
        sender.send([NEW])
        await poll(lambda: sender.lost == 1)
        assert sender.sent == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with receiving(status) as receiver, sending(receiver.url + "/hook/") as sender:
        sender.send([NEW])
        await poll(lambda: sender.lost == 1)
        assert (len(receiver.got), receiver.followed, sender.sent) == (1, 0, 0)


@pytest.mark.asyncio
async def test_a_receiver_whose_certificate_nobody_signed_gets_nothing(tmp_path: Path) -> None:
    context = server_context(Authority(tmp_path, "stranger").certificate("localhost"))
    async with receiving(204, tls=context) as receiver, sending(receiver.url + "/hook/") as sender:
        sender.send([NEW])
        await poll(lambda: sender.lost == 1)
        assert (receiver.got, sender.sent) == ([], 0)


@pytest.mark.asyncio
async def test_who_refuses_is_not_asked_again_and_the_next_message_is_sent() -> None:
    async with receiving(400, 204) as receiver, sending(receiver.url + "/hook/") as sender:
        sender.send([NEW, replace(NEW, news="over")])
        await poll(lambda: sender.sent == 1)
        assert (len(receiver.got), sender.lost) == (2, 1)


@pytest.mark.asyncio
async def test_410_ends_the_sending_for_good() -> None:
    async with receiving(410) as receiver, sending(receiver.url + "/hook/") as sender:
        sender.send([NEW, replace(NEW, news="over")])
        await poll(lambda: sender.gone and not sender.waiting)
        sender.send([NEW])
        assert (len(receiver.got), sender.lost, sender.waiting) == (1, 3, 0)


@pytest.mark.asyncio
async def test_the_queue_is_bounded_and_the_newest_stay() -> None:
    async with receiving(204) as receiver:
        receiver.answers = [receiver.hangs, 204]
        async with sending(receiver.url + "/hook/", most=3) as sender:
            sender.send([replace(NEW, time=NOW)])
            await poll(lambda: len(receiver.got) == 1)
            sender.send([replace(NEW, time=NOW + number) for number in range(1, 10)])
            assert (sender.waiting, sender.lost) == (3, 7)
            receiver.hang.set()
            await poll(lambda: sender.waiting == 0)
            times = [json.loads(body)["timestamp"][17:19] for _, _, body in receiver.got]
            assert times == ["00", "07", "08", "09"]


@pytest.mark.asyncio
async def test_a_receiver_may_say_when_to_come_back() -> None:
    async def later() -> web.StreamResponse:
        return web.Response(status=429, headers={"retry-after": "77"})

    naps = Naps()
    async with receiving(204) as receiver:
        receiver.answers = [later, 204]
        async with sending(receiver.url + "/hook/", sleep=naps) as sender:
            sender.send([NEW])
            await poll(lambda: sender.sent == 1)
            assert naps.taken == [77.0]


def test_pauses_grow_with_chance_in_them_and_end() -> None:
    rng = random.Random(3)
    pauses = [pause_before(attempt, rng) for attempt in range(2, TRIES + 2)]
    assert pauses[-1] is None
    for pause, most in zip(pauses[:-1], (5, 20, 80, 320, 1280), strict=True):
        assert pause is not None
        assert most / 2 <= pause <= most
    assert pause_before(2, rng, retry_after=1e9) == LONGEST_PAUSE
    assert [verdict_on(status) for status in (200, 302, 404, 408, 429, 410, 500)] == [
        *("taken", "refused", "refused", "again", "again", "gone", "again"),
    ]


def test_both_secrets_sign_while_one_takes_the_place_of_the_other() -> None:
    other = b"o" * 24
    webhook = Webhook("https://example.com/h", secret=[SECRET, "whsec_" + base64.b64encode(other).decode()])
    message = message_of(NEW)
    fields = {name.decode(): value.decode() for name, value in signed(message, webhook.keys, now=NOW)}
    assert verified(fields, message.body, KEY)
    assert verified(fields, message.body, other)


def test_what_may_name_a_person_does_not_go_out() -> None:
    insight = replace(
        SLOW, labels={"user": "jane@example.com"}, sentence="user jane@example.com has 12 requests a minute"
    )
    body = message_of(Notification("new", insight, NOW)).body
    assert b"jane" not in body
    told = json.loads(body)["data"]
    assert told["sentence"] == "user (withheld) has 12 requests a minute"
    assert told["labels"] == {"user": "(withheld)"}


def test_the_same_notification_is_the_same_message_wherever_it_is_made() -> None:
    assert message_of(NEW) == message_of(Notification("new", SLOW, NOW))
    assert message_of(NEW).id != message_of(replace(NEW, time=NOW + 1)).id
    # nobody can look up by the id who it was
    whose = [replace(SLOW, labels={"user": name}, sentence=f"user {name} is slow") for name in ("ada", "bob")]
    ada, bob = (message_of(Notification("new", each, NOW)) for each in whose)
    assert ada == bob


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example.com/secret-path", "https"),
        ("ftp://hooks.example.com/", "a URL such as"),
        ("https://user:password@hooks.example.com/", "password"),
        ("https://hooks.example.com/#part", "a URL such as"),
        ("https://", "a URL such as"),
        ("https://[::1", "can't be read"),
        ("https://hooks.example.com/a b", "a URL such as"),
    ],
)
def test_a_url_that_can_not_be_used_is_refused_without_telling_it(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        Webhook(url, secret=SECRET)
    assert "secret-path" not in str(caught.value)
    assert "user:" not in str(caught.value)


def test_plain_http_is_for_this_host_or_on_wish() -> None:
    for host in ("127.0.0.1:8080", "localhost", "[::1]:9"):
        Webhook(f"http://{host}/hook", secret=SECRET)
    found = Webhook("http://hooks.internal/hook", secret=SECRET, insecure=True)
    assert found.target == b"/hook"
    assert SECRET not in repr(found)
    assert "/hook'" not in repr(found)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_!!!", "whsec_c2hvcnQ=", "plain text secret", [], [SECRET, 7], None, 7]
)
def test_a_secret_that_is_none_is_refused_without_telling_it(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="secret") as caught:
        Webhook("https://example.com", secret=secret)
    assert "plain text secret" not in str(caught.value)
