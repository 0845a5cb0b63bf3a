"""What lists sort, look and show by: kept in step with the status documents and the inventories that it is made of.

It is written in the transaction that writes those. A daemon of the version before this knows nothing of it and may still
lead after the schema was upgraded: whoever leads next makes all of it again. The row `summaries` of `sequences` has the
last fence under which nobody wrote past it; -1: it was never made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, select, update

from reconciler.adapters.store.rows import NAME_MOST, folded, of_job
from reconciler.adapters.store.tables import (
    LONGEST_SORT_NAME,
    batch_summaries,
    clean_text,
    invalid_jobs,
    jobs,
    leases,
    manifests,
    sequences,
    server_tags,
    servers,
)
from reconciler.adapters.store.upserts import upsert
from reconciler.core.facts import JobKey
from reconciler.core.hosts import natural_text
from reconciler.ports import LEADER

AT_ONCE = 200
"""Documents that are read together when all of them are: one may be large."""

GROUP = "group:"
"""The tag of a group begins so, as inventories make it."""


# -- batches ---------------------------------------------------------------------------------------------------------
def shrunk(document: Mapping[str, Any]) -> dict[str, Any]:
    """A status document without what only one job's own page shows: a list of 10,000 would read 200 children of each. Of
    the waves the last stays, of the past runs the one that finished last."""
    body = document["status"]
    finished = [run for run in body["history"] if run["finishedAt"] is not None]
    last = [max(finished, key=lambda run: run["finishedAt"])] if finished else []
    waves = sorted(body["waves"], key=lambda wave: wave["number"])[-1:]
    left_out = {"children": [], "failures": [], "warnings": [], "waves": waves, "history": last}
    return {**document, "status": {**body, **left_out}}


def invalid_since(document: Mapping[str, Any]) -> datetime:
    """When a name that no valid manifest ever had was last active: since it is invalid."""
    changed = max(condition["lastTransitionTime"] for condition in document["status"]["conditions"])
    return datetime.strptime(changed, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def write_summary(connection: Connection, key: JobKey, document: Mapping[str, Any]) -> None:
    """Of a job whose manifest was accepted."""
    opened = select(jobs.c.created_at).where(of_job(jobs, key), jobs.c.is_batch_job).order_by(jobs.c.id.desc()).limit(1)
    active_at = connection.scalar(opened)
    if active_at is None:
        active_at = connection.scalar(select(manifests.c.seen_at).where(of_job(manifests, key)))
        assert active_at is not None  # its document is in the same row
    upsert(connection, batch_summaries, [_summary_row(key, document, active_at, accepted=True)])


def write_invalid_summaries(
    connection: Connection, source: str, documents: Mapping[str, Mapping[str, Any]], gone: Iterable[str]
) -> None:
    """`documents` by name. Where the name was accepted, its own document counts."""
    of_source = batch_summaries.c.source == source
    accepted = set(connection.scalars(select(batch_summaries.c.name).where(of_source, batch_summaries.c.accepted)))
    for name in set(gone) - accepted:
        connection.execute(delete(batch_summaries).where(of_source, batch_summaries.c.name == name))
    rows = [
        _summary_row(JobKey(source, name), document, invalid_since(document), accepted=False)
        for name, document in documents.items()
        if name not in accepted
    ]
    upsert(connection, batch_summaries, rows)


def mark_active(connection: Connection, key: JobKey, now: datetime) -> None:
    connection.execute(update(batch_summaries).where(of_job(batch_summaries, key)).values(active_at=now))


def _summary_row(key: JobKey, document: Mapping[str, Any], active_at: datetime, *, accepted: bool) -> dict[str, Any]:
    body = document["status"]
    return {
        "source": key.source,
        "name": key.name,
        "accepted": accepted,
        "phase": body["phase"],
        "active_at": active_at,
        "search": batch_search(key, body["playbook"]),
        "status": shrunk(document),
    }


def batch_search(key: JobKey, playbook: str | None) -> str:
    return folded(str(key), playbook or "")


# -- servers ---------------------------------------------------------------------------------------------------------
def tags_of(tags: Iterable[str], groups: Iterable[str]) -> list[str]:
    """The tags by which a server can be looked for, its groups among them. What is longer than a name can be is none."""
    found = {clean_text(tag) for tag in (*tags, *(GROUP + group for group in groups))}
    return sorted(tag for tag in found if len(tag) <= NAME_MOST)


def listed(name: str, address: str) -> Mapping[str, str]:
    """What lists look for a server by, and sort it by."""
    return {"search": folded(name, address), "sort_name": sort_name(name)}


def sort_name(name: str) -> str:
    return clean_text(natural_text(name))[:LONGEST_SORT_NAME]


def write_tags(connection: Connection, tags: Mapping[int, Sequence[str]]) -> None:
    """By the server's id: these are all that it has now."""
    if not tags:
        return
    # By the whole key, for MySQL holds every row that it looks through.
    known = connection.execute(select(server_tags).where(server_tags.c.server.in_(list(tags)))).all()
    gone = [{"of_id": row.server, "of_tag": row.tag} for row in known if row.tag not in tags[row.server]]
    if gone:
        this = and_(server_tags.c.server == bindparam("of_id"), server_tags.c.tag == bindparam("of_tag"))
        connection.execute(delete(server_tags).where(this), gone)
    there = {(row.server, row.tag) for row in known}
    new = [{"server": id_, "tag": tag} for id_, mine in tags.items() for tag in mine if (id_, tag) not in there]
    if new:
        connection.execute(insert(server_tags), new)


# -- all of it -------------------------------------------------------------------------------------------------------
def refresh_on_upgrade(connection: Connection) -> None:
    """Made for the first time. Somebody of the version before may lead meanwhile: then it does not count as complete."""
    if _complete_since(connection) >= 0:
        return
    _make_again(connection)
    lease = connection.execute(select(leases.c.holder, leases.c.fence).where(leases.c.name == LEADER)).one_or_none()
    led = lease is not None and lease.holder != ""
    _say_complete(connection, 0 if lease is None else lease.fence - led)


def refresh_on_lead(connection: Connection, fence: int) -> None:
    """By whoever has just taken the lead by this fence: a refresh, if the one before may have been of another version."""
    if _complete_since(connection) != fence - 1:
        _make_again(connection)
    _say_complete(connection, fence)


def _complete_since(connection: Connection) -> int:
    return connection.scalar(select(sequences.c.value).where(sequences.c.name == "summaries")) or 0


def _say_complete(connection: Connection, fence: int) -> None:
    upsert(connection, sequences, [{"name": "summaries", "value": fence}])


def _make_again(connection: Connection) -> None:
    connection.execute(delete(batch_summaries))
    for part in _summaries(connection):
        upsert(connection, batch_summaries, part)
    last = 0
    while rows := connection.execute(
        select(servers).where(servers.c.id > last).order_by(servers.c.id).limit(AT_ONCE)
    ).all():
        last = rows[-1].id
        of_lists = [{"of_id": row.id, **listed(row.name, row.address)} for row in rows]
        connection.execute(update(servers).where(servers.c.id == bindparam("of_id")), of_lists)
        write_tags(connection, {row.id: tags_of(row.tags, row.groups) for row in rows})


def _summaries(connection: Connection) -> Iterator[list[dict[str, Any]]]:
    """Rows, some at a time; those of accepted manifests last, for they count. A document that another version has written
    in a way of its own is left out: it is derived again."""
    newest = select(func.max(jobs.c.id)).where(jobs.c.is_batch_job).group_by(jobs.c.source, jobs.c.name)
    opened = {
        JobKey(row.source, row.name): row.created_at
        for row in connection.execute(
            select(jobs.c.source, jobs.c.name, jobs.c.created_at).where(jobs.c.id.in_(newest))
        )
    }
    for table in (invalid_jobs, manifests):
        keys = connection.execute(select(table.c.source, table.c.name).where(table.c.status.is_not(None))).all()
        by_source: dict[str, list[str]] = {}
        for row in keys:
            by_source.setdefault(row.source, []).append(row.name)
        for source, names in by_source.items():
            for start in range(0, len(names), AT_ONCE):
                these = and_(table.c.source == source, table.c.name.in_(names[start : start + AT_ONCE]))
                part: list[dict[str, Any]] = []
                for row in connection.execute(select(table).where(these)).all():
                    key = JobKey(row.source, row.name)
                    with contextlib.suppress(KeyError, TypeError, ValueError):
                        if table is manifests:
                            active_at = opened.get(key, row.seen_at)
                        else:
                            active_at = invalid_since(row.status)
                        part.append(_summary_row(key, row.status, active_at, accepted=table is manifests))
                yield part
