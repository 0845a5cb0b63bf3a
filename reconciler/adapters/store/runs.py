"""Runs: opening one with all its children, ending what never started, ending it, and removing what is old."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Row, and_, bindparam, func, insert, or_, select, update

from reconciler.adapters.store.counters import Tally
from reconciler.adapters.store.history import read_pause
from reconciler.adapters.store.manifests import Manifests
from reconciler.adapters.store.rows import OPEN_RUN, OPEN_SLICE, batch_config, commit_row, of_job, storable
from reconciler.adapters.store.servers import in_parts, write_servers
from reconciler.adapters.store.summaries import mark_active
from reconciler.adapters.store.tables import causes, host_records, jobs, manifests, slices
from reconciler.adapters.store.upserts import upsert
from reconciler.core.facts import ChildStatus, JobKey, Revision, RunStatus
from reconciler.core.reasons import Reason
from reconciler.ports import NewRun


class Runs(Manifests):
    def open_run(self, new: NewRun) -> bool:
        now = self.clock.now()
        with self.write() as connection:
            cause_id = _unhandled(connection, new)
            if cause_id is None or _has_open_run(connection, new.key):
                return False
            if read_pause(connection, new.key.source) is not None:  # since it was last looked at
                return False
            server_ids = write_servers(connection, new.key.source, new.inventory, new.hosts, now)
            shared = {
                "source": new.key.source,
                "name": new.key.name,
                "playbook": new.spec.playbook,
                "generation": new.generation,
                "work_digest": new.work_digest,
                "coverage_digest": new.coverage_digest,
                "playbook_digest": new.playbook_digest,
                "revision": new.revision,
                **commit_row(new.commit),
                "cause_id": cause_id,
                "cause_kind": new.cause.kind.value,
                "retry_of": new.cause.retry_of,
                "check_mode": new.spec.check_mode,
                "status": RunStatus.PENDING.value,
                "created_at": now,
            }
            parent = {**shared, "job_id": new.job_id, "is_batch_job": True, "batch_config": batch_config(new.spec)}
            connection.execute(insert(jobs), parent)
            parent_id = connection.scalar(select(jobs.c.id).where(jobs.c.job_id == new.job_id))
            stem = "job-" + new.job_id.removeprefix("batch-")
            children = [
                {
                    **shared,
                    "job_id": f"{stem}-{ordinal:04}",
                    "is_batch_job": False,
                    "parent_job_id": parent_id,
                    "server_id": server_ids[host.name],
                    "host": host.name,
                    "host_key": host.host_key,
                    "address": host.address,
                    "ordinal": ordinal,
                }
                for ordinal, host in enumerate(new.hosts, start=1)
            ]
            connection.execute(insert(jobs), children)
            own = {"source": new.key.source, "name": new.key.name, "seen_digest": new.coverage_digest}
            known = {"success_digest": None, "success_playbook": None}
            seen = [{**own, **known, "host": host.name} for host in new.hosts]
            upsert(connection, host_records, seen, keep=tuple(known))
            self.handle_causes(connection, new.key, new.handles, new.job_id)
            mark_active(connection, new.key, now)
            self.tell(connection, new.key, "RunOpened", new.job_id, new.cause.kind.value, storable(new.cause.message))
        return True

    def skip(self, run: str, hosts: Sequence[str], reason: Reason, message: str) -> None:
        values = {
            "status": ChildStatus.SKIPPED.value,
            "reason": reason.value,
            "message": storable(message),
            "finished_at": self.clock.now(),
        }
        with self.write() as connection:
            parent = connection.execute(select(jobs.c.id, jobs.c.source, jobs.c.name).where(jobs.c.job_id == run)).one()
            lists = connection.scalars(
                select(slices.c.hosts).where(slices.c.run == run, slices.c.state.in_(OPEN_SLICE))
            )
            taken = {host for names in lists for host in names}
            pending = and_(
                jobs.c.parent_job_id == parent.id,
                jobs.c.status == ChildStatus.PENDING.value,
                jobs.c.retry_at.is_(None),
            )
            skipped = sum(
                connection.execute(update(jobs).where(pending, jobs.c.host.in_(names)).values(values)).rowcount
                for names in in_parts(host for host in hosts if host not in taken)
            )
            if not skipped:
                return
            tally = Tally()
            tally.count("children_finished_total", ChildStatus.SKIPPED.value, by=skipped)
            tally.write(connection)
            key = JobKey(parent.source, parent.name)
            self.tell(connection, key, "HostsSkipped", run, reason.value, f"{skipped} hosts")

    def finish_run(self, run: str, status: RunStatus, reason: Reason, message: str) -> bool:
        now = self.clock.now()
        values = {
            "status": status.value,
            "reason": reason.value,
            "message": storable(message),
            "finished_at": now,
            "waiting_since": None,
            "waiting_seen_at": None,
        }
        with self.write() as connection:
            unfinished = and_(jobs.c.job_id == run, jobs.c.status.in_(OPEN_RUN))
            if connection.execute(update(jobs).where(unfinished).values(values)).rowcount == 0:
                return False
            row = connection.execute(select(jobs).where(jobs.c.job_id == run)).one()
            if status is RunStatus.SUCCESS:
                not_targeted = and_(jobs.c.parent_job_id == row.id, jobs.c.reason == Reason.NOT_TARGETED.value)
                remember_success(connection, row, connection.scalars(select(jobs.c.host).where(not_targeted)).all())
            tally = Tally()
            tally.count("runs_finished_total", status.value, reason.value)
            if row.started_at is not None:
                tally.duration("run_duration_seconds", status.value, since=row.started_at, until=now)
            tally.write(connection)
            self.tell(connection, JobKey(row.source, row.name), "RunFinished", run, reason.value, storable(message))
        return True

    def open_runs(self) -> Sequence[tuple[JobKey, str]]:
        unfinished = and_(jobs.c.is_batch_job, jobs.c.status.in_(OPEN_RUN))
        query = select(jobs.c.source, jobs.c.name, jobs.c.job_id).where(unfinished).order_by(jobs.c.id)
        with self.read() as connection:
            return tuple((JobKey(row.source, row.name), row.job_id) for row in connection.execute(query))

    def key_of_run(self, run: str) -> JobKey | None:
        with self.read() as connection:
            row = connection.execute(select(jobs.c.source, jobs.c.name).where(jobs.c.job_id == run)).one_or_none()
        return None if row is None else JobKey(row.source, row.name)

    # -- what is kept ------------------------------------------------------------------------------------------------
    def revisions_in_use(self, source: str) -> frozenset[Revision]:
        ours = and_(jobs.c.source == source, jobs.c.is_batch_job)
        removed = select(manifests.c.name).where(manifests.c.source == source, manifests.c.removed_at.is_not(None))
        newest = select(func.max(jobs.c.id)).where(ours, jobs.c.name.not_in(removed)).group_by(jobs.c.name)
        query = select(jobs.c.revision).where(ours, or_(jobs.c.id.in_(newest), jobs.c.status.in_(OPEN_RUN)))
        pending = and_(causes.c.source == source, causes.c.handled_at.is_(None), causes.c.pinned.is_not(None))
        with self.read() as connection:
            found = [*connection.scalars(query), *connection.scalars(select(causes.c.pinned).where(pending))]
        return frozenset(Revision(revision) for revision in found if revision is not None)


def _unhandled(connection: Connection, new: NewRun) -> int | None:
    """The row of the cause that a run is opened for; None: it has had its run."""
    this = and_(causes.c.kind == new.cause.kind.value, causes.c.key == new.cause.key, causes.c.handled_at.is_(None))
    return connection.scalar(select(causes.c.id).where(of_job(causes, new.key), this).with_for_update())


def _has_open_run(connection: Connection, key: JobKey) -> bool:
    unfinished = and_(of_job(jobs, key), jobs.c.is_batch_job, jobs.c.status.in_(OPEN_RUN))
    return connection.scalar(select(jobs.c.id).where(unfinished).limit(1)) is not None


def remember_success(connection: Connection, run: Row[tuple[object, ...]], hosts: Sequence[str]) -> None:
    """These hosts are up to date with what this run did. A run in check mode did nothing."""
    if run.check_mode or not hosts:
        return
    statement = update(host_records).where(of_job(host_records, JobKey(run.source, run.name)))
    statement = statement.where(host_records.c.host == bindparam("of_host"))
    values = {"success_digest": run.coverage_digest, "success_playbook": run.playbook_digest}
    connection.execute(statement.values(values), [{"of_host": host} for host in hosts])
