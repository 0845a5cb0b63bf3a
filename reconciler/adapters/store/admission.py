"""Whether a wave may start: free slots, free hosts, all or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, bindparam, func, insert, select, update

from reconciler.adapters.store.database import Database
from reconciler.adapters.store.history import read_pause
from reconciler.adapters.store.rows import OPEN_RUN, OPEN_SLICE
from reconciler.adapters.store.servers import in_parts
from reconciler.adapters.store.tables import attempts, host_locks, jobs, slices
from reconciler.core.facts import ChildStatus, JobKey, SliceState
from reconciler.core.reasons import Reason
from reconciler.ports import Admitted, Busy, NewWave, Outdated

STILL_WAITING = timedelta(seconds=60)
"""A run that waits for slots keeps its place so long after it last asked."""


class Admission(Database):
    def admit(self, wave: NewWave, max_running: int) -> Admitted | Busy | Outdated:
        now = self.clock.now()
        with self.write() as connection:
            # The row of the run is held, so that its end or a stop can't come in between on any database.
            this_run = select(jobs).where(jobs.c.job_id == wave.run).with_for_update(key_share=True)
            run = connection.execute(this_run).one()
            own = JobKey(run.source, run.name)
            if _written_down(connection, wave):
                return Admitted()
            if run.status not in OPEN_RUN or run.stop_reason is not None:
                return Outdated()
            if read_pause(connection, run.source) is not None:  # since the wave was planned
                return Outdated()
            children = _pending_children(connection, run, wave.hosts)
            if len(children) < len(wave.hosts) or _has_open_slice(connection, run):
                return Outdated()
            keys = {host: child.host_key for host, child in children.items()}
            holder = str(own) if _shares_a_host(wave, keys) else _lock_holder(connection, keys.values())
            if holder is not None:
                _wait(connection, run, None, None)  # whoever waits for hosts reserves no slots
                return Busy(Reason.HOSTS_BUSY, holder)
            ahead = _waits_longer(connection, run, now)
            if ahead is not None or _slots_taken(connection) + len(wave.hosts) > max_running:
                _wait(connection, run, run.waiting_since or now, now)
                return Busy(Reason.NO_FREE_SLOTS, ahead or _some_holder(connection) or str(own))
            _wait(connection, run, None, None)
            _write_down(connection, wave, children, now)
            text = f"wave {wave.number}: {len(wave.hosts)} hosts"
            self.tell(connection, own, "WaveAdmitted", wave.run, text=text)
        return Admitted()


def _written_down(connection: Connection, wave: NewWave) -> bool:
    there = select(func.count()).where(slices.c.id.in_([part.id for part in wave.slices]))
    return connection.scalar(there) == len(wave.slices)


class _Child(NamedTuple):
    id: int
    host_key: str


def _pending_children(connection: Connection, run: Row[Any], hosts: Sequence[str]) -> Mapping[str, _Child]:
    below = and_(jobs.c.parent_job_id == run.id, jobs.c.status == ChildStatus.PENDING.value)
    return {
        row.host: _Child(row.id, row.host_key)
        for names in in_parts(hosts)
        for row in connection.execute(
            select(jobs.c.id, jobs.c.host, jobs.c.host_key).where(below, jobs.c.host.in_(names))
        )
    }


def _has_open_slice(connection: Connection, run: Row[Any]) -> bool:
    """A wave ends before the next of its run begins."""
    query = select(slices.c.id).where(slices.c.run == run.job_id, slices.c.state.in_(OPEN_SLICE)).limit(1)
    return connection.scalar(query) is not None


def _shares_a_host(wave: NewWave, keys: Mapping[str, str]) -> bool:
    """Whether two slices of the wave would work on one machine under two names."""
    per_slice = [{keys[host] for host in part.hosts} for part in wave.slices]
    return sum(map(len, per_slice)) > len(set().union(*per_slice))


def _lock_holder(connection: Connection, host_keys: Iterable[str]) -> str | None:
    """The job of a slice that has one of these hosts."""
    for part in in_parts(sorted(set(host_keys))):
        query = (
            select(jobs.c.source, jobs.c.name)
            .join(slices, slices.c.run == jobs.c.job_id)
            .join(host_locks, host_locks.c.slice == slices.c.id)
            .where(host_locks.c.host_key.in_(part))
            .order_by(host_locks.c.host_key)
            .limit(1)
        )
        row = connection.execute(query).one_or_none()
        if row is not None:
            return str(JobKey(row.source, row.name))
    return None


def _slots_taken(connection: Connection) -> int:
    """Hosts of open slices, of all runs."""
    lists = connection.scalars(select(slices.c.hosts).where(slices.c.state.in_(OPEN_SLICE)))
    return sum(len(hosts) for hosts in lists)


def _some_holder(connection: Connection) -> str | None:
    """The job of the slice that has been open for longest."""
    query = (
        select(jobs.c.source, jobs.c.name)
        .join(slices, slices.c.run == jobs.c.job_id)
        .where(slices.c.state.in_(OPEN_SLICE))
        .order_by(slices.c.created_at, slices.c.id)
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else str(JobKey(row.source, row.name))


def _waits_longer(connection: Connection, run: Row[Any], now: datetime) -> str | None:
    """The job of the run that has been waiting for slots for longest, if that is longer than this one."""
    waiting = and_(
        jobs.c.is_batch_job,
        jobs.c.status.in_(OPEN_RUN),
        jobs.c.waiting_seen_at >= now - STILL_WAITING,
        jobs.c.id != run.id,
    )
    query = select(jobs.c.source, jobs.c.name, jobs.c.waiting_since, jobs.c.id).where(waiting)
    first = connection.execute(query.order_by(jobs.c.waiting_since, jobs.c.id).limit(1)).one_or_none()
    if first is None:
        return None
    if run.waiting_since is not None and (run.waiting_since, run.id) < (first.waiting_since, first.id):
        return None
    return str(JobKey(first.source, first.name))


def _wait(connection: Connection, run: Row[Any], since: datetime | None, seen_at: datetime | None) -> None:
    if (run.waiting_since, run.waiting_seen_at) != (since, seen_at):
        values = {"waiting_since": since, "waiting_seen_at": seen_at}
        connection.execute(update(jobs).where(jobs.c.id == run.id).values(values))


def _write_down(connection: Connection, wave: NewWave, children: Mapping[str, _Child], now: datetime) -> None:
    connection.execute(
        insert(slices),
        [
            {
                "id": part.id,
                "run": wave.run,
                "wave": wave.number,
                "attempt": wave.attempt,
                "kind": "playbook",
                "state": SliceState.PLANNED.value,
                "hosts": list(part.hosts),
                "executor": "local",
                "fence": 1,
                "created_at": now,
            }
            for part in wave.slices
        ],
    )
    locks = {children[host].host_key: part.id for part in wave.slices for host in part.hosts}
    connection.execute(
        insert(host_locks), [{"host_key": key, "slice": locks[key], "fence": 1} for key in sorted(locks)]
    )
    connection.execute(
        update(jobs).where(jobs.c.id == bindparam("of_id")),
        [
            {
                "of_id": children[host].id,
                "wave": wave.number,
                "attempt": wave.attempt,
                "reason": None,
                "message": "",
                "retry_at": None,
            }
            for host in wave.hosts
        ],
    )
    connection.execute(
        insert(attempts),
        [
            {
                "job": children[host].id,
                "number": wave.attempt,
                "slice": part.id,
                "status": ChildStatus.PENDING.value,
            }
            for part in wave.slices
            for host in part.hosts
        ],
    )
