"""Answers as they look, for the description of the API: made by what makes the real ones, so that they can't be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from reconciler.core.facts import (
    CauseKind,
    Child,
    ChildStatus,
    Commit,
    JobKey,
    Revision,
    RunStatus,
    RunSummary,
    TaskCounts,
)
from reconciler.core.manifest import Strategy
from reconciler.core.reasons import Reason
from reconciler.core.status import (
    Condition,
    ConditionType,
    HostCounts,
    JobMetadata,
    JobStatus,
    JobStatusBody,
    ManifestCounts,
    Phase,
    RunStatusView,
    SourceMetadata,
    SourceStatus,
    SourceStatusBody,
)
from reconciler.core.views import child_view, commit_view
from reconciler.ports import (
    AttemptRow,
    BatchRow,
    Planned,
    PlannedHost,
    Request,
    RequestKind,
    RunRow,
    ServerRow,
    SourceOffer,
    Written,
)
from reconciler.web.documents import (
    AskedDocument,
    BatchPage,
    ChildDocument,
    LineDocument,
    LogPage,
    SessionDocument,
    TagDocument,
    attempt_document,
    batch_document,
    child_document,
    offer_document,
    planned_document,
    request_document,
    run_document,
    server_document,
    url,
    written_document,
)
from reconciler.web.routing import Page, cursor_of
from reconciler.web.tokens import Scope

KEY = JobKey("default", "patch-web")
BEGAN = datetime(2026, 11, 23, 14, 50, 52, tzinfo=UTC)
ENDED = BEGAN + timedelta(seconds=41)
COMMIT = Commit(
    id="1a2b3c4d5e6f7a8b9c0d1a2b3c4d5e6f7a8b9c0d",
    author="Ada Lovelace <ada@example.org>",
    date=BEGAN - timedelta(minutes=5),
    subject="Restart nginx after its configuration changed",
)
REVISION = Revision(f"main@sha1:{COMMIT.id}")
PLAYBOOK = "playbooks/patch.yml"
MESSAGE = "No package matching 'ngnix'"
REQUEST = "5f0c0f9e2b7a4a3c9d1e8f6a7b5c4d3e"
SAID = "4 success, 1 failed"

CHILD = Child(
    job_id="job-20261123-145052-7k3fq2mzsa-0003",
    host="web-3",
    host_key="10.0.0.13:22",
    address="10.0.0.13",
    ordinal=3,
    wave=1,
    attempt=1,
    status=ChildStatus.FAILED,
    reason=Reason.TASK_FAILED,
    message=MESSAGE,
    task="Install nginx",
    counts=TaskCounts(ok=3, failed=1),
    started_at=BEGAN,
    finished_at=BEGAN + timedelta(seconds=20),
)
RUN = RunSummary(
    job_id="batch-20261123-145052-7k3fq2mzsa",
    cause=CauseKind.SPEC_CHANGED,
    generation=3,
    work_digest="",
    playbook_digest="",
    revision=REVISION,
    check_mode=False,
    status=RunStatus.FAILED,
    reason=Reason.HOSTS_FAILED,
    message=SAID,
    hosts={ChildStatus.SUCCESS: 4, ChildStatus.FAILED: 1},
    created_at=BEGAN,
    started_at=BEGAN,
    finished_at=ENDED,
    commit=COMMIT,
)


def _status() -> JobStatus:
    ready = Condition(
        type=ConditionType.READY,
        status="False",
        reason=Reason.HOSTS_FAILED,
        message=SAID,
        last_transition_time=ENDED,
        observed_generation=3,
    )
    run = RunStatusView(
        id=RUN.job_id,
        cause=RUN.cause,
        status=RUN.status,
        reason=RUN.reason,
        revision=REVISION,
        commit=commit_view(COMMIT),
        check_mode=False,
        waves=1,
        started_at=BEGAN,
        finished_at=ENDED,
    )
    return JobStatus(
        metadata=JobMetadata(
            name=KEY.name, source=KEY.source, path="jobs/patch-web.yaml", generation=3, labels={"team": "platform"}
        ),
        status=JobStatusBody(
            observed_generation=3,
            phase=Phase.FAILED,
            message=SAID,
            progress="5/5 completed, 1 failed",
            revision=REVISION,
            commit=commit_view(COMMIT),
            strategy=Strategy.PARALLEL,
            playbook=PLAYBOOK,
            conditions=(ready,),
            run=run,
            hosts=HostCounts(selected=5, success=4, failed=1),
            children=(child_view(CHILD),),
        ),
    )


def _source() -> SourceStatus:
    body = SourceStatusBody(
        observed_revision=REVISION,
        commit=commit_view(COMMIT),
        last_sync=ENDED,
        manifests=ManifestCounts(accepted=12),
        conditions=(),
    )
    return SourceStatus(metadata=SourceMetadata(name=KEY.source), status=body)


def _answers() -> Mapping[str, BaseModel]:
    asked = AskedDocument(id=REQUEST, request=url("requests", REQUEST))
    attempt = AttemptRow(
        1, CHILD.status, CHILD.reason, MESSAGE, CHILD.task, CHILD.counts, CHILD.started_at, CHILD.finished_at
    )
    batch = BatchRow(_status(), BEGAN)
    hosts = tuple(PlannedHost(f"web-{number}", f"10.0.0.1{number}") for number in range(1, 6))
    planned = Planned(name="patch-web", waves=(hosts[:3], hosts[3:]), revision=REVISION)
    request = Request(REQUEST, RequestKind.RETRY, KEY, RUN.job_id, "kim", "the mirror is back", ENDED, "accepted")
    run = RunRow(KEY, RUN, PLAYBOOK)
    server = ServerRow(
        KEY.source,
        "inventory/hosts.yml",
        CHILD.host,
        CHILD.address,
        ("production", "web"),
        ("webservers",),
        BEGAN - timedelta(days=90),
        ENDED,
        CHILD,
        KEY,
    )
    text = "apiVersion: reconciler/v1\nkind: BatchJob\nmetadata:\n  name: patch-web\nspec: …\n"
    written = written_document(Written(KEY.source, KEY.name, "jobs/patch-web.yaml", text, COMMIT, REVISION), (), None)
    children: Page[ChildDocument] = Page(items=(child_document(KEY, CHILD),))
    line = LineDocument(sequence=4711, text="TASK [Install nginx] ***")
    return {
        "listBatches": BatchPage(
            items=(batch_document(batch),),
            next=cursor_of(batch.mark.active_at, KEY.source, KEY.name),
            phases={Phase.FAILED: 1, Phase.SUCCEEDED: 11},
        ),
        "getBatch": batch.status,
        "triggerBatch": asked,
        "retryBatch": asked,
        "cancelBatch": asked,
        "getRequest": request_document(request),
        "listRuns": Page(items=(run_document(run),), next=cursor_of(RUN.job_id)),
        "getJob": run_document(run),
        "listChildren": children,
        "listAttempts": Page(items=(attempt_document(attempt),)),
        "getLog": LogPage(items=(line,), next=str(line.sequence)),
        "listServers": Page(items=(server_document(server),)),
        "listServerJobs": children,
        "listTags": Page(items=(TagDocument(tag="web", servers=5),)),
        "listSources": Page(items=(_source(),)),
        "listOffers": Page(items=(offer_document(SourceOffer(KEY.source, True, (PLAYBOOK,), REVISION)),)),
        "planManifest": planned_document(planned),
        "writeManifest": written,
        "createBatch": written,
        "getSession": SessionDocument(name="kim", scopes=(Scope.READ, Scope.OPERATE)),
    }


def examples() -> Mapping[str, Any]:
    """The answer of each operation, by its operationId, where it is JSON."""
    return {name: answer.model_dump(mode="json", by_alias=True) for name, answer in _answers().items()}
