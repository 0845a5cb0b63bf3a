"""Tags that leave nothing to do are said, and are no success; a playbook that found nothing to do still is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.facts import ChildStatus
from reconciler.core.reasons import Reason
from tests.adapters.playbooks import PLAY, Project, Ran

pytestmark = pytest.mark.ansible

SUCCESS = (ChildStatus.SUCCESS, None)
NOTHING_TO_DO = (ChildStatus.SKIPPED, Reason.NOT_TARGETED)

INCLUDED = {"more.yml": "- {debug: , tags: [patch]}\n", "roles/base/tasks/main.yml": "- {debug: , tags: [patch]}\n"}


def ends(ran: Ran) -> list[tuple[ChildStatus, Reason | None]]:
    return [(outcome.status, outcome.reason) for outcome in ran.result.outcomes]


def project(folder: Path, tags: tuple[str, ...] = (), skip_tags: tuple[str, ...] = ()) -> Project:
    made = Project(folder, tags=tags, skip_tags=skip_tags)
    for path, text in INCLUDED.items():
        made.write(path, text)
    return made


@pytest.mark.parametrize(
    "playbook",
    [
        pytest.param(f"{PLAY}  tasks: [{{debug: , tags: [patch]}}]\n", id="another tag"),
        pytest.param("- hosts: all\n  tasks: [{debug: , tags: [patch]}]\n", id="facts are gathered all the same"),
        pytest.param(f"{PLAY}  roles: [base]\n", id="a role"),
        pytest.param(f"{PLAY}  tasks: [{{include_tasks: more.yml, tags: [always]}}]\n", id="included tasks"),
        pytest.param(f"{PLAY}  tasks: [{{include_role: {{name: base}}, tags: [always]}}]\n", id="an included role"),
        pytest.param(f"{PLAY}  serial: 1\n  tasks: [{{meta: end_host, tags: [patch]}}]\n", id="batches"),
    ],
)
def test_tags_that_no_task_has_leave_nothing_to_do(playbook: str, tmp_path: Path) -> None:
    ran = project(tmp_path, tags=("pacth", "base")).run(playbook)
    assert ends(ran) == [NOTHING_TO_DO] * 3
    assert ran.outcome("h1").message == "no task of the playbook for this host has one of the tags base, pacth"


def test_nor_is_there_anything_to_do_when_every_task_is_left_out(tmp_path: Path) -> None:
    ran = project(tmp_path, skip_tags=("patch",)).run(f"{PLAY}  tasks: [{{debug: , tags: [patch]}}]\n")
    assert ends(ran) == [NOTHING_TO_DO] * 3
    assert ran.outcome("h1").message == "every task of the playbook for this host has one of the skipTags patch"


@pytest.mark.parametrize(
    "playbook",
    [
        pytest.param(f"{PLAY}  tasks: [{{debug: , tags: [patch]}}]\n", id="the tag"),
        pytest.param(f"{PLAY}  tasks: [{{debug: , tags: [always]}}]\n", id="always"),
        pytest.param(f"{PLAY}  tasks: [{{gather_facts: , tags: [always]}}]\n", id="facts gathered by a task"),
        pytest.param(f"{PLAY}  tasks: [{{debug: , tags: [patch], when: false}}]\n", id="all skipped by when"),
        pytest.param(f"{PLAY}  tasks: [{{include_tasks: more.yml, tags: [patch]}}]\n", id="included tasks"),
        pytest.param(
            f"{PLAY}  tasks: [{{include_tasks: more.yml, tags: [patch], when: false}}]\n", id="no need to include"
        ),
        pytest.param(f"{PLAY}  tasks: [{{debug: , tags: [patch], run_once: true}}]\n", id="once for all"),
        pytest.param(f"{PLAY}  strategy: free\n  tasks: [{{debug: , tags: [patch]}}]\n", id="strategy free"),
        *(
            pytest.param(
                f"{PLAY}  serial: 1\n  tasks: [{{meta: {end}, tags: [always]}}, {{debug: , tags: [patch]}}]\n", id=end
            )
            for end in ("end_host", "end_batch", "end_play")
        ),
    ],
)
def test_a_playbook_that_has_the_tag_is_a_success_even_with_nothing_to_do(playbook: str, tmp_path: Path) -> None:
    assert ends(project(tmp_path, tags=("patch",)).run(playbook)) == [SUCCESS] * 3


def test_each_host_is_judged_by_the_plays_it_is_in(tmp_path: Path) -> None:
    ran = project(tmp_path, tags=("patch",)).run(
        f"{PLAY.replace('all', 'h1')}  tasks: [{{debug: , tags: [patch]}}]\n"
        f"{PLAY.replace('all', 'h1,h2')}  tasks: [{{debug: }}]\n"
    )
    assert ends(ran) == [SUCCESS, NOTHING_TO_DO, NOTHING_TO_DO]
    assert ran.outcome("h2").message == "no task of the playbook for this host has one of the tags patch"
    assert ran.outcome("h3").message == "no play of the playbook targets this host"


def test_without_tags_a_play_may_only_gather_facts(tmp_path: Path) -> None:
    assert ends(project(tmp_path).run("- hosts: all\n")) == [SUCCESS] * 3
