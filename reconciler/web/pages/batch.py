"""One batch: how it stands, what each run of it did over time, and the logs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import HTMLResponse, RedirectResponse

from reconciler.core.facts import UNSUCCESSFUL, Child, ChildStatus, JobKey
from reconciler.core.folding import run_of
from reconciler.core.status import HostCounts, JobStatus
from reconciler.core.views import progress
from reconciler.ports import RunRow, RunsWanted
from reconciler.web.doors import Doors
from reconciler.web.pages.batches import Statuses, children_of
from reconciler.web.pages.gantt import MOST_LINES, Gantt, draw, draw_waves
from reconciler.web.pages.logs import LINES, Job, classed, job_of
from reconciler.web.pages.rendering import address_of_batch, with_query
from reconciler.web.pages.serving import PAGE, Limit, Look, Reading, Text, cut, searchable
from reconciler.web.routing import LARGEST

RUNS = 10
"""Past runs that are shown at first."""


def batch_routes() -> APIRouter:
    router = APIRouter(route_class=Reading)

    @router.get("/batches/{source}/{name:path}")
    def get_batch(look: Look, source: str, name: str, run: Text = "", status: Statuses = ()) -> HTMLResponse:
        key = JobKey(searchable(source), searchable(name))
        job = look.doors.requests.status(key)
        if job is None:
            return look.page("unknown.html", 404, key=key)
        latest = job.status.run.id if job.status.run is not None else None
        shown = _run(look.doors, key, searchable(run), latest)
        values: dict[str, Any] = {"children": None, "gantt": None}
        if shown is not None:
            values["gantt"] = _gantt(look.doors, shown, job, look.now)
            values["children"] = children_of(look.doors.browser, shown.summary.job_id, status, "", PAGE)
        return look.page(
            "batch.html",
            job=job,
            run=shown,
            is_latest=shown is None or shown.summary.job_id == latest,
            is_open=job.status.run is not None and not job.status.run.status.finished,
            counts=None if shown is None else host_counts(shown.summary.hosts),
            progress=None if shown is None else progress(shown.summary.hosts),
            logs_of={child.host: child.job_id for child in job.status.children},
            **_runs(look.doors, key, "", RUNS),
            **values,
        )

    @router.get("/fragments/runs")
    def get_runs(look: Look, source: Text, name: Text, cursor: Text = "", limit: Limit = RUNS) -> HTMLResponse:
        key = JobKey(searchable(source), searchable(name))
        return look.page("_runs.html", run=None, **_runs(look.doors, key, searchable(cursor), limit))

    @router.get("/jobs/{job_id}")
    def get_job(look: Look, job_id: str) -> RedirectResponse:
        """Leads to its batch, at its run."""
        job = _job(look.doors, job_id)
        return RedirectResponse(address_of_batch(job.key.source, job.key.name, job.run), 303)

    @router.get("/jobs/{job_id}/log")
    def get_log(
        look: Look,
        job_id: str,
        attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    ) -> HTMLResponse:
        job = _job(look.doors, job_id)
        attempts = look.doors.browser.attempts(job_id) if job.child is not None else ()
        lines, last = cut(look.doors.browser.log_page(job.run, job.host, attempt, 0, LINES + 1), LINES)
        return look.page(
            "log.html",
            job=job,
            attempt=attempt,
            attempts=attempts,
            lines=classed(lines),
            more=last is not None,
            after=lines[-1].sequence if lines else 0,
            count=len(lines),
            neighbours=_others(look.doors, job.child) if job.child is not None else (),
        )

    @router.get("/fragments/log")
    def get_lines(
        look: Look,
        job: Text,
        attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
        after: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
        count: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
        limit: Annotated[int, Query(ge=0, le=LINES)] = LINES,
    ) -> HTMLResponse:
        """The lines after one, before which there are `count`; whether that is all, and whether more may come. The head of
        the page, too: `limit` 0 is for who has lines enough, and wants to see how it ends."""
        found = _job(look.doors, job)
        lines, last = cut(look.doors.browser.log_page(found.run, found.host, attempt, after, limit + 1), limit)
        end = lines[-1].sequence if lines else after
        return look.page(
            "_log.html",
            job=found,
            lines=classed(lines, count),
            more=last is not None,
            after=end,
            count=count + len(lines),
        )

    return router


def _job(doors: Doors, job_id: str) -> Job:
    found = job_of(doors.browser, searchable(job_id))
    if found is None:
        raise HTTPException(404, "there is no such job any more")
    return found


def _run(doors: Doors, key: JobKey, wanted: str, latest: str | None) -> RunRow | None:
    """The run that is asked for, else the latest."""
    name = wanted or latest
    row = doors.browser.run_row(name) if name is not None else None
    if wanted and (row is None or row.key != key):
        raise HTTPException(404, f"{key} has no such run any more")
    return row


def _gantt(doors: Doors, row: RunRow, job: JobStatus, now: datetime) -> Gantt | None:
    summary, latest = row.summary, job.status.run
    if sum(summary.hosts.values()) <= MOST_LINES:
        return draw(doors.browser.child_page(summary.job_id, frozenset(), 0, MOST_LINES), now)
    if latest is not None and latest.id == summary.job_id and summary.retry_of is None:
        return draw_waves(job.status.waves, now)
    return draw(doors.browser.children(summary.job_id), now)


def _runs(doors: Doors, key: JobKey, before: str, limit: int) -> dict[str, Any]:
    rows, last = cut(doors.browser.run_rows(RunsWanted(key.source, key.name), before or None, limit + 1), limit)
    more = None
    if last is not None:
        more = with_query("/fragments/runs", source=key.source, name=key.name, cursor=last.summary.job_id)
    return {"runs": rows, "more_runs": more}


def _others(doors: Doors, child: Child) -> tuple[Child, ...]:
    """Other children of its run on which something went wrong: who looks at one log wants to see the next."""
    found = doors.browser.child_page(run_of(child), UNSUCCESSFUL, 0, 20)
    return tuple(other for other in found if other.job_id != child.job_id)


def host_counts(hosts: Mapping[ChildStatus, int]) -> HostCounts:
    """Of one run."""
    return HostCounts(selected=sum(hosts.values()), **{status.value: count for status, count in hosts.items()})
