"""What a run of ansible-playbook says, what it hides, what it is given, and how it is ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_runner.runner import Runner as RunnerProcess

from reconciler.adapters.ansible import AnsibleOptions, AnsibleRunner
from reconciler.adapters.processes import marked
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import ChildStatus
from reconciler.core.reasons import Reason
from reconciler.ports import StopKind
from tests.adapters.playbooks import PLAY, Project

pytestmark = pytest.mark.ansible

SECRET = "correct-horse-battery-staple"
H1_FAILS = "{name: boom, fail: {msg: worn out}, when: inventory_hostname == 'h1'}"


# -- the log ---------------------------------------------------------------------------------------------------------
def test_each_log_holds_its_hosts_lines_and_every_header_once(tmp_path: Path) -> None:
    say = "{name: greet, debug: {msg: 'I am {{ inventory_hostname }}'}}"
    ran = Project(tmp_path).run(f"{PLAY}  name: greetings\n  tasks: [{say}]\n")
    for host in ("h1", "h2", "h3"):
        assert ran.log_of(host) == [
            "PLAY [greetings]",
            "TASK [greet]",
            "ok",
            f"  I am {host}",
            "RECAP success: ok=1 changed=0 unreachable=0 failed=0 skipped=0 rescued=0 ignored=0",
        ]
    assert not [text for text in ran.log_of(None) if "I am" in text]


def test_failing_loop_items_are_in_the_log(tmp_path: Path) -> None:
    loop = "{name: tries, shell: 'echo about {{ item }} >&2; exit {{ item }}', loop: [0, 3, 4]}"
    ran = Project(tmp_path, hosts=("h1",)).run(f"{PLAY}  tasks: [{loop}]\n")
    log = ran.log_of("h1")
    assert log.count("TASK [tries]") == 1
    assert [line for line in log if "item=" in line] == ["changed (item=0)", "failed (item=3)", "failed (item=4)"]
    assert log[log.index("failed (item=3)") :][:4] == [
        "failed (item=3)",
        "  rc: 3",
        "  non-zero return code",
        "  stderr: about 3",
    ]
    assert ran.outcome("h1").message == "item 4: non-zero return code 4: about 4"


def test_no_item_of_a_loop_speaks_to_the_terminal_or_begins_a_line(tmp_path: Path) -> None:
    play = (
        PLAY
        + r"""  tasks:
    - name: "odd \e[2J"
      debug: {msg: "{{ item }}"}
      loop: ["\e]0;owned\a", "\e[2J", "two\nlines"]
"""
    )
    ran = Project(tmp_path, hosts=("h1",)).run(play)
    log = ran.log_of("h1")
    assert not [line for line in log if any(ord(letter) < 32 for letter in line)]
    assert "ok (item=two lines)" in log


def test_there_are_no_terminal_codes(tmp_path: Path) -> None:
    project = Project(tmp_path, hosts=("h1",))
    project.write("ansible.cfg", "[defaults]\nforce_color = true\n")
    paint = r"printf '\033[31mred\033[0m' >&2; exit 1"
    ran = project.run(f"{PLAY}  tasks:\n    - name: paint\n      shell: {paint}\n")
    assert "  stderr: red" in ran.log_of("h1")
    assert not [line for line in ran.lines if "\x1b" in line.text]
    assert ran.outcome("h1").message == "non-zero return code 1: red"


def test_what_no_log_hides_is_nowhere(tmp_path: Path) -> None:
    hidden = f"{{name: login, shell: 'echo {SECRET}; exit 1', no_log: true}}"
    ran = Project(tmp_path, hosts=("h1",)).run(f"{PLAY}  tasks: [{hidden}]\n")
    outcome = ran.outcome("h1")
    assert (outcome.status, outcome.task) == (ChildStatus.FAILED, "login")
    assert "no_log: true" in outcome.message
    assert [line for line in ran.log_of("h1") if "no_log: true" in line]
    assert SECRET not in repr(ran)


# -- what it is given ------------------------------------------------------------------------------------------------
def test_extra_vars_are_data_and_never_templates(tmp_path: Path) -> None:
    odd = {"text": "{{ 1 + 1 }}", "inner": [{"deep": "{% if true %}no{% endif %}"}]}
    not_numbers = {"mode": "0644", "on": "yes", "time": "22:30", "none": "", "merge": "<<", "day": "2026-01-01"}
    project = Project(
        tmp_path, hosts=("h1",), extra_vars={"odd": odd, "not_numbers": not_numbers, "size": 7, "sure": True}
    )
    same = f"""{PLAY}  tasks:
    - assert:
        that:
          - odd.text == '{{' + '{{ 1 + 1 }}' + '}}'
          - odd.inner[0].deep == '{{' + '% if true %' + '}}no{{' + '% endif %' + '}}'
          - {json.dumps(f"not_numbers == {not_numbers}")}
          - size is integer
          - sure is boolean
    - debug: {{msg: '{{{{ odd.text }}}}'}}
"""
    ran = project.run(same)
    assert ran.outcome("h1").message == ""
    assert ran.outcome("h1").status is ChildStatus.SUCCESS
    assert "  {{ 1 + 1 }}" in ran.log_of("h1")


def test_a_vaulted_secret_reaches_its_task_and_nothing_else(tmp_path: Path) -> None:
    password = tmp_path / "vault-password"
    password.write_text("opens the vault\n")
    project = Project(
        tmp_path,
        hosts=("h1",),
        options=AnsibleOptions(vault_password_files=(password,)),
        extra_vars_files=("secrets.yml",),
    )
    secrets = project.write("secrets.yml", f"token: {SECRET}\n")
    vault = Path(sys.executable).with_name("ansible-vault")
    subprocess.run([vault, "encrypt", "--vault-password-file", password, secrets], check=True, capture_output=True)
    assert SECRET not in secrets.read_text()

    inside, release, got = tmp_path / "inside", tmp_path / "release", tmp_path / "got"
    leaks: list[str] = []

    def look() -> None:
        if inside.exists() and not release.exists():
            files = [*project.directory.rglob("*")]
            assert project.directory / "companion.jsonl" in files
            processes = Path("/proc").glob("[0-9]*/cmdline")
            leaks.extend(str(path) for path in (*files, *processes) if SECRET.encode() in _bytes(path))
            release.touch()

    use = f"""{PLAY}  tasks:
    - name: use it
      no_log: true
      shell:
        cmd: "cat > {got}; touch {inside}; until test -e {release}; do sleep 0.1; done"
        stdin: "{{{{ token }}}}"
        stdin_add_newline: false
"""
    ran = project.run(use, look)
    assert ran.outcome("h1").status is ChildStatus.SUCCESS
    assert got.read_text() == SECRET
    assert release.exists()
    assert leaks == []
    assert SECRET not in repr(ran)


def _bytes(path: Path) -> bytes:
    """Empty for what is no file, and for a process that has ended meanwhile."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_the_daemons_environment_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_DATABASE__URL", f"postgresql://reconciler:{SECRET}@db/reconciler")
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setenv("DEPLOY_REGION", "north")
    environment = tmp_path / "environment"
    project = Project(tmp_path, hosts=("h1",), options=AnsibleOptions(pass_env=("DEPLOY_REGION",)))
    ran = project.run(f'{PLAY}  tasks: [{{shell: \'tr "\\\\0" "\\\\n" < /proc/self/environ > {environment}\'}}]\n')
    assert ran.outcome("h1").status is ChildStatus.SUCCESS
    given = dict(line.split("=", 1) for line in environment.read_text().splitlines() if "=" in line)
    assert SECRET not in environment.read_text()
    assert "PGPASSWORD" not in given
    assert given["DEPLOY_REGION"] == "north"
    assert given["RECONCILER_SLICE"] == project.mark


def test_the_users_own_callbacks_stay_enabled_beside_the_companion(tmp_path: Path) -> None:
    project = Project(tmp_path)
    noted = tmp_path / "noted"
    project.write("ansible.cfg", "[defaults]\ncallbacks_enabled = note\n")
    project.write(
        "callback_plugins/note.py",
        "from ansible.plugins.callback import CallbackBase\n\n\n"
        "class CallbackModule(CallbackBase):\n"
        "    CALLBACK_VERSION = 2.0\n"
        "    CALLBACK_NAME = 'note'\n"
        "    CALLBACK_NEEDS_ENABLED = True\n\n"
        "    def v2_playbook_on_stats(self, stats):\n"
        f"        open({str(noted)!r}, 'w').close()\n",
    )
    ran = project.run(f"{PLAY}  any_errors_fatal: true\n  tasks: [{H1_FAILS}, {{debug: }}]\n")
    assert noted.exists()
    assert ran.outcome("h2").reason is Reason.STOPPED_WITH_OTHERS, "only the companion knows"


# -- how it is ended -------------------------------------------------------------------------------------------------
def _hang_on_h2(inside: Path) -> str:
    """h2 hangs in a task that has also started something in a session of its own; h1 has failed before."""
    command = f"setsid sleep 300 & touch {inside}; sleep 300"
    hang = f"{{name: hang, shell: '{command}', when: inventory_hostname == 'h2'}}"
    return f"{PLAY}  tasks: [{H1_FAILS}, {hang}, {{ping: }}]\n"


def test_cancel_ends_every_process_of_the_slice(tmp_path: Path) -> None:
    project, inside = Project(tmp_path), tmp_path / "inside"
    seen: list[str] = []

    def cancel() -> StopKind | None:
        if not inside.exists():
            return None
        seen.extend(process.name() for process in marked(project.mark))
        return StopKind.CANCEL

    ran = project.run(_hang_on_h2(inside), cancel)
    assert "sleep" in seen
    assert marked(project.mark) == ()
    assert [(found.status, found.reason, found.message, found.task) for found in ran.result.outcomes] == [
        (ChildStatus.FAILED, Reason.TASK_FAILED, "worn out", "boom"),
        (ChildStatus.CANCELLED, Reason.CANCELLED, "cancelled in task hang", "hang"),
        (ChildStatus.CANCELLED, Reason.CANCELLED, "cancelled", None),
    ]


def test_at_the_deadline_the_host_inside_a_task_has_failed_and_the_others_are_aborted(tmp_path: Path) -> None:
    project, inside = Project(tmp_path), tmp_path / "inside"
    ran = project.run(_hang_on_h2(inside), lambda: StopKind.DEADLINE if inside.exists() else None)
    late = Reason.DEADLINE_EXCEEDED
    assert marked(project.mark) == ()
    assert [(found.status, found.reason, found.message, found.task) for found in ran.result.outcomes] == [
        (ChildStatus.FAILED, Reason.TASK_FAILED, "worn out", "boom"),
        (ChildStatus.FAILED, late, "timeouts.wave passed in task hang", "hang"),
        (ChildStatus.ABORTED, late, "timeouts.wave passed before this host was done", None),
    ]


def test_a_bug_of_ansible_runner_costs_no_host_whose_end_is_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It stops to read when h2's task begins, and the playbook is ended."""
    take = RunnerProcess.event_callback

    def stumble(process: RunnerProcess, event: dict[str, Any]) -> None:
        take(process, event)
        if event.get("event") == "runner_on_start" and event["event_data"]["task"] == "hang":
            raise LookupError("nobody thought of that")

    monkeypatch.setattr(RunnerProcess, "event_callback", stumble)
    project = Project(tmp_path, hosts=("h1", "h2"))
    ran = project.run(_hang_on_h2(tmp_path / "inside"))
    assert marked(project.mark) == ()
    assert [(outcome.status, outcome.reason) for outcome in ran.result.outcomes] == [
        (ChildStatus.FAILED, Reason.TASK_FAILED),
        (ChildStatus.UNKNOWN, Reason.SLICE_LOST),
    ]
    assert "LookupError('nobody thought of that')" in "\n".join(ran.log_of(None))
    assert "nobody thought of that" in caplog.text


# -- what is refused before anything starts --------------------------------------------------------------------------
@pytest.mark.parametrize("playbook", ["../outside.yml", "link.yml"])
def test_a_playbook_outside_the_project_is_refused(playbook: str, tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / "outside.yml").write_text(PLAY)
    work = project.work(playbook)
    (work.project / "link.yml").symlink_to(tmp_path / "outside.yml")
    with pytest.raises(Refused) as caught:
        AnsibleRunner(project.options).prepare(work)
    assert caught.value.reason is Reason.PATH_OUTSIDE_SOURCE
    assert not project.directory.exists()


def test_without_ansible_playbook_nothing_is_available(tmp_path: Path) -> None:
    project = Project(tmp_path, options=AnsibleOptions(ansible_playbook=str(tmp_path / "ansible-playbook")))
    project.write("site.yml", PLAY)
    with pytest.raises(Unavailable) as caught:
        AnsibleRunner(project.options).prepare(project.work())
    assert caught.value.reason is Reason.ANSIBLE_MISSING
    assert not project.directory.exists()
