"""The database keeps its promises: each decision once, each write under its fence, everything of a run together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore, migrate
from reconciler.adapters.store.database import current_schema
from reconciler.adapters.store.tables import metadata
from reconciler.core.errors import Refused
from reconciler.core.facts import (
    CauseKind,
    ChildStatus,
    HostOutcome,
    JobKey,
    ManifestRecord,
    Revision,
    Run,
    RunStatus,
    SliceId,
    SliceState,
    Stop,
)
from reconciler.core.hosts import Host
from reconciler.core.manifest import coverage_digest, spec_digest, spec_from_json, work_digest
from reconciler.core.reasons import Reason
from reconciler.ports import (
    Admitted,
    Beat,
    Busy,
    NewCause,
    NewRun,
    NewSlice,
    NewWave,
    PlaybookResult,
    Request,
    RequestKind,
    Spool,
    SpooledLine,
)

LEASE = timedelta(seconds=60)
KEY = JobKey("default", "patch")
SPEC = spec_from_json({"playbook": "p.yml", "selector": {"all": True}})


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state' / 'reconciler.db'}"


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    migrate.upgrade(url)
    opened = SqlStore(url, SystemClock())
    yield opened
    opened.close()


def accept(store: SqlStore, key: JobKey) -> None:
    digests = spec_digest(SPEC), work_digest(SPEC), coverage_digest(SPEC)
    record = ManifestRecord(
        key, f"jobs/{key.name}.yaml", 1, 1, SPEC, *digests, {}, None, Revision("r"), datetime.now(UTC)
    )
    store.save_manifests([record], [NewCause(key, CauseKind.SPEC_CHANGED, "generation:1", "new")])
    assert store.manifest(key) == record


def new_run(store: SqlStore, key: JobKey, hosts: int) -> NewRun:
    causes = store.observe(key).causes
    chosen = tuple(Host(f"h{n}", f"192.0.2.{n}", f"192.0.2.{n}:22") for n in range(1, hosts + 1))
    run_id = f"batch-{key.name}"
    return NewRun(key, run_id, causes[0], causes, 1, work_digest(SPEC), "c1", "p1", Revision("r"), SPEC, "inv", chosen)


def opened(store: SqlStore, name: str = "patch", hosts: int = 3) -> str:
    key = JobKey("default", name)
    accept(store, key)
    new = new_run(store, key, hosts)
    assert store.open_run(new)
    return new.job_id


def wave(run: str, *hosts: str, number: int = 1) -> NewWave:
    return NewWave(run, number, 1, (NewSlice(SliceId(f"{run}.w{number}"), hosts),))


def started(store: SqlStore, run: str, *hosts: str) -> SliceId:
    assert store.admit(wave(run, *hosts), 50) == Admitted()
    part = SliceId(f"{run}.w1")
    assert store.claim(part, 1, "me", LEASE, "here") is not None
    assert store.mark_started(part, 1)
    return part


def run_of(store: SqlStore, run: str) -> Run:
    found = store.run(run)
    assert found is not None
    return found[1]


def result(**statuses: ChildStatus) -> PlaybookResult:
    return PlaybookResult(tuple(HostOutcome(host, status) for host, status in statuses.items()))


def test_a_run_is_opened_once_with_all_its_children_and_handles_its_causes(store: SqlStore) -> None:
    accept(store, KEY)
    new = new_run(store, KEY, 3)
    assert store.at_rest("default") == frozenset()
    assert store.open_run(new)
    assert not store.open_run(replace(new, job_id="batch-again")), "the cause is handled"
    observed = store.observe(KEY)
    assert observed.causes == ()
    assert observed.run is not None
    assert [child.job_id for child in observed.run.children] == [f"job-patch-000{n}" for n in (1, 2, 3)]
    store.add_causes([NewCause(KEY, CauseKind.SPEC_CHANGED, "generation:1", "new")])
    assert store.observe(KEY).causes == (), "a handled key never asks again"


def test_hosts_of_another_run_are_busy_until_they_are_free(store: SqlStore) -> None:
    first, second = opened(store, "first"), opened(store, "second")
    part = started(store, first, "h1", "h2")
    assert store.admit(wave(second, "h2", "h3"), 50) == Busy(Reason.HOSTS_BUSY, "default/first")
    assert store.finish(part, 1, result(h1=ChildStatus.SUCCESS, h2=ChildStatus.SUCCESS))
    assert store.admit(wave(second, "h2", "h3"), 50) == Admitted()
    assert store.admit(wave(second, "h2", "h3"), 50) == Admitted(), "deciding twice changes nothing"


def test_slots_are_bounded_and_the_oldest_waiter_comes_first(store: SqlStore) -> None:
    a, b = opened(store, "a", hosts=2), opened(store, "b", hosts=6)
    accept(store, JobKey("default", "c"))
    other = replace(new_run(store, JobKey("default", "c"), 1), hosts=(Host("z1", "198.51.100.1", "198.51.100.1:22"),))
    assert store.open_run(other)
    part = started(store, a, "h1")
    assert store.admit(wave(b, "h2", "h3", "h4"), 3) == Busy(Reason.NO_FREE_SLOTS, "default/a")
    assert store.admit(wave(other.job_id, "z1"), 3) == Busy(Reason.NO_FREE_SLOTS, "default/b"), "though a slot is free"
    store.finish(part, 1, result(h1=ChildStatus.SUCCESS))
    assert store.admit(wave(b, "h2", "h3", "h4"), 3) == Admitted()


def test_of_many_claims_exactly_one_wins(store: SqlStore, url: str) -> None:
    run = opened(store)
    store.admit(wave(run, "h1"), 50)
    won: list[str] = []

    def claim(name: str) -> None:
        own = SqlStore(url, SystemClock())
        if own.claim(SliceId(f"{run}.w1"), 1, name, LEASE, "here") is not None:
            won.append(name)
        own.close()

    threads = [threading.Thread(target=claim, args=(f"p{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_nothing_is_written_once_the_fence_is_over(store: SqlStore) -> None:
    run = opened(store)
    store.admit(wave(run, "h1"), 50)
    part = SliceId(f"{run}.w1")
    assert store.claim(part, 1, "old", LEASE, "here") is not None
    assert store.requeue(part, 1, datetime.now(UTC), "its process is gone")
    assert not store.mark_started(part, 1)
    assert not store.append_logs(part, 1, [SpooledLine(1, "h1", "late")])
    assert not store.finish(part, 1, result(h1=ChildStatus.SUCCESS))
    assert store.heartbeat(part, 1, LEASE) is Beat.LOST
    assert run_of(store, run).children[0].reason is Reason.EXECUTOR_UNAVAILABLE
    assert run_of(store, run).slices[0].fence == 2


def test_a_lost_slice_leaves_unknown_but_what_was_spooled_stands(store: SqlStore) -> None:
    first, second = opened(store, "first"), opened(store, "second")
    part = started(store, first, "h1")
    assert store.lose(part, 1, Spool((SpooledLine(1, "h1", "TASK"),), None))
    child = run_of(store, first).children[0]
    assert (child.status, child.reason) == (ChildStatus.UNKNOWN, Reason.SLICE_LOST)
    assert [line.text for line in store.log(first, "h1", None, 0)] == ["TASK"]
    part = started(store, second, "h1")
    assert store.lose(part, 1, Spool((), result(h1=ChildStatus.SUCCESS)))
    assert run_of(store, second).children[0].status is ChildStatus.SUCCESS
    assert not store.lose(part, 1, None), "once"


def test_a_cancel_request_reaches_a_slice_without_any_daemon(store: SqlStore) -> None:
    run = opened(store)
    part = started(store, run, "h1")
    assert not store.stop_requested(part)
    request = Request("1", RequestKind.CANCEL, KEY, run, "ann", "", datetime.now(UTC))
    assert store.add_request(request)
    assert not store.add_request(request), "asking twice is asking once"
    assert store.stop_requested(part)
    assert store.heartbeat(part, 1, LEASE) is Beat.CANCEL
    assert store.finish(part, 1, result(h1=ChildStatus.CANCELLED))
    assert run_of(store, run).slices[0].state is SliceState.CANCELLED


def test_a_slice_that_was_only_planned_is_cancelled_at_once(store: SqlStore) -> None:
    run = opened(store)
    store.admit(wave(run, "h1", "h2"), 50)
    store.stop_slices(run, Stop(Reason.CANCELLED, "wrong day"))
    assert [child.status for child in run_of(store, run).children[:2]] == [ChildStatus.SKIPPED] * 2
    assert store.claim(SliceId(f"{run}.w1"), 1, "me", LEASE, "here") is None


def test_success_is_remembered_longer_than_its_logs(store: SqlStore) -> None:
    run = opened(store)
    part = started(store, run, "h1", "h2")
    store.append_logs(part, 1, [SpooledLine(1, "h1", "hello"), SpooledLine(2, None, "PLAY")])
    store.append_logs(part, 1, [SpooledLine(1, "h1", "hello")])
    assert [line.text for line in store.log(run, "h1", None, 0)] == ["hello"], "a line comes once"
    store.finish(part, 1, result(h1=ChildStatus.SUCCESS, h2=ChildStatus.FAILED))
    store.skip(run, ["h3"], Reason.STOPPED_ON_FAILURE, "")
    assert store.finish_run(run, RunStatus.FAILED, Reason.HOSTS_FAILED, "1 failed")
    assert not store.finish_run(run, RunStatus.FAILED, Reason.HOSTS_FAILED, "1 failed")
    before = store.metrics().counters
    assert store.trim(KEY, keep=0, older_than=datetime.now(UTC)) > 0
    observed = store.observe(KEY)
    assert store.log(run, "h1", None, 0) == ()
    assert {host: record.success_digest for host, record in observed.hosts.items()} == {
        "h1": "c1",
        "h2": None,
        "h3": None,
    }
    assert store.metrics().counters == before
    assert before["runs_finished_total"] == {("failed", "HostsFailed"): 1.0}
    assert store.job_at_rest(KEY)


def test_deleting_a_parent_deletes_its_children_attempts_slices_and_logs(store: SqlStore, url: str) -> None:
    run = opened(store)
    part = started(store, run, "h1")
    store.append_logs(part, 1, [SpooledLine(1, "h1", "hello")])
    with store.write() as connection:
        connection.execute(text("DELETE FROM jobs WHERE is_batch_job"))
        left = {
            name: connection.scalar(text(f"SELECT count(*) FROM {name}"))
            for name in ("jobs", "attempts", "slices", "job_logs", "host_locks")
        }
    assert set(left.values()) == {0}


def test_the_migrations_make_exactly_these_tables(store: SqlStore, url: str) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    assert current_schema(url) == migrate.head()


def test_a_newer_schema_and_a_missing_database_are_refused_in_words(store: SqlStore, url: str, tmp_path: Path) -> None:
    with store.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Refused, match="schema 9999"):
        migrate.upgrade(url)
    with pytest.raises(Refused, match=str(tmp_path / "none.db")):
        SqlStore(f"sqlite:///{tmp_path / 'none.db'}", SystemClock())
