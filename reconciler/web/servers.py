"""The API of servers, their tags, and the sources that they and the manifests come from."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from reconciler.core.status import SourceStatus
from reconciler.ports import ServerMark, ServerRow, ServersWanted
from reconciler.web.documents import (
    ChildDocument,
    OfferDocument,
    ServerDocument,
    TagDocument,
    child_document,
    offer_document,
    server_document,
)
from reconciler.web.doors import DoorsHere
from reconciler.web.problems import invalid, not_found, problems
from reconciler.web.routing import (
    USUAL,
    CursorQuery,
    HostPath,
    LimitQuery,
    Page,
    Plain,
    SourcePath,
    SourceQuery,
    TextQuery,
    cursor_of,
    etag_answers,
    page_of,
    parts_of,
    reading,
)

look = reading()


@look.get("/servers", operation_id="listServers", tags=["servers"], responses=etag_answers("A page of them."))
def list_servers(
    doors: DoorsHere,
    source: SourceQuery = None,
    tag: Annotated[tuple[Plain, ...], Query(max_length=100, description="Those that carry all of these.")] = (),
    group: Annotated[Plain | None, Query(description="Those of this inventory group.")] = None,
    text: TextQuery = "",
    search: Annotated[Plain, Query(description="The same as `text`, by another name: give one of them.")] = "",
    limit: LimitQuery = USUAL,
    cursor: CursorQuery = None,
) -> Page[ServerDocument]:
    """The hosts of all inventories that were read, by name, web-2 before web-10. `text` is looked for in name and address."""
    if text and search:
        raise invalid("search", "query", "it is the same as text: give one of them")
    after = None if cursor is None else ServerMark(*parts_of(cursor, str, str, str))
    wanted = ServersWanted(source, frozenset(tag), group, text or search)
    rows, following = page_of(doors.browser.servers(wanted, after, limit + 1), limit, _cursor)
    return Page(items=tuple(map(server_document, rows)), next=following)


def _cursor(row: ServerRow) -> str:
    return cursor_of(row.name, row.source, row.inventory)


@look.get(
    "/servers/{source}/{name}/jobs",
    operation_id="listServerJobs",
    tags=["servers"],
    responses={**etag_answers("The latest of them."), **problems(404)},
)
def list_server_jobs(
    doors: DoorsHere, source: SourcePath, name: HostPath, limit: LimitQuery = USUAL
) -> Page[ChildDocument]:
    """What batches did to a host, newest first: child jobs."""
    past = [child_document(key, child) for key, child in doors.browser.host_history(name, None, limit, source)]
    if not past and not doors.browser.servers(ServersWanted(source, names=frozenset({name})), None, 1):
        raise not_found(f"server {name} in {source}")
    return Page(items=tuple(past))


@look.get("/tags", operation_id="listTags", tags=["servers"], responses=etag_answers("All of them."))
def list_tags(doors: DoorsHere, source: SourceQuery = None) -> Page[TagDocument]:
    """The tags that servers carry, by name, and how many carry each."""
    counts = doors.browser.server_tags(source)
    return Page(items=tuple(TagDocument(tag=tag, servers=counts[tag]) for tag in sorted(counts)))


@look.get("/sources", operation_id="listSources", tags=["sources"], responses=etag_answers("All of them."))
def list_sources(doors: DoorsHere) -> Page[SourceStatus]:
    """Where manifests come from, and how each source stands: its last sync, and what of it is rejected."""
    statuses = doors.requests.source_statuses()
    return Page(items=tuple(sorted(statuses, key=lambda status: status.metadata.name)))


@look.get("/offers", operation_id="listOffers", tags=["sources"], responses=etag_answers("All of them."))
def list_offers(doors: DoorsHere) -> Page[OfferDocument]:
    """What each source offers to somebody who composes a manifest; none, where nothing can be composed."""
    offers = () if doors.authoring is None else doors.authoring.offers()
    return Page(items=tuple(map(offer_document, offers)))
