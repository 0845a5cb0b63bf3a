"""A fleet whose hosts note each time that something is done to them, and the daemon that is killed and started again.

ansible-playbook is the stub of tests/stub_playbook.py, unless a story says otherwise.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore
from reconciler.core.errors import ReconcilerError
from reconciler.core.facts import Child, ChildStatus, JobKey, Run, SliceState
from reconciler.ports import Request, RequestKind
from tests import status_linter, stub_playbook
from tests.acceptance.workspace import wait_for

PATIENCE = 180.0
"""Seconds that a story may take: far more than it does, for the machine may be busy."""

REPOSITORY = Path(__file__).parents[2]

KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Doing:
    """Something was done to a host, by a slice; `ended` None: it was ended in the middle."""

    host: str
    slice: str
    began: float
    ended: float | None


class Fleet:
    """`root` is the source, `state` the state directory, `record` what the hosts noted."""

    def __init__(
        self, folder: Path, *, url: str | None = None, fate: Path | None = None, max_running: int = 50
    ) -> None:
        self.folder = folder
        self.root = folder / "source"
        self.state = folder / "state"
        self.record = folder / "record"
        self.url = url or f"sqlite:///{self.state / 'reconciler.db'}"
        self.fate = fate
        self.jobs: list[str] = []
        self.hosts: set[str] = set()
        self.daemon: subprocess.Popen[bytes] | None = None
        self.deaths = 0
        for below in ("jobs", "playbooks", "inventory"):
            (self.root / below).mkdir(parents=True)
        self.settings = folder / "reconciler.toml"
        program = stub_playbook.install(folder / "bin")
        self.settings.write_text(f'max_running = {max_running}\n[ansible]\nansible_playbook = "{program}"\n')

    # -- what is wanted ----------------------------------------------------------------------------------------------
    def job(self, name: str, hosts: Sequence[str], *, playbook: str | None = None, **spec: Any) -> None:
        """A manifest; `playbook` is the text of its playbook, None: the stub's, at once."""
        text = playbook or stub_playbook.playbook(self.record)
        (self.root / "playbooks" / f"{name}.yml").write_text(text, encoding="utf-8")
        if new := set(hosts) - self.hosts:
            self.hosts |= new
            known = {host: {"ansible_connection": "local"} for host in sorted(self.hosts)}
            self._write("inventory/hosts.yml", {"all": {"hosts": known}})
        plain = {
            "playbook": f"playbooks/{name}.yml",
            "inventory": "inventory/hosts.yml",
            "selector": {"hosts": list(hosts)},
            "minHosts": 1,
            **spec,
        }
        document = {"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": {"name": name}, "spec": plain}
        self._write(f"jobs/{name}.yaml", document)
        if name not in self.jobs:
            self.jobs.append(name)

    def _write(self, path: str, document: object) -> None:
        """At once, as a checkout of git would."""
        new = self.root / f".{Path(path).name}.new"
        new.write_text(yaml.safe_dump(document), encoding="utf-8")
        new.rename(self.root / path)

    def ask(self, kind: RequestKind, name: str, number: int = 1) -> None:
        """As a person does by the command line; again and again, as long as the database is away."""
        key = JobKey("default", name)
        store = self.store()
        try:
            run = store.observe(key).run
            named = run.job_id if run is not None and kind is RequestKind.CANCEL else None
            store.add_request(Request(f"{kind}-{name}-{number}", kind, key, named, "kim", "", SystemClock().now()))
        finally:
            store.close()

    # -- the daemon --------------------------------------------------------------------------------------------------
    def environment(self) -> dict[str, str]:
        found = {**os.environ, "RECONCILER_DATABASE_URL": self.url}
        if self.fate is not None:
            found |= {"FATE": str(self.fate), "PYTHONPATH": f"{Path(__file__).parent / 'site'}:{REPOSITORY}"}
        return found

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("reconciler")), "run", str(self.root), "--no-http"]
        command += ["--config", str(self.settings), "--state-dir", str(self.state)]
        with (self.folder / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment())

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()

    def run_until(self, done: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Start the daemon again whenever it was killed, until it is done. It must not end in any other way."""
        deadline = time.monotonic() + patience
        while not done():
            assert time.monotonic() < deadline, f"waited in vain for: {what}\n{self.log()[-3000:]}"
            if self.daemon is None:
                self.start()
            elif (code := self.daemon.poll()) is not None:
                assert code == KILLED, f"the daemon ended with {code}:\n{self.log()[-3000:]}"
                self.deaths += 1
                self.start()
            time.sleep(0.05)

    def run_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.run_until(lambda: time.monotonic() >= until, "a while")

    def stop(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(60)
        for process in self.marked():
            process.kill()

    def log(self) -> str:
        path = self.folder / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- what is seen ------------------------------------------------------------------------------------------------
    def store(self) -> SqlStore:
        return SqlStore(self.url, SystemClock())

    def runs_open(self) -> bool:
        """Whether any run is in progress: one query, where `at_rest` asks about each job."""
        try:
            store = self.store()
        except ReconcilerError:  # its daemon has not made it yet
            return True
        try:
            return bool(store.open_runs())
        finally:
            store.close()

    def at_rest(self) -> bool:
        """Whether every job has had its runs, and its status says so."""
        try:
            store = self.store()
        except ReconcilerError:
            return False
        try:
            return all(self._rests(store, JobKey("default", name)) for name in self.jobs)
        except ReconcilerError:
            return False
        finally:
            store.close()

    def _rests(self, store: SqlStore, key: JobKey) -> bool:
        record, status = store.manifest(key), store.status(key)
        if record is None or status is None or not store.job_at_rest(key):
            return False
        run = store.observe(key).run
        shown = status.status.run
        if run is None or shown is None or (shown.id, shown.status) != (run.job_id, run.status):
            return False
        file = self.state / "status" / key.source / f"{key.name}.yaml"
        return file.exists() and yaml.safe_load(file.read_text())["status"].get("run", {}).get("id") == run.job_id

    def waits_for_retry(self, name: str) -> bool:
        run = self._run(name)
        return run is not None and any(child.retry_at is not None for child in run.children)

    def has_ended(self, name: str) -> bool:
        run = self._run(name)
        return run is not None and not run.open

    def _run(self, name: str) -> Run | None:
        """None: it has none yet, as far as can be told now."""
        try:
            store = self.store()
        except ReconcilerError:
            return None
        try:
            return store.observe(JobKey("default", name)).run
        finally:
            store.close()

    def doings(self) -> dict[str, list[Doing]]:
        """By host, in the order in which they began."""
        found: dict[str, list[Doing]] = {}
        for host in self.hosts:
            began: dict[str, list[float]] = defaultdict(list)
            ended: dict[str, float] = {}
            file = self.record / host
            for line in file.read_text().splitlines() if file.exists() else ():
                at, what, mark = line.split(" ", 2)
                if what == "begin":
                    began[mark].append(float(at))
                else:
                    ended[mark] = float(at)
            found[host] = sorted(
                (Doing(host, mark.split(":")[0], at, ended.get(mark)) for mark, times in began.items() for at in times),
                key=lambda each: each.began,
            )
        return found

    def marked(self) -> list[psutil.Process]:
        """Processes of this fleet's slices."""
        found = []
        for process in psutil.process_iter():
            try:
                mark = process.environ().get("RECONCILER_SLICE", "")
            except psutil.Error:
                continue
            if mark.endswith(str(self.state / "slices")) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found


# -- what must be true in the end ------------------------------------------------------------------------------------
def judge(fleet: Fleet) -> Mapping[str, list[Run]]:
    """Nobody was done twice, nobody was forgotten, and everything that is said is true. Returns the runs by job."""
    doings = fleet.doings()
    store = fleet.store()
    try:
        runs = {name: list(store.runs(JobKey("default", name), 1000)) for name in fleet.jobs}
        assert store.open_slices() == ()
        with store.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM host_locks").scalar() == 0
        for name in fleet.jobs:
            status = store.status(JobKey("default", name))
            assert status is not None
            status_linter.check(status, SystemClock().now())
    finally:
        store.close()
    known = {part.id for each in runs.values() for run in each for part in run.slices}
    for host, done in doings.items():
        twice = {slice_id: times for slice_id, times in Counter(each.slice for each in done).items() if times > 1}
        assert not twice, f"{host} was done more than once by {twice}"
        assert {each.slice for each in done} <= known
        for before, after in itertools.pairwise(done):
            assert before.ended is None or before.ended <= after.began, f"{host} was done twice at once"
    for each in runs.values():
        for run in each:
            assert not run.open
            for child in run.children:
                _judge_child(run, child, [d for d in doings[child.host] if d.slice.startswith(f"{run.job_id}.")])
    wait_for(lambda: not fleet.marked(), "the last process to end")  # what it did is recorded before it does
    return runs


def _judge_child(run: Run, child: Child, done: Sequence[Doing]) -> None:
    about = f"{child.host} of {run.job_id} is {child.status} ({child.reason}: {child.message}); done: {done}"
    assert len(done) <= child.attempt, about
    parts = [part for part in run.slices if child.host in part.hosts]
    # One that was withdrawn before it began says nothing of the host: its last attempt is the one before.
    tried = {each.slice for each in done} | {part.id for part in parts if part.state is SliceState.LOST}
    latest = max((part for part in parts if part.id in tried), key=lambda part: part.attempt, default=None)
    own = [each for each in done if latest is not None and each.slice == latest.id]
    match child.status:
        case ChildStatus.SUCCESS:
            assert [each.ended is not None for each in own] == [True], about
        case ChildStatus.FAILED:
            assert len(own) == 1, about
        case ChildStatus.SKIPPED:
            assert done == [], about
        case ChildStatus.UNKNOWN:
            assert latest is not None, about
            assert latest.state is SliceState.LOST, about
        case ChildStatus.CANCELLED | ChildStatus.ABORTED:
            pass
        case _:
            raise AssertionError(f"it was forgotten: {about}")
