"""Slices whose process is killed with -9: what it leaves behind is ended before its hosts are anybody else's, what was
proven stands, and everything else is unknown."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from copy import copy
from pathlib import Path

import psutil
import pytest

from reconciler.engine.slice import Rhythm
from tests.acceptance.leavings import Spawning, connected, daemon, held_up, kill, noted, over_ssh, runs, worker_of
from tests.acceptance.workspace import Workspace, wait_for
from tests.conftest import MakeFleet
from tests.databases import POSTGRESQL, Wire, new_database, why_no

pytestmark = pytest.mark.ansible

LEASE, RENEWED = Rhythm().lease.total_seconds(), Rhythm().renew.total_seconds() + 5


@pytest.mark.parametrize("daemon_too", [False, True], ids=["by its daemon", "by the next daemon"])
def test_what_a_killed_slice_left_is_ended_before_its_host_is_free(tmp_path: Path, daemon_too: bool) -> None:
    work = Workspace(tmp_path, hosts=1)
    spawning = Spawning(work)
    spawning.spawn()
    with daemon(work) as first:
        wait_for(spawning.spawned.exists, "every process of the task")
        spawning.look()
        wait_for(lambda: (work.status("look").get("run") or {}).get("waitsFor"), "the second batch to wait")
        if daemon_too:
            kill(first.pid)
            first.wait()
        kill(worker_of(work))
        if daemon_too:
            assert sorted(spawning.left()) == sorted(spawning.pids), "nobody else ends them"
            with daemon(work):
                wait_for(lambda: work.status("look").get("phase") == "Succeeded", "the second batch")
        else:
            wait_for(lambda: work.status("look").get("phase") == "Succeeded", "the second batch")

    assert len(spawning.pids) == 6
    assert spawning.found() == []
    (child,) = work.status("spawn")["children"]
    assert (child["status"], child["reason"]) == ("unknown", "SliceLost")
    assert work.marked() == []


def test_a_standby_of_the_same_machine_ends_what_was_left_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place says where to ask: nobody has to wait for a lease to run out, nor for timeouts.wave."""
    if reason := why_no(POSTGRESQL):
        pytest.skip(reason)
    work = Workspace(tmp_path, hosts=1)
    other = copy(work)
    other.state = tmp_path / "other-state"
    spawning = Spawning(work)
    spawning.spawn()
    with new_database(POSTGRESQL, tmp_path) as url:
        monkeypatch.setenv("RECONCILER_DATABASE_URL", url)
        with daemon(work) as leader:
            wait_for(spawning.spawned.exists, "every process of the task")
            with daemon(other):
                kill(leader.pid)
                leader.wait()
                kill(worker_of(work))
                killed = time.monotonic()
                wait_for(lambda: other.status("spawn").get("phase") == "Failed", "the end of the run")
                assert time.monotonic() - killed < 2 * LEASE, "where nobody can be asked it takes longer"
                assert spawning.left() == []
    assert other.children("spawn") == {"h1": "unknown"}


@pytest.mark.slow
def test_a_slice_that_hears_nothing_for_longer_than_its_lease_ends_what_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections stay open, and nothing comes through them: what waits for an answer waits on."""
    if reason := why_no(POSTGRESQL):
        pytest.skip(reason)
    work, there = Workspace(tmp_path, hosts=2), tmp_path / "there"
    fail = "- {name: Break, raw: 'false', when: inventory_hostname == 'h2'}"
    stay = f"- {{name: Stay, ansible.builtin.shell: {held_up(there)!r}}}"
    work.write("playbooks/work.yml", f"- hosts: all\n  gather_facts: false\n  tasks:\n    {fail}\n    {stay}\n")
    work.job()
    with new_database(POSTGRESQL, tmp_path) as url, Wire.to(url) as wire:
        monkeypatch.setenv("RECONCILER_DATABASE_URL", wire.through(url))
        with daemon(work) as process:
            pid = noted(there)
            kill(process.pid)
            process.wait()
            worker = worker_of(work)
            wire.stall()
            stalled = time.monotonic()
            wait_for(lambda: not runs(pid), "the end of the playbook")
            assert time.monotonic() - stalled > LEASE - RENEWED
            wait_for(lambda: not runs(worker), "the end of the process of the slice")
            wire.mend()
            with daemon(work):
                wait_for(lambda: work.status().get("phase") == "Failed", "the end of the run")
    assert work.children() == {"h1": "unknown", "h2": "failed"}


def test_over_ssh_neither_end_of_the_connection_is_left(
    tmp_path: Path, ssh_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = ssh_fleet(["web-1"])
    work, there = Workspace(tmp_path, hosts=0), tmp_path / "there"
    settings = over_ssh(work, fleet)
    task = f"{{name: Work, ansible.builtin.shell: {held_up(there)!r}}}"
    work.write("playbooks/work.yml", f"- hosts: all\n  gather_facts: false\n  tasks: [{task}]\n")
    work.job()
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("TMPDIR", short)
        with daemon(work, "--config", settings):
            remote = noted(there)
            assert connected(fleet)
            kill(worker_of(work))
            wait_for(lambda: work.status().get("phase") == "Failed", "the end of the run")
            wait_for(lambda: not runs(remote), "the end of the command on the host")
            assert work.marked() == []
            wait_for(lambda: not connected(fleet), "the end of the shared connection")
            assert list(Path(short).glob("reconciler-*")) == []
    assert work.children() == {"web-1": "unknown"}


def test_a_result_that_was_written_down_and_not_recorded_stands(tmp_path: Path) -> None:
    """The database is busy when the playbook ends, and then its process is killed."""
    work = Workspace(tmp_path, hosts=2)
    work.break_host("h2")
    work.job()
    with daemon(work):
        wait_for(lambda: work.status().get("phase") == "Running", "the run")
        busy = sqlite3.connect(work.state / "reconciler.db", isolation_level=None, timeout=60)
        busy.execute("BEGIN IMMEDIATE")
        try:
            (spool,) = wait_for_spool(work)
            worker = worker_of(work)
            wait_for(lambda: '"outcomes"' in spool.read_text(), "the result in the spool")
            kill(worker)
        finally:
            busy.close()
        wait_for(lambda: work.status().get("phase") == "Failed", "the end of the run")

    assert work.children() == {"h1": "success", "h2": "failed"}
    assert "TASK [Work]" in work.call("logs", "work", "h2").out


def wait_for_spool(work: Workspace) -> list[Path]:
    wait_for(lambda: list(work.state.glob("slices/*/spool.jsonl")), "the spool")
    return list(work.state.glob("slices/*/spool.jsonl"))


def test_a_daemon_keeps_no_dead_children(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=4)
    work.job(limit=1, extraVars={"seconds": 0})
    with daemon(work) as process:
        wait_for(lambda: work.status().get("phase") == "Succeeded", "the run")
        (here,) = [each for each in psutil.process_iter() if each.pid == process.pid]
        wait_for(lambda: here.children(recursive=True) == [], "the last process of a slice to be reaped")
    assert list(work.state.glob("slices/*")) == []
