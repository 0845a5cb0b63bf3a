"""What happened to each host: judged from events, stats and the companion's report together.

Stats alone call hosts ok that any_errors_fatal, max_fail_percentage, serial or run_once stopped; a failed event may have
been rescued; the exit code of a syntax error is that of an unreachable host. The rule: a host is failed if it has
failures and the task queue manager has given it up; unreachable if it is given up as such; aborted if given up without
a failure of its own, or targeted and never planned; not targeted if no play's pattern has it; else success.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from reconciler.adapters.ansible.logs import item_label, plain, task_name
from reconciler.core.facts import ChildStatus, HostOutcome, RunError, TaskCounts
from reconciler.core.reasons import Reason
from reconciler.ports import PlaybookResult, StopKind

MAX_MESSAGE = 4000

_COUNTS = {
    "ok": "ok",
    "changed": "changed",
    "failures": "failed",
    "skipped": "skipped",
    "rescued": "rescued",
    "ignored": "ignored",
    "dark": "unreachable",
}

_HOST_EVENT = re.compile(r"runner_(item_)?(on|retry)")


@dataclass(slots=True)
class _Host:
    last_failure: Mapping[str, Any] | None = None
    last_item: Mapping[str, Any] | None = None
    unreachable: Mapping[str, Any] | None = None
    inside: str | None = None
    """The task it is in."""
    began: datetime | None = None
    ended: datetime | None = None


@dataclass(slots=True)
class Evidence:
    """Everything one run of ansible-playbook has let us know, gathered event by event."""

    hosts: Sequence[str]
    home: str
    """Where the snapshot lies, left out of messages."""
    _seen: dict[str, _Host] = field(default_factory=dict)
    _stats: Mapping[str, Any] | None = None
    _said: list[str] = field(default_factory=list)

    def add(self, event: Mapping[str, Any]) -> None:
        kind, data = event["event"], event.get("event_data", {})
        name = data.get("host")
        if isinstance(name, str) and _HOST_EVENT.match(kind):
            self._add_of_host(kind, data, self._seen.setdefault(name, _Host()))
        elif kind == "playbook_on_stats":
            self._stats = data
        elif kind in ("verbose", "error", "warning") and (text := plain(event.get("stdout", "")).strip()):
            self._said.append(text)

    def _add_of_host(self, kind: str, data: Mapping[str, Any], host: _Host) -> None:
        now = datetime.now(UTC)
        host.began = host.began or now
        host.ended = now
        if kind == "runner_on_start":
            host.inside = task_name(data)
            host.last_item = None
        elif kind == "runner_item_on_failed":
            host.last_item = data
        elif kind.startswith("runner_on"):
            host.inside = None
            if kind == "runner_on_failed" and not data.get("ignore_errors"):
                host.last_failure = {**data, "item": host.last_item}
            elif kind == "runner_on_unreachable":
                host.unreachable = data

    def judge(self, report: Sequence[Mapping[str, Any]], returned: int | None, stop: StopKind | None) -> PlaybookResult:
        """`report`: the companion's lines. `returned`: the exit code, None if it was ended by us."""
        told = _Report.read(report, self.hosts)
        if stop is None and self._stats is None and not self._seen and returned != 0:
            return self._broken(told)
        outcomes = tuple(self._judge(name, told, stop) for name in self.hosts)
        return PlaybookResult(outcomes)

    def _broken(self, told: _Report) -> PlaybookResult:
        text = "\n".join(self._said).replace(f"{self.home}/", "")
        if "leaves us with no hosts to target" in text or set(told.gone) >= set(self.hosts):
            message = "the inventory no longer has this host"
            gone = (HostOutcome(name, ChildStatus.ABORTED, Reason.HOST_GONE, message) for name in self.hosts)
            return PlaybookResult(tuple(gone))
        message = _complaint(text) or "ansible-playbook ended without reaching any host"
        reason = Reason.MISSING_COLLECTION if _MISSING.search(text) else Reason.PLAYBOOK_BROKEN
        aborted = (HostOutcome(name, ChildStatus.ABORTED, reason, message) for name in self.hosts)
        return PlaybookResult(
            tuple(aborted), RunError(reason, message, "mend the playbook; the run's log has all of it")
        )

    def _judge(self, name: str, told: _Report, stop: StopKind | None) -> HostOutcome:
        """The first rule that holds."""
        seen = self._seen.get(name, _Host())
        if name in told.unreachable or (not told.held_known and seen.unreachable):
            return self._outcome(name, ChildStatus.UNREACHABLE, *_unreachable(seen.unreachable), seen)
        if name in told.failed and seen.last_failure is not None:
            return self._outcome(name, ChildStatus.FAILED, *_failure(seen.last_failure), seen)
        if stop is not None and not told.ended:
            return self._stopped(name, seen, told, stop)
        if name in told.gone:
            return self._plain(
                name, ChildStatus.ABORTED, Reason.HOST_GONE, "the inventory no longer has this host", seen
            )
        if told.ended:
            return self._ended(name, seen, told)
        if not told.present:
            message = "ansible-playbook ended without the companion's report, so nothing proves how this host ended"
            return self._plain(name, ChildStatus.UNKNOWN, Reason.COMPANION_MISSING, message, seen)
        message = "ansible-playbook was ended from outside before it was done with this host"
        return self._plain(name, ChildStatus.UNKNOWN, Reason.SLICE_LOST, message, seen)

    def _ended(self, name: str, seen: _Host, told: _Report) -> HostOutcome:
        """The playbook came to its own end."""
        if name in told.failed:
            message = "stopped by Ansible because of another host's failure"
            return self._plain(name, ChildStatus.ABORTED, Reason.STOPPED_WITH_OTHERS, message, seen)
        if name in told.missed:
            message = "the playbook ended before a play that targets this host came to it"
            return self._plain(name, ChildStatus.ABORTED, Reason.NEVER_REACHED, message, seen)
        if name in told.planned:
            return self._plain(name, ChildStatus.SUCCESS, None, "", seen)
        message = "no play of the playbook targets this host"
        return self._plain(name, ChildStatus.SKIPPED, Reason.NOT_TARGETED, message, seen)

    def _stopped(self, name: str, seen: _Host, told: _Report, stop: StopKind) -> HostOutcome:
        """We ended it: what is proven stands, the rest is what the reason for ending it makes of it."""
        inside = f" in task {seen.inside}" if seen.inside else ""
        match stop:
            case StopKind.DEADLINE if seen.inside:
                message = f"timeouts.wave passed{inside}"
                return self._plain(name, ChildStatus.FAILED, Reason.DEADLINE_EXCEEDED, message, seen, seen.inside)
            case StopKind.DEADLINE:
                message = "timeouts.wave passed before this host was done"
                return self._plain(name, ChildStatus.ABORTED, Reason.DEADLINE_EXCEEDED, message, seen)
            case _:
                return self._plain(
                    name, ChildStatus.CANCELLED, Reason.CANCELLED, f"cancelled{inside}", seen, seen.inside
                )

    def _outcome(
        self, name: str, status: ChildStatus, reason: Reason, message: str, task: str | None, seen: _Host
    ) -> HostOutcome:
        return self._plain(name, status, reason, message, seen, task)

    def _plain(
        self, name: str, status: ChildStatus, reason: Reason | None, message: str, seen: _Host, task: str | None = None
    ) -> HostOutcome:
        message = message.replace(f"{self.home}/", "")
        short = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
        return HostOutcome(name, status, reason, short, task, self._counts(name), seen.began, seen.ended)

    def _counts(self, name: str) -> TaskCounts:
        if self._stats is None:
            return TaskCounts()
        return TaskCounts(**{ours: self._stats.get(theirs, {}).get(name, 0) for theirs, ours in _COUNTS.items()})


@dataclass(frozen=True, slots=True)
class _Report:
    """The companion's lines, read."""

    present: bool
    ended: bool
    held_known: bool
    planned: frozenset[str]
    missed: frozenset[str]
    """Targeted by a play that never planned them."""
    gone: frozenset[str]
    failed: frozenset[str]
    unreachable: frozenset[str]

    @classmethod
    def read(cls, lines: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> _Report:
        of_kind = {
            kind: [line for line in lines if line["kind"] == kind] for kind in ("playbook", "play", "held", "end")
        }
        held = [*of_kind["held"], *of_kind["end"]]
        last: Mapping[str, Any] = held[-1] if held else {}
        start: Mapping[str, Any] = of_kind["playbook"][0] if of_kind["playbook"] else {}
        planned: defaultdict[str, set[str]] = defaultdict(set)
        for play in of_kind["play"]:
            planned[play["play"]].update(play["planned"])
        missed: set[str] = set()
        for play in start.get("plays", ()):
            if play["targeted"] is not None:
                missed.update(set(play["targeted"]) - planned[play["play"]])
            elif play["play"] not in planned:  # it ended before the template was read: any host may have been meant
                missed.update(hosts)
        return cls(
            present=bool(lines),
            ended=bool(of_kind["end"]),
            held_known=bool(held),
            planned=frozenset(host for hosts_of_play in planned.values() for host in hosts_of_play),
            missed=frozenset(missed),
            gone=frozenset(start.get("gone", ())),
            failed=frozenset(last.get("failed", ())),
            unreachable=frozenset(last.get("unreachable", ())),
        )


# -- reasons out of Ansible's words ----------------------------------------------------------------------------------
_MISSING = re.compile(
    r"couldn't resolve module/action|was not found in configured (?:module|collection) paths|the role '.*' was not found",
    re.I,
)
_BECOME = re.compile(
    r"(?:missing|incorrect) (?:sudo|su|become|doas) password|a password is required|is not in the sudoers file|"
    r"may not run sudo|timeout.*waiting for privilege escalation|premature end of stream waiting for become|"
    r"task failed: (?:premature|incorrect|missing) .*become",
    re.I,
)
_TIMEOUT = re.compile(
    r"timed out after \d+|failed to execute in the expected time|timed out waiting for .* seconds|action failed.*timeout",
    re.I,
)
_HOST_KEY = re.compile(
    r"host key verification failed|remote host identification has changed|host key .* not known", re.I
)
_LOGIN = re.compile(
    r"permission denied|too many authentication failures|invalid/incorrect (?:username/)?password|authentication fail",
    re.I,
)


def _failure(data: Mapping[str, Any]) -> tuple[Reason, str, str]:
    result = data.get("res") or {}
    item = data.get("item")
    text = _message(result)
    if item is not None and "censored" not in result:
        inner = item.get("res") or {}
        text = f"item {item_label(inner)}: {_message(inner)}"
    if _BECOME.search(text):
        reason = Reason.BECOME_FAILED
    elif _MISSING.search(text):
        reason = Reason.MISSING_COLLECTION
    elif _TIMEOUT.search(text):
        reason = Reason.DEADLINE_EXCEEDED
    else:
        reason = Reason.TASK_FAILED
    return reason, text, task_name(data)


def _unreachable(data: Mapping[str, Any] | None) -> tuple[Reason, str, str | None]:
    if data is None:
        return Reason.CONNECTION_FAILED, "Ansible could not reach this host", None
    text = _message(data.get("res") or {})
    if _HOST_KEY.search(text):
        reason = Reason.HOST_KEY_UNKNOWN
    elif _LOGIN.search(text):
        reason = Reason.AUTH_FAILED
    elif _BECOME.search(text):
        reason = Reason.BECOME_FAILED
    else:
        reason = Reason.CONNECTION_FAILED
    return reason, text, task_name(data)


def _message(result: Mapping[str, Any]) -> str:
    if "censored" in result:
        return str(result["censored"])
    text = result.get("msg") or result.get("stderr") or result.get("module_stderr") or ""
    said = plain(text if isinstance(text, str) else str(text)).strip()
    if said == "non-zero return code" and (stderr := str(result.get("stderr", "")).strip()):
        return f"non-zero return code {result.get('rc')}: {plain(stderr)}"
    if said == "non-zero return code":
        return f"non-zero return code {result.get('rc')}"
    return said or "the task failed and said nothing"


def _complaint(text: str) -> str:
    """What Ansible says is wrong, from its first error on."""
    return re.split(r"\[ERROR\]:\s*|ERROR! ", text, maxsplit=1)[-1].strip()[:MAX_MESSAGE]
