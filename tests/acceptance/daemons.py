"""Daemons as processes, several of them on one source and one database, each with a state directory of its own.

ansible-playbook is the stub of tests/stub_playbook.py: what happens around it is the story.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore
from reconciler.core.facts import JobKey, Run
from reconciler.ports import LEADER, Lease, Request
from tests import stub_playbook
from tests.acceptance.workspace import PATIENCE, Done, wait_for

TAKEOVER = 15.0
"""Seconds within which a standby has taken over from a leader that was killed."""


class Post:
    """One daemon: its state directory, its process, and what its log says."""

    def __init__(self, folder: Path, site: Site, name: str) -> None:
        self.state = folder / f"state-{name}"
        self.log = folder / f"{name}.log"
        self._site = site
        self._process: subprocess.Popen[bytes] | None = None

    # -- its process -------------------------------------------------------------------------------------------------
    def command(self, *arguments: str) -> list[str]:
        options = ["--config", str(self._site.settings), "--state-dir", str(self.state)]
        return [str(Path(sys.executable).with_name("reconciler")), *arguments, *options]

    def start(self, **environment: str) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command("run", str(self._site.root)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )

    def call(self, *arguments: str) -> Done:
        environment = {**os.environ, "COLUMNS": "200"}
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=PATIENCE, env=environment
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ends(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        return self._process.wait(timeout=PATIENCE)

    def clean_up(self) -> None:
        if self._process is not None and self.lives():
            self._process.kill()
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(timeout=PATIENCE)

    # -- what it says ------------------------------------------------------------------------------------------------
    def said(self, event: str) -> list[Mapping[str, str]]:
        """Every line of its log with this event."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        entries = [dict(part.partition("=")[::2] for part in shlex.split(line)) for line in lines if "event=" in line]
        return [entry for entry in entries if entry.get("event") == event]

    def waits_to_say(self, event: str, times: int = 1) -> Mapping[str, str]:
        wait_for(lambda: len(self.said(event)) >= times or not self.lives(), f"{event} in {self.log}")
        assert len(self.said(event)) >= times, self.log.read_text()
        return self.said(event)[times - 1]

    def page(self, path: str) -> tuple[int, str]:
        """What its port answers."""
        port = (*self.said("daemon_started")[-1:], *self.said("settings_reloaded"))[-1]["port"]
        answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30, trust_env=False)
        return answer.status_code, answer.text

    def shows(self, line: str) -> bool:
        """Among its metrics."""
        return line in self.page("/metrics")[1].splitlines()


def moment(entry: Mapping[str, str]) -> datetime:
    return datetime.fromisoformat(entry["timestamp"])


class Site:
    """A source, a database, and those who care for them. `record` has a file for each host, with what was done to it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.root = folder / "source"
        self.record = folder / "record"
        self.settings = folder / "reconciler.toml"
        self._folder = folder
        self._posts: list[Post] = []
        for below in ("jobs", "playbooks", "inventory"):
            (self.root / below).mkdir(parents=True)
        self._program = stub_playbook.install(folder / "bin")
        self.set()

    def post(self, name: str) -> Post:
        post = Post(self._folder, self, name)
        self._posts.append(post)
        return post

    def set(self, *, url: str | None = None, listen: str = "127.0.0.1:0", **settings: int | str) -> None:
        """Write the settings file."""
        lines = [f"{name} = {value!r}" for name, value in {"database_url": url or self.url, **settings}.items()]
        lines += ["[http]", f"listen = {listen!r}", "[ansible]", f"ansible_playbook = {str(self._program)!r}"]
        new = self.settings.with_suffix(".new")
        new.write_text("\n".join(lines), encoding="utf-8")
        new.rename(self.settings)

    def job(self, name: str, hosts: int, *, seconds: float = 0.0, **spec: Any) -> None:
        """A batch over hosts of its own, on which something is done for so long."""
        names = [f"{name}-{number}" for number in range(1, hosts + 1)]
        known = {host: {"ansible_connection": "local"} for host in names}
        self._write(f"inventory/{name}.yml", yaml.safe_dump({"all": {"hosts": known}}))
        self._write(f"playbooks/{name}.yml", stub_playbook.playbook(self.record, seconds=seconds))
        plain = {
            "playbook": f"playbooks/{name}.yml",
            "inventory": f"inventory/{name}.yml",
            "selector": {"all": True},
            "minHosts": 1,
            **spec,
        }
        document = {"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": {"name": name}, "spec": plain}
        self._write(f"jobs/{name}.yaml", yaml.safe_dump(document))

    def _write(self, path: str, text: str) -> None:
        new = self._folder / f"new-{Path(path).name}"
        new.write_text(text, encoding="utf-8")
        new.rename(self.root / path)

    # -- what is seen ------------------------------------------------------------------------------------------------
    def begun(self) -> list[str]:
        """Each host as often as something began on it."""
        return self._noted("begin")

    def ended(self) -> list[str]:
        return self._noted("end")

    def _noted(self, what: str) -> list[str]:
        files = sorted(self.record.iterdir()) if self.record.exists() else []
        return [file.name for file in files for line in file.read_text().splitlines() if f" {what} " in line]

    def run(self, name: str) -> Run | None:
        with self._store() as store:
            return store.observe(JobKey("default", name)).run

    def is_over(self, name: str) -> bool:
        run = self.run(name)
        return run is not None and not run.open

    def outcomes(self, name: str) -> dict[str, str]:
        run = self.run(name)
        assert run is not None
        return {child.host: child.status.value for child in run.children}

    def lease(self) -> Lease | None:
        with self._store() as store:
            return store.lease(LEADER)

    def requests(self) -> Sequence[Request]:
        with self._store() as store:
            return store.requests(None, None, 100)

    @contextmanager
    def _store(self) -> Iterator[SqlStore]:
        store = SqlStore(self.url, SystemClock())
        try:
            yield store
        finally:
            store.close()

    def clean_up(self) -> None:
        for post in self._posts:
            post.clean_up()
        for left in self.slices():
            os.kill(left, signal.SIGKILL)

    def slices(self) -> Iterator[int]:
        """Processes of slices that are left."""
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    environment = (process / "environ").read_bytes()
                except OSError:
                    continue
                if b"RECONCILER_SLICE=" in environment and str(self._folder).encode() in environment:
                    yield int(process.name)
