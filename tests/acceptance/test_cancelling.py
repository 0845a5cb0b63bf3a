"""Cancelling: whatever a task has started, however and where, nothing of it is left within seconds; with or without a
daemon, and as soon as the database is back."""

from __future__ import annotations

import getpass
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore
from reconciler.core.facts import ChildStatus
from reconciler.ports import Request, RequestKind
from tests.acceptance.leavings import Spawning, connected, daemon, held_up, kill, noted, over_ssh, runs, worker_of
from tests.acceptance.workspace import PATIENCE, Workspace, wait_for
from tests.conftest import MakeFleet
from tests.databases import POSTGRESQL, Wire, new_database, why_no

pytestmark = pytest.mark.ansible

PROMISED = timedelta(seconds=15)
"""After so long no process is left."""


def assert_in_time(work: Workspace) -> None:
    """Since it was asked for: the command itself takes its time to start."""
    database = sqlite3.connect(work.state / "reconciler.db")
    try:
        ((asked,),) = database.execute("select at from requests").fetchall()
    finally:
        database.close()
    assert datetime.now(UTC) - datetime.fromisoformat(asked).replace(tzinfo=UTC) < PROMISED


def play(task: str, head: str = "") -> str:
    return f"- hosts: all\n  gather_facts: false\n{head}  tasks:\n    - name: Work\n      {task}\n"


def one_that_stays(work: Workspace, path: Path, head: str = "") -> None:
    work.write("playbooks/work.yml", play(f"ansible.builtin.shell: {held_up(path)}", head))
    work.job()


# -- what a task has started -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("with_daemon", [True, False], ids=["with a daemon", "without one"])
def test_nothing_is_left_of_a_task_that_starts_processes_in_every_way(tmp_path: Path, with_daemon: bool) -> None:
    work = Workspace(tmp_path, hosts=1)
    spawning = Spawning(work)
    spawning.spawn()
    with daemon(work) as process:
        wait_for(spawning.spawned.exists, "every process of the task")
        if not with_daemon:
            kill(process.pid)
            process.wait()
        cancel = subprocess.Popen(work.command("cancel", "spawn", "--reason", "wrong day"))
        wait_for(lambda: not spawning.left() and not work.marked(), "the end of every process")
        assert_in_time(work)
        assert cancel.wait(PATIENCE) == 0
        wait_for(lambda: work.status("spawn").get("phase") == "Cancelled", "the end of the run")

    assert len(spawning.pids) == 6
    (child,) = work.status("spawn")["children"]
    assert (child["status"], child["reason"], child["task"]) == ("cancelled", "Cancelled", "Work")
    assert "wrong day" in child["message"]


def stand_in_for_sudo(work: Workspace, command: str) -> str:
    """The head of a play that becomes whoever it is already, by a program that runs this command."""
    sudo = work.root.parent / "sudo"
    options = 'while [ "$#" -gt 0 ]; do case "$1" in -p|-u) shift 2;; -*) shift;; *) break;; esac; done'
    sudo.write_text(f"#!/bin/sh\n{options}\n{command}\n")
    sudo.chmod(0o755)
    # Ansible takes it for nothing to do, else.
    config = f"[privilege_escalation]\nbecome_allow_same_user = true\nbecome_user = {getpass.getuser()}\n"
    work.write("ansible.cfg", config)
    return f"  become: true\n  vars: {{ansible_become_exe: {sudo}}}\n"


def test_nothing_is_left_of_a_task_that_lost_its_environment_and_its_session(tmp_path: Path) -> None:
    """As by sudo. Nothing but its parents leads to it."""
    work, there = Workspace(tmp_path, hosts=1), tmp_path / "there"
    one_that_stays(work, there, stand_in_for_sudo(work, 'exec setsid --wait env -i PATH="$PATH" "$@"'))
    with daemon(work):
        pid = noted(there)
        assert b"RECONCILER_SLICE" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert work.call("cancel", "work", "--wait").code == 0
        wait_for(lambda: not runs(pid) and not work.marked(), "the end of every process")
        assert_in_time(work)
    assert work.children() == {"h1": "cancelled"}


@pytest.mark.ssh
@pytest.mark.parametrize("become", [False, True], ids=["as who logs in", "become"])
def test_over_ssh_neither_end_is_left(tmp_path: Path, ssh_fleet: MakeFleet, become: bool) -> None:
    fleet = ssh_fleet(["web-1", "web-2"])
    work = Workspace(tmp_path, hosts=0)
    settings = over_ssh(work, fleet)
    head = stand_in_for_sudo(work, '"$@"') if become else ""
    there = {name: tmp_path / f"there.{name}" for name in ("web-1", "web-2")}
    one_that_stays(work, tmp_path / "there.{{ inventory_hostname }}", head)
    with daemon(work, "--config", settings):
        remote = [noted(path) for path in there.values()]
        assert connected(fleet)
        assert work.call("cancel", "work", "--wait").code == 0
        wait_for(lambda: not any(map(runs, remote)), "the end of the commands on the hosts")
        wait_for(lambda: not connected(fleet) and not work.marked(), "the end of everything here")
        assert_in_time(work)
    assert work.children() == {"web-1": "cancelled", "web-2": "cancelled"}


@pytest.mark.ssh
def test_with_pipelining_what_a_host_was_told_goes_on_there_and_nothing_is_left_here(
    tmp_path: Path, ssh_fleet: MakeFleet
) -> None:
    """Not promised, and docs/cancel.md says so: without a terminal nobody tells the command that its connection is gone."""
    fleet = ssh_fleet(["web-1"])
    work, there = Workspace(tmp_path, hosts=0), tmp_path / "there"
    settings = over_ssh(work, fleet, "pipelining = true")
    one_that_stays(work, there)
    with daemon(work, "--config", settings):
        remote = noted(there)
        assert work.call("cancel", "work", "--wait").code == 0
        wait_for(lambda: not work.marked(), "the end of everything here")
        assert_in_time(work)
        assert runs(remote)
        kill(remote)
        wait_for(lambda: not connected(fleet), "the end of the shared connection")
    assert work.children() == {"web-1": "cancelled"}


# -- at any moment ---------------------------------------------------------------------------------------------------
def test_two_who_cancel_at_once_cancel_once(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.job(limit=1, extraVars={"seconds": 300})
    with daemon(work) as process:
        wait_for(lambda: work.recorded() == ["h1"], "the first wave")
        stopped = (process.pid, worker_of(work))
        for pid in stopped:  # so that neither request is seen before both are there
            os.kill(pid, signal.SIGSTOP)
        asking = [subprocess.Popen(work.command("cancel", "work", "--reason", who)) for who in ("kim", "lee")]
        codes = [each.wait(PATIENCE) for each in asking]
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        assert codes == [0, 0]
        wait_for(lambda: work.status().get("phase") == "Cancelled", "the end of the run")
    assert work.children() == {"h1": "cancelled", "h2": "skipped"}
    assert work.marked() == []
    assert len(work.status()["history"]) == 1


def test_a_slice_that_is_just_starting_touches_no_host_or_is_ended(tmp_path: Path) -> None:
    """Whatever it had come to when the cancel came."""
    work = Workspace(tmp_path, hosts=3)
    work.job(limit=2, extraVars={"seconds": 300})
    with daemon(work):
        wait_for(work.marked, "a process on its way")
        assert work.call("cancel", "work").code == 0
        wait_for(lambda: work.status().get("phase") == "Cancelled", "the end of the run")
        wait_for(lambda: not work.marked(), "the end of every process")
    assert set(work.children().values()) <= {"cancelled", "skipped"}
    assert work.recorded("end") == []


# -- while the database is away --------------------------------------------------------------------------------------
@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    if reason := why_no(POSTGRESQL):
        pytest.skip(reason)
    with new_database(POSTGRESQL, tmp_path) as made:
        yield made


@pytest.mark.parametrize("away", [Wire.cut, Wire.stall], ids=["refuses", "is silent"])
def test_a_cancel_takes_effect_as_soon_as_the_database_is_back(
    tmp_path: Path, url: str, away: Callable[[Wire], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, there = Workspace(tmp_path, hosts=1), tmp_path / "there"
    one_that_stays(work, there)
    with Wire.to(url) as wire:
        monkeypatch.setenv("RECONCILER_DATABASE_URL", wire.through(url))
        with daemon(work) as process:
            pid = noted(there)
            kill(process.pid)
            process.wait()
            worker = worker_of(work)
            away(wire)
            store = SqlStore(url, SystemClock())
            ((key, run),) = store.open_runs()
            # The command itself would see to the end of everything, for no daemon runs.
            store.add_request(Request("1", RequestKind.CANCEL, key, run, "kim", "", datetime.now(UTC)))
            assert runs(pid)
            wire.mend()
            mended = time.monotonic()
            wait_for(lambda: not runs(pid), "the end of the playbook")
            wait_for(lambda: not runs(worker), "the end of its process")
            assert time.monotonic() - mended < PROMISED.total_seconds()
    found = store.observe(key).run
    store.close()
    assert found is not None
    assert [child.status for child in found.children] == [ChildStatus.CANCELLED]
