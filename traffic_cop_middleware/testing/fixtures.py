"""pytest fixtures: load them by `pytest_plugins = ["traffic_cop_middleware.testing.fixtures"]`, or import them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Protocol

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.testing.clock import FakeClock

__all__ = ["OpenClient", "fake_clock", "memory_backend", "open_client"]


class OpenClient(Protocol):
    """What the fixture `open_client` gives."""

    def __call__(
        self,
        app: ASGIApp,
        *,
        address: str = "203.0.113.7",
        headers: Mapping[str, str] | None = None,
        raise_server_exceptions: bool = True,
    ) -> TestClient:
        """A client of `app` that calls from `address`; its `headers` go with every request."""
        ...


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that stands still until `fake_clock.advance(seconds)`."""
    return FakeClock()


@pytest.fixture
def memory_backend(fake_clock: FakeClock) -> MemoryBackend:
    """A memory backend whose buckets refill by `fake_clock`: `TrafficCop(memory_backend, limits="2/minute")`."""
    return MemoryBackend(clock=fake_clock)


@pytest.fixture
def open_client() -> Iterator[OpenClient]:
    """`open_client(app)`: a TestClient over https, so that Secure cookies hold.

    The app's lifespan starts with the call and ends with the test; all of the client's requests run on one event loop.
    """
    with ExitStack() as opened:

        def client(
            app: ASGIApp,
            *,
            address: str = "203.0.113.7",
            headers: Mapping[str, str] | None = None,
            raise_server_exceptions: bool = True,
        ) -> TestClient:
            return opened.enter_context(
                TestClient(
                    app,
                    base_url="https://testserver",
                    client=(address, 50_000),
                    headers=dict(headers or {}),
                    raise_server_exceptions=raise_server_exceptions,
                )
            )

        yield client
