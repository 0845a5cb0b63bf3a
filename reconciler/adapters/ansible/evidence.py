"""What one ansible-playbook process lets us know: its events while it runs, and the companion's report afterwards."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from reconciler.adapters.ansible.logs import plain, task_name

_RESULT_OF_HOST = re.compile(r"runner_on_(ok|failed|unreachable|skipped)")
_SAID_AT_MOST = 500
_DEBUGGER = "(debug)> "


@dataclass(slots=True)
class HostTrace:
    """What was seen of one host."""

    failures: list[Mapping[str, Any]] = field(default_factory=list)
    """The data of those that were not ignored. They may have been rescued."""
    unreachable: Mapping[str, Any] | None = None
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

    def add(self, event: Mapping[str, Any]) -> None:
        kind, data = event["event"], event.get("event_data") or {}
        host = data.get("host")
        if isinstance(host, str) and kind.startswith("runner_"):
            self._add_of_host(kind, data, _instant(event), self.traces.setdefault(host, HostTrace()))
        elif kind == "playbook_on_stats":
            self.stats = data
        elif kind == "playbook_on_vars_prompt":
            self.prompted = str(data.get("varname"))
        elif kind in ("verbose", "error") and (text := plain(event.get("stdout", "")).rstrip()):
            self.debugged = self.debugged or _DEBUGGER in f"{text} "
            self.said.append(text)
            del self.said[:-_SAID_AT_MOST]

    def _add_of_host(self, kind: str, data: Mapping[str, Any], at: datetime, trace: HostTrace) -> None:
        if kind in ("runner_on_failed", "runner_on_unreachable") and self.stopped_at and at > self.stopped_at:
            return
        trace.began = trace.began or at
        trace.ended = at
        if kind == "runner_on_start":
            trace.inside = task_name(data)
        elif _RESULT_OF_HOST.fullmatch(kind):
            trace.inside = None
        if kind == "runner_on_failed" and not data.get("ignore_errors"):
            trace.failures.append(data)
        elif kind == "runner_on_unreachable":
            trace.unreachable = data

    def trace(self, host: str) -> HostTrace:
        return self.traces.get(host) or HostTrace()

    def count(self, name: str, host: str) -> int:
        """One of Ansible's own counts; 0 while it has not given any."""
        return int((self.stats or {}).get(name, {}).get(host, 0))


def _instant(event: Mapping[str, Any]) -> datetime:
    """When Ansible made it, not when we came to read it."""
    said = event.get("created")
    return datetime.fromisoformat(said) if isinstance(said, str) else datetime.now(UTC)


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
            rescued=frozenset(last.get("rescued", ())),
            own_failure=own,
            cleared=cleared,
            decisive=decisive,
            idle=frozenset() if tags is None else _idle(plays, planned, frozenset(tags["worked"])),
            tags=None if tags is None else Tags(tuple(tags["only"]), tuple(tags["skip"])),
            errors=tuple(f"{line['of']}: {line['message']}" for line in of_kind["error"]),
        )


def report_lines(text: str) -> list[dict[str, Any]]:
    """The companion's lines. One that can't be read, for the disk was full or damaged, becomes an error; the last one,
    cut off when Ansible was killed, is left out."""
    return [_report_line(number, line) for number, line in enumerate(text.split("\n")[:-1], start=1)]


def _report_line(number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if isinstance(line, dict) and "kind" in line:
        return line
    return {"kind": "error", "of": "report", "message": f"line {number} can't be read"}


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
