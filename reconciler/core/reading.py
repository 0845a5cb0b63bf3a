"""From the bytes of a file to its manifests, or to what is wrong with each of them and where."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from reconciler.core.documents import (
    MAX_PROBLEMS,
    Document,
    Location,
    Place,
    Problem,
    Unreadable,
    read_documents,
    shown,
)
from reconciler.core.manifest import API_VERSION, DEFAULT_MAX_LIMIT, KIND, BatchJob

_VAULTED: tuple[Location, ...] = (("spec", "extraVars"),)

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

_LATER: dict[Location, str] = {
    ("spec", "waves"): "Waves of different sizes come with a later version; use `limit`.",
    ("spec", "maxFailures"): "Failure budgets come with a later version; use `stopOnFailure`.",
    ("spec", "spread"): "Spreading waves comes with a later version.",
    ("spec", "before"): "Steps before and after come with a later version.",
    ("spec", "after"): "Steps before and after come with a later version.",
    ("spec", "schedule"): "Schedules come with a later version.",
    ("spec", "notBefore"): "Schedules come with a later version.",
    ("spec", "window"): "Maintenance windows come with a later version.",
    ("spec", "approval"): "Approvals come with a later version.",
    ("spec", "health"): "Health checks come with a later version.",
    ("spec", "onFailure"): "Rollback comes with a later version.",
    ("spec", "notify"): "Notifications come with a later version.",
    ("spec", "template"): "Templates come with a later version.",
    ("spec", "dependsOn"): "Dependencies come with a later version.",
    ("spec", "driftDetection"): "Drift detection comes with a later version.",
    ("spec", "priority"): "Priorities come with a later version.",
    ("spec", "credentials"): "Credentials per job come with a later version; see the setting [ansible].",
}
"""Fields that are reserved: what is not enforced yet is not accepted."""

_ENOUGH = 50 * MAX_PROBLEMS
"""Findings that are put in the order of the file before all but the first are left out. A megabyte of mistakes has a
hundred thousand, and explaining each takes seconds."""


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


def place_of_field(data: bytes, document: int, field: Location) -> Place:
    """Where a field stands in the `document`-th of a file, `field` leading to it from the spec; where it is left out,
    what is around it."""
    documents = read_documents(data, "", _VAULTED)
    found = () if isinstance(documents, Unreadable) else documents
    return next((one.place(("spec", *field)) for one in found if one.number == document), Place(1, 1))


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
            problems = [_problem(document, path, details) for details in error.errors(include_url=False)[:_ENOUGH]]
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
            message = f"{field} must be {expected}, not {_shown(value[field])}"
            return problem(place, message, f"Write `{field}: {expected}`.")
    return None


# -- pydantic's findings in plain words ------------------------------------------------------------------------------
def _problem(document: Document, path: str, details: ErrorDetails) -> Problem:
    location = _real_location(details["loc"], document.value)
    context: Mapping[str, Any] = details.get("ctx", {})
    if details["type"] == "refused":
        location = (*location, *context["inside"])
    place = document.place(location)
    if details["type"] == "extra_forbidden" or "[key]" in details["loc"]:
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
        case "extra_forbidden" if location in _LATER:
            return f"{name} is not offered yet", _LATER[location]
        case "extra_forbidden":
            return f"{name} is no field of a BatchJob", _did_you_mean(location)
        case "enum":
            allowed = str(context["expected"]).replace("'", "").replace(" or ", ", ")
            return f"{name} must be one of {allowed}, not {_shown(given)}", f"Choose one of {allowed}."
        case "int_type":
            return f"{name} must be a whole number, not {_shown(given)}", _number_hint(given, location)
        case "bool_type":
            return f"{name} must be true or false, not {_shown(given)}", "Write true or false, without quotes."
        case "string_type":
            return f"{name} must be text, not {_shown(given)}", f'Put it in quotes: "{_plain(given)}".'
        case "greater_than_equal" | "less_than_equal":
            bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
            return f"{name} must be {bound}, not {given}", _example(location)
        case "tuple_type":
            return f"{name} must be a list, not {_shown(given)}", f"Write [{_plain(given)}]."
        case "dict_type" | "model_type":
            return f"{name} must be a mapping, not {_shown(given)}", "Indent its fields below it."
        case _:
            return f"{name}: {details['msg']}", _example(location)


def _name(location: Location) -> str:
    """As messages have it: `spec.selector.hosts[1]`. An odd key is quoted, so that a message stays one line."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if re.fullmatch(r"[A-Za-z0-9_./-]{1,80}", part) else f".{shown(part)}"
    return name.removeprefix(".")


def _shown(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "nothing"
        case str():
            return f"the text {shown(value)}"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return str(value)


def _plain(value: object) -> str:
    text = _shown(value) if not isinstance(value, str) else value
    return text if re.fullmatch(r"[A-Za-z0-9_./+-]{1,40}", text) else "…"


def _number_hint(value: object, location: Location) -> str:
    if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,8}", value.strip()):
        return f"Write {value.strip()} without quotes."
    return _example(location) or "Write a number, such as 5."


def _fields(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[Location, FieldInfo]]:
    for name, field in model.model_fields.items():
        here = (*above, field.alias or name)
        yield here, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, here)


_FIELDS = dict(_fields(BatchJob))
"""Every field of a manifest by where it stands."""


def _did_you_mean(location: Location) -> str:
    *above, last = location
    beside = [str(field[-1]) for field in _FIELDS if field[:-1] == tuple(above)]
    folded = {name.lower(): name for name in beside}
    plain = re.sub(r"[-_ ]", "", str(last)[:80]).lower()
    if plain not in folded:
        elsewhere = [_name(field) for field in _FIELDS if str(field[-1]).lower() == plain]
        if elsewhere:
            return f"Did you mean {' or '.join(elsewhere)}?"
    close = difflib.get_close_matches(plain, list(folded), n=1, cutoff=0.6)
    return f"Did you mean {folded[close[0]]}?" if close else f"Its fields are: {', '.join(beside)}."


def _example(location: Location) -> str:
    """What the field is for, and a value where one says more."""
    field = _FIELDS.get(location)
    if field is None:
        return ""
    example = field.examples[0] if field.examples else None
    said = field.description or ""
    return said if example is None or isinstance(example, dict | list) else f"{said} Example: {example}"
