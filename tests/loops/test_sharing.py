"""What several threads open, share and close at once for one URL."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.loops.crew import Crew
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.composition.sharing import Handle
from traffic_cop_middleware.contracts import Event

THREADS = 4


class Product:
    def __init__(self) -> None:
        self.open = 0

    async def connect(self, *, patience: float = 1.0) -> None:
        self.open += 1
        assert self.open == 1

    async def close(self) -> None:
        self.open -= 1


def handle_of(name: str, new: Callable[[], Product] = Product) -> Handle[Product]:
    def opener(url: str) -> Any:
        return lambda url, **settings: new()

    return Handle(
        f"memory://{name}",
        kind="tests",
        opener=opener,
        loop=None,
        namespace="",
        deadline=1,
        notify=lambda event: None,
    )


def test_threads_that_name_one_url_at_once_share_what_is_opened() -> None:
    both = threading.Barrier(2)
    handles: list[Handle[Product]] = []

    def new() -> Product:
        # The other one is looking too, or waits for this one.
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        return Product()

    Crew([lambda: handles.append(handle_of("both", new))] * 2)
    assert handles[0].product is handles[1].product


def test_what_a_thread_is_about_to_join_no_other_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = handle_of("joined"), handle_of("joined")
    asyncio.run(first.connect(patience=1))
    subscribe = Observers.subscribe

    def while_the_first_one_closes(observers: Observers, observer: Any) -> Callable[[], None]:
        Crew([lambda: asyncio.run(first.close())])
        return subscribe(observers, observer)

    with monkeypatch.context() as patch:
        patch.setattr(Observers, "subscribe", while_the_first_one_closes)
        asyncio.run(second.connect(patience=1))
    assert second.product.open == 1
    assert second.product is handle_of("joined").product
    asyncio.run(second.close())
    assert second.product.open == 0
    assert second.product is not handle_of("joined").product


@pytest.mark.usefixtures("often_switched")
def test_what_threads_open_and_close_at_once_is_open_while_they_have_it() -> None:
    async def scenario() -> None:
        for _ in range(400):
            handle = handle_of("at-once")
            await handle.connect(patience=1)
            assert handle.product.open == 1
            await asyncio.sleep(0)
            assert handle.product.open == 1
            await handle.close()

    Crew([lambda: asyncio.run(asyncio.wait_for(scenario(), 25))] * THREADS)


@pytest.mark.usefixtures("often_switched")
def test_who_begins_to_listen_while_others_end_it_is_told() -> None:
    observers = Observers()

    def work() -> None:
        me = threading.get_ident()
        for number in range(2_000):
            heard: list[Any] = []

            def hear(event: Event, heard: list[Any] = heard) -> None:
                if event.attributes["by"] == me:  # what another thread began to tell before the end may come after it
                    heard.append(event.attributes["number"])

            stop = observers.subscribe(hear)
            observers.emit("told", {"by": me, "number": number})
            stop()
            observers.emit("told", {"by": me, "number": -1})
            assert heard == [number]

    Crew([work] * THREADS)
    assert not observers._observers
