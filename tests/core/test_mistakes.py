"""Each mistake that a manifest can have: its place to the column, and messages that are safe to show."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.manifest import parse_duration
from reconciler.core.reading import Parsed, Rejected, parse_manifests
from tests.builders import GOOD_MANIFEST

PATH = "jobs/patch-web.yaml"


def read(text: str | bytes, max_limit: int = 20) -> tuple[Parsed | Rejected, ...]:
    return parse_manifests(text.encode() if isinstance(text, str) else text, PATH, max_limit)


def accepted(text: str, max_limit: int = 20) -> Parsed:
    (found,) = read(text, max_limit)
    assert isinstance(found, Parsed), found
    return found


def rejected(text: str | bytes) -> Rejected:
    (found,) = read(text)
    assert isinstance(found, Rejected), found
    assert all(problem.hint for problem in found.problems)
    return found


def problem(text: str | bytes) -> tuple[int, int, str, str]:
    """Of a file with one mistake: line, column, message, hint."""
    (found,) = rejected(text).problems
    return found.line, found.column, found.message, found.hint


# -- what is accepted ------------------------------------------------------------------------------------------------
def test_a_manifest_with_everything() -> None:
    found = accepted(
        """\
# yaml-language-server: $schema=../../specs/batchjob.v1.schema.json
apiVersion: reconciler/v1
kind: BatchJob
metadata:
  name: patch-web
  labels: {team: platform}
  annotations:
    reconciler/requestedAt: 2026-11-23T10:00:00Z
spec:
  playbook: playbooks/patch.yml
  inventory: [inventory/eu.yml, inventory/us.yml]
  selector:
    tags: [web, production]
    anyTags: [eu, us]
    notTags: [canary]
    hosts: [web-2, web-1]
    search: "web-*"
    pattern: "web:&prod:!canary"
    all: true
  extraVars:
    at: 22:30
    mode: 0644
    enabled: on
    count: 3
    password: !vault |
      $ANSIBLE_VAULT;1.1;AES256
      6162
  extraVarsFiles: [vars/secrets.yml]
  tasks: {tags: [packages], skipTags: [reboot]}
  checkMode: true
  strategy: sequential
  limit: 3
  stopOnFailure: true
  minHosts: 1
  maxHosts: 10
  suspend: true
  runOn: [spec, playbook]
  onChange: Cancel
  onHostsJoined: Run
  hostsPerProcess: 1
  timeouts: {task: 90s, wave: 1h}
  history: {keep: 3, ttl: 7d}
"""
    )
    job = found.job
    assert (found.path, found.document, found.line, job.metadata.name) == (PATH, 1, 2, "patch-web")
    assert job.requested_at == "2026-11-23T10:00:00Z"
    assert job.spec.selector.hosts == ("web-2", "web-1")
    assert job.spec.timeouts.wave == parse_duration("1h")
    assert job.spec.extra_vars == {
        "at": "22:30",
        "mode": "0644",
        "enabled": "on",
        "count": 3,
        "password": {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256\n6162\n"},
    }


# -- each mistake, its place and its remedy --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "column", "message", "hint"),
    [
        # numbers
        ("limit: 0", 10, "spec.limit must be at least 1, not 0", "1 to 20"),
        ("limit: 21", 10, "spec.limit must be at most 20, not 21", "1 to 20"),
        ('limit: "3"', 10, 'spec.limit must be a whole number, not the text "3"', "Write 3 without quotes"),
        ("limit: on", 10, 'spec.limit must be a whole number, not the text "on"', "Example: 5"),
        ("limit: 2.0", 10, "spec.limit must be a whole number, not 2.0", "Example: 5"),
        ("limit: true", 10, "spec.limit must be a whole number, not true", "Example: 5"),
        ("limit: 0644", 10, 'spec.limit must be a whole number, not the text "0644"', "Example: 5"),
        ("limit: [3]", 10, "spec.limit must be a whole number, not a list", "Example: 5"),
        ("limit: null", 10, "spec.limit must be a whole number, not nothing", "Example: 5"),
        ("minHosts: 0", 13, "spec.minHosts must be at least 1, not 0", "taken for a mistake"),
        ("maxHosts: 1", 13, "spec.maxHosts must be at least minHosts, which is 2", "`minHosts: 1`"),
        ("hostsPerProcess: 0", 20, "spec.hostsPerProcess must be at least 1, not 0", "one ansible-playbook process"),
        # flags and words
        ("suspend: yes", 12, 'spec.suspend must be true or false, not the text "yes"', "true or false"),
        ("checkMode: 1", 14, "spec.checkMode must be true or false, not 1", "true or false"),
        ("strategy: Serial", 13, 'spec.strategy must be one of parallel, sequential, not the text "Serial"', "Choose"),
        ("onChange: cancel", 13, "spec.onChange must be one of Finish, StopAfterWave, Cancel", "Choose"),
        ("runOn: [spec, tick]", 17, 'spec.runOn[1] must be one of spec, playbook, not the text "tick"', "Choose"),
        ("runOn: spec", 10, 'spec.runOn must be a list, not the text "spec"', "Write [spec]"),
        # fields that are not there
        ("limt: 3", 3, "spec.limt is no field of a BatchJob", "Did you mean limit?"),
        ("stop_on_failure: true", 3, "spec.stop_on_failure is no field of a BatchJob", "Did you mean stopOnFailure?"),
        (
            "tags: [web]",
            3,
            "spec.tags is no field of a BatchJob",
            "Did you mean spec.selector.tags or spec.tasks.tags?",
        ),
        ("xyz: 1", 3, "spec.xyz is no field of a BatchJob", "Its fields are: playbook, "),
        ("tasks: {skiptags: [x]}", 11, "spec.tasks.skiptags is no field of a BatchJob", "Did you mean skipTags?"),
        ("schedule: daily", 3, "spec.schedule is not offered yet", "later version"),
        ("retry: 3", 10, "spec.retry must be a mapping, not 3", "Indent"),
        ("retry: {attempts: 3}", 11, "spec.retry.attempts is no field of a BatchJob", "limit, backoff, unknown"),
        ("retry: {limit: -1}", 18, "spec.retry.limit must be at least 0, not -1", ""),
        ("retry: {backoff: 2h}", 20, "spec.retry.backoff must be at most 1h", "reconciler retry"),
        ("retry: {unknown: 1}", 20, "spec.retry.unknown must be true or false, not 1", "true or false"),
        ("timeouts: {run: 3}", 19, "spec.timeouts.run has no unit", "Write 3s for seconds"),
        # durations
        ("timeouts: {task: 30}", 20, "spec.timeouts.task has no unit", "Write 30s for seconds or 30m for minutes."),
        ("timeouts: {wave: soon}", 20, "spec.timeouts.wave must be a duration between 1s and 3650d", "90s, 30m, 2h"),
        ("timeouts: 30m", 13, 'spec.timeouts must be a mapping, not the text "30m"', "Indent"),
        # paths
        ("extraVarsFiles: [a, ../b]", 23, "spec.extraVarsFiles[1] leaves the repository with '..'", "without '..'"),
        ("inventory: /etc/hosts", 14, "spec.inventory must be relative to the root", "in the repository"),
        ("inventory: -i", 14, "spec.inventory begins with '-'", "rename"),
        ("inventory: [a, 3]", 18, "spec.inventory[1] must be text, not 3", 'Put it in quotes: "3"'),
        ("inventory: 3", 14, "spec.inventory must be a path or a list of paths", "inventory/hosts.yml"),
        (
            f"inventory: {'p' * 401}",
            14,
            "spec.inventory has 401 characters; a path has 400 at most",
            "Move the file up",
        ),
        ('inventory: ""', 14, "spec.inventory is empty", "relative to the root"),
        # variables
        (
            "extraVars: {a: 1, ansible_user: root}",
            21,
            "spec.extraVars.ansible_user begins with 'ansible_'",
            "inventory",
        ),
        ("extraVars: {a-b: 1}", 15, "spec.extraVars.a-b is no name of a variable", "Letters, digits"),
        ("extraVars: {a: {b: [!vault x]}}", 23, "spec.extraVars.a.b[0] is no text made by ansible-vault", "plain data"),
        ("extraVars: [a]", 14, "spec.extraVars must be a mapping, not a list", "Indent"),
        # tags of tasks
        ("tasks: {tags: [a, 'b,c']}", 21, "spec.tasks.tags[1] has a ','", "an item of its own"),
        # form
        ("playbook: other.yml", 3, '"playbook" is given twice', "line 6"),
        ("limit: &five 5", 10, "an anchor (&) is not allowed", "Write the value out"),
        ("limit: *five", 10, "an alias (*) is not allowed", "Write the value out"),
        ("playbooks: !vault x", 14, "!vault is not allowed here", "spec.extraVars"),
        ("\tlimit: 5", 3, "a tab is used to indent", "spaces"),
        (" limit: 5", 4, "this does not fit what stands above", "same column"),
    ],
)
def test_a_mistake_in_the_spec(line: str, column: int, message: str, hint: str) -> None:
    found = problem(f"{GOOD_MANIFEST}  {line}\n")
    assert found[:2] == (9, column)
    assert message in found[2]
    assert hint in found[3]


@pytest.mark.parametrize(
    ("selector", "line", "column", "message", "hint"),
    [
        (" {}", 7, 13, "spec.selector selects nothing", "every host is `all: true`"),
        ("", 7, 12, "spec.selector must be a mapping, not nothing", "Indent"),
        ("\n    all: false", 8, 5, "spec.selector selects nothing", "every host is `all: true`"),
        ("\n    tags: []", 8, 5, "spec.selector selects nothing", "every host is `all: true`"),
        ("\n    tags: web", 8, 11, 'spec.selector.tags must be a list, not the text "web"', "Write [web]"),
        ("\n    tag: [web]", 8, 5, "spec.selector.tag is no field of a BatchJob", "Did you mean tags?"),
        ("\n    hosts: [a, b, a]", 8, 19, 'spec.selector.hosts[2] names "a" twice', "once per run"),
        ("\n    hosts: [a, 2]", 8, 16, "spec.selector.hosts[1] must be text, not 2", 'Put it in quotes: "2"'),
        ('\n    search: ""', 8, 13, "spec.selector.search is empty", "remove it"),
        ("\n    search: 10.0.0.0/33", 8, 13, "spec.selector.search looks like a network and is none", "10.0.0.0/8"),
        ("\n    all: 'true'", 8, 10, 'spec.selector.all must be true or false, not the text "true"', "without quotes"),
    ],
)
def test_a_mistake_in_the_selector(selector: str, line: int, column: int, message: str, hint: str) -> None:
    found = problem(GOOD_MANIFEST.replace("\n    tags: [web]", selector))
    assert (found[2], found[:2]) == (message, (line, column))
    assert hint in found[3]


@pytest.mark.parametrize(
    "data", [b"", b"# nothing\n", b"a: [", b"a: 1\n---\nb: '", b"\0\1\2", b"\xff\xfe", b"x" * 10_485_760]
)
def test_a_file_that_cannot_be_read_is_one_rejection(data: bytes) -> None:
    found = rejected(data)
    assert found.name is None
    assert len(found.problems) == 1


# -- what messages must not do ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "line",
    [
        "extraVars: {password: !vault s3cret}",
        "extraVars: {a-b: s3cret}",
        "extraVars: {ansible_password: s3cret}",
        "extraVars: {a: {__ansible_unsafe: s3cret}}",
        "extraVars: {a: &x s3cret}",
        "extraVars: {a: s3cret, a: s3cret}",
        "extraVars: {a: 's3cret}",
        "extraVars: {a: s3cret: b}",
    ],
)
def test_values_of_variables_never_appear_in_messages(line: str) -> None:
    for found in rejected(f"{GOOD_MANIFEST}  {line}\n").problems:
        assert "s3cret" not in f"{found.message} {found.hint}"


@pytest.mark.parametrize("key", ['"a\\nb"', '"\\e[31m"', '"\\x9b"', '"' + "k" * 300 + '"', '""'])
@pytest.mark.parametrize(
    "where",
    [
        "  {}: 1\n",
        "  extraVars: {{{}: !!x 1}}\n",
        "  extraVars: {{a: {{{}: .inf}}}}\n",
        "  strategy: {}\n",
        "  {0}: 1\n  {0}: 1\n",
    ],
)
def test_a_message_is_one_line_whatever_is_in_the_file(where: str, key: str) -> None:
    for found in rejected(GOOD_MANIFEST + where.format(key)).problems:
        assert f"{found.message}{found.hint}".isprintable()
        assert len(found.message) < 200


# -- properties ------------------------------------------------------------------------------------------------------
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(
        ["1", "true", "x", "''", "null", "../a", "2.5", "&a b", "*a", "!vault x", "!x y", "'a", '"\\0"', "-"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(["a", "all", "tags", "name", "1", "<<", "[key]"]), inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=5,
)
FIELDS = [
    "limit",
    "selector",
    "inventory",
    "extraVars",
    "tasks",
    "timeouts",
    "runOn",
    "strategy",
    "history",
    "x",
    "maxHosts",
]


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3), VALUES, VALUES)
def test_whatever_is_written_it_is_parsed_or_rejected_with_a_place(
    fields: dict[str, str], metadata: str, playbook: str
) -> None:
    lines = [f"metadata: {metadata}", "spec:", f"  playbook: {playbook}", *(f"  {k}: {v}" for k, v in fields.items())]
    text = "\n".join(["apiVersion: reconciler/v1", "kind: BatchJob", *lines])
    last = text.count("\n") + 2
    for found in read(text):
        assert isinstance(found, Parsed) or found.problems
        if isinstance(found, Rejected):
            assert all(1 <= problem.line <= last and problem.column >= 1 for problem in found.problems)
            assert list(found.problems) == sorted(found.problems, key=lambda p: (p.line, p.column))
