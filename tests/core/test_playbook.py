"""What can be seen in a playbook's text without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from reconciler.core.errors import Refused
from reconciler.core.playbook import Listing, PlaybookFacts, WarningKind, inspect_playbook, playbook_digest
from reconciler.core.reasons import Reason


def inspect(path: str = "site.yml", **files: str) -> PlaybookFacts:
    """`files` by path, `__` for `/` and `_yml` for `.yml`."""
    contents = {name.replace("__", "/").replace("_yml", ".yml"): text.encode() for name, text in files.items()}
    return inspect_playbook(path, listing(contents), contents.get)


def listing(contents: Mapping[str, bytes]) -> Listing:
    return Listing(dict.fromkeys(contents, "digest"))


def warned(facts: PlaybookFacts) -> list[tuple[WarningKind, str, int]]:
    return [(warning.kind, warning.path, warning.line) for warning in facts.warnings]


def test_an_ordinary_playbook_has_nothing_to_say() -> None:
    assert inspect(site_yml="- hosts: web\n  tasks:\n    - ping:\n") == PlaybookFacts()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- hosts: all\n  tasks: " + "[" * 60_000, "nested more than 100 levels deep"),
        ("- hosts: all\n  tasks: &a [{block: *a}]\n", r"the alias \*a stands inside of what it stands for"),
        (
            "- &a0 {ping: }\n" + "".join(f"- &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
            "more than 500,000 values",
        ),
        ("- &a0 {ping: }\n" + "".join(f"- &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40)), "values"),
        ("# " + "x" * 5_000_000, "it has 5,000,002 bytes"),
    ],
    ids=["deep", "endless", "aliases", "merges", "large"],
)
def test_a_file_that_would_cost_more_than_it_is_worth_is_refused(text: str, said: str) -> None:
    """A file of brackets ended the whole process, and one of aliases kept it busy for ever."""
    with pytest.raises(Refused, match=said) as refused:
        inspect(site_yml=text)
    assert refused.value.reason is Reason.PLAYBOOK_INVALID
    assert inspect(site_yml="- hosts: all\n  tasks: [import_tasks: t.yml]\n", t_yml=text).warnings == ()


@pytest.mark.parametrize(
    "value",
    [
        '!!int ""',
        '!!float ""',
        '!!bool ""',
        "!!timestamp soon",
        "0001-01-01 00:00:00 +23:59",
        ":".join("1" * 400) + ".5",
    ],
    ids=["int", "float", "bool", "timestamp", "time", "minutes"],
)
def test_a_value_that_pyyaml_stumbles_over_is_none_of_ours(value: str) -> None:
    assert inspect(site_yml=f"- hosts: all\n  vars: {{a: {value}}}\n  serial: 1\n").warnings != ()


def test_a_mapping_that_is_none_is_refused() -> None:
    with pytest.raises(Refused, match="this is no mapping"):
        inspect(site_yml="- hosts: all\n  vars: !!map [a]\n")


def test_an_alias_that_is_written_once_and_used_twice_is_fine() -> None:
    facts = inspect(
        site_yml="- hosts: all\n  tasks: &t\n    - ping:\n      run_once: true\n- hosts: all\n  tasks: *t\n"
    )
    assert [kind for kind, _, _ in warned(facts)] == [WarningKind.RUN_ONCE_PER_WAVE] * 2


def test_a_task_file_outside_of_the_source_is_for_ansible_to_judge() -> None:
    """The manifest names none: it is there, or it is told when Ansible gets there."""

    def read(path: str) -> bytes | None:
        if path == "site.yml":
            return b"- hosts: all\n  tasks: [include_tasks: /etc/tasks.yml]\n"
        raise Refused(Reason.PATH_OUTSIDE_SOURCE, f"{path} leaves the source")

    assert inspect_playbook("site.yml", listing({"site.yml": b""}), read) == PlaybookFacts()


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


@pytest.mark.parametrize(
    "role", ["roles/app", "plays/roles/app", "plays/app", "vendor/app", "shared/app", "roles/needed"]
)
@pytest.mark.parametrize("main", ["tasks/main.yml", "tasks/main.yaml", "handlers/main.yml"])
def test_a_role_is_found_where_ansible_finds_it(role: str, main: str) -> None:
    name = "../shared/app" if role == "shared/app" else "app"
    files = {
        "ansible.cfg": b"[defaults]\nroles_path = vendor:{{CWD}}/more\n",
        "plays/site.yml": f"- hosts: web\n  roles: [{name}]\n".encode(),
        f"{role}/{main}": b"- ping:\n  run_once: true\n",
    }
    if role == "roles/needed":
        files["roles/app/meta/main.yml"] = b"dependencies:\n  - role: needed\n"
    facts = inspect_playbook("plays/site.yml", listing(files), files.get)
    assert warned(facts) == [(WarningKind.RUN_ONCE_PER_WAVE, f"{role}/{main}", 2)]


def test_the_tasks_that_are_taken_from_a_role_are_looked_through() -> None:
    facts = inspect(
        site_yml="- hosts: web\n  tasks:\n    - include_role: {name: app, tasks_from: more}\n",
        roles__app__tasks__main_yml="- ping:\n  run_once: true\n",
        roles__app__tasks__more_yml="- ping:\n- ping:\n  run_once: true\n",
    )
    assert warned(facts) == [(WarningKind.RUN_ONCE_PER_WAVE, "roles/app/tasks/more.yml", 3)]


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
    with pytest.raises(Refused, match=r"site\.yml:1 names gone\.yml") as refused:
        inspect(site_yml="- import_playbook: gone.yml\n")
    assert refused.value.reason is Reason.PATH_MISSING


SITE = """\
- hosts: web
  vars_files: [../vars/site.yml]
  roles: [../shared/roles/base]
  tasks:
    - name: see README.md and ../docs/
      import_tasks: debian.yml
    - import_tasks: ../common/x.yml
    - include_tasks: "../by-family/{{ ansible_os_family }}.yml"
    - include_vars: "{{ playbook_dir }}/../vars/more.yml"
    - copy: src=../assets/motd dest=/etc/motd
    - debug: {msg: "{{ lookup('file', '../assets/banner') }}"}
    - copy: {src: ./bundle, dest: /opt}
    - debug: {msg: "see whether jobs run on all hosts of team"}
      tags: [team]
    - import_role:
        name: ../shared/imported
"""

FILES = {
    "ansible.cfg": "[defaults]\nroles_path = vendor:/etc/ansible/roles\n",
    "assets/banner": "1",
    "assets/motd": "1",
    "assets/unnamed": "1",
    "by-family/debian.yml": "- ping:\n",
    "common/templates/y.j2": "1",
    "common/unnamed.yml": "1",
    "common/x.yml": "- include_vars: ../vars/named_by_tasks.yml\n",
    "docs/index.md": "1",
    "extra.yml": "1",
    "hosts": "1",
    "inventory/hosts.yml": "1",
    "inventory/group_vars/web.yml": "1",
    "jobs/a.yaml": "1",
    "plays/bundle/x": "1",
    "plays/debian.yml": "- ping:\n",
    "plays/files/x": "1",
    "plays/other.yml": "- hosts: db\n",
    "plays/site.yml": SITE + "- import_playbook: web.yml\n",
    "plays/web.yml": "- hosts: web\n  roles: [app]\n",
    "roles/app/tasks/main.yml": "- include_tasks: '{{ role_path }}/../../shared/x.yml'\n",
    "shared/roles/base/defaults/main.yml": "1",
    "shared/imported/templates/z.j2": "1",
    "shared/x.yml": "- ping:\n",
    "team/notes.txt": "1",
    "vars/more.yml": "1",
    "vars/named_by_tasks.yml": "1",
    "vars/site.yml": "1",
    "vendor/db/tasks/main.yml": "1",
    "README.md": "1",
}
NOT_COUNTED = {
    "assets/unnamed",
    "common/unnamed.yml",
    "docs/index.md",
    "hosts",
    "inventory/hosts.yml",
    "jobs/a.yaml",
    "plays/other.yml",
    "README.md",
    "team/notes.txt",
}


def digest(files: dict[str, str], *, inventory: str = "inventory/hosts.yml", extra: Sequence[str] = ()) -> str:
    facts = inspect_playbook(
        "plays/site.yml", Listing(files), lambda path: files[path].encode() if path in files else None
    )
    return playbook_digest("plays/site.yml", Listing(files), facts, [inventory], extra)


@pytest.mark.parametrize("path", FILES)
def test_what_counts_as_the_content_of_a_playbook(path: str) -> None:
    changed = digest(FILES | {path: f"{FILES[path]}# changed\n"}, extra=["./extra.yml"])
    assert (changed == digest(FILES, extra=["./extra.yml"])) is (path in NOT_COUNTED)


def test_a_file_that_is_put_where_the_text_names_one_counts() -> None:
    without = {path: text for path, text in FILES.items() if path != "plays/debian.yml"}
    assert digest(without) != digest(FILES)


def test_extra_vars_files_count_for_whoever_names_them() -> None:
    changed = FILES | {"extra.yml": "2"}
    assert digest(changed) == digest(FILES)
    assert digest(changed, extra=["extra.yml"]) != digest(FILES, extra=["extra.yml"])


def test_an_inventory_folder_counts_with_its_variables() -> None:
    changed = FILES | {"inventory/group_vars/web.yml": "2"}
    assert digest(changed, inventory="inventory") != digest(FILES, inventory="inventory")
    assert digest(changed, inventory="elsewhere") == digest(FILES, inventory="elsewhere")


def test_files_that_name_each_other_are_looked_through_once() -> None:
    facts = inspect(
        site_yml="- hosts: web\n  tasks:\n    - import_tasks: a.yml\n",
        a_yml="- import_tasks: b.yml\n",
        b_yml="- import_tasks: a.yml\n- debug: {msg: [\n",
    )
    assert facts.named == ("a.yml", "b.yml")
