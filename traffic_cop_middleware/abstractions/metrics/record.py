"""The record of workers that are gone: their sums as one, and under which epochs of the store it was kept.

A store that lost everything begins a new epoch, and perhaps a new record. Whoever still has the old one adds it to the
new one (`united`), which then names both epochs: so it is added once, whoever else has it too.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from traffic_cop_middleware.abstractions.metrics.sums import encode_sums, strict, summed


class Gone(NamedTuple):
    """`epochs` under which these `figures` (a blob, or nothing) were kept."""

    epochs: frozenset[int]
    figures: bytes

    def text(self) -> bytes:
        """As the store keeps it."""
        return json.dumps(sorted(self.epochs)).encode("ascii") + b"\n" + self.figures


def read(value: bytes, epoch: int) -> Gone:
    """The record that a store has.

    Raises:
        ValueError: it is none of ours.
    """
    if not value:
        return Gone(frozenset({epoch}), b"")
    epochs, _, figures = value.partition(b"\n")
    return Gone(frozenset({epoch, *json.loads(epochs)}), figures)


def with_workers(gone: Gone, blobs: list[bytes]) -> Gone:
    """The record with the sums of further workers.

    Raises:
        ValueError: one of them can't be read.
    """
    all_of_them = [(blob, False) for blob in [gone.figures, *blobs] if blob]
    return Gone(gone.epochs, encode_sums(summed(all_of_them, unreadable=strict)))


def united(now: Gone, former: Gone) -> Gone | None:
    """The record with the one that was lost; `None` where it has it already, or may have a part of it."""
    if not former.figures or now.epochs & former.epochs:
        return None
    return with_workers(Gone(now.epochs | former.epochs, now.figures), [former.figures])
