"""Values for tests, with good defaults: say only what the story is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from reconciler.core.facts import (
    Cause,
    CauseKind,
    ChildStatus,
    Commit,
    HostOutcome,
    JobKey,
    ManifestRecord,
    Revision,
    RunStatus,
    TaskCounts,
)
from reconciler.core.hosts import Host
from reconciler.core.manifest import (
    BatchJobSpec,
    Problem,
    Strategy,
    coverage_digest,
    spec_digest,
    spec_from_json,
    work_digest,
)
from reconciler.core.planning import slice_id
from reconciler.core.reasons import Reason
from reconciler.core.status import (
    ChildView,
    Condition,
    ConditionType,
    FailureGroup,
    HistoryView,
    HostCounts,
    JobMetadata,
    JobStatus,
    JobStatusBody,
    Phase,
    WaveView,
)
from reconciler.ports import NewCause, NewRun, NewSlice, NewWave, PlaybookResult, Request, RequestKind

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
JOB = JobKey("default", "patch-web")
OTHER_JOB = JobKey("default", "patch-db")
REVISION = Revision("dir@sha256:" + "a" * 64)
COMMIT = Commit(
    id="1a2b3c4d5e6f" + "7" * 28,
    author="Ada Lovelace <ada@example.org>",
    date=datetime(2026, 11, 22, 10, 2, tzinfo=UTC),
    subject="Restart nginx after its configuration changed",
)
COMMIT_REVISION = Revision(f"main@sha1:{COMMIT.id}")
PLAYBOOK_DIGEST = "p" * 64
GOOD_MANIFEST = """\
apiVersion: reconciler/v1
kind: BatchJob
metadata:
  name: patch-web
spec:
  playbook: playbooks/patch.yml
  selector:
    tags: [web]
"""
"""Eight lines: what a test appends to the spec, two spaces in, begins on line 9."""


def make_spec(**fields: Any) -> BatchJobSpec:
    """A spec by the manifest's own names: `make_spec(limit=3, stopOnFailure=True)`."""
    return spec_from_json({"playbook": "playbooks/patch.yml", "selector": {"all": True}, **fields})


def make_host(name: str, **fields: Any) -> Host:
    facts = {"address": f"{name}.example", "host_key": f"{name}.example:22", "tags": frozenset({"web"}), **fields}
    return Host(name, **facts)


def hosts(*names: str) -> tuple[Host, ...]:
    return tuple(make_host(name) for name in names)


def numbered_hosts(count: int) -> tuple[Host, ...]:
    """web-1, web-2, ..."""
    return hosts(*(f"web-{number}" for number in range(1, count + 1)))


def manifest_record(
    key: JobKey = JOB,
    spec: BatchJobSpec | None = None,
    *,
    generation: int = 1,
    path: str | None = None,
    labels: Mapping[str, str] | None = None,
    requested_at: str | None = None,
    revision: Revision = REVISION,
    seen_at: datetime = NOON,
    rejected: Problem | None = None,
    removed_at: datetime | None = None,
    held: Reason | None = None,
) -> ManifestRecord:
    spec = spec or make_spec()
    return ManifestRecord(
        key=key,
        path=path or f"jobs/{key.name}.yaml",
        document=1,
        generation=generation,
        spec=spec,
        spec_digest=spec_digest(spec),
        work_digest=work_digest(spec),
        coverage_digest=coverage_digest(spec),
        labels=labels or {},
        requested_at=requested_at,
        revision=revision,
        seen_at=seen_at,
        rejected=rejected,
        removed_at=removed_at,
        held=held,
    )


def new_cause(
    cause: str = "1",
    *,
    key: JobKey = JOB,
    kind: CauseKind = CauseKind.SPEC_CHANGED,
    message: str = "the work fields changed",
    hosts: tuple[str, ...] = (),
    retry_of: str | None = None,
    pinned: Revision | None = None,
) -> NewCause:
    return NewCause(key, kind, cause, message, hosts, retry_of, pinned)


def make_new_run(
    cause: Cause,
    selection: Sequence[Host],
    *,
    key: JobKey = JOB,
    job_id: str | None = None,
    handles: tuple[Cause, ...] | None = None,
    spec: BatchJobSpec | None = None,
    generation: int = 1,
    revision: Revision = REVISION,
    playbook_digest: str = PLAYBOOK_DIGEST,
    inventory: str = "inventory/hosts.yml",
    commit: Commit | None = None,
) -> NewRun:
    """By default it handles its own cause only, and its id is made of job and cause."""
    spec = spec or make_spec()
    return NewRun(
        key=key,
        job_id=job_id or f"batch-20261123-120000-{key.source}-{key.name}-{cause.kind.lower()}-{cause.key}",
        cause=cause,
        handles=handles if handles is not None else (cause,),
        generation=generation,
        work_digest=work_digest(spec),
        coverage_digest=coverage_digest(spec),
        playbook_digest=playbook_digest,
        revision=revision,
        spec=spec,
        inventory=inventory,
        hosts=tuple(selection),
        commit=commit,
    )


def make_wave(run: str, *slices: Sequence[str], number: int = 1, attempt: int = 1) -> NewWave:
    """`make_wave(run, ["web-1", "web-2"], ["web-3"])`: one wave in two slices."""
    parts = tuple(NewSlice(slice_id(run, number, attempt, names), tuple(names)) for names in slices)
    return NewWave(run, number, attempt, parts)


def outcome(host: str, status: ChildStatus = ChildStatus.SUCCESS, **fields: Any) -> HostOutcome:
    """With counts, and with the reason and message that the status usually has."""
    usual: dict[ChildStatus, dict[str, Any]] = {
        ChildStatus.FAILED: {"reason": Reason.TASK_FAILED, "message": "no such package", "task": "Install nginx"},
        ChildStatus.UNREACHABLE: {"reason": Reason.CONNECTION_FAILED, "message": "connection timed out"},
        ChildStatus.ABORTED: {"reason": Reason.STOPPED_WITH_OTHERS, "message": "another host failed"},
        ChildStatus.SKIPPED: {"reason": Reason.NOT_TARGETED, "message": "no play has this host"},
        ChildStatus.CANCELLED: {"reason": Reason.CANCELLED, "message": "cancelled"},
    }
    facts: dict[str, Any] = {"counts": TaskCounts(ok=3, changed=1), **usual.get(status, {}), **fields}
    return HostOutcome(host, status, **facts)


def all_succeeded(names: Sequence[str]) -> PlaybookResult:
    return PlaybookResult(tuple(outcome(name) for name in names))


def make_request(
    request_id: str = "request-1",
    kind: RequestKind = RequestKind.CANCEL,
    *,
    key: JobKey = JOB,
    run: str | None = None,
    by: str = "kim",
    reason: str = "",
    at: datetime = NOON,
    arguments: Mapping[str, Any] | None = None,
) -> Request:
    return Request(request_id, kind, key, run, by, reason, at, arguments=arguments or {})


def make_status(
    key: JobKey = JOB,
    phase: Phase = Phase.SUCCEEDED,
    *,
    message: str = "",
    playbook: str | None = "playbooks/patch.yml",
    labels: Mapping[str, str] | None = None,
    changed_at: datetime = NOON,
    children: int = 0,
    waves: int = 0,
    past_runs: int = 0,
    **body: Any,
) -> JobStatus:
    """A status document with as many children (all failed, for as many reasons), waves and past runs as are asked for,
    the latest run a minute after the one before."""
    ready = Condition(
        type=ConditionType.READY,
        status="True" if phase is Phase.SUCCEEDED else "False",
        reason=Reason.SUCCEEDED.value,
        message=message,
        last_transition_time=changed_at,
        observed_generation=1,
    )
    failed = [f"web-{number}" for number in range(1, children + 1)]
    return JobStatus(
        metadata=JobMetadata(
            name=key.name, source=key.source, path=f"jobs/{key.name}.yaml", generation=1, labels=labels or {}
        ),
        status=JobStatusBody(
            observed_generation=1,
            phase=phase,
            message=message,
            progress=f"{children}/{children} completed, {children} failed",
            revision=REVISION,
            strategy=Strategy.PARALLEL,
            playbook=playbook,
            conditions=(ready,),
            hosts=HostCounts(selected=children, failed=children),
            waves=tuple(
                WaveView(number=number, status=RunStatus.FAILED, hosts=1, started_at=NOON, finished_at=NOON)
                for number in range(1, waves + 1)
            ),
            children=tuple(
                ChildView(
                    host=host,
                    job_id=f"job-20261123-120000-0123456789-{number:04}",
                    wave=1,
                    status=ChildStatus.FAILED,
                    reason=Reason.TASK_FAILED.value,
                    task="Install nginx",
                    attempt=1,
                    message=f"no package matches nginx-{number}",
                    started_at=NOON,
                    finished_at=NOON,
                )
                for number, host in enumerate(failed, start=1)
            ),
            failures=tuple(
                FailureGroup(
                    task="Install nginx",
                    message=f"no package matches nginx-{number}",
                    reason=Reason.TASK_FAILED.value,
                    status=ChildStatus.FAILED,
                    hosts=1,
                    examples=(host,),
                )
                for number, host in enumerate(failed, start=1)
            ),
            history=tuple(
                HistoryView(
                    id=f"batch-20261123-12{number:02}00-0123456789",
                    cause=CauseKind.SPEC_CHANGED,
                    generation=1,
                    revision=REVISION,
                    status=RunStatus.FAILED,
                    hosts={ChildStatus.FAILED: children},
                    started_at=NOON + timedelta(minutes=number),
                    finished_at=NOON + timedelta(minutes=number),
                )
                for number in range(past_runs, 0, -1)
            ),
            **body,
        ),
    )
