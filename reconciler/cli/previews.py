"""What would run, as people at a terminal and programs are told it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape

from reconciler.cli import show
from reconciler.core.facts import ManifestRecord, Revision
from reconciler.core.plans import Verdict
from reconciler.core.reading import Rejected
from reconciler.engine.preview import Change, Difference, JobChange, Preview

_WHY_NOTHING = {
    Verdict.CONVERGED: "what the manifest asks for has succeeded",
    Verdict.FAILED: "it failed; a changed manifest or playbook runs it again, and so does: reconciler trigger {name}",
    Verdict.CANCELLED: "it was cut short; reconciler trigger {name} runs it again",
    Verdict.IDLE: "nothing has asked for it; reconciler trigger {name} does",
    Verdict.PROGRESSING: "its run is in progress",
    Verdict.WAITING: "it waits",
    Verdict.STALLED: "it stands",
    Verdict.SUSPENDED: "it is suspended",
    Verdict.REMOVED: "its manifest is gone",
}

_CHANGED = {
    Difference.STEERING: "only fields that steer changed ({fields})",
    Difference.RESUMED: "a run that was asked for while it was suspended starts",
    Difference.PLAYBOOK: "UpToDate=False: its playbook changed; reconciler trigger {name} runs it",
    Difference.HOSTS: "its selection changed ({joined} joined, {left} left), which runs nothing by itself",
    Difference.REJECTED: "its manifest is rejected: the spec that was accepted before stays in force",
    Difference.HELD: "its manifest is gone, but may be in a rejected file, or no manifest is left at all: it is not removed",
}


@dataclass(frozen=True, slots=True)
class Told:
    """One batch. `nothing` says why nothing runs, for when that is so; no text of a manifest is in it."""

    preview: Preview
    nothing: str
    warnings: tuple[str, ...]
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outlook:
    """All that `plan` has to say. `about` is what it stands on; `data` is the whole for programs."""

    about: str
    jobs: tuple[Told, ...]
    rejected: tuple[Rejected, ...]
    data: Any
    removed: tuple[ManifestRecord, ...] = ()
    unchanged: int = 0
    whole: bool = True
    """Whether every source could be read."""

    @property
    def runs(self) -> int:
        """How many batches would run."""
        return sum(job.preview.runs for job in self.jobs)

    @property
    def empty(self) -> bool:
        return not self.jobs and not self.removed and not self.unchanged


def outlook_of_plan(
    found: Sequence[Preview], rejected: Sequence[Rejected], about: str, *, whole: bool = True
) -> Outlook:
    jobs = tuple(Told(preview, _why_nothing(preview), preview.plan.warnings) for preview in found)
    return Outlook(about, jobs, tuple(rejected), [_data(preview) for preview in found], whole=whole)


def outlook_of_change(change: Change) -> Outlook:
    base, head = _commit(change.base), _commit(change.head)
    return Outlook(
        f"from {base} to {head}, if everything at {base} has run with success",
        tuple(map(_told, change.jobs)),
        change.rejected,
        _data_of_change(change),
        change.removed,
        len(change.unchanged),
    )


def _told(job: JobChange) -> Told:
    warnings = job.preview.plan.warnings if job.preview.runs else ()  # of work that stays as it is nobody asked
    return Told(job.preview, _why_nothing_more(job), warnings, job.joined, job.left)


def _commit(revision: Revision) -> str:
    return revision.rpartition(":")[2][: show.DIGEST_WIDTH]


def _why_nothing(found: Preview) -> str:
    return _WHY_NOTHING[found.plan.verdict].format(name=show.name_of(found.key.source, found.key.name))


def _why_nothing_more(job: JobChange) -> str:
    """Why a job that differs does not run for it."""
    about = {
        "name": show.name_of(job.preview.key.source, job.preview.key.name),
        "fields": ", ".join(job.fields),
        "joined": len(job.joined),
        "left": len(job.left),
    }
    said = [_CHANGED[difference].format(**about) for difference in job.differences if difference in _CHANGED]
    if job.preview.plan.verdict is not Verdict.CONVERGED or not said:
        said.insert(0, _why_nothing(job.preview))
    return "; ".join(said)


def removal(record: ManifestRecord) -> str:
    return f"its job is removed; a run in progress ends by onChange ({record.spec.on_change})"


def unchanged(count: int) -> str:
    return "1 batch is unchanged" if count == 1 else f"{count} batches are unchanged"


def printable(text: str) -> str:
    """On one line, without characters that do something instead of being seen."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


# -- for programs ----------------------------------------------------------------------------------------------------
def _data(found: Preview) -> dict[str, Any]:
    blocked = found.plan.blocked
    return {
        "name": found.key.name,
        "source": found.key.source,
        "playbook": found.desired.spec.playbook,
        "verdict": found.plan.verdict.value,
        "runs": found.runs,
        "causes": [{"kind": cause.kind.value, "message": cause.message} for cause in found.causes],
        "retries": list(found.plan.retries),
        "waves": [list(wave) for wave in found.plan.waves],
        "blocked": None
        if blocked is None
        else {"reason": blocked.reason.value, "message": blocked.message, "hint": blocked.hint},
        "warnings": list(found.plan.warnings),
    }


def _data_of_change(change: Change) -> dict[str, Any]:
    return {
        "base": change.base,
        "head": change.head,
        "jobs": [
            {
                **_data(job.preview),
                "differences": [difference.value for difference in job.differences],
                "fields": list(job.fields),
                "joined": list(job.joined),
                "left": list(job.left),
                "whyNothing": None if job.preview.runs else _why_nothing_more(job),
            }
            for job in change.jobs
        ],
        "removed": [
            {
                "name": record.key.name,
                "source": record.key.source,
                "path": record.path,
                "onChange": record.spec.on_change.value,
            }
            for record in change.removed
        ],
        "rejected": [
            {
                "path": problem.path,
                "line": problem.line,
                "column": problem.column,
                "name": entry.name,
                "message": problem.message,
                "hint": problem.hint,
            }
            for entry in change.rejected
            for problem in entry.problems
        ],
        "unchanged": len(change.unchanged),
    }


# -- for a terminal --------------------------------------------------------------------------------------------------
def draw(outlook: Outlook) -> None:
    """All but what was rejected, which goes to stderr in every format."""
    for job in outlook.jobs:
        for line in _lines(job):
            show.out.print(line)
    for record in outlook.removed:
        show.out.print(
            f"[bold]{show.name_of(record.key.source, record.key.name)}[/]  Removed: {_text(record.path)} is gone"
        )
        show.out.print(f"  {removal(record)}")
    if outlook.unchanged:
        show.out.print(unchanged(outlook.unchanged))


def _text(foreign: str) -> str:
    return escape(printable(foreign))


def _lines(job: Told) -> Iterator[str]:
    found = job.preview
    yield f"[bold]{show.name_of(found.key.source, found.key.name)}[/]  {found.plan.verdict}: {_text(found.desired.spec.playbook)}"
    for cause in found.causes:
        yield f"  because {_text(cause.message)} ({cause.kind})"
    if found.plan.retries:
        yield f"  tries again: {_text(', '.join(found.plan.retries))}"
    for number, wave in enumerate(found.plan.waves, start=1):
        yield f"  wave {number}: {_text(', '.join(wave))}"
    for what, names in (("joined", job.joined), ("left", job.left)):
        if names:
            yield f"  {what}: {_text(', '.join(names))}"
    if (blocked := found.plan.blocked) is not None:
        yield f"  [red]{blocked.reason}[/]: {_text(blocked.message)}"
        if blocked.hint:
            yield f"    hint: {_text(blocked.hint)}"
    for warning in job.warnings:
        yield f"  [yellow]warning[/] {_text(warning)}"
    if not found.runs and blocked is None:
        yield f"  nothing would run: {job.nothing}"
