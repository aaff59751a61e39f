"""What every `MessageBus` does, as tests: subclass them for a backend of your own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from traffic_cop_middleware.contracts import Message, MessageBus

DELIVERY = 30.0
"""Seconds that a message may take before a test fails. Generous: the suite asks what is told, not how fast."""


async def published(bus: MessageBus, topic: str, payload: str) -> int:
    """The version, from a bus that answers at once and from one that gives something to await."""
    version = bus.publish(topic, payload)
    return await version if isinstance(version, Awaitable) else version


async def comes_about(condition: Callable[[], object], deadline: float = DELIVERY) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"did not come about within {deadline} s"
        await asyncio.sleep(0.005)


class Hearing:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def payloads(self) -> list[str | None]:
        return [message.payload for message in self.messages]

    @property
    def versions(self) -> list[int]:
        return [message.version for message in self.messages]

    async def hears(self, *payloads: str | None) -> None:
        """Wait for so many messages: they are these, in this order, and no others."""
        await comes_about(lambda: len(self.messages) >= len(payloads))
        assert self.payloads == list(payloads)


async def listening(bus: MessageBus, topic: str, listener: Callable[[Message], None]) -> Callable[[], None]:
    """Subscribe, and wait until the store knows: from then on what other workers publish is heard as well."""
    unsubscribe = bus.subscribe(topic, listener)
    await heard(bus)
    return unsubscribe


async def heard(bus: MessageBus) -> None:
    """Wait until the store knows all that it was told so far: each part of it, where topics lie on several servers."""
    for number in range(6):  # by their slots they lie on every third of a Redis Cluster
        await published(bus, f"the store has heard {number}", "")


class MessageBusContract:
    """Every promise of `MessageBus`, on the buses that a subclass gives.

    Needs pytest-asyncio. Give a fixture `buses`: those of several workers on one store that nobody else uses, or one
    bus where the store is this process::

        class TestMyBus(MessageBusContract):
            @pytest_asyncio.fixture
            async def buses(self) -> AsyncIterator[Sequence[MessageBus]]:
                backends = [MyBackend(...) for _ in range(3)]
                for backend in backends:
                    await backend.connect()
                yield [backend.bus for backend in backends]
                for backend in backends:
                    await backend.close()

    What a store does when notifications get lost or its log is too short is for tests of its own.
    """

    @pytest.mark.asyncio
    async def test_a_message_is_heard_with_its_topic_version_and_payload(self, buses: Sequence[MessageBus]) -> None:
        hearing = Hearing()
        buses[0].subscribe("limits", hearing)
        assert await published(buses[0], "limits", "100/minute") == 1
        await hearing.hears("100/minute")
        assert hearing.messages == [Message("limits", 1, "100/minute")]

    @pytest.mark.asyncio
    async def test_all_listeners_on_all_workers_hear_it_the_publishers_own_included(
        self, buses: Sequence[MessageBus]
    ) -> None:
        hearings = [(bus, Hearing()) for bus in buses for _ in range(2)]
        for bus, hearing in hearings:
            await listening(bus, "routes", hearing)
        for bus in buses:
            await published(bus, "routes", "changed")
        for _, hearing in hearings:
            await hearing.hears(*["changed"] * len(buses))

    @pytest.mark.asyncio
    async def test_versions_count_the_messages_of_a_topic_from_one(self, buses: Sequence[MessageBus]) -> None:
        hearing = Hearing()
        await listening(buses[0], "counted", hearing)
        assert [await published(buses[-1], "counted", str(number)) for number in range(5)] == [1, 2, 3, 4, 5]
        await hearing.hears("0", "1", "2", "3", "4")
        assert hearing.versions == [1, 2, 3, 4, 5]

    @pytest.mark.asyncio
    async def test_messages_of_other_topics_are_neither_heard_nor_counted(self, buses: Sequence[MessageBus]) -> None:
        hearing, other = Hearing(), Hearing()
        buses[0].subscribe("one", hearing)
        buses[0].subscribe("one:more", other)
        assert await published(buses[0], "one:more", "to the other") == 1
        assert await published(buses[0], "one", "to this one") == 1
        await hearing.hears("to this one")
        await other.hears("to the other")

    @pytest.mark.asyncio
    async def test_messages_from_before_the_subscription_are_not_heard(self, buses: Sequence[MessageBus]) -> None:
        earlier, later = Hearing(), Hearing()
        await listening(buses[0], "late", earlier)
        for payload in ("first", "second"):
            await published(buses[-1], "late", payload)
        await listening(buses[0], "late", later)
        assert await published(buses[-1], "late", "third") == 3
        await later.hears("third")
        await earlier.hears("first", "second", "third")

    @pytest.mark.asyncio
    async def test_what_this_worker_publishes_right_after_subscribing_is_heard(
        self, buses: Sequence[MessageBus]
    ) -> None:
        hearing = Hearing()
        before = buses[0].publish("at once", "before")
        buses[0].subscribe("at once", hearing)
        after = buses[0].publish("at once", "after")
        assert [await one if isinstance(one, Awaitable) else one for one in (before, after)] == [1, 2]
        await hearing.hears("after")

    @pytest.mark.asyncio
    async def test_nothing_is_heard_after_the_subscription_was_ended(self, buses: Sequence[MessageBus]) -> None:
        ended, staying = Hearing(), Hearing()
        end = await listening(buses[0], "ended", ended)
        await listening(buses[0], "ended", staying)
        await published(buses[0], "ended", "one")
        await ended.hears("one")
        end()
        await published(buses[0], "ended", "two")
        await staying.hears("one", "two")
        assert ended.payloads == ["one"]
        end()  # a second time does nothing
        await published(buses[0], "ended", "three")
        await staying.hears("one", "two", "three")

    @pytest.mark.asyncio
    async def test_the_last_listener_may_leave_and_another_come(self, buses: Sequence[MessageBus]) -> None:
        for turn in range(3):
            hearing = Hearing()
            end = await listening(buses[0], "revolving", hearing)
            assert await published(buses[-1], "revolving", str(turn)) == 2 * turn + 1
            await hearing.hears(str(turn))
            end()
            await published(buses[-1], "revolving", "nobody hears this")

    @pytest.mark.asyncio
    async def test_one_listener_subscribed_twice_hears_twice_and_leaves_once(self, buses: Sequence[MessageBus]) -> None:
        hearing = Hearing()
        end = await listening(buses[0], "twice", hearing)
        await listening(buses[0], "twice", hearing)
        await published(buses[0], "twice", "a")
        await hearing.hears("a", "a")
        end()
        await published(buses[0], "twice", "b")
        await hearing.hears("a", "a", "b")

    @pytest.mark.asyncio
    async def test_a_listener_that_raises_is_logged_and_the_others_hear_all_the_same(
        self, buses: Sequence[MessageBus], caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(message: Message) -> None:
            raise RuntimeError(f"can't bear {message.payload}")

        before, after = Hearing(), Hearing()
        buses[0].subscribe("broken", before)
        buses[0].subscribe("broken", broken)
        buses[0].subscribe("broken", after)
        for payload in ("one", "two"):
            await published(buses[0], "broken", payload)
        await before.hears("one", "two")
        await after.hears("one", "two")
        assert caplog.text.count("RuntimeError: can't bear one") == 1
        assert caplog.text.count("RuntimeError: can't bear two") == 1

    @pytest.mark.asyncio
    async def test_a_listener_may_publish_and_all_hear_the_same_order(self, buses: Sequence[MessageBus]) -> None:
        bus = buses[0]
        asked: list[int | Awaitable[int]] = []
        first, last = Hearing(), Hearing()

        def answering(message: Message) -> None:
            if message.payload == "question":
                asked.append(bus.publish("talk", "answer"))

        bus.subscribe("talk", first)
        bus.subscribe("talk", answering)
        bus.subscribe("talk", last)
        await published(bus, "talk", "question")
        await first.hears("question", "answer")
        await last.hears("question", "answer")
        assert [await one if isinstance(one, Awaitable) else one for one in asked] == [2]

    @pytest.mark.asyncio
    async def test_a_listener_may_subscribe_and_leave_while_it_is_called(self, buses: Sequence[MessageBus]) -> None:
        bus = buses[0]
        once, joined = Hearing(), Hearing()

        def leaving(message: Message) -> None:
            once(message)
            end()
            bus.subscribe("changing", joined)

        end = bus.subscribe("changing", leaving)
        for payload in ("one", "two"):
            await published(bus, "changing", payload)
            await comes_about(lambda: once.payloads == ["one"])
        await heard(bus)
        await published(bus, "changing", "three")
        await comes_about(lambda: joined.payloads[-1:] == ["three"])
        assert once.payloads == ["one"]
        assert "one" not in joined.payloads

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        "payload", ["", "two\r\nlines and a \0", "grüß dich 🚓", "lone \udc80 surrogate", "x" * 65_536, "1 2 3 x"]
    )
    async def test_any_text_of_up_to_64_kilobytes_arrives_as_it_was(
        self, buses: Sequence[MessageBus], payload: str
    ) -> None:
        hearing = Hearing()
        await listening(buses[0], "texts: grün", hearing)
        await published(buses[-1], "texts: grün", payload)
        await hearing.hears(payload)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("payload", ["x" * 65_537, "ü" * 32_769])
    async def test_a_larger_payload_is_refused_with_its_size(self, buses: Sequence[MessageBus], payload: str) -> None:
        with pytest.raises(ValueError, match=r"has 6553[78] bytes, and 65536 is the most"):
            await published(buses[0], "large", payload)
        assert await published(buses[0], "large", "x") == 1

    @pytest.mark.asyncio
    @pytest.mark.parametrize("topic", ["", "a{b", "a}b"])
    async def test_a_topic_that_is_no_plain_word_is_refused(self, buses: Sequence[MessageBus], topic: str) -> None:
        with pytest.raises(ValueError, match="a topic is a plain word without braces"):
            await published(buses[0], topic, "")
        with pytest.raises(ValueError, match="a topic is a plain word without braces"):
            buses[0].subscribe(topic, Hearing())

    @pytest.mark.asyncio
    async def test_a_thousand_messages_of_four_publishers_arrive_once_and_in_order_at_three_listeners(
        self, buses: Sequence[MessageBus]
    ) -> None:
        hearings = [Hearing() for _ in range(3)]
        for place, hearing in enumerate(hearings):
            await listening(buses[place % len(buses)], "busy", hearing)
        told: dict[int, str] = {}

        async def publisher(number: int) -> None:
            for turn in range(250):
                payload = f"{number}:{turn}"
                told[await published(buses[number % len(buses)], "busy", payload)] = payload

        await asyncio.gather(*(publisher(number) for number in range(4)))
        assert sorted(told) == list(range(1, 1001))
        for hearing in hearings:
            await hearing.hears(*(told[version] for version in range(1, 1001)))
            assert hearing.versions == list(range(1, 1001))
