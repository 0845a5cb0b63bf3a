"""The published contracts: written from the code, and checked against what is in the repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from reconciler.adapters.metrics import CATALOGUE
from reconciler.core.manifest import manifest_schema
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, JobStatus, SourceStatus

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def write(folder: Path) -> None:
    """Write every contract into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in _contracts().items():
        (folder / name).write_text(text, encoding="utf-8")


def stale(folder: Path) -> list[str]:
    """Names of the files there that are not what the code says."""
    return [name for name, text in _contracts().items() if not _is(folder / name, text)]


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _contracts() -> Mapping[str, str]:
    status = {
        "$schema": DIALECT,
        "$id": "urn:reconciler:status:v1",
        **JobStatus.model_json_schema(by_alias=True, mode="serialization"),
    }
    source = {
        "$schema": DIALECT,
        "$id": "urn:reconciler:source-status:v1",
        **SourceStatus.model_json_schema(by_alias=True, mode="serialization"),
    }
    conditions = {
        "conditions": {kind.value: kind.paragraph for kind in ConditionType},
        "reasons": {reason.value: reason.paragraph for reason in Reason},
    }
    metrics = [
        {"name": metric.name, "type": metric.type, "labels": list(metric.labels), "help": metric.help}
        for metric in CATALOGUE
    ]
    return {
        "batchjob.v1.schema.json": _json(manifest_schema()),
        "status.v1.schema.json": _json(status),
        "source-status.v1.schema.json": _json(source),
        "conditions.yaml": _yaml(conditions),
        "metrics.yaml": _yaml({"metrics": metrics}),
    }


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _yaml(document: object) -> str:
    head = "# Written by `reconciler specs`.\n"
    return head + yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=120)
