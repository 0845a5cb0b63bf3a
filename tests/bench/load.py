"""200 batches of 50 hosts at once on 50 slots, on SQLite and (where one listens on loopback) PostgreSQL.

ansible-playbook is a stub that sleeps for 0.2 s and writes the events that the real one would: what is measured is what
reconciler adds, its slice processes included. The last quarter of the children against the first says how it grows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Number
from tests.databases import POSTGRESQL, new_database, why_no
from tests.pressure import press

BATCHES, HOSTS, LIMIT, SLOTS = 200, 50, 10, 50


def measure(folder: Path) -> Iterator[Number]:
    yield from _on("SQLite", folder / "sqlite", None)
    if why_no(POSTGRESQL) is None:
        with new_database(POSTGRESQL, folder) as url:
            yield from _on("PostgreSQL", folder / "postgresql", url)


def _on(name: str, folder: Path, url: str | None) -> Iterator[Number]:
    folder.mkdir()
    pressed = press(folder, batches=BATCHES, hosts=HOSTS, limit=LIMIT, max_running=SLOTS, url=url)
    yield Number(f"{name}: children finished", pressed.children, "")
    yield Number(f"{name}: children finished per second", pressed.children / pressed.seconds, "/s")
    yield Number(f"{name}: hosts at once", pressed.most_at_once, "", SLOTS)
    yield Number(f"{name}: waves that one batch was ahead of another", pressed.spread, "", 2)
    yield Number(
        f"{name}: rate of the last quarter to the first",
        pressed.quarters[3] / pressed.quarters[0],
        "times",
        0.7,
        least=True,
    )
    yield Number(f"{name}: memory of the daemon", pressed.memory, "MB", 250)
