"""The true outcome of every host, as real playbooks leave it: whatever exit code and stats of Ansible make of it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from reconciler.core.facts import ChildStatus
from reconciler.core.reasons import Reason
from tests.adapters.playbooks import INVENTORY, PLAY, Project

pytestmark = pytest.mark.ansible

Truth = tuple[ChildStatus, Reason | None, str]

SUCCESS: Truth = (ChildStatus.SUCCESS, None, "")
STOPPED: Truth = (
    ChildStatus.ABORTED,
    Reason.STOPPED_WITH_OTHERS,
    "stopped by Ansible because of another host's failure",
)
NEVER_REACHED: Truth = (
    ChildStatus.ABORTED,
    Reason.NEVER_REACHED,
    "the playbook ended before a play that targets this host came to it",
)
NOT_TARGETED: Truth = (
    ChildStatus.SKIPPED,
    Reason.NOT_TARGETED,
    "no play of the playbook targets this host",
)
LOST: Truth = (
    ChildStatus.UNKNOWN,
    Reason.SLICE_LOST,
    "ansible-playbook was ended from outside before it was done with this host",
)
REFUSED_BY_SSH: Truth = (
    ChildStatus.UNREACHABLE,
    Reason.CONNECTION_FAILED,
    "Task failed: Failed to connect to the host via ssh: ssh: connect to host 127.0.0.9 port 1: Connection refused",
)
H1_IS_DOWN = INVENTORY.replace("h1: ,", "h1: {ansible_connection: ssh, ansible_host: 127.0.0.9, ansible_port: 1},")
H1_FAILS = "{name: boom, fail: {msg: worn out}, when: inventory_hostname == 'h1'}"


def failed(message: str) -> Truth:
    return ChildStatus.FAILED, Reason.TASK_FAILED, message


@dataclass(frozen=True, slots=True)
class Case:
    """A playbook, and what is true of h1, h2 and h3 after it."""

    playbook: str
    truth: tuple[Truth, Truth, Truth]
    inventory: str = INVENTORY


CASES = {
    "all is well": Case(f"{PLAY}  tasks: [{{command: 'true'}}]\n", (SUCCESS, SUCCESS, SUCCESS)),
    "a task fails": Case(
        f"{PLAY}  tasks: [{H1_FAILS}, {{debug: }}]\n",
        (failed("worn out"), SUCCESS, SUCCESS),
    ),
    "a task fails and is rescued": Case(
        f"{PLAY}  tasks: [{{block: [{H1_FAILS}], rescue: [{{debug: }}]}}]\n",
        (SUCCESS, SUCCESS, SUCCESS),
    ),
    "ignore_errors": Case(
        f"{PLAY}  tasks: [{{fail: {{msg: worn out}}, ignore_errors: true}}]\n",
        (SUCCESS, SUCCESS, SUCCESS),
    ),
    "a loop item fails": Case(
        f"{PLAY}  tasks: [{{command: 'test {{{{ item }}}} != {{{{ inventory_hostname }}}}', loop: [h1, h4]}}]\n",
        (failed("item h1: non-zero return code 1"), SUCCESS, SUCCESS),
    ),
    "any_errors_fatal": Case(
        f"{PLAY}  any_errors_fatal: true\n  tasks: [{H1_FAILS}, {{debug: }}]\n",
        (failed("worn out"), STOPPED, STOPPED),
    ),
    "max_fail_percentage": Case(
        f"{PLAY}  max_fail_percentage: 10\n  tasks: [{H1_FAILS}, {{debug: }}]\n",
        (failed("worn out"), STOPPED, STOPPED),
    ),
    "serial, and the first batch fails": Case(
        f"{PLAY}  serial: 1\n  tasks: [{H1_FAILS}]\n",
        (failed("worn out"), NEVER_REACHED, NEVER_REACHED),
    ),
    "an earlier play breaks off": Case(
        f"{PLAY}  tasks: [{{debug: }}]\n{PLAY}  serial: 1\n  tasks: [{H1_FAILS}]\n",
        (failed("worn out"), NEVER_REACHED, NEVER_REACHED),
    ),
    "run_once fails": Case(
        f"{PLAY}  tasks: [{{fail: {{msg: worn out}}, run_once: true}}, {{debug: }}]\n",
        (failed("worn out"), STOPPED, STOPPED),
    ),
    "ignore_unreachable": Case(
        f"{PLAY}  tasks: [{{ping: , ignore_unreachable: true}}]\n",
        (SUCCESS, SUCCESS, SUCCESS),
        H1_IS_DOWN,
    ),
    "unreachable": Case(f"{PLAY}  tasks: [{{ping: }}]\n", (REFUSED_BY_SSH, SUCCESS, SUCCESS), H1_IS_DOWN),
    "no hosts matched": Case("- hosts: nowhere\n  tasks: [{ping: }]\n", (NOT_TARGETED, NOT_TARGETED, NOT_TARGETED)),
    "a play for some": Case(
        "- hosts: h1\n  gather_facts: false\n  tasks: [{ping: }]\n", (SUCCESS, NOT_TARGETED, NOT_TARGETED)
    ),
    "clear_host_errors after a failure": Case(
        f"{PLAY}  tasks: [{H1_FAILS}, {{meta: clear_host_errors}}]\n",
        (SUCCESS, SUCCESS, SUCCESS),
    ),
    "end_host as the first task": Case(f"{PLAY}  tasks: [{{meta: end_host}}]\n", (SUCCESS, SUCCESS, SUCCESS)),
    "strategy free does not honour any_errors_fatal": Case(
        f"{PLAY}  strategy: free\n  any_errors_fatal: true\n  tasks: [{H1_FAILS}, {{debug: }}]\n",
        (failed("worn out"), SUCCESS, SUCCESS),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_truth_of_every_host(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    result = Project(tmp_path, case.inventory).run(case.playbook).result
    assert tuple((found.status, found.reason, found.message) for found in result.outcomes) == case.truth
    assert result.error is None


@pytest.mark.parametrize(
    ("playbook", "reason", "message"),
    [
        pytest.param(
            "- hosts: all\n  tsks: []\n",
            Reason.PLAYBOOK_BROKEN,
            "'tsks' is not a valid attribute for a Play\nOrigin: site.yml:2:3",
            id="syntax error",
        ),
        pytest.param(
            "- hosts: all\n  tasks: [{no_such_module: {}}]\n",
            Reason.MISSING_COLLECTION,
            "couldn't resolve module/action 'no_such_module'.",
            id="unknown module",
        ),
    ],
)
def test_a_broken_playbook_is_no_hosts_fault(playbook: str, reason: Reason, message: str, tmp_path: Path) -> None:
    result = Project(tmp_path).run(playbook).result
    assert result.error is not None
    assert result.error.reason is reason
    assert result.error.message.startswith(message)
    assert str(tmp_path) not in result.error.message
    for outcome in result.outcomes:
        assert (outcome.status, outcome.reason) == (ChildStatus.ABORTED, reason)
        assert outcome.message == result.error.message


def test_hosts_that_the_inventory_no_longer_has(tmp_path: Path) -> None:
    project = Project(tmp_path, hosts=("h1", "h9"))
    result = project.run(f"{PLAY}  tasks: [{{ping: }}]\n").result
    assert [(found.status, found.reason, found.message) for found in result.outcomes] == [
        SUCCESS,
        (ChildStatus.ABORTED, Reason.HOST_GONE, "the inventory no longer has this host"),
    ]


def test_killed_from_outside_what_was_proven_stands_and_the_rest_is_unknown(tmp_path: Path) -> None:
    project = Project(tmp_path)
    inside = tmp_path / "inside"

    def kill_it() -> None:
        if inside.exists():
            for child in psutil.Process().children():
                if child.environ().get("RECONCILER_SLICE") == project.mark:
                    child.send_signal(signal.SIGKILL)

    hang = f"{{name: hang, shell: 'touch {inside}; sleep 300', when: inventory_hostname == 'h2'}}"
    result = project.run(f"{PLAY}  tasks: [{H1_FAILS}, {hang}]\n", kill_it).result
    assert tuple((found.status, found.reason, found.message) for found in result.outcomes) == (
        failed("worn out"),
        LOST,
        LOST,
    )
