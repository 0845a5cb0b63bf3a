"""The published contracts, and the pages of all fields of a manifest and of all settings: written from the code, and
checked against what is in the repository."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from reconciler.adapters.metrics import CATALOGUE
from reconciler.core.manifest import format_duration, manifest_schema
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, JobStatus, SourceStatus
from reconciler.settings import AnsibleSettings, Settings, is_secret
from reconciler.web import openapi_document

DIALECT = "https://json-schema.org/draft/2020-12/schema"


DOCS = "docs"
"""The folder of the pages: beside that of the contracts, where there is one."""


def write(folder: Path) -> None:
    """Write every contract into the folder, and the pages into the docs beside it, if there are any."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in _files(folder).items():
        path.write_text(text, encoding="utf-8")


def stale(folder: Path) -> list[str]:
    """Names, seen from the folder, of the files that are not what the code says."""
    return [os.path.relpath(path, folder) for path, text in _files(folder).items() if not _is(path, text)]


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _files(folder: Path) -> Mapping[Path, str]:
    files = {folder / name: text for name, text in _contracts().items()}
    docs = folder.absolute().parent / DOCS
    pages = {docs / "manifest.md": manifest_page(), docs / "settings.md": settings_page()}
    return {**files, **pages} if docs.is_dir() else files


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
        "openapi.json": _json(openapi_document()),
    }


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _yaml(document: object) -> str:
    head = "# Written by `reconciler specs`.\n"
    return head + yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=120)


# -- the page of a manifest's fields ---------------------------------------------------------------------------------
MANIFEST_HEAD = """\
# Manifest

<!-- Written by `reconciler specs` from reconciler/core/manifest.py. -->

All fields of a `BatchJob`. Those marked **work** open a run when they change; all others steer what runs, and run
nothing (see [concepts](concepts.md)). A field that is not listed here is refused, with its place and what may have been
meant. Editors complete and check manifests whose first line names the schema, `specs/batchjob.v1.schema.json`.

```yaml
# yaml-language-server: $schema=../specs/batchjob.v1.schema.json
apiVersion: reconciler/v1
kind: BatchJob
metadata:
  name: patch-web
spec:
  playbook: playbooks/patch.yml
  selector: {tags: [web, production]}
```
"""


def manifest_page() -> str:
    """docs/manifest.md."""
    schema = manifest_schema()
    parts = [MANIFEST_HEAD]
    waiting = [(name, _resolved(schema["properties"][name], schema)) for name in ("metadata", "spec")]
    while waiting:
        name, section = waiting.pop(0)
        parts.append(f"\n## {name}\n\n{section['description']}\n\n")
        parts.append("| field | default | | meaning |\n| --- | --- | --- | --- |\n")
        for field, said in section["properties"].items():
            whole = _resolved(said, schema)
            default = _default(said, required=field in section.get("required", ()))
            meaning = whole["description"] + _example(said)
            if "properties" in whole:
                waiting.append((f"{name}.{field}", whole))
                default = default if default == "required" else ""
                meaning += f" See [below](#{name}{field.lower()})."
            work = "work" if said.get("x-opens-run") else ""
            parts.append(f"| `{field}` | {default} | {work} | {_cell(meaning)} |\n")
    return "".join(parts)


def _resolved(said: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """With what it refers to; what it says itself counts."""
    return {**schema["$defs"].get(said.get("$ref", "").rpartition("/")[2], {}), **said}


def _default(said: Mapping[str, Any], *, required: bool) -> str:
    if required:
        return "required"
    value = said.get("default")
    return "unset" if value in (None, [], {}) else f"`{_flow(value)}`"


def _example(said: Mapping[str, Any]) -> str:
    examples = " or ".join(f"`{_flow(example)}`" for example in said.get("examples", ()))
    return f" For example {examples}." if examples else ""


def _flow(value: object) -> str:
    """A value as one would write it into a manifest, on one line."""
    return json.dumps(value) if not isinstance(value, str) else value


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# -- the page of settings --------------------------------------------------------------------------------------------
HEAD = """\
# Settings

<!-- Written by `reconciler specs` from reconciler/settings.py. -->

Each setting has one value, and the last of these that names it gives it:

1. `reconciler.toml`: the file named by `--config`, else `./reconciler.toml`, else `/etc/reconciler/reconciler.toml`;
2. the environment: the variable named below. A list is JSON there: `RECONCILER_MANIFESTS='["jobs/**/*.yaml"]'`. A
   secret may be in a file, which the variable with `_FILE` at its end names; a line break at its end does not count;
3. a flag of the command line, where there is one, such as `--state-dir`.

A name in the file that is not listed here is refused. Durations are written as `90s`, `30m`, `2h` or `1d`.
`reconciler config show` prints what is in force, without passwords.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name in its section of the file, its variables, its default as TOML has it, and its meaning."""

    name: str
    variables: tuple[str, ...]
    default: str
    description: str


def settings_of(model: type[BaseModel], prefix: str | None) -> tuple[Setting, ...]:
    """The settings of one section; those of sections inside it are left out, and the lists of sections that have one of
    their own on the page. `prefix` None: they have no variables, as
    those of a list of sections have none."""
    return tuple(
        Setting(
            name,
            _variables((prefix + name).upper(), field) if prefix is not None else (),
            "required" if field.is_required() else _toml(field.default),
            _meaning(field),
        )
        for name, field in model.model_fields.items()
        if _section(field) is None and (_listed(field) is None or model is not Settings)
    )


def settings_page() -> str:
    """docs/settings.md."""
    prefix = str(Settings.model_config["env_prefix"])
    delimiter = str(Settings.model_config["env_nested_delimiter"])
    parts = [HEAD, *_table(settings_of(Settings, prefix))]
    for name, field in Settings.model_fields.items():
        if (section := _section(field)) is not None:
            parts += [f"\n## [{name}]\n\n{field.description}\n"]
            parts += _table(settings_of(section, f"{prefix}{name}{delimiter}"))
            for inner, inside in section.model_fields.items():
                if (entry := _listed(inside)) is not None:
                    parts += [f"\n### [[{name}.{inner}]]\n\n{entry.__doc__}\n", *_table(settings_of(entry, None))]
        elif (each := _listed(field)) is not None:
            parts += [
                f"\n## [[{name}]]\n\n{field.description} In the environment, `{(prefix + name).upper()}` is the whole"
            ]
            parts += [" list as JSON.\n", *_table(settings_of(each, None))]
            for inner, inside in each.model_fields.items():
                if (part := _optional(inside)) is not None and part is not AnsibleSettings:
                    parts += [f"\n### {name}.{inner}\n\n{inside.description}\n", *_table(settings_of(part, None))]
    return "".join(parts)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _listed(field: FieldInfo) -> type[BaseModel] | None:
    """The section of which a setting is a list."""
    kind = next(iter(get_args(field.annotation)), None) if get_origin(field.annotation) is tuple else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _optional(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a setting may have."""
    kinds = (kind for kind in get_args(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel))
    return next(kinds, None)


def _variables(variable: str, field: FieldInfo) -> tuple[str, ...]:
    return (variable, f"{variable}_FILE") if is_secret(field) else (variable,)


def _meaning(field: FieldInfo) -> str:
    bounds = [f"At least {bound.ge}." for bound in field.metadata if hasattr(bound, "ge")]
    return " ".join([field.description or "", *bounds])


def _toml(value: Any) -> str:
    match value:
        case None:
            return ""
        case timedelta():
            return json.dumps(format_duration(value))
        case tuple():
            return f"[{', '.join(_toml(each) for each in value)}]"
        case Path():
            return json.dumps(str(value))
        case _:
            return json.dumps(value)


def _table(settings: tuple[Setting, ...]) -> Iterator[str]:
    with_variables = any(each.variables for each in settings)
    titles = ("setting", "default", *(("environment",) if with_variables else ()), "meaning")
    yield f"\n| {' | '.join(titles)} |\n|{' --- |' * len(titles)}\n"
    for each in settings:
        default = each.default if each.default in ("", "required") else f"`{each.default}`"
        variables = [" or ".join(f"`{variable}`" for variable in each.variables)] if with_variables else []
        yield f"| {' | '.join((f'`{each.name}`', default or 'unset', *variables, _cell(each.description)))} |\n"
