"""A batch against bare Ansible: the same hosts, tasks and concurrency, one after the other in each round.

20 hosts with the local connection, 5 at a time, three small tasks. `bare` is one ansible-playbook with `serial: 5`;
`ours` is `reconciler run --once` on a database that is there, from its start to its exit; `each` is the same with
`hostsPerProcess: 1`, one process for every host. `bare_each` is one bare ansible-playbook for every host, 5 at once.

What a slice spends counts as ours: the process of a slice ends, and is waited for, before reconciler exits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.bench.measure import Number, Spent, middle, spent

HOSTS = 20
LIMIT = 5
ROUNDS = 5

TASKS = [
    {"name": "One", "ansible.builtin.command": "true"},
    {"name": "Two", "ansible.builtin.stat": {"path": "/etc/hosts"}},
    {"name": "Three", "ansible.builtin.command": "echo {{ inventory_hostname }}"},
]


def measure(folder: Path) -> Iterator[Number]:
    root = _source(folder / "source")
    each_root = _source(folder / "each", hostsPerProcess=1)
    fresh = _ours(root)
    _ours(each_root)
    bare: list[Spent] = []
    ours: list[Spent] = []
    each: list[Spent] = []
    bare_each: list[Spent] = []
    for _ in range(ROUNDS):
        bare.append(_bare(root))
        ours.append(_ours(root))
        each.append(_ours(each_root))
        bare_each.append(_bare_each(root))
    yield Number("bare ansible-playbook, serial 5: wall", middle(bare, lambda s: s.wall), "s")
    yield Number("bare ansible-playbook, serial 5: CPU", middle(bare, lambda s: s.cpu), "s")
    yield Number("reconciler run --once: wall", middle(ours, lambda s: s.wall), "s")
    yield Number("reconciler run --once: CPU", middle(ours, lambda s: s.cpu), "s")
    yield Number("the very first time, database and inventory included: wall", fresh.wall, "s")
    yield Number("reconciler, hostsPerProcess 1: CPU", middle(each, lambda s: s.cpu), "s")
    yield Number("bare ansible-playbook for each host, 5 at once: CPU", middle(bare_each, lambda s: s.cpu), "s")
    yield Number("wall, ours to bare", _ratio(ours, bare, "wall"), "times", 2.0)
    yield Number("CPU, ours to bare", _ratio(ours, bare, "cpu"), "times", 1.6)
    yield Number("CPU, hostsPerProcess 1 to ours", _ratio(each, ours, "cpu"), "times", 2.0, least=True)
    yield Number("CPU, bare for each host to ours", _ratio(bare_each, ours, "cpu"), "times")


def _ratio(these: list[Spent], those: list[Spent], what: str) -> float:
    """The median of the ratios of each round: both sides of a ratio saw the same machine."""
    ratios = sorted(getattr(a, what) / getattr(b, what) for a, b in zip(these, those, strict=True))
    return float(ratios[len(ratios) // 2])


def _source(root: Path, **more: object) -> Path:
    (root / "jobs").mkdir(parents=True)
    hosts = {f"h{number:02}": None for number in range(1, HOSTS + 1)}
    variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (root / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": variables}}))
    play = {"hosts": "all", "gather_facts": False, "tasks": TASKS}
    (root / "batch.yml").write_text(yaml.safe_dump([play]))
    (root / "bare.yml").write_text(yaml.safe_dump([{**play, "serial": LIMIT}]))
    spec: dict[str, object] = {
        "playbook": "batch.yml",
        "inventory": "hosts.yml",
        "selector": {"all": True},
        "limit": LIMIT,
    }
    spec |= more
    manifest = {"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": {"name": "batch"}, "spec": spec}
    (root / "jobs" / "batch.yaml").write_text(yaml.safe_dump(manifest))
    return root


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _bare(root: Path) -> Spent:
    command = [_program("ansible-playbook"), "-i", "hosts.yml", "bare.yml"]
    return spent(command, root, {**os.environ, "ANSIBLE_FORKS": str(LIMIT)})


def _bare_each(root: Path) -> Spent:
    """xargs starts the next as soon as one of the five has ended, as a pool of workers would."""
    (root / "names").write_text("".join(f"h{number:02}\n" for number in range(1, HOSTS + 1)))
    one = [_program("ansible-playbook"), "-i", "hosts.yml", "batch.yml", "--limit", "@@"]
    command = ["xargs", "-a", "names", "-P", str(LIMIT), "-I", "@@", *one]
    return spent(command, root, {**os.environ, "ANSIBLE_FORKS": "1"})


def _ours(root: Path) -> Spent:
    """A run that was asked for. What is measured begins with the start of reconciler and ends with its exit."""
    if (root / ".reconciler").exists():
        spent([_program("reconciler"), "trigger", "batch"], root, os.environ)
    return spent([_program("reconciler"), "run", "--once"], root, os.environ)
