"""From saving, committing or pushing a manifest to its first child started, in a daemon that runs.

The start of a run is the moment just before its first ansible-playbook is executed, as the database has it. So what
Ansible takes to start is not in it (a child's own start, once it has ended, is its first task's: that has it in);
what ansible-inventory takes the first time is told apart.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import yaml

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore
from reconciler.core.facts import JobKey
from tests.bench.measure import Number
from tests.gitrepo import WorkingCopy, git, make_repository

JOBS = 6
PATIENCE = 120.0
INTERVAL = 5
"""Seconds between two questions to the remote, where no webhook tells."""


def measure(folder: Path) -> Iterator[Number]:
    yield from _of_directory(folder / "directory")
    yield from _of_local_repository(folder / "local")
    yield from _of_remote(folder / "hook", "pushed, with a webhook", 2.0)
    yield from _of_remote(folder / "interval", f"pushed, asked for every {INTERVAL} s", INTERVAL * 1.1 + 2.0)


def _of_directory(folder: Path) -> Iterator[Number]:
    root = _source(folder / "source")

    def save(name: str) -> None:
        fresh = root / f"{name}.fresh"
        fresh.write_text(_manifest(name))
        fresh.replace(root / "jobs" / f"{name}.yaml")

    with _daemon(folder, [str(root), "--no-http"]) as store:
        pauses = [_pickup(store, f"job-{number}", save) for number in range(JOBS)]
    yield Number("manifest saved to first child started, inventory unread", pauses[0], "s")
    yield Number("manifest saved to first child started", median(pauses[1:]), "s", 1.0)


def _of_local_repository(folder: Path) -> Iterator[Number]:
    copy = make_repository(_source(folder / "source"))
    copy.commit("hosts and a playbook")
    with _daemon(folder, [str(copy.place), "--no-http"]) as store:
        pauses = [_pickup(store, f"job-{number}", lambda name: _commit(copy, name)) for number in range(JOBS)]
    yield Number("committed to first child started", median(pauses[1:]), "s", 1.0)


def _of_remote(folder: Path, what: str, bound: float) -> Iterator[Number]:
    copy = make_repository(_source(folder / "clone"))
    bare = folder / "remote.git"
    bare.mkdir()
    git(bare, "init", "--quiet", "--bare", "--initial-branch=main")
    git(copy.place, "remote", "add", "origin", str(bare))
    copy.commit("hosts and a playbook")
    copy.push()
    hooked = bound < INTERVAL
    (folder / "secret").write_text("secret")
    (folder / "reconciler.toml").write_text(
        f'[[sources]]\nname = "default"\nurl = "file://{bare}"\ninterval = "{3600 if hooked else INTERVAL}s"\n'
        f'webhook_secret_file = "{folder / "secret"}"\n'
    )

    def push(name: str) -> None:
        _commit(copy, name)
        copy.push()
        if hooked:
            _post(folder)

    with _daemon(folder, ["--config", str(folder / "reconciler.toml"), "--listen", "127.0.0.1:0"]) as store:
        pauses = [_pickup(store, f"job-{number}", push) for number in range(JOBS)]
    if hooked:
        yield Number(f"{what}: to first child started", median(pauses[1:]), "s", bound)
    else:
        yield Number(f"{what}: the longest", max(pauses[1:]), "s", bound)


def _post(folder: Path) -> None:
    port = re.search(r"port=(\d+)", (folder / "daemon.log").read_text())
    assert port is not None
    signature = hmac.new(b"secret", b"{}", hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={signature}"}
    address = f"http://127.0.0.1:{port[1]}/hooks/git/default"
    with urllib.request.urlopen(urllib.request.Request(address, b"{}", headers), timeout=30):
        pass


def _source(root: Path) -> Path:
    (root / "jobs").mkdir(parents=True)
    variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {"all": {"hosts": {"h1": None, "h2": None}, "vars": variables}}
    (root / "hosts.yml").write_text(yaml.safe_dump(inventory))
    play = {"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.command": "true"}]}
    (root / "play.yml").write_text(yaml.safe_dump([play]))
    return root


def _manifest(name: str) -> str:
    spec = {"playbook": "play.yml", "inventory": "hosts.yml", "selector": {"all": True}}
    return yaml.safe_dump({"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": {"name": name}, "spec": spec})


def _commit(copy: WorkingCopy, name: str) -> None:
    copy.commit(f"add {name}", **{f"jobs/{name}.yaml": _manifest(name)})


@contextmanager
def _daemon(folder: Path, arguments: Sequence[str]) -> Iterator[SqlStore]:
    state, log = folder / "state", folder / "daemon.log"
    command = [str(Path(sys.executable).with_name("reconciler")), "run", *arguments, "--state-dir", str(state)]
    with log.open("wb") as output:
        daemon = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _wait(lambda: "daemon_started" in log.read_text(), "the daemon")
        _wait((state / "status" / "default" / "_source.yaml").exists, "the first sync")
        time.sleep(1.0)  # the watcher has no way to say that it watches
        store = SqlStore(f"sqlite:///{state / 'reconciler.db'}", SystemClock())
        yield store
        store.close()
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE)


def _pickup(store: SqlStore, name: str, save: Callable[[str], None]) -> float:
    """Seconds from when the manifest was saved, committed or pushed: git's own time, which is the person's, is not in
    it."""
    begun = datetime.now(UTC)
    save(name)
    saved = begun if (datetime.now(UTC) - begun).total_seconds() < 0.01 else datetime.now(UTC)
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
