"""Logs of somebody who means harm, or that are not what they were: each is a bad line or a clear error."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from traffic_cop_middleware import ConfigurationError
from traffic_cop_middleware.adapters.access_logs.reading import AccessLog
from traffic_cop_middleware.advisor import simulate_log, suggest_limits
from traffic_cop_middleware.advisor.__main__ import main
from traffic_cop_middleware.advisor.log_traffic import LogTraffic

GOOD = b'127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] "GET /a HTTP/1.0" 200 2326\n'


def at(time: str, path: str = "/a") -> bytes:
    return GOOD.replace(b"10/Oct/2000:13:55:36 -0700", time.encode()).replace(b"/a", path.encode())


@pytest.mark.parametrize(
    "line",
    [
        b"x" * 10_000_000,
        b'{"time": 1, "client": "' + b"x" * 10_000_000 + b'"}',
        b"\0" * 100,
        b"\xff\xfe\x80",
        b'{"time": 1e308, "client": "a", "path": "/"}',
        b'{"time": ' + b"9" * 5000 + b', "client": "a", "path": "/"}',
        b'{"time": -5, "client": "a", "path": "/"}',
        b'{"time": NaN, "client": "a", "path": "/"}',
        b'{"time": "9999-12-31T23:59:59-12:00", "client": "a", "path": "/"}',
        b'{"time": "0001-01-01T00:00:00+12:00", "client": "a", "path": "/"}',
        b'{"time": "1960-01-01", "client": "a", "path": "/"}',
        b'{"time": 1, "client": ["a"], "path": "/"}',
        b'{"time": 1, "client": "' + b"a" * 1000 + b'", "path": "/"}',
        b'{"time": 1, "client": "a", "path": ["/"]}',
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"time": ' + b"[" * 60_000,
        at("31/Dec/9999:23:59:59 -1200"),
        at("10/Oct/1960:13:55:36 -0700"),
        at("10/Oct/2000:13:55:36 -9999"),
        at("10/Oct/2000:13:55:36.9e99 +0000"),
        at("10/Oct/2000:13:55:36nan +0000"),
        b"a " * 30_000,
        b'127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] "' + b"\\" * 60_000,
    ],
    ids=lambda line: repr(line[:40]),
)
def test_a_hostile_line_is_a_bad_line(line: bytes, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(GOOD + line.rstrip(b"\n") + b"\n" + GOOD)
    found = simulate_log(log, "1/minute")
    assert (found.requests, found.refused) == (2, (1, 1))
    assert any("1 of 3 lines could not be read" in note for note in found.notes)
    assert "2000-10-10" in str(found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"\x1f\x8b", "ended before"),
        (gzip.compress(GOOD * 9999, mtime=0)[:150], "ended before"),
        (gzip.compress(GOOD, mtime=0)[:-8] + bytes(8), "CRC"),
        (gzip.compress(GOOD, mtime=0) + b"garbage", "gzip"),
        ((GOOD * 3).decode().encode("utf-16"), "none of the first"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    log.write_bytes(content)
    for arguments in (["--limit", "1/minute"], []):
        assert main([str(log), *arguments]) == 2
        told = capsys.readouterr()
        assert told.err.startswith("error: ")
        assert said in told.err
        assert told.err.count("\n") == 1
        assert told.out == ""


def test_a_directory_is_said_to_be_one(tmp_path: Path) -> None:
    for ask in (lambda: simulate_log(tmp_path, "1/minute"), lambda: suggest_limits(tmp_path)):
        with pytest.raises(ConfigurationError, match="directory"):
            ask()


def test_a_gzip_bomb_takes_no_memory(tmp_path: Path) -> None:
    log = tmp_path / "log.gz"
    with gzip.open(log, "wb") as file:
        file.write(GOOD)
        for _ in range(100):
            file.write(b"a" * 1_000_000)
        file.write(b"\n" + GOOD)
    code = (
        "import sys, resource; from traffic_cop_middleware.advisor import simulate_log; resource.setrlimit("
        "resource.RLIMIT_AS, (400_000_000, 400_000_000)); print(simulate_log(sys.argv[1], '1/minute').requests)"
    )
    assert subprocess.run([sys.executable, "-c", code, log], capture_output=True, text=True, check=True).stdout == "2\n"


def test_endless_long_paths_take_no_memory(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        for number in range(12_000):
            file.write(GOOD.replace(b"/a", b"/" + b"%08x" % number * 1000))
    code = (
        "import sys, resource; from traffic_cop_middleware.advisor import simulate_log; resource.setrlimit("
        "resource.RLIMIT_AS, (450_000_000, 450_000_000)); print(simulate_log(sys.argv[1], '1/minute').requests)"
    )
    done = subprocess.run([sys.executable, "-c", code, log], capture_output=True, text=True, check=True)
    assert done.stdout == "12000\n"


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    for line in (GOOD, b'{"time": 971211336, "client": "127.0.0.1", "path": "/a"}\n'):
        log = tmp_path / "log"
        log.write_bytes(b"\xef\xbb\xbf" + line * 2)
        found = simulate_log(log, "1/minute")
        assert (found.requests, found.keys, found.refused) == (2, 1, (1, 1))


HOSTILE = "/\x1b[2J\x1b]0;pwned\x07\r\n\u202e\u2028\ud800=cmd|' /C calc'!A0" + "x" * 5000


@pytest.mark.parametrize("by", ["ip", "user", "field:tenant"])
def test_what_is_printed_moves_no_cursor(by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    request = {"time": 1, "client": "a\x1b[31m", "path": HOSTILE, "user": HOSTILE, "tenant": HOSTILE, "route": HOSTILE}
    bad = {"time": HOSTILE, "path": "/", "client": "b"}
    log.write_text("\n".join(map(json.dumps, [request] * 9 + [bad])) + "\n")
    for arguments in (["--limit", "1/minute", "--by", by], ["--by", by], ["--limit", "1/minute", "--json"], ["--json"]):
        assert main([str(log), *arguments]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        assert all(character == "\n" or character.isprintable() for character in told.out)
        told.out.encode("utf-8")
        if "--json" in arguments:
            assert json.loads(told.out.splitlines()[0])
        else:
            assert max(map(len, told.out.splitlines())) < 400
            assert told.out.count("pwned") >= 1  # it is told, as what it is
            assert r"\x1b" in told.out


def test_formats_may_be_mixed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes((GOOD + b'{"time": 971211336, "client": "127.0.0.1", "path": "/a"}\r\n') * 3)
    assert simulate_log(log, "1/minute").refused == (5, 5)


def test_a_log_comes_by_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(gzip.compress(GOOD * 5, mtime=0)))
    writer.start()
    assert simulate_log(tmp_path / "pipe", "1/minute").refused == (4, 4)
    writer.join()


def test_a_log_comes_by_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "traffic_cop_middleware.advisor", "-"]
    done = subprocess.run([*command, "--limit", "1/minute"], input=GOOD * 5, capture_output=True, check=True)
    assert b"refused: 4 of 5 requests" in done.stdout
    twice = subprocess.run(command, input=GOOD * 5, capture_output=True, check=False)
    assert twice.returncode == 2
    assert b"read twice" in twice.stderr
    (tmp_path / "log").write_bytes(GOOD * 5)
    with (tmp_path / "log").open("rb") as file:
        assert b"/a: " in subprocess.run(command, stdin=file, capture_output=True, check=True).stdout


def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(GOOD.replace(b"/a", b"/a%d" % number) for number in range(3000)))
    command = [sys.executable, "-m", "traffic_cop_middleware.advisor", str(log), "--limit", "1/minute", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() != 0


def test_a_log_that_is_rotated_meanwhile_is_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(GOOD * 5000)
    reading = AccessLog(log)
    assert len(list(reading)) == 5000
    with log.open("ab") as file:
        file.write(GOOD * 10)
    assert len(list(reading)) == 5000  # what came meanwhile is not read the second time
    os.replace(log, tmp_path / "log.1")
    log.write_bytes(GOOD * 6000)
    with pytest.raises(ConfigurationError, match="rotated"):
        list(reading)
    traffic = LogTraffic(log)
    assert len(list(traffic)) == 6000
    os.replace(log, tmp_path / "log.2")
    log.write_bytes(GOOD)
    with pytest.raises(ConfigurationError, match="rotated"):  # as the second reading for suggestions
        list(traffic.under({}))
    kept = AccessLog(tmp_path / "log.1")
    requests = iter(kept)
    next(requests)
    os.truncate(tmp_path / "log.1", 100)  # copied and emptied
    with pytest.raises(ConfigurationError, match="rotated"):
        list(requests)


def test_a_log_that_is_renamed_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(GOOD * 5000)
    requests = iter(AccessLog(log))
    next(requests)
    os.replace(log, tmp_path / "log.1")
    log.write_bytes(GOOD)
    assert len(list(requests)) == 4999


def test_what_is_not_there_to_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.write_bytes(GOOD)
    if os.geteuid() == 0:  # nothing is forbidden to root

        def forbidden(*_: object, **__: object) -> io.BufferedReader:
            raise PermissionError(13, "Permission denied", str(log))

        monkeypatch.setattr(Path, "open", forbidden)
    else:
        log.chmod(0)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        simulate_log(log, "1/minute")
