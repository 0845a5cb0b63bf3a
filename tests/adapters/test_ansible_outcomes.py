"""The true outcome of every host: each known way to be misled, with real playbooks run by the real ansible-playbook."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import yaml

from reconciler.adapters.ansible import AnsibleOptions, AnsibleRunner, find_ansible_playbook
from reconciler.adapters.processes import marked
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import ChildStatus, HostOutcome
from reconciler.core.reasons import Reason
from reconciler.ports import LogLine, PlaybookResult, PlaybookWork, StopKind

pytestmark = pytest.mark.ansible

HOSTS = ("h1", "h2", "h3")
PLAY = "- hosts: all\n  gather_facts: false\n"
ON_H1 = "when: inventory_hostname == 'h1'"
DEAD = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


class Ran:
    """What came of one playbook."""

    def __init__(self, result: PlaybookResult, lines: list[LogLine], folder: Path) -> None:
        self.error = result.error
        self.folder = folder
        self.outcomes: Mapping[str, HostOutcome] = {outcome.host: outcome for outcome in result.outcomes}
        self._lines = lines

    def log(self, host: str | None) -> str:
        return "\n".join(line.text for line in self._lines if line.host == host)

    @property
    def seen(self) -> list[tuple[str, Reason | None]]:
        return [(str(self.outcomes[host].status), self.outcomes[host].reason) for host in HOSTS]


Play = Callable[..., Ran]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    def run(
        playbook: str,
        stop: Callable[[], StopKind | None] = lambda: None,
        variables: Mapping[str, object] | None = None,
        h1: Mapping[str, object] | None = None,
        hosts: tuple[str, ...] = HOSTS,
        path: str = "playbook.yml",
    ) -> Ran:
        project = tmp_path / "project"
        project.mkdir()
        (project / "playbook.yml").write_text(playbook)
        shared = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        inventory = {"all": {"hosts": {"h1": dict(h1 or {}), "h2": {}, "h3": {}}, "vars": shared}}
        (project / "hosts.yml").write_text(yaml.safe_dump(inventory))
        work = PlaybookWork(
            directory=tmp_path / "private",
            project=project,
            playbook=path,
            inventory=("hosts.yml",),
            hosts=hosts,
            extra_vars=variables or {},
            extra_vars_files=(),
            tags=(),
            skip_tags=(),
            check_mode=False,
            task_timeout=timedelta(minutes=5),
            mark={"RECONCILER_SLICE": f"{tmp_path}:1"},
        )
        lines: list[LogLine] = []
        result = AnsibleRunner(AnsibleOptions()).prepare(work).run(lines.append, stop)
        return Ran(result, lines, tmp_path / "private")

    return run


OK = ("success", None)
FAILED = ("failed", Reason.TASK_FAILED)
STOPPED = ("aborted", Reason.STOPPED_WITH_OTHERS)
MISSED = ("aborted", Reason.NEVER_REACHED)


@pytest.mark.parametrize(
    ("playbook", "expected"),
    [
        pytest.param(PLAY + "  tasks: [{debug: }]\n", [OK, OK, OK], id="all well"),
        pytest.param(
            PLAY + f"  tasks: [{{fail: {{msg: bad}}, {ON_H1}}}, {{debug: }}]\n", [FAILED, OK, OK], id="one fails"
        ),
        pytest.param(PLAY + "  tasks: [{block: [{fail: }], rescue: [{debug: }]}]\n", [OK, OK, OK], id="rescued"),
        pytest.param(PLAY + "  tasks: [{fail: , ignore_errors: true}]\n", [OK, OK, OK], id="ignore_errors"),
        pytest.param(
            PLAY + f"  any_errors_fatal: true\n  tasks: [{{fail: , {ON_H1}}}, {{debug: }}]\n",
            [FAILED, STOPPED, STOPPED],
            id="any_errors_fatal",
        ),
        pytest.param(
            PLAY + f"  max_fail_percentage: 10\n  tasks: [{{fail: , {ON_H1}}}, {{debug: }}]\n",
            [FAILED, STOPPED, STOPPED],
            id="max_fail_percentage",
        ),
        pytest.param(PLAY + "  serial: 1\n  tasks: [{fail: }]\n", [FAILED, MISSED, MISSED], id="serial"),
        pytest.param(
            PLAY + "  tasks: [{debug: }]\n" + PLAY + "  serial: 1\n  tasks: [{fail: }]\n",
            [FAILED, MISSED, MISSED],
            id="serial in a second play",
        ),
        pytest.param(
            PLAY + "  tasks: [{fail: , run_once: true}, {debug: }]\n", [FAILED, STOPPED, STOPPED], id="run_once"
        ),
        pytest.param(
            PLAY + f"  tasks: [{{fail: , {ON_H1}}}, {{meta: clear_host_errors}}, {{debug: }}]\n",
            [OK, OK, OK],
            id="clear_host_errors",
        ),
        pytest.param(PLAY + "  tasks: [{meta: end_host}]\n", [OK, OK, OK], id="end_host"),
        pytest.param(
            PLAY + f"  strategy: free\n  any_errors_fatal: true\n  tasks: [{{fail: , {ON_H1}}}, {{debug: }}]\n",
            [FAILED, OK, OK],
            id="strategy free",
        ),
        pytest.param(
            "- hosts: nobody\n  tasks: [{debug: }]\n", [("skipped", Reason.NOT_TARGETED)] * 3, id="no host matched"
        ),
        pytest.param(
            "- hosts: h1\n  gather_facts: false\n  tasks: [{debug: }]\n",
            [OK, ("skipped", Reason.NOT_TARGETED), ("skipped", Reason.NOT_TARGETED)],
            id="some not targeted",
        ),
    ],
)
def test_every_host_gets_its_true_outcome(play: Play, playbook: str, expected: list[tuple[str, Reason | None]]) -> None:
    ran = play(playbook)
    assert ran.seen == expected
    assert ran.error is None
    assert not ran.folder.exists(), "nothing private is left"


def test_an_unreachable_host_is_no_failed_one(play: Play) -> None:
    ran = play(PLAY + "  tasks: [{ping: }]\n", h1=DEAD)
    assert ran.seen == [("unreachable", Reason.CONNECTION_FAILED), OK, OK]
    assert "Connection refused" in ran.outcomes["h1"].message


def test_ignore_unreachable_is_no_failure(play: Play) -> None:
    assert play(PLAY + "  tasks: [{ping: , ignore_unreachable: true}]\n", h1=DEAD).seen == [OK, OK, OK]


def test_a_loop_says_which_item_failed(play: Play) -> None:
    ran = play(PLAY + "  tasks: [{name: Check, command: 'test {{ item }} = a', loop: [a, b]}]\n")
    assert ran.seen == [FAILED] * 3
    assert ran.outcomes["h1"].message == "item b: non-zero return code 1"
    assert ran.outcomes["h1"].task == "Check"
    assert "failed (item=b)" in ran.log("h1")
    assert ran.log("h1").count("TASK [Check]") == 1


@pytest.mark.parametrize("playbook", ["- hosts: all\n  tsks: []\n", PLAY + "  tasks: [{no.such.module: }]\n"])
def test_a_broken_playbook_is_no_hosts_fault(play: Play, playbook: str) -> None:
    ran = play(playbook)
    assert ran.error is not None
    assert {status for status, _ in ran.seen} == {"aborted"}
    assert "playbook.yml" in ran.error.message
    assert str(ran.folder.parent) not in ran.error.message


def test_a_host_that_left_the_inventory_is_aborted(play: Play) -> None:
    ran = play(PLAY + "  tasks: [{debug: }]\n", hosts=("h1", "h9"))
    assert ran.outcomes["h1"].status is ChildStatus.SUCCESS
    assert ran.outcomes["h9"].reason is Reason.HOST_GONE


def test_a_log_holds_its_own_lines_and_no_secrets(play: Play) -> None:
    secret = "- hosts: all\n  gather_facts: false\n  tasks: [{command: 'echo hunter2', no_log: true}, {debug: {msg: 'I am {{ inventory_hostname }}'}}]\n"
    ran = play(secret)
    assert "I am h1" in ran.log("h1")
    assert "h2" not in ran.log("h1")
    for whose in (*HOSTS, None):
        assert "hunter2" not in ran.log(whose)
        assert "\x1b" not in ran.log(whose)


def test_extra_vars_are_data_and_never_templates(play: Play) -> None:
    ran = play(PLAY + "  tasks: [{debug: {msg: '{{ said }}'}}]\n", variables={"said": "{{ 6 * 7 }}"})
    assert "{{ 6 * 7 }}" in ran.log("h1")
    assert "42" not in ran.log("h1")


def test_the_environment_of_the_daemon_is_not_handed_on(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    ran = play(PLAY + "  tasks: [{command: env, register: e}, {debug: {var: e.stdout}}]\n")
    assert "RECONCILER_SLICE" in ran.log("h1")
    assert "DATABASE_PASSWORD" not in ran.log("h1")


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended since it was listed
        return ""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (StopKind.DEADLINE, [("failed", Reason.DEADLINE_EXCEEDED), ("aborted", Reason.DEADLINE_EXCEEDED)]),
        (StopKind.CANCEL, [("cancelled", Reason.CANCELLED), ("cancelled", Reason.CANCELLED)]),
    ],
)
def test_being_stopped_ends_every_process_and_what_was_final_stands(
    play: Play, tmp_path: Path, kind: StopKind, expected: list[tuple[str, Reason]]
) -> None:
    tasks = f"  tasks: [{{fail: , when: inventory_hostname == 'h3'}}, {{name: Hang, command: sleep 500, {ON_H1}}}]\n"
    limit = time.monotonic() + 60

    def stop() -> StopKind | None:
        hanging = any("sleep" in command_line(process) for process in marked(f"{tmp_path}:1"))
        return kind if hanging or time.monotonic() > limit else None

    ran = play(PLAY + tasks, stop=stop)
    assert ran.seen == [*expected, FAILED]
    assert ran.outcomes["h1"].task == "Hang"
    assert marked(f"{tmp_path}:1") == ()


def test_a_playbook_outside_the_source_is_refused(play: Play) -> None:
    with pytest.raises(Refused) as refused:
        play(PLAY, path="../elsewhere.yml")
    assert refused.value.reason is Reason.PATH_OUTSIDE_SOURCE


def test_a_missing_ansible_playbook_is_said_before_anything_runs() -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        find_ansible_playbook(AnsibleOptions(ansible_playbook="/nowhere/ansible-playbook"))
