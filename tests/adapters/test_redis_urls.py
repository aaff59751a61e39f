"""What is wrong with a Redis URL is told where it is written, and never with the password in it."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.servers import RedisServer, running_redis
from traffic_cop_middleware import ConfigurationError, MissingExtra, TrafficCop, adapters, by_everyone, limit
from traffic_cop_middleware.composition.backend_settings import BackendSettings

SECRET = "hunter2"


def told(exc: BaseException) -> str:
    """All that a log of the exception would show, its causes included."""
    return "".join(traceback.format_exception(exc))


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("redis://localhost:sixtythree/0", "port"),
        ("redis://localhost:99999/0", "port"),
        ("redis://localhost:0/0", "port"),
        ("redis://[::1/0", "host"),
        ("redis://localhost:6379/first", "'first' is no database number"),
        ("redis://localhost:6379/-1", "'-1' is no database number"),
        ("redis://localhost:6379/0/1", "'0/1' is no database number"),
        ("redis://localhost:6379/²", "'²' is no database number"),
        ("redis://localhost:6379?db=first", "'first' is no database number"),
        ("redis://localhost:6379/0?databse=1", "'databse' is no option of a Redis URL; there are client_name, db"),
        ("redis://localhost:6379/0?max_connections=10", "'max_connections' is no option"),
        ("redis://localhost:6379/0?credential_provider=me", "'credential_provider' is no option"),
        ("redis://localhost:6379/0?socket_timeout=soon", "socket_timeout"),
        ("redis://localhost:6379/0?protocol=5", "protocol must be either 2 or 3"),
        ("redis://localhost:6379/0#here", "holds one of"),
        ("redis://localhost:6379/0?ssl_ca_certs=/ca.pem", "needs TLS. Write rediss://"),
        ("rediss://localhost:6379/0?ssl_cert_reqs=perhaps", "perhaps"),
        ("rediss://localhost:6379/0?ssl_ca_certs=/no/such/file.pem", "No such file"),
        ("rediss://localhost:6379/0?ssl_ciphers=ROT13", "can't be used"),
        ("unix://run/redis.sock", "can't be read"),
        ("unix://", "the path of the socket is missing"),
        ("unix:///run/redis.sock?db=x", "'x' is no database number"),
        ("redis+sentinel://one:26379,two:26379/0", "the name of the service is missing"),
        ("redis+sentinel://one:26379,two:26379/0?service=", "the name of the service is missing"),
        ("redis+sentinel://one,/0?service=any", "one of its hosts is missing"),
        ("redis+sentinel:///0?service=any", "one of its hosts is missing"),
        ("redis+sentinel://one:first/0?service=any", "no number from 1 to 65535"),
        ("redis+sentinel://one:0/0?service=any", "no number from 1 to 65535"),
        ("redis+sentinel://one,[::1/0?service=any", "malformed"),
        ("redis+sentinel://one/first?service=any", "'first' is no database number"),
        ("redis+sentinel://one/0?service=any&sentinel_pasword=x", "no option of a Redis URL; there are client_name"),
        ("redis+sentinel://one/0?service=any&ssl_ca_certs=/ca.pem", "needs TLS. Write rediss+sentinel://"),
        ("rediss+sentinel://one/0?service=any&ssl_ca_certs=/no/such/file.pem", "No such file"),
        ("redis://localhost:6379/0?service=any", "'service' is no option"),
        ("rdis://localhost", "rdis:// is not known here. Write one of memory://, redis://"),
        ("localhost:6379", "this is no URL: it begins with no scheme"),
        ("", "this is no URL: it begins with no scheme"),
    ],
)
def test_a_url_that_can_not_be_used_fails_when_the_cop_is_made(url: str, cause: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TrafficCop(url, limits="10/minute")
    assert cause in str(caught.value)
    assert any(mend in str(caught.value) for mend in ("redis://", "there are", "unix:///", "+sentinel://"))


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}@localhost:port/0",
        f"redis://user:{SECRET}@localhost:6379/first",
        f"redis://user:{SECRET}@localhost:6379/0?unknown=1",
        f"redis://user:{SECRET}#1@localhost:6379/0",
        f"redis://user:{SECRET}/1@localhost:6379/0",
        f"redis://user:{SECRET}?1@localhost:6379/0",
        f"redis://:1/{SECRET}@localhost:6379/0",
        f"redis://:1?{SECRET}@localhost:6379/0",
        f"redis://:1#{SECRET}@localhost:6379/0",
        f"redis://user:{SECRET}[@localhost:6379/0",
        f"redis://user:{SECRET}\u2100@localhost:6379/0",
        f"rediss://user:{SECRET}@localhost:6379/0?ssl_ca_certs=/no/such/file.pem",
        f"rediss://localhost:6379/first?username=user&password={SECRET}",
        f"redis://localhost:6379/0?password={SECRET}&protocol=7",
        f"unix://user:{SECRET}/1@/run/redis.sock",
        f"unix://user:{SECRET}@/run/redis.sock?db=first",
        f"redis+sentinel://user:{SECRET}@one:26379,two:port/0?service=any",
        f"redis+sentinel://user:{SECRET}@one:26379,two/0",
        f"redis+sentinel://user:{SECRET}#1@one/0?service=any",
        f"redis+sentinel://user:{SECRET}/1@one/0?service=any",
        f"redis+sentinel://user:{SECRET}?1@one/0?service=any",
        f"redis+sentinel://:1/{SECRET}@one/0?service=any",
        f"redis+sentinel://:1?{SECRET}@one/0?service=any",
        f"redis+sentinel://one:1/{SECRET}@one/0?service=any",
        f"redis+sentinel://user:{SECRET}[@one/0?service=any",
        f"redis+sentinel://one/0?service=any&sentinel_password={SECRET}&protocol=7",
        f"rediss+sentinel://user:{SECRET}@one/0?service=any&ssl_ca_certs=/no/such/file.pem",
        f"rdis://user:{SECRET}@localhost:6379/0",
        f"user:{SECRET}@localhost:6379/0",
    ],
)
def test_no_message_about_a_url_has_its_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConfigurationError) as caught:
        TrafficCop(url, limits="10/minute")
    assert SECRET not in told(caught.value)
    assert SECRET not in repr(caught.value)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (f"redis://user:{SECRET}@cache.example/3", "redis://cache.example/3"),
        (f"redis://:{SECRET}%2F%40@[::1]:6380", "redis://[::1]:6380"),
        (f"rediss://cache.example:6380/0?username=u&password={SECRET}", "rediss://cache.example:6380/0"),
        (f"unix://user:{SECRET}@/run/redis.sock?db=2", "unix:///run/redis.sock"),
        (f"redis://cache.example/0?password={SECRET}@x", "redis://cache.example/0"),
        ("REDIS://cache.example", "redis://cache.example"),
        (
            f"redis+sentinel://user:{SECRET}@one,[::1]:26380,10.0.0.3/2?service=any&sentinel_password={SECRET}",
            "redis+sentinel://one:26379,[::1]:26380,10.0.0.3:26379/2?service=any",
        ),
        (f"REDISS+Sentinel://:{SECRET}@one?service=any", "rediss+sentinel://one:26379?service=any"),
    ],
)
def test_a_backend_is_named_without_user_password_and_options(url: str, name: str) -> None:
    cop = TrafficCop(url, limits="10/minute")
    handle = cop._parts._handle(loop=None)
    assert handle.backend.name == name
    shown = [repr(cop), repr(cop._parts), repr(handle), repr(handle.backend), repr(vars(handle.backend))]
    assert SECRET not in "".join(shown)


def test_settings_are_shown_without_their_url() -> None:
    assert SECRET not in repr(BackendSettings(backend=f"redis://:{SECRET}@localhost"))


class RedisDsn:
    """As pydantic's: a URL, and no `str`."""

    def __repr__(self) -> str:
        return f"RedisDsn('redis://:{SECRET}@localhost')"


@pytest.mark.parametrize("backend", [RedisDsn(), None, 6379, b"redis://localhost"])
def test_a_backend_that_is_neither_a_url_nor_a_backend_fails_when_the_cop_is_made(backend: object) -> None:
    with pytest.raises(ConfigurationError, match=r"backend: .*str\(") as caught:
        TrafficCop(backend, limits="10/minute")  # type: ignore[arg-type]
    assert SECRET not in told(caught.value)


@pytest.fixture
def fresh_adapter(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The adapter as if it had never been imported; put back as it was afterwards."""
    for module in [name for name in sys.modules if name.startswith("traffic_cop_middleware.adapters.redis")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(adapters, "redis", None, raising=False)
    return monkeypatch


@pytest.mark.parametrize("driver", ["redis", "hiredis", "redis.asyncio.connection"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "redis+sentinel"])
def test_a_missing_driver_is_told_with_the_line_that_installs_it(
    driver: str, scheme: str, fresh_adapter: pytest.MonkeyPatch
) -> None:
    for module in [driver, *(name for name in sys.modules if name.startswith(f"{driver}."))]:
        fresh_adapter.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra) as caught:
        TrafficCop(f"{scheme}://:{SECRET}@/0" if scheme != "unix" else "unix:///s", limits="10/minute")
    assert "pip install 'traffic-cop-middleware[redis]'" in str(caught.value)
    assert isinstance(caught.value, ImportError)
    assert SECRET not in told(caught.value)


def test_the_adapter_needs_no_package_that_its_extra_does_not_bring(fresh_adapter: pytest.MonkeyPatch) -> None:
    """trio brings sniffio, anyio does not any more: an app without trio has none."""
    fresh_adapter.setitem(sys.modules, "sniffio", None)
    TrafficCop("redis://localhost", limits="10/minute")


def test_making_a_cop_opens_nothing(tmp_path: Path) -> None:
    TrafficCop(f"unix://{tmp_path}/nobody.sock?db=3", limits="10/minute")
    TrafficCop("rediss://nobody.invalid:1/9?ssl_cert_reqs=none", limits="10/minute")


def test_a_server_without_scripts_is_told_as_lost(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """Renamed away as some hosts do: each decision is local then, and that must not happen in silence."""
    options = ("--rename-command", "EVALSHA", "", "--rename-command", "EVAL", "")
    with running_redis(tmp_path_factory.mktemp("redis"), *options) as server:
        app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("ok"))])
        TrafficCop(server.url, limits="2/minute", deadline=10).install(app)
        with caplog.at_level(logging.WARNING), TestClient(app) as client:
            assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]
    assert len([record for record in caplog.records if "is lost" in record.getMessage()]) == 1


def test_a_key_that_holds_something_else_is_told_once_by_name(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Its requests are decided locally, and nobody would look for the reason."""
    redis_server.command("LPUSH", "tc:b:{everyone:all}2/minute", "x")
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("ok"))])
    TrafficCop(redis_server.url, limits=limit("2/minute", key=by_everyone), deadline=10).install(app)
    with caplog.at_level(logging.ERROR), TestClient(app) as client:
        assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "{everyone:all}2/minute" in told[0]
    assert "Delete it" in told[0]
