"""The log of a child, or of a run itself: which lines, and what kind of line each is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.core.facts import Child, ChildStatus, JobKey, RunStatus
from reconciler.core.folding import run_of
from reconciler.ports import SpooledLine
from reconciler.web.doors import Looking

LINES = 1000
"""Lines that are sent at once, at most."""

_KINDS = (
    ("skip", re.compile(r"skipped\b|.*\(ignored\)$|(skipping|included):")),
    ("bad", re.compile(r"(failed|unreachable)\b|fatal:|RECAP (failed|unreachable|aborted|unknown)\b")),
    ("changed", re.compile(r"changed\b")),
    ("ok", re.compile(r"ok\b|RECAP success\b")),
    ("head", re.compile(r"(PLAY|TASK|HANDLER|RUNNING HANDLER) \[|RECAP ")),
    ("warn", re.compile(r"retrying\b|\[(WARNING|DEPRECATED)\]")),
)
"""By how a line begins: what a module has said is indented, and is none of these."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a log is of. `child` None: the run itself."""

    key: JobKey
    run: str
    child: Child | None
    status: ChildStatus | RunStatus

    @property
    def running(self) -> bool:
        return not self.status.finished

    @property
    def id(self) -> str:
        return self.run if self.child is None else self.child.job_id

    @property
    def host(self) -> str | None:
        return None if self.child is None else self.child.host


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    kind: str
    text: str


def job_of(browser: Looking, job_id: str) -> Job | None:
    """A run or a child by its id."""
    if (row := browser.run_row(job_id)) is not None:
        return Job(row.key, job_id, None, row.summary.status)
    found = browser.child(job_id)
    if found is None:
        return None
    key, child = found
    return Job(key, run_of(child), child, child.status)


def classed(lines: Sequence[SpooledLine], count: int = 0) -> list[Line]:
    """Numbered on from those before, each with what Ansible says by its first word."""
    return [Line(number, _kind(line.text), line.text) for number, line in enumerate(lines, start=count + 1)]


def _kind(text: str) -> str:
    return next((name for name, begins in _KINDS if begins.match(text)), "")
