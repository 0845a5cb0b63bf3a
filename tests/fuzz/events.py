"""What comes out of ansible-playbook: events, the companion's report, and the spool that is made of both.

Modules, hosts and callback plugins put into these what they like. Each `check_…` is given any bytes, and fails if a
promise of the code is broken.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from reconciler.adapters.ansible.events import Event
from reconciler.adapters.ansible.evidence import Evidence, Report, report_lines
from reconciler.adapters.ansible.logs import Logbook
from reconciler.adapters.ansible.outcomes import MAX_MESSAGE, Ending, judge
from reconciler.core.facts import ChildStatus, HostOutcome
from reconciler.core.reasons import Reason
from reconciler.ports import LogLine, PlaybookResult, StopKind

HOSTS = ("h1", "h2")
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
LONGEST_NAME = 1000
LARGEST = 2**31 - 1
"""What a column of integers takes."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What was logged of a playbook, and how it is judged."""

    lines: tuple[LogLine, ...]
    result: PlaybookResult

    def outcome(self, host: str) -> HostOutcome:
        return next(outcome for outcome in self.result.outcomes if outcome.host == host)


def ended(story: Any) -> Ended:
    """As the runner goes about it. `story`: {events, report (lines of it), returned, stop, stoppedAt (seconds after
    noon)}, each of which may be anything or missing."""
    story = story if isinstance(story, dict) else {}
    seconds = story.get("stoppedAt")
    stopped_at = NOON + timedelta(seconds=seconds % 3600) if isinstance(seconds, int) else None
    evidence, logbook = Evidence(stopped_at=stopped_at), Logbook("/srv/project")
    lines: list[LogLine] = []
    for raw in _list(story.get("events")):
        event = Event.of(raw)
        evidence.add(event)
        lines += logbook.lines(event)
    report = Report.read(report_lines(_report_of(story)), HOSTS, stopped_at)
    stop = next((kind for kind in StopKind if kind == story.get("stop")), None)
    returned = story.get("returned") if isinstance(story.get("returned"), int) else None
    result = judge(HOSTS, evidence, report, Ending(returned, NOON, stop), "/srv/project")
    for outcome in result.outcomes:
        lines += logbook.last_lines(outcome)
    return Ended(tuple(lines), result)


def _report_of(story: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(line)}\n" for line in _list(story.get("report")))


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def check_events(data: bytes) -> None:
    """Whatever is in them, each host has an outcome, success has a proof, and a database and a terminal can take it."""
    try:
        story = json.loads(data)
    except (ValueError, RecursionError):
        return
    check_story(story)


def check_story(story: Any) -> None:
    """The same of a document."""
    end = ended(story)
    for line in end.lines:
        assert line.host is None or line.host
        check_text(line.text)
    outcomes = end.result.outcomes
    assert [outcome.host for outcome in outcomes] == list(HOSTS)
    for outcome in outcomes:
        check_outcome(outcome)
    if any(outcome.status is ChildStatus.SUCCESS for outcome in outcomes):
        assert '{"kind": "end"' in _report_of(story) or '"kind": "end"' in _report_of(story)
    if end.result.error is not None:
        for text in (end.result.error.message, end.result.error.hint):
            assert text
            check_text(text)


def check_outcome(outcome: HostOutcome) -> None:
    assert outcome.status not in (ChildStatus.PENDING, ChildStatus.RUNNING)
    assert outcome.reason is None or isinstance(outcome.reason, Reason)
    assert len(outcome.message) <= MAX_MESSAGE
    check_text(outcome.message)
    if outcome.task is not None:
        assert len(outcome.task) <= LONGEST_NAME
        assert "\n" not in outcome.task
        check_text(outcome.task)
    assert all(0 <= count <= LARGEST for count in asdict(outcome.counts).values())
    for moment in (outcome.started_at, outcome.finished_at):
        assert moment is None or moment.astimezone(UTC).year >= 1000


def check_text(text: str) -> None:
    """A database and a terminal can take it."""
    text.encode()  # a surrogate can't be written
    odd = [char for char in text if ord(char) < 32 and char not in "\t\n"]
    assert not odd, f"{odd} in {text[:100]!r}"
