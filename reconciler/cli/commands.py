"""Every command: reading its arguments, calling the parts that do the work, and saying what came of it."""

from __future__ import annotations

import getpass
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import structlog
import typer

from reconciler import __version__
from reconciler import app as parts
from reconciler.adapters.store import SqlStore
from reconciler.cli import show
from reconciler.core.errors import ReconcilerError, Refused
from reconciler.core.facts import JobKey
from reconciler.core.manifest import parse_duration
from reconciler.core.reading import Rejected, parse_manifests
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, JobStatus, Phase
from reconciler.ports import Request, RequestKind
from reconciler.settings import Settings, load_settings

app = typer.Typer(
    name="reconciler", no_args_is_help=True, help="GitOps for Ansible batches.", pretty_exceptions_enable=False
)

Config = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help="Where the state is.")]
Output = Annotated[show.Format, typer.Option("-o", "--output", help="table, json or yaml.")]
Name = Annotated[str, typer.Argument(help="NAME or SOURCE/NAME of a batch.")]

FAILED, USAGE, CANNOT_TELL, INTERRUPTED = 1, 2, 4, 130


@contextmanager
def _said() -> Iterator[None]:
    """Errors for people: what, and what to do next, on stderr."""
    try:
        yield
    except Refused as error:
        _complain(error)
        raise typer.Exit(CANNOT_TELL if error.reason.value == "StoreUnavailable" else USAGE) from error
    except ReconcilerError as error:
        _complain(error)
        raise typer.Exit(CANNOT_TELL) from error


def _complain(error: ReconcilerError) -> None:
    show.err.print(f"[red]error[/] {error.message}", markup=True)
    if error.hint:
        show.err.print(f"  hint: {error.hint}", markup=False)


@contextmanager
def _store(config: Path | None, state_dir: Path | None) -> Iterator[SqlStore]:
    with _said():
        store = parts.open_store(load_settings(config, state_dir=state_dir))
        try:
            yield store
        finally:
            store.close()


def _key(name: str) -> JobKey:
    source, _, own = name.rpartition("/")
    return JobKey(source or parts.SOURCE, own)


def _status(store: SqlStore, name: str) -> JobStatus:
    status = store.status(_key(name))
    if status is not None:
        return status
    for source in store.source_statuses():
        for entry in source.status.rejected:
            if entry.name == _key(name).name:
                show.err.print(
                    f"{entry.path}:{entry.line}:{entry.column}: {entry.message}\n  hint: {entry.hint}", markup=False
                )
                raise typer.Exit(USAGE)
    known = ", ".join(job.metadata.name for job in store.statuses()) or "none"
    show.err.print(f"there is no batch {name}; there are: {known}", markup=False)
    raise typer.Exit(USAGE)


# -- running ---------------------------------------------------------------------------------------------------------
@app.command()
def run(
    path: Annotated[Path, typer.Argument(help="The directory with the manifests.")] = Path(),
    once: Annotated[bool, typer.Option("--once", help="Until nothing is left to do, then exit.")] = False,
    listen: Annotated[str | None, typer.Option("--listen", help="HOST:PORT for metrics and health.")] = None,
    no_http: Annotated[bool, typer.Option("--no-http", help="Serve nothing.")] = False,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Run the daemon on a directory, or everything that is due, once."""
    with _said():
        http = {"listen": listen} if listen is not None else None
        settings = load_settings(config, state_dir=state_dir, http=http)
        if not path.is_dir():
            raise Refused(
                Reason.PATH_MISSING, f"there is no directory {path}", f"for one batch: reconciler trigger {path}"
            )
        _log_to_stderr(settings)
        store = parts.create_store(settings)
        with parts.only_daemon(settings):
            daemon = parts.build_daemon(settings, path, store, config)
            interrupted = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: interrupted.set())
            web = None
            if settings.http.enabled and not no_http and not once:
                web = parts.build_web_server(settings, daemon, store)
                web.start()
            daemon.start(watch=not once)
            if once:
                daemon.wait_until_rest(interrupted)
            else:
                interrupted.wait()
            daemon.stop()
            if web is not None:
                web.stop()
        if once:
            _finish_once(store, stopped=interrupted.is_set())


def _finish_once(store: SqlStore, *, stopped: bool) -> None:
    statuses = [job for job in store.statuses() if job.status.phase is not Phase.REMOVED]
    show.overview(statuses)
    rejected = [entry for source in store.source_statuses() for entry in source.status.rejected]
    for entry in rejected:
        show.err.print(f"{entry.path}:{entry.line}:{entry.column}: {entry.message}\n  hint: {entry.hint}", markup=False)
    if stopped:
        raise typer.Exit(INTERRUPTED)
    if rejected:
        raise typer.Exit(USAGE)
    unready = [job for job in statuses if not _in_order(job)]
    not_read = any(
        condition.type is ConditionType.READY and condition.status == "False"
        for source in store.source_statuses()
        for condition in source.status.conditions
    )
    if unready or not_read:
        raise typer.Exit(FAILED)


def _in_order(job: JobStatus) -> bool:
    """Neither unsuccessful nor stalled. Suspended jobs, and those nobody asked for, are in order."""
    return job.status.phase not in (Phase.FAILED, Phase.STALLED, Phase.CANCELLED, Phase.INVALID)


def _log_to_stderr(settings: Settings) -> None:
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


# -- before anything runs --------------------------------------------------------------------------------------------
@app.command()
def validate(paths: Annotated[list[Path], typer.Argument(help="Manifests, or folders of them.")]) -> None:
    """Check manifests, without any database or host."""
    problems = checked = 0
    for file in _files(paths):
        try:
            content = file.read_bytes()
        except OSError as error:
            show.err.print(f"{file}:1:1: {error.strerror}", markup=False)
            problems += 1
            continue
        for entry in parse_manifests(content, str(file)):
            checked += 1
            for problem in entry.problems if isinstance(entry, Rejected) else ():
                problems += 1
                show.err.print(f"{problem}\n  hint: {problem.hint}" if problem.hint else str(problem), markup=False)
    if problems:
        raise typer.Exit(USAGE)
    show.out.print(f"{checked} manifests are valid")


@app.command()
def plan(
    path: Annotated[Path, typer.Argument(help="The directory with the manifests.")] = Path(),
    name: Annotated[str | None, typer.Argument(help="Only this batch.")] = None,
    detailed: Annotated[bool, typer.Option("--detailed-exitcode", help="Exit 3 if something would run.")] = False,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """What would run: which hosts, in which waves, and why. Nothing is started or written down."""
    with _said():
        settings = load_settings(config, state_dir=state_dir)
        store = _store_if_there(settings)
        if store is None:
            show.err.print("no database there: it is assumed that nothing has run yet")
        previews, rejected = parts.build_preview(settings, path, store)
        chosen = [found for found in previews if name is None or found.desired.record.key == _key(name)]
        for found in chosen:
            show.preview(found.desired, found.causes, found.plan)
        for entry in rejected:
            show.err.print(f"{entry.first}\n  hint: {entry.first.hint}", markup=False)
        if name is not None and not chosen:
            show.err.print(f"there is no valid batch {name} in {path}", markup=False)
        if rejected or (name is not None and not chosen):
            raise typer.Exit(USAGE)
        if detailed and any(found.plan.actions for found in chosen):
            raise typer.Exit(3)


def _store_if_there(settings: Settings) -> SqlStore | None:
    try:
        return parts.open_store(settings)
    except Refused:
        return None


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for suffix in ("yaml", "yml") for file in path.rglob(f"*.{suffix}"))
        else:
            yield path


# -- looking ---------------------------------------------------------------------------------------------------------
@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="NAME or SOURCE/NAME; none: all.")] = None,
    output: Output = show.Format.TABLE,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """How the batches stand, or one of them with its failures and hosts."""
    with _store(config, state_dir) as store:
        if name is None:
            statuses = store.statuses()
            if output is show.Format.TABLE:
                show.overview(statuses)
            else:
                show.data([job.model_dump(mode="json", by_alias=True) for job in statuses], output)
            return
        found = _status(store, name)
        if output is show.Format.TABLE:
            show.one(found)
        else:
            show.data(found.model_dump(mode="json", by_alias=True), output)


@app.command()
def sources(output: Output = show.Format.TABLE, config: Config = None, state_dir: StateDir = None) -> None:
    """How the sources stand, and which manifests were rejected."""
    with _store(config, state_dir) as store:
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
            for entry in source.status.rejected:
                show.out.print(f"  {entry.path}:{entry.line}:{entry.column}: {entry.message}", markup=False)
                show.out.print(f"    hint: {entry.hint}", markup=False)


@app.command()
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
    with _store(config, state_dir) as store:
        named = store.run(run_id) if run_id is not None else None
        run_found = named[1] if named is not None else store.observe(_key(name)).run
        if run_found is None:
            _status(store, name)
            show.err.print(f"{name} has not run yet")
            raise typer.Exit(CANNOT_TELL)
        hosts: list[str | None] = [host]
        if failed:
            hosts = [child.host for child in run_found.children if child.status.unsuccessful]
        elif host is not None and host not in {child.host for child in run_found.children}:
            show.err.print(f"{run_found.job_id} has no host {host}", markup=False)
            raise typer.Exit(USAGE)
        seen = dict.fromkeys(hosts, 0)
        while True:
            ended = not follow or (found := store.run(run_found.job_id)) is None or not found[1].open
            for whose in hosts:
                lines = store.log(run_found.job_id, whose, attempt, seen[whose])
                if lines and failed:
                    show.out.print(f"==> {whose} <==", markup=False)
                for line in lines:
                    show.out.print(line.text, markup=False)
                    seen[whose] = line.sequence
            if ended:
                return
            time.sleep(0.5)


@app.command()
def history(
    name: Name,
    host: Annotated[str | None, typer.Option("--host", help="Only this host's part.")] = None,
    output: Output = show.Format.TABLE,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Past runs: why, of which revision, and what came of them."""
    with _store(config, state_dir) as store:
        _status(store, name)
        rows = []
        for past in store.runs(_key(name), 50):
            own = next((child for child in past.children if child.host == host), None) if host else None
            if host and own is None:
                continue
            ended = own.status.value if own else past.status.value
            message = own.message if own else past.message
            when = past.finished_at.strftime("%Y-%m-%d %H:%M:%S") if past.finished_at else ""
            rows.append((past.job_id, past.cause.value, str(past.generation), past.revision[:24], ended, when, message))
        titles = ("RUN", "CAUSE", "GENERATION", "REVISION", "STATUS", "FINISHED", "MESSAGE")
        if output is show.Format.TABLE:
            show.table(titles, [tuple(cell.replace("[", "\\[") for cell in row) for row in rows])
        else:
            show.data([dict(zip((title.lower() for title in titles), row, strict=True)) for row in rows], output)


# -- asking ----------------------------------------------------------------------------------------------------------
@app.command()
def trigger(
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the run.")] = "",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Ask for another run."""
    with _store(config, state_dir) as store:
        _status(store, name)
        _ask(store, RequestKind.TRIGGER, _key(name), None, reason)
        show.out.print(f"{name}: a run is asked for; see: reconciler status {name}", markup=False)


@app.command()
def cancel(
    name: Annotated[str | None, typer.Argument(help="NAME or SOURCE/NAME of a batch.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every run in progress.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the run.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until no process of it is left.")] = False,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """End a run in progress: what runs is ended, what waits is skipped."""
    if (name is None) != everything:
        show.err.print("name one batch, or give --all")
        raise typer.Exit(USAGE)
    with _store(config, state_dir) as store:
        names = [f"{j.metadata.source}/{j.metadata.name}" for j in store.statuses()] if name is None else [name]
        asked = []
        for each in names:
            current = store.observe(_key(each)).run
            if current is None or not current.open:
                if not everything:
                    _status(store, each)
                    show.err.print(f"{each} has no run in progress", markup=False)
                    raise typer.Exit(FAILED)
                continue
            _ask(store, RequestKind.CANCEL, _key(each), current.job_id, reason)
            asked.append(current.job_id)
            show.out.print(f"{each}: {current.job_id} is asked to end", markup=False)
        while wait and any((found := store.run(each)) is not None and found[1].open for each in asked):
            time.sleep(0.2)


def _ask(store: SqlStore, kind: RequestKind, key: JobKey, run_id: str | None, reason: str) -> None:
    by = f"{getpass.getuser()}@{os.uname().nodename}"
    store.add_request(Request(uuid.uuid4().hex, kind, key, run_id, by, reason, datetime.now(UTC)))


@app.command()
def wait(
    name: Name,
    phase: Annotated[Phase | None, typer.Option("--for", help="This phase; none: any end.")] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="As 90s, 30m, 2h.")] = "1h",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Wait until a batch has ended, or is in a phase. Exit 1 if it ended otherwise."""
    ended = (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.STALLED, Phase.REMOVED, Phase.INVALID)
    with _store(config, state_dir) as store:
        deadline = time.monotonic() + parse_duration(timeout).total_seconds()
        while True:
            found = _status(store, name).status.phase
            if found is phase or (found in ended and store.job_at_rest(_key(name))):
                show.out.print(f"{name}: {found}", markup=False)
                raise typer.Exit(0 if found is (phase or Phase.SUCCEEDED) else FAILED)
            if time.monotonic() > deadline:
                show.err.print(f"{name} is still {found} after {timeout}", markup=False)
                raise typer.Exit(CANNOT_TELL)
            time.sleep(0.2)


# -- the rest --------------------------------------------------------------------------------------------------------
db = typer.Typer(no_args_is_help=True, help="The database.")
app.add_typer(db, name="db")
settings_app = typer.Typer(no_args_is_help=True, help="The settings.")
app.add_typer(settings_app, name="config")


@db.command()
def upgrade(config: Config = None, state_dir: StateDir = None) -> None:
    """Make the database, or bring it up to date."""
    with _said():
        parts.create_store(load_settings(config, state_dir=state_dir)).close()
        current(config, state_dir)


@db.command()
def current(config: Config = None, state_dir: StateDir = None) -> None:
    """The schema of the database, and the one of this version."""
    from reconciler.adapters.store import migrate

    with _store(config, state_dir) as store:
        show.out.print(f"{migrate.current(store.url)} (this version: {migrate.head()})")


@settings_app.command("show")
def config_show(config: Config = None, state_dir: StateDir = None) -> None:
    """The settings in force, wherever they came from."""
    with _said():
        settings = load_settings(config, state_dir=state_dir)
        show.data(settings.model_dump(mode="json"), show.Format.YAML)


@app.command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def worker(context: typer.Context) -> None:
    """The process of one slice; started by the daemon."""
    from reconciler.worker import main

    raise typer.Exit(main(context.args))


@app.command()
def specs(
    folder: Annotated[Path, typer.Argument(help="Where they are.")] = Path("specs"),
    check: Annotated[bool, typer.Option("--check", help="Only say which are stale; exit 1 if any.")] = False,
) -> None:
    """Write the published contracts."""
    from reconciler import specs as contracts

    if not check:
        contracts.write(folder)
        return
    stale = contracts.stale(folder)
    for name in stale:
        show.err.print(f"{folder / name} is stale; run: reconciler specs", markup=False)
    if stale:
        raise typer.Exit(FAILED)


@app.command()
def version() -> None:
    """The version."""
    show.out.print(__version__)
