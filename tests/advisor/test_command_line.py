"""`python -m traffic_cop_middleware.advisor`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.advisor.traffic import as_combined, usual
from traffic_cop_middleware.advisor.__main__ import main


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(as_combined(usual(count=2000), tmp_path / "access.log"))


def test_a_limit_is_simulated(log: str) -> None:
    command = [sys.executable, "-m", "traffic_cop_middleware.advisor", log, "--limit", "30/minute", "--burst", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("limit 30/minute burst 10 by ip: exact replay\n")
    assert "refused: " in done.stdout
    assert done.stderr == ""


def test_suggestions_are_made(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([log, "--by", "user", "--template", "/items/{id}", "--template", "/search"]) == 0
    told = capsys.readouterr().out
    assert "/items/{id}: " in told
    assert "/minute by user\n" in told


def test_json_is_printed(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([log, "--route", "/search=5/minute", "--json", "--hash-keys"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == 2000
    assert found["where"][0]["name"] == "/search"
    assert main([log, "--json"]) == 0
    assert all(json.loads(line)["limit"] for line in capsys.readouterr().out.splitlines())


def test_an_app_gives_the_routes(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([log, "--app", "examples.minimal:app", "--limit", "30/minute", "--marks"]) == 0
    assert "/search" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit", "often"], "not a rate"),
        (["--route", "/search"], "--route '/search=10/minute'"),
        (["--field", "time"], "--field time=ts"),
        (["--app", "no.such:app"], "Write it as uvicorn does"),
        (["--by", "moon"], "by='moon'"),
        (["--burst", "5"], "say which with --limit"),
    ],
)
def test_errors_are_told_in_a_line(
    log: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([log, *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert said in told.err


def test_what_the_log_does_not_have_is_told(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([log, "--limit", "5/minute", "--by", "field:tenant", "--route", "/items/{item}=1/minute"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("limit 5/minute, /items/{item} 1/minute by tenant: exact replay\n")
    assert "no line tells its tenant" in told
    assert "no request was of the route /items/{item}" in told
    assert "/items/{id}" in told


def test_a_wrong_flag_is_told_in_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["log", "--limt", "5/minute"])
    assert len(capsys.readouterr().err.splitlines()) == 2
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "examples:" in capsys.readouterr().out
