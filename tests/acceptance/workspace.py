"""A source on disk whose hosts record what was done to them, and the real command line to run it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tests import status_linter

PATIENCE = 120.0
"""Seconds that a test waits for a condition: far more than it takes, for the machine may be busy."""

PLAYBOOK = """\
- hosts: all
  gather_facts: false
  tasks:
    - name: Begin
      ansible.builtin.shell: echo "$(date +%s.%N) begin {{ inventory_hostname }}" >> {{ record }}
    - name: Work
      ansible.builtin.shell: test ! -e {{ record }}.break-{{ inventory_hostname }} && sleep {{ seconds }}
    - name: End
      ansible.builtin.shell: echo "$(date +%s.%N) end {{ inventory_hostname }}" >> {{ record }}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class Workspace:
    """`root` is the source, `state` the state directory, `record` what the hosts wrote."""

    def __init__(self, folder: Path, hosts: int) -> None:
        self.root = folder / "source"
        self.state = folder / "state"
        self.record = folder / "record"
        self.names = [f"h{number}" for number in range(1, hosts + 1)]
        for below in ("jobs", "playbooks", "inventory"):
            (self.root / below).mkdir(parents=True)
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "record": str(self.record),
            "seconds": 0.2,
            "reconciler_tags": ["web"],
        }
        self.write(
            "inventory/hosts.yml", yaml.safe_dump({"all": {"hosts": dict.fromkeys(self.names), "vars": variables}})
        )
        self.write("playbooks/work.yml", PLAYBOOK)

    def write(self, path: str, text: str) -> None:
        (self.root / path).write_text(text, encoding="utf-8")

    def job(self, name: str = "work", **spec: Any) -> None:
        """Write a manifest; fields of the spec by their public names."""
        plain = {
            "playbook": "playbooks/work.yml",
            "inventory": "inventory/hosts.yml",
            "selector": {"tags": ["web"]},
            "minHosts": 1,
            **spec,
        }
        document = {"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": {"name": name}, "spec": plain}
        self.write(f"jobs/{name}.yaml", yaml.safe_dump(document))

    def break_host(self, name: str) -> None:
        Path(f"{self.record}.break-{name}").touch()

    def mend_host(self, name: str) -> None:
        Path(f"{self.record}.break-{name}").unlink()

    # -- commands ----------------------------------------------------------------------------------------------------
    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("reconciler")), *arguments, "--state-dir", str(self.state)]

    def call(self, *arguments: str, cwd: Path | None = None) -> Done:
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=cwd,
            env={**os.environ, "COLUMNS": "200"},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def once(self) -> Done:
        return self.call("run", "--once", str(self.root))

    def daemon(self) -> subprocess.Popen[bytes]:
        with (self.root.parent / "daemon.log").open("ab") as log:
            return subprocess.Popen(self.command("run", str(self.root), "--no-http"), stdout=log, stderr=log)

    # -- what is seen ------------------------------------------------------------------------------------------------
    def status(self, name: str = "work") -> dict[str, Any]:
        """The status of the status file, once the linter has read it; empty before it is there."""
        path = self.state / "status" / "default" / f"{name}.yaml"
        if not path.exists():
            return {}
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        status_linter.check(document, datetime.now(UTC))
        found: dict[str, Any] = document["status"]
        return found

    def source(self) -> dict[str, Any]:
        text = (self.state / "status" / "default" / "_source.yaml").read_text(encoding="utf-8")
        found: dict[str, Any] = yaml.safe_load(text)["status"]
        return found

    def children(self, name: str = "work") -> dict[str, str]:
        return {child["host"]: child["status"] for child in self.status(name)["children"]}

    def condition(self, kind: str, name: str = "work") -> dict[str, Any] | None:
        return next((c for c in self.status(name).get("conditions", ()) if c["type"] == kind), None)

    def recorded(self, what: str = "begin") -> list[str]:
        """Hosts in the order in which they recorded that they began (or ended)."""
        return [host for _, did, host in self._records() if did == what]

    def most_at_once(self) -> int:
        running = most = 0
        for _, did, _ in self._records():
            running += 1 if did == "begin" else -1
            most = max(most, running)
        return most

    def _records(self) -> Sequence[tuple[float, str, str]]:
        if not self.record.exists():
            return []
        rows = (line.split() for line in self.record.read_text().splitlines())
        return sorted((float(at), did, host) for at, did, host in rows)

    def marked(self) -> list[int]:
        """Processes of slices of this workspace's runs."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    environment = (folder / "environ").read_bytes()
                    command = (folder / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"RECONCILER_SLICE=" in environment and (str(self.root.parent).encode() in environment + command):
                    found.append(int(folder.name))
        return found


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.05)
