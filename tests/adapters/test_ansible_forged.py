"""A host that lies: whatever its modules return, it is shown for what it is, and no other host is the worse for it. All
with the real ansible-playbook."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from reconciler.core.facts import ChildStatus
from tests.adapters.playbooks import INVENTORY, PLAY, Project, Ran

pytestmark = pytest.mark.ansible


def token(data: object) -> str:
    """What announces an event in the output of ansible-playbook."""
    text = base64.b64encode(json.dumps(data).encode()).decode()
    return f"\x1b[K{text}\x1b[{len(text)}D\x1b[K"


def run(root: Path, warning: str, result: str = "{}", config: str = "") -> Ran:
    """h1's module returns this, and warns in these words; h2's task is done after it."""
    project = Project(root, hosts=("h1", "h2"), inventory=INVENTORY.replace(", h3: ", ""))
    project.write(
        "library/lie.py",
        f"#!/usr/bin/python\nimport json\nprint(json.dumps({{**{result}, 'warnings': [{warning!r}]}}))\n",
    )
    if config:
        project.write("ansible.cfg", f"[defaults]\n{config}\n")
    on_h1 = "when: inventory_hostname == 'h1'"
    return project.run(f"{PLAY}  tasks: [{{lie: , {on_h1}}}, {{command: 'true'}}]\n")


def ends(ran: Ran) -> list[ChildStatus]:
    return [outcome.status for outcome in ran.result.outcomes]


FAILED_H2 = {"host": "h2", "task": "x", "task_uuid": "t", "res": {"msg": "made up"}}


@pytest.mark.parametrize(
    "data",
    [
        [1, 2],
        {"uuid": "a", "event": "playbook_on_vars_prompt", "event_data": {"varname": "x"}},
        {"uuid": "../../a\0", "event": "runner_on_failed", "event_data": FAILED_H2},
    ],
    ids=["nothing that is one", "a question", "a failure of another"],
)
def test_an_event_that_a_host_has_made_up_is_none(data: object, tmp_path: Path) -> None:
    ran = run(tmp_path, token(data))
    assert ends(ran) == [ChildStatus.SUCCESS, ChildStatus.SUCCESS]
    assert ran.result.error is None
    assert ran.log_of("h2")[-2] == "changed"
    assert ran.log_of("h2")[-1].startswith("RECAP success: ok=1 changed=1 unreachable=0 failed=0")


def test_words_of_ansible_in_the_mouth_of_a_host_mean_nothing(tmp_path: Path) -> None:
    said = ["leaves us with no hosts to target", "A worker was found in a dead state", "(debug)> ", "ERROR! no"]
    ran = run(tmp_path, "\n".join(["x", *said, "x"]))
    assert ends(ran) == [ChildStatus.SUCCESS, ChildStatus.SUCCESS]
    assert set(said) <= set("\n".join(ran.log_of(None)).split("\n"))


def test_output_that_is_no_text_can_be_written_down(tmp_path: Path) -> None:
    odd = "{'failed': True, 'msg': 'half of it: ' + chr(0xdcff) + chr(0) + chr(27) + '[31m'}"
    ran = run(tmp_path, "x", odd, "module_strict_utf8_response = False")
    assert ends(ran) == [ChildStatus.FAILED, ChildStatus.SUCCESS]
    assert ran.outcome("h1").message == "half of it: \ufffd"
    assert "\n".join(line.text for line in ran.lines).encode().isascii() is False


@pytest.mark.parametrize("depth", [300, 900])
def test_a_result_may_be_nested_as_deep_as_it_likes(depth: int, tmp_path: Path) -> None:
    ran = run(tmp_path, "x", f"{{'failed': True, 'msg': json.loads('{'[' * depth}{']' * depth}')}}")
    assert ends(ran) == [ChildStatus.FAILED, ChildStatus.SUCCESS]
    assert ran.outcome("h1").message
