"""Playbooks that mislead in less usual ways, and what the log makes of them; all with the real ansible-playbook."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pytest

from reconciler.adapters.ansible import AnsibleOptions, AnsibleRunner, ansible_version, find_ansible_playbook
from reconciler.adapters.processes import marked
from reconciler.core.errors import Refused
from reconciler.core.facts import ChildStatus
from reconciler.core.reasons import Reason
from reconciler.ports import LogLine, StopKind
from tests.adapters.playbooks import INVENTORY, PLAY, Project, Ran

pytestmark = pytest.mark.ansible


ON_H1 = "when: inventory_hostname == 'h1'"
ON_H2 = "when: inventory_hostname == 'h2'"
SECRET = "correct-horse-battery-staple"

SUCCESS = (ChildStatus.SUCCESS, None)
FAILED = (ChildStatus.FAILED, Reason.TASK_FAILED)
STOPPED = (ChildStatus.ABORTED, Reason.STOPPED_WITH_OTHERS)
NEVER_REACHED = (ChildStatus.ABORTED, Reason.NEVER_REACHED)
NOT_TARGETED = (ChildStatus.SKIPPED, Reason.NOT_TARGETED)


def ends(ran: Ran) -> list[tuple[ChildStatus, Reason | None]]:
    return [(outcome.status, outcome.reason) for outcome in ran.result.outcomes]


# -- the true outcome ------------------------------------------------------------------------------------------------
def test_a_host_whose_failure_was_rescued_is_still_only_aborted_when_another_stops_it(tmp_path: Path) -> None:
    rescued = "{block: [{fail: {msg: mended}}], rescue: [{debug: }]}"
    ran = Project(tmp_path).run(
        f"{PLAY}  any_errors_fatal: true\n  tasks: [{rescued}, {{fail: {{msg: worn out}}, {ON_H1}}}, {{debug: }}]\n"
    )
    assert ends(ran) == [FAILED, STOPPED, STOPPED]
    assert ran.outcome("h1").message == "worn out"
    assert ran.log_of("h2")[-2:] == [
        "RECAP aborted (StoppedWithOthers): ok=1 changed=0 unreachable=0 failed=0 skipped=1 rescued=1 ignored=0",
        "  stopped by Ansible because of another host's failure",
    ]


# with any_errors_fatal, whoever is in a block with a rescue is stopped there and goes on: Ansible's own books still have
# them as failed
STOPS_ALL = f"{{block: [{{fail: {{msg: worn out}}, {ON_H1}}}], rescue: [{{debug: }}]}}"


def test_who_was_stopped_with_another_inside_a_block_and_rescued_is_a_success(tmp_path: Path) -> None:
    ran = Project(tmp_path).run(f"{PLAY}  any_errors_fatal: true\n  tasks: [{STOPS_ALL}, {{command: 'true'}}]\n")
    assert ends(ran) == [SUCCESS, SUCCESS, SUCCESS]
    assert ran.log_of("h2")[-1].startswith("RECAP success")


@pytest.mark.parametrize("hosts", ["all", "h2"])
def test_but_a_play_after_it_leaves_them_out(hosts: str, tmp_path: Path) -> None:
    again = PLAY.replace("hosts: all", f"hosts: {hosts}")
    ran = Project(tmp_path).run(
        f"{PLAY}  any_errors_fatal: true\n  tasks: [{STOPS_ALL}]\n{again}  tasks: [{{command: 'true'}}]\n"
    )
    assert ends(ran) == [SUCCESS, STOPPED, STOPPED if hosts == "all" else SUCCESS]


def test_who_fails_after_being_rescued_with_another_has_failed(tmp_path: Path) -> None:
    ran = Project(tmp_path).run(
        f"{PLAY}  any_errors_fatal: true\n  tasks: [{STOPS_ALL}, {{fail: {{msg: broken}}, {ON_H2}}}]\n"
    )
    assert ends(ran) == [STOPPED, FAILED, STOPPED]


def test_a_run_once_that_fails_in_a_block_with_a_rescue_stops_the_others_for_good(tmp_path: Path) -> None:
    once = "{block: [{fail: {msg: worn out}, run_once: true}], rescue: [{debug: }]}"
    assert ends(Project(tmp_path).run(f"{PLAY}  tasks: [{once}, {{debug: }}]\n")) == [SUCCESS, STOPPED, STOPPED]


def test_a_batch_that_was_left_out_on_purpose_is_a_success(tmp_path: Path) -> None:
    ran = Project(tmp_path).run(f"{PLAY}  serial: 1\n  tasks: [{{debug: }}, {{meta: end_play}}]\n")
    assert ends(ran) == [SUCCESS, SUCCESS, SUCCESS]


def test_nor_is_it_a_failure_when_another_host_had_failed_before(tmp_path: Path) -> None:
    ran = Project(tmp_path).run(
        f"{PLAY}  tasks: [{{fail: {{msg: worn out}}, {ON_H1}}}]\n{PLAY}  serial: 1\n  tasks: [{{meta: end_play}}]\n"
    )
    assert ends(ran) == [FAILED, SUCCESS, SUCCESS]


def test_nor_when_a_later_play_fails(tmp_path: Path) -> None:
    ran = Project(tmp_path).run(
        f"{PLAY}  serial: 1\n  tasks: [{{meta: end_play}}]\n{PLAY}  tasks: [{{fail: {{msg: worn out}}, {ON_H1}}}]\n"
    )
    assert ends(ran) == [FAILED, SUCCESS, SUCCESS]


def test_a_batch_that_never_came_after_an_earlier_failure_and_one_of_its_own_is_aborted(tmp_path: Path) -> None:
    ran = Project(tmp_path).run(
        f"{PLAY}  tasks: [{{fail: {{msg: worn out}}, {ON_H1}}}]\n"
        f"{PLAY}  serial: 1\n  tasks: [{{fail: {{msg: worn out too}}, {ON_H2}}}]\n"
    )
    assert ends(ran) == [FAILED, FAILED, NEVER_REACHED]


@pytest.mark.parametrize("between", ["", f"{PLAY}  tasks:\n"], ids=["in the same play", "in the next play"])
def test_a_failure_that_was_forgiven_does_not_come_back_when_another_host_stops_all(
    between: str, tmp_path: Path
) -> None:
    ran = Project(tmp_path).run(
        f"{PLAY}  tasks:\n    - {{fail: {{msg: forgiven}}, {ON_H1}}}\n    - meta: clear_host_errors\n"
        f"{between}    - {{fail: {{msg: worn out}}, any_errors_fatal: true, {ON_H2}}}\n    - debug:\n"
    )
    assert ends(ran) == [STOPPED, FAILED, STOPPED]
    assert ran.outcome("h2").message == "worn out"


def test_who_fails_again_after_being_forgiven_has_failed_of_that(tmp_path: Path) -> None:
    fails = [f"{{name: {name}, fail: {{msg: {name}}}, {ON_H1}}}" for name in ("forgiven", "again")]
    ran = Project(tmp_path).run(
        f"{PLAY}  tasks: [{fails[0]}, {{meta: clear_host_errors}}]\n{PLAY}  tasks: [{fails[1]}]\n"
    )
    assert ends(ran) == [FAILED, SUCCESS, SUCCESS]
    assert (ran.outcome("h1").task, ran.outcome("h1").message) == ("again", "again")


@pytest.mark.parametrize(
    "afterwards",
    [
        pytest.param("{block: [{fail: {msg: tidying}}], rescue: [{debug: }]}", id="rescued"),
        pytest.param("{fail: {msg: tidying}}", id="fails too"),
        pytest.param("{fail: {msg: tidying}, ignore_errors: true}", id="ignored"),
    ],
)
def test_what_fails_in_an_always_section_does_not_hide_why_it_came_to_that(afterwards: str, tmp_path: Path) -> None:
    block = f"{{block: [{{name: install, fail: {{msg: no space}}, {ON_H1}}}], always: [{afterwards}]}}"
    outcome = Project(tmp_path).run(f"{PLAY}  tasks: [{block}]\n").outcome("h1")
    assert (outcome.status, outcome.task, outcome.message) == (ChildStatus.FAILED, "install", "no space")


def test_a_rescue_that_fails_is_what_counts(tmp_path: Path) -> None:
    block = "{block: [{name: install, fail: {msg: no space}}], rescue: [{name: undo, fail: {msg: no way back}}]}"
    outcome = Project(tmp_path).run(f"{PLAY}  tasks: [{block}]\n").outcome("h1")
    assert (outcome.status, outcome.task, outcome.message) == (ChildStatus.FAILED, "undo", "no way back")


def test_batches_that_all_had_their_turn_are_a_success(tmp_path: Path) -> None:
    ran = Project(tmp_path).run(f"{PLAY}  serial: 1\n  tasks: [{{debug: }}]\n")
    assert ends(ran) == [SUCCESS, SUCCESS, SUCCESS]


def test_a_templated_pattern_targets_whom_it_means(tmp_path: Path) -> None:
    project = Project(tmp_path, extra_vars={"whom": "h1,h2"})
    ran = project.run('- hosts: "{{ whom }}"\n  gather_facts: false\n  serial: 1\n  tasks: [{fail: {msg: worn out}}]\n')
    assert ends(ran) == [FAILED, NEVER_REACHED, NOT_TARGETED]


def test_a_group_that_is_only_made_on_the_way_targets_its_hosts(tmp_path: Path) -> None:
    ran = Project(tmp_path).run(
        f"{PLAY}  tasks: [{{group_by: {{key: 'made_{{{{ inventory_hostname }}}}'}}}}]\n"
        "- hosts: made_h2\n  gather_facts: false\n  tasks: [{fail: {msg: worn out}}]\n"
    )
    assert ends(ran) == [SUCCESS, FAILED, SUCCESS]


def test_a_playbook_that_breaks_on_the_way_leaves_nobody_successful(tmp_path: Path) -> None:
    ran = Project(tmp_path).run(
        f"{PLAY}  tasks: [{{fail: {{msg: worn out}}, {ON_H1}}}]\n- hosts: '{{{{ nowhere }}}}'\n  tasks: []\n"
    )
    broken = (ChildStatus.ABORTED, Reason.PLAYBOOK_BROKEN)
    assert ends(ran) == [FAILED, broken, broken]
    assert ran.result.error is None, "hosts were reached: whether the next wave starts is for stopOnFailure to decide"
    assert "'nowhere' is undefined" in ran.outcome("h2").message
    assert "site.yml:4" in ran.outcome("h2").message


def test_a_question_is_not_answered_with_nothing(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    ran = Project(tmp_path).run(
        f"{PLAY}  vars_prompt: [{{name: release}}]\n  tasks: [{{command: 'touch {touched}'}}]\n"
    )
    assert ran.result.error is not None
    assert ran.result.error.reason is Reason.VARIABLE_PROMPT
    assert "release" in ran.result.error.message
    assert not touched.exists()
    assert ends(ran) == [(ChildStatus.ABORTED, Reason.VARIABLE_PROMPT)] * 3


def test_a_question_that_extra_vars_answer_is_not_asked(tmp_path: Path) -> None:
    project = Project(tmp_path, extra_vars={"release": "12"})
    ran = project.run(f"{PLAY}  vars_prompt: [{{name: release}}]\n  tasks: [{{debug: {{msg: '{{{{ release }}}}'}}}}]\n")
    assert ends(ran) == [SUCCESS, SUCCESS, SUCCESS]
    assert "  12" in ran.log_of("h1")


def soon() -> Callable[[], StopKind | None]:
    """Long enough for what does not wait for ever."""
    limit = time.monotonic() + 60
    return lambda: StopKind.DEADLINE if time.monotonic() > limit else None


@pytest.mark.parametrize("asks", ["pause: {prompt: Go on?}", "pause: "])
def test_a_pause_for_an_answer_goes_on_without_one(asks: str, tmp_path: Path) -> None:
    ran = Project(tmp_path).run(f"{PLAY}  tasks: [{{{asks}}}, {{debug: {{msg: went on}}}}]\n", soon())
    assert ends(ran) == [SUCCESS, SUCCESS, SUCCESS]
    assert "  went on" in ran.log_of("h1")
    assert "Not waiting for response" in "\n".join(ran.log_of(None))


@pytest.mark.parametrize("asks", ["[defaults]\nask_pass = true\n", "[privilege_escalation]\nbecome_ask_pass = true\n"])
def test_a_password_that_nobody_types_is_none(asks: str, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("ansible.cfg", asks)
    assert ends(project.run(f"{PLAY}  tasks: [{{debug: }}]\n", soon())) == [SUCCESS, SUCCESS, SUCCESS]


def test_a_debugger_that_nobody_answers_ends_the_playbook_and_says_so(tmp_path: Path) -> None:
    ran = Project(tmp_path).run(
        f"{PLAY}  tasks: [{{fail: {{msg: worn out}}, debugger: on_failed, {ON_H1}}}, {{debug: }}]\n", soon()
    )
    broken = (ChildStatus.ABORTED, Reason.PLAYBOOK_BROKEN)
    assert ends(ran) == [FAILED, broken, broken]
    assert "debugger" in ran.outcome("h2").message


def test_nothing_of_a_playbook_has_a_terminal(tmp_path: Path) -> None:
    asks = "if (: < /dev/tty) 2>/dev/null; then echo a terminal; else echo none; fi; readlink /proc/$PPID/fd/0"
    project = Project(tmp_path, hosts=("h1",))
    project.write("site.yml", "")
    project.write(
        "callback_plugins/asks.py",
        "import subprocess\nfrom ansible.plugins.callback import CallbackBase\n\n\n"
        "class CallbackModule(CallbackBase):\n"
        "    CALLBACK_VERSION = 2.0\n\n"
        "    def v2_playbook_on_start(self, playbook):\n"
        f"        print(subprocess.run({asks!r}, shell=True, capture_output=True, text=True).stdout)\n",
    )
    ran = project.run(f"{PLAY}  tasks: [{{debug: }}]\n")
    assert {"none", "/dev/null"} <= {line for text in ran.log_of(None) for line in text.splitlines()}


def test_an_ansible_playbook_that_can_not_be_executed_says_so(tmp_path: Path) -> None:
    program = tmp_path / "ansible-playbook"
    program.write_text("#!/nowhere/python\n")
    program.chmod(0o755)
    ran = Project(tmp_path, options=AnsibleOptions(ansible_playbook=str(program))).run(f"{PLAY}  tasks: []\n")
    assert ran.result.error is not None
    assert f"{program} can't be executed: No such file" in ran.result.error.message
    assert "ansible.ansible_playbook" in ran.result.error.hint


def encrypt(file: Path, password: Path) -> None:
    password.write_text("opens the vault\n")
    vault = Path(sys.executable).with_name("ansible-vault")
    subprocess.run([vault, "encrypt", "--vault-password-file", password, file], check=True, capture_output=True)


def test_a_wrong_vault_password_is_not_for_the_playbook_to_mend(tmp_path: Path) -> None:
    project = Project(tmp_path, extra_vars_files=("secrets.yml",))
    encrypt(project.write("secrets.yml", f"token: {SECRET}\n"), tmp_path / "right")
    (tmp_path / "wrong").write_text("does not\n")
    for given in (AnsibleOptions(vault_password_files=(tmp_path / "wrong",)), AnsibleOptions()):
        project.options = given
        error = project.run(f"{PLAY}  tasks: [{{debug: }}]\n").result.error
        assert error is not None
        assert error.reason is Reason.PLAYBOOK_BROKEN
        assert "ansible.vault_password_files" in error.hint, error


def test_a_vault_password_that_nobody_types_is_missing(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("ansible.cfg", "[defaults]\nask_vault_pass = true\n")
    error = project.run(f"{PLAY}  tasks: [{{debug: }}]\n", soon()).result.error
    assert error is not None
    assert "ansible.vault_password_files" in error.hint, error


def test_an_ansible_playbook_below_the_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "ansible-playbook"
    program.parent.mkdir()
    program.symlink_to(Path(sys.executable).with_name("ansible-playbook"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_ansible_playbook(AnsibleOptions(ansible_playbook="~/bin/ansible-playbook")) == program


def test_killed_from_outside_nothing_is_known(tmp_path: Path) -> None:
    """By the kernel when memory runs out, for one. It is no end of its own, whatever started it."""
    project = Project(tmp_path, hosts=("h1",))

    def kill() -> None:
        for process in marked(project.mark):
            with contextlib.suppress(psutil.NoSuchProcess):
                if (tmp_path / "inside").exists() and "ansible-playbook" in " ".join(process.cmdline()):
                    process.kill()

    ran = project.run(f"{PLAY}  tasks: [{{shell: 'touch {tmp_path}/inside; sleep 300'}}]\n", kill)
    assert ends(ran) == [(ChildStatus.UNKNOWN, Reason.SLICE_LOST)]


def test_who_was_inside_a_task_when_a_worker_of_ansible_is_killed_is_unknown(tmp_path: Path) -> None:
    """As the kernel does when memory is short. Ansible gives up then, without saying for whom the worker worked."""
    kills_its_worker = "\"{{ lookup('pipe', 'sleep 2; kill -9 $PPID') if inventory_hostname == 'h1' else 'fine' }}\""
    ran = Project(tmp_path).run(f"{PLAY}  tasks: [{{name: big, debug: {{msg: {kills_its_worker}}}}}]\n")
    assert [status for status, _ in ends(ran)] == [ChildStatus.UNKNOWN, ChildStatus.ABORTED, ChildStatus.ABORTED]
    assert ran.result.error is None
    assert ran.outcome("h1").task == "big"
    assert "memory" in ran.outcome("h1").message


def test_all_hosts_gone_is_no_broken_playbook(tmp_path: Path) -> None:
    ran = Project(tmp_path, hosts=("h8", "h9")).run(f"{PLAY}  tasks: [{{debug: }}]\n")
    assert ends(ran) == [(ChildStatus.ABORTED, Reason.HOST_GONE)] * 2
    assert ran.result.error is None


def test_a_task_that_hangs_fails_alone_and_its_mates_go_on(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("ansible.cfg", "[defaults]\ntask_timeout = 2\n")
    ran = project.run(f"{PLAY}  tasks: [{{name: hang, command: sleep 300, {ON_H1}}}, {{debug: {{msg: went on}}}}]\n")
    assert ends(ran) == [(ChildStatus.FAILED, Reason.DEADLINE_EXCEEDED), SUCCESS, SUCCESS]
    assert ran.outcome("h1").task == "hang"
    assert "  went on" in ran.log_of("h2")
    assert marked(project.mark) == ()


@pytest.mark.parametrize("own", ["", "[defaults]\ntask_timeout = 900\n"])
def test_the_manifests_task_timeout_holds_unless_the_users_is_smaller(own: str, tmp_path: Path) -> None:
    project = Project(tmp_path, hosts=("h1",))
    project.write("ansible.cfg", own)
    project.write("site.yml", f"{PLAY}  tasks: [{{command: sleep 300}}]\n")
    work = project.work()
    short = dataclasses.replace(work, task_timeout=timedelta(seconds=2))
    (outcome,) = AnsibleRunner(project.options).prepare(short).run(lambda line: None, lambda: None).outcomes
    assert (outcome.status, outcome.reason) == (ChildStatus.FAILED, Reason.DEADLINE_EXCEEDED)


@pytest.mark.parametrize(("own", "there"), [("", "settings"), ("[defaults]\ninventory = own.yml\n", "ansible.cfg")])
def test_without_an_inventory_of_its_own_the_work_runs_where_its_hosts_were_selected(
    own: str, there: str, tmp_path: Path
) -> None:
    project = Project(tmp_path, hosts=("h1",), options=AnsibleOptions(default_inventory=("hosts.yml",)))
    project.inventory = INVENTORY.replace("vars: {", "vars: {from_where: settings, ")
    project.write("own.yml", INVENTORY.replace("vars: {", "vars: {from_where: ansible.cfg, "))
    project.write("ansible.cfg", own)
    project.write("site.yml", f"{PLAY}  tasks: [{{fail: {{msg: '{{{{ from_where }}}}'}}}}]\n")
    unnamed = dataclasses.replace(project.work(), inventory=())
    (outcome,) = AnsibleRunner(project.options).prepare(unnamed).run(lambda line: None, lambda: None).outcomes
    assert outcome.message == there


def test_an_unknown_module_in_an_included_file_breaks_the_playbook_on_the_way(tmp_path: Path) -> None:
    project = Project(tmp_path, hosts=("h1",))
    project.write("more.yml", "- no.such.module:\n")
    ran = project.run(f"{PLAY}  tasks: [{{include_tasks: more.yml}}]\n")
    assert ends(ran) == [(ChildStatus.ABORTED, Reason.MISSING_COLLECTION)]
    assert "more.yml:1" in ran.outcome("h1").message


def test_a_result_that_comes_because_we_end_it_is_no_failure(tmp_path: Path) -> None:
    project, inside = Project(tmp_path, hosts=("h1",)), tmp_path / "inside"
    on_term = f"trap 'exit 3' TERM; touch {inside}; while true; do sleep 0.1; done"
    ran = project.run(
        f'{PLAY}  tasks: [{{shell: "{on_term}"}}]\n', lambda: StopKind.CANCEL if inside.exists() else None
    )
    assert ends(ran) == [(ChildStatus.CANCELLED, Reason.CANCELLED)]


def test_a_lost_lease_proves_nothing(tmp_path: Path) -> None:
    project, inside = Project(tmp_path, hosts=("h1",)), tmp_path / "inside"
    ran = project.run(
        f"{PLAY}  tasks: [{{shell: 'touch {inside}; sleep 300'}}]\n",
        lambda: StopKind.LOST if inside.exists() else None,
    )
    assert ends(ran) == [(ChildStatus.UNKNOWN, Reason.SLICE_LOST)]


def test_a_disk_that_is_full_for_a_moment_costs_no_outcome(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(
        "callback_plugins/full.py",
        "import builtins, errno\n"
        "from ansible.plugins.callback import CallbackBase\n\n"
        "really_open, opened = builtins.open, []\n\n\n"
        "def full(path, *args, **kwargs):\n"
        "    file = really_open(path, *args, **kwargs)\n"
        "    if str(path).endswith('companion.jsonl'):\n"
        "        opened.append(file)\n"
        "        if len(opened) == 2:\n"
        "            file.write('half of a li')\n"
        "            file.close()\n"
        "            raise OSError(errno.ENOSPC, 'no space left on device')\n"
        "    return file\n\n\n"
        "builtins.open = full\n\n\n"
        "class CallbackModule(CallbackBase):\n"
        "    CALLBACK_VERSION = 2.0\n",
    )
    ran = project.run(f"{PLAY}  serial: 1\n  tasks: [{{fail: {{msg: worn out}}}}]\n")
    assert ends(ran) == [FAILED, NEVER_REACHED, NEVER_REACHED]
    assert "no space left on device" in "\n".join(ran.log_of(None))


# -- how it ends, whatever happens -----------------------------------------------------------------------------------
def test_a_log_that_can_not_be_written_ends_the_playbook(tmp_path: Path) -> None:
    project = Project(tmp_path, hosts=("h1",))
    project.write("site.yml", f"{PLAY}  tasks: [{{debug: }}, {{command: sleep 300}}]\n")

    def full(line: LogLine) -> None:
        raise OSError("no space left on device")

    prepared = AnsibleRunner(project.options).prepare(project.work())
    with pytest.raises(OSError, match="no space left"):
        prepared.run(full, lambda: None)
    assert marked(project.mark) == ()
    assert not project.directory.exists()


def test_what_a_playbook_left_running_is_ended_with_it(tmp_path: Path) -> None:
    project = Project(tmp_path, hosts=("h1",))
    ran = project.run(f"{PLAY}  tasks: [{{command: sleep 300, async: 300, poll: 0}}]\n")
    assert ends(ran) == [SUCCESS]
    assert marked(project.mark) == ()


def test_a_process_that_keeps_the_output_open_hides_no_result(tmp_path: Path) -> None:
    project = Project(tmp_path, hosts=("h1",))
    project.write(
        "callback_plugins/keeper.py",
        "import subprocess, sys\n"
        "from ansible.plugins.callback import CallbackBase\n\n\n"
        "class CallbackModule(CallbackBase):\n"
        "    CALLBACK_VERSION = 2.0\n\n"
        "    def v2_playbook_on_start(self, playbook):\n"
        "        subprocess.Popen(['sleep', '300'], stdout=sys.stdout, start_new_session=True)\n",
    )
    ran = project.run(f"{PLAY}  tasks: [{{debug: {{msg: done}}}}]\n")
    assert ends(ran) == [SUCCESS]
    assert "  done" in ran.log_of("h1")
    assert marked(project.mark) == ()


def test_when_ansible_runner_gives_up_waiting_for_the_end_of_the_output_what_was_proven_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises then, after everything has ended (ansible-runner #1343)."""
    expect = pexpect.spawn.expect

    def give_up(child: Any, patterns: Any, **others: Any) -> Any:
        found = expect(child, patterns, **others)
        if patterns is pexpect.EOF:
            raise pexpect.TIMEOUT("timeout exceeded")
        return found

    monkeypatch.setattr(pexpect.spawn, "expect", give_up)
    ran = Project(tmp_path).run(f"{PLAY}  tasks: [{{fail: {{msg: worn out}}, {ON_H1}}}]\n")
    assert ends(ran) == [FAILED, SUCCESS, SUCCESS]


def test_nothing_is_written_into_the_project(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(
        "filter_plugins/shout.py", "class FilterModule:\n    def filters(self):\n        return {'shout': str.upper}\n"
    )
    project.write("site.yml", f"{PLAY}  tasks: [{{fail: {{msg: \"{{{{ 'no' | shout }}}}\"}}}}]\n")
    project.work()
    before = sorted((tmp_path / "project").rglob("*"))
    ran = project.run((tmp_path / "project" / "site.yml").read_text())
    assert ran.outcome("h1").message == "NO"
    assert sorted((tmp_path / "project").rglob("*")) == before


@pytest.mark.parametrize("name", ["private_key_file", "become_password_file", "known_hosts_file"])
def test_a_setting_that_names_no_file_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {name: tmp_path / "nowhere"}
    project = Project(tmp_path, options=AnsibleOptions(**given))
    project.write("site.yml", PLAY)
    with pytest.raises(Refused, match=f"ansible.{name} is .*nowhere") as caught:
        AnsibleRunner(project.options).prepare(project.work())
    assert caught.value.reason is Reason.SETTINGS_INVALID
    assert caught.value.hint


def test_ansible_says_which_version_it_is() -> None:
    assert re.match(r"ansible-playbook \[core 2\.\d+", ansible_version(AnsibleOptions()))


# -- secrets ---------------------------------------------------------------------------------------------------------
def test_a_vaulted_scalar_among_extra_vars_reaches_its_task_and_nothing_else(tmp_path: Path) -> None:
    password = tmp_path / "vault-password"
    password.write_text("opens the vault\n")
    vault = Path(sys.executable).with_name("ansible-vault")
    encrypted = subprocess.run(
        [vault, "encrypt", "--vault-password-file", password, "--output", "-"],
        input=SECRET, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    project = Project(
        tmp_path,
        hosts=("h1",),
        options=AnsibleOptions(vault_password_files=(password,)),
        extra_vars={"inner": {"token": {"__ansible_vault": encrypted}}},
    )
    got = tmp_path / "got"
    use = f'{{no_log: true, copy: {{content: "{{{{ inner.token }}}}", dest: {got}}}}}'
    ran = project.run(f"{PLAY}  tasks: [{use}]\n")
    assert ends(ran) == [SUCCESS]
    assert got.read_text() == SECRET
    assert SECRET not in repr(ran)


def test_extra_vars_are_on_no_command_line(tmp_path: Path) -> None:
    project, seen = Project(tmp_path, hosts=("h1",), extra_vars={"word": SECRET}), tmp_path / "seen"
    ran = project.run(f"{PLAY}  tasks: [{{shell: 'cat /proc/[0-9]*/cmdline > {seen} 2>/dev/null || true'}}]\n")
    assert ends(ran) == [SUCCESS]
    assert b"ansible-playbook" in seen.read_bytes()
    assert SECRET.encode() not in seen.read_bytes()


# -- the log ---------------------------------------------------------------------------------------------------------
def test_handlers_retries_and_delegated_tasks_are_under_the_host_they_are_for(tmp_path: Path) -> None:
    ran = Project(tmp_path, hosts=("h1",)).run(
        f"{PLAY}  tasks:\n"
        "    - {name: again, command: 'false', retries: 1, delay: 0, register: r, until: r.rc == 0, ignore_errors: true}\n"
        "    - {name: elsewhere, command: 'true', delegate_to: h2, notify: afterwards}\n"
        f"    - {{name: not now, debug: , when: false}}\n"
        "  handlers: [{name: afterwards, command: 'true'}]\n"
    )
    assert ran.log_of("h1") == [
        "PLAY [all]",
        "TASK [again]",
        "retrying (1 left)",
        "  rc: 1",
        "  non-zero return code",
        "failed (ignored)",
        "  rc: 1",
        "  non-zero return code",
        "TASK [elsewhere]",
        "changed (delegated to h2)",
        "TASK [not now]",
        "skipped",
        "HANDLER [afterwards]",
        "changed",
        "RECAP success: ok=3 changed=3 unreachable=0 failed=0 skipped=1 rescued=0 ignored=1",
    ]
    assert ran.log_of("h2") == []


def test_a_hidden_loop_shows_neither_its_items_nor_its_output(tmp_path: Path) -> None:
    loop = f"{{name: logins, command: 'echo {{{{ item }}}}', loop: [{SECRET}], no_log: true}}"
    ran = Project(tmp_path, hosts=("h1",)).run(f"{PLAY}  tasks: [{loop}]\n")
    log = ran.log_of("h1")
    assert "changed" in log
    assert [line for line in log if "no_log: true" in line]
    assert SECRET not in repr(ran)


def test_a_dry_run_shows_what_would_change(tmp_path: Path) -> None:
    project, motd = Project(tmp_path, hosts=("h1",)), tmp_path / "motd"
    motd.write_text("old\n")
    project.write("site.yml", f'{PLAY}  tasks: [{{name: greeting, copy: {{content: "new\\n", dest: {motd}}}}}]\n')
    work = project.work()
    looking = dataclasses.replace(work, check_mode=True)
    lines: list[str] = []
    AnsibleRunner(project.options).prepare(looking).run(lambda line: lines.append(line.text), lambda: None)
    assert motd.read_text() == "old\n"
    assert {"-old", "+new"} <= {part for text in lines for part in text.splitlines()}


def test_warnings_and_what_belongs_to_no_host_are_in_the_runs_log(tmp_path: Path) -> None:
    project = Project(tmp_path, hosts=("h1",))
    project.write(
        "library/careful.py",
        "from ansible.module_utils.basic import AnsibleModule\n"
        "module = AnsibleModule({})\n"
        "module.warn('this disk is old')\n"
        "module.exit_json()\n",
    )
    ran = project.run(f"- hosts: nowhere\n  tasks: []\n{PLAY}  tasks: [{{careful: }}, {{careful: }}]\n")
    run_log = "\n".join(ran.log_of(None))
    assert run_log.count("[WARNING] h1: this disk is old") == 1
    assert "Could not match supplied host pattern, ignoring: nowhere" in run_log
    assert "PLAY [all]" in run_log
    assert "no hosts matched" in run_log
    assert "***" not in run_log
    assert ran.log_of("h1")[:4] == ["PLAY [all]", "TASK [careful]", "ok", "TASK [careful]"]
