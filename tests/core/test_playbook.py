"""What can be seen in a playbook's text without running it."""

from __future__ import annotations

import pytest

from reconciler.core.errors import Refused
from reconciler.core.playbook import PlaybookFacts, WarningKind, inspect_playbook, playbook_digest
from reconciler.core.reasons import Reason


def inspect(path: str = "site.yml", **files: str) -> PlaybookFacts:
    """`files` by path, `__` for `/` and `_yml` for `.yml`."""
    contents = {name.replace("__", "/").replace("_yml", ".yml"): text.encode() for name, text in files.items()}
    return inspect_playbook(path, contents.get)


def warned(facts: PlaybookFacts) -> list[tuple[WarningKind, str, int]]:
    return [(warning.kind, warning.path, warning.line) for warning in facts.warnings]


def test_an_ordinary_playbook_has_nothing_to_say() -> None:
    assert inspect(site_yml="- hosts: web\n  tasks:\n    - ping:\n") == PlaybookFacts()


def test_what_waves_do_to_a_playbook_is_said_with_its_line() -> None:
    facts = inspect(
        site_yml=(
            "- hosts: localhost\n"
            "  tasks: []\n"
            "- hosts: web\n"
            "  serial: 2\n"
            "  tasks:\n"
            "    - block:\n"
            "        - ping:\n"
            "          run_once: true\n"
        )
    )
    assert warned(facts) == [
        (WarningKind.PLAY_NOT_SELECTED, "site.yml", 1),
        (WarningKind.SERIAL_INSIDE_WAVE, "site.yml", 4),
        (WarningKind.RUN_ONCE_PER_WAVE, "site.yml", 8),
    ]


def test_task_files_and_roles_are_looked_through() -> None:
    facts = inspect(
        site_yml="- hosts: web\n  roles: [app]\n  tasks:\n    - import_tasks: tasks/more.yml\n",
        tasks__more_yml="- ping:\n  run_once: true\n",
        roles__app__tasks__main_yml="- ping:\n- ping:\n  run_once: yes\n",
    )
    assert warned(facts) == [
        (WarningKind.RUN_ONCE_PER_WAVE, "tasks/more.yml", 2),
        (WarningKind.RUN_ONCE_PER_WAVE, "roles/app/tasks/main.yml", 3),
    ]


def test_imported_playbooks_are_followed_once() -> None:
    facts = inspect(
        "plays/site.yml",
        plays__site_yml="- import_playbook: web.yml\n- import_playbook: ../db.yml\n- import_playbook: site.yml\n",
        plays__web_yml="- hosts: web\n  vars_prompt:\n    - name: version\n",
        db_yml="- import_playbook: plays/web.yml\n",
    )
    assert facts.imports == ("plays/web.yml", "db.yml")
    assert facts.prompts == ("version",)


def test_what_only_a_template_decides_is_left_to_ansible() -> None:
    text = "- import_playbook: '{{ which }}.yml'\n- hosts: web\n  tasks:\n    - include_tasks: '{{ item }}.yml'\n"
    assert inspect(site_yml=text) == PlaybookFacts()


def test_tags_of_ansible_are_no_obstacle() -> None:
    text = "- hosts: web\n  vars: {a: !unsafe '{{ x }}', b: !vault 'x', c: !odd [1], d: !odd {e: 1}}\n"
    assert inspect(site_yml=text) == PlaybookFacts()


@pytest.mark.parametrize(
    "text", ["a: 1\n", "- 1\n", "[]\n", "", "just text", "- hosts: [\n", "\tx", "- !!python/object:os.system x"]
)
def test_what_is_no_list_of_plays_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        inspect(site_yml=text)
    assert refused.value.reason is Reason.PLAYBOOK_INVALID
    assert "site.yml" in refused.value.message


def test_a_syntax_error_is_told_with_its_place() -> None:
    with pytest.raises(Refused, match=r"site\.yml:2:"):
        inspect(site_yml="- hosts: web\n   tasks: x\n")


def test_a_missing_playbook_is_told_with_who_names_it() -> None:
    with pytest.raises(Refused, match=r"spec\.playbook names site\.yml"):
        inspect()
    with pytest.raises(Refused, match=r"site\.yml names gone\.yml") as refused:
        inspect(site_yml="- import_playbook: gone.yml\n")
    assert refused.value.reason is Reason.PATH_MISSING


FILES = {
    "ansible.cfg": "1",
    "inventory/hosts.yml": "1",
    "inventory/group_vars/web.yml": "1",
    "jobs/a.yaml": "1",
    "plays/files/x": "1",
    "plays/site.yml": "1",
    "plays/web.yml": "1",
    "roles/app/tasks/main.yml": "1",
    "README.md": "1",
}


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("ansible.cfg", True),
        ("inventory/hosts.yml", False),
        ("inventory/group_vars/web.yml", True),
        ("jobs/a.yaml", False),
        ("plays/files/x", True),
        ("plays/site.yml", True),
        ("plays/web.yml", True),
        ("roles/app/tasks/main.yml", True),
        ("README.md", False),
    ],
)
def test_what_counts_as_the_content_of_a_playbook(path: str, counts: bool) -> None:
    def digest(files: dict[str, str]) -> str:
        return playbook_digest("plays/site.yml", files, ["plays/web.yml"], ["inventory/hosts.yml"])

    assert (digest(FILES | {path: "2"}) != digest(FILES)) is counts


def test_an_inventory_folder_counts_with_its_variables() -> None:
    assert playbook_digest("p.yml", FILES, [], ["inventory"]) != playbook_digest("p.yml", FILES, [], [])
