"""What the stories about orphans and cancels are told with: a task that starts processes in every way there is, and who
looks whether any of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import yaml

from tests.acceptance.workspace import PATIENCE, Workspace, wait_for
from tests.sshd import SshFleet

SPAWN = """\
#!/bin/bash
# Every process that it starts is noted in a file beside it.
cd "$(dirname "$0")"
note() { echo "${1:-$BASHPID}" >> pids; }
note
setsid sleep 300 & note $!
nohup sleep 300 > /dev/null 2>&1 & note $!
(sleep 300 & note $!)
(trap '' TERM HUP INT; sleep 300 & note $!)
%(python)s -c '
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("pids", "a").write(f"{os.getpid()}\\n")
        time.sleep(300)
    os._exit(0)
'
until [ "$(wc -l < pids)" -ge 6 ]; do sleep 0.05; done
touch spawned
sleep 300
"""

LOOK = """\
#!/bin/bash
# Notes which of those processes still run.
cd "$(dirname "$0")"
for pid in $(cat pids); do
    state=$(cut -d' ' -f3 "/proc/$pid/stat" 2> /dev/null)
    [ -z "$state" ] || [ "$state" = Z ] || echo "$pid" >> found
done
touch looked
"""


class Spawning:
    """A job whose one task starts processes in every way and stays, and another that looks, on the same host, whether
    they still run."""

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self.folder = work.root.parent / "spawned"
        self.folder.mkdir()
        for name, text in (("spawn", SPAWN % {"python": sys.executable}), ("look", LOOK)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
            task = f"{{name: Work, ansible.builtin.command: {self.folder / name}}}"
            work.write(f"playbooks/{name}.yml", f"- hosts: all\n  gather_facts: false\n  tasks: [{task}]\n")

    def spawn(self) -> None:
        self._work.job("spawn", playbook="playbooks/spawn.yml")

    def look(self) -> None:
        """It has to wait for the host."""
        self._work.job("look", playbook="playbooks/look.yml")

    @property
    def spawned(self) -> Path:
        """There once all of them run."""
        return self.folder / "spawned"

    @property
    def pids(self) -> list[int]:
        return [int(line) for line in (self.folder / "pids").read_text().split()]

    def left(self) -> list[int]:
        return [pid for pid in self.pids if runs(pid)]

    def found(self) -> list[str]:
        """Those that still ran when the host was free."""
        assert (self.folder / "looked").exists()
        file = self.folder / "found"
        return file.read_text().split() if file.exists() else []


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def worker_of(work: Workspace) -> int:
    """The process of the one slice that runs."""
    (worker,) = [pid for pid in work.marked() if b"reconciler.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return worker


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@contextmanager
def daemon(work: Workspace, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """It is ended at the end, with everything that runs by then."""
    with (work.root.parent / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            work.command("run", str(work.root), "--no-http", *options), stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)
        while left := work.marked():
            for pid in left:
                with suppress(ProcessLookupError):
                    kill(pid)


def over_ssh(work: Workspace, fleet: SshFleet, *lines: str) -> str:
    """Let its hosts be those of the fleet. Returns the settings file that opens them, with these lines of [ansible]."""
    inventory = fleet.inventory()
    inventory["all"]["vars"] = {"reconciler_tags": ["web"]}
    work.write("inventory/hosts.yml", yaml.safe_dump(inventory))
    settings = work.root.parent / "reconciler.toml"
    said = (
        "[ansible]",
        f'private_key_file = "{fleet.private_key}"',
        f'known_hosts_file = "{fleet.known_hosts}"',
        f'remote_user = "{fleet.user}"',
        'ssh_common_args = "-F none -o IdentitiesOnly=yes"',
        "pass_env = []",
        *lines,
    )
    settings.write_text("\n".join(said))
    return str(settings)


def connected(fleet: SshFleet) -> list[int]:
    """Processes of ssh that are connected to it, masters of shared connections among them."""
    return [
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.pid
        and connection.raddr
        and connection.raddr.port == fleet.port
        and connection.status == psutil.CONN_ESTABLISHED
    ]


def held_up(path: Path) -> str:
    """A command that notes its process in a file, and then stays for long."""
    return f"echo $$ > {path}.new && mv {path}.new {path} && exec sleep 300"


def noted(path: Path) -> int:
    wait_for(path.exists, f"{path.name}")
    return int(path.read_text())
