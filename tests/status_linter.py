"""What holds for every status document there ever is, whatever happened to the job.

Given as plain data, the way a reader finds it in a status file: so the same rules judge what a property test made up,
what an engine test came to, and what a real run wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from reconciler.core.facts import ChildStatus
from reconciler.core.failures import EXAMPLES, MAX_MESSAGE
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, JobStatus, SourceStatus

Document = Mapping[str, Any]

REASONS = frozenset(reason.value for reason in Reason)
ENDED = frozenset(status.value for status in ChildStatus if status.finished)
UNSUCCESSFUL = frozenset(status.value for status in ChildStatus if status.unsuccessful)
OPEN = {"pending": "Pending", "running": "Running"}
"""What the phase is while a run is in progress."""
AFTER = {"Succeeded": {"success"}, "Failed": {"failed", "success"}, "Cancelled": {"cancelled"}}
"""How the latest run of a phase ended. Failed after a success: that run was for some hosts only, and others failed before.
One that tried hosts again says little of the whole: it is told by all of their outcomes."""
ONLY_WHILE_TRUE = frozenset({"Reconciling", "Stalled", "Suspended"})


def check(status: JobStatus | SourceStatus | Document, now: datetime) -> None:
    """Fails with every rule that the document breaks."""
    document = status if isinstance(status, Mapping) else status.model_dump(mode="json", by_alias=True)
    broken = lint(document, now)
    name = f"{document['kind']} {document['metadata']['name']}"
    assert not broken, f"the status of {name} can't be true:\n" + "\n".join(f"  - {rule}" for rule in broken)


def lint(document: Document, now: datetime) -> list[str]:
    """The rules that it breaks, each in a sentence."""
    status = document["status"]
    if document["kind"] == "Source":
        return [*_conditions(status, now), *_source(status, now)]
    generation = document["metadata"]["generation"]
    rules = (
        _conditions(status, now),
        _generations(status, generation),
        _phase(status),
        _readiness(status),
        _counts(status),
        _run(status, now),
        _waves(status),
        _children(status),
        _failures(status),
        _history(status, now),
    )
    return [broken for rule in rules for broken in rule]


# -- conditions ------------------------------------------------------------------------------------------------------
def _conditions(status: Document, now: datetime) -> Iterator[str]:
    conditions = status["conditions"]
    types = [condition["type"] for condition in conditions]
    if len(types) != len(set(types)):
        yield f"a condition is there twice: {types}"
    if unheard_of := set(types) - {kind.value for kind in ConditionType}:
        yield f"no such condition: {unheard_of}"
    if "Ready" not in types:
        yield "Ready is not there"
    if {"Reconciling", "Stalled"} <= set(types):
        yield "Reconciling and Stalled are there together"
    for condition in conditions:
        name = f"condition {condition['type']}"
        if condition["status"] not in ("True", "False", "Unknown"):
            yield f"{name} is {condition['status']}"
        if condition["type"] in ONLY_WHILE_TRUE and condition["status"] != "True":
            yield f"{name} is there and {condition['status']}"
        if condition["reason"] not in REASONS:
            yield f"{name} has the unknown reason {condition['reason']}"
        if instant(condition["lastTransitionTime"]) > now:
            yield f"{name} changed in the future: {condition['lastTransitionTime']}"
        yield from _text(name, condition["message"])


def _text(name: str, message: str) -> Iterator[str]:
    if len(message) > MAX_MESSAGE:
        yield f"{name}: a message of {len(message)} characters"
    if "\x1b" in message:
        yield f"{name}: colours in the message"


def _state(status: Document, kind: str) -> str | None:
    return next((condition["status"] for condition in status["conditions"] if condition["type"] == kind), None)


def _generations(status: Document, generation: int) -> Iterator[str]:
    observed = status["observedGeneration"]
    if observed != generation:
        yield f"observedGeneration is {observed}, the generation {generation}"
    for condition in status["conditions"]:
        if condition["observedGeneration"] > observed:
            yield f"condition {condition['type']} has seen generation {condition['observedGeneration']}"
    for each in [status.get("lastSuccess"), *status["history"]]:
        if each is not None and each["generation"] > observed:
            yield f"run {each.get('id') or each.get('run')} is of generation {each['generation']}"


# -- phase and readiness ---------------------------------------------------------------------------------------------
def _phase(status: Document) -> Iterator[str]:
    phase, run = status["phase"], status["run"]
    how = None if run is None else run["status"]
    if how in OPEN and phase != OPEN[how]:
        yield f"the phase is {phase} while a run is {how}"
    if phase == "Running" and how != "running":
        yield f"the phase is Running and the run {how}"
    if phase in AFTER and how not in AFTER[phase] and not _tries_again(status):
        yield f"the phase is {phase} and the run {how}"
    if phase == "Invalid" and _state(status, "Accepted") != "False":
        yield "the phase is Invalid of something that is accepted"
    if phase == "Stalled" and _state(status, "Stalled") is None:
        yield "the phase is Stalled, the condition is not there"
    if bool(status["suspended"]) is not (_state(status, "Suspended") is not None):
        yield f"suspended is {status['suspended']}, the condition Suspended {_state(status, 'Suspended')}"
    yield from _text("message", status["message"])


def _readiness(status: Document) -> Iterator[str]:
    if _state(status, "Ready") != "True":
        return
    for kind in ("Reconciling", "Stalled"):
        if _state(status, kind) is not None:
            yield f"Ready and {kind} together"
    if status["phase"] != "Succeeded":
        yield f"Ready in phase {status['phase']}"
    if bad := sum(status["hosts"][each] for each in (*UNSUCCESSFUL, "pending", "running", "cancelled")):
        yield f"Ready, though {bad} hosts did not succeed"


# -- counts ----------------------------------------------------------------------------------------------------------
def _counts(status: Document) -> Iterator[str]:
    hosts, coverage = status["hosts"], status["coverage"]
    by_status = {name: count for name, count in hosts.items() if name != "selected"}
    if set(by_status) != {each.value for each in ChildStatus}:
        yield f"hosts are counted by {sorted(by_status)}"
    if min(by_status.values()) < 0 or sum(by_status.values()) != hosts["selected"]:
        yield f"the hosts by status do not add up to selected: {hosts}"
    done = sum(count for name, count in by_status.items() if name in ENDED)
    bad = sum(count for name, count in by_status.items() if name in UNSUCCESSFUL)
    expected = f"{done}/{hosts['selected']} completed, {bad} failed"
    if status["progress"] != expected:
        yield f"progress is {status['progress']!r}, the counts say {expected!r}"
    if coverage["upToDate"] + coverage["behind"] + coverage["never"] != coverage["selected"]:
        yield f"the coverage does not add up to selected: {coverage}"
    if status["run"] is None and hosts["selected"]:
        yield f"{hosts['selected']} hosts of no run"


def _run(status: Document, now: datetime) -> Iterator[str]:
    run = status["run"]
    if run is None:
        return
    ended = run["status"] not in OPEN
    if ended is (run["finishedAt"] is None):
        yield f"the run is {run['status']} and ended at {run['finishedAt']}"
    if ended and run["reason"] not in REASONS:
        yield f"the run has the unknown reason {run['reason']}"
    if run["status"] == "running" and run["startedAt"] is None:
        yield "the run is running and did not start"
    yield from _order("run", (run["startedAt"], run["finishedAt"]), now)
    unfinished = status["hosts"]["pending"] + status["hosts"]["running"]
    if ended and unfinished:
        yield f"the run has ended and {unfinished} hosts have not"
    if run["status"] == "success" and not _tries_again(status) and any(status["hosts"][each] for each in UNSUCCESSFUL):
        yield "the run succeeded, and hosts did not"
    if run["waitsFor"] is not None and _state(status, "Reconciling") is None:
        yield f"it waits for {run['waitsFor']} and nothing says so"
    if run["waves"] < len(status["waves"]):
        yield f"the run has {run['waves']} waves and {len(status['waves'])} were started"


def _tries_again(status: Document) -> bool:
    """Whether the run has some hosts of an earlier one only."""
    return status["run"] is not None and status["run"]["retryOf"] is not None


def _order(name: str, moments: Sequence[str | None], now: datetime) -> Iterator[str]:
    known = [instant(moment) for moment in moments if moment is not None]
    if known != sorted(known):
        yield f"{name}: it ended before it started"
    if known and known[-1] > now:
        yield f"{name}: a time in the future"


# -- waves, children, failures ---------------------------------------------------------------------------------------
def _waves(status: Document) -> Iterator[str]:
    waves = status["waves"]
    numbers = [wave["number"] for wave in waves]
    if numbers != sorted(set(numbers)):
        yield f"waves are numbered {numbers}"
    if sum(wave["hosts"] for wave in waves) > status["hosts"]["selected"]:
        yield "the waves have more hosts than the run"
    for wave in waves:
        if wave["hosts"] < 1:
            yield f"wave {wave['number']} has no host"
        if wave["status"] in OPEN and wave["finishedAt"] is not None:
            yield f"wave {wave['number']} is {wave['status']} and ended"


def _children(status: Document) -> Iterator[str]:
    children, hosts = status["children"], status["hosts"]
    names = [child["host"] for child in children]
    if len(names) != len(set(names)):
        yield f"a host is listed twice: {names}"
    listed = Counter(child["status"] for child in children)
    more = {name: count for name, count in listed.items() if count > hosts[name]}
    if more or (len(children) == hosts["selected"] and any(listed[name] != hosts[name] for name in listed)):
        yield f"the children listed do not match the counts: {dict(listed)}"
    ranks = [_rank(child["status"]) for child in children]
    if ranks != sorted(ranks):
        yield "children are not listed unfinished and unsuccessful first"
    for child in children:
        name = f"child {child['host']}"
        if child["reason"] is not None and child["reason"] not in REASONS:
            yield f"{name} has the unknown reason {child['reason']}"
        if child["status"] not in ENDED and child["finishedAt"] is not None:
            yield f"{name} is {child['status']} and ended"
        if child["status"] == "running" and child["wave"] is None:
            yield f"{name} runs in no wave"
        yield from _text(name, child["message"])


def _rank(status: str) -> int:
    if status == "running":
        return 0
    if status in UNSUCCESSFUL:
        return 1
    return 3 if status in ENDED else 2


def _failures(status: Document) -> Iterator[str]:
    groups = status["failures"]
    sizes = [group["hosts"] for group in groups]
    if sum(sizes) != sum(status["hosts"][each] for each in UNSUCCESSFUL):
        yield f"the failures have {sum(sizes)} hosts, the counts say otherwise"
    if sizes != sorted(sizes, reverse=True):
        yield "the largest failure is not the first"
    for group in groups:
        if group["status"] not in UNSUCCESSFUL:
            yield f"{group['status']} is no failure"
        if len(group["examples"]) != min(EXAMPLES, group["hosts"]):
            yield f"{group['hosts']} hosts with {len(group['examples'])} examples"
        if group["reason"] is not None and group["reason"] not in REASONS:
            yield f"a failure has the unknown reason {group['reason']}"


def _history(status: Document, now: datetime) -> Iterator[str]:
    history, run = status["history"], status["run"]
    ids = [each["id"] for each in history]
    if len(ids) != len(set(ids)):
        yield f"a run is in the history twice: {ids}"
    if history and (run is None or ids[0] != run["id"]):
        yield f"the history begins with {ids[0]}, not with the run"
    for each in history:
        yield from _order(f"run {each['id']}", (each["startedAt"], each["finishedAt"]), now)
    if any(each["status"] in OPEN for each in history[1:]):
        yield "an earlier run is still open"
    if (success := status["lastSuccess"]) is not None and instant(success["finishedAt"]) > now:
        yield "the last success is in the future"


def _source(status: Document, now: datetime) -> Iterator[str]:
    if len(status["rejected"]) != status["manifests"]["rejected"]:
        yield f"{len(status['rejected'])} rejected are listed, {status['manifests']['rejected']} counted"
    if status["lastSync"] is not None and instant(status["lastSync"]) > now:
        yield "it was read in the future"
    if _state(status, "Ready") == "True" and (_state(status, "Stalled") or _state(status, "Reconciling")):
        yield "Ready together with Stalled or Reconciling"


def instant(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
