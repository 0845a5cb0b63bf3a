"""Out of what somebody chose, the manifest that a person would commit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.composing import IN_MANIFEST, Choice, Composed, Misfit, compose, derive_name, is_playbook
from reconciler.core.manifest import BatchJob
from reconciler.core.reading import Parsed, parse_manifests

PATCH = Choice("playbooks/patch.yml", tags=("web", "production"), concurrent_limit=2, stop_on_failure=True)


def composed(choice: Choice, **more: str) -> Composed:
    found = compose(choice, words=more)
    assert isinstance(found, Composed), found
    return found


def wrong(choice: Choice, **words: str) -> list[tuple[str, str]]:
    found = compose(choice, words=words)
    assert not isinstance(found, Composed), found.text
    return [(misfit.field, misfit.message) for misfit in found]


def job(text: str) -> BatchJob:
    (entry,) = parse_manifests(text.encode(), "manifest")
    assert isinstance(entry, Parsed), entry
    return entry.job


# -- the text --------------------------------------------------------------------------------------------------------
def test_it_reads_as_a_person_would_have_written_it() -> None:
    assert composed(PATCH).text == (
        "apiVersion: reconciler/v1\n"
        "kind: BatchJob\n"
        "metadata:\n"
        "  name: patch-web-production\n"
        "spec:\n"
        "  playbook: playbooks/patch.yml\n"
        "  selector:\n"
        "    tags: [web, production]\n"
        "  strategy: parallel\n"
        "  limit: 2\n"
        "  stopOnFailure: true\n"
    )


def test_a_long_list_has_a_line_for_each() -> None:
    hosts = tuple(f"web-{number}.example.org" for number in range(30))
    text = composed(Choice("a.yml", servers=hosts)).text
    assert "    hosts:\n      - web-0.example.org\n      - web-1.example.org\n" in text
    assert job(text).spec.selector.hosts == hosts


def test_every_server_is_said_out_loud() -> None:
    assert "  selector:\n    all: true\n" in composed(Choice("a.yml", everything=True)).text


def test_what_looks_like_something_else_stays_text() -> None:
    odd = ("on", "1.10", "null", "a: b", "#x", "2026-11-26", "ü", "~", "0x1f", "- y", "{a}", "'", '"')
    assert set(job(composed(Choice("a.yml", tags=odd)).text).spec.selector.tags) == set(odd)


@given(st.lists(st.text(), min_size=1, max_size=4), st.text(min_size=1), st.sampled_from(["parallel", "sequential"]))
def test_whatever_is_chosen_it_is_that_or_a_misfit_of_a_field(servers: list[str], playbook: str, strategy: str) -> None:
    choice = Choice(playbook, servers=tuple(servers), execution_strategy=strategy)
    found = compose(choice)
    if isinstance(found, Composed):
        spec = job(found.text).spec
        assert (spec.playbook, spec.selector.hosts, spec.strategy.value) == (playbook, tuple(servers), strategy)
        assert job(found.text).metadata.name == found.name
    else:
        assert {misfit.field for misfit in found} <= {"servers", "playbook"}


# -- what is wrong ---------------------------------------------------------------------------------------------------
def test_each_misfit_names_the_field_of_the_caller() -> None:
    choice = Choice(
        "../patch.yml",
        servers=("web-1", "web-1"),
        execution_strategy="slowly",
        concurrent_limit=50,
        name="Patch Web",
        inventory="/etc/ansible/hosts",
        min_hosts=0,
    )
    assert {field for field, _ in wrong(choice)} == set(IN_MANIFEST) - {"tags", "stop_on_failure"}
    called = wrong(choice, concurrent_limit="--limit", servers="--host")
    assert ("--limit", "--limit must be at most 20, not 50") in called
    assert ("--host", '--host[1] names "web-1" twice') in called


@pytest.mark.parametrize(
    "choice", [Choice("a.yml"), Choice("a.yml", tags=("web",), everything=True)], ids=["none", "both"]
)
def test_which_servers_is_never_guessed(choice: Choice) -> None:
    assert [field for field, _ in wrong(choice)] == ["servers"]


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_what_is_no_text_is_said_of_its_field(text: str) -> None:
    assert [field for field, _ in wrong(Choice("a.yml", tags=("web", text)))] == ["tags"]


def test_the_highest_limit_is_that_of_the_settings() -> None:
    assert isinstance(compose(Choice("a.yml", tags=("web",), concurrent_limit=6), max_limit=5), tuple)
    assert str(Misfit("limit", "limit is wrong", "Mend it.")) == "limit is wrong (Mend it.)"


# -- names -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("choice", "name"),
    [
        (PATCH, "patch-web-production"),
        (Choice("site.yml", everything=True), "site-all"),
        (Choice("a/b/Restart_DB.yaml", servers=("DB-1.example.org",)), "restart-db-db-1-example-org"),
        (Choice("patch.yml", servers=("a", "b", "c")), "patch-3-hosts"),
        (Choice("patch.yml", tags=("a", "b", "c", "d")), "patch-4-tags"),
        (Choice("ü.yml", tags=("ö",)), "batch"),
    ],
)
def test_a_name_tells_what_runs_and_where(choice: Choice, name: str) -> None:
    assert composed(choice).name == name


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000, 4095])
def test_of_thousands_of_names_in_a_row_few_are_asked_about_and_the_next_is_taken(count: int) -> None:
    asked: list[str] = []
    there = {f"patch-web-{number}" if number > 1 else "patch-web" for number in range(1, count + 1)}

    def taken(name: str) -> bool:
        asked.append(name)
        return name in there

    assert derive_name(Choice("patch.yml", tags=("web",)), taken) == f"patch-web-{count + 1}"
    assert len(asked) <= 30


def test_a_name_that_is_taken_gets_a_number() -> None:
    there = {"patch-web-production", "patch-web-production-2"}
    found = compose(PATCH, taken=there.__contains__)
    assert isinstance(found, Composed)
    assert found.name == "patch-web-production-3"


@given(st.text(), st.lists(st.text(), max_size=3), st.integers(0, 12))
def test_a_derived_name_is_a_name_and_free(playbook: str, tags: list[str], taken: int) -> None:
    there: set[str] = set()
    for _ in range(taken + 1):
        name = derive_name(Choice(playbook, tags=tuple(tags)), there.__contains__)
        assert name not in there
        there.add(name)
        assert composed(Choice("a.yml", tags=("web",), name=name)).name == name


def test_a_chosen_name_is_left_as_it_is() -> None:
    chosen = Choice("a.yml", tags=("web",), name="mine")
    found = compose(chosen, taken=lambda _: True)
    assert isinstance(found, Composed)
    assert found.name == "mine"


# -- playbooks -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "- hosts: web\n",
        "---\n# patch\n- name: Patch\n  hosts: all\n  tasks: []\n",
        "- name: All\n  vars: {a: [1, {b: 2}], hosts: x}\n  hosts: web\n",
        "- import_playbook: other.yml\n",
        "- ansible.builtin.import_playbook: other.yml\n",
        "- hosts: web\n  vars: {secret: !vault x}\n",
    ],
)
def test_a_list_of_plays_is_a_playbook(text: str) -> None:
    assert is_playbook(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "all:\n  hosts:\n    web-1:\n",
        "- name: Install\n  apt: {name: nginx}\n",
        "- name: Ask\n  uri: {hosts: x}\n",
        "- hosts\n- import_playbook\n",
        "- [hosts, x]\n",
        "- apt: {name: x}\n- hosts: web\n",
        "plain text",
        "- name: 'hosts\n",
        "$ANSIBLE_VAULT;1.1;AES256\n6162\n",
        "- name: hosts\n",
    ],
)
def test_what_else_is_yaml_is_none(text: str) -> None:
    assert not is_playbook(text.encode())


def test_what_is_no_text_is_none() -> None:
    assert not is_playbook(b"\xff\xfe\x00")
    assert not is_playbook(b"[" * 100_000)
