"""Starlette's and FastAPI's own test suites, run bare and with a cop around every app.

    python tests/upstream/run.py [--only starlette|fastapi] [--mode wrap|limit|install|all] [--jobs N]

The claim under test: who puts a cop around an app sees no other behaviour until a limit is reached. The frameworks'
own tests know best what behaviour there is. So this takes the sdists of the installed versions, runs each suite bare
and with cops (see `wrap_plugin.py`), and compares test by test. A test that fails in both runs, for example because it
does not like to be run by root, says nothing about the cop and is only counted. One that fails only with the cop is run
again, alone and then with its file, bare and with the cop; it is called flaky only if it holds up in both.

Exit status: 0 if no test fails only with the cop; 1 if one does, if a run did not end in order or collected too few
tests, or if no request went through a cop.

All that is fetched or written goes to `.cache/upstream/`: an environment per suite with what its own dependency groups
ask for, a fresh copy of its tests for each run, the log and the outcomes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import venv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = REPOSITORY / ".cache" / "upstream"

COUNTED_MATCHES = "counts how often a route is asked; a limiter must know the route before the app does, so it asks too"
EXCEPTIONS: dict[tuple[str, str], dict[str, str]] = {
    ("starlette", "limit"): {
        f"tests/middleware/test_opentelemetry.py::test_instrumentation_uses_actual_route_match_once[{loop}]": (
            COUNTED_MATCHES
        )
        for loop in ("asyncio", "trio")
    }
}
"""(suite, mode) -> test -> why a middleware that changes nothing may still fail it."""

RUN_LIMIT = 1800
"""Seconds for one run of a suite; a run that hangs ends here."""

AGAIN_AT_MOST = 40
"""So many tests that fail only with the cop are run again. More of them are no flaky tests, and all count."""

IN_CHILDREN = """\
import os
if os.environ.get("PYTEST_CURRENT_TEST"):  # an interpreter that a test has started
    import wrap_plugin
"""


@dataclass(frozen=True)
class Suite:
    name: str
    group: str
    """The dependency group in its pyproject.toml that its tests need."""
    extra: str
    tests: tuple[str, ...]
    path: tuple[str, ...]
    """Folders that its own script puts on PYTHONPATH."""
    at_least: int
    """Fewer tests than this mean that the run is not what it claims to be."""

    @property
    def version(self) -> str:
        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError as exc:
            raise Broken(f"{self.name} is not installed for {sys.executable}, so there is no version to take") from exc

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"


SUITES = {
    suite.name: suite
    for suite in (
        Suite("starlette", "dev", "full", ("tests",), (), 1000),
        Suite("fastapi", "tests", "all", ("tests",), ("docs_src",), 4000),
    )
}


class Broken(Exception):
    """The comparison can't be made; the message says why."""


# Getting the suites


def call(command: Sequence[str | Path], log: Path, **options: object) -> None:
    with log.open("ab") as file:
        if subprocess.call([str(part) for part in command], stdout=file, stderr=file, **options) != 0:  # type: ignore[call-overload]
            raise Broken(f"`{' '.join(str(part) for part in command)}` failed: see {shown(log)}")


def shown(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


class Workshop:
    """The environment and the sdist of one suite."""

    def __init__(self, suite: Suite, project: Path) -> None:
        self.suite = suite
        self.project = project
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        self.venv = CACHE / f"venv-{suite.name}-{suite.version}-{python}"
        self.python = self.venv / ("Scripts" if os.name == "nt" else "bin") / "python"
        self.log = CACHE / f"{suite.name}-set-up.log"
        self.sdist = CACHE / f"{suite.name}-{suite.version}.tar.gz"

    def set_up(self) -> None:
        stamp = self.venv / "upstream.stamp"
        pins = [f"{suite.name}=={suite.version}" for suite in SUITES.values()]
        wanted = hashlib.sha256((self.project / "pyproject.toml").read_bytes())
        wanted.update(repr((str(self.project), self.suite, pins)).encode())
        if self.sdist.exists() and stamp.exists() and stamp.read_text() == wanted.hexdigest():
            return
        print(f"{self.suite.title}: fetching its sdist and what its tests need ...", flush=True)
        self.log.unlink(missing_ok=True)
        venv.create(self.venv, with_pip=True, clear=True)
        pip = [self.python, "-m", "pip", "--disable-pip-version-check"]
        call([*pip, "install", "pip>=25.1"], self.log)  # the first that knows --group
        if not self.sdist.exists():
            # Only the suite's own package as source, so that what pip needs to read its metadata need not be built.
            self_only = ["--no-deps", "--no-binary", self.suite.name]
            call([*pip, "download", *self_only, f"{self.suite.name}=={self.suite.version}", "-d", CACHE], self.log)
        tree = self.unpack(CACHE / "read")
        requirements = [pin for pin in pins if pin.startswith(("starlette", self.suite.name))]
        requirements += [f"{self.suite.name}[{self.suite.extra}]", "httpx", "httpx2", "trio"]
        requirements += ["pytest-timeout", "pytest-xdist"]
        group = f"{tree / 'pyproject.toml'}:{self.suite.group}"
        call([*pip, "install", "--group", group, *requirements, "-e", self.project], self.log)
        stamp.write_text(wanted.hexdigest())

    def unpack(self, folder: Path) -> Path:
        """A fresh copy of the sdist without the package itself, so that the tests import the installed one."""
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(self.sdist) as archive:
            top = f"{self.suite.name}-{self.suite.version}"
            wanted = [each for each in archive if not each.name.startswith(f"{top}/{self.suite.name}/")]
            strange = [each.name for each in wanted if not (each.isreg() or each.isdir()) or leads_out(each.name)]
            if strange:
                raise Broken(f"{self.sdist.name} holds what no sdist should: {', '.join(strange[:5])}")
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # it came with 3.11.4
            archive.extractall(folder, members=wanted, **safely)
        return folder / top


def leads_out(name: str) -> bool:
    """Whether a path in an archive leads out of the folder it is unpacked into."""
    return name.startswith("/") or ".." in Path(name).parts


# Running one


@dataclass
class Run:
    mode: str
    outcomes: dict[str, str]
    why: dict[str, str]
    seconds: float
    apps: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    tests: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        counts = Counter(self.outcomes.values())
        known = ("passed", "failed", "skipped", "xfailed", "xpassed")
        parts = ", ".join(f"{counts[name]} {name}" for name in known if counts[name] or name in known[:3])
        return f"{self.mode:<8}{len(self.outcomes)} tests: {parts} ({self.seconds:.0f} s)"


def run(shop: Workshop, mode: str, jobs: int, test: str | None = None) -> Run:
    """The suite, or one test or file of it, bare or with cops."""
    folder = CACHE / "runs" / f"{shop.suite.name}-{mode}{'-again' if test else ''}"
    tree = shop.unpack(folder)
    (folder / "sitecustomize.py").write_text(IN_CHILDREN)
    unwanted = ("PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "FORCE_COLOR", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    path = [folder, HERE, *(tree / name for name in shop.suite.path)]
    environment |= {
        "PATH": os.pathsep.join([str(shop.python.parent), environment.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "UPSTREAM_MODE": mode,
        "UPSTREAM_REPORT": str(folder),
    }
    command = [shop.python, "-m", "pytest", "-q", "-p", "wrap_plugin", "-p", "no:cacheprovider", "-p", "no:sugar"]
    command += ["-n", str(jobs), "--dist", "loadgroup", "--timeout", "60", *([test] if test else shop.suite.tests)]
    log = folder / "pytest.log"
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=tree, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            status: int | None = process.wait(RUN_LIMIT)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None and hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
    ended = f"after {RUN_LIMIT} s" if status is None else f"with status {status}"
    if status not in (0, 1) or not (folder / "outcomes.json").exists():
        raise Broken(f"{shop.suite.title}, {mode}: pytest did not come to its end, stopped {ended}: see {shown(log)}")
    result = Run(mode, **json.loads((folder / "outcomes.json").read_text()), seconds=time.monotonic() - started)
    for seen in (json.loads(file.read_text()) for file in folder.glob("witness-*.json")):
        result.apps += seen["apps"]
        result.calls.update(seen["calls"])
        result.tests.update(seen["tests"])
    return result


# Comparing two


def worse(bare: Run, cops: Run) -> list[str]:
    """What did better bare: fails now, or is not there now, or is skipped now."""

    def differs(test: str) -> bool:
        before, after = bare.outcomes.get(test, "absent"), cops.outcomes.get(test, "absent")
        return before not in ("failed", after) and after != "passed"

    return sorted(test for test in bare.outcomes.keys() | cops.outcomes.keys() if differs(test))


def again(shop: Workshop, mode: str, what: str) -> dict[str, str]:
    """The outcomes of one test or one file of tests, run by one worker; none if that run broke."""
    with contextlib.suppress(Broken):
        return run(shop, mode, 1, what).outcomes
    return {}


def is_flaky(shop: Workshop, mode: str, test: str, seen: dict[tuple[str, str], dict[str, str]]) -> tuple[bool, str]:
    """Whether the cop is not to blame, and what was seen.

    A test that passes alone may still fail because of what a cop kept from the tests before it. So it is flaky only if
    it does no worse with the cop among the tests of its file either, each time in their own order.
    """
    file, said = test.partition("::")[0], ""
    for company, what in (("alone", test), ("in its file", file)):
        ends = []
        for each in ("bare", mode):
            if (what, each) not in seen:
                seen[what, each] = again(shop, each, what)
            ends.append(seen[what, each].get(test, "absent"))
        said += f"; {company} {ends[0]} bare, {ends[1]} with the cop"
        if ends[1] == "absent" or (ends[1] != "passed" and ends[0] != ends[1]):
            return False, said
    return True, said


def compare(shop: Workshop, bare: Run, cops: Run) -> bool:
    """Print what differs; true if nothing does that counts."""
    suite, mode = shop.suite, cops.mode
    print(cops)
    calls = ", ".join(f"{cops.calls[kind]} {kind}" for kind in ("http", "websocket", "lifespan"))
    print(f"        {cops.apps} apps got a cop; calls that went into one: {calls}, from {len(cops.tests)} tests")
    candidates = worse(bare, cops)
    excused = EXCEPTIONS.get((suite.name, mode), {})
    for test, reason in excused.items():
        print(f"        exception: {test}: {reason}{'' if test in candidates else ' (did not differ this time)'}")
    candidates = [test for test in candidates if test not in excused]
    real: list[str] = []
    seen: dict[tuple[str, str], dict[str, str]] = {}
    for test in candidates:
        said = f"{bare.outcomes.get(test, 'absent')} bare, {cops.outcomes.get(test, 'absent')} with the cop"
        if len(candidates) <= AGAIN_AT_MOST:
            flaky, more = is_flaky(shop, mode, test, seen)
            said += more
            if flaky:
                print(f"        flaky, not counted: {test}: {said}")
                continue
        real.append(test)
        print(f"        FAILS ONLY WITH THE COP: {test}: {said}")
        last = [line for line in cops.why.get(test, "").splitlines() if line.startswith("E ")][:4]
        print("".join(f"            {line}\n" for line in last), end="")
    faults = [f"{len(real)} tests fail only with the cop"] if real else []
    if not cops.apps or not cops.calls["http"]:
        faults.append("no request went through a cop, so this run proves nothing")
    if bare.apps:
        faults.append("there were cops in the bare run")
    if min(len(bare.outcomes), len(cops.outcomes)) < suite.at_least:
        faults.append(f"fewer than {suite.at_least} tests were collected")
    good = "no failure that the bare run does not have"
    print(f"{suite.title}, {mode}: {'; '.join(faults) if faults else good}\n", flush=True)
    return not faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=SUITES)
    parser.add_argument("--mode", choices=("wrap", "limit", "install", "all"), default="all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes for pytest")
    parser.add_argument("--project", type=Path, default=REPOSITORY, help="the package under test, by its folder")
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    modes = ("wrap", "limit", "install") if options.mode == "all" else (options.mode,)
    good = True
    for suite in [SUITES[options.only]] if options.only else SUITES.values():
        try:
            shop = Workshop(suite, options.project.resolve())
            shop.set_up()
            print(f"{suite.title}, its own tests", flush=True)
            bare = run(shop, "bare", options.jobs)
            print(bare, flush=True)
            for test in [test for test, outcome in bare.outcomes.items() if outcome == "failed"][:5]:
                print(f"        fails without a cop, too: {test}", flush=True)
            for mode in modes:
                good &= compare(shop, bare, run(shop, mode, options.jobs))
        except Broken as reason:
            print(f"{reason}\n", flush=True)
            good = False
    return 0 if good else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
