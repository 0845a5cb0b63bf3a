"""The published contracts are what the code says, and what the code writes keeps to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from reconciler import specs
from reconciler.adapters.metrics import CATALOGUE
from reconciler.adapters.statusfile import render
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType
from tests.adapters.test_statusfile import job_status, source_status

PUBLISHED = Path(__file__).parents[1] / "specs"
FILES = {
    "batchjob.v1.schema.json",
    "conditions.yaml",
    "metrics.yaml",
    "source-status.v1.schema.json",
    "status.v1.schema.json",
}


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PUBLISHED / f"{name}.v1.schema.json").read_text(encoding="utf-8"))
    return found


def test_what_is_published_is_what_the_code_says() -> None:
    assert specs.stale(PUBLISHED) == [], "run `make fix`"


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
