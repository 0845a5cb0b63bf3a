"""The servers, and what was done to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import HTMLResponse

from reconciler.ports import ServersWanted
from reconciler.web.doors import Doors
from reconciler.web.pages.rendering import with_query
from reconciler.web.pages.serving import (
    PAGE,
    Cursor,
    Limit,
    Look,
    Reading,
    Text,
    cursor_of_server,
    cut,
    searchable,
    server_at,
)

MOST_TAGS = 60
"""Tags that are offered, the most frequent first; others can be reached by the servers that carry them."""

PAST = 100
"""Past children of a server that are shown."""

Tags = Annotated[tuple[str, ...], Query(alias="tag", max_length=20)]


def servers_routes() -> APIRouter:
    router = APIRouter(route_class=Reading)

    @router.get("/servers")
    def get_servers(
        look: Look,
        source: Text = "",
        tag: Tags = (),
        group: Text = "",
        text: Text = "",
        cursor: Cursor = "",
    ) -> HTMLResponse:
        wanted = wanted_of(source, tag, group, text)
        sources = look.doors.requests.source_statuses()
        values = _list(look.doors, wanted, cursor, PAGE)
        tags = tags_of(look.doors, wanted)
        return look.page("servers.html", sources=sources, tags=tags, first=not cursor, **values)

    @router.get("/fragments/servers")
    def get_rows(
        look: Look,
        source: Text = "",
        tag: Tags = (),
        group: Text = "",
        text: Text = "",
        cursor: Cursor = "",
        limit: Limit = PAGE,
    ) -> HTMLResponse:
        wanted = wanted_of(source, tag, group, text)
        return look.page("_servers.html", first=not cursor, **_list(look.doors, wanted, cursor, limit))

    @router.get("/servers/{source}/{name:path}")
    def get_server(look: Look, source: str, name: str) -> HTMLResponse:
        source, name = searchable(source), searchable(name)
        found = look.doors.browser.servers(ServersWanted(source=source, names=frozenset({name})), None, 20)
        past = look.doors.browser.host_history(name, None, PAST, source)
        if not found and not past:
            raise HTTPException(404, f"the source {source} has no server {name}")
        return look.page("server.html", source=source, name=name, found=found, past=past, most=PAST)

    @router.get("/fragments/pick")
    def get_picks(
        look: Look, source: Text, text: Text = "", tag: Tags = (), cursor: Cursor = "", limit: Limit = 200
    ) -> HTMLResponse:
        """Servers to choose from, for who composes a batch."""
        wanted = wanted_of(source, tag, "", text)
        values = _list(look.doors, wanted, cursor, limit)
        return look.page("_picks.html", first=not cursor, **values)

    return router


def wanted_of(source: str, tags: Sequence[str], group: str, text: str) -> ServersWanted:
    return ServersWanted(
        source=searchable(source) or None,
        tags=frozenset(searchable(tag) for tag in tags if tag),
        group=searchable(group) or None,
        text=searchable(text.strip()),
    )


def _list(doors: Doors, wanted: ServersWanted, cursor: str, limit: int) -> dict[str, Any]:
    rows, last = cut(doors.browser.servers(wanted, server_at(cursor), limit + 1), limit)
    return {
        "rows": rows,
        "wanted": wanted,
        "more": None if last is None else query_of(wanted, cursor_of_server(last.mark)),
    }


def query_of(wanted: ServersWanted, cursor: str = "") -> str:
    return with_query(
        "", source=wanted.source, tag=sorted(wanted.tags), group=wanted.group, text=wanted.text, cursor=cursor
    )


def tags_of(doors: Doors, wanted: ServersWanted) -> list[tuple[str, int]]:
    """Those that most servers carry, by name, and those that are asked for."""
    counts = doors.browser.server_tags(wanted.source)
    often = sorted(counts, key=lambda tag: (-counts[tag], tag))[:MOST_TAGS]
    return [(tag, counts.get(tag, 0)) for tag in sorted({*often, *wanted.tags})]
