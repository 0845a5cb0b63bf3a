"""The list of batches, and the child jobs below each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import HTMLResponse

from reconciler.core.facts import UNSUCCESSFUL, Child, ChildStatus, JobKey
from reconciler.core.status import Phase
from reconciler.ports import BatchesWanted, BatchRow, Browser
from reconciler.web.doors import Doors
from reconciler.web.pages.held import held_of
from reconciler.web.pages.rendering import with_query
from reconciler.web.pages.serving import (
    PAGE,
    Cursor,
    Limit,
    Look,
    Reading,
    Text,
    batch_at,
    cursor_of_batch,
    cut,
    searchable,
)

MOST_KEYS = 100
"""Rows that can be asked for anew at once."""

FILTERS = (
    Phase.RUNNING,
    Phase.PENDING,
    Phase.AWAITING_APPROVAL,
    Phase.FAILED,
    Phase.STALLED,
    Phase.INVALID,
    Phase.SUCCEEDED,
    Phase.CANCELLED,
    Phase.REMOVED,
)
"""In the order in which they want to be looked at."""

ALWAYS_OFFERED = frozenset({Phase.RUNNING, Phase.PENDING, Phase.FAILED, Phase.STALLED, Phase.SUCCEEDED})
"""The others, where there is a batch in them."""

Phases = Annotated[tuple[str, ...], Query(alias="phase", max_length=len(Phase))]
Statuses = Annotated[tuple[str, ...], Query(alias="status", max_length=len(ChildStatus))]


def wanted_of(source: str, phases: Sequence[str], text: str) -> BatchesWanted:
    """What the address says; a phase that is none is left out."""
    known = frozenset(Phase(phase) for phase in phases if phase in set(Phase))
    return BatchesWanted(searchable(source) or None, known, searchable(text.strip()))


def batches_routes() -> APIRouter:
    router = APIRouter(route_class=Reading)

    @router.get("/")
    def get_batches(
        look: Look, source: Text = "", phase: Phases = (), text: Text = "", cursor: Cursor = ""
    ) -> HTMLResponse:
        wanted = wanted_of(source, phase, text)
        sources = look.doors.requests.source_statuses()
        values = _list(look.doors, wanted, cursor, PAGE) | {"held": held_of(look.doors)}
        return look.page("batches.html", sources=sources, wanted=wanted, first=not cursor, **values)

    @router.get("/fragments/batches")
    def get_rows(
        look: Look,
        source: Text = "",
        phase: Phases = (),
        text: Text = "",
        cursor: Cursor = "",
        limit: Limit = PAGE,
    ) -> HTMLResponse:
        """Rows, the row with "Load more", and how many there are in each phase."""
        wanted = wanted_of(source, phase, text)
        return look.page("_batches.html", wanted=wanted, first=not cursor, **_list(look.doors, wanted, cursor, limit))

    @router.get("/fragments/batches/changed")
    def get_changed(
        look: Look,
        key: Annotated[tuple[str, ...], Query(max_length=MOST_KEYS)] = (),
        source: Text = "",
        phase: Phases = (),
        text: Text = "",
    ) -> HTMLResponse:
        """These rows as they are now; those that are not wanted any more say so, for somebody may be reading there."""
        wanted = wanted_of(source, phase, text)
        keys = [JobKey(*searchable(each).split("/", 1)) for each in key if "/" in each]
        rows = sorted(look.doors.browser.batches_of(keys) if keys else (), key=lambda row: row.active_at, reverse=True)
        left = {row.mark.key for row in rows if not _is_wanted(row, wanted)}
        phases = _phases(look.doors.browser, wanted)
        return look.page("_batches.html", wanted=wanted, rows=rows, left=left, phases=phases, more=None, first=False)

    @router.get("/fragments/children")
    def get_children(
        look: Look,
        run: Text,
        status: Statuses = (),
        cursor: Annotated[str, Query(max_length=11)] = "",
        limit: Limit = PAGE,
    ) -> HTMLResponse:
        found = children_of(look.doors.browser, searchable(run), status, cursor, limit)
        if found is None:
            raise HTTPException(404, "there is no such run any more")
        return look.page("_children.html", kids=found)

    return router


def _list(doors: Doors, wanted: BatchesWanted, cursor: str, limit: int) -> dict[str, Any]:
    rows, last = cut(doors.browser.batches(wanted, batch_at(cursor), limit + 1), limit)
    more = None if last is None else _query(wanted, cursor_of_batch(last.mark))
    return {"rows": rows, "left": (), "more": more, "phases": _phases(doors.browser, wanted)}


def _query(wanted: BatchesWanted, cursor: str) -> str:
    phases = [phase.value for phase in FILTERS if phase in wanted.phases]
    return with_query("", source=wanted.source, phase=phases, text=wanted.text, cursor=cursor)


def _phases(browser: Browser, wanted: BatchesWanted) -> Sequence[tuple[Phase, int, bool]]:
    """Each with how many are in it, and whether it is worth being offered."""
    counts: Mapping[Phase, int] = browser.phase_counts(wanted)
    found = [(phase, counts.get(phase, 0)) for phase in FILTERS]
    return [(phase, n, bool(n) or phase in ALWAYS_OFFERED or phase in wanted.phases) for phase, n in found]


def _is_wanted(row: BatchRow, wanted: BatchesWanted) -> bool:
    """As Browser.batches has it."""
    metadata, body = row.status.metadata, row.status.status
    text = wanted.text.casefold()
    shown = body.phase in wanted.phases if wanted.phases else body.phase is not Phase.REMOVED
    where = (metadata.name, metadata.source, body.playbook or "")
    found = any(text in each.casefold() for each in where)
    return shown and found and wanted.source in (None, metadata.source)


# -- children --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Part:
    """Of the children of a run, one after the other: first those on which something went wrong."""

    name: str
    statuses: frozenset[ChildStatus]


_PARTS = (_Part("a", UNSUCCESSFUL), _Part("b", frozenset(ChildStatus) - UNSUCCESSFUL))


def children_of(browser: Browser, run: str, statuses: Sequence[str], cursor: str, limit: int) -> dict[str, Any] | None:
    """A page of children: unsuccessful ones first, each in the order of selection. None: there is no such run."""
    row = browser.run_row(run)
    if row is None:
        return None
    wanted = frozenset(ChildStatus(status) for status in statuses if status in set(ChildStatus))
    parts = [(part.name, part.statuses & wanted if wanted else part.statuses) for part in _PARTS]
    at, after = _place(cursor)
    found: list[Child] = []
    more = ""
    for name, of in parts:
        if name < at or not of:
            continue
        rows = browser.child_page(run, of, after if name == at else 0, limit - len(found) + 1)
        kept = rows[: limit - len(found)]
        found += kept
        if len(rows) > len(kept):
            more = f"{name}{kept[-1].ordinal if kept else 0}"
            break
    counts = row.summary.hosts
    shown = [status.value for status in ChildStatus if status in wanted]
    return {
        "run": row,
        "children": found,
        "statuses": wanted,
        "counts": [(status, counts.get(status, 0)) for status in ChildStatus if counts.get(status) or status in wanted],
        "more": with_query("/fragments/children", run=run, status=shown, cursor=more) if more else None,
        "first": not cursor,
    }


def _place(cursor: str) -> tuple[str, int]:
    if not cursor:
        return "a", 0
    name, ordinal = cursor[0], cursor[1:]
    if name not in "ab" or not (ordinal.isascii() and ordinal.isdecimal()):
        raise HTTPException(400, "this is no place in the list: begin at its first page")
    return name, int(ordinal)
