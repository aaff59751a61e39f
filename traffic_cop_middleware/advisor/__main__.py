"""What a limit would have refused of an access log, and which limits would fit: for the command line.

python -m traffic_cop_middleware.advisor access.log --limit "100/minute" --by ip
python -m traffic_cop_middleware.advisor access.log.gz            # suggests a limit for each route
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from traffic_cop_middleware.advisor.log_advice import LogKwargs, simulate_log, suggest_limits
from traffic_cop_middleware.errors import ConfigurationError

EXAMPLES = """examples:
  LOG                                        suggest a limit for each route
  LOG --limit 100/minute                     whom it would refuse, by address
  LOG --route '/search=10/minute' --template /search --template '/items/{id}'
  LOG --limit 1000/hour --by field:tenant    of JSON lines
  zcat access.log.*.gz | … - --limit 100/minute
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was asked for; 0, or 2 where the arguments or the log can't be used."""
    given = _parser().parse_args(arguments)
    log = "/dev/stdin" if given.log == "-" else given.log
    try:
        reading: LogKwargs = {
            "format": given.format,
            "fields": _pairs(given.field, "--field time=ts"),
            "trusted_proxies": given.trusted_proxy,
            "templates": given.template,
            "window": given.window,
        }
        if given.app is not None:
            reading["app"] = _app(given.app)
        if given.limit or given.route or given.marks:
            found = simulate_log(
                log,
                given.limit,
                by=given.by,
                burst=given.burst,
                cost=given.cost,
                routes=_pairs(given.route, "--route '/search=10/minute'"),
                marks=given.marks,
                hash_keys=given.hash_keys,
                **reading,
            )
            print(json.dumps(asdict(found)) if given.json else found)
        else:
            _check_no_limit(given)
            suggested = suggest_limits(
                log,
                by=given.by,
                keep=given.keep,
                headroom=given.headroom,
                hash_keys=given.hash_keys,
                **reading,
            )
            for each in suggested:
                print(json.dumps(asdict(each)) if given.json else f"{each}\n")
    except ConfigurationError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m traffic_cop_middleware.advisor",
        usage="%(prog)s LOG [--limit RATE] [--by KEY] [more options: --help]",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="What a limit would have refused of an access log's requests, by an exact replay through the\n"
        "limiter. Without --limit and --route: a limit for each route, with its reason.",
    )
    add = parser.add_argument
    add(
        "log",
        help="common or combined format (nginx, Apache), or JSON lines (Caddy, nginx, our own); gzip or not; "
        "- for standard input",
    )
    add("--limit", action="append", default=[], metavar="RATE", help='"100/minute" or "10/second; 1000/day"; several')
    add("--route", action="append", default=[], metavar="TEMPLATE=RATE", help="a limit on a route: '/search=10/minute'")
    add(
        "--by", default="ip", metavar="KEY", help="ip (the default), user, route, everyone, or field:NAME of JSON lines"
    )
    add("--burst", type=float, help="the capacity of the limits' buckets, in tokens")
    add("--cost", type=float, default=1, help="tokens that a request takes")
    add("--app", metavar="MODULE:NAME", help="an app whose routes give paths their templates")
    add("--marks", action="store_true", help="what @limit says in the app counts too")
    add("--template", action="append", default=[], help="a route's template: '/items/{id}'; several")
    add("--format", default="auto", choices=("auto", "combined", "json"))
    add(
        "--field", action="append", default=[], metavar="PART=NAME", help="where JSON lines have what: time=ts; several"
    )
    add("--trusted-proxy", action="append", default=[], metavar="NETWORK", help="whose X-Forwarded-For is believed")
    add("--window", type=float, default=5.0, help="seconds by which lines may be out of order")
    add("--hash-keys", action="store_true", help="tell keys by names that only this run has")
    add("--keep", type=float, default=0.99, help="the share of usual keys that a suggestion never refuses")
    add("--headroom", type=float, default=1.5, help="how many times what they need a suggestion is")
    add("--json", action="store_true", help="print JSON")
    return parser


def _check_no_limit(given: argparse.Namespace) -> None:
    if given.burst is not None or given.cost != 1:
        raise ConfigurationError("--burst and --cost are of a limit: say which with --limit or --route")


def _pairs(given: Sequence[str], example: str) -> dict[str, str]:
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name or not value:
            raise ConfigurationError(f"{each!r} is not written as a name and a value, as in {example}")
        found[name] = value
    return found


def _app(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute or "app")
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError(f"--app {name}: {exc}. Write it as uvicorn does: 'package.module:app'") from exc


if __name__ == "__main__":
    # Nothing here makes cycles, and millions of small values live: looking through them took a quarter of the time.
    gc.set_threshold(100_000, 50, 100)
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # as under `| head`; what is left to be written goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
