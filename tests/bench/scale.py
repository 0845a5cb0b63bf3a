"""How it grows: children of one run, manifests at rest, memory of the daemon, each at 100, 1,000 and 10,000."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore, migrate
from tests.bench.measure import Number
from tests.builders import JOB, make_new_run, manifest_record, new_cause, numbered_hosts

SIZES = (100, 1_000, 10_000)
BOUNDED = 1_000
"""The size that the bounds are for."""


def measure(folder: Path) -> Iterator[Number]:
    for size in SIZES:
        yield _children(folder / f"children-{size}", size)
    for size in SIZES:
        yield from _resting(folder / f"resting-{size}", size)


def _children(folder: Path, size: int) -> Number:
    """Parent, children and causes in one transaction."""
    folder.mkdir()
    url = f"sqlite:///{folder / 'reconciler.db'}"
    migrate.upgrade(url)
    store = SqlStore(url, SystemClock())
    store.save_manifests((manifest_record(JOB),), (new_cause(),))
    new = make_new_run(store.observe(JOB).causes[0], numbered_hosts(size))
    begin = time.monotonic()
    assert store.open_run(new)
    took = time.monotonic() - begin
    store.close()
    return Number(f"run with {size:,} children opened", took, "s", 1.0 if size == BOUNDED else None)


def _resting(folder: Path, size: int) -> Iterator[Number]:
    """In a process of its own, whose memory is its own."""
    _source(folder / "source", size)
    command = [sys.executable, "-m", "tests.bench.resting", str(folder / "source"), str(folder / "state")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    bounded = size == BOUNDED
    each = found["resync"] * 1000 / size
    yield Number(f"{size:,} manifests: first look at all", found["first"], "s")
    yield Number(f"{size:,} manifests at rest: resync, each", each, "ms", 1.0 if bounded else None)
    yield Number(
        f"{size:,} manifests: memory of the daemon, metrics read", found["memory"], "MB", 150.0 if bounded else None
    )


def _source(root: Path, size: int) -> None:
    """Manifests that ask for nothing (`runOn: []`) on one inventory."""
    (root / "jobs").mkdir(parents=True)
    (root / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {f"h{n}": None for n in range(1, 51)}}}))
    (root / "play.yml").write_text("- hosts: all\n  tasks: []\n")
    for number in range(size):
        spec = {"playbook": "play.yml", "inventory": "hosts.yml", "selector": {"all": True}, "runOn": []}
        name = f"job-{number:05}"
        manifest = {"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": {"name": name}, "spec": spec}
        (root / "jobs" / f"{name}.yaml").write_text(yaml.safe_dump(manifest))
