"""What the fields of a manifest make of a run, told from outside: by the hosts, the status file and the rows."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.workspace import PATIENCE, Workspace, wait_for

pytestmark = pytest.mark.ansible

NOBODY = "- hosts: nobody\n  gather_facts: false\n  tasks: [{debug: }]\n"


@contextmanager
def under_way(work: Workspace, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs while the test goes on. It and its slices are ended if they have not ended by themselves."""
    with (work.root.parent / "output").open("ab") as output:
        process = subprocess.Popen(work.command(*arguments), stdout=output, stderr=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)
        while left := work.marked():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def rows(work: Workspace, query: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(work.state / "reconciler.db")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def reasons(work: Workspace, name: str = "work") -> dict[str, tuple[str, str | None]]:
    return {child["host"]: (child["status"], child["reason"]) for child in work.status(name)["children"]}


def coverage(work: Workspace, name: str = "work") -> tuple[int, int, int, int]:
    """Selected, up to date, behind, never."""
    counts = work.status(name)["coverage"]
    return counts["selected"], counts["upToDate"], counts["behind"], counts["never"]


def join(work: Workspace, *names: str) -> None:
    """More hosts in the inventory."""
    path = work.root / "inventory" / "hosts.yml"
    inventory = yaml.safe_load(path.read_text())
    inventory["all"]["hosts"].update(dict.fromkeys(names))
    path.write_text(yaml.safe_dump(inventory))


# -- how a wave runs -------------------------------------------------------------------------------------------------
def test_hosts_per_process_cuts_waves_into_slices_and_changes_no_outcome(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=5)
    mates = tmp_path / "mates"
    task = (
        f"shell: echo {{{{ ansible_play_hosts_all | join('+') }}}} >> {mates}; test {{{{ inventory_hostname }}}} != h2"
    )
    work.write("playbooks/work.yml", f"- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Work\n      {task}\n")
    work.job(limit=4, hostsPerProcess=2)

    assert work.once().code == 1

    together = sorted(mates.read_text().split())
    assert together == ["h1+h2", "h1+h2", "h3+h4", "h3+h4", "h5"]
    assert [wave["hosts"] for wave in work.status()["waves"]] == [4, 1]
    success = ("success", None)
    assert reasons(work) == {"h1": success, "h2": ("failed", "TaskFailed"), "h3": success, "h4": success, "h5": success}
    slices = rows(work, "select wave, hosts, state from slices order by wave, hosts")
    assert [(wave, json.loads(hosts), state) for wave, hosts, state in slices] == [
        (1, ["h1", "h2"], "finished"),
        (1, ["h3", "h4"], "finished"),
        (2, ["h5"], "finished"),
    ]


def test_a_machine_with_two_names_runs_one_thing_at_a_time(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    path = work.root / "inventory" / "hosts.yml"
    path.write_text(path.read_text().replace("  vars:\n", "  vars:\n    reconciler_host_id: rack-7\n"))
    work.job(hostsPerProcess=1)

    assert work.once().code == 0

    assert work.recorded() == ["h1", "h2"]
    assert work.most_at_once() == 1
    assert [wave["hosts"] for wave in work.status()["waves"]] == [1, 1]


def test_limit_and_timeouts_changed_in_the_middle_of_a_run_hold_from_the_next_wave(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=3)
    began, release = tmp_path / "began", tmp_path / "release"
    begin = f"echo {{{{ inventory_hostname }}}} {{{{ lookup('env', 'ANSIBLE_TASK_TIMEOUT') }}}} >> {began}"
    wait = f"until test -e {release}; do sleep 0.1; done"
    work.write("playbooks/work.yml", f'- hosts: all\n  gather_facts: false\n  tasks: [raw: "{begin}; {wait}"]\n')
    work.job(limit=1, timeouts={"task": "20m"})

    with under_way(work, "run", str(work.root), "--no-http"):
        wait_for(began.exists, "the first wave")
        work.job(limit=2, timeouts={"task": "15m"})
        wait_for(lambda: work.status()["observedGeneration"] == 2, "the change")
        release.touch()
        wait_for(lambda: work.status()["phase"] == "Succeeded", "the end of the run")

    assert sorted(began.read_text().splitlines()) == ["h1 1200", "h2 900", "h3 900"]
    assert [wave["hosts"] for wave in work.status()["waves"]] == [1, 2]
    assert len(work.status()["history"]) == 1


def test_a_dry_run_changes_nothing_and_is_no_success(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    motd = tmp_path / "motd"
    text = "{dest: '{{ motd }}.{{ inventory_hostname }}', content: '{{ greeting }}'}"
    work.write("playbooks/work.yml", f"- hosts: all\n  gather_facts: false\n  tasks: [{{name: Greet, copy: {text}}}]\n")
    work.job(extraVars={"motd": str(motd), "greeting": "old"})
    assert work.once().code == 0
    success = work.status()["lastSuccess"]

    work.job(extraVars={"motd": str(motd), "greeting": "new"}, checkMode=True)
    assert work.once().code == 0

    status = work.status()
    assert {path.name: path.read_text() for path in tmp_path.glob("motd.*")} == {"motd.h1": "old", "motd.h2": "old"}
    assert status["run"]["checkMode"] is True
    assert status["run"]["id"] != success["run"]
    assert status["lastSuccess"] == success
    assert coverage(work) == (2, 0, 2, 0)
    ready = work.condition("Ready")
    assert ready is not None
    assert ready["reason"] == "CheckMode"
    log = work.call("logs", "work", "h1").out
    assert "-old" in log
    assert "+new" in log

    work.job(extraVars={"motd": str(motd), "greeting": "new"})
    assert work.once().code == 0
    assert {path.read_text() for path in tmp_path.glob("motd.*")} == {"new"}
    assert work.status()["lastSuccess"]["run"] == work.status()["run"]["id"]
    assert coverage(work) == (2, 2, 0, 0)


def test_two_jobs_that_share_hosts_take_turns_and_say_whom_they_wait_for(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=4)
    release = tmp_path / "release"
    wait = f"until test -e {release}; do sleep 0.1; done"
    work.write(
        "playbooks/work.yml",
        (work.root / "playbooks" / "work.yml").read_text().replace("sleep {{ seconds }}", f"({wait})"),
    )
    work.job("left", selector={"hosts": ["h1", "h2", "h3"]})
    work.job("right", selector={"hosts": ["h4", "h3", "h2"]})

    def waits() -> dict[str, str]:
        """Job by job, whom it waits for."""
        found = {name: work.status(name).get("run") for name in ("left", "right")}
        return {name: run["waitsFor"] for name, run in found.items() if run and run["waitsFor"]}

    with under_way(work, "run", "--once", str(work.root)) as once:
        wait_for(lambda: waits() and len(work.recorded()) == 3, "one that works and one that waits")
        (waiting, holder), *more = waits().items()
        assert more == []
        assert holder == f"default/{'left' if waiting == 'right' else 'right'}"
        assert work.status(waiting)["message"] == f"waits for hosts that {holder} has"
        assert work.condition("Reconciling", waiting) is not None
        assert {status for status, _ in reasons(work, waiting).values()} == {"pending"}
        release.touch()
        assert once.wait(PATIENCE) == 0

    assert [work.status(name)["phase"] for name in ("left", "right")] == ["Succeeded", "Succeeded"]
    assert waits() == {}
    assert sorted(work.recorded()) == ["h1", "h2", "h2", "h3", "h3", "h4"]
    begun: set[str] = set()
    for line in work.record.read_text().splitlines():  # each is appended when it happens
        _, did, host = line.split()
        assert (host in begun) is (did == "end"), f"{host} had two at once"
        begun ^= {host}


# -- deadlines and cancel --------------------------------------------------------------------------------------------
def test_a_hung_host_fails_alone_and_a_late_wave_is_ended_whole(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=8)
    path = work.root / "inventory" / "hosts.yml"
    path.write_text(f"{path.read_text()}hang: {{hosts: {{h1: , h5: }}}}\n")
    went_on = tmp_path / "went-on"
    went_on.mkdir()
    hang = "- {name: Hang, raw: 'setsid sleep 300 & sleep 300', when: inventory_hostname in groups.hang}"
    tasks = [
        "- {name: Break, raw: 'echo worn out >&2; false', when: inventory_hostname == 'h6'}",
        hang,
        f"- {{name: Go on, raw: 'touch {went_on}/{{{{ inventory_hostname }}}}'}}",
    ]
    work.write(
        "playbooks/hang.yml", "- hosts: all\n  gather_facts: false\n  tasks:\n" + "".join(f"    {t}\n" for t in tasks)
    )
    # a task timeout that is met by chance would fail a mate, a wave's that is, the whole wave: both leave much room
    work.job("hung", playbook="playbooks/hang.yml", selector={"hosts": ["h1", "h2", "h3"]}, timeouts={"task": "10s"})
    late = {"hosts": ["h5", "h6", "h7", "h8"]}
    work.job("late", playbook="playbooks/hang.yml", selector=late, limit=3, timeouts={"wave": "20s"})

    assert work.once().code == 1

    assert reasons(work, "hung") == {
        "h1": ("failed", "DeadlineExceeded"),
        "h2": ("success", None),
        "h3": ("success", None),
    }
    (failure,) = work.status("hung")["failures"]
    assert (failure["task"], failure["reason"]) == ("Hang", "DeadlineExceeded")
    assert reasons(work, "late") == {
        "h5": ("failed", "DeadlineExceeded"),
        "h6": ("failed", "TaskFailed"),
        "h7": ("aborted", "DeadlineExceeded"),
        "h8": ("success", None),
    }
    inside = next(child for child in work.status("late")["children"] if child["host"] == "h5")
    assert (inside["task"], inside["message"]) == ("Hang", "timeouts.wave passed in task Hang")
    assert {path.name for path in went_on.iterdir()} == {"h2", "h3", "h8"}
    assert work.marked() == []


def test_cancel_leaves_what_has_ended_and_skips_what_never_started(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=4)
    hang = "test {{ inventory_hostname }} = h1 || sleep 300"
    work.write(
        "playbooks/work.yml",
        (work.root / "playbooks" / "work.yml").read_text().replace("sleep {{ seconds }}", f"({hang})"),
    )
    work.job(limit=1)

    with under_way(work, "run", "--once", str(work.root)) as once:
        wait_for(lambda: "h2" in work.recorded(), "the second wave")
        assert work.call("cancel", "work", "--reason", "wrong day").code == 0
        assert once.wait(PATIENCE) == 1

    assert reasons(work) == {
        "h1": ("success", None),
        "h2": ("cancelled", "Cancelled"),
        "h3": ("skipped", "Cancelled"),
        "h4": ("skipped", "Cancelled"),
    }
    status = work.status()
    assert (status["phase"], status["run"]["status"], status["run"]["reason"]) == (
        "Cancelled",
        "cancelled",
        "Cancelled",
    )
    assert "wrong day" in status["message"]
    assert (work.condition("Reconciling"), work.condition("Stalled")) == (None, None)
    assert work.marked() == []

    work.once()
    assert work.status()["run"]["id"] == status["run"]["id"], "a cancelled job is at rest"


# -- what reaches the playbook ---------------------------------------------------------------------------------------
EXTRA_VARS = r"""
    given:
      text: plain
      empty: ""
      template: "{{ 1 + 1 }} {% if true %}no{% endif %} {# gone #}"
      name of a variable: "{{ inventory_hostname }}"
      quotes: "it's \"so\""
      lines: |
        first
          second
      unicode: "Grüße ☃ \U0001F600"
      not a number: "42"
      mode: "0644"
      octal: 0644
      time: 22:30
      day: 2026-01-01
      version: 1.10.1
      yes and no: [yes, no, on, off, y, n]
      whole: 42
      negative: -7
      large: 9223372036854775807
      zero: 0
      part: 0.5
      whole part: 1.0
      power: 1e3
      sure: true
      unsure: false
      nothing: null
      tilde: ~
      list: [1, [two, {three: 3}], []]
      map: {inner: {"{{ key }}": "{{ value }}"}, none: {}}
"""

READ = """\
- hosts: all
  gather_facts: false
  tasks:
    - copy: {dest: "{{ out }}", content: "{{ given | to_json }}"}
    - debug: {msg: "{{ given.template }}"}
    - assert:
        that:
          - given.whole is integer and given.negative is integer and given.large is integer
          - given.part is float and given['whole part'] is float and given.power is float
          - given.sure is boolean and given.unsure is boolean
          - given.nothing is none and given.tilde is none
          - given.text is string and given.octal is string and given.day is string and given['not a number'] is string
          - given.list is sequence and given.map is mapping
"""


def test_extra_vars_reach_the_playbook_as_they_are(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    out = tmp_path / "out.json"
    work.write("playbooks/work.yml", READ)
    work.job(extraVars={"out": str(out)})
    manifest = work.root / "jobs" / "work.yaml"
    manifest.write_text(manifest.read_text().replace("  extraVars:\n", f"  extraVars:{EXTRA_VARS}"))

    assert work.once().code == 0, work.status()

    template = "{{ 1 + 1 }} {% if true %}no{% endif %} {# gone #}"
    expected = {
        "text": "plain",
        "empty": "",
        "template": template,
        "name of a variable": "{{ inventory_hostname }}",
        "quotes": 'it\'s "so"',
        "lines": "first\n  second\n",
        "unicode": "Grüße ☃ 😀",
        "not a number": "42",
        "mode": "0644",
        "octal": "0644",
        "time": "22:30",
        "day": "2026-01-01",
        "version": "1.10.1",
        "yes and no": ["yes", "no", "on", "off", "y", "n"],
        "whole": 42,
        "negative": -7,
        "large": 9223372036854775807,
        "zero": 0,
        "part": 0.5,
        "whole part": 1.0,
        "power": 1000.0,
        "sure": True,
        "unsure": False,
        "nothing": None,
        "tilde": None,
        "list": [1, ["two", {"three": 3}], []],
        "map": {"inner": {"{{ key }}": "{{ value }}"}, "none": {}},
    }
    got = json.loads(out.read_text())
    assert got == expected
    assert {name: type(value) for name, value in got.items()} == {name: type(value) for name, value in expected.items()}
    assert f"  {template}" in work.call("logs", "work", "h1").out.splitlines()


# -- what runs again, and where --------------------------------------------------------------------------------------
def test_hosts_that_join_are_counted_and_run_only_if_the_manifest_says_so(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.job()
    assert work.once().code == 0
    assert coverage(work) == (2, 2, 0, 0)

    join(work, "h3")
    assert work.once().code == 0
    assert len(work.recorded()) == 2, "Ignore is the default"
    assert coverage(work) == (3, 2, 0, 1)
    up_to_date = work.condition("UpToDate")
    assert up_to_date is not None
    assert (up_to_date["status"], up_to_date["reason"]) == ("False", "HostsBehind")

    work.job(onHostsJoined="Run")
    assert work.once().code == 0
    assert work.recorded()[2:] == ["h3"]
    assert work.status()["run"]["cause"] == "HostsJoined"
    assert coverage(work) == (3, 3, 0, 0)
    assert work.once().code == 0
    assert len(work.recorded()) == 3

    work.job(onHostsJoined="Run", selector={"hosts": ["h1", "h4"]}, suspend=True)
    join(work, "h4")
    assert work.once().code == 0
    assert coverage(work) == (2, 1, 0, 1), "what was done to a host does not depend on who else was selected"

    work.job(onHostsJoined="Run", selector={"hosts": ["h1", "h4"]})
    assert work.once().code == 0
    assert sorted(work.recorded()[3:]) == ["h1", "h4"]
    assert coverage(work) == (2, 2, 0, 0)


def test_neither_forgotten_history_nor_defaults_written_out_run_anything_again(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=1)
    steps = [{"seconds": 0.1}, {"seconds": 0.2}, {"seconds": 0.3}]
    for step in steps:
        work.job(history={"keep": 1}, extraVars=step)
        assert work.once().code == 0
    first = work.status()["history"][-1]["id"]
    assert len(work.recorded()) == 3

    assert work.call("logs", "work", "h1", "--run", first).out == ""
    assert "TASK [Work]" in work.call("logs", "work", "h1").out

    # an older work digest is no news either, once its run is forgotten: it is the change that counts
    for _ in range(2):
        assert work.once().code == 0
    assert len(work.recorded()) == 3

    defaults: dict[str, Any] = {
        "extraVarsFiles": [],
        "tasks": {"tags": [], "skipTags": []},
        "checkMode": False,
        "strategy": "parallel",
        "limit": 5,
        "stopOnFailure": False,
        "maxHosts": None,
        "suspend": False,
        "runOn": ["spec"],
        "onChange": "StopAfterWave",
        "onHostsJoined": "Ignore",
        "hostsPerProcess": None,
        "timeouts": {"task": "30m", "wave": "2h"},
    }
    work.job(history={"keep": 1}, extraVars=steps[-1], **defaults)
    assert work.once().code == 0
    assert len(work.recorded()) == 3
    assert work.status()["observedGeneration"] == 3


def test_a_playbook_that_targets_nobody_is_not_green_and_one_that_targets_some_is(tmp_path: Path) -> None:
    work = Workspace(tmp_path, hosts=3)
    work.write("playbooks/nobody.yml", NOBODY)
    work.write("playbooks/some.yml", NOBODY.replace("nobody", "h2"))
    work.job("nobody", playbook="playbooks/nobody.yml", selector={"hosts": ["h1"]})
    work.job("some", playbook="playbooks/some.yml", selector={"hosts": ["h2", "h3"]}, limit=1)

    assert work.once().code == 1

    status = work.status("nobody")
    assert (status["phase"], status["run"]["status"], status["run"]["reason"]) == (
        "Failed",
        "failed",
        "NothingTargeted",
    )
    assert reasons(work, "nobody") == {"h1": ("skipped", "NotTargeted")}
    assert status.get("lastSuccess") is None
    assert coverage(work, "nobody") == (1, 0, 0, 1)
    assert reasons(work, "some") == {"h2": ("success", None), "h3": ("skipped", "NotTargeted")}
    assert work.status("some")["run"]["status"] == "success"


def test_hosts_of_the_default_inventory_are_reached_as_they_were_selected(tmp_path: Path) -> None:
    """The inventory is named in the settings alone."""
    work = Workspace(tmp_path, hosts=1)
    config = tmp_path / "reconciler.toml"
    config.write_text('[inventory]\ndefault = ["inventory/hosts.yml"]\n')
    work.job()
    manifest = work.root / "jobs" / "work.yaml"
    manifest.write_text(manifest.read_text().replace("  inventory: inventory/hosts.yml\n", ""))

    done = work.call("run", "--once", str(work.root), "--config", str(config))

    assert done.code == 0, work.status()
    assert work.recorded() == ["h1"]

    (work.root / "inventory" / "group_vars").mkdir()
    work.write("inventory/group_vars/all.yml", "seconds: 0.1\n")
    assert work.call("run", "--once", str(work.root), "--config", str(config)).code == 0
    up_to_date = work.condition("UpToDate")
    assert up_to_date is not None
    assert up_to_date["status"] == "False", "variables beside the inventory are content of the playbook"
    assert work.recorded() == ["h1"]
