"""Runs: opening one with all its children, admitting its waves, ending it, and reading it back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from reconciler.adapters.store.database import Database, add_missing, upsert
from reconciler.adapters.store.manifests import cause_of, handle_causes, save_servers
from reconciler.adapters.store.tables import (
    attempts,
    causes,
    host_locks,
    host_records,
    job_logs,
    jobs,
    slices,
)
from reconciler.core.facts import (
    CauseKind,
    Child,
    ChildStatus,
    HostRecord,
    JobKey,
    Observed,
    Revision,
    Run,
    RunError,
    RunStatus,
    RunSummary,
    Slice,
    SliceId,
    SliceState,
    Stop,
    TaskCounts,
)
from reconciler.core.manifest import BatchJobSpec, spec_from_json, spec_to_json
from reconciler.core.reasons import Reason
from reconciler.ports import Admitted, Busy, NewRun, NewWave

OPEN_RUN = (RunStatus.PENDING.value, RunStatus.RUNNING.value)
OPEN_SLICE = tuple(state.value for state in SliceState if state.open)

STILL_WAITING = timedelta(seconds=60)
"""A run that waits for slots keeps its place in the queue so long after it last asked."""

HISTORY = 5


class Runs(Database):
    def open_run(self, new: NewRun) -> bool:
        now = self.clock.now()
        with self.write() as connection:
            cause_id = connection.scalar(
                select(causes.c.id).where(
                    causes.c.source == new.key.source,
                    causes.c.name == new.key.name,
                    causes.c.kind == new.cause.kind.value,
                    causes.c.key == new.cause.key,
                    causes.c.handled_at.is_(None),
                )
            )
            if cause_id is None:
                return False
            servers = save_servers(connection, self, new.key.source, new.inventory, new.hosts)
            shared = {
                "source": new.key.source,
                "name": new.key.name,
                "playbook": new.spec.playbook,
                "generation": new.generation,
                "work_digest": new.work_digest,
                "coverage_digest": new.coverage_digest,
                "playbook_digest": new.playbook_digest,
                "revision": new.revision,
                "cause_id": cause_id,
                "cause_kind": new.cause.kind.value,
                "check_mode": new.spec.check_mode,
                "status": RunStatus.PENDING.value,
                "created_at": now,
            }
            parent = {"job_id": new.job_id, "is_batch_job": True, "batch_config": _batch_config(new.spec)}
            parent_id = connection.scalar(insert(jobs).returning(jobs.c.id), {**shared, **parent})
            children = [
                {
                    **shared,
                    "job_id": f"{new.job_id.replace('batch-', 'job-', 1)}-{ordinal:04}",
                    "is_batch_job": False,
                    "parent_job_id": parent_id,
                    "server_id": servers[host.name],
                    "host": host.name,
                    "host_key": host.host_key,
                    "address": host.address,
                    "ordinal": ordinal,
                }
                for ordinal, host in enumerate(new.hosts, start=1)
            ]
            connection.execute(insert(jobs), children)
            seen = [_seen(new, host.name) for host in new.hosts]
            upsert(connection, host_records, seen, keep=("success_digest",))
            handle_causes(connection, new.key, new.handles, new.job_id, self)
            self.tell(connection, new.key, "RunOpened", new.job_id, new.cause.kind.value, new.cause.message)
        return True

    def admit(self, wave: NewWave, max_running: int) -> Admitted | Busy:
        now = self.clock.now()
        with self.write() as connection:
            run = connection.execute(select(jobs).where(jobs.c.job_id == wave.run)).one()
            there = select(slices.c.id).where(slices.c.id.in_([part.id for part in wave.slices]))
            if connection.scalars(there).all():
                return Admitted()
            if run.status not in OPEN_RUN or run.stop_reason is not None:
                return Busy(Reason.CANCELLED, f"{run.source}/{run.name}")
            taken = sum(len(hosts) for hosts in connection.scalars(select(slices.c.hosts).where(_open_slice())))
            ahead = _waits_longer(connection, run, now)
            if ahead is not None or taken + len(wave.hosts) > max_running:
                values = {"waiting_since": run.waiting_since or now, "waiting_seen_at": now}
                connection.execute(update(jobs).where(jobs.c.id == run.id).values(values))
                return Busy(Reason.NO_FREE_SLOTS, ahead or _some_holder(connection, run))
            of_host = {
                row.host: row.host_key
                for row in connection.execute(
                    select(jobs.c.host, jobs.c.host_key).where(jobs.c.parent_job_id == run.id)
                )
            }
            holder = _lock_holder(connection, [of_host[host] for host in wave.hosts])
            if holder is not None:
                return Busy(Reason.HOSTS_BUSY, holder)
            self._write_down(connection, wave, run, of_host, now)
            self.tell(connection, JobKey(run.source, run.name), "WaveAdmitted", wave.run, text=f"wave {wave.number}")
        return Admitted()

    def _write_down(
        self, connection: Connection, wave: NewWave, run: Row[Any], of_host: Mapping[str, str], now: datetime
    ) -> None:
        for part in wave.slices:
            row = {
                "id": part.id,
                "run": run.id,
                "wave": wave.number,
                "attempt": wave.attempt,
                "kind": "playbook",
                "state": SliceState.PLANNED.value,
                "hosts": list(part.hosts),
                "executor": "local",
                "fence": 1,
                "created_at": now,
            }
            connection.execute(insert(slices), row)
            keys = sorted({of_host[host] for host in part.hosts})
            # Two names of one machine in two slices of a wave: the first slice's lock stands for both.
            add_missing(connection, host_locks, [{"host_key": k, "slice": part.id, "fence": 1} for k in keys])
            mine = and_(jobs.c.parent_job_id == run.id, jobs.c.host.in_(part.hosts))
            values = {"wave": wave.number, "attempt": wave.attempt}
            connection.execute(update(jobs).where(mine).values(values))
            ids = connection.scalars(select(jobs.c.id).where(mine)).all()
            pending = ChildStatus.PENDING.value
            tries = [{"job": i, "number": wave.attempt, "slice": part.id, "status": pending} for i in ids]
            connection.execute(insert(attempts), tries)
        free = {"waiting_since": None, "waiting_seen_at": None}
        connection.execute(update(jobs).where(jobs.c.id == run.id).values(free))

    def skip(self, run: str, hosts: Sequence[str], reason: Reason, message: str) -> None:
        with self.write() as connection:
            parent = connection.execute(select(jobs).where(jobs.c.job_id == run)).one()
            condition = and_(
                jobs.c.parent_job_id == parent.id,
                jobs.c.host.in_(hosts),
                jobs.c.status == ChildStatus.PENDING.value,
            )
            values = {
                "status": ChildStatus.SKIPPED.value,
                "reason": reason.value,
                "message": message,
                "finished_at": self.clock.now(),
            }
            skipped = connection.execute(update(jobs).where(condition).values(values)).rowcount
            if skipped:
                self.count(connection, "children_finished_total", ChildStatus.SKIPPED.value, skipped)
                key = JobKey(parent.source, parent.name)
                self.tell(connection, key, "HostsSkipped", run, reason.value, f"{skipped} hosts")

    def finish_run(self, run: str, status: RunStatus, reason: Reason, message: str) -> bool:
        now = self.clock.now()
        with self.write() as connection:
            row = connection.execute(select(jobs).where(jobs.c.job_id == run)).one()
            values = {"status": status.value, "reason": reason.value, "message": message, "finished_at": now}
            condition = and_(jobs.c.id == row.id, jobs.c.status.in_(OPEN_RUN))
            if connection.execute(update(jobs).where(condition).values(values)).rowcount == 0:
                return False
            if status is RunStatus.SUCCESS and not row.check_mode:
                untouched = and_(jobs.c.parent_job_id == row.id, jobs.c.status == ChildStatus.SKIPPED.value)
                names = connection.scalars(select(jobs.c.host).where(untouched)).all()
                remember_success(connection, row, names)
            self.count(connection, "runs_finished_total", f"{status.value}|{reason.value}")
            observe(connection, self, "run_duration_seconds", status.value, row.started_at or now, now)
            for wave in connection.execute(
                select(func.min(slices.c.started_at).label("since"), func.max(slices.c.finished_at).label("until"))
                .where(slices.c.run == row.id, slices.c.started_at.is_not(None), slices.c.finished_at.is_not(None))
                .group_by(slices.c.wave)
            ):
                observe(connection, self, "wave_duration_seconds", "", wave.since, wave.until)
            self.tell(connection, JobKey(row.source, row.name), "RunFinished", run, reason.value, message)
        return True

    # -- reading -----------------------------------------------------------------------------------------------------
    def observe(self, key: JobKey) -> Observed:
        of_job = and_(jobs.c.source == key.source, jobs.c.name == key.name, jobs.c.is_batch_job)
        with self.read() as connection:
            pending = connection.execute(
                select(causes)
                .where(causes.c.source == key.source, causes.c.name == key.name, causes.c.handled_at.is_(None))
                .order_by(causes.c.id)
            ).all()
            latest = connection.execute(select(jobs).where(of_job).order_by(jobs.c.id.desc()).limit(HISTORY)).all()
            records = connection.execute(
                select(host_records).where(host_records.c.source == key.source, host_records.c.name == key.name)
            ).all()
            success = connection.execute(
                select(jobs)
                .where(of_job, jobs.c.status == RunStatus.SUCCESS.value, ~jobs.c.check_mode)
                .order_by(jobs.c.id.desc())
                .limit(1)
            ).one_or_none()
            shown = [*latest, *([success] if success is not None else [])]
            counts = _child_counts(connection, [row.id for row in shown])
            return Observed(
                causes=tuple(cause_of(row) for row in pending),
                run=self._run(connection, latest[0]) if latest else None,
                hosts={row.host: HostRecord(row.success_digest, row.seen_digest) for row in records},
                last_success=None if success is None else _summary(success, counts[success.id]),
                history=tuple(_summary(row, counts[row.id]) for row in latest),
            )

    def _run(self, connection: Connection, row: Row[Any]) -> Run:
        below = connection.execute(select(jobs).where(jobs.c.parent_job_id == row.id).order_by(jobs.c.ordinal)).all()
        parts = connection.execute(select(slices).where(slices.c.run == row.id).order_by(slices.c.created_at)).all()
        cause_key = connection.scalar(select(causes.c.key).where(causes.c.id == row.cause_id))
        return Run(
            job_id=row.job_id,
            cause=CauseKind(row.cause_kind),
            cause_key=cause_key or "",
            generation=row.generation,
            work_digest=row.work_digest,
            playbook_digest=row.playbook_digest,
            revision=Revision(row.revision),
            spec=spec_from_json(row.batch_config["spec"]),
            status=RunStatus(row.status),
            created_at=row.created_at,
            reason=reason_of(row.reason),
            message=row.message,
            started_at=row.started_at,
            finished_at=row.finished_at,
            stop=None if row.stop_reason is None else Stop(Reason(row.stop_reason), row.stop_message or ""),
            error=None
            if row.error_reason is None
            else RunError(Reason(row.error_reason), row.error_message, row.error_hint or ""),
            children=tuple(child_of(child) for child in below),
            slices=tuple(slice_of(part, row.job_id) for part in parts),
        )

    def open_slices(self) -> Sequence[Slice]:
        query = select(slices, jobs.c.job_id).join(jobs, jobs.c.id == slices.c.run).where(_open_slice())
        with self.read() as connection:
            return tuple(slice_of(row, row.job_id) for row in connection.execute(query))

    def key_of_run(self, run: str) -> JobKey | None:
        with self.read() as connection:
            row = connection.execute(select(jobs.c.source, jobs.c.name).where(jobs.c.job_id == run)).one_or_none()
        return None if row is None else JobKey(row.source, row.name)

    def revisions_in_use(self, source: str) -> frozenset[Revision]:
        newest = select(func.max(jobs.c.id)).where(jobs.c.source == source, jobs.c.is_batch_job).group_by(jobs.c.name)
        unfinished = and_(jobs.c.source == source, jobs.c.is_batch_job, jobs.c.status.in_(OPEN_RUN))
        query = select(jobs.c.revision).where(jobs.c.id.in_(newest) | unfinished)
        with self.read() as connection:
            return frozenset(Revision(revision) for revision in connection.scalars(query))

    def trim(self, key: JobKey, keep: int, older_than: datetime) -> int:
        ended = and_(jobs.c.source == key.source, jobs.c.name == key.name, jobs.c.is_batch_job)
        query = select(jobs.c.id, jobs.c.finished_at).where(ended, jobs.c.finished_at.is_not(None))
        with self.read() as connection:
            rows = connection.execute(query.order_by(jobs.c.id.desc())).all()
        old = [row.id for number, row in enumerate(rows) if number >= keep or row.finished_at < older_than]
        trimmed = 0
        for run in old:
            with self.write() as connection:
                below = select(jobs.c.id).where((jobs.c.parent_job_id == run) | (jobs.c.id == run))
                trimmed += connection.execute(delete(job_logs).where(job_logs.c.job.in_(below))).rowcount
                trimmed += connection.execute(delete(attempts).where(attempts.c.job.in_(below))).rowcount
        return trimmed


# -- rows and values -------------------------------------------------------------------------------------------------
def child_of(row: Row[Any]) -> Child:
    return Child(
        job_id=row.job_id,
        host=row.host,
        host_key=row.host_key,
        address=row.address,
        ordinal=row.ordinal,
        wave=row.wave,
        attempt=row.attempt,
        status=ChildStatus(row.status),
        reason=reason_of(row.reason),
        message=row.message,
        task=row.task,
        counts=TaskCounts(row.ok, row.changed, row.failed, row.skipped, row.rescued, row.ignored, row.unreachable),
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def slice_of(row: Row[Any], run: str) -> Slice:
    return Slice(
        id=SliceId(row.id),
        run=run,
        wave=row.wave,
        attempt=row.attempt,
        state=SliceState(row.state),
        hosts=tuple(row.hosts),
        fence=row.fence,
        restarts=row.restarts,
        not_before=row.not_before,
        lease_expires_at=row.lease_expires_at,
        started_at=row.started_at,
        stop=reason_of(row.stop),
    )


def reason_of(text: str | None) -> Reason | None:
    return None if text is None else Reason(text)


def _summary(row: Row[Any], counts: Mapping[ChildStatus, int]) -> RunSummary:
    return RunSummary(
        job_id=row.job_id,
        cause=CauseKind(row.cause_kind),
        generation=row.generation,
        work_digest=row.work_digest,
        playbook_digest=row.playbook_digest,
        revision=Revision(row.revision),
        check_mode=row.check_mode,
        status=RunStatus(row.status),
        reason=reason_of(row.reason),
        message=row.message,
        hosts=counts,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _child_counts(connection: Connection, runs: Sequence[int]) -> Mapping[int, Mapping[ChildStatus, int]]:
    found: defaultdict[int, dict[ChildStatus, int]] = defaultdict(dict)
    query = (
        select(jobs.c.parent_job_id, jobs.c.status, func.count().label("number"))
        .where(jobs.c.parent_job_id.in_(runs))
        .group_by(jobs.c.parent_job_id, jobs.c.status)
    )
    for row in connection.execute(query):
        found[row.parent_job_id][ChildStatus(row.status)] = row.number
    return found


def _batch_config(spec: BatchJobSpec) -> dict[str, Any]:
    return {
        "execution_strategy": spec.strategy.value,
        "concurrent_limit": spec.limit,
        "stop_on_failure": spec.stop_on_failure,
        "spec": spec_to_json(spec),
    }


def _seen(new: NewRun, host: str) -> dict[str, Any]:
    own = {"source": new.key.source, "name": new.key.name, "host": host}
    return {**own, "success_digest": None, "seen_digest": new.coverage_digest}


def remember_success(connection: Connection, run: Row[Any], hosts: Sequence[str]) -> None:
    """These hosts are up to date with what this run did."""
    of_job = and_(host_records.c.source == run.source, host_records.c.name == run.name)
    statement = update(host_records).where(of_job, host_records.c.host.in_(hosts))
    connection.execute(statement.values(success_digest=run.coverage_digest))


# -- admission -------------------------------------------------------------------------------------------------------
def _open_slice() -> Any:
    return slices.c.state.in_(OPEN_SLICE)


def _waits_longer(connection: Connection, run: Row[Any], now: datetime) -> str | None:
    """The job of a run that has been waiting for slots for longer than this one."""
    condition = and_(
        jobs.c.waiting_since.is_not(None),
        jobs.c.waiting_seen_at > now - STILL_WAITING,
        jobs.c.status.in_(OPEN_RUN),
        jobs.c.id != run.id,
    )
    query = select(jobs.c.source, jobs.c.name, jobs.c.waiting_since).where(condition).order_by(jobs.c.waiting_since)
    first = connection.execute(query.limit(1)).one_or_none()
    if first is None or (run.waiting_since is not None and run.waiting_since <= first.waiting_since):
        return None
    return f"{first.source}/{first.name}"


def _some_holder(connection: Connection, run: Row[Any]) -> str:
    query = select(jobs.c.source, jobs.c.name).join(slices, slices.c.run == jobs.c.id).where(_open_slice()).limit(1)
    row = connection.execute(query).one_or_none()
    return f"{run.source}/{run.name}" if row is None else f"{row.source}/{row.name}"


def _lock_holder(connection: Connection, host_keys: Sequence[str]) -> str | None:
    query = (
        select(jobs.c.source, jobs.c.name)
        .join(slices, slices.c.run == jobs.c.id)
        .join(host_locks, host_locks.c.slice == slices.c.id)
        .where(host_locks.c.host_key.in_(host_keys))
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else f"{row.source}/{row.name}"


# -- histograms ------------------------------------------------------------------------------------------------------
BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0)
"""Upper bounds, in seconds, of every histogram that the store keeps; above the last is +Inf."""


def observe(
    connection: Connection, database: Database, name: str, labels: str, since: datetime, until: datetime
) -> None:
    """Count a duration into a histogram: its bucket (not cumulative), its sum and its count."""
    seconds = max(0.0, (until - since).total_seconds())
    bound = next((bucket for bucket in BUCKETS if seconds <= bucket), None)
    database.count(connection, f"{name}_bucket", f"{labels}|{'+Inf' if bound is None else bound}")
    database.count(connection, f"{name}_sum", labels, seconds)
    database.count(connection, f"{name}_count", labels)
