"""The loopback hosts themselves, tried with bare Ansible: what the ssh tests stand on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import MakeFleet
from tests.sshd import SshFleet

pytestmark = [pytest.mark.ssh, pytest.mark.ansible]


def ping(fleet: SshFleet, directory: Path, **login: str) -> subprocess.CompletedProcess[str]:
    inventory = directory / "inventory.json"
    document = fleet.inventory()
    document["all"]["vars"] = fleet.login_variables() | login
    inventory.write_text(json.dumps(document))
    ansible = Path(sys.executable).with_name("ansible")
    command = [str(ansible), "-i", str(inventory), "-f", "20", "-o", "-m", "raw", "-a", "echo level $SHLVL", "all"]
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, stdin=subprocess.DEVNULL)


def test_twenty_hosts_on_one_port_and_the_one_that_is_down(ssh_fleet: MakeFleet, tmp_path: Path) -> None:
    names = [f"host-{number}" for number in range(1, 21)]
    fleet = ssh_fleet(names, down=["host-7"])

    result = ping(fleet, tmp_path)

    reached = [line.split(" | ")[0] for line in result.stdout.splitlines() if "| CHANGED |" in line]
    assert sorted(reached) == sorted(set(names) - {"host-7"}), result.stdout + result.stderr
    assert "host-7 | UNREACHABLE!" in result.stdout


def test_a_stranger_is_refused_and_the_next_login_is_not(ssh_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = ssh_fleet(["host-1"])

    refused = ping(fleet, tmp_path, ansible_ssh_private_key_file=str(fleet.stranger_key))
    assert "Permission denied" in refused.stdout

    assert ping(fleet, tmp_path).returncode == 0


def test_nothing_is_left_after_stop(ssh_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = ssh_fleet([f"host-{number}" for number in range(1, 19)])
    ping(fleet, tmp_path)

    fleet.stop()

    mark = str(fleet.directory / "sshd_config.")
    left = [p for p in psutil.process_iter(["cmdline"]) if any(mark in word for word in p.info["cmdline"] or ())]
    assert left == []
