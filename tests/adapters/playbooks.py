"""A project with one playbook, and the real ansible-playbook that runs it over the local connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from reconciler.adapters.ansible import AnsibleOptions, AnsibleRunner
from reconciler.core.facts import HostOutcome
from reconciler.ports import LogLine, PlaybookResult, PlaybookWork, StopKind

PLAY = "- hosts: all\n  gather_facts: false\n"

INVENTORY = """
all:
  hosts: {h1: , h2: , h3: }
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
"""


def never() -> StopKind | None:
    return None


@dataclass(frozen=True, slots=True)
class Ran:
    """A playbook that has ended, and what was logged."""

    result: PlaybookResult
    lines: tuple[LogLine, ...]

    def outcome(self, host: str) -> HostOutcome:
        return next(outcome for outcome in self.result.outcomes if outcome.host == host)

    def log_of(self, host: str | None) -> list[str]:
        return [line.text for line in self.lines if line.host == host]


@dataclass(slots=True)
class Project:
    """The snapshot is `root / "project"`, the slice's own directory `root / "work"`, which must not outlive the run."""

    root: Path
    inventory: str = INVENTORY
    inventory_file: str = "hosts.yml"
    hosts: tuple[str, ...] = ("h1", "h2", "h3")
    options: AnsibleOptions = field(default_factory=AnsibleOptions)
    extra_vars: Mapping[str, Any] = field(default_factory=dict)
    extra_vars_files: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    skip_tags: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """Different in every test: others may run at the same time."""
        return f"{self.root}:1"

    @property
    def directory(self) -> Path:
        return self.root / "work"

    def write(self, path: str, text: str) -> Path:
        file = self.root / "project" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def work(self, playbook: str = "site.yml") -> PlaybookWork:
        self.write("hosts.yml", self.inventory)
        return PlaybookWork(
            directory=self.directory,
            project=self.root / "project",
            playbook=playbook,
            inventory=(self.inventory_file,),
            hosts=self.hosts,
            extra_vars=self.extra_vars,
            extra_vars_files=self.extra_vars_files,
            tags=self.tags,
            skip_tags=self.skip_tags,
            check_mode=False,
            task_timeout=timedelta(minutes=10),
            mark={"RECONCILER_SLICE": self.mark},
        )

    def run(self, playbook: str, stop: Callable[[], StopKind | None] = never) -> Ran:
        self.write("site.yml", playbook)
        lines: list[LogLine] = []
        result = AnsibleRunner(self.options).prepare(self.work()).run(lines.append, stop)
        assert not self.directory.exists()
        assert [outcome.host for outcome in result.outcomes] == list(self.hosts)
        return Ran(result, tuple(lines))
