"""A pytest plugin that puts a cop around every app a test talks to, and writes down how each test ended.

PYTEST_DONT_REWRITE

`run.py` loads it into both runs of a suite, the bare one too, so that the two differ in nothing but the cop. What it
does is said by two environment variables: UPSTREAM_MODE is `bare`, `wrap`, `limit` or `install`, UPSTREAM_REPORT is the
folder for its reports.

`wrap` puts `TrafficCop().wrap(app)` where a client hands a request over to the app, and nowhere else. What a test
reaches through its client (`client.app`, `client.app.state`) stays the app it made. Apps in the old ASGI 2 style are
wrapped after Starlette's client has adapted them.

`limit` wraps as well, with a cop that takes tokens for every request (and has enough of them): the whole path of a
request without the response fields, which exact comparisons of headers would see.

`install` calls `TrafficCop().install(app)` just before a Starlette or FastAPI app builds its middleware stack, mounted
apps included, so that the cop is the outermost of the app's own middlewares.

Some tests start a fresh interpreter. `run.py` lets those import this module at their start, so their apps are wrapped
as well.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import httpx
import httpx2
import pytest
import starlette.applications
import starlette.testclient

MODE = os.environ["UPSTREAM_MODE"]
REPORT = Path(os.environ["UPSTREAM_REPORT"])
PACKAGE = "traffic_cop_middleware"
if MODE != "bare":  # and now, as a program does, not at the first request
    from traffic_cop_middleware import TrafficCop


# The proof that the cop was there


class Witness:
    """Counts the apps that got a cop, and the calls that went into one, by kind of scope."""

    def __init__(self) -> None:
        self.apps = 0
        self.calls: Counter[str] = Counter()
        self.tests: set[str] = set()
        self._watched: set[type] = set()

    def watch(self, cop: object) -> None:
        """Count the calls of the class of `cop`, which must be one of the package's own.

        The counter sits on the class and not around the object: another object around the cop could hide what it is
        from code that looks for it.
        """
        kind = next(kind for kind in type(cop).__mro__ if "__call__" in vars(kind))
        if not kind.__module__.startswith(PACKAGE):
            raise AssertionError(f"{kind.__module__}.{kind.__qualname__} is not of {PACKAGE}: there is no cop here")
        self.apps += 1
        if kind in self._watched:
            return
        self._watched.add(kind)
        call: Callable[..., Any] = kind.__call__  # type: ignore[operator]

        @functools.wraps(call)
        async def counted(itself: Any, scope: Any, receive: Any, send: Any) -> None:
            self.calls[scope["type"]] += 1
            if scope["type"] != "lifespan":
                self.tests.add(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0])
            await call(itself, scope, receive, send)

        kind.__call__ = counted  # type: ignore[operator]

    def write(self) -> None:
        """One file a process; a later call replaces what an earlier one wrote."""
        if self.apps:
            seen = {"apps": self.apps, "calls": self.calls, "tests": sorted(self.tests - {""})}
            (REPORT / f"witness-{os.getpid()}.json").write_text(json.dumps(seen))


witness = Witness()
atexit.register(witness.write)


# Mode `wrap`


def wrap(app: Any) -> Any:
    cop = TrafficCop(limits="1000000000/second", limits_fields=False) if MODE == "limit" else TrafficCop()
    wrapped = cop.wrap(app)
    witness.watch(wrapped)
    return wrapped


def wrap_transport(transport: type) -> None:
    """Let the transport send its requests to a wrapped app."""
    init: Callable[..., None] = transport.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def wrapping(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.app = wrap(self.app)

    transport.__init__ = wrapping  # type: ignore[misc]


class WithWrappedApp:
    """A test client as its own `lifespan` sees it: all of it as it is, but for the app that the transport wrapped."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.app = client._transport.app

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)


def wrap_clients() -> None:
    client = starlette.testclient.TestClient
    lifespan: Callable[..., Any] = client.lifespan

    @functools.wraps(lifespan)
    async def wrapped_lifespan(self: Any) -> None:
        await lifespan(WithWrappedApp(self))

    client.lifespan = wrapped_lifespan  # type: ignore[method-assign]
    for transport in (starlette.testclient._TestClientTransport, httpx.ASGITransport, httpx2.ASGITransport):
        wrap_transport(transport)


# Mode `install`


def install_in_every_app() -> None:
    """Make every class that builds a middleware stack install a cop first.

    Subclasses are met as they are defined, FastAPI among them. So nothing here imports FastAPI before a test does; some
    tests are about what its import does.
    """
    base = starlette.applications.Starlette
    done: WeakSet[Any] = WeakSet()

    def patch(kind: type) -> None:
        build = vars(kind).get("build_middleware_stack")
        if build is None:
            return

        @functools.wraps(build)
        def building(self: Any) -> Any:
            if self in done:
                return build(self)
            done.add(self)
            TrafficCop().install(self)
            stack = build(self)
            witness.watch(find_cop(stack))
            return stack

        kind.build_middleware_stack = building  # type: ignore[attr-defined]

    def on_subclass(cls: type, **kwargs: Any) -> None:
        super(base, cls).__init_subclass__(**kwargs)
        patch(cls)

    patch(base)
    base.__init_subclass__ = classmethod(on_subclass)  # type: ignore[assignment]


def find_cop(stack: Any) -> object:
    """The cop in a built stack, or its innermost app, for `watch` to complain of."""
    while not type(stack).__module__.startswith(PACKAGE) and hasattr(stack, "app"):
        stack = stack.app
    return stack


# How the tests ended


class Outcomes:
    """Per test the worst of set-up, call and tear-down. Only in the process that sees the reports of all workers."""

    RANK = ("passed", "xpassed", "xfailed", "skipped", "failed")

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}
        self.why: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = str(report.outcome)
        if hasattr(report, "wasxfail"):
            outcome = {"skipped": "xfailed", "passed": "xpassed"}.get(outcome, outcome)
        # xdist's --dist loadgroup adds "@group" to the name.
        name = report.nodeid
        if name.rfind("@") > name.rfind("]"):
            name = name.rpartition("@")[0]
        self.note(name, outcome, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.note(report.nodeid, "failed", report)

    def note(self, name: str, outcome: str, report: Any) -> None:
        if self.RANK.index(outcome) >= self.RANK.index(self.seen.get(name, "passed")):
            self.seen[name] = outcome
            if outcome == "failed":
                self.why[name] = report.longreprtext

    def pytest_sessionfinish(self) -> None:
        (REPORT / "outcomes.json").write_text(json.dumps({"outcomes": self.seen, "why": self.why}))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(), "upstream-outcomes")


def pytest_sessionfinish() -> None:
    witness.write()  # a worker of xdist need not come as far as atexit


if MODE in ("wrap", "limit"):
    wrap_clients()
elif MODE == "install":
    install_in_every_app()
