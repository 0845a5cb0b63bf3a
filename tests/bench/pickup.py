"""From saving a manifest to its first child started, in a daemon that runs.

The start of a run is the moment just before its first ansible-playbook is executed, as the database has it. So what
Ansible takes to start is not in it (a child's own start, once it has ended, is its first task's: that has it in);
what ansible-inventory takes the first time is told apart.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import yaml

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore
from reconciler.core.facts import JobKey
from tests.bench.measure import Number

JOBS = 6
PATIENCE = 120.0


def measure(folder: Path) -> Iterator[Number]:
    root, state = folder / "source", folder / "state"
    (root / "jobs").mkdir(parents=True)
    variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {"all": {"hosts": {"h1": None, "h2": None}, "vars": variables}}
    (root / "hosts.yml").write_text(yaml.safe_dump(inventory))
    play = {"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.command": "true"}]}
    (root / "play.yml").write_text(yaml.safe_dump([play]))
    command = [str(Path(sys.executable).with_name("reconciler")), "run", str(root), "--no-http"]
    with (folder / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen([*command, "--state-dir", str(state)], stdout=log, stderr=log)
    try:
        _wait(lambda: "daemon_started" in (folder / "daemon.log").read_text(), "the daemon")
        _wait((state / "status" / "default" / "_source.yaml").exists, "the first sync")
        time.sleep(1.0)  # the watcher has no way to say that it watches
        store = SqlStore(f"sqlite:///{state / 'reconciler.db'}", SystemClock())
        pauses = [_pickup(root, store, f"job-{number}") for number in range(JOBS)]
        store.close()
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE)
    yield Number("manifest saved to first child started, inventory unread", pauses[0], "s")
    yield Number("manifest saved to first child started", median(pauses[1:]), "s", 1.0)


def _pickup(root: Path, store: SqlStore, name: str) -> float:
    spec = {"playbook": "play.yml", "inventory": "hosts.yml", "selector": {"all": True}}
    manifest = {"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": {"name": name}, "spec": spec}
    fresh = root / f"{name}.fresh"
    fresh.write_text(yaml.safe_dump(manifest))
    saved = datetime.now(UTC)
    fresh.replace(root / "jobs" / f"{name}.yaml")
    key = JobKey("default", name)

    def ended() -> bool:
        run = store.observe(key).run
        return run is not None and not run.open

    _wait(ended, f"the end of {name}")
    run = store.observe(key).run
    assert run is not None
    assert run.started_at is not None
    return (run.started_at - saved).total_seconds()


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(0.05)
