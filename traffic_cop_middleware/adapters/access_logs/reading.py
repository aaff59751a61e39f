"""Reads an access log as it streams by: gzip or not, with lines of bounded length; bad ones are counted."""

from __future__ import annotations

import codecs
import gzip
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from stat import S_ISREG
from typing import IO, Literal, cast

from traffic_cop_middleware.adapters.access_logs.json_lines import JsonLines
from traffic_cop_middleware.adapters.access_logs.lines import UVICORN, parse_line
from traffic_cop_middleware.contracts.access_log import LoggedRequest
from traffic_cop_middleware.errors import ConfigurationError

LogFormat = Literal["auto", "combined", "json"]
FORMATS: tuple[LogFormat, ...] = ("auto", "combined", "json")
LONGEST_LINE = 64 * 1024
"""Bytes of a line; a longer one is a bad one, and no more of it is kept than this."""
GZIP = b"\x1f\x8b"
PATIENCE = 1000
"""Bad lines at the beginning of a log, without a good one among them, after which it is taken for another format."""


class AccessLog:
    """An access log that can be read several times, from its path.

    `format`: "combined" (also the common format, and nginx's `main`), "json", or "auto": as each line looks.
    `fields` names the fields of JSON lines (see `JsonLines`). After a reading, `lines` says how many there were, and
    `bad` how many of them could not be used, with the first of them in `first_bad`: its number and why.

    Raises:
        ConfigurationError: the format or a field is none that there is.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        format: LogFormat = "auto",
        fields: Mapping[str, str] | None = None,
        behind_proxies: bool = False,
    ) -> None:
        if format not in FORMATS:
            raise ConfigurationError(f"format={format!r} is none of {', '.join(map(repr, FORMATS))}")
        self._path = Path(path)
        self._read: tuple[int, int, int] | None = None
        """The file that was read before, and how many lines it had."""
        self._format = format
        self._json = JsonLines(fields, behind_proxies=behind_proxies)
        self.lines = 0
        self.bad = 0
        self.first_bad = ""

    def __iter__(self) -> Iterator[LoggedRequest]:
        """The requests in the order of their lines.

        Raises:
            ConfigurationError: the file can't be read, or nothing in it is an access log's line.
        """
        self.lines = self.bad = 0
        self.first_bad = ""
        parse = self._parser()
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                known = self._read
                if known is not None and known[:2] != (stat.st_dev, stat.st_ino):
                    raise ConfigurationError(self._rotated())
                yield from self._requests(_unpacked(file), parse, most=None if known is None else known[2])
                if S_ISREG(stat.st_mode) and os.fstat(file.fileno()).st_size < file.tell():
                    raise ConfigurationError(self._rotated())
                if known is not None and self.lines != known[2]:
                    raise ConfigurationError(self._rotated())
                self._read = stat.st_dev, stat.st_ino, self.lines
        except (OSError, EOFError, zlib.error) as exc:
            raise ConfigurationError(f"the access log {str(self._path)!r} can't be read: {exc}") from exc
        if not self.lines:
            raise ConfigurationError(f"the access log {str(self._path)!r} is empty: there is nothing to learn from it")
        if self.bad == self.lines:
            raise ConfigurationError(self._nothing_good())

    def _requests(
        self, file: IO[bytes], parse: Callable[[str], LoggedRequest], *, most: int | None
    ) -> Iterator[LoggedRequest]:
        # Of a log that is written meanwhile, a second reading takes the lines of the first.
        while self.lines != most and (line := file.readline(LONGEST_LINE)):
            if not self.lines:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.isspace():
                continue
            self.lines += 1
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                self._count_bad(f"longer than {LONGEST_LINE} bytes")
                while (more := file.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
                    continue
                continue
            try:
                request = parse(line.decode("utf-8", "replace"))
            except (ValueError, OverflowError, RecursionError) as exc:
                if UVICORN.match(line.decode("utf-8", "replace")):
                    raise ConfigurationError(
                        f"line {self.lines} of {str(self._path)!r} is of uvicorn's own access log, which has no time: "
                        "nothing can be replayed from it. Log through a proxy, or by TrafficCop(metrics=True, "
                        "metrics_access_log=True), whose lines have one"
                    ) from None
                self._count_bad(str(exc))
                continue
            yield request

    def _parser(self) -> Callable[[str], LoggedRequest]:
        if self._format == "combined":
            return parse_line
        if self._format == "json":
            return self._json.parse
        return lambda text: self._json.parse(text) if text[0] == "{" else parse_line(text)

    def _count_bad(self, why: str) -> None:
        self.bad += 1
        if not self.first_bad:
            self.first_bad = f"line {self.lines}: {why}"
        if self.bad == self.lines == PATIENCE:
            raise ConfigurationError(self._nothing_good())

    def _rotated(self) -> str:
        return (
            f"the access log {str(self._path)!r} was rotated or emptied while it was read: give the file that it was "
            "moved to"
        )

    def _nothing_good(self) -> str:
        asked = "" if self._format == "auto" else f"format={self._format!r} was asked for; without it each line tells. "
        return (
            f"none of the first {self.lines} lines of {str(self._path)!r} could be read as an access log "
            f"({self.first_bad}). {asked}It takes the common and combined formats of nginx and Apache, and JSON lines, "
            "whose fields can be named: fields={'time': 'ts', 'client': 'remote_ip', 'path': 'uri'}, or on the command "
            "line --field time=ts"
        )


def _unpacked(file: BufferedReader) -> IO[bytes]:
    packed = file.peek(2).startswith(GZIP)  # no seek: it may be a pipe
    return cast("IO[bytes]", gzip.open(file)) if packed else file
