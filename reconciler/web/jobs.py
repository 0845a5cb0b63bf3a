"""The API of jobs: the runs of batches, the child jobs in them, and their logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from fastapi import Query, Request
from fastapi.responses import StreamingResponse

from reconciler.core.facts import Child, ChildStatus, JobKey, RunStatus
from reconciler.core.folding import run_of
from reconciler.ports import Browser, RunRow, RunsWanted, SpooledLine
from reconciler.web.documents import (
    AttemptDocument,
    ChildDocument,
    Job,
    LineDocument,
    LogPage,
    RunDocument,
    attempt_document,
    child_document,
    run_document,
)
from reconciler.web.doors import Doors, DoorsHere
from reconciler.web.problems import invalid, not_found, problems
from reconciler.web.routing import (
    LARGEST_COUNT,
    USUAL,
    CursorQuery,
    JobPath,
    LimitQuery,
    NumberQuery,
    Page,
    Plain,
    SourceQuery,
    cursor_of,
    etag_answers,
    page_of,
    parts_of,
    reading,
)

look = reading()

LINES = 500
"""Of a log that are read at once when the whole of it is sent."""

MOST_LINES, USUAL_LINES = 1000, 200
"""Of a page of a log."""

_Known = TypeVar("_Known")


@look.get("/jobs", operation_id="listRuns", tags=["jobs"], responses=etag_answers("A page of them."))
def list_runs(
    doors: DoorsHere,
    source: SourceQuery = None,
    name: Annotated[Plain | None, Query(description="Of the batch of this name.")] = None,
    status: Annotated[tuple[RunStatus, ...], Query(description="One of these.")] = (),
    limit: LimitQuery = USUAL,
    cursor: CursorQuery = None,
) -> Page[RunDocument]:
    """The runs, newest first: parent jobs."""
    before = None if cursor is None else str(parts_of(cursor, str)[0])
    wanted = RunsWanted(source, name, frozenset(status))
    rows = doors.browser.run_rows(wanted, before, limit + 1)
    shown, following = page_of(rows, limit, lambda row: cursor_of(row.summary.job_id))
    return Page(items=tuple(map(run_document, shown)), next=following)


@look.get(
    "/jobs/{job_id}",
    operation_id="getJob",
    tags=["jobs"],
    responses={**etag_answers("A run, or a child job: see `kind`."), **problems(404)},
)
def get_job(doors: DoorsHere, job_id: JobPath) -> Job:
    """A run, or a child job."""
    found = _job(doors.browser, job_id)
    return run_document(found) if isinstance(found, RunRow) else child_document(*found)


@look.get(
    "/jobs/{job_id}/children",
    operation_id="listChildren",
    tags=["jobs"],
    responses={**etag_answers("A page of them."), **problems(404)},
)
def list_children(
    doors: DoorsHere,
    job_id: JobPath,
    status: Annotated[tuple[ChildStatus, ...], Query(description="One of these.")] = (),
    limit: LimitQuery = USUAL,
    cursor: CursorQuery = None,
) -> Page[ChildDocument]:
    """The child jobs of a run, in the order of selection."""
    after = 0 if cursor is None else int(parts_of(cursor, int)[0])
    run = _known(doors.browser.run_row(job_id), "run", job_id)
    children = doors.browser.child_page(job_id, frozenset(status), after, limit + 1)
    shown, following = page_of(children, limit, lambda child: cursor_of(child.ordinal))
    return Page(items=tuple(child_document(run.key, child) for child in shown), next=following)


@look.get(
    "/jobs/{job_id}/attempts",
    operation_id="listAttempts",
    tags=["jobs"],
    responses={**etag_answers("All of them."), **problems(404)},
)
def list_attempts(doors: DoorsHere, job_id: JobPath) -> Page[AttemptDocument]:
    """What was tried for a child job, the first try first; those that retention has left."""
    _known(doors.browser.child(job_id), "child job", job_id)
    return Page(items=tuple(map(attempt_document, doors.browser.attempts(job_id))))


@look.get(
    "/jobs/{job_id}/log",
    operation_id="getLog",
    tags=["jobs"],
    response_model=LogPage,
    responses={
        200: {
            "description": "A page of it; with `Accept: text/plain` or `download`, the whole as text.",
            "headers": etag_answers("")[200]["headers"],
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        304: {"description": "It is what the client has already."},
        **problems(404),
    },
)
def get_log(
    request: Request,
    doors: DoorsHere,
    job_id: JobPath,
    host: Annotated[Plain | None, Query(description="Of a run: the log of this host instead of its own.")] = None,
    attempt: Annotated[int | None, Query(ge=1, le=LARGEST_COUNT, description="Of this attempt only.")] = None,
    after: Annotated[NumberQuery, Query(description="Lines with a larger sequence.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_LINES, description="Lines of a page.")] = USUAL_LINES,
    download: Annotated[bool, Query(description="The whole log as text, to be saved as a file.")] = False,
) -> Any:
    """The log of a child job, or of a run. Ask again with `next` as `after` for what has been written since."""
    run, of = _log_of(doors, job_id, host)
    if download or _wants_text(request):
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{job_id}{'' if host is None else f'-{host}'}")
        disposition = {"Content-Disposition": f'attachment; filename="{name}.log"'} if download else {}
        lines = _whole(doors.browser, run, of, attempt)
        return StreamingResponse(lines, headers={**disposition, **FRESH}, media_type="text/plain; charset=utf-8")
    lines_shown = doors.browser.log_page(run, of, attempt, after, limit)
    items = tuple(LineDocument(sequence=line.sequence, text=line.text) for line in lines_shown)
    last = items[-1].sequence if items else after
    return LogPage(items=items, next=str(last))


FRESH = {"Cache-Control": "private, no-store"}


def _log_of(doors: Doors, job_id: str, host: str | None) -> tuple[str, str | None]:
    """The run and the host (None: the run's own log) that a log is found by. Raises Declined."""
    found = _job(doors.browser, job_id)
    if not isinstance(found, RunRow):
        child = found[1]
        if host not in (None, child.host):
            raise invalid("host", "query", f"this is the job of another host, {child.host}")
        return run_of(child), child.host
    return job_id, host


def _whole(browser: Browser, run: str, host: str | None, attempt: int | None) -> Iterator[str]:
    after = 0
    while lines := browser.log_page(run, host, attempt, after, LINES):
        yield "".join(_ended(line) for line in lines)
        after = lines[-1].sequence


def _ended(line: SpooledLine) -> str:
    return line.text if line.text.endswith("\n") else f"{line.text}\n"


def _wants_text(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return accepted.partition(";")[0].partition(",")[0].strip().lower() == "text/plain"


def _job(browser: Browser, job_id: str) -> RunRow | tuple[JobKey, Child]:
    """Raises Declined (404)."""
    return browser.run_row(job_id) or _known(browser.child(job_id), "job", job_id)


def _known(found: _Known | None, what: str, job_id: str) -> _Known:
    if found is None:
        raise not_found(f"{what} {job_id}")
    return found
