"""What a person at the keyboard does and sees: writing a manifest, looking before and after, ending what runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from tests.acceptance.workspace import PATIENCE, Workspace, wait_for


# -- before anything runs --------------------------------------------------------------------------------------------
def test_new_writes_a_manifest_that_is_valid_and_never_writes_over_one(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    file = here.root / "jobs" / "patch.yaml"
    asked = ("new", "patch", "--playbook", "playbooks/work.yml", "--tag", "web", "--limit", "3", "-f", str(file))

    def new(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([here.command()[0], *arguments], capture_output=True, text=True, timeout=PATIENCE)

    assert new(*asked).returncode == 0
    assert yaml.safe_load(file.read_text())["spec"]["limit"] == 3
    assert here.call("validate", str(here.root / "jobs")).out == "1 manifest is valid\n"

    again = new(*asked)
    assert again.returncode == 2
    assert "already there" in again.stderr

    wrong = new("new", "Patch Web", "--all", "--playbook", "../x.yml")
    assert wrong.returncode == 2
    assert "metadata.name" in wrong.stderr
    assert "spec.playbook" in wrong.stderr


def test_validate_tells_programs_too(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    here.job("one", limit=0)
    here.job("two")
    here.write("jobs/copy.yaml", (here.root / "jobs" / "two.yaml").read_text())

    done = here.call("validate", str(here.root / "jobs"), "-o", "json")

    assert done.code == 2
    problems = json.loads(done.out)["problems"]
    assert [Path(problem["path"]).name for problem in problems] == ["one.yaml", "two.yaml"]
    assert problems[0]["line"] > 1
    assert "copy.yaml" in problems[1]["message"]


def test_plan_tells_programs_what_would_run(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=3)
    here.job(limit=2)

    done = here.call("plan", str(here.root), "--detailed-exitcode", "-o", "json")

    assert done.code == 3
    (planned,) = json.loads(done.out)
    assert planned["runs"] is True
    assert planned["waves"] == [["h1", "h2"], ["h3"]]


def test_the_doctor_finds_what_would_make_runs_fail(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=2)
    here.job()
    well = here.call("doctor", str(here.root))
    assert (well.code, "problem" in well.out) == (0, False)
    assert "2 hosts selected, 1 wave to run" in well.out

    here.write("playbooks/wants.yml", "- hosts: all\n  tasks:\n    - name: Call\n      nobody.knows.this:\n")
    here.job("wants", playbook="playbooks/wants.yml")
    here.job("wrong", limit=0)
    key = tmp_path / "key"
    key.write_text("not a key")
    key.chmod(0o644)
    config = tmp_path / "reconciler.toml"
    config.write_text(f'[ansible]\nprivate_key_file = "{key}"\nbecome_password_file = "{tmp_path}/nowhere"\n')

    ill = here.call("doctor", str(here.root), "--config", str(config))

    assert ill.code == 1
    problems = [line for line in ill.out.splitlines() if line.startswith("problem")]
    assert len(problems) == 4
    for told in ("others may read", "nowhere is not there", "wrong.yaml:", "playbooks/wants.yml: "):
        assert any(told in line for line in problems), told
    assert "nobody.knows.this" in ill.out


# -- a run that a person watches -------------------------------------------------------------------------------------
def test_once_tells_its_progress_and_every_host_has_a_history(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=3)
    here.job(limit=2)
    here.break_host("h3")

    done = here.once()

    assert done.code == 1
    lines = done.out.splitlines()
    assert "work: wave 1 of 2 is running; 0/3 completed, 0 failed" in lines
    assert "work: wave 2 of 2 is running; 2/3 completed, 0 failed" in lines
    assert "level=info" not in done.err
    assert "Work" in here.call("logs", "work", "--failed").out
    (row,) = json.loads(here.call("history", "--host", "h3", "-o", "json").out)
    assert (row["batch"], row["status"]) == ("default/work", "failed")
    (row,) = json.loads(here.call("history", "work", "--host", "h1", "-o", "json").out)
    assert row["status"] == "success"
    assert here.call("history").code == 2


def test_wait_ends_with_the_work_and_with_what_keeps_it_from_starting(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=2)
    here.job()
    here.job("stalled", playbook="playbooks/nowhere.yml")

    assert here.once().code == 1

    assert here.call("wait", "work").code == 0
    assert here.call("wait", "work", "--for", "Failed").code == 1
    stalled = here.call("wait", "stalled", "--timeout", "5m")
    assert (stalled.code, stalled.out) == (1, "stalled: Stalled\n")
    whole = here.status()["revision"]
    for revision in (whole, whole.split(":")[1][:12]):
        assert here.call("wait", "work", "--revision", revision).code == 0
    late = here.call("wait", "work", "--revision", "0123abcd", "--timeout", "1s")
    assert (late.code, f"work was last seen at {whole} after 1s" in late.err) == (4, True)


def test_a_name_that_only_an_invalid_manifest_has_shows_invalid_until_it_is_mended_or_gone(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    here.job("mended", limit=0)
    here.job("gone", limit=0)

    done = here.once()

    assert done.code == 2
    found = here.status("mended")
    assert found["phase"] == "Invalid"
    assert "jobs/mended.yaml:" in found["message"]
    told = here.call("status", "mended")
    assert (told.code, "Invalid" in told.out) == (0, True)
    assert here.call("wait", "mended").code == 1
    assert here.call("trigger", "mended").code == 2

    here.job("mended")
    (here.root / "jobs" / "gone.yaml").unlink()
    assert here.once().code == 0
    assert here.status("mended")["phase"] == "Succeeded"
    assert here.status("gone") == {}
    assert here.call("status", "gone").code == 2


def test_only_what_history_keeps_is_kept_and_nothing_runs_again_for_it(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    here.job(history={"keep": 1})
    assert here.once().code == 0
    first = here.status()["run"]["id"]
    assert here.call("logs", "work", "h1").out

    assert here.call("trigger", "work").code == 0
    assert here.once().code == 0

    assert here.recorded() == ["h1", "h1"]
    assert here.call("logs", "work", "h1").out
    assert here.call("logs", "work", "h1", "--run", first).out == ""
    assert [row["status"] for row in json.loads(here.call("history", "work", "-o", "json").out)] == ["success"] * 2
    assert here.once().code == 0
    assert here.recorded() == ["h1", "h1"]


# -- what can't be done now ------------------------------------------------------------------------------------------
def test_once_ends_when_the_inventory_can_not_be_read(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    script = here.root / "inventory" / "dynamic.sh"
    script.write_text("#!/bin/sh\necho the cloud does not answer >&2\nexit 1\n")
    script.chmod(0o755)
    here.job(inventory="inventory/dynamic.sh")

    done = here.once()

    assert done.code == 1
    assert here.status()["phase"] == "Pending"
    assert "the cloud does not answer" in here.status()["message"]
    assert here.recorded() == []


def test_once_ends_when_a_status_can_not_be_written(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    here.job()
    here.state.mkdir()
    (here.state / "status").write_text("a file where a folder should be")

    done = here.once()

    assert done.code == 4
    assert "could not be written" in done.err
    assert here.recorded() == ["h1"]


# -- ending it -------------------------------------------------------------------------------------------------------
def command_of(pid: int) -> str:
    """Nothing for one that has ended in the meantime."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def started(here: Workspace, hosts: int) -> subprocess.Popen[str]:
    """`run --once`, once so many hosts have begun."""
    command = here.command("run", "--once", str(here.root))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(here.recorded()) == hosts, f"{hosts} hosts have begun")
    return process


def test_ctrl_c_starts_no_further_wave_and_waits_for_the_one_that_runs(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=4)
    here.job(limit=2, extraVars={"seconds": 2})
    process = started(here, hosts=2)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert "Ctrl-C again cancels" in err
    assert sorted(here.recorded("end")) == ["h1", "h2"]
    wait_for(lambda: here.marked() == [], "the last process of the run is gone")
    assert here.status()["run"]["status"] == "running"

    assert here.once().code == 0
    assert sorted(here.recorded()) == ["h1", "h2", "h3", "h4"]


def test_ctrl_c_twice_cancels_what_runs(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=3)
    here.job(limit=2, extraVars={"seconds": 300})
    process = started(here, hosts=2)

    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "Ctrl-C again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    wait_for(lambda: here.marked() == [], "the last process of the run is gone")
    assert here.status()["phase"] == "Cancelled"
    assert here.children() == {"h1": "cancelled", "h2": "cancelled", "h3": "skipped"}
    assert here.recorded("end") == []


@pytest.mark.parametrize("killed_too", [False, True], ids=["slices live", "slices killed too"])
def test_cancel_ends_a_run_that_has_no_daemon_any_more(tmp_path: Path, killed_too: bool) -> None:
    here = Workspace(tmp_path, hosts=3)
    here.job(limit=2, extraVars={"seconds": 300})
    process = started(here, hosts=2)
    process.kill()
    process.communicate(timeout=PATIENCE)
    if killed_too:
        (slice_process,) = [pid for pid in here.marked() if "reconciler.worker" in command_of(pid)]
        os.kill(slice_process, signal.SIGKILL)

    done = here.call("cancel", "work", "--reason", "wrong fleet")

    assert done.code == 0
    wait_for(lambda: here.marked() == [], "the last process of the run is gone")
    if killed_too:  # nobody knows how they ended: they may have before somebody cancelled
        assert here.status()["phase"] == "Failed"
        assert here.children() == {"h1": "unknown", "h2": "unknown", "h3": "skipped"}
    else:
        assert here.status()["phase"] == "Cancelled"
        assert "wrong fleet" in here.status()["message"]
        assert here.children() == {"h1": "cancelled", "h2": "cancelled", "h3": "skipped"}
    assert here.once().code == 1
    assert sorted(here.recorded()) == ["h1", "h2"]


def test_validate_looks_at_the_playbooks_of_a_source_and_at_nothing_hidden(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=2)
    here.job()
    here.job("waves", playbook="playbooks/waves.yml")
    here.write("playbooks/waves.yml", "- hosts: all\n  serial: 1\n  roles: [once]\n")
    (here.root / "roles" / "once" / "tasks").mkdir(parents=True)
    here.write("roles/once/tasks/main.yml", "- ping:\n  run_once: true\n")
    (here.root / ".reconciler").mkdir()
    here.write(".reconciler/left.yaml", "no: manifest\n")

    for path in (here.root, here.root / "jobs"):
        done = here.call("validate", str(path))
        assert (done.code, done.out) == (0, "2 manifests are valid\n")
        for warning in ("SerialInsideWave: playbooks/waves.yml:2", "RunOncePerWave: roles/once/tasks/main.yml:2"):
            assert f"warning {here.root}/jobs/waves.yaml:1:1: {warning}" in done.err

    here.job("asks", playbook="playbooks/asks.yml")
    here.write("playbooks/asks.yml", "- hosts: all\n  vars_prompt: [{name: version}]\n")
    here.job("gone", playbook="playbooks/gone.yml")
    done = here.call("validate", str(here.root))
    assert done.code == 2
    assert f"{here.root}/jobs/asks.yaml:8:13: playbooks/asks.yml asks for version" in done.err
    assert f"{here.root}/jobs/gone.yaml:8:13: spec.playbook names playbooks/gone.yml" in done.err


def test_validate_calls_nothing_valid_that_could_not_run(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    here.job("inventory", inventory="inventory/none.yml")
    here.job("vars", extraVarsFiles=["vars/none.yml"])
    (tmp_path / "outside.yaml").write_text("secret: of another\n")
    (here.root / "jobs" / "linked.yaml").symlink_to(tmp_path / "outside.yaml")

    done = here.call("validate", str(here.root / "jobs"))

    assert done.code == 2
    for line, field in (("inventory", "inventory/none.yml"), ("vars", "vars/none.yml")):
        (told,) = [told for told in done.err.splitlines() if told.startswith(f"{here.root}/jobs/{line}.yaml:")]
        assert f"names {field}, which the source does not have" in told
        assert ":1:1:" not in told
    assert f"{here.root}/jobs/linked.yaml:1:1: linked.yaml leaves the source" in done.err
    assert "secret" not in done.err


def test_a_folder_without_manifests_is_no_success(tmp_path: Path) -> None:
    """It is the wrong one, and a pipeline with it would be green for ever."""
    (tmp_path / "jobs").mkdir()
    done = Workspace(tmp_path / "elsewhere", hosts=1).call("validate", str(tmp_path / "jobs"))
    assert (done.code, done.out) == (2, "")
    assert f"{tmp_path}/jobs:1:1: there is no manifest in this folder" in done.err


def test_new_never_means_the_whole_fleet_by_silence(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    options = ("new", "mine", "--playbook", "playbooks/work.yml")
    assert here.call(*options).code == 2
    assert here.call(*options, "--all", "--tag", "web").code == 2
    assert yaml.safe_load(here.call(*options, "--all").out)["spec"]["selector"] == {"all": True}
    assert yaml.safe_load(here.call(*options, "--host", "h1").out)["spec"]["minHosts"] == 1


def test_a_state_directory_belongs_to_one_source(tmp_path: Path) -> None:
    """To another one every batch of the first would look removed."""
    here = Workspace(tmp_path, hosts=1)
    here.job()
    assert here.once().code == 0
    other = tmp_path / "other"
    shutil.copytree(here.root, other)

    refused = here.call("run", "--once", str(other))

    assert refused.code == 2
    assert f"is the state of {here.root}, not of {other}" in refused.err
    assert here.status()["phase"] == "Succeeded"
    here.root.rename(tmp_path / "moved")
    assert here.call("run", "--once", str(tmp_path / "moved")).code == 0
    assert here.call("status", "work").out.startswith("default/work  Succeeded")


def test_history_tells_why_and_data_is_whole(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    here.job()
    assert here.once().code == 0
    assert here.call("trigger", "work", "--reason", "the fix for CVE-1").code == 0
    assert here.once().code == 0

    latest = json.loads(here.call("history", "work", "-o", "json").out)[0]
    assert (latest["cause"], latest["because"], latest["generation"]) == ("Requested", "the fix for CVE-1", 1)
    assert latest["revision"] == here.status()["revision"]
    assert "Requested: the fix for CVE-1" in here.call("history", "work").out
    assert "Requested: the fix for CVE-1" in here.call("status", "work").out
    nobody = here.call("history", "--host", "nobody")
    assert (nobody.code, nobody.out, nobody.err) == (0, "", "no run had nobody\n")
    assert "was unsuccessful" in here.call("logs", "work", "--failed").err


def test_both_ways_to_ask_for_the_version_tell_what_is_installed() -> None:
    program = Path(sys.executable).with_name("reconciler")
    told = [subprocess.run([program, ask], capture_output=True, text=True).stdout for ask in ("version", "--version")]
    assert told == [f"{metadata.version('batchjob-reconciler')}\n"] * 2


def test_an_empty_log_says_why_it_is_empty(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=2)
    here.write("playbooks/fails.yml", "- hosts: all\n  gather_facts: false\n  tasks: [{fail: {msg: worn out}}]\n")
    here.job(playbook="playbooks/fails.yml", limit=1, stopOnFailure=True)
    here.once()
    never = here.call("logs", "work", "h2").err
    assert "it is skipped, and was never started (StoppedOnFailure: not started: wave 1 had a failure)" in never
    assert "h1 has no attempt 2 in batch-" in here.call("logs", "work", "h1", "--attempt", "2").err


def test_plan_does_not_take_a_database_that_it_can_not_read_for_none(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    here.job()
    assert here.once().code == 0
    with sqlite3.connect(here.state / "reconciler.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()
    done = here.call("plan", str(here.root))
    assert (done.code, done.out) == (4, "")
    assert "run `reconciler db upgrade`" in done.err


def test_runs_from_cron_leave_nothing_that_nobody_needs(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    for number in range(3):
        here.job(extraVars={"number": number})
        assert here.once().code == 0
    with sqlite3.connect(here.state / "reconciler.db") as connection:
        connection.execute("UPDATE events SET at = '2020-01-01 00:00:00.000000'")
    connection.close()
    assert here.once().code == 0
    with sqlite3.connect(here.state / "reconciler.db") as connection:
        assert connection.execute("SELECT count(*) FROM events WHERE at < '2021-01-01'").fetchone() <= (1,), (
            "but the newest"
        )
    connection.close()
    copies = list((here.state / "snapshots" / "default").iterdir())
    assert len(copies) == 1
    assert list((here.state / "slices").iterdir()) == []


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=2)
    here.job()
    assert here.call("plan", str(here.root)).code == 0
    assert here.call("doctor", str(here.root)).code == 0
    assert not here.state.exists()


def test_what_hosts_say_is_shown_as_they_said_it(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    said = "fe80:0:0:a:b:1:2:3 main.c:100:5: error nginx:up:ok [bold]"
    play = [{"hosts": "all", "gather_facts": False, "tasks": [{"name": "Say", "fail": {"msg": said}}]}]
    here.write("playbooks/work.yml", yaml.safe_dump(play))
    here.job()
    assert here.once().code == 1
    for command in (
        ("status", "work"),
        ("status", "work", "-o", "yaml"),
        ("logs", "work", "h1"),
        ("logs", "work", "--failed"),
    ):
        assert said in here.call(*command).out, command


def test_what_can_not_be_used_is_said_and_left_as_it_is(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=1)
    here.job()
    (here.root / ".gitignore").write_text("*.secret\n")
    itself = subprocess.run(
        [here.command()[0], "run", "--once", ".", "--state-dir", "."],
        cwd=here.root,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (itself.returncode, "is the state directory itself" in itself.stderr) == (2, True)
    assert (here.root / ".gitignore").read_text() == "*.secret\n"
    assert not (here.root / "reconciler.db").exists()

    (tmp_path / "file").touch()
    nowhere = subprocess.run(
        [here.command()[0], "run", "--once", str(here.root), "--state-dir", str(tmp_path / "file" / "state")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (nowhere.returncode, "Traceback" in nowhere.stderr) == (4, False)

    os.mkfifo(here.root / "jobs" / "pipe.yaml")
    assert "pipe.yaml:1:1: this is not a file" in here.call("validate", str(here.root / "jobs")).err


def test_terminated_before_anything_began_it_begins_nothing(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=2)
    asked, answer = tmp_path / "asked", tmp_path / "answer"
    here.write(
        "inventory/slow.sh", f"#!/bin/sh\ntouch {asked}\nwhile ! test -e {answer}; do sleep 0.1; done\necho '{{}}'\n"
    )
    (here.root / "inventory" / "slow.sh").chmod(0o755)
    here.job(inventory=["inventory/hosts.yml", "inventory/slow.sh"])
    process = subprocess.Popen(here.command("run", "--once", str(here.root)), stderr=subprocess.PIPE)
    wait_for(asked.exists, "the inventory to be read")
    process.terminate()
    answer.touch()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    wait_for(lambda: here.marked() == [], "no process of a slice")
    assert here.recorded() == []
    assert here.once().code == 0
    assert sorted(here.recorded()) == ["h1", "h2"]
