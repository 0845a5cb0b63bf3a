"""From bytes to manifests: what is wrong is said with its place and a remedy, and nothing ever raises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.core.manifest import coverage_digest, spec_digest, spec_from_json, spec_to_json, work_digest
from reconciler.core.reading import Parsed, Rejected, parse_manifests
from tests.builders import GOOD_MANIFEST, make_spec

PATH = "jobs/web.yaml"


def the_one(data: bytes | str) -> Parsed | Rejected:
    (entry,) = parse_manifests(data.encode() if isinstance(data, str) else data, PATH)
    return entry


def rejected(data: bytes | str) -> Rejected:
    entry = the_one(data)
    assert isinstance(entry, Rejected)
    return entry


def parsed(data: bytes | str) -> Parsed:
    entry = the_one(data)
    assert isinstance(entry, Parsed)
    return entry


def with_field(text: str) -> str:
    return f"{GOOD_MANIFEST}  {text}\n"


def instead(old: str, new: str) -> str:
    assert old in GOOD_MANIFEST
    return GOOD_MANIFEST.replace(old, new)


# -- files that are no manifest at all -------------------------------------------------------------------------------
NO_MANIFEST: dict[str, tuple[bytes | str, str, str, str]] = {
    "bracket left open": ("kind: BatchJob\nspec: [a\nmetadata: x\n", "3:9", "", ""),
    "tab": ("kind: BatchJob\nmetadata:\n\tname: x\n", "3:1", "a tab is used", "spaces only"),
    "nested too deep": ("[" * 40, "1:33", "nested more than 32", ""),
    "two megabytes": (b"#" * (2 * 1024 * 1024), "1:1", "2,097,152 bytes", "Is this a manifest?"),
    "binary": (b"kind: BatchJob\nmetadata: \x00\x01", "2:11", "binary", "YAML text"),
    "UTF-16": (GOOD_MANIFEST.encode("utf-16"), "1:1", "UTF-16", "UTF-8"),
    "latin-1": ("kind: BatchJob\nname: café\n".encode("latin-1"), "2:10", "0xe9 is not UTF-8", "UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD_MANIFEST.encode(), "1:1", "byte order mark", "without BOM"),
    "control character": ("name: \x07\n", "1:7", "U+0007", "Remove it"),
    "empty": ("", "1:1", "no document", "Write a manifest"),
    "only a remark": ("# nothing yet\n", "1:1", "no document", "Write a manifest"),
    "a list": ("- a\n- b\n", "1:1", "must be a mapping", "apiVersion: reconciler/v1"),
    "of another kind": (instead("BatchJob", "Job"), "2:7", "kind must be BatchJob", "kind: BatchJob"),
    "without kind": (instead("kind: BatchJob\n", ""), "1:1", "kind is missing", "kind: BatchJob"),
}


@pytest.mark.parametrize(("data", "place", "message", "hint"), NO_MANIFEST.values(), ids=NO_MANIFEST)
def test_a_file_that_is_no_manifest_is_rejected_with_place_and_remedy(
    data: bytes | str, place: str, message: str, hint: str
) -> None:
    problem = rejected(data).first
    assert str(problem).startswith(f"{PATH}:{place}: ")
    assert message in problem.message
    assert hint in problem.hint


# -- manifests with a mistake ----------------------------------------------------------------------------------------
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    "key given twice": (with_field("limit: 3\n  limit: 4"), "10:3", "given twice", "emove one"),
    "anchor and alias": (with_field("extraVars: &vars\n    a: *vars"), "9:14", "anchor", "Write the value out"),
    "merge key": (with_field("extraVars:\n    <<: {a: 1}"), "10:5", "merge key", "Write the"),
    "tag": (with_field("extraVars:\n    a: !!python/name:os.system x"), "10:8", "is not allowed", ""),
    "vault outside extraVars": (instead("playbooks/patch.yml", "!vault x"), "6:13", "!vault", "extraVars"),
    "misspelt": (with_field("limits: 3"), "9:3", "spec.limits is no field", "Did you mean limit?"),
    "snake case": (with_field("stop_on_failure: true"), "9:3", "no field", "Did you mean stopOnFailure?"),
    "misspelt at the top": (GOOD_MANIFEST + "metdata: {}\n", "9:1", "metdata is no field", "Did you mean metadata?"),
    "in a selector": (instead("tags:", "tag:"), "8:5", "spec.selector.tag is no field", "Did you mean tags?"),
    "limit 0": (with_field("limit: 0"), "9:10", "spec.limit must be at least 1, not 0", "Example: 5"),
    "limit 21": (with_field("limit: 21"), "9:10", "spec.limit must be at most 20, not 21", "1 to 20"),
    "limit in quotes": (with_field('limit: "3"'), "9:10", 'not the text "3"', "Write 3 without quotes."),
    "limit on": (with_field("limit: on"), "9:10", 'a whole number, not the text "on"', "Example: 5"),
    "limit true": (with_field("limit: true"), "9:10", "a whole number, not true", "Example: 5"),
    "limit 1.5": (with_field("limit: 1.5"), "9:10", "a whole number, not 1.5", "Example: 5"),
    "suspend yes": (with_field("suspend: yes"), "9:12", "true or false", "Write true or false, without quotes."),
    "number for a path": (instead("playbooks/patch.yml", "5"), "6:13", "must be text, not 5", 'quotes: "5"'),
    "text for a list": (instead("[web]", "web"), "8:11", "must be a list", "Write [web]."),
    "text for a mapping": (with_field("timeouts: 30m"), "9:13", "must be a mapping", "Indent"),
    "no unit": (with_field("timeouts:\n    wave: 30"), "10:11", "has no unit", "30s for seconds"),
    "one of few": (with_field("strategy: paralel"), "9:13", "one of parallel, sequential", "parallel, sequential"),
    "missing": (instead("  playbook: playbooks/patch.yml\n", ""), "5:1", "spec.playbook is missing", "playbooks/"),
    "empty tags": (instead("[web]", "[]"), "8:5", "spec.selector selects nothing", "`all: true`"),
    "empty selector": (instead("\n    tags: [web]", " {}"), "7:13", "selects nothing", "`all: true`"),
    "no selector": (instead("\n    tags: [web]", ""), "7:12", "must be a mapping, not nothing", ""),
    "path as name": (instead("patch-web", "../patch"), "4:9", "a name and not a path", "For example: patch"),
    "name in capitals": (instead("patch-web", "Patch_Web"), "4:9", "lower-case", "For example: patch-web"),
    "path that leaves": (instead("playbooks/", "../"), "6:13", "leaves the repository", "without '..'"),
    "path from the root": (instead("playbooks/", "/srv/"), "6:13", "must be relative", "in the repository"),
    "connection variable": (
        with_field("extraVars:\n    ansible_host: x"),
        "10:5",
        "begins with 'ansible_'",
        "belong in the inventory",
    ),
    "not a number": (with_field("extraVars:\n    a: .nan"), "10:8", "", "quotes"),
    "fewest above most": (with_field("minHosts: 5\n  maxHosts: 3"), "10:13", "at least minHosts", "minHosts: 3"),
    "label that is a number": (
        instead("patch-web\n", "patch-web\n  labels: {tier: 1}\n"),
        "5:18",
        "metadata.labels.tier must be text",
        'quotes: "1"',
    ),
    "reserved: schedule": (with_field("schedule: daily"), "9:3", "spec.schedule", "come with a later version"),
    "reserved: approval": (with_field("approval: {}"), "9:3", "spec.approval", "come with a later version"),
    "retry too often": (with_field("retry:\n    limit: 1000"), "10:12", "must be at most 100", ""),
}


@pytest.mark.parametrize(("text", "place", "message", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_place_and_remedy(text: str, place: str, message: str, hint: str) -> None:
    problem = rejected(text).first
    assert str(problem).startswith(f"{PATH}:{place}: ")
    assert message in problem.message
    assert hint in problem.hint


def test_all_mistakes_of_a_document_are_told_at_once_in_their_order() -> None:
    found = rejected(with_field("limit: 0\n  suspend: maybe\n  retries: 3"))
    assert [(problem.line, problem.column) for problem in found.problems] == [(9, 10), (10, 12), (11, 3)]
    assert found.name == "patch-web"


def test_an_alias_is_refused_wherever_it_stands() -> None:
    found = rejected(with_field("extraVars:\n    a: &one 1\n    b: *one"))
    assert [(p.line, p.column) for p in found.problems] == [(10, 8), (11, 8)]


def test_a_name_that_is_a_path_is_never_handed_on() -> None:
    assert rejected(instead("patch-web", "../../etc/passwd")).name is None


def test_each_document_stands_for_itself() -> None:
    text = "---\n".join([GOOD_MANIFEST, instead("patch-web", "x") + "  limit: 0\n", instead("patch-web", "patch-db")])
    first, second, third = parse_manifests(text.encode(), PATH)
    assert isinstance(first, Parsed)
    assert isinstance(third, Parsed)
    assert (first.line, third.line, third.document) == (1, 20, 3)
    assert isinstance(second, Rejected)
    assert (second.document, second.name, second.first.line) == (2, "x", 18)


def test_the_highest_limit_is_a_setting() -> None:
    (entry,) = parse_manifests(with_field("limit: 40").encode(), PATH, max_limit=50)
    assert isinstance(entry, Parsed)
    assert entry.job.spec.limit == 40


def test_a_good_manifest_has_what_it_says_and_defaults_for_the_rest() -> None:
    spec = parsed(with_field("limit: 3\n  stopOnFailure: true")).job.spec
    assert (spec.playbook, spec.selector.tags, spec.limit, spec.stop_on_failure) == (
        "playbooks/patch.yml",
        ("web",),
        3,
        True,
    )
    assert (spec.strategy, spec.min_hosts, spec.suspend) == ("parallel", 2, False)


def test_scalars_are_what_the_author_sees() -> None:
    text = "extraVars: {a: on, b: no, c: 22:30, d: 0644, e: 2026-11-23, f: 7, g: 1.5, h: true, i: null}"
    assert parsed(with_field(text)).job.spec.extra_vars == {
        "a": "on",
        "b": "no",
        "c": "22:30",
        "d": "0644",
        "e": "2026-11-23",
        "f": 7,
        "g": 1.5,
        "h": True,
        "i": None,
    }


def test_a_vaulted_value_is_kept_as_ansible_writes_it() -> None:
    text = "extraVars:\n    password: !vault |\n      $ANSIBLE_VAULT;1.1;AES256\n      6162\n"
    value = parsed(with_field(text)).job.spec.extra_vars["password"]
    assert value == {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256\n6162\n"}


# -- whatever the bytes ----------------------------------------------------------------------------------------------
WORDS = ("a", "limit", ": ", ":", "- ", "\n", "  ", "\t", "[", "]", "{", "}", ",", "|", ">", "'", '"', "#", "? ")
TRAPS = (
    "&a ",
    "*a",
    "<<",
    "!vault ",
    "!!set ",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "\\",
    "\u2028",
    "\ufeff",
    "1e999",
    ".inf",
)
YAML_PIECES = st.sampled_from((*WORDS, *TRAPS))


def check_entries(entries: tuple[Parsed | Rejected, ...]) -> None:
    assert entries
    for entry in entries:
        if isinstance(entry, Rejected):
            assert entry.problems
            assert all(p.line >= 1 and p.column >= 1 and p.message for p in entry.problems)


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    check_entries(parse_manifests(data, PATH))


@given(st.lists(YAML_PIECES, max_size=40).map("".join), st.booleans())
def test_nothing_that_looks_like_yaml_makes_it_raise(text: str, inside: bool) -> None:
    check_entries(parse_manifests(((GOOD_MANIFEST if inside else "") + text).encode(), PATH))


@given(st.integers(0, len(GOOD_MANIFEST)), st.integers(0, len(GOOD_MANIFEST)), YAML_PIECES)
def test_no_damage_to_a_good_manifest_makes_it_raise(start: int, end: int, piece: str) -> None:
    check_entries(parse_manifests((GOOD_MANIFEST[:start] + piece + GOOD_MANIFEST[end:]).encode(), PATH))


# -- specs as JSON, and their digests --------------------------------------------------------------------------------
NAMES = st.text("abcxyz_", min_size=1, max_size=8)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inside, max_size=3),
    max_leaves=8,
)
WORK: dict[str, st.SearchStrategy[Any]] = {
    "extraVars": st.dictionaries(NAMES, DATA, max_size=3),
    "checkMode": st.booleans(),
    "tasks": st.fixed_dictionaries({"tags": st.lists(st.sampled_from(["a", "b", "c"]))}),
    "inventory": st.sampled_from(["hosts.yml", ["eu.yml", "us.yml"]]),
}
STEERING: dict[str, st.SearchStrategy[Any]] = {
    "strategy": st.sampled_from(["parallel", "sequential"]),
    "limit": st.integers(1, 20),
    "stopOnFailure": st.booleans(),
    "minHosts": st.integers(1, 5),
    "maxHosts": st.integers(5, 50),
    "suspend": st.booleans(),
    "runOn": st.lists(st.sampled_from(["spec", "playbook"])),
    "onChange": st.sampled_from(["Finish", "StopAfterWave", "Cancel"]),
    "onHostsJoined": st.sampled_from(["Ignore", "Run"]),
    "hostsPerProcess": st.integers(1, 5),
    "timeouts": st.fixed_dictionaries({"wave": st.sampled_from(["90s", "30m", "2h", "1d"])}),
    "history": st.fixed_dictionaries({"keep": st.integers(1, 50)}),
}
work_fields = st.fixed_dictionaries({}, optional=WORK)
steering_fields = st.fixed_dictionaries({}, optional=STEERING)


@given(work_fields, steering_fields)
def test_a_spec_comes_back_from_json_as_it_was(work: dict[str, Any], steering: dict[str, Any]) -> None:
    spec = make_spec(**work, **steering)
    again = spec_from_json(spec_to_json(spec))
    assert again == spec
    assert spec_digest(again) == spec_digest(spec)


@given(work_fields, steering_fields, steering_fields)
def test_steering_fields_change_no_digest_of_the_work(
    work: dict[str, Any], before: dict[str, Any], after: dict[str, Any]
) -> None:
    old, new = make_spec(**work, **before), make_spec(**work, **after)
    assert work_digest(old) == work_digest(new)
    assert coverage_digest(old) == coverage_digest(new)
    assert (spec_digest(old) == spec_digest(new)) is (old == new)


def test_a_default_said_out_loud_changes_no_digest() -> None:
    loud = make_spec(limit=5, strategy="parallel", checkMode=False, extraVars={}, timeouts={"task": "30m"})
    assert spec_digest(loud) == spec_digest(make_spec())
    assert work_digest(loud) == work_digest(make_spec())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"selector": {"tags": ["web", "eu"]}}, {"selector": {"tags": ["eu", "web", "eu"]}}),
        ({"tasks": {"tags": ["a", "b"]}}, {"tasks": {"tags": ["b", "a"]}}),
        ({"inventory": "hosts.yml"}, {"inventory": ["./hosts.yml"]}),
        ({"extraVars": {"a": 1, "b": 2}}, {"extraVars": {"b": 2, "a": 1}}),
        ({"timeouts": {"wave": "120m"}}, {"timeouts": {"wave": "2h"}}),
    ],
)
def test_two_ways_to_say_the_same_have_one_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert spec_digest(make_spec(**one)) == spec_digest(make_spec(**other))


@pytest.mark.parametrize(
    "field", [{"playbook": "other.yml"}, {"extraVars": {"a": 1}}, {"checkMode": True}, {"tasks": {"skipTags": ["x"]}}]
)
def test_a_work_field_changes_every_digest(field: dict[str, Any]) -> None:
    for digest in (spec_digest, work_digest, coverage_digest):
        assert digest(make_spec(**field)) != digest(make_spec())


def test_the_selector_is_work_but_not_what_is_done_to_a_host() -> None:
    narrow, wide = make_spec(selector={"tags": ["web"]}), make_spec(selector={"all": True})
    assert work_digest(narrow) != work_digest(wide)
    assert coverage_digest(narrow) == coverage_digest(wide)


def test_text_and_number_are_different_work() -> None:
    assert work_digest(make_spec(extraVars={"a": 1})) != work_digest(make_spec(extraVars={"a": "1"}))


def test_json_that_is_no_spec_is_refused() -> None:
    with pytest.raises(ValidationError):
        make_spec(retry=3)
