"""Rows into values, and values into rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, and_

from reconciler.adapters.store.tables import clean_text, jobs, manifests
from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    ChildStatus,
    Commit,
    JobKey,
    ManifestRecord,
    Pause,
    Revision,
    RunStatus,
    RunSummary,
    Slice,
    SliceId,
    SliceState,
    TaskCounts,
)
from reconciler.core.manifest import BatchJobSpec, Problem, spec_from_json, spec_to_json
from reconciler.core.reasons import Reason
from reconciler.ports import Request, RequestKind, StoredEvent

OPEN_RUN = tuple(status.value for status in RunStatus if not status.finished)
OPEN_SLICE = tuple(state.value for state in SliceState if state.open)
HELD_SLICE = (SliceState.CLAIMED.value, SliceState.STARTED.value)
"""A process has it."""

_REASONS: Mapping[str, Reason] = {reason.value: reason for reason in Reason}
_CHILD_STATUS: Mapping[str, ChildStatus] = {status.value: status for status in ChildStatus}


def of_job(table: Table, key: JobKey) -> ColumnElement[bool]:
    return and_(table.c.source == key.source, table.c.name == key.name)


def reason_of(text: str) -> Reason:
    return _REASONS[text]


def maybe_reason(text: str | None) -> Reason | None:
    return None if text is None else _REASONS[text]


MESSAGE_MOST = 4000
"""Characters of a message, whoever wrote it; of a longer one the end is cut off, and that is marked."""

NAME_MOST = 253
"""Characters of whoever or whatever a short column names."""

CUT = " … (cut)"


def storable(text: str, most: int = MESSAGE_MOST) -> str:
    """A message as it is kept: at most so many characters of it."""
    clean = clean_text(text)
    return clean if len(clean) <= most else clean[: most - len(CUT)] + CUT


def folded(*texts: str) -> str:
    """What a search looks through, whatever its case: what is searched for is folded, too. Not by the database, for each
    has an idea of its own of letters beyond ASCII."""
    return clean_text("\n".join(texts).casefold())


# -- manifests -------------------------------------------------------------------------------------------------------
RECORD = [column for column in manifests.c if column.name != "status"]


def record_of(row: Row[Any]) -> ManifestRecord:
    return ManifestRecord(
        key=JobKey(row.source, row.name),
        path=row.path,
        document=row.document,
        generation=row.generation,
        spec=spec_from_json(row.spec),
        spec_digest=row.spec_digest,
        work_digest=row.work_digest,
        coverage_digest=row.coverage_digest,
        labels=row.labels,
        requested_at=row.requested_at,
        revision=Revision(row.revision),
        seen_at=row.seen_at,
        rejected=None if row.rejected is None else Problem(**row.rejected),
        removed_at=row.removed_at,
        held=maybe_reason(row.held),
    )


def record_row(record: ManifestRecord) -> dict[str, Any]:
    return {
        "source": record.key.source,
        "name": record.key.name,
        "path": record.path,
        "document": record.document,
        "generation": record.generation,
        "spec": spec_to_json(record.spec),
        "spec_digest": record.spec_digest,
        "work_digest": record.work_digest,
        "coverage_digest": record.coverage_digest,
        "labels": dict(record.labels),
        "requested_at": record.requested_at,
        "revision": record.revision,
        "seen_at": record.seen_at,
        "rejected": None if record.rejected is None else asdict(record.rejected),
        "removed_at": record.removed_at,
        "held": None if record.held is None else record.held.value,
    }


def cause_of(row: Row[Any]) -> Cause:
    pinned = None if row.pinned is None else Revision(row.pinned)
    return Cause(CauseKind(row.kind), row.key, row.message, row.at, tuple(row.hosts), row.retry_of, pinned)


def pause_of(row: Row[Any]) -> Pause:
    return Pause(row.source or None, row.by, row.reason, row.at)


def request_of(row: Row[Any]) -> Request:
    key = JobKey(row.source, row.name)
    kind, arguments = RequestKind(row.kind), row.arguments or {}
    return Request(row.id, kind, key, row.run, row.by, row.reason, row.at, row.result, arguments, row.answered_at)


def event_of(row: Row[Any]) -> StoredEvent:
    key = None if row.source is None else JobKey(row.source, row.name)
    return StoredEvent(row.sequence, key, row.run, row.type, row.reason, row.message, row.at)


# -- runs ------------------------------------------------------------------------------------------------------------
def batch_config(spec: BatchJobSpec) -> dict[str, Any]:
    """What a run is pinned to. Defaults are written out: those of a later version are not this run's."""
    return {
        "execution_strategy": spec.strategy.value,
        "concurrent_limit": spec.limit,
        "stop_on_failure": spec.stop_on_failure,
        "spec": spec.model_dump(mode="json", by_alias=True),
    }


def pinned_spec(row: Row[Any]) -> BatchJobSpec:
    return spec_from_json(row.batch_config["spec"])


COMMIT = [jobs.c[name] for name in ("revision", "commit_author", "committed_at", "commit_subject", "commit_signer")]
"""The columns that `commit_of` reads."""


def commit_of(row: Row[Any]) -> Commit | None:
    """The commit that the revision of a row of `jobs` is; None if it is none."""
    if row.committed_at is None:
        return None
    commit_id = row.revision.rpartition(":")[2]
    return Commit(commit_id, row.commit_author, row.committed_at, row.commit_subject, row.commit_signer)


def commit_row(commit: Commit | None) -> dict[str, Any]:
    """What a row of `jobs` has of it beside the revision."""
    if commit is None:
        return {}
    return {
        "commit_author": storable(commit.author),
        "committed_at": commit.date,
        "commit_subject": storable(commit.subject),
        "commit_signer": None if commit.signer is None else storable(commit.signer),
    }


CHILD = [
    jobs.c[name]
    for name in (
        *("job_id", "host", "host_key", "address", "ordinal", "wave", "attempt", "status", "reason", "message", "task"),
        *(
            "started_at",
            "finished_at",
            "retry_at",
            "ok",
            "changed",
            "failed",
            "skipped",
            "rescued",
            "ignored",
            "unreachable",
        ),
    )
]
"""The columns that `child_of` reads, in this order: by place, for a run may have 10,000 of them."""


def child_of(row: Sequence[Any], commit: Commit | None) -> Child:
    job_id, host, host_key, address, ordinal, wave, attempt, status, reason, message, task, *times = row[:14]
    return Child(
        job_id,
        host,
        host_key,
        address,
        ordinal,
        wave,
        attempt,
        _CHILD_STATUS[status],
        None if reason is None else _REASONS[reason],
        message,
        task,
        _task_counts(*row[14:21]),
        times[0],
        times[1],
        commit,
        times[2],
    )


@lru_cache(maxsize=4096)
def _task_counts(*counts: int) -> TaskCounts:
    return TaskCounts(*counts)


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
        stop=maybe_reason(row.stop),
        place=row.place,
    )


def summary_of(row: Row[Any], hosts: Mapping[ChildStatus, int]) -> RunSummary:
    return RunSummary(
        job_id=row.job_id,
        cause=CauseKind(row.cause_kind),
        generation=row.generation,
        work_digest=row.work_digest,
        playbook_digest=row.playbook_digest,
        revision=Revision(row.revision),
        check_mode=row.check_mode,
        status=RunStatus(row.status),
        reason=maybe_reason(row.reason),
        message=row.message,
        hosts=hosts,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        commit=commit_of(row),
        retry_of=row.retry_of,
    )
