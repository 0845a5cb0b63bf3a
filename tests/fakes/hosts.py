"""Inventories without Ansible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.core.errors import ReconcilerError
from reconciler.core.hosts import Host, Inventory
from reconciler.ports import Snapshot


def an_inventory(hosts: Iterable[str], groups: Mapping[str, tuple[str, ...]] | None = None) -> Inventory:
    """Hosts of these names, tagged with their groups only, each a machine of its own."""
    names = tuple(hosts)
    members = dict(groups or {})
    made = {}
    for name in names:
        mine = frozenset(group for group, inside in members.items() if name in inside)
        made[name] = Host(name, name, f"{name}:22", frozenset(f"group:{group}" for group in mine), mine)
    return Inventory(f"{names} {members}", made, {"all": names, "ungrouped": (), **members})


class FakeHosts:
    """Answers with `answer`, whatever is asked: an inventory, or an error that is raised. `asked` remembers each call."""

    def __init__(self, answer: Inventory | ReconcilerError) -> None:
        self.answer = answer
        self.asked: list[tuple[tuple[str, ...], bool]] = []

    def load(self, snapshot: Snapshot, inventory: tuple[str, ...], *, fresh: bool = False) -> Inventory:
        self.asked.append((inventory, fresh))
        if isinstance(self.answer, ReconcilerError):
            raise type(self.answer)(self.answer.reason, self.answer.message, self.answer.hint)
        return self.answer

    def paths(self, snapshot: Snapshot, inventory: tuple[str, ...]) -> tuple[str, ...]:
        return inventory or ("inventory/hosts.yml",)
