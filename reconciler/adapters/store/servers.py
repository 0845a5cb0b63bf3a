"""The table of servers, in step with the inventories that were read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, bindparam, insert, select, update

from reconciler.adapters.store.database import Database
from reconciler.adapters.store.summaries import listed, tags_of, write_tags
from reconciler.adapters.store.tables import servers
from reconciler.core.hosts import Host

Item = TypeVar("Item")

AT_ONCE = 500
"""Names in one statement: databases bound how many values one may have."""

LONGEST_INVENTORY = 400
"""Characters of what names an inventory; of a longer one its digest is kept."""

SEEN_AGAIN = timedelta(hours=1)
"""`last_seen` of a server that is otherwise unchanged is written no more often than this."""


class Servers(Database):
    def save_servers(self, source: str, inventory: str, hosts: Sequence[Host]) -> None:
        with self.write() as connection:
            write_servers(connection, source, inventory, hosts, self.clock.now())


def write_servers(
    connection: Connection, source: str, inventory: str, hosts: Sequence[Host], now: datetime
) -> Mapping[str, int]:
    """Add what is new, change what differs. Returns ids by name."""
    if len(inventory) > LONGEST_INVENTORY:  # a list of many
        inventory = hashlib.sha256(inventory.encode()).hexdigest()
    ours = (servers.c.source == source, servers.c.inventory == inventory)
    known = {
        row.name: row
        for names in in_parts(host.name for host in hosts)
        for row in connection.execute(select(servers).where(*ours, servers.c.name.in_(names)))
    }
    new, changed = [], []
    ids: dict[str, int] = {name: row.id for name, row in known.items()}
    tagged: set[str] = set()
    for host in hosts:
        tags, groups = sorted(host.tags), sorted(host.groups)
        facts = {"address": host.address, "host_key": host.host_key, "tags": tags, "groups": groups, "last_seen": now}
        facts |= listed(host.name, host.address)
        row = known.get(host.name)
        if row is None or (row.tags, row.groups) != (tags, groups):
            tagged.add(host.name)
        if row is None:
            new.append({"source": source, "inventory": inventory, "name": host.name, "first_seen": now, **facts})
        elif (row.address, row.host_key, row.tags, row.groups) != (host.address, host.host_key, tags, groups) or (
            now - row.last_seen > SEEN_AGAIN
        ):
            changed.append({"of_id": row.id, **facts})
    if changed:
        connection.execute(update(servers).where(servers.c.id == bindparam("of_id")), changed)
    if new:
        connection.execute(insert(servers), new)
        for names in in_parts(str(row["name"]) for row in new):
            found = connection.execute(select(servers.c.name, servers.c.id).where(*ours, servers.c.name.in_(names)))
            ids |= {row.name: row.id for row in found}
    for some in in_parts(host for host in hosts if host.name in tagged):
        write_tags(connection, {ids[host.name]: tags_of(host.tags, host.groups) for host in some})
    return ids


def in_parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    """At most AT_ONCE at a time."""
    rest = iter(items)
    while part := list(islice(rest, AT_ONCE)):
        yield part
