"""A whole batch over real ssh: twenty hosts, one of them down, and everything that opens them named in the settings."""

from __future__ import annotations

import hashlib
import shlex
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.workspace import Workspace
from tests.conftest import MakeFleet
from tests.sshd import SshFleet

pytestmark = [pytest.mark.ansible, pytest.mark.ssh, pytest.mark.slow]

TOKEN = "swordfish-and-chips"
BECOME_PASSWORD = "please let me"

PLAYBOOK = """\
- hosts: all
  gather_facts: false
  tasks:
    - block:
        - name: Begin
          ansible.builtin.raw: echo "$(date +%s.%N) begin {{ inventory_hostname }}" >> {{ record }}
        - name: Patch
          become: true
          ansible.builtin.shell:
            cmd: >-
              (sha256sum | cut -d' ' -f1; echo "$BECAME") > {{ proof }}/{{ inventory_hostname }} &&
              {{ 'echo no space left >&2; exit 3' if inventory_hostname == 'web-4' else 'true' }}
            stdin: "{{ token }}"
            stdin_add_newline: false
      always:
        - name: End
          ansible.builtin.raw: echo "$(date +%s.%N) end {{ inventory_hostname }}" >> {{ record }}
"""


def sudo_that_asks(folder: Path) -> Path:
    """Stands in for sudo: asks as sudo does, refuses any other password, and lets the command know who called it."""
    program = folder / "sudo"
    program.write_text(
        "#!/bin/sh\n"
        'while [ "$#" -gt 0 ]; do case "$1" in -p) prompt=$2; shift 2;; -u) shift 2;; -*) shift;; *) break;; esac; done\n'
        'printf "%s" "$prompt" >&2; read -r answer\n'
        f'if [ "$answer" = {shlex.quote(BECOME_PASSWORD)} ]; then export BECAME="by password"; exec "$@"; fi\n'
        'echo "Sorry, try again." >&2; exit 1\n'
    )
    program.chmod(0o755)
    return program


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def settings_for(folder: Path, fleet: SshFleet, vault_password: Path) -> Path:
    become = private(folder / "become-password", f"{BECOME_PASSWORD}\n")
    return private(
        folder / "reconciler.toml",
        "[ansible]\n"
        f'private_key_file = "{fleet.private_key}"\n'
        f'known_hosts_file = "{fleet.known_hosts}"\n'
        f'remote_user = "{fleet.user}"\n'
        f'vault_password_files = ["{vault_password}"]\n'
        f'become_password_file = "{become}"\n'
        'ssh_common_args = "-F none -o IdentitiesOnly=yes"\n'
        "pass_env = []\n"
        "pipelining = true\n",
    )


def encrypt(file: Path, password: Path) -> None:
    vault = Path(sys.executable).with_name("ansible-vault")
    subprocess.run([vault, "encrypt", "--vault-password-file", password, file], check=True, capture_output=True)


def rows(work: Workspace, query: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(work.state / "reconciler.db")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def test_a_batch_over_twenty_hosts_tells_the_one_that_is_down_from_the_one_that_fails(
    tmp_path: Path, ssh_fleet: MakeFleet
) -> None:
    names = [f"web-{number}" for number in range(1, 21)]
    fleet = ssh_fleet(names, down=["web-10"])
    work, proof = Workspace(tmp_path, hosts=0), tmp_path / "proof"
    proof.mkdir()
    inventory = fleet.inventory()
    inventory["all"]["vars"] = {
        "ansible_become_exe": str(sudo_that_asks(tmp_path)),
        "reconciler_tags": ["web"],
        "record": str(work.record),
        "proof": str(proof),
    }
    work.write("inventory/hosts.yml", yaml.safe_dump(inventory))
    # whoever runs the tests logs in as the user that the task becomes, which Ansible would take for nothing to do
    work.write("ansible.cfg", f"[privilege_escalation]\nbecome_allow_same_user = true\nbecome_user = {fleet.user}\n")
    work.write("playbooks/patch.yml", PLAYBOOK)
    work.write("secrets.yml", f"token: {TOKEN}\n")
    vault_password = private(tmp_path / "vault-password", "opens the vault\n")
    encrypt(work.root / "secrets.yml", vault_password)
    work.job(playbook="playbooks/patch.yml", limit=7, extraVarsFiles=["secrets.yml"])

    done = work.call("run", "--once", str(work.root), "--config", str(settings_for(tmp_path, fleet, vault_password)))

    # as the hosts saw it
    assert done.code == 1, done.out + done.err
    assert Counter(work.recorded()) == Counter(name for name in names if name != "web-10"), done.err
    assert Counter(work.recorded("end")) == Counter(work.recorded())
    assert work.most_at_once() == 7
    used = f"{hashlib.sha256(TOKEN.encode()).hexdigest()}\nby password\n"
    assert {path.name: path.read_text() for path in proof.iterdir()} == {
        name: used for name in names if name != "web-10"
    }

    # as the status file has it
    status = work.status()
    assert (status["phase"], status["progress"]) == ("Failed", "20/20 completed, 2 failed")
    counts = {name: number for name, number in status["hosts"].items() if number}
    assert counts == {"selected": 20, "success": 18, "failed": 1, "unreachable": 1}
    assert [(wave["hosts"], wave["status"]) for wave in status["waves"]] == [
        (7, "failed"),
        (7, "failed"),
        (6, "success"),
    ]
    told = {child["host"]: (child["status"], child["reason"], child["task"]) for child in status["children"][:2]}
    assert told == {
        "web-4": ("failed", "TaskFailed", "Patch"),
        "web-10": ("unreachable", "ConnectionFailed", "Begin"),
    }
    failures = {group["status"]: group for group in status["failures"]}
    assert failures.keys() == {"failed", "unreachable"}
    assert "no space left" in failures["failed"]["message"]
    assert "Connection refused" in failures["unreachable"]["message"]
    assert [(group["hosts"], group["examples"]) for group in failures.values()] == [(1, ["web-4"]), (1, ["web-10"])]
    assert status["coverage"] == {"selected": 20, "upToDate": 18, "behind": 0, "never": 2}

    # as the rows have it
    children = rows(
        work, "select host, wave, status, reason from jobs where parent_job_id is not null order by ordinal"
    )
    assert [host for host, *_ in children] == names
    assert [wave for _, wave, *_ in children] == [1] * 7 + [2] * 7 + [3] * 6
    assert {(host, status, reason) for host, _, status, reason in children if status != "success"} == {
        ("web-4", "failed", "TaskFailed"),
        ("web-10", "unreachable", "ConnectionFailed"),
    }
    assert rows(work, "select status, reason from jobs where parent_job_id is null") == [("failed", "HostsFailed")]
    assert rows(work, "select count(*) from attempts") == [(20,)]
    assert rows(work, "select count(*) from host_locks") == [(0,)]
    assert dict(rows(work, "select name, address from servers")) == {host.name: host.address for host in fleet.hosts}

    # as people read it
    assert "no space left" in work.call("logs", "work", "web-4").out
    assert "Connection refused" in work.call("logs", "work", "web-10").out
