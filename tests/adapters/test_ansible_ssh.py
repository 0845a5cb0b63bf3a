"""Credentials over real ssh: what each setting is good for, and the reason when one does not fit."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from reconciler.adapters.ansible import AnsibleOptions
from reconciler.adapters.processes import marked
from reconciler.core.facts import ChildStatus
from reconciler.core.reasons import Reason
from reconciler.ports import StopKind
from tests.adapters.playbooks import PLAY, Project
from tests.conftest import MakeFleet
from tests.sshd import SshFleet

pytestmark = [pytest.mark.ansible, pytest.mark.ssh]

ALONE = "-F none -o IdentitiesOnly=yes"
"""Without what the person who runs the tests has set for ssh."""


def options(fleet: SshFleet, **others: Any) -> AnsibleOptions:
    settings = {
        "private_key_file": fleet.private_key,
        "known_hosts_file": fleet.known_hosts,
        "remote_user": fleet.user,
        "ssh_common_args": ALONE,
        "pass_env": (),
        **others,
    }
    return AnsibleOptions(**settings)


def project(folder: Path, fleet: SshFleet, **others: Any) -> Project:
    hosts = tuple(host.name for host in fleet.hosts)
    return Project(folder, inventory=json.dumps(fleet.inventory()), hosts=hosts, options=options(fleet, **others))


def test_the_settings_open_every_host_and_one_that_is_down_is_unreachable(tmp_path: Path, ssh_fleet: MakeFleet) -> None:
    fleet = ssh_fleet(["web-1", "web-2", "web-3"], down=["web-2"])
    here = project(tmp_path, fleet, pipelining=True)
    ran = here.run(f"{PLAY}  tasks: [{{ping: }}]\n")
    assert [(outcome.status, outcome.reason) for outcome in ran.result.outcomes] == [
        (ChildStatus.SUCCESS, None),
        (ChildStatus.UNREACHABLE, Reason.CONNECTION_FAILED),
        (ChildStatus.SUCCESS, None),
    ]
    assert marked(here.mark) == ()


def connections(fleet: SshFleet) -> set[int]:
    """The processes of ssh that are connected to it, masters of shared connections among them."""
    return {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.pid and connection.raddr and connection.raddr.port == fleet.port
        and connection.status == psutil.CONN_ESTABLISHED
    }  # fmt: skip


@pytest.mark.parametrize("told", [None, StopKind.CANCEL])
def test_no_connection_outlives_the_playbook(
    told: StopKind | None, tmp_path: Path, ssh_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = ssh_fleet(["web-1", "web-2"])
    here, touched, seen = project(tmp_path, fleet), tmp_path / "touched", set[Path]()
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr(tempfile, "tempdir", short)

        def look() -> StopKind | None:
            if not touched.exists():
                return None
            assert connections(fleet)
            seen.update(Path(short).rglob("*"))
            touched.with_name("seen").touch()
            return told

        wait = f"touch {touched}; until test -e {tmp_path}/seen; do sleep 0.1; done; {'sleep 300' if told else 'true'}"
        ran = here.run(f"{PLAY}  tasks: [{{shell: '{wait}'}}]\n", look)
        assert [outcome.status for outcome in ran.result.outcomes] == [
            ChildStatus.CANCELLED if told else ChildStatus.SUCCESS
        ] * 2
        assert len([path for path in seen if path.parent.name.startswith("reconciler-")]) >= 2
        assert list(Path(short).iterdir()) == []
    limit = time.monotonic() + 20
    while connections(fleet) and time.monotonic() < limit:
        time.sleep(0.05)
    assert connections(fleet) == set(), "ssh would have kept them for a minute"


def test_shared_connections_that_the_user_has_placed_stay_there(tmp_path: Path, ssh_fleet: MakeFleet) -> None:
    fleet = ssh_fleet(["web-1"])
    here = project(tmp_path, fleet)
    with tempfile.TemporaryDirectory() as theirs:
        here.write("ansible.cfg", f"[ssh_connection]\ncontrol_path_dir = {theirs}\n")
        ran = here.run(f"{PLAY}  tasks: [{{ping: }}]\n")
        assert ran.outcome("web-1").status is ChildStatus.SUCCESS
        (socket,) = Path(theirs).iterdir()
        closing = ["ssh", "-F", "none", "-o", f"ControlPath={socket}", "-O", "exit", "any"]
        subprocess.run(closing, check=True, capture_output=True)


def test_a_group_that_sets_its_own_ssh_arguments_still_gets_the_known_hosts(
    tmp_path: Path, ssh_fleet: MakeFleet
) -> None:
    fleet = ssh_fleet(["web-1"])
    inventory = fleet.inventory()
    inventory["all"]["vars"] = {"ansible_ssh_common_args": f"{ALONE} -o ServerAliveInterval=10"}
    here = project(tmp_path, fleet)
    here.inventory = json.dumps(inventory)
    assert here.run(f"{PLAY}  tasks: [{{ping: }}]\n").outcome("web-1").status is ChildStatus.SUCCESS


def test_a_host_key_that_nobody_knows_has_its_own_reason(tmp_path: Path, ssh_fleet: MakeFleet) -> None:
    fleet = ssh_fleet(["web-1"])
    ran = project(tmp_path, fleet, known_hosts_file=fleet.empty_known_hosts).run(f"{PLAY}  tasks: [{{ping: }}]\n")
    outcome = ran.outcome("web-1")
    assert (outcome.status, outcome.reason) == (ChildStatus.UNREACHABLE, Reason.HOST_KEY_UNKNOWN)


def test_the_users_own_ansible_cfg_may_switch_host_keys_off(tmp_path: Path, ssh_fleet: MakeFleet) -> None:
    fleet = ssh_fleet(["web-1"])
    here = project(tmp_path, fleet, known_hosts_file=fleet.empty_known_hosts)
    here.write("ansible.cfg", "[defaults]\nhost_key_checking = false\n")
    assert here.run(f"{PLAY}  tasks: [{{ping: }}]\n").outcome("web-1").status is ChildStatus.SUCCESS


def test_a_login_that_is_refused_has_its_own_reason(tmp_path: Path, ssh_fleet: MakeFleet) -> None:
    fleet = ssh_fleet(["web-1"])
    ran = project(tmp_path, fleet, private_key_file=fleet.stranger_key).run(f"{PLAY}  tasks: [{{ping: }}]\n")
    outcome = ran.outcome("web-1")
    assert (outcome.status, outcome.reason) == (ChildStatus.UNREACHABLE, Reason.AUTH_FAILED)
    assert "Permission denied" in outcome.message


def asks_for_a_password(folder: Path, password: str) -> Path:
    """Stands in for sudo: asks as sudo does, and refuses any other password."""
    program = folder / "sudo"
    program.write_text(
        "#!/bin/sh\n"
        'while [ "$#" -gt 0 ]; do case "$1" in -p) prompt=$2; shift 2;; -u) shift 2;; -*) shift;; *) break;; esac; done\n'
        'printf "%s" "$prompt" >&2; read -r answer\n'
        f'if [ "$answer" = "{password}" ]; then exec "$@"; fi\n'
        'echo "Sorry, try again." >&2; exit 1\n'
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("given", "status", "reason"),
    [("opens", ChildStatus.SUCCESS, None), ("does not", ChildStatus.FAILED, Reason.BECOME_FAILED)],
)
def test_the_become_password_opens_sudo_and_a_wrong_one_has_its_own_reason(
    given: str, status: ChildStatus, reason: Reason | None, tmp_path: Path, ssh_fleet: MakeFleet
) -> None:
    fleet = ssh_fleet(["web-1"])
    inventory = fleet.inventory()
    inventory["all"]["vars"] = {"ansible_become_exe": str(asks_for_a_password(tmp_path, "opens"))}
    password = tmp_path / "become-password"
    password.write_text(f"{given}\n")
    here = project(tmp_path, fleet, become_password_file=password)
    here.inventory = json.dumps(inventory)
    # whoever runs the tests logs in as the user that the task becomes, which Ansible would take for nothing to do
    here.write(
        "ansible.cfg",
        f"[privilege_escalation]\nbecome_allow_same_user = true\nbecome_user = {fleet.user}\n",
    )
    outcome = here.run(f"{PLAY}  become: true\n  tasks: [{{ping: }}]\n").outcome("web-1")
    assert (outcome.status, outcome.reason) == (status, reason), outcome.message
