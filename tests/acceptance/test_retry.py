"""Hosts that are tried again, told from outside: by the hosts, the command line, the status file and the rows."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_steering import rows, under_way
from tests.acceptance.workspace import Workspace, wait_for

pytestmark = [pytest.mark.ansible, pytest.mark.slow]

FLAKY = """\
- hosts: all
  gather_facts: false
  tasks:
    - name: Begin
      ansible.builtin.shell: echo "$(date +%s.%N) begin {{ inventory_hostname }}" >> {{ record }}
    - name: Work
      ansible.builtin.shell: >-
        test {{ inventory_hostname }} != h2 || test -e {{ record }}.mended || { touch {{ record }}.mended; exit 7; }
    - name: End
      ansible.builtin.shell: echo "$(date +%s.%N) end {{ inventory_hostname }}" >> {{ record }}
"""
"""On h2 it fails the first time."""


def child(work: Workspace, host: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in work.status()["children"] if each["host"] == host)
    return found


def told(work: Workspace, *arguments: str) -> str:
    done = work.call(*arguments)
    assert done.code == 0, done.err
    return done.out


# -- by itself -------------------------------------------------------------------------------------------------------
def test_a_host_that_failed_once_is_tried_again_before_the_next_wave(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=3)
    work.write("playbooks/work.yml", FLAKY)
    work.job(limit=2, stopOnFailure=True, retry={"limit": 2, "backoff": "1s"})

    assert work.once().code == 0

    assert sorted(work.recorded()[:2]) == ["h1", "h2"]
    assert work.recorded()[2:] == ["h2", "h3"]
    status = work.status()
    assert (status["phase"], status["progress"]) == ("Succeeded", "3/3 completed, 0 failed")
    assert (child(work, "h2")["attempt"], child(work, "h2")["wave"], child(work, "h1")["attempt"]) == (2, 1, 1)
    first, second = (told(work, "logs", "work", "h2", "--attempt", number) for number in ("1", "2"))
    assert "non-zero return code" in first
    assert "non-zero return code" not in second
    tried = rows(work, "select number, attempts.status, host from attempts join jobs on id = job order by host, number")
    assert tried == [(1, "success", "h1"), (1, "failed", "h2"), (2, "success", "h2"), (1, "success", "h3")]
    counted = dict(rows(work, "select labels, value from counters where name = 'children_finished_total'"))
    assert counted == {"success": 3.0}


def test_what_fails_every_time_has_failed_in_the_end(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.break_host("h1")
    work.job(retry={"limit": 1, "backoff": "1s"})

    done = work.once()

    assert done.code == 1
    assert work.recorded().count("h1") == 2
    assert (child(work, "h1")["status"], child(work, "h1")["attempt"]) == ("failed", 2)
    assert [group["hosts"] for group in work.status()["failures"]] == [1]


def test_while_it_waits_the_status_says_when_and_a_cancel_leaves_what_was(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=3)
    work.break_host("h1")
    work.job(limit=2, retry={"limit": 3, "backoff": "1h"})
    with under_way(work, "run", str(work.root), "--no-http"):
        wait_for(lambda: "retries 1 host at" in work.status().get("message", ""), "the retry")
        status = work.status()
        assert (status["phase"], status["progress"], status["failures"]) == ("Running", "1/3 completed, 0 failed", [])
        assert child(work, "h1")["reason"] == "RetryScheduled"
        assert child(work, "h1")["message"].startswith("attempt 1 of 4: ")
        assert told(work, "cancel", "work", "--wait")
        wait_for(lambda: work.status()["run"]["status"] == "failed", "the end of the run")
    assert {host: (c["status"], c["reason"]) for host in ("h1", "h3") for c in [child(work, host)]} == {
        "h1": ("failed", "TaskFailed"),
        "h3": ("skipped", "Cancelled"),
    }


def test_after_timeouts_run_no_further_wave_starts(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=3)
    work.job(limit=1, timeouts={"run": "2s"})
    inventory = work.root / "inventory" / "hosts.yml"
    inventory.write_text(inventory.read_text().replace("seconds: 0.2", "seconds: 3"))

    assert work.once().code == 1

    assert work.recorded("end") == ["h1"], "what runs finishes"
    status = work.status()
    assert (status["run"]["status"], status["run"]["reason"]) == ("failed", "DeadlineExceeded")
    assert {child(work, host)["reason"] for host in ("h2", "h3")} == {"DeadlineExceeded"}


# -- by hand ---------------------------------------------------------------------------------------------------------
def test_only_the_failed_ones_run_again_and_the_status_tells_of_all(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=4)
    work.break_host("h2")
    work.break_host("h3")
    work.break_host("h4")
    work.job(minHosts=4)
    assert work.once().code == 1
    work.mend_host("h4")
    told(work, "retry", "work", "--host", "h4")
    assert work.once().code == 1, "a retry that succeeds is no success of the batch"
    assert (work.status()["phase"], work.status()["lastSuccess"]) == ("Failed", None)
    logs = told(work, "logs", "work", "--failed")
    assert ("==> h2 <==" in logs, "==> h3 <==" in logs, "h4" in logs) == (True, True, False)

    said = told(work, "retry", "work", "--reason", "the disk was full")
    assert "2 hosts of batch-" in said
    assert "(h2, h3); no daemon runs here" in said
    assert "tries again" not in told(work, "plan", str(work.root), "work")
    planned = json.loads(told(work, "plan", str(work.root), "work", "-o", "json"))
    assert (planned[0]["waves"], planned[0]["causes"][-1]["kind"]) == ([["h2", "h3"]], "Retried")
    work.mend_host("h2")
    assert work.once().code == 1

    assert (work.recorded()[4], sorted(work.recorded()[5:])) == ("h4", ["h2", "h3"])
    status = work.status()
    assert (status["phase"], status["progress"]) == ("Failed", "4/4 completed, 1 failed")
    assert (status["run"]["cause"], status["run"]["causeMessage"]) == ("Retried", "the disk was full")
    assert status["run"]["retryOf"] == status["history"][1]["id"]
    assert work.children() == {"h1": "success", "h2": "success", "h3": "failed", "h4": "success"}
    assert "TASK [Work]" in told(work, "logs", "work", "h1"), "of the run that it was in"
    work.mend_host("h3")
    told(work, "retry", "work", "--host", "h3")
    assert work.once().code == 0
    status = work.status()
    assert (status["phase"], status["progress"]) == ("Succeeded", "4/4 completed, 0 failed")
    assert (status["coverage"]["upToDate"], work.recorded()[7:]) == (4, ["h3"])
    assert status["lastSuccess"]["run"] == status["run"]["id"]


def test_what_can_not_be_meant_is_refused_at_once(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.job()
    assert work.once().code == 0
    refused = work.call("retry", "work")
    assert (refused.code, "no host is failed" in refused.err) == (1, True)
    assert "reconciler trigger runs all of them again" in refused.err
    stranger = work.call("retry", "work", "--host", "h9")
    assert (stranger.code, "has no host h9" in stranger.err) == (1, True)
    both = work.call("retry", "work", "--failed", "--unknown")
    assert (both.code, "exclude each other" in both.err) == (2, True)
    known = work.call("resolve", "work", "--host", "h1", "--as", "failed", "--reason", "it is not")
    assert (known.code, "h1 is success, not unknown" in known.err) == (1, True)
    assert rows(work, "select count(*) from requests") == [(0,)]


def test_once_the_playbook_is_another_it_must_be_said_which_is_to_run(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.break_host("h2")
    work.job(runOn=[])
    assert work.once().code == 0
    told(work, "trigger", "work")
    assert work.once().code == 1
    old = work.status()["run"]["revision"]
    later = tmp_path / "later"
    work.write(
        "playbooks/work.yml",
        f"- hosts: all\n  gather_facts: false\n  tasks: [{{file: {{path: {later}, state: touch}}}}]\n",
    )

    with under_way(work, "run", str(work.root), "--no-http"):
        wait_for(lambda: work.condition("UpToDate")["reason"] == "PlaybookChanged", "the change")  # type: ignore[index]
        refused = work.call("retry", "work")
        assert (refused.code, "has changed since that run" in refused.err) == (1, True)
        assert "--revision same, or --revision latest" in refused.err
        told(work, "retry", "work", "--revision", "same")
        wait_for(lambda: len(work.status()["history"]) == 2 and work.status()["phase"] == "Failed", "the retry")
        assert (work.status()["run"]["revision"], work.recorded()[2:]) == (old, ["h2"])
        told(work, "retry", "work", "--revision", "latest")
        wait_for(lambda: work.status()["phase"] == "Succeeded", "the newest")
    assert later.exists()
    assert work.status()["run"]["revision"] != old


def test_a_host_that_was_lost_is_what_a_person_says_it_is(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.job(limit=1)
    inventory = work.root / "inventory" / "hosts.yml"
    inventory.write_text(inventory.read_text().replace("seconds: 0.2", "seconds: 2"))
    with under_way(work, "run", "--once", str(work.root)) as process:
        wait_for(lambda: work.recorded() == ["h1"], "the first host")
        for pid in work.marked():
            os.kill(pid, signal.SIGKILL)
        assert process.wait(120) == 1
    assert work.children() == {"h1": "unknown", "h2": "success"}
    refused = work.call("retry", "work")
    assert "1 unknown: look at them, then --unknown, or reconciler resolve" in refused.err
    silent = work.call("resolve", "work", "--host", "h1", "--as", "success")
    assert (silent.code, "--reason" in silent.err) == (2, True)

    said = told(work, "resolve", "work", "--host", "h1", "--as", "success", "--reason", "uptime says so")

    assert "h1 is success, by your word" in said
    assert (work.status()["phase"], work.children()) == ("Succeeded", {"h1": "success", "h2": "success"})
    assert child(work, "h1")["reason"] == "Resolved"
    assert "uptime says so" in child(work, "h1")["message"]
    assert work.once().code == 0
    assert work.recorded() == ["h1", "h2"], "nothing has run for it"
