"""The main job, told from outside: manifests in, real playbooks run, and what people then read."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.workspace import Workspace, wait_for

pytestmark = pytest.mark.ansible


@contextmanager
def daemon(work: Workspace) -> Iterator[subprocess.Popen[bytes]]:
    process = work.daemon()
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_ten_hosts_go_in_waves_of_three_and_never_more_at_once(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=10)
    work.job(limit=3)

    assert work.once().code == 0

    assert [wave["hosts"] for wave in work.status()["waves"]] == [3, 3, 3, 1]
    assert work.most_at_once() <= 3
    assert sorted(work.recorded(), key=work.names.index) == work.names
    assert work.status()["phase"] == "Succeeded"
    assert work.status()["progress"] == "10/10 completed, 0 failed"


def test_sequential_keeps_the_order_of_selection(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=3)
    work.job(strategy="sequential", selector={"hosts": ["h3", "h1", "h2"]})

    assert work.once().code == 0

    assert work.recorded() == ["h3", "h1", "h2"]
    assert work.most_at_once() == 1


def test_the_first_failing_wave_is_the_last_and_the_rest_is_skipped(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=6)
    work.job(limit=2, stopOnFailure=True)
    work.break_host("h3")

    assert work.once().code == 1

    assert work.children() == {
        "h1": "success",
        "h2": "success",
        "h3": "failed",
        "h4": "success",
        "h5": "skipped",
        "h6": "skipped",
    }
    assert work.status()["failures"][0]["task"] == "Work"
    assert work.condition("Stalled") is not None
    assert work.condition("Reconciling") is None
    assert work.status()["coverage"] == {"selected": 6, "upToDate": 3, "behind": 0, "never": 3}


def test_nothing_changed_runs_nothing_and_only_work_fields_run_again(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.job(limit=2)
    work.once()
    assert len(work.recorded()) == 2

    work.once()
    os.utime(work.root / "jobs" / "work.yaml")
    work.once()
    work.job(limit=1, suspend=True)
    work.once()
    work.job(limit=1)
    work.once()
    assert len(work.recorded()) == 2, "steering, touching and time open nothing"

    work.job(limit=1, extraVars={"greeting": "hello"})
    work.once()
    assert len(work.recorded()) == 4
    assert work.status()["observedGeneration"] == 4


def test_a_playbook_mended_after_a_failure_runs_again_and_one_changed_after_a_success_only_says_so(
    tmp_path: Path,
) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.job()
    work.write("playbooks/work.yml", "- hosts: all\n  gather_facts: false\n  tasks: [{fail: {msg: wrong version}}]\n")
    assert work.once().code == 1
    failures = work.status()["failures"]
    assert [(group["message"], group["hosts"]) for group in failures] == [("wrong version", 2)], (
        "one line for one cause"
    )

    work.write("playbooks/work.yml", "- hosts: all\n  gather_facts: false\n  tasks: [{debug: {msg: right}}]\n")
    assert work.once().code == 0
    assert work.status()["run"]["cause"] == "PlaybookChanged"
    done = work.status()["run"]["id"]

    work.write("playbooks/work.yml", "- hosts: all\n  gather_facts: false\n  tasks: [{debug: {msg: newer}}]\n")
    assert work.once().code == 0
    up_to_date = work.condition("UpToDate")
    assert up_to_date is not None
    assert (up_to_date["status"], up_to_date["reason"]) == ("False", "PlaybookChanged")
    assert work.status()["run"]["id"] == done


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("common/x.yml", "- debug: {msg: right}\n"),
        ("extra.yml", "wrong: false\n"),
    ],
)
def test_a_file_that_the_playbook_names_mended_after_a_failure_runs_it_again(
    tmp_path: Path, broken: str, mended: str
) -> None:
    work = Workspace(tmp_path, hosts=1)
    (work.root / "common").mkdir()
    work.write("common/x.yml", "- fail: {msg: wrong}\n  when: wrong | default(false)\n")
    work.write("extra.yml", "{}\n")
    work.write(broken, "wrong: true\n" if mended.startswith("wrong") else "- fail: {msg: wrong}\n")
    work.write(
        "playbooks/work.yml",
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - import_tasks: ../common/x.yml\n",
    )
    work.job(extraVarsFiles=["extra.yml"])
    assert work.once().code == 1

    work.write(broken, mended)
    assert work.once().code == 0
    assert work.status()["run"]["cause"] == "PlaybookChanged"


def test_a_file_that_turned_invalid_is_no_removal_and_a_deleted_one_is(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    work.job("work")
    work.job("other")
    assert work.once().code == 0

    work.write("jobs/work.yaml", "kind: [")
    result = work.once()
    assert result.code == 2
    assert "jobs/work.yaml:1:8: a value is missing or a bracket too much" in result.err
    accepted = work.condition("Accepted")
    assert accepted is not None
    assert accepted["status"] == "False"
    assert work.status()["phase"] == "Succeeded"

    (work.root / "jobs" / "work.yaml").unlink()
    assert work.once().code == 0
    assert work.status()["phase"] == "Removed"
    assert work.status("other")["phase"] == "Succeeded"


def test_a_source_that_is_suddenly_empty_is_held(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    work.job()
    work.once()
    (work.root / "jobs" / "work.yaml").unlink()

    assert work.once().code == 1

    assert work.status()["phase"] == "Succeeded"
    assert work.source()["conditions"][0]["reason"] == "SourceEmpty"


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"playbook": "playbooks/none.yml"}, "PathMissing"),
        ({"selector": {"tags": ["nobody"]}}, "NoHostMatched"),
        ({"selector": {"hosts": ["h1", "h9"]}}, "UnknownHost"),
        ({"minHosts": 2}, "TooFewHosts"),
        ({"inventory": "inventory/none.yml"}, "PathMissing"),
        ({"extraVarsFiles": ["vars/none.yml"]}, "PathMissing"),
    ],
)
def test_what_the_operator_must_change_stalls_the_job_and_harms_no_other(
    tmp_path: Path, spec: dict[str, object], reason: str
) -> None:
    work = Workspace(tmp_path, hosts=1)
    work.job("work", **spec)
    work.job("other")

    assert work.once().code == 1

    stalled = work.condition("Stalled")
    assert stalled is not None
    assert stalled["reason"] == reason
    assert work.status()["phase"] == "Stalled"
    assert work.status("other")["phase"] == "Succeeded"


def test_a_saved_manifest_is_picked_up_and_a_trigger_runs_it_again(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    with daemon(work):
        wait_for((work.state / "status" / "default" / "_source.yaml").exists, "the first sync")
        work.job()
        wait_for(lambda: work.status().get("phase") == "Succeeded", "the run")

        assert work.call("trigger", "work", "--reason", "again, please").code == 0
        wait_for(lambda: len(work.recorded("end")) == 4, "the second run")
        assert work.call("wait", "work").code == 0

    assert [run["cause"] for run in work.status()["history"]] == ["Requested", "SpecChanged"]
    log = work.call("logs", "work", "h1").out
    assert "TASK [Begin]" in log
    assert "h2" not in log
    assert "\x1b" not in log


def test_cancel_ends_every_process_of_the_run(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=3)
    work.job(limit=2, extraVars={"seconds": 500})
    with daemon(work):
        wait_for(lambda: len(work.recorded()) == 2, "the first wave")
        assert work.call("cancel", "work", "--reason", "wrong day", "--wait").code == 0
        wait_for(lambda: work.status().get("phase") == "Cancelled", "the end of the run")
        assert work.children() == {"h1": "cancelled", "h2": "cancelled", "h3": "skipped"}
        wait_for(lambda: not work.marked(), "the end of its processes")


def test_cancel_works_after_the_daemon_was_killed(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.job(limit=1, extraVars={"seconds": 500})
    process = work.daemon()
    wait_for(lambda: len(work.recorded()) == 1, "the first wave")
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert work.call("cancel", "work").code == 0
    wait_for(lambda: not work.marked(), "the end of its processes")

    assert work.once().code == 1
    assert work.children() == {"h1": "cancelled", "h2": "skipped"}


def test_a_daemon_killed_in_the_middle_of_a_wave_runs_no_host_twice(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=4)
    work.job(limit=2, extraVars={"seconds": 3})
    process = work.daemon()
    wait_for(lambda: len(work.recorded()) == 2, "the first wave")
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert work.once().code == 0

    assert sorted(work.recorded()) == work.names
    assert set(work.children().values()) == {"success"}


def test_a_slice_killed_after_its_start_is_unknown_and_not_run_again(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.job(limit=1, extraVars={"seconds": 4})
    with daemon(work):
        wait_for(lambda: len(work.recorded()) == 1, "the first host")
        worker = next(pid for pid in work.marked() if b"reconciler.worker" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: work.status().get("phase") == "Failed", "the end of the run")

    assert work.children() == {"h1": "unknown", "h2": "success"}
    assert sorted(work.recorded()) == ["h1", "h2"]


@pytest.mark.parametrize("name", ["queue.py", "yaml.py"])
def test_modules_at_the_root_of_a_source_are_none_of_ours(tmp_path: Path, name: str) -> None:
    work = Workspace(tmp_path, hosts=1)
    work.job()
    work.write(name, "raise SystemExit('this is the module of the source')\n")
    done = work.call("run", "--once", ".", cwd=work.root)
    assert (done.code, work.status()["phase"]) == (0, "Succeeded")


def test_a_second_daemon_on_the_same_state_is_refused(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    with daemon(work) as process:
        wait_for((work.state / "status" / "default" / "_source.yaml").exists, "the first sync")
        result = work.once()
    assert result.code == 2
    assert str(process.pid) in result.err


def test_commands_on_a_missing_state_say_where_they_looked(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    result = work.call("status")
    assert result.code == 4
    assert str(work.state) in result.err
    assert not work.state.exists()
