"""The values of a manifest: what they accept, how they travel as JSON, and what their digests notice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from reconciler.core.manifest import (
    BatchJob,
    BatchJobSpec,
    History,
    OnChange,
    Retry,
    RunOn,
    Selector,
    Strategy,
    Timeouts,
    coverage_digest,
    format_duration,
    manifest_schema,
    parse_duration,
    spec_digest,
    spec_from_json,
    spec_to_json,
    work_digest,
)

SMALLEST: Mapping[str, Any] = {"playbook": "patch.yml", "selector": {"all": True}}


def spec(**fields: Any) -> BatchJobSpec:
    """A spec by the manifest's own names, complete but for what the test says."""
    return spec_from_json({**SMALLEST, **fields})


# -- durations -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("1d", timedelta(days=1)),
        ("3650d", timedelta(days=3650)),
    ],
)
def test_durations_are_a_number_and_a_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration
    assert format_duration(duration) == text


@pytest.mark.parametrize(
    "text", ["", "30", "m", "0s", "-1h", "1.5h", "1h30m", "30 m", "30M", "01h", "3651d", "٣m", "1m\n"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(text)


@given(st.integers(1, 3650 * 86400))
def test_a_duration_is_written_as_it_is_read(seconds: int) -> None:
    duration = timedelta(seconds=seconds)
    assert parse_duration(format_duration(duration)) == duration


# -- what is accepted ------------------------------------------------------------------------------------------------
def test_the_defaults_are_those_of_the_contract() -> None:
    assert spec() == BatchJobSpec(
        playbook="patch.yml",
        selector=Selector(all=True),
        strategy=Strategy.PARALLEL,
        limit=5,
        min_hosts=2,
        run_on=(RunOn.SPEC,),
        on_change=OnChange.STOP_AFTER_WAVE,
        timeouts=Timeouts(task=timedelta(minutes=30), wave=timedelta(hours=2), run=None),
        retry=Retry(limit=0, backoff=timedelta(seconds=30), unknown=False),
        history=History(keep=10, ttl=timedelta(days=30)),
    )


def test_values_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().limit = 7  # type: ignore[misc]


def test_paths_are_kept_in_one_way_of_writing() -> None:
    found = spec(playbook="./playbooks//patch.yml", inventory="inventory/", extraVarsFiles=["a/./b.yml"])
    assert (found.playbook, found.inventory, found.extra_vars_files) == (
        "playbooks/patch.yml",
        ("inventory",),
        ("a/b.yml",),
    )


@pytest.mark.parametrize(
    "path",
    ["", " ", "/etc/passwd", "../x.yml", "a/../../x.yml", "a/..", "..", "-i", "~/x", "$HOME/x", "a\\b", "a\0b", "a\nb"],
)
@pytest.mark.parametrize("field", ["playbook", "inventory", "extraVarsFiles"])
def test_a_path_stays_in_the_repository(field: str, path: str) -> None:
    with pytest.raises(ValidationError):
        spec(**{field: [path] if field == "extraVarsFiles" else path})


def test_a_name_with_dots_is_no_way_out() -> None:
    assert spec(playbook="..patch/a..b.yml").playbook == "..patch/a..b.yml"


def test_an_inventory_that_ansible_would_take_for_hosts_is_refused() -> None:
    with pytest.raises(ValidationError, match="','"):
        spec(inventory="web-1,web-2")


@pytest.mark.parametrize("search", ["web-*", "web", "10.1.0.0/16", "10.1.2.3/16", "fd00::/8", "rack/7", "10."])
def test_searches(search: str) -> None:
    assert spec(selector={"search": search}).selector.search == search


@pytest.mark.parametrize("search", ["", "  ", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/x", "fd00::/129", "300.1.1.1/8"])
def test_a_search_that_looks_like_a_network_is_one(search: str) -> None:
    with pytest.raises(ValidationError):
        spec(selector={"search": search})


@pytest.mark.parametrize("selector", [{}, {"all": False}, {"tags": []}, {"hosts": [], "notTags": []}, {"search": None}])
def test_a_selector_without_criterion_is_refused(selector: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="selects nothing"):
        spec(selector=selector)


@pytest.mark.parametrize("limit", [1, 20, 1000])
def test_a_stored_spec_keeps_a_limit_that_was_allowed_when_it_was_accepted(limit: int) -> None:
    assert spec(limit=limit).limit == limit


@pytest.mark.parametrize("name", ["ansible_user", "ansible_", "1a", "a-b", "a b", "", "class", "größe", "a.b"])
def test_names_of_variables(name: str) -> None:
    with pytest.raises(ValidationError):
        spec(extraVars={name: 1})


@pytest.mark.parametrize(
    "value", [float("inf"), {"__ansible_unsafe": "x"}, [{"__ansible_vault": "x"}], {1: 2}, object()]
)
def test_extra_vars_are_plain_data(value: object) -> None:
    with pytest.raises(ValidationError):
        spec(extraVars={"a": value})


def test_vaulted_values_are_kept_as_they_are() -> None:
    secret = {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256\n6162\n"}
    found = spec(extraVars={"password": secret, "deep": [{"x": secret}]})
    assert found.extra_vars == {"password": secret, "deep": [{"x": secret}]}
    assert spec_from_json(spec_to_json(found)) == found


# -- JSON ------------------------------------------------------------------------------------------------------------
def test_json_has_only_what_differs_from_the_defaults() -> None:
    given_fields = {"limit": 7, "timeouts": {"task": "30m", "wave": "1h"}, "history": {"keep": 10}, "runOn": []}
    assert spec_to_json(spec(**given_fields)) == {**SMALLEST, "limit": 7, "timeouts": {"wave": "1h"}, "runOn": []}


@pytest.mark.parametrize("wrong", [{"limt": 1}, {"stop_on_failure": True}, {"limit": "5"}, {"retry": {"attempts": 1}}])
def test_json_of_something_else_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**wrong)


TEXTS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
NAMES = TEXTS.map(lambda text: f"v{text}")
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
DURATIONS = st.integers(1, 100_000).map(lambda seconds: format_duration(timedelta(seconds=seconds)))
BACKOFFS = st.integers(1, 3600).map(lambda seconds: format_duration(timedelta(seconds=seconds)))
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "inventory": st.lists(NAMES, max_size=2) | NAMES,
    "extraVars": st.dictionaries(NAMES, DATA, max_size=3),
    "extraVarsFiles": st.lists(NAMES, max_size=2),
    "tasks": st.fixed_dictionaries({}, optional={"tags": st.lists(NAMES), "skipTags": st.lists(NAMES)}),
    "checkMode": st.booleans(),
    "strategy": st.sampled_from(["parallel", "sequential"]),
    "limit": st.integers(1, 20),
    "stopOnFailure": st.booleans(),
    "minHosts": st.integers(1, 5),
    "maxHosts": st.none() | st.integers(5, 9),
    "suspend": st.booleans(),
    "runOn": st.lists(st.sampled_from(["spec", "playbook"])),
    "onChange": st.sampled_from(["Finish", "StopAfterWave", "Cancel"]),
    "onHostsJoined": st.sampled_from(["Ignore", "Run"]),
    "hostsPerProcess": st.none() | st.integers(1, 5),
    "timeouts": st.fixed_dictionaries(
        {}, optional={"task": DURATIONS, "wave": DURATIONS, "run": st.none() | DURATIONS}
    ),
    "retry": st.fixed_dictionaries(
        {}, optional={"limit": st.integers(0, 100), "backoff": BACKOFFS, "unknown": st.booleans()}
    ),
    "history": st.fixed_dictionaries({}, optional={"keep": st.integers(1, 9), "ttl": DURATIONS}),
}
SELECTORS = st.fixed_dictionaries(
    {"tags": st.lists(NAMES, min_size=1)},
    optional={
        "anyTags": st.lists(NAMES),
        "notTags": st.lists(NAMES),
        "hosts": st.lists(NAMES, unique=True),
        "search": NAMES,
        "pattern": NAMES,
        "all": st.booleans(),
    },
)
SPECS = st.fixed_dictionaries({"playbook": NAMES, "selector": SELECTORS}, optional=OPTIONAL)


@given(SPECS)
def test_a_spec_survives_the_way_through_json(fields: dict[str, Any]) -> None:
    found = spec_from_json(fields)
    text = json.dumps(spec_to_json(found))
    again = spec_from_json(json.loads(text))
    assert again == found
    assert spec_digest(again) == spec_digest(found)
    assert json.dumps(spec_to_json(again)) == text


# -- digests ---------------------------------------------------------------------------------------------------------
WORK = {
    "playbook": "other.yml",
    "inventory": "other",
    "selector": {"tags": ["x"]},
    "extraVars": {"a": 1},
    "extraVarsFiles": ["x.yml"],
    "tasks": {"tags": ["x"]},
    "checkMode": True,
}
STEERING = {
    "strategy": "sequential",
    "limit": 7,
    "stopOnFailure": True,
    "minHosts": 3,
    "maxHosts": 30,
    "suspend": True,
    "runOn": ["spec", "playbook"],
    "onChange": "Cancel",
    "onHostsJoined": "Run",
    "hostsPerProcess": 1,
    "timeouts": {"wave": "1h"},
    "retry": {"limit": 2},
    "history": {"keep": 3},
}


def test_every_field_either_opens_a_run_or_steers() -> None:
    assert {*WORK, *STEERING} == {field.alias for field in BatchJobSpec.model_fields.values()}


@pytest.mark.parametrize("field", WORK)
def test_a_work_field_changes_the_work_digest(field: str) -> None:
    changed = spec(**{field: WORK[field]})
    assert work_digest(changed) != work_digest(spec())
    assert spec_digest(changed) != spec_digest(spec())
    assert (coverage_digest(changed) == coverage_digest(spec())) is (field == "selector")


@pytest.mark.parametrize("field", STEERING)
def test_a_steering_field_changes_the_generation_only(field: str) -> None:
    changed = spec(**{field: STEERING[field]})
    assert work_digest(changed) == work_digest(spec())
    assert coverage_digest(changed) == coverage_digest(spec())
    assert spec_digest(changed) != spec_digest(spec())


def test_digests_stay_as_they_were_published() -> None:
    # These are in people's databases: a different digest here runs every fleet again after an upgrade.
    full = spec(**{**WORK, **{name: value for name, value in STEERING.items() if name != "retry"}})
    assert spec_digest(full) == "ccb9d387d913fe8f8939589e1218a2bcf748243847406618e0473cbe2e5cc098"
    assert work_digest(full) == "0f1f1b53a7b0036c4abc44a9347888e3b3ad596977c8325d32afe8d0b7d0719c"
    assert coverage_digest(full) == "d51b6e8569ae5ce05dab27456e4f3f6421d247a15435c0ad5a23fe9d557f8589"
    later = spec(retry={"limit": 0, "backoff": "30s", "unknown": False}, timeouts={"run": None})
    assert spec_digest(later) == spec_digest(spec()), "what came later is left out where it is as it was before"
    assert work_digest(spec()) == "9f4629b401513ce4464730699bfd1461a41657009d378cdd50fac9fa0cac11ed"


def shuffled(value: Any, random: Any) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    random.shuffle(keys)
    return {key: shuffled(value[key], random) for key in keys}


@given(SPECS, st.randoms(use_true_random=False))
def test_the_order_of_keys_changes_no_digest(fields: dict[str, Any], random: Any) -> None:
    one, other = spec_from_json(fields), spec_from_json(shuffled(fields, random))
    assert (spec_digest(one), work_digest(one)) == (spec_digest(other), work_digest(other))


@given(SPECS)
def test_writing_the_defaults_out_changes_no_digest(fields: dict[str, Any]) -> None:
    found = spec_from_json(fields)
    everything = found.model_dump(mode="json", by_alias=True)
    assert spec_digest(spec_from_json(everything)) == spec_digest(found)


def test_order_counts_for_hosts_and_not_for_tags() -> None:
    def digest(**selector: Any) -> str:
        return work_digest(spec(selector=selector))

    assert digest(tags=["web", "prod"]) == digest(tags=["prod", "web", "web"])
    assert digest(hosts=["a", "b"]) != digest(hosts=["b", "a"])
    assert work_digest(spec(tasks={"tags": ["a", "b"]})) == work_digest(spec(tasks={"tags": ["b", "a"]}))


def test_true_and_1_are_different_work() -> None:
    assert work_digest(spec(extraVars={"a": 1})) != work_digest(spec(extraVars={"a": True}))


# -- the published schema --------------------------------------------------------------------------------------------
def manifest(**fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "reconciler/v1",
        "kind": "BatchJob",
        "metadata": {"name": "patch-web", "labels": {"team": "platform"}},
        "spec": {**SMALLEST, **fields},
    }


def test_the_schema_is_one_and_names_no_host() -> None:
    schema = manifest_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == "urn:reconciler:batchjob:v1"
    marked = {name for name, field in schema["$defs"]["BatchJobSpec"]["properties"].items() if field.get("x-opens-run")}
    assert marked == set(WORK)


def test_every_field_of_the_schema_is_described() -> None:
    schema = manifest_schema()
    for name, model in [("", schema), *schema["$defs"].items()]:
        for field, said in model.get("properties", {}).items():
            target = schema["$defs"][said["$ref"].rpartition("/")[2]] if "$ref" in said else {}
            assert said.get("description") or target.get("description"), f"{name}.{field}"


@given(SPECS)
def test_the_schema_accepts_what_the_model_accepts(fields: dict[str, Any]) -> None:
    document = manifest(**fields)
    BatchJob.model_validate(document)
    assert [error.message for error in Draft202012Validator(manifest_schema()).iter_errors(document)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"limit": 21},
        {"limit": "3"},
        {"limt": 3},
        {"selector": {}},
        {"playbook": "../x.yml"},
        {"playbook": "/x.yml"},
        {"extraVars": {"ansible_user": "root"}},
        {"timeouts": {"run": "soon"}},
        {"timeouts": {"task": 30}},
        {"strategy": "Parallel"},
        {"retry": {"limit": 101}},
        {"retry": 3},
    ],
)
def test_an_editor_sees_the_common_mistakes(wrong: dict[str, Any]) -> None:
    assert list(Draft202012Validator(manifest_schema()).iter_errors(manifest(**wrong)))


def test_a_request_is_an_annotation() -> None:
    job = manifest()
    assert BatchJob.model_validate(job).requested_at is None
    job["metadata"]["annotations"] = {"reconciler/requestedAt": "2026-11-23T10:00:00Z", "example/other": ""}
    assert BatchJob.model_validate(job).requested_at == "2026-11-23T10:00:00Z"
