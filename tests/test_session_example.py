"""The example with sessions, as a browser meets it."""

from __future__ import annotations

import hashlib
import importlib
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from traffic_cop_middleware.adapters import memory
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.testing import FakeClock

PASSWORD = "tea-for-two"
SOCKET = "wss://testserver/live"  # a TestClient keeps Secure cookies back from the ws:// that it would take itself
scrypt = hashlib.scrypt
OUT_OF_DATE = "That form was out of date."


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example as just started, on a clock that stands still: nobody has a session or has used up a limit."""
    for name in ("SESSION_SECRET", "SESSION_SECURE", "TRAFFIC_COP_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hashlib, "scrypt", lambda password, *, salt, **_: scrypt(password, salt=salt, n=2, r=1, p=1))
    clock = FakeClock(time.time())  # of the tokens, too
    monkeypatch.setattr(memory, "open", lambda url, **options: MemoryBackend(clock=clock))
    return importlib.reload(importlib.import_module("examples.sessions"))


def browser_of(example: Any) -> TestClient:
    headers = {"accept": "text/html", "user-agent": "Firefox", "sec-fetch-site": "same-origin"}
    return TestClient(example.app, base_url="https://testserver", headers=headers)


@pytest.fixture
def browser(example: Any) -> Iterator[TestClient]:
    with browser_of(example) as client:
        yield client


@pytest.fixture
def other_browser(example: Any, browser: TestClient) -> TestClient:
    """One with cookies of its own, at the same running app."""
    other = browser_of(example)
    other.portal = browser.portal
    return other


def log_in(client: TestClient, name: str = "alice", password: str = PASSWORD) -> Any:
    """What is shown after the login form was filled in and sent."""
    form = client.get("/login").text
    token = re.search('name="csrf_token" value="([0-9a-f]{64})"', form)
    assert token
    return client.post("/login", data={"csrf_token": token[1], "name": name, "password": password})


def sessions_of(client: TestClient) -> Any:
    return client.get("/auth/sessions").json()["sessions"]


def test_the_secret_is_made_up_aloud(capsys: pytest.CaptureFixture[str], example: Any) -> None:
    assert "SESSION_SECRET is not set" in capsys.readouterr().out


def test_a_stranger_is_sent_to_the_login_form(browser: TestClient) -> None:
    answer = browser.get("/")
    assert answer.url.path == "/login"
    assert "Password" in answer.text


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("nobody", PASSWORD), ("", "")])
def test_a_wrong_password_logs_nobody_in(browser: TestClient, name: str, password: str) -> None:
    answer = log_in(browser, name, password)
    assert answer.status_code == 403
    assert "Wrong name or password." in answer.text
    assert browser.get("/").url.path == "/login"


def test_a_name_is_shown_again_as_text(browser: TestClient) -> None:
    assert 'value="&quot;&gt;&lt;script&gt;"' in log_in(browser, '"><script>').text


def test_the_right_password_logs_in_under_a_new_cookie(browser: TestClient) -> None:
    browser.get("/login")
    anonymous = browser.cookies["__Host-session"]
    answer = log_in(browser)
    assert answer.url.path == "/"
    assert "Logged in as <b>alice</b>, visit 1." in answer.text
    assert browser.cookies["__Host-session"] != anonymous
    cookie = answer.history[0].headers["set-cookie"]
    assert cookie.startswith("__Host-session=")
    assert cookie.endswith("; Max-Age=86400; Path=/; HttpOnly; SameSite=Lax; Secure")


@pytest.mark.usefixtures("example")
def test_the_cookie_can_do_without_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SECURE", "0")
    example = importlib.reload(importlib.import_module("examples.sessions"))
    with TestClient(example.app, base_url="http://127.0.0.1:8000", headers={"accept": "text/html"}) as client:
        assert "Logged in as <b>alice</b>" in log_in(client).text
        assert list(client.cookies) == ["session"]


def test_the_cart_and_the_visits_are_there_on_the_next_page(browser: TestClient) -> None:
    log_in(browser)
    browser.post("/cart", data={"item": "green tea"})
    shown = browser.post("/cart", data={"item": "<i>tea</i> & pot"}).text
    assert "<li>green tea<li>&lt;i&gt;tea&lt;/i&gt; &amp; pot</ul>" in shown
    assert "visit 3." in shown
    assert browser.get("/api/cart").json() == {
        "owner": "alice",
        "plan": "free",
        "items": ["green tea", "<i>tea</i> & pot"],
    }


def test_the_cart_keeps_the_last_twenty_items(browser: TestClient) -> None:
    log_in(browser)
    for number in range(22):
        browser.post("/cart", data={"item": f"{number}" * 100}, follow_redirects=False)
    items = browser.get("/api/cart").json()["items"]
    assert [len(items), items[0], items[-1]] == [20, "2" * 60, "21" * 30]


def test_a_browser_may_end_another_one_s_session(browser: TestClient, other_browser: TestClient) -> None:
    log_in(browser)
    log_in(other_browser)
    mine, other = sessions_of(browser)
    assert (mine["current"], other["current"], other["attributes"]) == (True, False, {"device": "Firefox"})
    assert browser.delete(f"/auth/sessions/{other['id']}").status_code == 204
    assert other_browser.get("/").url.path == "/login"
    assert browser.get("/").url.path == "/"


def test_a_browser_may_end_all_other_sessions(browser: TestClient, other_browser: TestClient) -> None:
    log_in(other_browser)
    log_in(browser)
    assert browser.post("/auth/logout-all?others=true").json() == {"ended": 1}
    assert [session["current"] for session in sessions_of(browser)] == [True]
    assert other_browser.get("/").url.path == "/login"


def test_nobody_may_end_the_session_of_another_user(browser: TestClient, other_browser: TestClient) -> None:
    log_in(browser)
    log_in(other_browser, "bob", "black-no-sugar")
    [of_alice] = sessions_of(browser)
    assert other_browser.delete(f"/auth/sessions/{of_alice['id']}").status_code == 404
    assert browser.get("/").url.path == "/"


def test_after_logging_out_the_old_cookie_is_dead(browser: TestClient) -> None:
    log_in(browser)
    cookie = browser.cookies["__Host-session"]
    assert browser.post("/auth/logout").status_code == 204
    assert "__Host-session" not in browser.cookies
    browser.cookies.set("__Host-session", cookie)
    assert browser.get("/api/cart", headers={"accept": "application/json"}).status_code == 401
    assert browser.get("/").url.path == "/login"


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site", "origin": "https://evil.example"}]
)
def test_another_site_can_t_use_the_cookie(browser: TestClient, headers: dict[str, str]) -> None:
    log_in(browser)
    for path in ("/cart", "/auth/logout", "/auth/logout-all"):
        answer = browser.post(path, data={"item": "evil"}, headers=headers)
        assert (answer.status_code, answer.json()["title"]) == (403, "Cross-site request")
    assert browser.get("/api/cart").json()["items"] == []


def test_another_site_s_form_does_not_cost_a_user_the_cookie(browser: TestClient) -> None:
    """SameSite=Lax keeps the cookie back from such a form, so the request looks like a stranger's."""
    attack = {"name": "alice", "password": PASSWORD}
    answer = browser.post("/login", data=attack, headers={"sec-fetch-site": "cross-site"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?again=true")
    assert "set-cookie" not in answer.headers


def test_a_login_form_of_an_older_session_is_asked_for_again(browser: TestClient) -> None:
    browser.get("/login")
    sent = {"name": "alice", "password": PASSWORD}
    for token in ("", "0" * 64, "é"):
        answer = browser.post("/login", data={"csrf_token": token, **sent})
        assert (answer.status_code, answer.url.path) == (200, "/login")
        assert OUT_OF_DATE in answer.text


def test_the_sixth_attempt_within_a_minute_is_refused(browser: TestClient) -> None:
    assert [log_in(browser, password="guess").status_code for _ in range(6)] == [403] * 5 + [429]


def test_a_user_has_thirty_api_calls_over_all_sessions(browser: TestClient, other_browser: TestClient) -> None:
    log_in(browser)
    log_in(other_browser)
    statuses = [client.get("/api/cart").status_code for _ in range(16) for client in (browser, other_browser)]
    assert statuses == [200] * 30 + [429] * 2
    assert browser.get("/api/cart").json()["key"] == "user"


def test_the_page_hears_that_it_was_logged_out(browser: TestClient) -> None:
    log_in(browser)
    with browser.websocket_connect(SOCKET) as socket:
        assert browser.post("/auth/logout").status_code == 204
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    assert (closed.value.code, closed.value.reason) == (1008, "the session has ended")


def test_the_page_hears_that_another_browser_ended_it(browser: TestClient, other_browser: TestClient) -> None:
    log_in(browser)
    log_in(other_browser)
    with browser.websocket_connect(SOCKET) as socket:
        other_browser.post("/auth/logout-all?others=true")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    assert closed.value.code == 1008


def test_a_stranger_s_socket_is_not_accepted(browser: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect) as closed, browser.websocket_connect(SOCKET):
        pass
    assert (closed.value.code, closed.value.reason) == (1008, "log in first")
