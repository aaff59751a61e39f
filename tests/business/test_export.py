"""CSV and JSON: what is exported can be read back, and no cell is a formula."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.business.test_counting import shops
from tests.history.crew import DAY, MIDNIGHT
from traffic_cop_middleware import ConfigurationError, Range
from traffic_cop_middleware.abstractions.business.export import csv_of

cells = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    st.sampled_from(
        [
            "=1+1",
            "+1",
            "-1",
            "@x",
            "\t=1",
            "  =1",
            "'",
            "'=1",
            "\r\n",
            '"',
            'a"b,c\n',
            "",
            ";",
            "=1",
            "\uff1d1",
            " \uff20x",
        ]
    ),
)


@given(st.lists(st.lists(cells, min_size=2, max_size=4), min_size=1, max_size=5))
def test_csv_is_read_back_as_it_was(rows: list[list[str]]) -> None:
    written = csv_of(rows)
    found = list(csv.reader(io.StringIO(written, newline=""), strict=True))
    assert [[cell.removeprefix("'") if cell[:1] == "'" else cell for cell in row] for row in found] == rows
    for cell in (cell for row in found for cell in row):
        assert cell.lstrip()[:1] not in ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
        assert cell[:1] not in ("\t", "\r", "\n")


def test_numbers_stay_numbers_and_what_is_missing_is_empty() -> None:
    assert csv_of([["a", -1.5, 3, None], ["a\0b", "\ud800", 1e300, ""]]) == "a,-1.5,3,\r\nab,\\ud800,1e+300,\r\n"


async def exported(business: Any, *arguments: Any, **settings: Any) -> str:
    return "".join([piece async for piece in business.export(*arguments, **settings)])


HEAD = "start,end,metric,kind,unit,attribute_name,attribute_plan,value,observations,mean,p50,p95,p99,low,high,at"


@pytest.mark.asyncio
async def test_all_metrics_are_exported_by_all_their_attributes() -> None:
    clock, (shop, other) = shops(2)
    assert (await exported(shop.business)).splitlines() == [HEAD]
    shop.business.count("orders", 2, plan="pro")
    shop.business.observe("basket", 1, plan='=HYPERLINK("x")')
    shop.business.observe("basket", 3, plan="=,\n")
    shop.business.gauge("queue", -5, name="mails")
    clock.advance(1)
    head, *rows = csv.reader(io.StringIO(await exported(shop.business, Range(MIDNIGHT)), newline=""))
    assert ",".join(head) == HEAD
    when = ["2024-10-04T00:00:00+00:00", "2024-10-04T00:00:01+00:00"]
    assert rows[0] == [*when, "orders", "count", "", "", "pro", "2", *[""] * 8]
    assert [(row[4], row[6], row[7], row[8]) for row in rows[1:3]] == [
        ("EUR", "'=,\n", "3.0", "1"),
        ("EUR", '\'=HYPERLINK("x")', "1.0", "1"),
    ]
    assert rows[3][5:8] + rows[3][-3:] == ["mails", "", "-5.0", "-5.0", "-5.0", when[0]]
    only = (await exported(other.business, Range(MIDNIGHT), names=["orders"])).splitlines()
    assert [len(row.split(",")) for row in only] == [15, 15]


@pytest.mark.asyncio
async def test_json_has_the_same_rows_by_step() -> None:
    clock, (shop, _) = shops(2)
    assert json.loads(await exported(shop.business, format="json")) == []
    for _ in range(3):
        shop.business.count("orders", 2, plan="pro")
        await shop.analytics.flush()
        clock.advance(100)
        await shop.analytics.flush()
        await shop.analytics.keeper.take(token=None)
        clock.advance(3_500)
    found = json.loads(await exported(shop.business, Range(MIDNIGHT, MIDNIGHT + DAY), format="json", step="1h"))
    assert [(row["start"][11:19], row["metric"], row["attribute_plan"], row["value"]) for row in found] == [
        (f"0{hour}:00:00", "orders", "pro", 2) for hour in range(3)
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("range", ["3000w", "99999w", Range(0), Range(0, MIDNIGHT + 60)])
async def test_all_that_ever_was_can_be_asked_for(range: Any) -> None:
    clock, (shop,) = shops(1)
    shop.business.count("orders", 2, plan="pro")
    clock.advance(90)
    assert "orders,count,,,pro,2" in await exported(shop.business, range)
    trend = await shop.business.trends("orders", range, by="plan")
    assert (trend.total.now.value, trend.total.before.value, trend.total.change) == (2, 0, None)


@pytest.mark.asyncio
@pytest.mark.parametrize("step", [None, "1m"])
async def test_rows_of_an_export_that_takes_long_are_all_of_one_stretch(step: Any) -> None:
    clock, (shop,) = shops(1)
    shop.business.count("orders", 2, plan="pro")
    shop.business.observe("basket", 1)
    shop.business.gauge("queue", 3)
    clock.advance(7.5)
    pieces = []
    async for piece in shop.business.export("15m", step=step):
        pieces.append(piece)
        clock.advance(31)
    rows = list(csv.DictReader(io.StringIO("".join(pieces), newline="")))
    assert {row["metric"] for row in rows} == {"orders", "basket", "queue"}
    assert len({(row["start"], row["end"]) for row in rows}) == 1


@pytest.mark.asyncio
async def test_usage_is_exported_too() -> None:
    _, (shop, _) = shops(2)
    shop.serve([0.1, 0.2], user="=alice")
    shop.serve([0.1], user="bob", status=500)
    head, *rows = csv.reader(io.StringIO(await exported(shop.business, usage="user"), newline=""))
    assert head == [*("start", "end", "by", "name", "requests", "errors", "refused", "bytes_in", "bytes_out", "cost")]
    assert [row[2:] for row in rows] == [
        ["user", "'=alice", "2", "0", "0", "2", "4", "0.0"],
        ["user", "bob", "1", "1", "0", "1", "2", "0.0"],
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"format": "xml"},
        {"names": "orders"},
        {"names": ["ordres"]},
        {"range": "soon"},
        {"step": "2m"},
        {"usage": "user", "step": "1h"},
        {"usage": "status"},
        {"names": 5},
        {"range": "4w", "step": "1m"},
    ],
)
def test_an_export_that_can_not_be_made_is_refused_before_it_begins(settings: Any) -> None:
    _, (shop,) = shops(1)
    with pytest.raises(ConfigurationError):
        shop.business.export(**settings)
