"""Access logs of many servers.

`COMBINED`, `MAIN` and `NGINX_JSON` (shortened) were written by nginx 1.22, `CADDY` (shortened) by Caddy 2.6, and our
own log by the test. `COMMON` is the example of Apache's documentation; `VHOST` and `UVICORN` are made up after their
formats.
"""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from traffic_cop_middleware import ConfigurationError, TrafficCop
from traffic_cop_middleware.abstractions.advisor.folding import folded
from traffic_cop_middleware.adapters.access_logs.clocks import seconds_of
from traffic_cop_middleware.adapters.access_logs.reading import LONGEST_LINE, AccessLog
from traffic_cop_middleware.advisor import simulate_log
from traffic_cop_middleware.contracts.access_log import LoggedRequest

COMMON = '127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326'
COMBINED = r'127.0.0.1 - al ice [28/Nov/2026:13:27:29 +0000] "GET /a%20b/%22q HTTP/1.1" 200 2 "-" "a\x22b\x5Cc"'
MAIN = COMBINED + ' "203.0.113.5, 10.0.0.2"'
VHOST = 'shop.example.com:443 2001:db8::7 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 - "-" "a\\"b"'
NGINX_JSON = (
    '{"time_iso8601":"2026-11-28T13:27:29+00:00","msec":1795872449.183,"remote_addr":"127.0.0.1",'
    '"remote_user":"al ice","request":"GET /a%20b/%22q HTTP/1.1","status":200,'
    '"http_x_forwarded_for":"203.0.113.5, 10.0.0.2"}'
)
CADDY = (
    '{"level":"info","ts":1795872449.225231,"logger":"http.log.access.log0","msg":"handled request","request":'
    '{"remote_ip":"127.0.0.1","remote_port":"48428","proto":"HTTP/1.1","method":"GET","host":"127.0.0.1:18472",'
    '"uri":"/a%20b/%22q","headers":{"Accept":["*/*"],"X-Forwarded-For":["203.0.113.5, 10.0.0.2"],"Authorization":[],'
    '"User-Agent":["a\\"b\\\\c"]}},"user_id":"","duration":0.000015824,"size":2,"status":200}'
)
UVICORN = 'INFO:     127.0.0.1:54321 - "GET / HTTP/1.1" 200 OK'

FROM = "203.0.113.5, 10.0.0.2"


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (COMMON, LoggedRequest(971211336.0, "127.0.0.1", "frank", "GET", "/apache_pb.gif")),
        (COMBINED, LoggedRequest(1795872449.0, "127.0.0.1", "al ice", "GET", '/a b/"q')),
        (MAIN, LoggedRequest(1795872449.0, "127.0.0.1", "al ice", "GET", '/a b/"q', FROM)),
        (VHOST, LoggedRequest(971211336.0, "2001:db8::7", "", "GET", "/")),
        (NGINX_JSON, LoggedRequest(1795872449.183, "127.0.0.1", "al ice", "GET", '/a b/"q', FROM)),
        (CADDY, LoggedRequest(1795872449.225231, "127.0.0.1", "", "GET", '/a b/"q', FROM)),
    ],
    ids=["common", "combined", "nginx main", "vhost", "nginx json", "caddy"],
)
def test_lines_of_servers_are_read(line: str, request_: LoggedRequest, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(line + "\n")
    (found,) = AccessLog(log)
    assert found._replace(fields=None) == request_
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(log.read_bytes(), mtime=0))
    assert list(AccessLog(packed)) == [found]


def test_our_own_access_log_is_read_with_its_routes(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    async def item(request: Request) -> PlainTextResponse:
        return PlainTextResponse("item")

    app = Starlette(routes=[Route("/shelves/{shelf}/{name}", item)])
    TrafficCop(metrics=True, metrics_access_log=True).install(app)
    with caplog.at_level(logging.INFO, "traffic_cop.access"), TestClient(app) as client:
        for name in ("tea", "jam", "tea"):
            client.get(f"/shelves/a/{name}")
    log = tmp_path / "log"
    log.write_text("\n".join(record.getMessage() for record in caplog.records if record.name == "traffic_cop.access"))
    found = simulate_log(log, "1/minute")
    assert (found.requests, found.refused.low) == (3, 2)
    assert found.where[0].name == "/shelves/{shelf}/{name}"


def test_bad_lines_are_counted_and_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    long = COMBINED.replace("/a%20b", "/" + "x" * LONGEST_LINE)
    broken = '192.0.2.1 - - [28/Nov/2026:13:27:29 +0000] "\\x16\\x03\\x01" 400 157 "-" "-"'
    log.write_text("\n".join([COMBINED, "", long, broken, "[]", "{}", "{", '{"time": "soon"}', COMBINED]))
    found = simulate_log(log, "1/minute")
    assert found.requests == 2
    (note,) = [note for note in found.notes if "could not be read" in note]
    assert note.startswith("6 of 8 lines could not be read and are left out (line 2: longer than 65536 bytes)")


def test_uvicorns_own_log_is_refused_by_name(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"INFO:     Started server process [7]\n{UVICORN}\n")
    with pytest.raises(ConfigurationError, match=r"uvicorn's own access log, which has no time.*metrics_access_log"):
        list(AccessLog(log))


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        (b"name,amount\ntea,7\n", {}, "none of the first 2 lines"),
        (b"x\n" * 5000, {}, "none of the first 1000 lines"),
        (NGINX_JSON.encode(), {"fields": {"time": "when"}}, "no field 'when'"),
        (COMBINED.encode(), {"format": "json"}, "none of the first 1 lines"),
        (COMBINED.encode(), {"format": "json"}, "format='json' was asked for"),
        (b'{"a": 1}', {}, "on the command line --field time=ts"),
        (gzip.compress(COMBINED.encode() * 999, mtime=0)[:50], {}, "can't be read"),
    ],
)
def test_what_is_no_access_log_is_said(content: bytes, settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(content)
    with pytest.raises(ConfigurationError, match=said):
        list(AccessLog(log, **settings))


def test_a_log_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        list(AccessLog(tmp_path / "none"))


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (1795872449, 1795872449.0),
        (1795872449.5, 1795872449.5),
        (1795872449500, 1795872449.5),
        (1795872449500000, 1795872449.5),
        (1795872449500000000, 1795872449.5),
        ("1795872449.5", 1795872449.5),
        ("2026-11-28T13:27:29.5Z", 1795872449.5),
        ("2026-11-28T14:27:29.5+01:00", 1795872449.5),
        ("2026-11-28 13:27:29.5", 1795872449.5),
        ("28/Nov/2026:08:57:29 -0430", 1795872449.0),
        ("28/Nov/2026:13:27:29.500 +0000", 1795872449.5),
    ],
)
def test_times_are_read_in_many_clocks(written: Any, seconds: float) -> None:
    assert seconds_of(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "soon", None, True, [], "nan", "1e400", -5, "99/Foo/2026:13:27:29 +0000", "x" * 99]
)
def test_what_is_no_time_is_a_bad_line(written: Any) -> None:
    with pytest.raises((ValueError, OverflowError)):
        seconds_of(written)


@given(
    st.one_of(st.text(), st.text(alphabet='"[]{}\\:/ -0129aGET'), st.binary().map(lambda raw: raw.decode("latin-1")))
)
def test_no_line_breaks_the_reading(text: str) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".log") as file:
        file.write(
            f"{COMBINED}\n{text}\n{json.dumps({'time': text, 'path': text})}\n{COMBINED}\n".encode("utf-8", "replace")
        )
        file.flush()
        assert len(list(AccessLog(file.name))) >= 2


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/items/4711", "/items/{id}"),
        ("/items/4711/parts/9", "/items/{id}/parts/{id}"),
        ("/u/8d7c2d1e-5f0b-4f0e-9a39-2f6a1c0b7e55", "/u/{id}"),
        ("/f/deadbeefdeadbeef", "/f/{id}"),
        ("/docs/getting-started", "/docs/getting-started"),
        ("/v2/report.html", "/v2/report.html"),
        ("/", "/"),
    ],
)
def test_ids_in_paths_are_folded(path: str, template: str) -> None:
    assert folded(path) == template
