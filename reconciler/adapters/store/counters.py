"""Numbers that only ever rise, and durations in buckets: rows of their own, raised in the transaction of what they count,
so that neither retention nor a restart ever lowers them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, select

from reconciler.adapters.store.tables import counters
from reconciler.adapters.store.upserts import add_up

BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0)
"""Upper bounds, in seconds, of every histogram that the store keeps; above the last is +Inf."""


class Tally:
    """What one transaction counts, written at its end with one statement. Label values are in the order of the metrics
    catalogue."""

    def __init__(self) -> None:
        self._raised: Counter[tuple[str, str]] = Counter()
        self._seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        self._raised[name, "|".join(labels)] += by

    def duration(self, name: str, *labels: str, since: datetime, until: datetime) -> None:
        """Into its bucket (not cumulative), its sum and its count."""
        seconds = max(0.0, (until - since).total_seconds())
        bound = next((str(bucket) for bucket in BUCKETS if seconds <= bucket), "+Inf")
        joined = "|".join(labels)
        self._raised[f"{name}_bucket", f"{joined}|{bound}"] += 1
        self._raised[f"{name}_count", joined] += 1
        self._seconds[f"{name}_sum", joined] += seconds

    def write(self, connection: Connection) -> None:
        # Sorted: two transactions that took the same rows in another order would wait for each other.
        rows = [
            {"name": name, "labels": labels, "value": float(value)}
            for (name, labels), value in sorted((*self._raised.items(), *self._seconds.items()))
        ]
        add_up(connection, counters, "value", rows)


def read_counters(connection: Connection) -> Mapping[str, Mapping[tuple[str, ...], float]]:
    """Name to label values to value."""
    found: defaultdict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for row in connection.execute(select(counters)):
        found[row.name][tuple(row.labels.split("|"))] = row.value
    return dict(found)
