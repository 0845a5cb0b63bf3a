"""The BatchJob manifest: what a user commits, as frozen values, and the digests that decide what opens a run.

A field that is not enforced is not accepted: what comes later is refused by name. Fields marked `x-opens-run` are work
fields: a change of one opens a run, all others only steer.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import keyword
import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError

from reconciler.core.documents import Problem, shown

__all__ = [
    "API_VERSION",
    "DEFAULT_MAX_LIMIT",
    "KIND",
    "BatchJob",
    "BatchJobSpec",
    "History",
    "Metadata",
    "OnChange",
    "OnHostsJoined",
    "Problem",
    "RunOn",
    "Selector",
    "Strategy",
    "Tasks",
    "Timeouts",
    "coverage_digest",
    "format_duration",
    "manifest_schema",
    "parse_duration",
    "spec_digest",
    "spec_from_json",
    "spec_to_json",
    "work_digest",
]

API_VERSION = "reconciler/v1"
KIND = "BatchJob"
DEFAULT_MAX_LIMIT = 20
REQUESTED_AT = "reconciler/requestedAt"

_WORK: dict[str, Any] = {"x-opens-run": True}


def _wrong(message: str, hint: str, inside: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """A refusal of a value. `message` goes on after the field's name ("must be ..."); `inside` leads from the value to
    the part of it that is at fault."""
    return PydanticCustomError("refused", "{text}", {"text": message, "hint": hint, "inside": inside})


# -- durations -------------------------------------------------------------------------------------------------------
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = timedelta(days=3650)


def parse_duration(text: str) -> timedelta:
    """`90s`, `30m`, `2h` or `1d`: a whole number of at least 1, and a unit; ten years at most. Raises ValueError."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 30m, 2h or 1d")
    duration = timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    if duration > _LONGEST:
        raise ValueError(f"{text} is longer than {_LONGEST.days}d")
    return duration


def format_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads as the same; fractions of a second are dropped."""
    seconds = int(duration.total_seconds())
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"


def _read_duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        if timedelta(seconds=1) <= value <= _LONGEST and not value.microseconds:
            return value
    elif isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError:
            pass
    elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
        raise _wrong("has no unit", f"Write {value}s for seconds or {value}m for minutes.")
    raise _wrong(
        f"must be a duration between 1s and {_LONGEST.days}d",
        "Write a whole number and one unit: 90s, 30m, 2h or 1d.",
    )


Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,8}[smhd]$"}),
]


# -- texts -----------------------------------------------------------------------------------------------------------
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _check_name(name: str) -> str:
    if _NAME.fullmatch(name):
        return name
    if "/" in name or "\\" in name or name.startswith("."):
        raise _wrong("is a name and not a path", _name_hint(name))
    if len(name) > 63:
        raise _wrong(f"has {len(name)} characters; a name has 63 at most", "Shorten it.")
    raise _wrong("must be lower-case letters, digits and '-', with a letter or digit at both ends", _name_hint(name))


def _name_hint(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name[:200].lower()).strip("-")[:63].strip("-")
    return f"For example: {slug or 'patch-web'}"


def _check_path(path: str) -> str:
    if not path.strip():
        raise _wrong("is empty", "Give a path relative to the root of the repository.")
    if _CONTROL.search(path):
        raise _wrong("has a control character", "Write the path on one line, without escapes.")
    if "\\" in path:
        raise _wrong("has a backslash", "Separate the parts of a path with '/'.")
    if path.startswith(("/", "~")):
        raise _wrong("must be relative to the root of the repository", "Only what is in the repository can be used.")
    if path.startswith("-"):
        raise _wrong("begins with '-'", "It would be taken for an option: rename the file.")
    if "$" in path:
        raise _wrong("has a '$'", "Ansible would put a variable there: rename the file.")
    if ".." in path.split("/"):
        raise _wrong("leaves the repository with '..'", "Write the path from the root of the repository, without '..'.")
    return posixpath.normpath(path)


def _check_inventory_path(path: str) -> str:
    if "," in path:
        raise _wrong(
            "has a ','", "Ansible takes that for a list of hosts. Several files are a list: [hosts.yml, more.yml]"
        )
    return path


def _check_plain(text: str) -> str:
    if not text.strip():
        raise _wrong("is empty", "Give it a value or remove it.")
    if _CONTROL.search(text):
        raise _wrong("has a control character or a line break", "Write it on one line.")
    return text


def _check_task_tag(tag: str) -> str:
    if "," in tag:
        raise _wrong("has a ','", "Each tag is an item of its own: [packages, config]")
    if tag.startswith("-"):
        raise _wrong("begins with '-'", "It would be taken for an option.")
    return tag


def _check_search(search: str) -> str:
    if "/" in search and re.fullmatch(r"[0-9.]+/.*|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*/.*", search):
        try:
            ipaddress.ip_network(search, strict=False)
        except ValueError:
            raise _wrong("looks like a network and is none", "For example: 10.0.0.0/8 or fd00::/8") from None
    return search


def _as_set(texts: tuple[str, ...]) -> tuple[str, ...]:
    # Sorted, because the order of tags means nothing: changing it must not change a digest and run a fleet again.
    return tuple(sorted(set(texts)))


def _as_list(value: object) -> object:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, str):
        return (value,)
    raise _wrong("must be a path or a list of paths", "For example: inventory/hosts.yml")


Name = Annotated[str, AfterValidator(_check_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]
Text = Annotated[str, AfterValidator(_check_plain), WithJsonSchema({"type": "string", "minLength": 1})]
Tags = Annotated[tuple[Text, ...], AfterValidator(_as_set)]
TaskTags = Annotated[tuple[Annotated[Text, AfterValidator(_check_task_tag)], ...], AfterValidator(_as_set)]
_PATH_SCHEMA = {"type": "string", "minLength": 1, "pattern": r"^(?![-/~])(?!(.*/)?\.\.(/|$))[^$\\\x00-\x1f]+$"}
RelativePath = Annotated[str, AfterValidator(_check_path), WithJsonSchema(_PATH_SCHEMA)]
InventoryPath = Annotated[
    str, AfterValidator(_check_path), AfterValidator(_check_inventory_path), WithJsonSchema(_PATH_SCHEMA)
]


# -- values of extraVars ---------------------------------------------------------------------------------------------
def _check_variable_name(name: str) -> str:
    if name.startswith("ansible_"):
        raise _wrong(
            "begins with 'ansible_'",
            "Such variables change how hosts are reached; they belong in the inventory.",
        )
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name):
        raise _wrong("is no name of a variable", "Letters, digits and '_', no digit first, and no word of Python.")
    return name


def _check_data(value: object) -> Any:
    for inside, text in _misplaced_data(value):
        raise _wrong(text, "extraVars are plain data: text, numbers, true, false, null, lists and maps.", inside)
    return value


def _misplaced_data(value: object, inside: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    match value:
        case None | bool() | int() | str():
            pass
        case float():
            if not math.isfinite(value):
                yield inside, "is not a finite number"
        case {"__ansible_vault": str() as text, **others} if not others:
            if not text.lstrip().startswith("$ANSIBLE_VAULT;"):
                yield inside, "is no text made by ansible-vault"
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _misplaced_data(item, (*inside, index))
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    yield inside, "has a key that is no text"
                elif key.startswith("__ansible_"):
                    yield (*inside, key), "has a key that Ansible keeps for itself"
                else:
                    yield from _misplaced_data(item, (*inside, key))
        case _:
            yield inside, "is no plain data"


VariableName = Annotated[str, AfterValidator(_check_variable_name)]
Data = Annotated[Any, AfterValidator(_check_data)]


# -- the manifest ----------------------------------------------------------------------------------------------------
class Strategy(StrEnum):
    PARALLEL = "parallel"
    SEQUENTIAL = "sequential"


class OnChange(StrEnum):
    """What becomes of a run in progress when its work changes."""

    FINISH = "Finish"
    STOP_AFTER_WAVE = "StopAfterWave"
    CANCEL = "Cancel"


class OnHostsJoined(StrEnum):
    IGNORE = "Ignore"
    RUN = "Run"


class RunOn(StrEnum):
    SPEC = "spec"
    PLAYBOOK = "playbook"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Selector(_Value):
    """Which hosts: every given criterion must hold, and at least one is needed."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    tags: Tags = Field((), description="Hosts that carry all of these tags.", examples=[["web", "production"]])
    any_tags: Tags = Field((), description="Hosts that carry at least one of these tags.", examples=[["eu", "us"]])
    not_tags: Tags = Field((), description="Hosts that carry none of these tags.", examples=[["canary"]])
    hosts: tuple[Text, ...] = Field(
        (),
        description="Exactly these hosts, by inventory name and in this order; one that the inventory lacks is an error.",
        examples=[["web-1", "web-2"]],
    )
    search: Annotated[Text, AfterValidator(_check_search)] | None = Field(
        None,
        description="On name or address: a glob if it has *, ? or [, else a part of it; or a network on the address.",
        examples=["web-*", "10.1.0.0/16"],
    )
    pattern: Text | None = Field(None, description="An Ansible host pattern.", examples=["web:&prod:!canary"])
    all: Annotated[bool, Strict()] = Field(False, description="Every host of the inventory, said out loud.")

    @field_validator("hosts")
    @classmethod
    def _no_host_twice(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        seen: set[str] = set()
        for index, host in enumerate(hosts):
            if host in seen:
                raise _wrong(f"names {shown(host)} twice", "A host runs once per run: remove one of them.", (index,))
            seen.add(host)
        return hosts

    @model_validator(mode="after")
    def _some_criterion(self) -> Self:
        if not any((self.tags, self.any_tags, self.not_tags, self.hosts, self.search, self.pattern, self.all)):
            raise _wrong("selects nothing", "Give tags, hosts, search or pattern; every host is `all: true`.")
        return self


class Tasks(_Value):
    """Which tasks of the playbook run."""

    tags: TaskTags = Field(
        (), description="Only tasks with one of these tags (ansible --tags).", examples=[["packages"]]
    )
    skip_tags: TaskTags = Field((), description="No task with one of these tags (--skip-tags).", examples=[["reboot"]])


class Timeouts(_Value):
    """How long things may take: durations as 90s, 30m, 2h, 1d."""

    task: Duration = Field(
        timedelta(minutes=30),
        description="For one task on one host, which then fails alone.",
        examples=["30m"],
    )
    wave: Duration = Field(
        timedelta(hours=2),
        description="From the start of a slice; what still runs then is ended.",
        examples=["2h"],
    )


class History(_Value):
    """How long the logs and attempts of finished runs are kept: they go when either is passed."""

    keep: Annotated[int, Strict()] = Field(10, ge=1, description="So many of the latest finished runs.", examples=[10])
    ttl: Duration = Field(timedelta(days=30), description="So long after a run has finished.", examples=["30d"])


_RUN_ON = tuple(RunOn)
"""In their order; to go through the enumeration itself costs more than all the rest of reading a spec."""


class BatchJobSpec(_Value):
    """What to run, on which hosts, and how."""

    playbook: RelativePath = Field(
        description="The playbook, relative to the root of the repository; it must stay inside it, links resolved.",
        examples=["playbooks/patch.yml"],
        json_schema_extra=_WORK,
    )
    inventory: Annotated[
        tuple[InventoryPath, ...],
        BeforeValidator(_as_list),
        WithJsonSchema({"anyOf": [_PATH_SCHEMA, {"type": "array", "items": _PATH_SCHEMA}]}),
    ] = Field(
        (),
        description="Inventory file, folder, or a list of them, relative to the root of the repository. "
        "Default: the one in ansible.cfg, else the one in the settings.",
        examples=["inventory/hosts.yml", ["inventory/eu.yml", "inventory/us.yml"]],
        json_schema_extra=_WORK,
    )
    selector: Selector = Field(
        description="Which hosts of the inventory: every given criterion must hold, and at least one is needed.",
        examples=[{"tags": ["web", "production"]}],
        json_schema_extra=_WORK,
    )
    extra_vars: Annotated[
        Mapping[VariableName, Data],
        WithJsonSchema(
            {
                "type": "object",
                "propertyNames": {"pattern": "^(?!ansible_)[A-Za-z_][A-Za-z0-9_]*$"},
            }
        ),
    ] = Field(
        {},
        description="Variables for the playbook. Data only, never templated; single values may be !vault scalars. "
        "Names beginning with ansible_ are refused.",
        examples=[{"package": "nginx"}],
        json_schema_extra=_WORK,
    )
    extra_vars_files: tuple[RelativePath, ...] = Field(
        (),
        description="Files with variables, relative to the root of the repository; they may be vaulted.",
        examples=[["vars/secrets.yml"]],
        json_schema_extra=_WORK,
    )
    tasks: Tasks = Field(Tasks(), description="Which tasks of the playbook run.", json_schema_extra=_WORK)
    check_mode: Annotated[bool, Strict()] = Field(
        False, description="Only look, change nothing (ansible --check --diff).", json_schema_extra=_WORK
    )
    strategy: Strategy = Field(
        Strategy.PARALLEL, description="parallel: waves of `limit` hosts; sequential: one host at a time, in order."
    )
    limit: Annotated[int, Strict()] = Field(
        5,
        ge=1,
        description=f"How many hosts at a time, 1 to {DEFAULT_MAX_LIMIT} (setting max_limit).",
        examples=[5],
        json_schema_extra={"maximum": DEFAULT_MAX_LIMIT},
    )
    stop_on_failure: Annotated[bool, Strict()] = Field(
        False, description="No further wave after a failure; hosts that were never started are skipped."
    )
    min_hosts: Annotated[int, Strict()] = Field(
        2, ge=1, description="Fewer selected hosts than this are taken for a mistake, and nothing runs."
    )
    max_hosts: Annotated[int, Strict()] | None = Field(
        None,
        ge=1,
        description="More selected hosts than this are taken for a mistake, and nothing runs.",
        examples=[50],
    )
    suspend: Annotated[bool, Strict()] = Field(False, description="No new wave starts while true; what runs finishes.")
    run_on: tuple[RunOn, ...] = Field(
        (RunOn.SPEC,),
        description="What opens a run: a change of the work fields (spec), a change of the playbook; [] only when asked.",
        examples=[["spec"], ["spec", "playbook"], []],
    )
    on_change: OnChange = Field(
        OnChange.STOP_AFTER_WAVE,
        description="What becomes of a run in progress when its work changes: Finish all waves, StopAfterWave, Cancel.",
    )
    on_hosts_joined: OnHostsJoined = Field(
        OnHostsJoined.IGNORE, description="What hosts do that join the selection later: Ignore, or Run on these alone."
    )
    hosts_per_process: Annotated[int, Strict()] | None = Field(
        None,
        ge=1,
        description="How many hosts share one ansible-playbook process; null: all hosts of a wave.",
        examples=[1],
    )
    timeouts: Timeouts = Field(Timeouts(), description="How long things may take.")
    history: History = Field(History(), description="How long logs and attempts of finished runs are kept.")

    @field_validator("limit")
    @classmethod
    def _limit_allowed(cls, limit: int, info: ValidationInfo) -> int:
        highest = (info.context or {}).get("max_limit")
        if highest is not None and limit > highest:
            raise _wrong(f"must be at most {highest}, not {limit}", f"Choose a whole number from 1 to {highest}.")
        return limit

    @field_validator("run_on")
    @classmethod
    def _each_once(cls, run_on: tuple[RunOn, ...]) -> tuple[RunOn, ...]:
        return tuple(what for what in _RUN_ON if what in run_on)

    @field_validator("max_hosts")
    @classmethod
    def _room_for_the_fewest(cls, max_hosts: int | None, info: ValidationInfo) -> int | None:
        fewest = info.data.get("min_hosts")
        if max_hosts is not None and fewest is not None and max_hosts < fewest:
            raise _wrong(
                f"must be at least minHosts, which is {fewest}", f"Raise maxHosts, or set `minHosts: {max_hosts}`."
            )
        return max_hosts


class Metadata(_Value):
    """What the job is called, and notes on it."""

    name: Name = Field(
        description="Unique in its source: lower-case letters, digits and '-', up to 63.", examples=["patch-web"]
    )
    labels: Mapping[str, str] = Field({}, description="For people to group jobs by.", examples=[{"team": "platform"}])
    annotations: Mapping[str, str] = Field(
        {},
        description=f"Notes. Any new value of {REQUESTED_AT} asks for another run.",
        examples=[{REQUESTED_AT: "2026-11-23T10:00:00Z"}],
    )

    @field_validator("annotations")
    @classmethod
    def _ours_are_known(cls, annotations: Mapping[str, str]) -> Mapping[str, str]:
        # A misspelt one of ours would ask for nothing, silently.
        for key, value in annotations.items():
            if key.startswith("reconciler/") and key != REQUESTED_AT:
                raise _wrong("is no annotation of reconciler", f"Did you mean {REQUESTED_AT}?", (key,))
            if key == REQUESTED_AT and not value.strip():
                raise _wrong("is empty", "Give it any new value, such as the time; or remove it.", (key,))
        return annotations


class BatchJob(_Value):
    """An Ansible playbook to run on selected hosts, in bounded waves."""

    api_version: Literal["reconciler/v1"] = Field(description="Always reconciler/v1.")
    kind: Literal["BatchJob"] = Field(description="Always BatchJob.")
    metadata: Metadata = Field(description="What the job is called, and notes on it.")
    spec: BatchJobSpec = Field(description="What to run, on which hosts, and how.")

    @property
    def requested_at(self) -> str | None:
        """The value by which somebody asked for another run; None: nobody has."""
        return self.metadata.annotations.get(REQUESTED_AT)


class _SchemaForPeople(GenerateJsonSchema):
    """Defaults as they are written in a manifest, and no titles made of field names, which say nothing."""

    def encode_default(self, dft: Any) -> Any:
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that editors check a manifest with."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:reconciler:batchjob:v1",
        **BatchJob.model_json_schema(by_alias=True, schema_generator=_SchemaForPeople),
        "title": KIND,
    }


# -- digests ---------------------------------------------------------------------------------------------------------
_WORK_FIELDS = frozenset(
    field.alias
    for field in BatchJobSpec.model_fields.values()
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("x-opens-run")
)


def spec_to_json(spec: BatchJobSpec) -> dict[str, Any]:
    """The spec as plain JSON, by its public names, without what equals a default."""
    return spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def spec_from_json(data: Mapping[str, Any]) -> BatchJobSpec:
    """What `spec_to_json` was given. Raises pydantic.ValidationError for anything that is no spec."""
    return BatchJobSpec.model_validate(data, by_alias=True, by_name=False)


def spec_digest(spec: BatchJobSpec) -> str:
    """Changes when any field does: a new generation."""
    return _digest(spec_to_json(spec))


def work_digest(spec: BatchJobSpec) -> str:
    """Changes when a work field does: a run is due."""
    return _digest({name: value for name, value in spec_to_json(spec).items() if name in _WORK_FIELDS})


def coverage_digest(spec: BatchJobSpec) -> str:
    """What is done to a host, whichever hosts are selected: the work fields without the selector."""
    work = {name: value for name, value in spec_to_json(spec).items() if name in _WORK_FIELDS and name != "selector"}
    return _digest(work)


def _digest(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
