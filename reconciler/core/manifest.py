"""The BatchJob manifest: what a user commits, as frozen values, and the digests that decide what opens a run.

A field that is not enforced is not accepted: what comes later is refused by name. Fields marked `x-opens-run` are work
fields: a change of one opens a run, all others only steer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import GenerateJsonSchema

from reconciler.core.documents import Problem, shown
from reconciler.core.fields import (
    Data,
    Duration,
    InventoryPaths,
    Name,
    RelativePath,
    Search,
    Tags,
    TaskTags,
    Text,
    VariableName,
    format_duration,
    parse_duration,
    wrong,
)

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
    "Retry",
    "RunOn",
    "Selector",
    "Strategy",
    "Tasks",
    "Timeouts",
    "coverage_digest",
    "format_duration",
    "manifest_schema",
    "parse_duration",
    "retry_from_json",
    "spec_digest",
    "spec_from_json",
    "spec_to_json",
    "steered",
    "work_digest",
]

API_VERSION = "reconciler/v1"
KIND = "BatchJob"
DEFAULT_MAX_LIMIT = 20
REQUESTED_AT = "reconciler/requestedAt"

_WORK: dict[str, Any] = {"x-opens-run": True}


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
    search: Search | None = Field(
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
                raise wrong(f"names {shown(host)} twice", "A host runs once per run: remove one of them.", (index,))
            seen.add(host)
        return hosts

    @model_validator(mode="after")
    def _some_criterion(self) -> Self:
        if not any((self.tags, self.any_tags, self.not_tags, self.hosts, self.search, self.pattern, self.all)):
            raise wrong("selects nothing", "Give tags, hosts, search or pattern; every host is `all: true`.")
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
    run: Duration | None = Field(
        None,
        description="For the whole run, without the time in which it was suspended or paused. Then no further wave and no "
        "retry starts: what runs finishes, and what never started is skipped. Null: no such deadline.",
        examples=["8h"],
    )


LONGEST_BACKOFF = timedelta(hours=1)
"""However often something is tried again, it waits no longer than this in between."""


class Retry(_Value):
    """Whether a host that did not succeed is tried again by itself, within the same run and before the next wave starts."""

    limit: Annotated[int, Strict()] = Field(
        0, ge=0, le=100, description="How many more times, at most. 0: not at all.", examples=[2]
    )
    backoff: Duration = Field(
        timedelta(seconds=30),
        description="How long after the first attempt; it doubles with each one after that, up to 1h.",
        examples=["30s"],
    )
    unknown: Annotated[bool, Strict()] = Field(
        False,
        description="Also where nothing proves how the host ended: its tasks may then run twice.",
    )

    @field_validator("backoff")
    @classmethod
    def _not_too_long(cls, backoff: timedelta) -> timedelta:
        if backoff > LONGEST_BACKOFF:
            raise wrong("must be at most 1h", "Choose a shorter pause, or use `reconciler retry` by hand.")
        return backoff


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
    inventory: InventoryPaths = Field(
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
    retry: Retry = Field(Retry(), description="Whether hosts that did not succeed are tried again by themselves.")
    history: History = Field(History(), description="How long logs and attempts of finished runs are kept.")

    @field_validator("limit")
    @classmethod
    def _limit_allowed(cls, limit: int, info: ValidationInfo) -> int:
        highest = (info.context or {}).get("max_limit")
        if highest is not None and limit > highest:
            raise wrong(f"must be at most {highest}, not {limit}", f"Choose a whole number from 1 to {highest}.")
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
            raise wrong(
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
                raise wrong("is no annotation of reconciler", f"Did you mean {REQUESTED_AT}?", (key,))
            if key == REQUESTED_AT and not value.strip():
                raise wrong("is empty", "Give it any new value, such as the time; or remove it.", (key,))
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


def retry_from_json(spec: Mapping[str, Any]) -> Retry:
    """Of a spec as JSON, whatever else it has: it may be from a later version."""
    return Retry.model_validate(spec.get("retry", {}), by_alias=True, by_name=False)


def steered(pinned: BatchJobSpec, now: BatchJobSpec) -> BatchJobSpec:
    """The work fields of one, and the steering fields of the other."""
    steering = [name for name, field in BatchJobSpec.model_fields.items() if field.alias not in _WORK_FIELDS]
    return pinned.model_copy(update={name: getattr(now, name) for name in steering})


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
