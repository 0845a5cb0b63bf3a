"""The stub of ansible-playbook that big tests start says of its hosts what the real one would."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.adapters.ansible import AnsibleOptions
from reconciler.core.facts import ChildStatus
from reconciler.core.reasons import Reason
from reconciler.ports import PlaybookResult, StopKind
from tests import stub_playbook
from tests.adapters.playbooks import Project

REAL = """\
- name: stub
  hosts: all
  gather_facts: false
  tasks:
    - name: Work
      ansible.builtin.command: "{{ 'true' if inventory_hostname != 'h2' else 'false' }}"
"""


@pytest.fixture
def stub(tmp_path: Path) -> Project:
    options = AnsibleOptions(ansible_playbook=str(stub_playbook.install(tmp_path / "bin")))
    return Project(tmp_path / "stub", options=options)


def outcomes(result: PlaybookResult) -> dict[str, tuple[object, ...]]:
    return {each.host: (each.status, each.reason, each.task, each.message, each.counts) for each in result.outcomes}


@pytest.mark.ansible
def test_its_outcomes_are_those_of_the_real_one(tmp_path: Path, stub: Project) -> None:
    real = Project(tmp_path / "real").run(REAL)

    faked = stub.run(stub_playbook.playbook(tmp_path / "record", fail={"h2": 1}))

    assert outcomes(faked.result) == outcomes(real.result)
    assert outcomes(faked.result)["h2"][:2] == (ChildStatus.FAILED, Reason.TASK_FAILED)


def test_who_fails_once_succeeds_the_next_time(tmp_path: Path, stub: Project) -> None:
    text = stub_playbook.playbook(tmp_path / "record", fail={"h2": 1})

    runs = [stub.run(text), stub.run(text)]

    assert [ran.outcome("h2").status for ran in runs] == [ChildStatus.FAILED, ChildStatus.SUCCESS]
    noted = (tmp_path / "record" / "h2").read_text().splitlines()
    assert [line.split()[1] for line in noted] == ["begin", "end", "begin", "end"]


def test_one_that_is_ended_has_not_noted_the_end(tmp_path: Path, stub: Project) -> None:
    begun = tmp_path / "record" / "h3"

    ran = stub.run(
        stub_playbook.playbook(tmp_path / "record", seconds=600), lambda: StopKind.CANCEL if begun.exists() else None
    )

    assert {each.status for each in ran.result.outcomes} == {ChildStatus.CANCELLED}
    assert [line.split()[1] for line in begun.read_text().splitlines()] == ["begin"]
