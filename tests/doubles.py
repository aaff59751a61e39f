"""What doubles of servers have in common: real HTTP/1.1 with kept connections, on a port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HttpDouble:
    """A server that is there from the start; what it says is its `answer`."""

    def __init__(self) -> None:
        self._thawed = threading.Event()
        self._thawed.set()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def handle_any(self) -> None:
                with contextlib.suppress(OSError):  # who asked has given up
                    double.answer(self)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                """The tests say what went wrong."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.thaw()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def freeze(self) -> None:
        """From now on it takes connections and requests, and answers none until `thaw`."""
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()
