"""How things are shown on a terminal or in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reconciler.core.facts import ChildStatus
from reconciler.core.status import CommitView, Condition, ConditionType, JobStatus, Phase
from reconciler.sources import DEFAULT

DIGEST_WIDTH = 12
MESSAGE_WIDTH = 100
"""Characters that are shown of each."""

PIPE_WIDTH = 200
"""Columns of a table that no terminal shows."""

# Emoji codes are left as they are: `main.c:100:5` is a place and no picture.
_on_terminal = sys.stdout is not None and sys.stdout.isatty()
out = Console(soft_wrap=True, highlight=False, emoji=False, width=None if _on_terminal else PIPE_WIDTH)
err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


_PHASE = {
    Phase.RUNNING: "blue",
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.STALLED: "red",
    Phase.INVALID: "red",
    Phase.PENDING: "yellow",
    Phase.CANCELLED: "magenta",
}
_CHILD = {
    ChildStatus.SUCCESS: "green",
    ChildStatus.RUNNING: "blue",
    ChildStatus.PENDING: "yellow",
    ChildStatus.SKIPPED: "dim",
    ChildStatus.CANCELLED: "magenta",
}


def phase(value: Phase) -> str:
    colour = _PHASE.get(value)
    return f"[{colour}]{value}[/]" if colour else value


def child(value: ChildStatus) -> str:
    return f"[{_CHILD.get(value, 'red')}]{value}[/]"


def short_revision(revision: str) -> str:
    """With the beginning of its digest, which is as much as `wait --revision` needs."""
    of, colon, digest = revision.rpartition(":")
    return f"{of}{colon}{digest[:DIGEST_WIDTH]}"


def author_name(author: str) -> str:
    """Without the address, unless there is nothing else."""
    return author.partition("<")[0].strip() or author


def commit(view: CommitView) -> str:
    """Plain text, as people wrote it: to be escaped where markup counts."""
    return f'commit "{view.subject}" by {author_name(view.author)}, {view.date:%Y-%m-%d %H:%M} UTC'


def data(documents: Any, form: Format) -> None:
    """Plain data for programs."""
    if form is Format.JSON:
        out.print_json(json.dumps(documents), highlight=False)
    else:
        out.print(yaml.safe_dump(documents, sort_keys=False, allow_unicode=True), end="", markup=False)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Rows may hold markup; what comes from outside is escaped by the caller."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        drawn.add_column(title, overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def name_of(source: str, name: str) -> str:
    """A batch, as commands take it: by its name alone where the settings name no sources."""
    return name if source == DEFAULT else f"{source}/{name}"


def below(lines: Sequence[str], what: RenderableType) -> Group:
    """Something, below lines that nobody is to overlook."""
    return Group(*(Text(line, style="bold yellow") for line in lines), what)


def warn(lines: Sequence[str]) -> None:
    for line in lines:
        out.print(Text(line, style="bold yellow"))


def overview(statuses: Sequence[JobStatus]) -> Table:
    rows = []
    for job in statuses:
        body = job.status
        held = " (suspended)" if body.suspended else ""
        strategy = body.strategy.value if body.strategy is not None else ""
        rows.append(
            (
                name_of(job.metadata.source, job.metadata.name),
                phase(body.phase) + held,
                body.progress,
                strategy,
                escape(one_line(body.message)),
            )
        )
    return table(("NAME", "PHASE", "PROGRESS", "STRATEGY", "MESSAGE"), rows)


def problem(path: str, line: int, column: int, message: str, hint: str) -> None:
    """What is wrong with a manifest, as editors and CI read it, on stderr."""
    err.print(f"{path}:{line}:{column}: {message}", markup=False)
    if hint:
        err.print(f"  hint: {hint}", markup=False)


def one_line(message: str) -> str:
    """The first line, for what says what is wrong comes first; and whether there is more."""
    line, _, more = message.partition("\n")
    return f"{line} …" if more else line


def _first_line(message: str) -> str:
    line = one_line(message)
    return line if len(line) <= MESSAGE_WIDTH else f"{line[: MESSAGE_WIDTH - 1]}…"


def _telling(conditions: Sequence[Condition]) -> Iterator[Condition]:
    """Those that are not as they should be; Ready only where none of the others says the same."""
    others = {(other.reason, other.message) for other in conditions if other.type is not ConditionType.READY}
    for condition in conditions:
        repeated = condition.type is ConditionType.READY and (condition.reason, condition.message) in others
        wrong = condition.status == "False" or condition.type in (ConditionType.STALLED, ConditionType.SUSPENDED)
        if wrong and not repeated:
            yield condition


def one(job: JobStatus) -> Group:
    """One batch: what matters most first."""
    body = job.status
    parts: list[RenderableType] = []

    def line(text: str = "") -> None:
        parts.append(Text.from_markup(text, emoji=False))

    line(f"[bold]{job.metadata.source}/{job.metadata.name}[/]  {phase(body.phase)}  {escape(body.message)}")
    line(f"  {body.progress}, generation {job.metadata.generation}, seen at {escape(short_revision(body.revision))}")
    if body.commit is not None:
        line(f"  {escape(commit(body.commit))}")
    if body.run is not None:
        because = f": {body.run.cause_message}" if body.run.cause_message else ""
        line(f"  run {body.run.id} of {escape(short_revision(body.run.revision))} ({body.run.cause}{escape(because)})")
        if body.run.commit not in (None, body.commit):
            line(f"  {escape(commit(body.run.commit))}")
        if body.run.check_mode:
            line("  [yellow]check mode[/]: it only looked, and changed nothing; it counts as no success")
    covered = body.coverage
    line(
        f"  coverage: {covered.up_to_date} of {covered.selected} up to date, {covered.behind} behind, {covered.never} never"
    )
    for condition in _telling(body.conditions):
        line(f"  {condition.type}={condition.status} {condition.reason}: {escape(condition.message)}")
    for warning in body.warnings:
        line(f"  [yellow]warning[/] {escape(warning)}")
    if body.failures:
        line("")
        line("[bold]Failures[/]")
        for group in body.failures:
            task = f" in task '{group.task}'" if group.task else ""
            hosts = ", ".join(group.examples) + (", …" if group.hosts > len(group.examples) else "")
            line(f"  {group.hosts} {child(group.status)}{escape(task)}: {escape(group.message)}")
            line(f"    {group.reason}: {escape(hosts)}")
    if body.children:
        line()
        rows = [
            (
                view.host,
                "" if view.wave is None else str(view.wave),
                child(view.status),
                view.reason or "",
                escape(_first_line(view.message)),
            )
            for view in body.children
        ]
        parts.append(table(("HOST", "WAVE", "STATUS", "REASON", "MESSAGE"), rows))
        left_out = sum(body.hosts.model_dump(exclude={"selected"}).values()) - len(body.children)
        if left_out > 0:
            line(f"… and {left_out} more; of a single one: reconciler history {job.metadata.name} --host HOST")
    return Group(*parts)
