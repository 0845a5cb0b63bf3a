"""Commands that look: status, sources, logs, history, audit. None of them changes anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text

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
from reconciler.cli.watching import all_batches, batches_of, each_change, glance_at_all, on_terminal, tell_away
from reconciler.core.errors import Unavailable
from reconciler.core.facts import Child, Commit, JobKey, Run
from reconciler.core.folding import fold, run_of
from reconciler.core.manifest import parse_duration
from reconciler.core.status import ConditionType, JobStatus
from reconciler.core.views import commit_view
from reconciler.ports import Request
from reconciler.settings import Settings

Since = Annotated[
    str | None, typer.Option("--since", help="Not before: as 12h or 7d, or a date (UTC). None: the newest 50.")
]

NEWEST = 50
"""Lines of a history or an audit that nobody bounds by time."""

MOST = 1000
"""Lines of one that is."""

MAY_BE_EMPTY = ("author", "subject", "run", "arguments")
"""Columns that are left out where no line has them, such as those of commits."""

NOBODY = "no daemon runs on this state directory: nothing goes on until the next reconciler run"

LINES = 1000
"""Lines of a log that are in memory at a time."""

POLL = 0.5
"""Seconds between two looks at the database."""

Whose = tuple[str, str | None]
"""A run (job_id) and a host of it; None: the run's own log."""


def add_to(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(sources)
    app.command()(logs)
    app.command()(history)
    app.command()(audit)


def status(
    name: Annotated[str | None, typer.Argument(help="NAME or SOURCE/NAME; none: all.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show every change, until Ctrl-C.")] = False,
    output: Output = show.Format.TABLE,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """How the batches stand, or one of them with its failures and hosts."""
    with opened(config, state_dir) as (store, settings):
        try:
            if not watch:
                _tell_status(store, settings, name, output)
            elif output is show.Format.TABLE and show.out.is_terminal and not show.out.is_dumb_terminal:
                on_terminal(_frame_of(store, settings, name))
            else:
                _tell_each_change(store, name, output)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _tell_status(store: SqlStore, settings: Settings, name: str | None, output: show.Format) -> None:
    statuses = tuple(store.statuses()) if name is None else (status_of(store, name),)
    if output is not show.Format.TABLE:
        documents = [_document(job) for job in statuses]
        show.data(documents if name is None else documents[0], output)
    else:
        above = _above(store, None if name is None else statuses[0].metadata.source)
        show.out.print(show.below(above, show.overview(statuses) if name is None else show.one(statuses[0])))
    _say_if_nobody_goes_on(settings, store, statuses)


def _frame_of(store: SqlStore, settings: Settings, name: str | None) -> Callable[[int], RenderableType]:
    """What is to be seen at a moment, for so many lines."""
    key = None if name is None else key_of(store, name)
    source = None if key is None else key.source
    if name is not None:
        status_of(store, name)  # it is there

    def frame(lines: int) -> RenderableType:
        away = () if parts.is_seen_to(settings, store) else (NOBODY,)
        above = (*away, *_above(store, source))
        if key is None:
            return glance_at_all(store, above, lines)
        status = store.status(key)
        return show.below(above, Text(f"there is no batch {name} any more") if status is None else show.one(status))

    return frame


def _tell_each_change(store: SqlStore, name: str | None, output: show.Format) -> None:
    key = None if name is None else key_of(store, name)
    if key is None:
        read = partial(all_batches, store)
    else:
        status_of(store, str(key))
        read = partial(batches_of, store, key)

    def tell(job: JobStatus) -> None:
        if output is show.Format.TABLE:
            show.out.print(show.line(job) if key is None else show.one(job))
            return
        whole = store.status(JobKey(job.metadata.source, job.metadata.name)) or job
        show.document(_document(whole), output)

    if output is show.Format.TABLE:
        show.warn(_above(store, None if key is None else key.source))
    each_change(store, read, tell)


def _document(job: JobStatus) -> Any:
    return job.model_dump(mode="json", by_alias=True)


def _say_if_nobody_goes_on(settings: Settings, store: SqlStore, statuses: Sequence[JobStatus]) -> None:
    waiting = (condition.type is ConditionType.RECONCILING for job in statuses for condition in job.status.conditions)
    if any(waiting) and not parts.is_seen_to(settings, store):
        show.err.print(NOBODY)


def _above(store: SqlStore, source: str | None = None) -> tuple[str, ...]:
    """What people who look at jobs must not overlook: what is paused or held, of all sources or of one."""
    paused = [str(pause) for pause in store.pauses() if source is None or pause.source in (None, source)]
    held = [
        f"source {name} is held ({why}): reconciler adopt {name}, --as-done if it has run before, else --run"
        for name, why in store.sources().items()
        if why is not None and source in (None, name)
    ]
    return (*paused, *held)


def sources(output: Output = show.Format.TABLE, config: Config = None, state_dir: StateDir = None) -> None:
    """How the sources stand, and which manifests were rejected."""
    with opened(config, state_dir) as (store, _):
        found = store.source_statuses()
        if output is not show.Format.TABLE:
            show.data([source.model_dump(mode="json", by_alias=True) for source in found], output)
            return
        show.warn(_above(store))
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
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, max=1000, help="Of this attempt only.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="Of this run instead of the latest.")] = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """A host's log, or the run's."""
    with opened(config, state_dir) as (store, _):
        run = _run_of(store, name, run_id, host)
        if host is not None and host not in {child.host for child in run.children}:
            complain(f"{run.job_id} has no host {host}")
            raise typer.Exit(USAGE)

        def whose() -> Sequence[Whose]:
            if not failed:
                return [(run.job_id, host)]
            if run_id is None:
                children = fold(store.observe(key_of(store, name)))
            else:
                children = tuple(store.children(run.job_id))
            return [(run_of(child), child.host) for child in children if child.status.unsuccessful]

        try:
            _print_logs(store, run, whose, attempt, follow=follow, titles=failed)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _run_of(store: SqlStore, name: str, run_id: str | None, host: str | None) -> Run:
    """The run that is named; else the latest, or the one that it tries again and in which the host ended as it stands."""
    if run_id is None:
        observed = store.observe(key_of(store, name))
        latest = observed.run
        if latest is not None:
            child = next((child for child in fold(observed) if child.host == host), None)
            earlier = None if child is None else store.run(run_of(child))
            return latest if earlier is None else earlier[1]
        status_of(store, name)
        complain(f"{name} has not run yet")
        raise typer.Exit(CANNOT_TELL)
    named = store.run(run_id)
    if named is None or named[0] != key_of(store, name):
        complain(f"{name} has no run {run_id}", f"see: reconciler history {name}")
        raise typer.Exit(USAGE)
    return named[1]


def _print_logs(
    store: SqlStore,
    run: Run,
    whose: Callable[[], Sequence[Whose]],
    attempt: int | None,
    *,
    follow: bool,
    titles: bool,
) -> None:
    """`whose` says it as it is now. Following ends with the run, and outlives a database that is away for a while."""
    seen: dict[Whose, int] = {}
    shown: list[Whose] = []
    wanted: Sequence[Whose] = ()
    away = False
    while True:
        try:
            row = store.run_row(run.job_id) if follow else None  # first: what is logged until then is there afterwards
            wanted = whose()
            for each in wanted:
                _print_news(store, each, attempt, seen, shown if titles else [each])
        except Unavailable as error:
            if not follow:
                raise
            if not away:
                tell_away(error)
            away = True
        else:
            away = False
            if row is None or row.summary.status.finished:
                break
        time.sleep(POLL)
    if not seen:
        now = store.run(run.job_id)
        show.err.print(_why_empty(run if now is None else now[1], wanted, attempt), markup=False)


def _print_news(store: SqlStore, each: Whose, attempt: int | None, seen: dict[Whose, int], shown: list[Whose]) -> None:
    """The lines after those that were seen, below the host's name if those before were of another."""
    while lines := store.log_page(*each, attempt, seen.get(each, 0), LINES):
        if shown[-1:] != [each]:
            show.out.print(f"==> {each[1]} <==", markup=False)
            shown[:] = [each]
        for line in lines:
            show.out.print(line.text, markup=False)
        seen[each] = lines[-1].sequence


def _why_empty(run: Run, wanted: Sequence[Whose], attempt: int | None) -> str:
    if not wanted:
        return f"no host of {run.job_id} was unsuccessful"
    host = wanted[0][1]
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
    since: Since = None,
    output: Output = show.Format.TABLE,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Past runs: why, of which revision, and what came of them. With --host alone: what every batch did to it."""
    if name is None and host is None:
        complain("name a batch, or a host with --host")
        raise typer.Exit(USAGE)
    past = Past.of(since)
    with opened(config, state_dir) as (store, _):
        if name is None and host is not None:
            rows = _host_rows(store, host, past)
        else:
            rows = _run_rows(store, name or "", host, past)
        _show_rows(rows, past, output, "nothing has run there yet" if host is None else f"no run had {host}")


def audit(
    name: Annotated[str | None, typer.Argument(help="NAME or SOURCE/NAME of a batch; none: all, and sources.")] = None,
    since: Since = None,
    output: Output = show.Format.TABLE,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Who asked for what beside the manifests, when and why, and what came of it."""
    past = Past.of(since)
    with opened(config, state_dir) as (store, _):
        key = None
        if name is not None:
            status_of(store, name)
            key = key_of(store, name)
        rows = [_request_row(request) for request in store.requests(key, past.since, past.limit)]
        _show_rows(rows, past, output, "nobody has asked for anything")


@dataclass(frozen=True, slots=True)
class Past:
    """How far back somebody looks: to a time, else only at the newest."""

    since: datetime | None

    @classmethod
    def of(cls, text: str | None) -> Past:
        """Ends the command if the text says no time."""
        if text is None:
            return cls(None)
        now = datetime.now(UTC)
        try:
            return cls(now - parse_duration(text))
        except ValueError:
            pass  # then it is a date
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            complain(f"--since {text} is no time", "as 90m, 12h, 7d, or a date: 2026-11-23, 2026-11-23T10:00Z (UTC)")
            raise typer.Exit(USAGE) from None
        return cls(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))

    @property
    def limit(self) -> int:
        return NEWEST if self.since is None else MOST


def _show_rows(rows: Sequence[Mapping[str, Any]], past: Past, output: show.Format, nothing: str) -> None:
    if output is not show.Format.TABLE:
        show.data(rows, output)
    elif rows:
        shown = [_cells(row) for row in rows]
        titles = [title for title in shown[0] if title not in MAY_BE_EMPTY or any(cells[title] for cells in shown)]
        cells_of = [tuple(escape(cells[title]) for title in titles) for cells in shown]
        show.out.print(show.table([title.upper() for title in titles], cells_of))
    else:
        show.err.print(nothing if past.since is None else f"{nothing} since {_utc(past.since)}", markup=False)
    if len(rows) >= past.limit:
        hint = " (--since)" if past.since is None else ""
        show.err.print(f"these are the newest {past.limit}; there may be more{hint}")


def _run_rows(store: SqlStore, name: str, host: str | None, past: Past) -> list[dict[str, Any]]:
    status_of(store, name)
    rows = []
    for run in store.runs(key_of(store, name), past.limit, past.since):
        own = next((child for child in run.children if child.host == host), None) if host else None
        if host and own is None:
            continue
        rows.append(
            {
                "run": run.job_id,
                "cause": run.cause.value,
                "because": run.cause_message,
                "generation": run.generation,
                "revision": run.revision,
                "commit": _commit(run.commit),
                "status": own.status.value if own else run.status.value,
                "finished": _when(own or run),
                "message": own.message if own else run.message,
            }
        )
    return rows


def _host_rows(store: SqlStore, host: str, past: Past) -> list[dict[str, Any]]:
    def row(key: JobKey, child: Child) -> dict[str, Any]:
        return {
            "batch": str(key),
            "job": child.job_id,
            "commit": _commit(child.commit),
            "status": child.status.value,
            "finished": _when(child),
            "message": child.message,
        }

    return [row(key, child) for key, child in store.host_history(host, past.since, past.limit)]


def _request_row(request: Request) -> dict[str, Any]:
    return {
        "when": _utc(request.at),
        "who": request.by,
        "what": request.kind.value,
        "source": request.key.source or None,
        "name": request.key.name or None,
        "run": request.run,
        "arguments": dict(request.arguments),
        "why": request.reason,
        "result": request.result,
        "answered": None if request.answered_at is None else _utc(request.answered_at),
    }


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
            case "source":
                cells["on"] = value or "everything"
            case "name":
                cells["on"] += f"/{value}" if value else ""
            case "arguments":
                cells[title] = " ".join(f"{key}={_plain(given)}" for key, given in value.items() if given)
            case "result":
                cells[title] = "not answered yet" if value is None else value
            case "answered":
                pass
            case _:
                cells[title] = "" if value is None else str(value)
    return cells


def _plain(given: Any) -> str:
    return ",".join(str(each) for each in given) if isinstance(given, list) else str(given)


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _when(ended: Child | Run) -> str | None:
    return None if ended.finished_at is None else _utc(ended.finished_at)
