"""What is removed goes in small transactions, however much there is: whoever else writes waits for one of them at most."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import Connection

from reconciler.adapters.store import SqlStore, audit, migrate
from reconciler.core.facts import RunStatus
from reconciler.core.reasons import Reason
from tests.builders import JOB, all_succeeded, make_wave, numbered_hosts
from tests.contracts.stores import PLENTY, World, line
from tests.fakes.clock import FakeClock

HOSTS, LINES = 150, 3000


class Watched(SqlStore):
    """Notes how many rows each transaction changed, those that went with others included."""

    changed: list[int]

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with super().write() as connection:
            raw = cast(sqlite3.Connection, connection.connection.dbapi_connection)
            before = raw.total_changes
            yield connection
            self.changed.append(raw.total_changes - before)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Watched]:
    url = f"sqlite:///{tmp_path / 'reconciler.db'}"
    migrate.upgrade(url)
    store = Watched(url, FakeClock())
    store.changed = []
    yield store
    store.close()


@pytest.fixture
def large(store: Watched) -> str:
    """A run that was large in every way, and ended long ago; and a small one after it."""
    world = World(store, cast(FakeClock, store.clock))
    names = [host.name for host in numbered_hosts(HOSTS)]
    run = world.open_run(numbered_hosts(HOSTS))
    for number, some in enumerate((names[:100], names[100:]), start=1):
        parts = [some] if number == 1 else [[name] for name in some]
        wave = make_wave(run, *parts, number=number)
        store.admit(wave, HOSTS + PLENTY)
        for part in wave.slices:
            world.claim(part.id)
            store.mark_started(part.id, 1)
            if number == 1:
                store.append_logs(part.id, 1, [line(n, f"line {n}", names[n % 100]) for n in range(LINES)])
            store.finish(part.id, 1, all_succeeded(part.hosts))
    store.finish_run(run, RunStatus.SUCCESS, Reason.SUCCEEDED, "all")
    world.run_to_success("2")
    world.clock.advance(timedelta(days=500))
    store.changed.clear()
    return run


def test_logs_and_attempts_go_in_small_transactions(
    store: Watched, large: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "ROWS_AT_ONCE", 100)

    removed = 0
    while some := store.trim(JOB, keep=0, older_than=store.clock.now()):
        removed += some

    assert removed == LINES + HOSTS + 2, "with the small run's two attempts"
    assert max(store.changed) == 100
    assert len(store.children(large)) == HOSTS


def test_a_whole_run_goes_in_small_transactions(store: Watched, large: str) -> None:
    calls = 0
    while store.purge(store.clock.now(), at_once=50):
        calls += 1

    assert store.run(large) is None
    assert max(store.changed) == 50
    assert sum(store.changed) > LINES + HOSTS
    assert calls > 1, "who asked for it may see to something else in between"


def test_one_that_was_cut_short_is_gone_on_with(store: Watched, large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "STEPS", 1)

    store.purge(store.clock.now(), at_once=50)
    assert store.run(large) is not None
    monkeypatch.undo()
    while store.purge(store.clock.now()):
        pass

    assert [run.job_id for run in store.runs(JOB, 10)] != [large]
    assert store.run(large) is None


def test_events_go_in_small_transactions(store: Watched, large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ROWS_AT_ONCE", 10)
    before = len(store.events_after(0, 10_000))

    removed = 0
    while some := store.trim_events(keep=3, older_than=store.clock.now() - timedelta(days=9999)):
        removed += some

    assert removed == before - 3
    assert max(store.changed) == 10
