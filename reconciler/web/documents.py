"""What the API sends and takes, made out of values. Pages say the same in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from reconciler.core.facts import CauseKind, Child, ChildStatus, JobKey, RunStatus, TaskCounts
from reconciler.core.folding import run_of
from reconciler.core.retrying import AtRevision, Which
from reconciler.core.status import (
    CommitView,
    Condition,
    HostCounts,
    Instant,
    Phase,
    RunStatusView,
)
from reconciler.core.views import commit_view
from reconciler.ports import (
    AttemptRow,
    BatchRow,
    Planned,
    Request,
    RequestKind,
    RunRow,
    ServerRow,
    SourceOffer,
    Written,
)
from reconciler.web.routing import PREFIX, Document, Page, Plain
from reconciler.web.tokens import Scope

TagsText = Annotated[tuple[Plain, ...], Field(max_length=100)]


def _example(document: Mapping[str, Any]) -> ConfigDict:
    """Shown where the document is described."""
    return ConfigDict(json_schema_extra={"examples": [dict(document)]})


def url(*parts: str) -> str:
    """Of something of the API."""
    return "/".join((PREFIX, *(quote(part, safe="") for part in parts)))


# -- batches ---------------------------------------------------------------------------------------------------------
class BatchDocument(Document):
    """A batch, in short: what a row of a list has. The whole status is at `url`."""

    source: str
    name: str
    path: str
    """Of its manifest, in the source."""
    labels: Mapping[str, str]
    phase: Phase
    message: str
    progress: str
    strategy: str | None
    playbook: str | None
    suspended: bool
    hosts: HostCounts
    commit: CommitView | None
    revision: str
    run: RunStatusView | None
    conditions: tuple[Condition, ...]
    active_at: Instant
    """When its latest run was opened, else when its manifest was first seen as it is."""
    url: str


class BatchPage(Page[BatchDocument]):
    """Those that were active last first. `phases`: how many batches are in each phase, whatever was filtered by phase."""

    phases: Mapping[Phase, int]


def batch_document(row: BatchRow) -> BatchDocument:
    about, body = row.status.metadata, row.status.status
    return BatchDocument(
        source=about.source,
        name=about.name,
        path=about.path,
        labels=about.labels,
        phase=body.phase,
        message=body.message,
        progress=body.progress,
        strategy=body.strategy,
        playbook=body.playbook,
        suspended=body.suspended,
        hosts=body.hosts,
        commit=body.commit,
        revision=body.revision,
        run=body.run,
        conditions=body.conditions,
        active_at=row.active_at,
        url=url("batches", about.source, about.name),
    )


# -- jobs ------------------------------------------------------------------------------------------------------------
class CountsDocument(Document):
    """Ansible's own counts of tasks for one host in one attempt."""

    ok: int
    changed: int
    failed: int
    skipped: int
    rescued: int
    ignored: int
    unreachable: int


class RunDocument(Document):
    """One run of a batch: a parent job."""

    kind: Literal["run"] = "run"
    id: str
    source: str
    name: str
    """Of the batch."""
    playbook: str
    cause: CauseKind
    generation: int
    revision: str
    commit: CommitView | None
    check_mode: bool
    status: RunStatus
    reason: str | None
    message: str
    hosts: Mapping[ChildStatus, int]
    """How many children are in each status; those with none are left out."""
    retry_of: str | None
    """The run of which this one tries hosts again."""
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    children: str
    """Where they are listed."""


class ChildDocument(Document):
    """One host's part of a run: a child job."""

    kind: Literal["child"] = "child"
    id: str
    run: str
    source: str
    name: str
    """Of the batch."""
    host: str
    address: str
    ordinal: int
    """In the order of selection, from 1."""
    wave: int | None
    attempt: int
    status: ChildStatus
    reason: str | None
    message: str
    task: str | None
    """The one that failed, or was in progress when it ended."""
    counts: CountsDocument
    started_at: Instant | None
    finished_at: Instant | None
    retry_at: Instant | None
    """When its next attempt is due, if one is."""
    log: str
    """Where its log is."""


class AttemptDocument(Document):
    """One try of a child; running until it has ended."""

    number: int
    status: ChildStatus
    reason: str | None
    message: str
    task: str | None
    counts: CountsDocument
    started_at: Instant | None
    finished_at: Instant | None


class LineDocument(Document):
    """A piece of a log: one line, or several."""

    sequence: int
    text: str


class LogPage(Page[LineDocument]):
    """In order. `next` is the value of `after` that goes on, whether or not anything is there yet."""


Job = Annotated[RunDocument | ChildDocument, Field(discriminator="kind")]


def run_document(row: RunRow) -> RunDocument:
    run = row.summary
    return RunDocument(
        id=run.job_id,
        source=row.key.source,
        name=row.key.name,
        playbook=row.playbook,
        cause=run.cause,
        generation=run.generation,
        revision=run.revision,
        commit=commit_view(run.commit),
        check_mode=run.check_mode,
        status=run.status,
        reason=run.reason,
        message=run.message,
        hosts=run.hosts,
        retry_of=run.retry_of,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        children=url("jobs", run.job_id, "children"),
    )


def _counts(counts: TaskCounts) -> CountsDocument:
    return CountsDocument.model_validate(asdict(counts))


def child_document(key: JobKey, child: Child) -> ChildDocument:
    return ChildDocument(
        id=child.job_id,
        run=run_of(child),
        source=key.source,
        name=key.name,
        host=child.host,
        address=child.address,
        ordinal=child.ordinal,
        wave=child.wave,
        attempt=child.attempt,
        status=child.status,
        reason=child.reason,
        message=child.message,
        task=child.task,
        counts=_counts(child.counts),
        started_at=child.started_at,
        finished_at=child.finished_at,
        retry_at=child.retry_at,
        log=url("jobs", child.job_id, "log"),
    )


def attempt_document(row: AttemptRow) -> AttemptDocument:
    return AttemptDocument(
        number=row.number,
        status=row.status,
        reason=row.reason,
        message=row.message,
        task=row.task,
        counts=_counts(row.counts),
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


# -- servers and sources ---------------------------------------------------------------------------------------------
class ServerDocument(Document):
    """A host as its inventory has it, and what was last done to it."""

    source: str
    inventory: str
    name: str
    address: str
    tags: tuple[str, ...]
    groups: tuple[str, ...]
    first_seen: Instant
    last_seen: Instant
    last: ChildDocument | None
    """Its part of the run that had it last; null: none ever had."""


class TagDocument(Document):
    tag: str
    servers: int
    """How many carry it."""


class OfferDocument(Document):
    """What a source offers to somebody who composes a manifest."""

    name: str
    writable: bool
    """Whether manifests can be put into it here."""
    playbooks: tuple[str, ...]
    revision: str | None
    """null: nothing was read of it yet."""


def server_document(row: ServerRow) -> ServerDocument:
    last = child_document(row.last_key, row.last) if row.last is not None and row.last_key is not None else None
    return ServerDocument(
        source=row.source,
        inventory=row.inventory,
        name=row.name,
        address=row.address,
        tags=row.tags,
        groups=row.groups,
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        last=last,
    )


def offer_document(offer: SourceOffer) -> OfferDocument:
    return OfferDocument(name=offer.name, writable=offer.writable, playbooks=offer.playbooks, revision=offer.revision)


# -- what people ask for ---------------------------------------------------------------------------------------------
Why = Annotated[str, Field(max_length=4000, description="Kept for audits.")]


class TriggerBody(Document):
    model_config = _example({"reason": "after the change of the firewall"})

    reason: Why = ""


class CancelBody(Document):
    model_config = _example({"reason": "wrong hosts"})

    reason: Why = ""


class RetryBody(Document):
    """Of which hosts of the latest run: these `hosts`, else those that ended as `which` says; with both, the named ones
    must have ended so."""

    model_config = _example({"which": "failed", "reason": "the mirror is back"})

    hosts: Annotated[tuple[Plain, ...], Field(max_length=10_000)] = ()
    which: Which | None = None
    """failed (the default): failed, unreachable or aborted. unfinished: also what was skipped or cancelled."""
    revision: AtRevision | None = None
    """What the run had, or the newest; needed once the playbook is another."""
    reason: Why = ""


class AskedDocument(Document):
    """It is written down, and the daemon will do it, or refuse it."""

    id: str
    request: str
    """Where what came of it is told."""


class RequestDocument(Document):
    """Something that somebody asked for, and what came of it."""

    id: str
    kind: RequestKind
    source: str
    name: str
    run: str | None
    """The run that is meant."""
    by: str
    reason: str
    at: Instant
    result: str | None
    """accepted, or why it was refused; null: it was not looked at yet."""
    answered_at: Instant | None


def request_document(request: Request) -> RequestDocument:
    return RequestDocument(
        id=request.id,
        kind=request.kind,
        source=request.key.source,
        name=request.key.name,
        run=request.run,
        by=request.by,
        reason=request.reason,
        at=request.at,
        result=request.result,
        answered_at=request.answered_at,
    )


# -- composing -------------------------------------------------------------------------------------------------------
class ProblemDocument(Document):
    """Something in a manifest that is wrong: where (all counted from 1), and what to do about it."""

    path: str
    document: int
    line: int
    column: int
    message: str
    hint: str


class PlannedHostDocument(Document):
    name: str
    address: str


class PlannedDocument(Document):
    """What a manifest would come to, were it in the source as that is now."""

    problems: tuple[ProblemDocument, ...]
    """With any, the manifest would be rejected, and nothing else is known."""
    name: str | None
    waves: tuple[tuple[PlannedHostDocument, ...], ...]
    """As the planner would cut them, for a run of all that are selected."""
    hosts: int
    warnings: tuple[str, ...]
    refusal: str | None
    """Why it would stall, though it is valid."""
    hint: str
    revision: str | None
    exists: bool
    """A manifest of this name is in the source."""


class ManifestBody(Document):
    """A manifest that is to be put into a source."""

    manifest: Annotated[str, Field(min_length=1, max_length=1024 * 1024, description="One document, as YAML.")]
    message: Annotated[str, Field(max_length=4000, description="Of the commit.")] = ""


class BatchBody(BaseModel):
    """A batch, as job APIs have it. It becomes a manifest in the source."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "playbook": "playbooks/patch.yml",
                    "tags": ["web", "production"],
                    "execution_strategy": "parallel",
                    "concurrent_limit": 5,
                    "stop_on_failure": True,
                }
            ]
        },
    )

    playbook: Plain
    """Relative to the root of the source."""
    servers: Annotated[tuple[Plain, ...], Field(max_length=10_000)] = ()
    """Exactly these, in this order."""
    tags: TagsText = ()
    """Servers that carry all of these."""
    execution_strategy: Literal["parallel", "sequential"] = "parallel"
    concurrent_limit: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Servers at a time; the setting max_limit bounds it."""
    stop_on_failure: bool = False
    name: Plain | None = None
    """Of the batch; none: one is made of playbook and selection."""
    source: Plain | None = None
    """Needed where manifests can be put into several."""
    inventory: Plain | None = None
    min_hosts: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Fewer servers than this are refused; none: 2."""
    message: Annotated[str, Field(max_length=4000)] = ""
    """Of the commit."""


class WrittenDocument(Document):
    """A manifest that is in its source now."""

    source: str
    name: str
    path: str
    manifest: str
    commit: CommitView | None
    """null: the source is no repository."""
    revision: str | None
    warnings: tuple[str, ...]
    batch: str
    """Where the batch is told of."""
    job: str | None
    """Where its run, the parent job, is told of; null: it is not opened yet, see `batch`."""
    children: str | None
    """Where the child jobs are listed."""


def planned_document(planned: Planned) -> PlannedDocument:
    return PlannedDocument(
        problems=tuple(ProblemDocument.model_validate(asdict(each)) for each in planned.problems),
        name=planned.name,
        waves=tuple(
            tuple(PlannedHostDocument(name=host.name, address=host.address) for host in wave) for wave in planned.waves
        ),
        hosts=sum(len(wave) for wave in planned.waves),
        warnings=planned.warnings,
        refusal=planned.refusal,
        hint=planned.hint,
        revision=planned.revision,
        exists=planned.exists,
    )


def written_document(written: Written, warnings: tuple[str, ...], run: str | None) -> WrittenDocument:
    return WrittenDocument(
        source=written.source,
        name=written.name,
        path=written.path,
        manifest=written.text,
        commit=commit_view(written.commit),
        revision=written.revision,
        warnings=warnings,
        batch=url("batches", written.source, written.name),
        job=None if run is None else url("jobs", run),
        children=None if run is None else url("jobs", run, "children"),
    )


# -- who it is -------------------------------------------------------------------------------------------------------
class SessionDocument(Document):
    """Who asks, and what they may do."""

    name: str | None
    scopes: tuple[Scope, ...]


class LoginBody(Document):
    token: Annotated[str, Field(min_length=1, max_length=1000)]
