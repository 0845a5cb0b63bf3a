"""The API of batches: what they are, and what people ask of them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import Query

from reconciler.core.asking import no_trigger, run_to_cancel
from reconciler.core.facts import JobKey
from reconciler.core.retrying import Refusal, choose_hosts
from reconciler.core.status import JobStatus, Phase
from reconciler.ports import BatchesWanted, BatchMark, BatchRow, Request, RequestKind
from reconciler.web.access import CallerHere
from reconciler.web.documents import (
    AskedDocument,
    BatchPage,
    CancelBody,
    RequestDocument,
    RetryBody,
    TriggerBody,
    batch_document,
    request_document,
    url,
)
from reconciler.web.doors import Doors, DoorsHere
from reconciler.web.problems import Declined, not_found, problems
from reconciler.web.routing import (
    USUAL,
    CursorQuery,
    LimitQuery,
    NamePath,
    RequestPath,
    SourcePath,
    SourceQuery,
    TextQuery,
    cursor_of,
    etag_answers,
    operating,
    page_of,
    parts_of,
    reading,
)
from reconciler.web.tokens import Caller

look, ask = reading(), operating()


# -- looking ---------------------------------------------------------------------------------------------------------
@look.get("/batches", operation_id="listBatches", tags=["batches"], responses=etag_answers("A page of them."))
def list_batches(
    doors: DoorsHere,
    source: SourceQuery = None,
    phase: Annotated[tuple[Phase, ...], Query(description="One of these; Removed ones only if asked for.")] = (),
    text: TextQuery = "",
    limit: LimitQuery = USUAL,
    cursor: CursorQuery = None,
) -> BatchPage:
    """The batches, those that were active last first. `text` is looked for in name, source and playbook."""
    wanted = BatchesWanted(source, frozenset(phase), text)
    after = None
    if cursor is not None:
        active_at, of, name = parts_of(cursor, datetime, str, str)
        after = BatchMark(active_at, JobKey(of, name))
    rows, following = page_of(doors.browser.batches(wanted, after, limit + 1), limit, _cursor)
    phases = doors.browser.phase_counts(wanted)
    return BatchPage(items=tuple(map(batch_document, rows)), next=following, phases=phases)


def _cursor(row: BatchRow) -> str:
    return cursor_of(row.mark.active_at, row.mark.key.source, row.mark.key.name)


@look.get(
    "/batches/{source}/{name}",
    operation_id="getBatch",
    tags=["batches"],
    responses={**etag_answers("Its status."), **problems(404)},
)
def get_batch(doors: DoorsHere, source: SourcePath, name: NamePath) -> JobStatus:
    """The whole status of a batch, as its status file has it."""
    return known(doors, JobKey(source, name))


def known(doors: Doors, key: JobKey) -> JobStatus:
    """Raises Declined (404)."""
    status = doors.requests.status(key)
    if status is None:
        raise not_found(f"batch {key}")
    return status


# -- asking ----------------------------------------------------------------------------------------------------------
@ask.post("/batches/{source}/{name}/trigger", operation_id="triggerBatch", status_code=202, tags=["batches"])
def trigger_batch(
    doors: DoorsHere, caller: CallerHere, source: SourcePath, name: NamePath, body: TriggerBody | None = None
) -> AskedDocument:
    """Ask for another run. It begins when a run in progress has ended, and once nothing suspends the batch."""
    key = JobKey(source, name)
    if (refusal := no_trigger(known(doors, key))) is not None:
        raise refused(refusal)
    return asked(doors, caller, RequestKind.TRIGGER, key, None, (body or TriggerBody()).reason)


@ask.post("/batches/{source}/{name}/retry", operation_id="retryBatch", status_code=202, tags=["batches"])
def retry_batch(
    doors: DoorsHere, caller: CallerHere, source: SourcePath, name: NamePath, body: RetryBody | None = None
) -> AskedDocument:
    """Try some hosts of the latest run again, in a run of their own."""
    key, wanted = JobKey(source, name), body or RetryBody()
    if (refusal := no_trigger(known(doors, key))) is not None:
        raise refused(refusal)
    observed = doors.requests.observe(key)
    run_id = None if observed.run is None else observed.run.job_id
    hosts = choose_hosts(doors.requests.manifest(key), observed, run_id, wanted.hosts, wanted.which)
    if isinstance(hosts, Refusal):
        raise refused(hosts)
    arguments = {
        "hosts": list(wanted.hosts),
        "which": None if wanted.which is None else wanted.which.value,
        "revision": None if wanted.revision is None else wanted.revision.value,
    }
    return asked(doors, caller, RequestKind.RETRY, key, run_id, wanted.reason, arguments)


@ask.post("/batches/{source}/{name}/cancel", operation_id="cancelBatch", status_code=202, tags=["batches"])
def cancel_batch(
    doors: DoorsHere, caller: CallerHere, source: SourcePath, name: NamePath, body: CancelBody | None = None
) -> AskedDocument:
    """End the run in progress: what runs is ended, what waits is skipped."""
    key = JobKey(source, name)
    known(doors, key)
    run_id = run_to_cancel(doors.requests.observe(key))
    if isinstance(run_id, Refusal):
        raise refused(run_id)
    return asked(doors, caller, RequestKind.CANCEL, key, run_id, (body or CancelBody()).reason)


def refused(why: Refusal) -> Declined:
    return Declined(409, why.message, hint=why.hint)


def asked(
    doors: Doors,
    caller: Caller,
    kind: RequestKind,
    key: JobKey,
    run_id: str | None,
    reason: str,
    arguments: Mapping[str, Any] | None = None,
) -> AskedDocument:
    """Write it down, by the name of the token."""
    now = doors.clock.now()
    request = Request(uuid.uuid4().hex, kind, key, run_id, caller.name or "", reason, now, arguments=arguments or {})
    doors.requests.add_request(request)
    return AskedDocument(id=request.id, request=url("requests", request.id))


@look.get(
    "/requests/{id}",
    operation_id="getRequest",
    tags=["batches"],
    responses={**etag_answers("What came of it."), **problems(404)},
)
def get_request(doors: DoorsHere, id: RequestPath) -> RequestDocument:  # noqa: A002 - its name in the address
    """Something that somebody asked for."""
    request = doors.requests.request(id)
    if request is None:
        raise not_found(f"request {id}")
    return request_document(request)
