"""A playbook touches the hosts of its slice and no other, whatever became of the inventory since they were selected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reconciler.core.facts import ChildStatus
from reconciler.core.reasons import Reason
from tests.adapters.playbooks import PLAY, Project, Ran

pytestmark = pytest.mark.ansible

SUCCESS = (ChildStatus.SUCCESS, None)
GONE = (ChildStatus.ABORTED, Reason.HOST_GONE)

LOCAL = 'ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"'
GROUP_OF_THE_NAME = f"all: {{hosts: {{h1: }}, children: {{web: {{hosts: {{h2: , h3: }}}}}}, vars: {{{LOCAL}}}}}"


def ends(ran: Ran) -> list[tuple[ChildStatus, Reason | None]]:
    return [(outcome.status, outcome.reason) for outcome in ran.result.outcomes]


def touch(folder: Path) -> str:
    folder.mkdir()
    return f"{{command: 'touch {folder}/{{{{ inventory_hostname }}}}'}}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_group_that_has_the_name_of_a_host_that_is_gone_is_not_touched(tmp_path: Path) -> None:
    project, touched = Project(tmp_path, inventory=GROUP_OF_THE_NAME, hosts=("web", "h1")), tmp_path / "touched"
    ran = project.run(f"{PLAY}  tasks: [{touch(touched)}]\n- hosts: web\n  tasks: [{touch(tmp_path / 'more')}]\n")
    assert names(touched) == ["h1"]
    assert names(tmp_path / "more") == []
    assert ends(ran) == [GONE, SUCCESS]


def test_nobody_is_touched_when_only_a_group_has_the_name_of_the_only_host(tmp_path: Path) -> None:
    project, touched = Project(tmp_path, inventory=GROUP_OF_THE_NAME, hosts=("web",)), tmp_path / "touched"
    ran = project.run(f"{PLAY}  tasks: [{touch(touched)}]\n")
    assert names(touched) == []
    assert ends(ran) == [GONE]
    assert ran.result.error is None


@pytest.mark.parametrize("others", [("h1",), ()])
def test_nor_when_the_host_goes_and_the_group_comes_while_the_playbook_runs(
    others: tuple[str, ...], tmp_path: Path
) -> None:
    project, touched, later = Project(tmp_path, hosts=("web", *others)), tmp_path / "touched", tmp_path / "later"
    local = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    before = {"all": {"hosts": ["web", "h1"], "vars": local}}
    after = {"all": {"hosts": ["h1"], "vars": local}, "web": {"hosts": ["h2", "h3"]}}
    script = project.write(
        "hosts.py",
        f"#!/bin/sh\nif [ -e {later} ]; then echo '{json.dumps(after)}'; else echo '{json.dumps(before)}'; fi\n",
    )
    script.chmod(0o755)
    project.inventory_file = "hosts.py"
    ran = project.run(
        f"{PLAY}  tasks: [{{command: touch {later}, run_once: true}}, {{meta: refresh_inventory}}]\n"
        f"{PLAY}  tasks: [{touch(touched)}]\n"
    )
    assert names(touched) == list(others)
    assert ends(ran)[1:] == [SUCCESS for _ in others]


def test_an_ansible_that_keeps_its_limit_elsewhere_is_ended_before_it_touches_anybody(tmp_path: Path) -> None:
    """Stood in for by a callback of the project, which takes away the attribute that the companion sets."""
    project, touched = Project(tmp_path, hosts=("h1",)), tmp_path / "touched"
    project.write(
        "callback_plugins/a_first.py",
        "from ansible.inventory.manager import InventoryManager\n"
        "from ansible.plugins.callback import CallbackBase\n\n"
        "InventoryManager._subset = property(lambda self: None, lambda self, given: None)\n\n\n"
        "class CallbackModule(CallbackBase):\n"
        "    CALLBACK_VERSION = 2.0\n",
    )
    ran = project.run(f"{PLAY}  tasks: [{touch(touched)}]\n")
    assert names(touched) == []
    assert ran.result.error is not None
    assert ran.result.error.reason is Reason.PLAYBOOK_BROKEN
    assert "could not keep the playbook to its hosts: ['h2', 'h3']" in ran.result.error.message


@pytest.mark.parametrize("name", ["a,b", "a:b", "a b", "a[1]", "@a", "{{ a }}"])
def test_the_state_may_lie_anywhere(name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    root.mkdir()
    project, touched = Project(root, hosts=("h2",)), tmp_path / "touched"
    ran = project.run(f"{PLAY}  tasks: [{touch(touched)}]\n")
    assert ends(ran) == [SUCCESS], ran.lines
    assert names(touched) == ["h2"]
