"""A real PostgreSQL under a real PostgREST, as Supabase has them, and a gateway in front that may fail.

PostgreSQL is the system's (`TRAFFIC_COP_POSTGRES_BIN` names the folder of its programs, else PATH, else Debian's);
PostgREST is the binary that `TRAFFIC_COP_POSTGREST` names, or the one on PATH, or the one that scripts/test.py fetches.
"""

from __future__ import annotations

import contextlib
import glob
import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jwt
import pytest

from tests.servers import START_DEADLINE, free_port
from traffic_cop_middleware.adapters.supabase import migration_sql

JWT_SECRET = "a-secret-of-the-tests-with-more-than-32-characters"
FETCHED = Path(__file__).resolve().parents[1] / ".venv" / "postgrest" / "postgrest"

# What a Supabase project has before anybody adds to it: its roles, and that they get all rights on whatever is made.
PROJECT = """
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit;
grant anon, authenticated, service_role to authenticator;
grant usage on schema public to anon, authenticated, service_role;
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
"""


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres."""
    named = os.environ.get("TRAFFIC_COP_POSTGRES_BIN")
    if named:
        return Path(named)
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    debian = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: float(path.split("/")[4]))
    return Path(debian[-1]).parent if debian else None


def postgrest_binary() -> str | None:
    """The PostgREST to run."""
    fetched = str(FETCHED) if FETCHED.exists() else None
    return os.environ.get("TRAFFIC_COP_POSTGREST") or shutil.which("postgrest") or fetched


def require_postgrest() -> tuple[Path, str]:
    """Both, or a skip; a failure where TRAFFIC_COP_REQUIRE_SERVERS says that servers must be there."""
    programs, binary = postgres_programs(), postgrest_binary()
    if programs is None or binary is None:
        missing = "no PostgreSQL: apt-get install postgresql" if programs is None else "no PostgREST: scripts/test.py"
        if os.environ.get("TRAFFIC_COP_REQUIRE_SERVERS") == "1":
            pytest.fail(f"TRAFFIC_COP_REQUIRE_SERVERS=1, and there is {missing}")
        pytest.skip(missing)
    return programs, binary


def token(role: str, *, secret: str = JWT_SECRET, **claims: Any) -> str:
    """A key for a role of the database, as a project's owner mints it."""
    return jwt.encode({"role": role, "exp": int(time.time()) + 3600, **claims}, secret, algorithm="HS256")


class Postgres:
    """A PostgreSQL on a Unix socket, in a folder of its own. It forgets what it has when it ends."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self.folder = folder
        user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        if user is not None:
            shutil.chown(folder, user)
        self._user: dict[str, Any] = {"user": user, "cwd": folder}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        data = str(self.folder / "data")
        initdb = [str(self._programs / "initdb"), "-D", data, "-U", "postgres", "--auth=trust", "--no-sync"]
        subprocess.run(
            [*initdb, "--encoding=UTF8", "--locale=C"], check=True, stdout=subprocess.DEVNULL, timeout=300, **self._user
        )
        options = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "listen_addresses": ""}
        options |= {"unix_socket_directories": str(self.folder), "autovacuum": "off", "max_connections": "40"}
        given = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with open(self.folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", data, *given], stdout=log, stderr=log, **self._user
            )
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(subprocess.CalledProcessError):
                self.sql("select 1")
                return
            time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def sql(self, text: str) -> list[str]:
        """Run SQL as the superuser; the lines that it gives."""
        command = [str(self._programs / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(
            [*command, "-h", str(self.folder), "-U", "postgres", "-d", "postgres"],
            input=text.encode(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, "psql", stderr=done.stderr)
        return done.stdout.decode().splitlines()

    def end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once, and its children with it
            self._process.wait(timeout=30)


class Fault(NamedTuple):
    """What happens to the next request whose method and path begin so: `lost`: it is done, and the connection ends
    without a reply; `cut`: the connection ends before it is done; `slow`: it waits until the gateway closes; a number
    is answered as a status, by a page that is no JSON."""

    what: Literal["lost", "cut", "slow"] | int
    method: str
    path: str


class Gateway:
    """What stands in front of PostgREST: `/rest/v1`, and faults in their order."""

    def __init__(self, upstream: int) -> None:
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                self.upstream = http.client.HTTPConnection("127.0.0.1", upstream, timeout=60)

            def finish(self) -> None:
                self.upstream.close()
                super().finish()

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                path = self.path.removeprefix("/rest/v1")
                fault = gateway._fault(self.command, path, dict(self.headers))
                if fault == "slow":
                    gateway.closing.wait(30)
                if fault in ("slow", "cut"):
                    self.close_connection = True
                    return
                if isinstance(fault, int):
                    self.reply(fault, [("content-type", "text/html")], b"<h1>Not now</h1>")
                    return
                fields = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                self.upstream.request(self.command, path, body=body or None, headers=fields)
                got = self.upstream.getresponse()
                content = got.read()
                if fault == "lost":
                    self.close_connection = True
                    return
                self.reply(got.status, got.getheaders(), content)

            def reply(self, status: int, fields: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                for name, value in fields:
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_DELETE = do_HEAD = do

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.port: int = self._server.server_address[1]

    def _fault(self, method: str, path: str, fields: dict[str, str]) -> str | int | None:
        with self._lock:
            self.requests.append((method, path, fields))
            for fault in self.faults:
                if method == fault.method and path.startswith(fault.path):
                    self.faults.remove(fault)
                    return fault.what
        return None

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class Project:
    """A Supabase project, as far as we need one: the database, PostgREST, and gateways in front of it."""

    def __init__(self, postgres: Postgres, port: int) -> None:
        self.postgres = postgres
        self.port = port

    @contextlib.contextmanager
    def gateway(self) -> Iterator[Gateway]:
        """A gateway of one test's own."""
        gateway = Gateway(self.port)
        try:
            yield gateway
        finally:
            gateway.close()

    def ask(
        self, method: str, path: str, *, key: str | None, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """A request straight to PostgREST, without a client of ours: its status and content."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            fields["authorization"] = f"Bearer {key}"
        if body is not None:
            fields["content-type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=fields)
            got = connection.getresponse()
            return got.status, got.read()
        finally:
            connection.close()


@contextlib.contextmanager
def running_postgrest(binary: str, postgres: Postgres, database: str = "postgres") -> Iterator[int]:
    """The port of a PostgREST over that database."""
    port = free_port()
    environment = {
        "PGRST_DB_URI": f"postgresql://authenticator@/{database}?host={postgres.folder}",
        "PGRST_DB_ANON_ROLE": "anon",
        "PGRST_DB_SCHEMAS": "public",
        "PGRST_DB_MAX_ROWS": "1000",
        "PGRST_JWT_SECRET": JWT_SECRET,
        "PGRST_SERVER_HOST": "127.0.0.1",
        "PGRST_SERVER_PORT": str(port),
        "PATH": os.environ.get("PATH", ""),
    }
    with open(postgres.folder / "postgrest.log", "wb") as log:
        process = subprocess.Popen([binary], env=environment, stdout=log, stderr=log)
    try:
        _wait_until(lambda: _status(port) not in (None, 503), process, postgres.folder / "postgrest.log")
        yield port
    finally:
        process.kill()
        process.wait(timeout=30)


def _status(port: int) -> int | None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request(
                "GET", "/state_files?limit=0", headers={"authorization": f"Bearer {token('traffic_cop')}"}
            )
            return connection.getresponse().status
        finally:
            connection.close()
    return None


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        if ready():
            return
        time.sleep(0.05)
    raise RuntimeError(f"PostgREST did not start: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def running_project() -> Iterator[Project]:
    """A project with our migration in it, ended afterwards."""
    programs, binary = require_postgrest()
    folder = Path(tempfile.mkdtemp(prefix="tc-pg-"))  # short: the path of a socket has at most 107 bytes
    postgres = Postgres(programs, folder)
    try:
        folder.chmod(0o755)
        postgres.start()
        postgres.sql(PROJECT)
        for _ in range(2):  # it may be run again
            postgres.sql(migration_sql())
        with running_postgrest(binary, postgres) as port:
            yield Project(postgres, port)
    finally:
        postgres.end()
        shutil.rmtree(folder, ignore_errors=True)
