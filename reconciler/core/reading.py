"""From the bytes of a file to its manifests, or to what is wrong with each of them and where."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from reconciler.core.documents import MAX_PROBLEMS, Document, Location, Place, Problem, Unreadable, read_documents
from reconciler.core.manifest import API_VERSION, DEFAULT_MAX_LIMIT, KIND, BatchJob

_VAULTED: tuple[Location, ...] = (("spec", "extraVars"),)

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

_LATER = {
    "retry": "Retries come with a later version.",
    "run": "A deadline for the whole run comes with a later version.",
    "waves": "Waves of different sizes come with a later version; use `limit`.",
    "maxFailures": "Failure budgets come with a later version; use `stopOnFailure`.",
    "spread": "Spreading waves comes with a later version.",
    "before": "Steps before and after come with a later version.",
    "after": "Steps before and after come with a later version.",
    "schedule": "Schedules come with a later version.",
    "notBefore": "Schedules come with a later version.",
    "window": "Maintenance windows come with a later version.",
    "approval": "Approvals come with a later version.",
    "health": "Health checks come with a later version.",
    "onFailure": "Rollback comes with a later version.",
    "notify": "Notifications come with a later version.",
    "template": "Templates come with a later version.",
    "dependsOn": "Dependencies come with a later version.",
    "driftDetection": "Drift detection comes with a later version.",
    "priority": "Priorities come with a later version.",
    "credentials": "Credentials per job come with a later version; see the setting [ansible].",
}
"""Fields that are reserved: what is not enforced yet is not accepted."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A valid manifest and where it stands: the `document`-th of its file, from `line` on (both count from 1)."""

    path: str
    document: int
    job: BatchJob
    line: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that is no valid manifest, or a whole file that can't be read as YAML.

    `name` is its metadata.name where that could be read and is a valid name. `problems` are in the order of the file,
    and at least one.
    """

    path: str
    document: int
    name: str | None
    problems: tuple[Problem, ...]

    @property
    def first(self) -> Problem:
        return self.problems[0]


def parse_manifests(data: bytes, path: str, max_limit: int = DEFAULT_MAX_LIMIT) -> tuple[Parsed | Rejected, ...]:
    """Every document of a file, in order: a job, or why it is none. Never raises."""
    documents = read_documents(data, path, _VAULTED)
    if isinstance(documents, Unreadable):
        return (Rejected(path, 1, None, (documents.problem,)),)
    return tuple(_parse(document, path, max_limit) for document in documents)


def _parse(document: Document, path: str, max_limit: int) -> Parsed | Rejected:
    problems = list(document.problems)
    if not problems:
        foreign = _foreign(document, path)
        if foreign is not None:
            problems = [foreign]
    if not problems:
        try:
            job = BatchJob.model_validate(
                document.value, by_alias=True, by_name=False, context={"max_limit": max_limit}
            )
        except ValidationError as error:
            problems = [_problem(document, path, details) for details in error.errors(include_url=False)]
        else:
            return Parsed(path, document.number, job, document.root.place.line)
    problems.sort(key=lambda problem: (problem.line, problem.column))
    return Rejected(path, document.number, _readable_name(document.value), tuple(problems[:MAX_PROBLEMS]))


def _readable_name(value: object) -> str | None:
    match value:
        case {"metadata": {"name": str() as name}} if _NAME.fullmatch(name):
            return name
        case _:
            return None


def _foreign(document: Document, path: str) -> Problem | None:
    """What is no BatchJob at all is said in one line instead of ten."""

    def problem(place: Place, message: str, hint: str) -> Problem:
        return Problem(path, document.number, place.line, place.column, message, hint)

    value = document.value
    if not isinstance(value, dict):
        hint = f"A manifest begins with `apiVersion: {API_VERSION}` and `kind: {KIND}`."
        return problem(document.root.place, "a manifest must be a mapping", hint)
    for field, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        if field not in value:
            return problem(document.root.place, f"{field} is missing", f"Write `{field}: {expected}`.")
        if value[field] != expected:
            place = document.place((field,))
            return problem(place, f"{field} must be {expected}, not {value[field]}", f"Write `{field}: {expected}`.")
    return None


# -- pydantic's findings in plain words ------------------------------------------------------------------------------
def _problem(document: Document, path: str, details: ErrorDetails) -> Problem:
    location = _real_location(details["loc"], document.value)
    context: Mapping[str, Any] = details.get("ctx", {})
    if details["type"] == "refused":
        location = (*location, *context["inside"])
    place = document.place(location)
    if details["type"] in ("extra_forbidden", "invalid_key") or "[key]" in details["loc"]:
        place = document.key_place(location)
    message, hint = _explain(details, location, context)
    return Problem(path, document.number, place.line, place.column, message, hint)


def _real_location(location: tuple[str | int, ...], value: Any) -> Location:
    """Without the parts that pydantic adds for the members of a union and for keys."""
    real: list[str | int] = []
    for part in location:
        inside = isinstance(value, dict) and isinstance(part, str) and part in value
        inside = inside or (isinstance(value, list) and isinstance(part, int) and part < len(value))
        if inside:
            real.append(part)
            value = value[part]
        elif part == location[-1] and isinstance(value, dict) and part != "[key]":
            real.append(part)  # a field that is missing
    return tuple(real)


def _explain(details: ErrorDetails, location: Location, context: Mapping[str, Any]) -> tuple[str, str]:
    name = "the manifest" if not location else _name(location)
    given = details["input"]
    match details["type"]:
        case "refused":
            return f"{name} {details['msg']}", context["hint"]
        case "missing":
            return f"{name} is missing", _example(location)
        case "extra_forbidden":
            return f"{name} is no field of a BatchJob", _did_you_mean(location)
        case "enum" | "literal_error":
            allowed = ", ".join(_allowed(location)) or str(context.get("expected", ""))
            return f"{name} must be one of {allowed}, not {_shown(given)}", f"Choose one of {allowed}."
        case "int_type" | "int_parsing" | "int_from_float":
            return f"{name} must be a whole number, not {_shown(given)}", _number_hint(given, location)
        case "bool_type" | "bool_parsing":
            return f"{name} must be true or false, not {_shown(given)}", "Write true or false, without quotes."
        case "string_type":
            return f"{name} must be text, not {_shown(given)}", f'Put it in quotes: "{_plain(given)}".'
        case "greater_than_equal":
            return f"{name} must be at least {context['ge']}, not {given}", _example(location)
        case "less_than_equal":
            return f"{name} must be at most {context['le']}, not {given}", _example(location)
        case "tuple_type" | "list_type":
            return f"{name} must be a list, not {_shown(given)}", f"Write [{_plain(given)}]."
        case "dict_type" | "mapping_type" | "model_type" | "model_attributes_type":
            return f"{name} must be a mapping, not {_shown(given)}", "Indent its fields below it."
        case _:
            return f"{name}: {details['msg']}", _example(location)


def _name(location: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _shown(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "nothing"
        case str():
            return f'the text "{value}"' if len(value) <= 40 else "a text"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return str(value)


def _plain(value: object) -> str:
    return "…" if isinstance(value, dict | list | tuple) or value is None else str(value)[:40]


def _number_hint(value: object, location: Location) -> str:
    if isinstance(value, str) and value.strip().isdigit():
        return f"Write {value.strip()} without quotes."
    return _example(location) or "Write a number, such as 5."


def _model_at(location: Location) -> type[BaseModel] | None:
    model: type[BaseModel] = BatchJob
    for part in location:
        field = next((f for n, f in model.model_fields.items() if (f.alias or to_camel(n)) == part), None)
        annotation = field.annotation if field is not None else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model


def _allowed(location: Location) -> tuple[str, ...]:
    model = _model_at(tuple(part for part in location[:-1] if isinstance(part, str)))
    names = [part for part in location if isinstance(part, str)]
    if model is None or not names:
        return ()
    field = next((f for n, f in model.model_fields.items() if (f.alias or to_camel(n)) == names[-1]), None)
    annotation: Any = field.annotation if field is not None else None
    while get_origin(annotation) in (tuple, types.UnionType, Annotated):
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return tuple(str(value) for value in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return tuple(member.value for member in annotation)
    return ()


def _did_you_mean(location: Location) -> str:
    field = str(location[-1]) if location else ""
    if field in _LATER and location[:-1] in (("spec",), ("spec", "timeouts")):
        return _LATER[field]
    model = _model_at(location[:-1])
    if model is None:
        return "Remove it."
    names = [f.alias or to_camel(n) for n, f in model.model_fields.items()]
    folded = {name.lower(): name for name in names}
    plain = field.replace("_", "").replace("-", "").lower()
    close = difflib.get_close_matches(plain, list(folded), n=1, cutoff=0.6)
    return f"Did you mean {folded[close[0]]}?" if close else f"Its fields are: {', '.join(names)}."


def _example(location: Location) -> str:
    model = _model_at(location[:-1])
    if model is None or not location:
        return ""
    field = next((f for n, f in model.model_fields.items() if (f.alias or to_camel(n)) == location[-1]), None)
    if field is None:
        return ""
    said = field.description or ""
    example = field.examples[0] if field.examples else None
    return f"{said} Example: {example}" if example is not None and not isinstance(example, dict | list) else said
