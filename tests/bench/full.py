"""A database as it is after a long time: 10,000 batches, 100,000 children, 10,000 servers. Written row by row into the
tables, for running that many would take days."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Table, insert, text

from reconciler.adapters.store import migrate
from reconciler.adapters.store.engines import LONG, connect, read_url
from reconciler.adapters.store.rows import batch_config, record_row
from reconciler.adapters.store.summaries import refresh_on_upgrade
from reconciler.adapters.store.tables import attempts, job_logs, jobs, manifests, servers, slices
from reconciler.core.facts import ChildStatus, JobKey, RunStatus
from reconciler.core.status import CommitView, ConditionType, JobStatus, Phase, RunStatusView
from tests.builders import COMMIT, COMMIT_REVISION, NOON, make_spec, make_status, manifest_record

BATCHES, SERVERS = 10_000, 10_000
SOURCES = ("default", "lab", "network")
LARGEST = 5_000
"""Children of the first batch."""

LARGE = 200
"""Children of each 30th batch after it; most have a handful, and each 13th never ran."""

LOG_LINES = 20_000
"""Of the first child of the first batch."""

PHASES = (Phase.SUCCEEDED, Phase.SUCCEEDED, Phase.FAILED, Phase.RUNNING, Phase.STALLED)
AT_ONCE = 2_000


def fill(url: str) -> None:
    """A database that is there and has nothing in it."""
    migrate.upgrade(url)
    engine = connect(read_url(url), LONG)
    with engine.begin() as connection:
        _write(connection, servers, _servers())
        _write(connection, manifests, _manifests())
        _write(connection, jobs, _parents())
        _write(connection, jobs, _children())
        _write(connection, slices, [_slice()])
        _write(connection, attempts, _attempts())
        _write(connection, job_logs, _log())
    with engine.begin() as connection:
        make_lists_again(connection)
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":  # as it does by itself, a while later
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))
    engine.dispose()


def make_lists_again(connection: Connection) -> None:
    """As an upgrade does."""
    connection.execute(text("UPDATE sequences SET value = -1 WHERE name = 'summaries'"))
    refresh_on_upgrade(connection)


def key_of(number: int) -> JobKey:
    return JobKey(SOURCES[number % len(SOURCES)], f"patch-{number:05}")


def run_of(number: int) -> str:
    return f"batch-20261123-120000-{number:010}"


def size_of(number: int) -> int:
    """Children of a batch; 0: it never ran."""
    if number == 0:
        return LARGEST
    if number % 30 == 0:
        return LARGE
    return 0 if number % 13 == 0 else 4


def _write(
    connection: Connection, table: Table, rows: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]
) -> None:
    part: list[Mapping[str, Any]] = []
    for row in rows:
        part.append(row)
        if len(part) == AT_ONCE:
            connection.execute(insert(table), part)
            part = []
    if part:
        connection.execute(insert(table), part)


def _servers() -> Iterator[Mapping[str, Any]]:
    for number in range(1, SERVERS + 1):
        group = f"rack-{number % 40}"
        tags = ["web" if number % 3 else "db", f"zone={number % 7}", "canary" if number % 100 == 0 else "usual"]
        yield {
            "id": number,
            "source": SOURCES[number % len(SOURCES)],
            "inventory": "inventory/hosts.yml",
            "name": f"host-{number:05}",
            "address": f"host-{number:05}.example.org",
            "host_key": f"host-{number:05}.example.org:22",
            "tags": sorted([*tags, f"group:{group}"]),
            "groups": [group],
            "first_seen": NOON,
            "last_seen": NOON,
        }


def _manifests() -> Iterator[Mapping[str, Any]]:
    spec = make_spec()
    for number in range(BATCHES):
        key = key_of(number)
        record = manifest_record(key, spec, labels={"team": f"team-{number % 20}", "tier": "gold"})
        yield {**record_row(record), "status": _status(number).model_dump(mode="json", by_alias=True)}


def _status(number: int) -> JobStatus:
    key, size = key_of(number), size_of(number)
    phase = PHASES[number % len(PHASES)] if size else Phase.PENDING
    run = RunStatusView(
        id=run_of(number),
        cause="SpecChanged",
        status=_run_status(phase),
        revision=COMMIT_REVISION,
        check_mode=False,
        waves=size // 5,
        started_at=NOON,
    )
    shown = make_status(
        key,
        phase,
        message=f"{size} hosts, as they were",
        labels={"team": f"team-{number % 20}", "tier": "gold"},
        children=min(size, LARGE),
        waves=size // 5,
        past_runs=5 if size else 0,
    )
    commit = CommitView(id=COMMIT.id, author=COMMIT.author, date=COMMIT.date, subject=COMMIT.subject)
    ready, kinds = shown.status.conditions[0], (ConditionType.STALLED, ConditionType.ACCEPTED, ConditionType.UP_TO_DATE)
    body = {
        "commit": commit,
        "run": run.model_copy(update={"commit": commit}) if size else None,
        "conditions": (ready, *(ready.model_copy(update={"type": kind}) for kind in kinds)),
        "failures": shown.status.failures[:3],  # they are grouped: many hosts fail for few reasons
        "history": tuple(past.model_copy(update={"commit": commit}) for past in shown.status.history),
    }
    return shown.model_copy(update={"status": shown.status.model_copy(update=body)})


def _run_status(phase: Phase) -> RunStatus:
    return {Phase.SUCCEEDED: RunStatus.SUCCESS, Phase.RUNNING: RunStatus.RUNNING}.get(phase, RunStatus.FAILED)


def _job(number: int) -> dict[str, Any]:
    key = key_of(number)
    return {
        "source": key.source,
        "name": key.name,
        "playbook": "playbooks/patch.yml",
        "generation": 1,
        "work_digest": "w" * 64,
        "coverage_digest": "c" * 64,
        "playbook_digest": "p" * 64,
        "revision": COMMIT_REVISION,
        "commit_author": COMMIT.author,
        "committed_at": COMMIT.date,
        "commit_subject": COMMIT.subject,
        "cause_kind": "SpecChanged",
        "check_mode": False,
        "created_at": NOON + timedelta(seconds=number),
        "started_at": NOON + timedelta(seconds=number),
        "finished_at": NOON + timedelta(seconds=number + 60),
    }


def _parents() -> Iterator[Mapping[str, Any]]:
    config = batch_config(make_spec())
    for number in range(BATCHES):
        if size_of(number):
            status = _run_status(PHASES[number % len(PHASES)])
            parent = {"id": number + 1, "job_id": run_of(number), "is_batch_job": True, "batch_config": config}
            yield {**_job(number), **parent, "attempt": 0, "status": status.value}


def _children() -> Iterator[Mapping[str, Any]]:
    id_ = BATCHES
    for number in range(BATCHES):
        shared = _job(number)
        for ordinal in range(1, size_of(number) + 1):
            id_ += 1
            server = (number * 7 + ordinal) % SERVERS + 1
            status = ChildStatus.FAILED if id_ % 50 == 0 else ChildStatus.SUCCESS
            yield {
                **shared,
                "id": id_,
                "job_id": f"job-20261123-120000-{number:010}-{ordinal:04}",
                "is_batch_job": False,
                "parent_job_id": number + 1,
                "server_id": server,
                "host": f"host-{server:05}",
                "host_key": f"host-{server:05}.example.org:22",
                "address": f"host-{server:05}.example.org",
                "ordinal": ordinal,
                "wave": (ordinal + 4) // 5,
                "attempt": 1,
                "status": status.value,
                "message": "No package matching 'ngnix' is available" if status is ChildStatus.FAILED else "",
                "ok": 3,
                "changed": 1,
            }


def _slice() -> Mapping[str, Any]:
    what = {"id": f"{run_of(0)}.w1.a1.0123456789", "run": run_of(0), "wave": 1, "attempt": 1, "kind": "playbook"}
    return {**what, "state": "finished", "hosts": ["host-00002"], "executor": "local", "fence": 1, "created_at": NOON}


def _attempts() -> Iterator[Mapping[str, Any]]:
    for child in range(1, LARGEST + 1):
        tried = {"job": BATCHES + child, "number": 1, "slice": f"{run_of(0)}.w1.a1.0123456789", "status": "success"}
        yield {**tried, "counts": {"ok": 3, "changed": 1}, "started_at": NOON, "finished_at": NOON}


def _log() -> Iterator[Mapping[str, Any]]:
    for sequence in range(1, LOG_LINES + 1):
        line = {"job": BATCHES + 1, "attempt": 1, "slice": f"{run_of(0)}.w1.a1.0123456789", "sequence": sequence}
        yield {**line, "text": f"ok: [host-00002] => item {sequence} of many, and what came of it"}
