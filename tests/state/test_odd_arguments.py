"""What callers give that no store takes: an error that names it, the same everywhere, and nothing else suffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.state.houses import Open
from traffic_cop_middleware import ConfigurationError
from traffic_cop_middleware.contracts import StateKey

pytestmark = pytest.mark.asyncio


def deep(levels: int = 5_000) -> Any:
    made: Any = 1
    for _ in range(levels):
        made = {"a": made}
    return made


WRONG: dict[str, Callable[[Any], Any]] = {
    "a cursor that is a number": lambda state: state.list("a", cursor=3),
    "a cursor of bytes": lambda state: state.list("a", cursor=b"k"),
    "no prefix": lambda state: state.list("a", prefix=None),
    "a prefix that is a number": lambda state: state.list("a", prefix=0),
    "a page without end": lambda state: state.list("a", most=10**9),
    "a watcher's cursor that is a number": lambda state: anext(state.watch("a", from_cursor=3)),
    "a watcher's prefix": lambda state: anext(state.watch("a", prefix=None)),
    "a watcher's cursor that is none": lambda state: anext(state.watch("a", from_cursor="0-0")),
    "a watcher's cursor of a store of another kind": lambda state: anext(state.watch("a", from_cursor="," * 30 + "x")),
    "a version that is a text": lambda state: state.history("a", "b", before="7"),
    "a version beyond 2**53": lambda state: state.history("a", "b", before=2**70),
    "a negative number of versions": lambda state: state.history("a", "b", most=-1),
    "versions without end": lambda state: state.history("a", "b", most=2**70),
    "a ttl beyond a float": lambda state: state.put("a", "b", 1, ttl=10**400),
    "a ttl beyond all clocks": lambda state: state.put("a", "b", 1, ttl=1e300),
    "no ttl": lambda state: state.put("a", "b", 1, ttl=float("nan")),
    "no number": lambda state: state.put("a", "b", [float("nan")]),
    "a number without end": lambda state: state.put("a", "b", 10**5000),
    "a lone surrogate in a value": lambda state: state.put("a", "b", "\ud800"),
    "a lone surrogate in a key": lambda state: state.put("a", "b\ud800", 1),
    "a lone surrogate in a namespace": lambda state: state.get("a\ud800", "b"),
    "a deep value": lambda state: state.put("a", "b", deep()),
    "a deep patch": lambda state: state.patch("a", "b", deep()),
    "a deep result": lambda state: state.update("a", "b", lambda _: deep()),
    "a namespace of ours": lambda state: state.put("tc.pushes", "b", 1),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
async def test_what_no_store_takes_is_a_configuration_error(call: Callable[[Any], Any], opened: Open) -> None:
    async with opened() as house:
        await house.state.put("a", "b", {"there": 1}, tier="immediate")
        with pytest.raises(ConfigurationError):
            await call(house.state)
        got = await house.state.get("a", "b", consistency="strong")
        assert got is not None
        assert got.value == {"there": 1}


ODD = [
    *("*", "[a-z]", "k?", "{p00}", "a}b{", "\n\r\t ", "ключ", "🔑"),
    *("\x7f\x01", "k" * 512, "%00", "\\", "'\"", "=", "-"),
]


@pytest.mark.parametrize("tier", ["cache", "delayed", "immediate"])
async def test_odd_keys_are_keys_as_others(tier: Any, opened: Open) -> None:
    async with opened() as house:
        for key in ODD:
            await house.state.put("odd", key, {"is": key, "large": 2**60 + 1}, tier=tier)
            await house.state.put("o", f"dd{key}"[:500], "another")
        await house.flush()
        for turn in range(2):
            found = await house.state.get_many("odd", ODD)
            assert {key: item.value for key, item in found.items()} == {
                key: {"is": key, "large": 2**60 + 1} for key in ODD
            }
            page = await house.state.list("odd")
            assert [item.key for item in page.items] == sorted(ODD)
            for key in ODD:
                page = await house.state.list("odd", prefix=key)
                assert {item.key for item in page.items} == {other for other in ODD if other.startswith(key)}
            if turn or tier == "cache" or not house.store.shared:
                break
            await house.lose_everything()
            house.house.reader.close()
        snapshot = await house.state.snapshot("odd")
        assert await house.state.restore(snapshot, exact=True) == len(ODD)


@pytest.mark.parametrize("cursor", ["", "\0", "\ud800", "z" * 100_000, "\uffff", "0", "tc.pushes\0x"])
async def test_a_cursor_that_was_tampered_with_gives_a_page_of_the_same_place_and_no_other(
    cursor: str, opened: Open
) -> None:
    async with opened() as house:
        await house.state.of_tenant("other").put("a", "secret", 1, tier="immediate")
        await house.state.put("b", "secret", 1, tier="immediate")
        for number in range(3):
            await house.state.put("a", f"k{number}", number, tier="immediate")
        page = await house.state.list("a", prefix="k", cursor=cursor)
        assert [item.key for item in page.items] == [f"k{n}" for n in range(3) if f"k{n}" > cursor]


async def test_a_deletion_of_what_must_not_exist_deletes_nothing(opened: Open) -> None:
    async with opened() as house:
        assert await house.state.delete("a", "b", if_version=0) is False
        assert await house.house.reader.one(StateKey("", "a", "b"), strong=True) is None
