"""A workspace whose source is a git repository: a bare one that is pushed to, and a clone with the files."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.acceptance.workspace import PATIENCE, Workspace, wait_for
from tests.gitrepo import WorkingCopy, git

SECOND = {"interval": "1s"}


class GitWorkspace(Workspace):
    """`root` is the clone; what is pushed from it is what runs. `settings` is the daemon's settings file."""

    def __init__(self, folder: Path, hosts: int) -> None:
        super().__init__(folder, hosts)
        self.bare = folder / "remote.git"
        self.bare.mkdir()
        git(self.bare, "init", "--quiet", "--bare", "--initial-branch=main")
        git(self.root, "init", "--quiet", "--initial-branch=main")
        git(self.root, "remote", "add", "origin", str(self.bare))
        self.copy = WorkingCopy(self.root)
        self.settings = folder / "reconciler.toml"
        self.log = folder / "daemon.log"
        self.follow()

    def follow(self, url: str | None = None, **more: object) -> None:
        """Write the settings: one source, `default`, on the bare repository."""
        self.follow_all({"default": {"url": url or f"file://{self.bare}", "branch": "main", **SECOND, **more}})

    def follow_all(self, sources: Mapping[str, Mapping[str, object]], head: str = "") -> None:
        tables = []
        for name, settings in sources.items():
            lines = [f"{key} = {_toml(value)}" for key, value in settings.items()]
            tables.append("\n".join(("[[sources]]", f'name = "{name}"', *lines)))
        self.settings.write_text(head + "\n\n".join(tables) + "\n")

    def push(self, subject: str = "a change") -> str:
        """Commit all that lies there, and push it; the commit's id."""
        commit = self.copy.commit(subject)
        self.copy.push()
        return commit

    def command(self, *arguments: str) -> list[str]:
        return [*super().command(*arguments), "--config", str(self.settings)]

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """The daemon, until the test is over; its slices are ended if they have not ended by themselves."""
        process = self.start(*arguments)
        try:
            yield process
        finally:
            self.end(process)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command("run", *(arguments or ("--no-http",))), stdout=log, stderr=log)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)
        while left := self.marked():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def reached(self, commit: str, phase: str = "Succeeded", name: str = "work") -> None:
        """Wait until the job's run of this commit has ended so."""

        def there() -> bool:
            status = self.status(name)
            run = status.get("run") or {}
            return status.get("phase") == phase and str(run.get("revision", "")).endswith(commit)

        wait_for(there, f"{name} {phase} at {commit}")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        database = sqlite3.connect(self.state / "reconciler.db", timeout=30)
        try:
            return database.execute(query).fetchall()
        finally:
            database.close()

    def source_condition(self, kind: str) -> dict[str, Any] | None:
        return next((each for each in self.source()["conditions"] if each["type"] == kind), None)


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value if isinstance(value, bool | int | list) else str(value))
