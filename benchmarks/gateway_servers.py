"""The servers of gateway.py: a real nginx as upstream, and each proxy before it, alone on the first core."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.request import urlopen

from gateway_apps import BODIES
from harness import CONNECTIONS, FIRST_CORE, HERE, HOST, BenchmarkError, end, environment, free_port, need

GIB = 1024**3

NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    default_type text/plain;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{inside}
}}
"""

UPSTREAM = """
    server {{
        listen {host}:{first} backlog=1024;
        listen {host}:{second} backlog=1024;
        root .;
        location = /files/100 {{ return 200 "{small}"; }}
        location = /files/said {{ return 200 "for=$http_x_forwarded_for via=$http_via"; }}
    }}
"""

FORWARDING = """
    upstream service {{ server {host}:{first}; server {host}:{second}; keepalive {connections}; }}
    server {{
        listen {host}:{port} backlog=1024;
        location /files/ {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
        }}
    }}
"""

CADDY = """
{{
    admin off
    auto_https off
}}
http://{host}:{port} {{
    bind {host}
    reverse_proxy /files/* {host}:{first} {host}:{second} {{
        lb_policy round_robin
    }}
}}
"""


class Server:
    """A process of ours, in a folder of its own that goes with it. `with Upstream() as upstream:`"""

    name: str

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="traffic-cop-bench-")
        self.path = Path(self.folder.name)
        self.log = (self.path / "log").open("wb+")

    def start(self, command: list[str], port: int, **variables: str) -> None:
        """Run it, and wait until it takes connections.

        Raises:
            BenchmarkError: it does not within 20 s; the message has what it said.
        """
        self.process = subprocess.Popen(
            command, cwd=self.path, env=environment(**variables), stdout=self.log, stderr=self.log
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                return
            time.sleep(0.02)
        said = self.said()
        self.__exit__()
        raise BenchmarkError(f"{self.name} did not come up\n{said}")

    def said(self) -> str:
        """The end of what it wrote, for messages."""
        self.log.flush()
        return (self.path / "log").read_text(errors="replace")[-2000:]

    def start_nginx(self, inside: str, port: int, *before: str) -> None:
        (self.path / "nginx.conf").write_text(NGINX.format(inside=inside))
        folder = f"{self.path}/"
        self.start([*before, need("nginx", "nginx-light"), "-p", folder, "-c", f"{folder}nginx.conf"], port)

    def __exit__(self, *_: object) -> None:
        end(self.process)
        self.log.close()
        self.folder.cleanup()


class Upstream(Server):
    """nginx on two ports, as two instances of one service: 100 bytes, 64 KiB, and a file of 1 GiB without content."""

    name = "the upstream nginx"

    def __enter__(self) -> Self:
        self.ports = free_port(), free_port()
        self.urls = [f"http://{HOST}:{port}" for port in self.ports]
        files = self.path / "files"
        files.mkdir()
        (files / "64k").write_bytes(BODIES["/files/64k"])
        with (files / "1g").open("wb") as file:
            file.truncate(GIB)
        first, second = self.ports
        small = BODIES["/files/100"].decode()
        self.start_nginx(UPSTREAM.format(host=HOST, first=first, second=second, small=small), first)
        return self


class Proxy(Server):
    """One proxy before the upstream, pinned to the first core from its start, so that all its threads are."""

    def __init__(self, name: str, upstream: Upstream) -> None:
        super().__init__()
        self.name = name
        self.upstream = upstream
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        first, second = self.upstream.ports
        pin = [need("taskset", "util-linux"), "-c", ",".join(map(str, FIRST_CORE))]
        if self.name == "nginx":
            inside = FORWARDING.format(host=HOST, port=self.port, first=first, second=second, connections=CONNECTIONS)
            self.start_nginx(inside, self.port, *pin)
        elif self.name == "caddy":
            (self.path / "Caddyfile").write_text(CADDY.format(host=HOST, port=self.port, first=first, second=second))
            folder = str(self.path)
            command = [need("caddy", "caddy"), "run", "--config", "Caddyfile", "--adapter", "caddyfile"]
            own = {"HOME": folder, "XDG_CONFIG_HOME": folder, "XDG_DATA_HOME": folder, "GOMAXPROCS": "1"}
            self.start([*pin, *command], self.port, **own)
        else:
            command = [sys.executable, str(HERE / "gateway_apps.py"), self.name, str(self.port), *self.upstream.urls]
            self.start([*pin, *command], self.port)
        self.check()
        return self

    def check(self) -> None:
        """See that it is what it is measured as: right bodies, and for ours the forwarding headers.

        Raises:
            BenchmarkError: it is not.
        """
        wrong = ""
        try:
            wrong = next((f"{path} has another body" for path, body in BODIES.items() if self.fetch(path) != body), "")
            if self.name in ("ours", "nginx", "caddy"):
                said = self.fetch("/files/said").decode()
                if f"for={HOST}" not in said or (self.name == "ours" and "via=1.1 traffic-cop" not in said):
                    wrong = f"it sends no forwarding headers: {said}"
        except OSError as error:
            wrong = str(error)
        if wrong:
            said = self.said()
            self.__exit__()
            raise BenchmarkError(f"{self.name}: {wrong}\n{said}")

    def fetch(self, path: str) -> bytes:
        with urlopen(self.url + path, timeout=10) as response:
            body: bytes = response.read()
            return body

    @property
    def pid(self) -> int:
        return self.process.pid


def version(program: str, *arguments: str) -> str:
    """The first thing that looks like a version in what a program says of itself."""
    found = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=10, check=False)
    number = re.search(r"\d+\.\d+[.\w]*", found.stdout + found.stderr)
    return f"{os.path.basename(program)} {number[0] if number else 'of unknown version'}"
