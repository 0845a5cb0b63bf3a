"""Commands that look: status, sources, logs, history. None of them changes anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.live import Live
from rich.markup import escape

from reconciler import app as parts
from reconciler.adapters.store import SqlStore
from reconciler.cli import show
from reconciler.cli.options import (
    CANNOT_TELL,
    INTERRUPTED,
    USAGE,
    Config,
    Name,
    Output,
    StateDir,
    complain,
    key_of,
    opened,
    status_of,
)
from reconciler.core.facts import Child, Commit, JobKey, Run
from reconciler.core.status import ConditionType, JobStatus
from reconciler.core.views import commit_view
from reconciler.settings import Settings

PAST_RUNS = 50
"""Lines of a history."""

OF_COMMITS = ("author", "subject")
"""Columns of a history that one without commits does not have."""

POLL = 0.5
"""Seconds between two looks at the database."""


def add_to(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(sources)
    app.command()(logs)
    app.command()(history)


def status(
    name: Annotated[str | None, typer.Argument(help="NAME or SOURCE/NAME; none: all.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show every change, until Ctrl-C.")] = False,
    output: Output = show.Format.TABLE,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """How the batches stand, or one of them with its failures and hosts."""
    with opened(config, state_dir) as (store, settings):

        def found() -> tuple[JobStatus, ...]:
            return tuple(store.statuses()) if name is None else (status_of(store, name),)

        def drawn(statuses: Sequence[JobStatus]) -> RenderableType:
            return show.overview(statuses) if name is None else show.one(statuses[0])

        def tell(statuses: Sequence[JobStatus]) -> None:
            documents = [job.model_dump(mode="json", by_alias=True) for job in statuses]
            if output is show.Format.TABLE:
                show.out.print(drawn(statuses))
            else:
                show.data(documents if name is None else documents[0], output)

        try:
            if not watch:
                tell(statuses := found())
                _say_if_nobody_goes_on(settings, statuses)
            elif output is show.Format.TABLE and show.out.is_terminal:
                with Live(drawn(found()), console=show.out, auto_refresh=False) as live:
                    _each_change(found, lambda statuses: live.update(drawn(statuses), refresh=True))
            else:
                _each_change(found, tell)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _say_if_nobody_goes_on(settings: Settings, statuses: Sequence[JobStatus]) -> None:
    waiting = (condition.type is ConditionType.RECONCILING for job in statuses for condition in job.status.conditions)
    if any(waiting) and not parts.daemon_runs(settings):
        show.err.print("no daemon runs on this state directory: nothing goes on until the next reconciler run")


def _each_change(found: Callable[[], tuple[JobStatus, ...]], tell: Callable[[Sequence[JobStatus]], None]) -> None:
    told: tuple[JobStatus, ...] | None = None
    while True:
        now = found()
        if now != told:
            tell(now)
            told = now
        time.sleep(POLL)


def sources(output: Output = show.Format.TABLE, config: Config = None, state_dir: StateDir = None) -> None:
    """How the sources stand, and which manifests were rejected."""
    with opened(config, state_dir) as (store, _):
        found = store.source_statuses()
        if output is not show.Format.TABLE:
            show.data([source.model_dump(mode="json", by_alias=True) for source in found], output)
            return
        for source in found:
            counts = source.status.manifests
            ready = next(c for c in source.status.conditions if c.type is ConditionType.READY)
            show.out.print(
                f"{source.metadata.name}  {counts.accepted} accepted, {counts.rejected} rejected, {counts.removed} removed  "
                f"{ready.reason}: {ready.message}",
                markup=False,
            )
            if source.status.observed_revision is not None:
                made = f", {show.commit(source.status.commit)}" if source.status.commit is not None else ""
                show.out.print(f"  at {show.short_revision(source.status.observed_revision)}{made}", markup=False)
            for entry in source.status.rejected:
                show.out.print(f"  {entry.path}:{entry.line}:{entry.column}: {entry.message}", markup=False)
                show.out.print(f"    hint: {entry.hint}", markup=False)


def logs(
    name: Name,
    host: Annotated[str | None, typer.Argument(help="Whose log; none: the run's own.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Those of every unsuccessful host.")] = False,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Of this attempt only.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="Of this run instead of the latest.")] = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """A host's log, or the run's."""
    with opened(config, state_dir) as (store, _):
        run = _run_of(store, name, run_id)
        if host is not None and host not in {child.host for child in run.children}:
            complain(f"{run.job_id} has no host {host}")
            raise typer.Exit(USAGE)
        try:
            _print_logs(store, run, host, attempt, follow=follow, failed=failed)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _run_of(store: SqlStore, name: str, run_id: str | None) -> Run:
    if run_id is None:
        latest = store.observe(key_of(store, name)).run
        if latest is not None:
            return latest
        status_of(store, name)
        complain(f"{name} has not run yet")
        raise typer.Exit(CANNOT_TELL)
    named = store.run(run_id)
    if named is None or named[0] != key_of(store, name):
        complain(f"{name} has no run {run_id}", f"see: reconciler history {name}")
        raise typer.Exit(USAGE)
    return named[1]


def _print_logs(
    store: SqlStore, run: Run, host: str | None, attempt: int | None, *, follow: bool, failed: bool
) -> None:
    seen: dict[str | None, int] = {}
    shown: str | None = None
    while True:
        now = store.run(run.job_id) if follow or failed else None
        current = now[1] if now is not None else run
        hosts: list[str | None] = [host]
        if failed:
            hosts = [child.host for child in current.children if child.status.unsuccessful]
        for whose in hosts:
            lines = store.log(run.job_id, whose, attempt, seen.get(whose, 0))
            if lines and failed and shown != whose:
                show.out.print(f"==> {whose} <==", markup=False)
                shown = whose
            for line in lines:
                show.out.print(line.text, markup=False)
                seen[whose] = line.sequence
        if not follow or not current.open:
            if not seen:
                show.err.print(_why_empty(current, host, attempt, failed=failed), markup=False)
            return
        time.sleep(POLL)


def _why_empty(run: Run, host: str | None, attempt: int | None, *, failed: bool) -> str:
    if failed and not any(child.status.unsuccessful for child in run.children):
        return f"no host of {run.job_id} was unsuccessful"
    child = next((child for child in run.children if child.host == host), None)
    if child is None:
        return f"nothing has been logged in {run.job_id}, beside its hosts"
    if attempt is not None and attempt > child.attempt:
        return f"{host} has no attempt {attempt} in {run.job_id}: its latest is {child.attempt}"
    why = f" ({child.reason}: {child.message})" if child.reason else ""
    never = ", and was never started" if child.attempt == 0 else ""
    return f"nothing has been logged of {host} in {run.job_id}: it is {child.status}{never}{why}"


def history(
    name: Annotated[str | None, typer.Argument(help="NAME or SOURCE/NAME; may be left out with --host.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Only this host's part.")] = None,
    output: Output = show.Format.TABLE,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Past runs: why, of which revision, and what came of them. With --host alone: what every batch did to it."""
    if name is None and host is None:
        complain("name a batch, or a host with --host")
        raise typer.Exit(USAGE)
    with opened(config, state_dir) as (store, _):
        rows = _host_rows(store, host) if name is None and host is not None else _run_rows(store, name or "", host)
        if output is not show.Format.TABLE:
            show.data(rows, output)
        elif rows:
            shown = [_cells(row) for row in rows]
            titles = [title for title in shown[0] if title not in OF_COMMITS or any(cells[title] for cells in shown)]
            cells_of = [tuple(escape(cells[title]) for title in titles) for cells in shown]
            show.out.print(show.table([title.upper() for title in titles], cells_of))
        else:
            show.err.print("nothing has run there yet" if host is None else f"no run had {host}", markup=False)


def _run_rows(store: SqlStore, name: str, host: str | None) -> list[dict[str, Any]]:
    status_of(store, name)
    rows = []
    for past in store.runs(key_of(store, name), PAST_RUNS):
        own = next((child for child in past.children if child.host == host), None) if host else None
        if host and own is None:
            continue
        rows.append(
            {
                "run": past.job_id,
                "cause": past.cause.value,
                "because": past.cause_message,
                "generation": past.generation,
                "revision": past.revision,
                "commit": _commit(past.commit),
                "status": own.status.value if own else past.status.value,
                "finished": _when(own or past),
                "message": own.message if own else past.message,
            }
        )
    return rows


def _host_rows(store: SqlStore, host: str) -> list[dict[str, Any]]:
    def row(key: JobKey, child: Child) -> dict[str, Any]:
        return {
            "batch": str(key),
            "job": child.job_id,
            "commit": _commit(child.commit),
            "status": child.status.value,
            "finished": _when(child),
            "message": child.message,
        }

    return [row(key, child) for key, child in store.host_history(host, None, PAST_RUNS)]


def _commit(commit: Commit | None) -> dict[str, Any] | None:
    view = commit_view(commit)
    return None if view is None else view.model_dump(mode="json", by_alias=True)


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A row by its titles, as a person reads it."""
    cells: dict[str, str] = {}
    for title, value in row.items():
        match title:
            case "revision":
                cells[title] = show.short_revision(value)
            case "because":
                cells["cause"] += f": {value}" if value else ""
            case "commit":
                cells["author"] = "" if value is None else show.author_name(value["author"])
                cells["subject"] = "" if value is None else value["subject"]
            case _:
                cells[title] = "" if value is None else str(value)
    return cells


def _when(ended: Child | Run) -> str | None:
    return None if ended.finished_at is None else ended.finished_at.strftime("%Y-%m-%dT%H:%M:%SZ")
