"""Manifests that are edited while the daemon looks: whatever it catches them at, it ends with what was saved last."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.workspace import PATIENCE, Workspace, wait_for

pytestmark = pytest.mark.ansible

RECORD_EDIT = """\
- hosts: all
  gather_facts: false
  tasks:
    - name: Record
      ansible.builtin.shell: echo "{{ edit }}" >> {{ record }}.edits
"""

WAIT_FOR_GO = """\
- hosts: all
  gather_facts: false
  tasks:
    - name: Begin
      ansible.builtin.shell: echo "$(date +%s.%N) begin {{ inventory_hostname }}" >> {{ record }}
    - name: Wait
      ansible.builtin.shell: until test -e {{ record }}.go; do sleep 0.1; done
"""


@contextmanager
def daemon(work: Workspace) -> Iterator[None]:
    """From its first sync on. It must still be alive, and have met no bug, when the story ends."""
    process = work.daemon()
    try:
        wait_for((work.state / "status" / "default" / "_source.yaml").exists, "the first sync")
        yield
        assert process.poll() is None, "the daemon ended by itself"
    finally:
        process.terminate()
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert "by_a_bug" not in (work.root.parent / "daemon.log").read_text()


def generation(work: Workspace, name: str = "work") -> int:
    document: dict[str, Any] = yaml.safe_load((work.state / "status" / "default" / f"{name}.yaml").read_text())
    found: int = document["metadata"]["generation"]
    return found


def accepted(work: Workspace, name: str = "work") -> str | None:
    condition = work.condition("Accepted", name)
    return condition["status"] if condition is not None else None


def edits(work: Workspace) -> list[str]:
    path = Path(f"{work.record}.edits")
    return path.read_text().split() if path.exists() else []


def wait_for_run_of(work: Workspace, edit: str) -> None:
    wait_for(lambda: edits(work)[-1:] == [edit] and work.status()["phase"] == "Succeeded", f"the run of {edit}")


def test_ten_edits_in_a_second_end_as_one_consistent_generation(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    work.write("playbooks/work.yml", RECORD_EDIT)
    with daemon(work):
        for number in range(1, 11):
            work.job(extraVars={"edit": f"e{number}"}, limit=number)
            time.sleep(0.08)  # the pace of the edits
        wait_for_run_of(work, "e10")
        assert work.call("wait", "work").code == 0

        status = work.status()
        seen = generation(work)
        assert seen <= 10
        assert status["observedGeneration"] == seen
        assert status["lastSuccess"]["generation"] == seen
        assert status["history"][0]["generation"] == seen
        assert {each["type"]: each["status"] for each in status["conditions"]} == {
            "Ready": "True",
            "Accepted": "True",
            "UpToDate": "True",
        }
        assert {each["observedGeneration"] for each in status["conditions"]} == {seen}
        ran = edits(work)
        assert ran == sorted(set(ran), key=lambda edit: int(edit[1:])), "each at most once, and none after a later one"
        assert len(status["history"]) == len({run["id"] for run in status["history"]})

        # What is seen of the job next is what is decided next: the last edit was no half of one.
        work.job(extraVars={"edit": "last"}, limit=10)
        wait_for_run_of(work, "last")
        assert generation(work) == seen + 1
    assert edits(work) == [*ran, "last"]


def test_edits_while_a_wave_runs_end_with_the_last_of_them(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.write("playbooks/work.yml", WAIT_FOR_GO)
    with daemon(work):
        work.job(limit=1, extraVars={"edit": "first"})
        wait_for(lambda: work.recorded() == ["h1"], "the first wave")
        work.write("playbooks/record.yml", RECORD_EDIT)
        for number in range(1, 11):
            work.job(playbook="playbooks/record.yml", extraVars={"edit": f"e{number}"})
            time.sleep(0.08)  # the pace of the edits
        wait_for(lambda: generation(work) > 1, "the edits to be seen")
        Path(f"{work.record}.go").touch()
        wait_for_run_of(work, "e10")
        assert work.call("wait", "work").code == 0

        assert work.recorded() == ["h1"], "the second wave of the first run was superseded"
        assert edits(work) == ["e10", "e10"], "only the newest runs next, once on each host"
        assert work.status()["observedGeneration"] == generation(work)
        assert [run["status"] for run in work.status()["history"]] == ["success", "cancelled"]


def test_a_half_written_file_is_invalid_for_a_moment_and_no_removal(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    work.write("playbooks/work.yml", RECORD_EDIT)
    work.job(extraVars={"edit": "before"})
    whole = (work.root / "jobs" / "work.yaml").read_text()
    with daemon(work):
        wait_for_run_of(work, "before")
        first = work.status()["run"]["id"]

        changed = whole.replace("before", "after")
        half = changed.index("inventory:") + len("inventory")
        with (work.root / "jobs" / "work.yaml").open("w") as file:
            file.write(changed[:half])
            file.flush()
            wait_for(lambda: accepted(work) == "False", "the half of it to be rejected")
            condition = work.condition("Accepted")
            assert condition is not None
            assert condition["reason"] == "ManifestInvalid"
            assert "jobs/work.yaml:" in condition["message"]
            assert (work.status()["phase"], work.status()["run"]["id"]) == ("Succeeded", first)
            assert [entry["path"] for entry in work.source()["rejected"]] == ["jobs/work.yaml"]
            file.write(changed[half:])
        wait_for(lambda: accepted(work) == "True", "the whole of it to be accepted")
        wait_for_run_of(work, "after")
        assert work.status()["run"]["id"] != first
        assert generation(work) == 2
        wait_for(lambda: work.source()["rejected"] == [], "the source to be in order")


def test_a_new_file_that_is_half_written_becomes_a_job_when_it_is_whole(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    work.write("playbooks/work.yml", RECORD_EDIT)
    work.job(extraVars={"edit": "new"})
    path = work.root / "jobs" / "work.yaml"
    whole = path.read_text()
    path.unlink()
    work.job("other", extraVars={"edit": "other"})
    half = whole.index("spec:") + len("spec:\n  ")
    with daemon(work):
        with path.open("w") as file:
            file.write(whole[:half])
            file.flush()
            wait_for(lambda: work.status().get("phase") == "Invalid", "the half of it to be rejected")
            file.write(whole[half:])
        wait_for(lambda: "new" in edits(work) and work.status()["phase"] == "Succeeded", "its run")
        assert accepted(work) == "True"
        assert (work.status()["observedGeneration"], generation(work)) == (1, 1)
        wait_for(lambda: work.status("other")["phase"] == "Succeeded", "the other job, which went its own way")
        assert sorted(edits(work)) == ["new", "other"]


def test_a_file_that_is_touched_or_saved_unchanged_runs_nothing(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    work.write("playbooks/work.yml", RECORD_EDIT)
    work.job(extraVars={"edit": "once"})
    path = work.root / "jobs" / "work.yaml"
    with daemon(work):
        wait_for_run_of(work, "once")
        before = work.status()

        os.utime(path)
        path.write_text(path.read_text())
        path.write_text("# a remark\n" + path.read_text())
        path.rename(path.with_name("renamed.yaml"))
        # A job that comes later and has run proves that all of that was seen, and led to nothing.
        work.job("later", extraVars={"edit": "later"})
        wait_for(lambda: work.status("later").get("phase") == "Succeeded", "the later job")
        assert work.call("wait", "work").code == 0

        assert edits(work) == ["once", "later"]
        after = work.status()
        assert (after["run"]["id"], after["observedGeneration"]) == (before["run"]["id"], 1)
        assert after["phase"] == "Succeeded"


def test_a_manifest_deleted_in_the_middle_of_its_run_starts_no_new_wave(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=3)
    work.write("playbooks/work.yml", WAIT_FOR_GO)
    work.job(limit=1)
    work.job("other", suspend=True)
    with daemon(work):
        wait_for(lambda: work.recorded() == ["h1"], "the first wave")
        (work.root / "jobs" / "work.yaml").unlink()
        wait_for(lambda: work.source()["manifests"]["removed"] == 1, "the removal to be seen")
        Path(f"{work.record}.go").touch()
        wait_for(lambda: work.status()["phase"] == "Removed", "the end of the run")

        assert work.children() == {"h1": "success", "h2": "skipped", "h3": "skipped"}
        assert {child["reason"] for child in work.status()["children"] if child["status"] == "skipped"} == {"Removed"}
        assert work.recorded() == ["h1"]

        # It comes back as another generation of the same job, not as one that nobody knows.
        work.job(limit=3, extraVars={"edit": "back"})
        wait_for(lambda: work.status()["phase"] == "Succeeded", "the run of what is back")
        assert generation(work) == 2
        assert sorted(work.recorded()) == ["h1", "h1", "h2", "h3"]
