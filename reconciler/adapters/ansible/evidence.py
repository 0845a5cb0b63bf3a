"""What one ansible-playbook process lets us know: its events while it runs, and the companion's report afterwards."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from reconciler.adapters.ansible.events import Event, mapping, one_line, task_name

_RESULT_OF_HOST = re.compile(r"runner_on_(ok|failed|unreachable|skipped)")
_SAID_AT_MOST, _OF_A_LINE = 500, 2000
_FAILURES_AT_MOST = 100
"""Of one host: that of a loop which includes tasks and rescues them would fill the memory. After the one that counts
there are only those of `always` sections."""

_ERRORS_AT_MOST = 5

LARGEST_COUNT = 2**31 - 1
"""What a column of integers takes."""
_DEBUGGER = "(debug)> "


@dataclass(slots=True)
class HostTrace:
    """What was seen of one host."""

    failures: list[Event] = field(default_factory=list)
    """Those that were not ignored. They may have been rescued."""
    unreachable: Event | None = None
    inside: str | None = None
    """The task it is in."""
    began: datetime | None = None
    ended: datetime | None = None


@dataclass(slots=True)
class Evidence:
    """Everything that events have told, gathered one by one in the order they came."""

    traces: dict[str, HostTrace] = field(default_factory=dict)
    stats: Mapping[str, Any] | None = None
    said: list[str] = field(default_factory=list)
    """What Ansible printed outside of plays and tasks, errors included, line by line."""
    prompted: str | None = None
    """A variable that the playbook asks for and nobody will answer."""
    debugged: bool = False
    """A debugger came up."""
    stopped_at: datetime | None = None
    """When it was told to end: a failure later than that is of our making, and proves nothing."""

    def add(self, event: Event) -> None:
        if event.host is not None and event.kind.startswith("runner_"):
            self._add_of_host(event, self.traces.setdefault(event.host, HostTrace()))
        elif event.kind == "playbook_on_stats":
            self.stats = event.data
        elif event.kind == "playbook_on_vars_prompt":
            self.prompted = one_line(event.data.get("varname"))
        elif event.kind in ("verbose", "error") and (text := event.printed.rstrip()):
            self.debugged = self.debugged or _DEBUGGER in f"{text} "
            self.said.append(text[:_OF_A_LINE])
            del self.said[:-_SAID_AT_MOST]

    def _add_of_host(self, event: Event, trace: HostTrace) -> None:
        at = event.made_at
        if event.kind in ("runner_on_failed", "runner_on_unreachable") and self.stopped_at and at > self.stopped_at:
            return
        trace.began = trace.began or at
        trace.ended = at
        if event.kind == "runner_on_start":
            trace.inside = task_name(event.data)
        elif _RESULT_OF_HOST.fullmatch(event.kind):
            trace.inside = None
        if event.kind == "runner_on_failed" and not event.data.get("ignore_errors"):
            trace.failures.append(event)
            del trace.failures[:-_FAILURES_AT_MOST]
        elif event.kind == "runner_on_unreachable":
            trace.unreachable = event

    def trace(self, host: str) -> HostTrace:
        return self.traces.get(host) or HostTrace()

    def count(self, name: str, host: str) -> int:
        """One of Ansible's own counts; 0 while it has not given any."""
        count = mapping((self.stats or {}).get(name)).get(host)
        return int(min(count, LARGEST_COUNT)) if isinstance(count, int) and count > 0 else 0


@dataclass(frozen=True, slots=True)
class Tags:
    """Those that tasks must have, and those that they must not have."""

    only: tuple[str, ...]
    skip: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What the companion told. Without any line of it, nothing but a failure is proven."""

    present: bool = False
    ended: bool = False
    """The playbook came to its own end."""
    planned: frozenset[str] = frozenset()
    targeted: frozenset[str] = frozenset()
    missed: frozenset[str] = frozenset()
    """Targeted by a play that never planned them, because hosts had failed."""
    gone: frozenset[str] = frozenset()
    """Not in the inventory."""
    failed: frozenset[str] = frozenset()
    """Given up by Ansible, for whatever reason, when it told last."""
    unreachable: frozenset[str] = frozenset()
    rescued: frozenset[str] = frozenset()
    """Given up with another host, and went on all the same, for their block had a rescue."""
    own_failure: frozenset[str] = frozenset()
    """Given up when a task of their own had failed: neither rescued nor ignored."""
    cleared: frozenset[str] = frozenset()
    """Forgiven all that failed before (clear_host_errors), and not failed since."""
    decisive: Mapping[str, str] = field(default_factory=dict)
    """By host, the task that failed first and was neither rescued nor forgiven."""
    idle: frozenset[str] = frozenset()
    """Targeted only by plays in which tags left no task."""
    tags: Tags | None = None
    """What chose among the tasks."""
    errors: tuple[str, ...] = ()

    @property
    def damaged(self) -> bool:
        """Some of it is missing: what it does not say is not known."""
        return bool(self.errors)

    @classmethod
    def read(
        cls, lines: Sequence[Mapping[str, Any]], hosts: Iterable[str], stopped_at: datetime | None = None
    ) -> Report:
        """`stopped_at` as in Evidence."""
        of_kind: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        lines_in_time = [
            line
            for line in lines
            if stopped_at is None or line["kind"] != "held" or line["at"] <= stopped_at.timestamp()
        ]
        for line in lines_in_time:
            of_kind[line["kind"]].append(line)
        last = [{}, *of_kind["held"], *of_kind["end"]][-1]
        start = [{}, *of_kind["playbook"]][-1]
        planned: defaultdict[str, set[str]] = defaultdict(set)
        for batch in of_kind["play"]:
            planned[batch["play"]].update(batch["planned"])
        plays = [{}, *of_kind["playbook"], *of_kind["end"]][-1].get("plays", ())
        targeted, missed = _targets(plays, planned, _stopped_in(of_kind["play"], last), hosts)
        own, cleared, decisive = _failures(lines_in_time)
        tags = last.get("tags")
        return cls(
            present=bool(of_kind["playbook"]),
            ended=bool(of_kind["end"]),
            planned=frozenset().union(*planned.values()),
            targeted=targeted,
            missed=missed,
            gone=frozenset(start.get("gone", ())),
            failed=frozenset(last.get("failed", ())),
            unreachable=frozenset(last.get("unreachable", ())),
            rescued=frozenset(last.get("rescued") or ()),
            own_failure=own,
            cleared=cleared,
            decisive=decisive,
            idle=frozenset() if tags is None else _idle(plays, planned, frozenset(tags["worked"])),
            tags=None if tags is None else Tags(tuple(tags["only"]), tuple(tags["skip"])),
            errors=tuple(one_line(f"{line['of']}: {line['message']}") for line in of_kind["error"][:_ERRORS_AT_MOST]),
        )


def report_lines(text: str) -> list[dict[str, Any]]:
    """The companion's lines. One that can't be read, for the disk was full or damaged or somebody else wrote it, becomes
    an error; the last one, cut off when Ansible was killed, is left out."""
    return [_report_line(number, line) for number, line in enumerate(text.split("\n")[:-1], start=1)]


def _report_line(number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        line = None
    if isinstance(line, dict) and _is_whole(line):
        return line
    return {"kind": "error", "of": "report", "message": f"line {number} can't be read"}


def _is_whole(line: Mapping[str, Any]) -> bool:
    kind = line.get("kind")
    parts = _PARTS.get(kind) if isinstance(kind, str) else None
    return parts is not None and all(is_sound(line.get(part)) for part, is_sound in parts.items())


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_names_if_any(value: object) -> bool:
    return value is None or _are_names(value)


def _are_plays(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(play, dict)
        and _is_text(play.get("play"))
        and "targeted" in play
        and _are_names_if_any(play["targeted"])
        for play in value
    )


def _are_tags_if_any(value: object) -> bool:
    parts = ("only", "skip", "worked")
    return value is None or (isinstance(value, dict) and all(_are_names(value.get(part)) for part in parts))


_GIVEN_UP: Mapping[str, Callable[[object], bool]] = {"failed": _are_names, "unreachable": _are_names}

_PARTS: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "playbook": {"plays": _are_plays, "gone": _are_names},
    "play": {"play": _is_text, "planned": _are_names, **_GIVEN_UP},
    "cleared": {"hosts": _are_names},
    "held": {"at": _is_number, "host": _is_text, "task": _is_text, "failures": _is_number, **_GIVEN_UP},
    "end": {"plays": _are_plays, "rescued": _are_names_if_any, "tags": _are_tags_if_any, **_GIVEN_UP},
    "error": {"of": _is_text, "message": _is_text},
}
"""What the companion writes: kinds of lines, and what each has."""


def _failures(lines: Sequence[Mapping[str, Any]]) -> tuple[frozenset[str], frozenset[str], dict[str, str]]:
    """Report's own_failure, cleared and decisive."""
    own: set[str] = set()
    cleared: set[str] = set()
    decisive: dict[str, str] = {}
    counted: dict[str, int] = {}
    for line in lines:
        if line["kind"] == "cleared":
            cleared.update(line["hosts"])
            own.difference_update(line["hosts"])
            decisive = {host: task for host, task in decisive.items() if host not in line["hosts"]}
        elif line["kind"] == "held":
            host = line["host"]
            if line["failures"] > counted.get(host, 0):  # one that is rescued is not counted
                counted[host] = line["failures"]
                decisive.setdefault(host, line["task"])
                cleared.discard(host)
            own.discard(host)
            if host in line["failed"]:
                own.add(host)
    return frozenset(own), frozenset(cleared), decisive


def _stopped_in(batches: Sequence[Mapping[str, Any]], last: Mapping[str, Any]) -> str | None:
    """The play that hosts of its last batch have ended by failing. An earlier one that left hosts out did so on
    purpose (meta: end_play), as did the last one if no host was given up in it."""
    if not batches:
        return None
    before = {*batches[-1]["failed"], *batches[-1]["unreachable"]}
    failed_in_it = {*last.get("failed", ()), *last.get("unreachable", ())} - before
    return str(batches[-1]["play"]) if failed_in_it else None


def _targets(
    plays: Sequence[Mapping[str, Any]], planned: Mapping[str, set[str]], stopped_in: str | None, hosts: Iterable[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """Hosts that some play targets, and those that one of their plays has not planned since it was stopped, or never
    began."""
    targeted: set[str] = set()
    missed: set[str] = set()
    for play in plays:
        reached = planned.get(play["play"])
        # while a template hides the pattern of a play that never began, it may have meant any host
        meant = set(play["targeted"]) if play["targeted"] is not None else set() if reached is not None else set(hosts)
        targeted |= meant
        if reached is None or play["play"] == stopped_in:
            missed |= meant - (reached or set())
    return frozenset(targeted), frozenset(missed)


def _idle(
    plays: Sequence[Mapping[str, Any]], planned: Mapping[str, set[str]], worked: frozenset[str]
) -> frozenset[str]:
    """Hosts of some play, and of none in which there was work."""
    hosts = {play["play"]: {*(play["targeted"] or ()), *planned.get(play["play"], ())} for play in plays}
    at_work = [hosts[play] for play in hosts if play in worked]
    return frozenset().union(*hosts.values()).difference(*at_work)
