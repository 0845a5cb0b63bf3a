"""A source in memory with a base and a head, and what merging one into the other would run."""

from __future__ import annotations

from typing import Any

import yaml

from reconciler.core.errors import Unavailable
from reconciler.core.hosts import Inventory
from reconciler.core.plans import Limits
from reconciler.core.reasons import Reason
from reconciler.engine.catalogue import Catalogue
from reconciler.engine.preview import Change, JobChange, preview_change
from reconciler.engine.resolve import Resolver
from reconciler.ports import Snapshot
from tests.builders import JOB, NOON
from tests.engine.worlds import PLAYBOOK
from tests.fakes.hosts import an_inventory
from tests.fakes.source import FakeSource

INVENTORY = "inventory/hosts.yml"


class HostsInFiles:
    """Reads inventories that are a host name per line; an empty one can't be read."""

    def load(self, snapshot: Snapshot, inventory: tuple[str, ...], *, fresh: bool = False) -> Inventory:
        names = snapshot.read(INVENTORY).decode().splitlines()
        if not names:
            raise Unavailable(Reason.INVENTORY_UNREADABLE, "it can't be read")
        return an_inventory(names)

    def paths(self, snapshot: Snapshot, inventory: tuple[str, ...]) -> tuple[str, ...]:
        return (INVENTORY,)


class PullRequest:
    """A branch off a base: `write` and the like until `branch` make the base, after it the head."""

    def __init__(self, *hosts: str) -> None:
        self.source = FakeSource({"playbooks/patch.yml": PLAYBOOK})
        self.have_hosts(*(hosts or ("web-1", "web-2", "web-3")))
        self.base: Snapshot | None = None

    def write(self, name: str = JOB.name, *, requested_at: str | None = None, **spec: Any) -> None:
        annotations = {} if requested_at is None else {"reconciler/requestedAt": requested_at}
        fields = {"playbook": "playbooks/patch.yml", "selector": {"all": True}, "minHosts": 1, "limit": 2, **spec}
        metadata = {"name": name, "annotations": annotations}
        document = {"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": metadata, "spec": fields}
        self.source.write(f"jobs/{name}.yaml", yaml.safe_dump(document))

    def have_hosts(self, *names: str) -> None:
        self.source.write(INVENTORY, "\n".join(names))

    def branch(self) -> None:
        self.base = self.source.keep(self.source.sync().revision)

    def change(self) -> Change:
        assert self.base is not None
        hosts = HostsInFiles()
        return preview_change(
            self.base,
            self.source.sync(),
            Catalogue("default", ["jobs/**/*.yaml"], max_limit=20),
            lambda: Resolver(hosts, Limits(50)),
            NOON,
        )

    def the_job(self) -> JobChange:
        (job,) = self.change().jobs
        return job
