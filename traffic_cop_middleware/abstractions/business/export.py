"""Business figures as CSV (RFC 4180) and JSON, piece by piece.

A cell of text that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV Injection"), and so
does one that begins with an apostrophe itself: taking away one apostrophe gives back what was there. Numbers have none.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from traffic_cop_middleware.abstractions.business.declarations import BusinessMetric
from traffic_cop_middleware.abstractions.business.figures import Series
from traffic_cop_middleware.abstractions.business.results import BusinessFigure, BusinessUsage
from traffic_cop_middleware.abstractions.metrics.instruments import text

Cell = str | int | float | None
Row = Mapping[str, Cell]
FIGURES = ("value", "observations", "mean", "p50", "p95", "p99", "low", "high", "at")
BEFORE, USED = ("start", "end"), ("requests", "errors", "refused", "bytes_in", "bytes_out", "cost")
FORMULA = (*"=+-@", *"\uff1d\uff0b\uff0d\uff20")  # also in the full width of East Asian keyboards
ATTRIBUTE = "attribute_"


def columns_of(metrics: Sequence[BusinessMetric]) -> Sequence[str]:
    """The columns of an export of these metrics: one for each attribute of any of them, by name."""
    attributes = sorted({attribute for metric in metrics for attribute in metric.attributes})
    return (*BEFORE, "metric", "kind", "unit", *(ATTRIBUTE + each for each in attributes), *FIGURES)


USAGE_COLUMNS = (*BEFORE, "by", "name", *USED)


def row_of(metric: BusinessMetric, values: Series, figure: BusinessFigure, start: float, end: float) -> Row:
    """A series of a metric in a stretch."""
    row: dict[str, Cell] = {"start": moment(start), "end": moment(end)}
    row |= {"metric": metric.name, "kind": metric.kind, "unit": metric.unit}
    row |= {ATTRIBUTE + name: value for name, value in zip(metric.attributes, values, strict=True)}
    row |= {name: getattr(figure, name) for name in FIGURES}
    row["at"] = None if figure.at is None else moment(figure.at)
    return row


def usage_rows(usage: BusinessUsage) -> Iterable[Row]:
    """Those of a usage."""
    for name, figure in usage.groups.items():
        row: dict[str, Cell] = {"start": moment(usage.start), "end": moment(usage.end), "by": usage.by, "name": name}
        yield row | {each: getattr(figure, each) for each in USED}


def moment(time: float) -> str:
    """ISO 8601, in UTC."""
    return datetime.fromtimestamp(time, UTC).isoformat()


def csv_of(rows: Iterable[Sequence[Cell]]) -> str:
    """Lines of CSV, each ended by CRLF. What is `None` is an empty cell."""
    written = io.StringIO()
    csv.writer(written).writerows([_cell(cell) for cell in row] for row in rows)
    return written.getvalue()


def _cell(cell: Cell) -> Cell:
    if not isinstance(cell, str):
        return cell
    clean = text(cell).replace("\0", "")
    risky = clean[:1] in ("\t", "\r", "\n", "'") or clean.lstrip().startswith(FORMULA)
    return f"'{clean}" if clean and risky else clean


class Writing:
    """A format: what comes first, what each rows are, and what comes last."""

    def __init__(self, columns: Sequence[str], *, as_csv: bool) -> None:
        self._columns = columns
        self._csv = as_csv
        self._any = False

    def head(self) -> str:
        """What stands in front."""
        return csv_of([self._columns]) if self._csv else "["

    def rows(self, rows: Iterable[Row]) -> str:
        """Rows, in the order of the columns."""
        if self._csv:
            return csv_of([[row.get(column) for column in self._columns] for row in rows])
        pieces = []
        for row in rows:
            pieces.append(",\n" if self._any else "\n")
            pieces.append(json.dumps({column: row[column] for column in self._columns if column in row}))
            self._any = True
        return "".join(pieces)

    def tail(self) -> str:
        """What stands at the end."""
        return "" if self._csv else "\n]\n"
