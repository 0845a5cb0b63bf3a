"""The published contracts are what the code says, and what the code writes keeps to them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from pydantic import BaseModel

from reconciler import specs
from reconciler.adapters.metrics import CATALOGUE
from reconciler.adapters.statusfile import render
from reconciler.core.manifest import BatchJobSpec, History, Metadata, Selector, Tasks, Timeouts
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType
from reconciler.settings import GitSourceSettings, Settings, StatusBranchSettings, TokenSettings, load_settings
from tests.adapters.test_statusfile import job_status, source_status

PUBLISHED = Path(__file__).parents[1] / "specs"
FILES = {
    "batchjob.v1.schema.json",
    "conditions.yaml",
    "metrics.yaml",
    "openapi.json",
    "source-status.v1.schema.json",
    "status.v1.schema.json",
}


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PUBLISHED / f"{name}.v1.schema.json").read_text(encoding="utf-8"))
    return found


def test_what_is_published_is_what_the_code_says() -> None:
    assert specs.stale(PUBLISHED) == [], "run `make fix`"


@pytest.mark.parametrize("named", [PUBLISHED, Path(os.path.relpath(PUBLISHED))], ids=["whole path", "from here"])
def test_the_pages_of_settings_and_of_a_manifests_fields_are_checked_with_them(named: Path) -> None:
    docs = PUBLISHED.parent / specs.DOCS
    assert {docs / "settings.md", docs / "manifest.md"} <= set(specs._files(named))


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("metadata", Metadata),
        ("spec", BatchJobSpec),
        ("spec.selector", Selector),
        ("spec.tasks", Tasks),
        ("spec.timeouts", Timeouts),
        ("spec.history", History),
    ],
)
def test_every_field_of_a_manifest_is_on_its_page(heading: str, model: type[BaseModel]) -> None:
    page = (PUBLISHED.parent / specs.DOCS / "manifest.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert lines == [field.alias or name for name, field in model.model_fields.items()]


def test_the_page_of_a_manifest_says_what_is_needed_what_is_assumed_and_what_opens_a_run() -> None:
    page = specs.manifest_page()
    assert "| `playbook` | required | work | " in page
    assert "| `selector` | required | work | " in page
    assert "| `limit` | `5` |  | " in page
    assert "| `maxHosts` | unset |  | " in page


def test_writing_them_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    specs.write(tmp_path / "once")
    specs.write(tmp_path / "twice")
    assert {path.name for path in (tmp_path / "once").iterdir()} == FILES
    for name in FILES:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_a_stale_file_and_a_missing_one_are_named(tmp_path: Path) -> None:
    specs.write(tmp_path)
    assert specs.stale(tmp_path) == []
    (tmp_path / "metrics.yaml").write_text("metrics: []\n")
    (tmp_path / "conditions.yaml").unlink()
    assert set(specs.stale(tmp_path)) == {"metrics.yaml", "conditions.yaml"}


def test_the_pages_lie_in_the_docs_beside_them_where_there_are_any(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    specs.write(tmp_path / "specs")
    page = tmp_path / "docs" / "settings.md"
    assert page.read_text() == specs.settings_page()
    page.write_text("# Settings\n")
    assert specs.stale(tmp_path / "specs") == ["../docs/settings.md"]
    assert (tmp_path / "docs" / "manifest.md").read_text() == specs.manifest_page()


@pytest.mark.parametrize("name", ["batchjob", "status", "source-status"])
def test_each_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))


def test_a_status_file_keeps_to_the_schema() -> None:
    document = yaml.safe_load(render(job_status(**{"web-3": "no package"})))
    checker = Draft202012Validator(schema("status"))
    checker.validate(document)
    document["status"]["phase"] = "Fine"
    with pytest.raises(ValidationError, match="Fine"):
        checker.validate(document)


def test_the_status_file_of_a_source_keeps_to_its_schema() -> None:
    document = yaml.safe_load(render(source_status()))
    checker = Draft202012Validator(schema("source-status"))
    checker.validate(document)
    document["status"]["unheardOf"] = 1
    with pytest.raises(ValidationError, match="unheardOf"):
        checker.validate(document)


def test_the_description_of_the_api_is_one_and_every_operation_has_a_name_and_says_what_it_does() -> None:
    document = json.loads((PUBLISHED / "openapi.json").read_text(encoding="utf-8"))
    assert document["openapi"].startswith("3.1")
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names)) > 20
    for operation in operations:
        assert operation["description"]
        assert all(answer.get("description") or "$ref" in answer for answer in operation["responses"].values())
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), f"{operation['operationId']}: {parameter['name']}"


def test_every_example_of_the_api_keeps_to_its_schema() -> None:
    document = json.loads((PUBLISHED / "openapi.json").read_text(encoding="utf-8"))
    checked = 0
    for path in document["paths"].values():
        for operation in path.values():
            for answer in operation["responses"].values():
                for kind, content in answer.get("content", {}).items():
                    if kind == "application/json" and operation["operationId"] != "getDescription":
                        whole = {**content["schema"], "components": document["components"]}
                        Draft202012Validator(whole).validate(content["example"])
                        checked += 1
    for schema in document["components"]["schemas"].values():
        for example in schema.get("examples", ()):
            Draft202012Validator({**schema, "components": document["components"]}).validate(example)
            checked += 1
    assert checked > 20


def test_every_reason_and_condition_has_a_paragraph() -> None:
    published = yaml.safe_load((PUBLISHED / "conditions.yaml").read_text(encoding="utf-8"))
    assert set(published["conditions"]) == {kind.value for kind in ConditionType}
    assert set(published["reasons"]) == {reason.value for reason in Reason}
    for text in [*published["conditions"].values(), *published["reasons"].values()]:
        assert text.endswith(".")


def test_every_metric_is_published() -> None:
    published = yaml.safe_load((PUBLISHED / "metrics.yaml").read_text(encoding="utf-8"))["metrics"]
    assert [entry["name"] for entry in published] == [metric.name for metric in CATALOGUE]
    assert all(entry["help"] and entry["type"] for entry in published)


# -- settings --------------------------------------------------------------------------------------------------------
def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Each section with the prefix of its variables; first what stands in none."""
    yield "RECONCILER_", Settings
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield f"RECONCILER_{name.upper()}__", field.annotation


@pytest.mark.parametrize(("prefix", "model"), list(sections()))
def test_every_setting_says_what_it_is_for(prefix: str, model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, f"{prefix}{name.upper()} has no description"
        assert field.description.endswith("."), f"{prefix}{name.upper()}: a sentence ends with a full stop"


def test_every_setting_is_on_the_page() -> None:
    page = (PUBLISHED.parent / specs.DOCS / "settings.md").read_text(encoding="utf-8")
    models = [model for _, model in sections()]
    for prefix, model in sections():
        for name, field in model.model_fields.items():
            if field.annotation not in models:
                assert f"| `{name}` | " in page or f"## [[{name}]]" in page
                assert f"`{prefix}{name.upper()}`" in page


@pytest.mark.parametrize("model", [GitSourceSettings, StatusBranchSettings, TokenSettings])
def test_what_a_source_may_say_is_on_the_page(model: type[BaseModel]) -> None:
    page = (PUBLISHED.parent / specs.DOCS / "settings.md").read_text(encoding="utf-8")
    for name, field in model.model_fields.items():
        assert f"| `{name}` | " in page
        assert (field.description or "").endswith("."), f"{name}: a sentence ends with a full stop"


def test_the_variables_on_the_page_are_the_ones_that_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "RECONCILER_MAX_RUNNING": "7",
        "RECONCILER_INVENTORY__REFRESH": "90s",
        "RECONCILER_MANIFESTS": '["a.yaml"]',
    }
    for variable, value in given.items():
        assert f"`{variable}`" in specs.settings_page()
        monkeypatch.setenv(variable, value)
    settings = load_settings(None)
    assert (settings.max_running, settings.inventory.refresh.total_seconds()) == (7, 90.0)
    assert settings.manifests == ("a.yaml",)


def test_the_defaults_on_the_page_can_be_put_into_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    lines = []
    for prefix, model in sections():
        section = prefix.removeprefix("RECONCILER_").removesuffix("__").lower()
        lines += [f"[{section}]"] if section else []
        lines += [f"{each.name} = {each.default}" for each in specs.settings_of(model, prefix) if each.default]
    (tmp_path / "reconciler.toml").write_text("\n".join(lines))
    assert load_settings(None).model_dump() == Settings().model_dump()
