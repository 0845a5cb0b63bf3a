"""How things are shown on a terminal or in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

import yaml
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reconciler.core.facts import ChildStatus
from reconciler.core.status import ChildView, CommitView, Condition, ConditionType, JobStatus, Phase
from reconciler.sources import DEFAULT

DIGEST_WIDTH = 12
MESSAGE_WIDTH = 100
"""Characters that are shown of each."""

WIDE = 80
"""Columns from which on a table can be read."""

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


def document(content: Any, form: Format) -> None:
    """One of several that follow each other, for programs: a line of JSON, or YAML that begins with `---`."""
    if form is Format.JSON:
        out.print(json.dumps(content), markup=False)
    else:
        out.print(
            yaml.safe_dump(content, explicit_start=True, sort_keys=False, allow_unicode=True), end="", markup=False
        )


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


def overview(statuses: Sequence[JobStatus]) -> RenderableType:
    """Every batch with all that is said of it."""
    rows = []
    for job in statuses:
        body = job.status
        strategy = body.strategy.value if body.strategy is not None else ""
        message = escape(one_line(body.message))
        rows.append((_name(job), _phase_of(job), body.progress, strategy, message))
    lines = (
        Group(_headline(_name(job), _phase_of(job)), *_indented(job.status.progress, one_line(job.status.message)))
        for job in statuses
    )
    return Fitting(table(("NAME", "PHASE", "PROGRESS", "STRATEGY", "MESSAGE"), rows), Group(*lines))


def glance(statuses: Sequence[JobStatus]) -> RenderableType:
    """Every batch on one line, or two where lines are short: what does not fit is left out."""
    drawn = table(("NAME", "PHASE", "PROGRESS", "MESSAGE"), ())
    for column in drawn.columns[1:3]:  # of the others something is left out first
        column.no_wrap = True
    lines: list[RenderableType] = []
    for job in statuses:
        progress, message = job.status.progress, one_line(job.status.message)
        drawn.add_row(_cut(_name(job)), _phase_of(job), progress, _cut(message))
        lines += [
            _headline(_name(job), _phase_of(job)),
            _cut(f"  {' · '.join(part for part in (progress, message) if part)}"),
        ]
    return Fitting(drawn, Group(*lines))


def line(job: JobStatus) -> Text:
    """One batch among others of its like."""
    drawn = Text(_name(job)).append("  ").append_text(Text.from_markup(_phase_of(job)))
    for said in (job.status.progress, one_line(job.status.message)):
        drawn.append(f"  {said}" if said else "")
    return drawn


class Fitting:
    """A table, or what is shown instead of it where its columns would be a few letters wide."""

    def __init__(self, wide: RenderableType, narrow: RenderableType) -> None:
        self._wide = wide
        self._narrow = narrow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._wide if options.max_width >= WIDE else self._narrow


def _name(job: JobStatus) -> str:
    return name_of(job.metadata.source, job.metadata.name)


def _phase_of(job: JobStatus) -> str:
    return phase(job.status.phase) + (" (suspended)" if job.status.suspended else "")


def _headline(name: str, *more: str) -> Table:
    """A name and short words about it, on one line: of the name something is left out where that is too short."""
    drawn = Table.grid(padding=(0, 2, 0, 0))
    drawn.add_column()
    for _ in more:
        drawn.add_column(no_wrap=True)
    drawn.add_row(_cut(name, "bold"), *more)
    return drawn


def _cut(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


class _Said:
    """Text that is a line. On a terminal that is too narrow it goes on below its own beginning; elsewhere it stays one,
    for whoever searches it."""

    def __init__(self, text: Text, indent: int) -> None:
        self._text = text
        self._indent = indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.is_terminal and self._text:
            text = self._text.copy()
            text.no_wrap, text.overflow = False, "fold"
            yield Padding(text, (0, 0, 0, self._indent), expand=False)
        else:
            yield Text(" " * self._indent) + self._text


def _indented(*texts: str) -> Iterator[RenderableType]:
    """Below something, each on lines of its own."""
    yield from (_Said(Text(text), 2) for text in texts if text)


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


def _below_each_other(view: ChildView) -> Group:
    """A host, where lines are short."""
    why = ": ".join(part for part in (view.reason or "", _first_line(view.message)) if part)
    wave = () if view.wave is None else (f"wave {view.wave}",)
    return Group(_headline(view.host, child(view.status), *wave), *_indented(why))


def one(job: JobStatus) -> Group:
    """One batch: what matters most first."""
    body = job.status
    parts: list[RenderableType] = []

    def line(text: str = "") -> None:
        said = text.lstrip(" ")
        parts.append(_Said(Text.from_markup(said, emoji=False), len(text) - len(said)))

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
        wide = table(("HOST", "WAVE", "STATUS", "REASON", "MESSAGE"), rows)
        parts.append(Fitting(wide, Group(*(_below_each_other(view) for view in body.children))))
        left_out = sum(body.hosts.model_dump(exclude={"selected"}).values()) - len(body.children)
        if left_out > 0:
            line(f"… and {left_out} more; of a single one: reconciler history {job.metadata.name} --host HOST")
    return Group(*parts)
