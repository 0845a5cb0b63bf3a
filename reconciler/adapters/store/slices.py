"""What the process of a slice writes, each write conditional on (slice, fence), and how a slice ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, delete, exists, func, select, update

from reconciler.adapters.store.counters import Tally
from reconciler.adapters.store.database import Database
from reconciler.adapters.store.retries import count_end, let_stand, retry_policy, to_try_again
from reconciler.adapters.store.rows import (
    HELD_SLICE,
    OPEN_SLICE,
    pinned_spec,
    reason_of,
    storable,
)
from reconciler.adapters.store.runs import remember_success
from reconciler.adapters.store.servers import in_parts
from reconciler.adapters.store.tables import attempts, causes, host_locks, job_logs, jobs, requests, slices
from reconciler.adapters.store.upserts import add_missing
from reconciler.core.facts import (
    ChildStatus,
    HostOutcome,
    JobKey,
    Revision,
    RunError,
    RunStatus,
    SliceId,
    SliceState,
    Stop,
)
from reconciler.core.manifest import Retry
from reconciler.core.reasons import Reason
from reconciler.core.retrying import next_attempt
from reconciler.ports import Beat, PlaybookResult, RequestKind, SliceWork, SpooledLine

NOT_REPORTED = "the playbook ended and nothing was reported of this host"

GIVEN_BACK_MOST = timedelta(minutes=5)
"""A slice that could not start waits 1 s, 2 s, 4 s, ... and at most so long before it is started again."""


class Slices(Database):
    def claim(self, slice_id: SliceId, fence: int, owner: str, lease: timedelta, place: str) -> SliceWork | None:
        now = self.clock.now()
        free = at(slice_id, fence, (SliceState.PLANNED.value,))
        values = {"state": SliceState.CLAIMED.value, "owner": owner, "place": place, "lease_expires_at": now + lease}
        with self.write() as connection:
            if not hold(connection, free) or told_to_stop(connection, slice_id) is not None:
                return None
            connection.execute(update(slices).where(slices.c.id == slice_id).values(values))
            row, run = slice_and_run(connection, slice_id)
        return SliceWork(
            slice_id=slice_id,
            fence=fence,
            key=JobKey(run.source, run.name),
            run=run.job_id,
            revision=Revision(run.revision),
            spec=pinned_spec(run),
            hosts=tuple(row.hosts),
            attempt=row.attempt,
        )

    def mark_started(self, slice_id: SliceId, fence: int) -> bool:
        now = self.clock.now()
        claimed = at(slice_id, fence, (SliceState.CLAIMED.value,))
        with self.write() as connection:
            if not hold(connection, claimed) or told_to_stop(connection, slice_id) is not None:
                return _has(connection, at(slice_id, fence, (SliceState.STARTED.value,)))
            values = {"state": SliceState.STARTED.value, "started_at": now}
            connection.execute(update(slices).where(slices.c.id == slice_id).values(values))
            row, run = slice_and_run(connection, slice_id)
            ids = list(children_of(connection, row, run).values())
            running = {"status": ChildStatus.RUNNING.value, "started_at": now}
            of_id = [{"of_id": job} for job in ids]
            connection.execute(
                update(jobs).where(jobs.c.id == bindparam("of_id")).values(running | {"reason": None, "message": ""}),
                of_id,
            )
            this_try = and_(attempts.c.job == bindparam("of_id"), attempts.c.number == row.attempt)
            connection.execute(update(attempts).where(this_try).values(running), of_id)
            self._begin_run(connection, run, now)
            text = f"wave {row.wave}: {len(ids)} hosts"
            self.tell(connection, JobKey(run.source, run.name), "SliceStarted", run.job_id, text=text)
        return True

    def _begin_run(self, connection: Connection, run: Row[Any], now: datetime) -> None:
        """With the first of its slices, of which several may start at once."""
        values = {"status": RunStatus.RUNNING.value, "started_at": now}
        first = and_(jobs.c.id == run.id, jobs.c.started_at.is_(None))
        if connection.execute(update(jobs).where(first).values(values)).rowcount == 0:
            return
        asked_at = connection.scalar(select(causes.c.at).where(causes.c.id == run.cause_id))
        if asked_at is not None:
            tally = Tally()
            tally.duration("pickup_seconds", since=asked_at, until=now)
            tally.write(connection)

    def heartbeat(self, slice_id: SliceId, fence: int, lease: timedelta) -> Beat:
        with self.write() as connection:
            until = self.clock.now() + lease
            renewed = update(slices).where(at(slice_id, fence, HELD_SLICE)).values(lease_expires_at=until)
            if connection.execute(renewed).rowcount == 0:
                return Beat.LOST
            return Beat.RENEWED if told_to_stop(connection, slice_id) is None else Beat.CANCEL

    def stop_requested(self, slice_id: SliceId) -> bool:
        with self.read() as connection:
            return told_to_stop(connection, slice_id) is not None

    def append_logs(self, slice_id: SliceId, fence: int, lines: Sequence[SpooledLine]) -> bool:
        with self.write() as connection:
            held = select(slices.c.id).where(at(slice_id, fence, HELD_SLICE)).with_for_update(key_share=True)
            if connection.scalar(held) is None:
                return False
            add_lines(connection, slice_id, lines)
        return True

    def finish(self, slice_id: SliceId, fence: int, result: PlaybookResult) -> bool:
        with self.write() as connection:
            if end_slice(self, connection, slice_id, fence, HELD_SLICE, result):
                return True
            return _has(connection, at(slice_id, fence, (SliceState.FINISHED.value, SliceState.CANCELLED.value)))

    def give_back(self, slice_id: SliceId, fence: int, reason: Reason, message: str) -> bool:
        with self.write() as connection:
            held = at(slice_id, fence, (SliceState.CLAIMED.value,))
            restarts = connection.scalar(select(slices.c.restarts).where(held))
            if restarts is None:
                return False
            pause = min(GIVEN_BACK_MOST, timedelta(seconds=2 ** min(restarts, 10)))
            return plan_again(self, connection, slice_id, fence, self.clock.now() + pause, reason, message)


# -- being told to stop ----------------------------------------------------------------------------------------------
def _asked_to_cancel(run: ColumnElement[str]) -> ColumnElement[bool]:
    """By a request that no daemon has answered yet."""
    pending = and_(requests.c.kind == RequestKind.CANCEL.value, requests.c.result.is_(None))
    return exists().where(requests.c.run == run, pending)


def told_to_stop(connection: Connection, slice_id: SliceId) -> Stop | None:
    """By the planner, by a cancel that was recorded, or by one that no daemon has answered yet."""
    query = (
        select(
            slices.c.stop,
            slices.c.stop_message,
            jobs.c.stop_reason.label("run_stop"),
            jobs.c.stop_message.label("run_message"),
            _asked_to_cancel(slices.c.run).label("asked"),
        )
        .join(jobs, jobs.c.job_id == slices.c.run)
        .where(slices.c.id == slice_id)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    if row.stop is not None:
        return Stop(reason_of(row.stop), row.stop_message or "")
    if row.run_stop is not None:
        return Stop(reason_of(row.run_stop), row.run_message or "")
    return Stop(Reason.CANCELLED, "cancelled by request") if row.asked else None


# -- parts of several transactions -----------------------------------------------------------------------------------
def at(slice_id: SliceId, fence: int, states: Sequence[str]) -> ColumnElement[bool]:
    return and_(slices.c.id == slice_id, slices.c.fence == fence, slices.c.state.in_(states))


def _has(connection: Connection, which: ColumnElement[bool]) -> bool:
    """Whether there is such a slice."""
    return connection.scalar(select(slices.c.id).where(which)) is not None


def slice_and_run(connection: Connection, slice_id: SliceId) -> tuple[Row[Any], Row[Any]]:
    row = connection.execute(select(slices).where(slices.c.id == slice_id)).one()
    return row, connection.execute(select(jobs).where(jobs.c.job_id == row.run)).one()


def children_of(connection: Connection, row: Row[Any], run: Row[Any]) -> Mapping[str, int]:
    """Ids of a slice's children by host, in the slice's order."""
    found: dict[str, int] = {}
    for names in in_parts(row.hosts):
        query = select(jobs.c.host, jobs.c.id).where(jobs.c.parent_job_id == run.id, jobs.c.host.in_(names))
        found |= {child.host: child.id for child in connection.execute(query)}
    return {host: found[host] for host in row.hosts}


def add_lines(connection: Connection, slice_id: SliceId, lines: Sequence[SpooledLine]) -> None:
    """A line of a host that the slice does not have (a delegate) goes into the run's log."""
    row, run = slice_and_run(connection, slice_id)
    ids = children_of(connection, row, run)
    rows = [
        {
            "job": run.id if line.host is None else ids.get(line.host, run.id),
            "attempt": row.attempt,
            "slice": slice_id,
            "sequence": line.sequence,
            "text": line.text,
        }
        for line in lines
    ]
    add_missing(connection, job_logs, rows)


def plan_again(
    store: Database,
    connection: Connection,
    slice_id: SliceId,
    fence: int,
    not_before: datetime,
    reason: Reason,
    message: str,
) -> bool:
    """A slice that touched no host is to be started again; one that was told to stop meanwhile ends here. False: it is
    not at this fence, or has started."""
    unstarted = (SliceState.PLANNED.value, SliceState.CLAIMED.value)
    if not hold(connection, at(slice_id, fence, unstarted)):
        return False
    stop = told_to_stop(connection, slice_id)
    if stop is not None:
        return end_slice(store, connection, slice_id, fence, unstarted, PlaybookResult(()), stop=stop)
    values = {
        "state": SliceState.PLANNED.value,
        "fence": fence + 1,
        "restarts": slices.c.restarts + 1,
        "not_before": not_before,
        "owner": None,
        "place": None,
        "lease_expires_at": None,
    }
    connection.execute(update(slices).where(slices.c.id == slice_id).values(values))
    connection.execute(update(host_locks).where(host_locks.c.slice == slice_id).values(fence=fence + 1))
    row, run = slice_and_run(connection, slice_id)
    why = {"reason": reason.value, "message": storable(message)}
    of_id = [{"of_id": job} for job in children_of(connection, row, run).values()]
    connection.execute(update(jobs).where(jobs.c.id == bindparam("of_id")).values(why), of_id)
    this_try = and_(attempts.c.job == bindparam("of_id"), attempts.c.number == row.attempt)
    connection.execute(update(attempts).where(this_try).values(why), of_id)
    store.tell(connection, JobKey(run.source, run.name), "SliceGivenBack", run.job_id, reason.value, why["message"])
    return True


def end_slice(
    store: Database,
    connection: Connection,
    slice_id: SliceId,
    fence: int,
    states: Sequence[str],
    result: PlaybookResult,
    *,
    stop: Stop | None = None,
    lost: str | None = None,
) -> bool:
    """The end of a slice, once: outcomes, locks, counters, host records, the run's error and the event.

    Children that the result says nothing of are unknown if it was `lost` (then why), whatever it was told; else skipped
    if the slice never started, and cancelled if it did and was told to `stop`; else unknown, for nothing was reported.
    Its process only knows that it was told to stop: why, is added here. False: it is not at this fence in one of `states`.
    """
    now = store.clock.now()
    if not hold(connection, at(slice_id, fence, states)):
        return False
    asked = stop or told_to_stop(connection, slice_id)
    told = None if lost is not None else asked
    state = SliceState.CANCELLED if told is not None else SliceState.FINISHED if lost is None else SliceState.LOST
    values = {"state": state.value, "finished_at": now, "lease_expires_at": None}
    if told is not None:
        values |= {"stop": told.reason.value, "stop_message": told.message}
    connection.execute(update(slices).where(slices.c.id == slice_id).values(values))
    row, run = slice_and_run(connection, slice_id)
    proven = {outcome.host: outcome for outcome in result.outcomes}
    unproven = partial(_unproven, started=row.started_at is not None, told=told, lost=lost)
    outcomes = [_for_the_reason(asked, proven.get(host) or unproven(host)) for host in row.hosts]
    tally = Tally()
    ended_by_itself = asked is None and result.error is None and run.error_reason is None
    retry = retry_policy(connection, run) if ended_by_itself else None
    again = _record_outcomes(connection, row, run, outcomes, retry, now, tally)
    connection.execute(delete(host_locks).where(host_locks.c.slice == slice_id))
    succeeded = [outcome.host for outcome in outcomes if outcome.status is ChildStatus.SUCCESS]
    remember_success(connection, run, succeeded)
    if result.error is not None:
        _record_error(connection, run, result.error)
    _count_wave(connection, row, tally, now)
    tally.write(connection)
    counts = Counter(outcome.status.value for outcome in outcomes)
    text = f"wave {row.wave}: " + ", ".join(f"{number} {status}" for status, number in counts.items())
    if again:
        text += f"; {again} of them are tried again"
    reason = told.reason.value if told is not None else Reason.SLICE_LOST.value if lost is not None else ""
    type_ = "SliceLost" if state is SliceState.LOST else "SliceFinished"
    store.tell(connection, JobKey(run.source, run.name), type_, run.job_id, reason, text)
    return True


def hold(connection: Connection, which: ColumnElement[bool]) -> bool:
    """A slice, if it is as it should be, then its run, both to the end of the transaction: the slices of a run start and
    end one after the other, so that the first one and the last one of a wave know that they are."""
    run = connection.scalar(select(slices.c.run).where(which).with_for_update(key_share=True))
    if run is None:
        return False
    connection.execute(select(jobs.c.id).where(jobs.c.job_id == run).with_for_update(key_share=True))
    return True


def _for_the_reason(told: Stop | None, outcome: HostOutcome) -> HostOutcome:
    if told is None or outcome.status is not ChildStatus.CANCELLED:
        return outcome
    inside = f" (in task {outcome.task})" if outcome.task else ""
    return replace(outcome, reason=told.reason, message=f"{told.message or outcome.message}{inside}")


def _unproven(host: str, *, started: bool, told: Stop | None, lost: str | None) -> HostOutcome:
    if told is not None:
        status = ChildStatus.CANCELLED if started else ChildStatus.SKIPPED
        return HostOutcome(host, status, told.reason, told.message)
    if lost is not None:
        return HostOutcome(host, ChildStatus.UNKNOWN, Reason.SLICE_LOST, lost)
    return HostOutcome(host, ChildStatus.UNKNOWN, Reason.COMPANION_MISSING, NOT_REPORTED)


def _record_outcomes(
    connection: Connection,
    row: Row[Any],
    run: Row[Any],
    outcomes: Sequence[HostOutcome],
    retry: Retry | None,
    now: datetime,
    tally: Tally,
) -> int:
    """Into the attempts, and into the children those that are final: what is to be tried again waits for that, and what was
    to be tried again and never started ends as its attempt before. Returns how many are to be tried again."""
    ids = children_of(connection, row, run)
    children: list[dict[str, Any]] = []
    tries: list[dict[str, Any]] = []
    before: dict[int, int] = {}
    again = 0
    for outcome in outcomes:
        started, finished = outcome.started_at or row.started_at, outcome.finished_at or now
        shown = {
            "of_id": ids[outcome.host],
            "status": outcome.status.value,
            "reason": None if outcome.reason is None else outcome.reason.value,
            "message": storable(outcome.message),
            "task": None if outcome.task is None else storable(outcome.task),
            "started_at": started,
            "finished_at": finished,
        }
        counts = asdict(outcome.counts)
        tries.append(shown | {"counts": counts})
        following = None if retry is None else next_attempt(retry, outcome, row.attempt, now)
        if following is not None:
            children.append(to_try_again(ids[outcome.host], following))
            again += 1
        elif row.started_at is None and row.attempt > 1 and outcome.status is ChildStatus.SKIPPED:
            before[ids[outcome.host]] = row.attempt - 1
        else:
            children.append(shown | counts | {"retry_at": None})
            count_end(tally, outcome.status, started, finished)
    if children:
        connection.execute(update(jobs).where(jobs.c.id == bindparam("of_id")), children)
    this_try = and_(attempts.c.job == bindparam("of_id"), attempts.c.number == row.attempt)
    connection.execute(update(attempts).where(this_try), tries)
    let_stand(connection, before, tally)
    return again


def _record_error(connection: Connection, run: Row[Any], error: RunError) -> None:
    """The first one stands."""
    values = {
        "error_reason": error.reason.value,
        "error_message": storable(error.message),
        "error_hint": storable(error.hint),
    }
    first = and_(jobs.c.id == run.id, jobs.c.error_reason.is_(None))
    connection.execute(update(jobs).where(first).values(values))


def _count_wave(connection: Connection, row: Row[Any], tally: Tally, now: datetime) -> None:
    """When its last slice has ended: from its first start. Hosts that are tried again do so one part after another."""
    if row.attempt > 1:
        return
    same = and_(slices.c.run == row.run, slices.c.wave == row.wave, slices.c.attempt == row.attempt)
    if connection.scalar(select(slices.c.id).where(same, slices.c.state.in_(OPEN_SLICE)).limit(1)) is None:
        started = connection.scalar(select(func.min(slices.c.started_at)).where(same))
        if started is not None:
            tally.duration("wave_duration_seconds", since=started, until=now)
