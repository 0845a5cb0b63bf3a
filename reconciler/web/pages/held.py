"""What is told above the list of batches: sources that can't be read, that are held, or with manifests that are wrong."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from reconciler.core.status import SourceStatus
from reconciler.web.doors import Doors
from reconciler.web.pages.serving import Look, Reading


def held_of(doors: Doors) -> Sequence[SourceStatus]:
    """How each source stands. One that the settings name no more is left out: nobody reads it, so that what was said of it
    last would stay for ever."""
    known = doors.sources
    return [each for each in doors.requests.source_statuses() if known is None or each.metadata.name in known]


def held_routes() -> APIRouter:
    router = APIRouter(route_class=Reading)

    @router.get("/fragments/held")
    def get_held(look: Look) -> HTMLResponse:
        return look.page("_held.html", held=held_of(look.doors))

    return router
