"""`reconciler run`: the daemon, or everything that is due, once; and `reconciler drain`, which ends it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from reconciler import app as parts
from reconciler.adapters.servicemanager import ServiceManager
from reconciler.adapters.store import SqlStore
from reconciler.adapters.store.database import SCHEMAS, current_schema
from reconciler.cli import show
from reconciler.cli.asking import who
from reconciler.cli.options import (
    CANNOT_TELL,
    FAILED,
    INTERRUPTED,
    USAGE,
    Config,
    MaybeRoot,
    StateDir,
    WorkingTree,
    complain,
    log_to_stderr,
    root_of,
    said,
    warn_of_uncommitted,
)
from reconciler.cli.progress import Progress, progress_to
from reconciler.cli.serving import LEAVING, POLL, STOPPING, Asked, Serving
from reconciler.cli.signals import Signals
from reconciler.core.errors import ReconcilerError
from reconciler.core.manifest import parse_duration
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, JobStatus, Phase
from reconciler.settings import Settings, load_settings

if TYPE_CHECKING:
    from reconciler.engine.daemon import Daemon


log = structlog.get_logger()


def add_to(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(drain)


def run(
    path: MaybeRoot = None,
    once: Annotated[bool, typer.Option("--once", help="Until nothing is left to do, then exit.")] = False,
    listen: Annotated[str | None, typer.Option("--listen", help="HOST:PORT for metrics and health.")] = None,
    no_http: Annotated[bool, typer.Option("--no-http", help="Serve nothing.")] = False,
    working_tree: WorkingTree = False,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Run the daemon, or everything that is due, once: on a git repository's committed state, on a directory, or (with
    no path) on the sources of the settings.

    Ctrl-C: nothing more is started, and what runs is waited for. Again: what runs is cancelled. A third time, or TERM:
    end at once; what runs goes on by itself, and the next start finds it again. TERM twice: what runs is cancelled, too.
    HUP: the settings are read again.
    """
    manager = ServiceManager(os.environ)
    with said():
        flags = (("state_dir", state_dir), ("http", {"listen": listen} if listen is not None else None))
        asked = Asked(path, working_tree, config, flags, http=not no_http)
        settings = asked.settings()
        root = root_of(settings, path)
        log_to_stderr(settings, quiet=once)
        if root is not None:
            parts.keep_apart(settings, root)
            warn_of_uncommitted(root, working_tree=working_tree)
        store = _store(settings)
        signals = Signals()
        signals.catch()
        if once:
            _run_once(asked, settings, store, signals)
            return
        signals.catch_hangups()
        with parts.daemon_of(settings, store, config) as process:
            Serving(asked, settings, process, signals, manager).run()
        if signals.interrupts:
            raise typer.Exit(INTERRUPTED)


def _store(settings: Settings) -> SqlStore:
    """Made or brought up to date, which the log tells: other daemons may be at work on it."""
    was = current_schema(settings.url)
    store = parts.create_store(settings)
    if was not in (None, SCHEMAS[-1]):
        log.info("database_upgraded", was=was, now=SCHEMAS[-1])
    return store


def _run_once(asked: Asked, settings: Settings, store: SqlStore, signals: Signals) -> None:
    with parts.daemon_of(settings, store, asked.config) as process:
        root = root_of(settings, asked.path)
        built = parts.build_sources(settings, root, store, working_tree=asked.working_tree)
        lead = process.lead_or_give_up(lambda: signals.any)
        if lead is None:
            raise _does_not_lead(process, signals)
        running = process.build(settings, built, lead)
        daemon = running.daemon
        signals.at_once = daemon.drain
        if signals.any:
            daemon.drain()
        with progress_to(show.out, store) as progress:
            running.start(once=True)
            led = _go_on(daemon, process, lead.fence, signals, progress)
        if led and not signals.any:
            daemon.trim()
        running.stop(LEAVING if signals.leave else STOPPING)
        if not led:
            raise _does_not_lead(process, signals)
    _sum_up(store, daemon, interrupted=signals.any)


def _does_not_lead(process: parts.DaemonProcess, signals: Signals) -> typer.Exit:
    if signals.any:
        return typer.Exit(INTERRUPTED)
    leader = process.leadership.leader
    complain(
        f"another daemon leads: {leader}" if leader else "who leads could not be seen",
        "it does what is due: see `reconciler status`" if leader else "see whether the database answers",
    )
    return typer.Exit(CANNOT_TELL)


def _go_on(daemon: Daemon, process: parts.DaemonProcess, fence: int, signals: Signals, progress: Progress) -> bool:
    """Until rest, or until told to leave. False: another daemon has come to lead."""
    heeded = 0
    while not signals.leave:
        if signals.interrupts > heeded:
            heeded = signals.interrupts
            if heeded == 1:
                show.err.print("nothing more is started; what runs is waited for (Ctrl-C again cancels it)")
            else:
                daemon.cancel_everything(who(), "interrupted")
                show.err.print("what runs is cancelled (Ctrl-C again leaves at once)")
        lead = process.leadership.lead
        if lead is None or lead.fence != fence:
            return False
        if daemon.rested(POLL):
            break
        progress.update()
    progress.update()
    return True


def _sum_up(store: SqlStore, daemon: Daemon, *, interrupted: bool) -> None:
    statuses = [job for job in store.statuses() if job.status.phase is not Phase.REMOVED]
    show.out.print(show.overview(statuses))
    sources = store.source_statuses()
    rejected = [entry for source in sources for entry in source.status.rejected]
    for entry in rejected:
        show.problem(entry.path, entry.line, entry.column, entry.message, entry.hint)
    problems = daemon.problems()
    for message in problems:
        complain(message)
    failures = daemon.failures()
    for key, failed in sorted(failures.items()):
        complain(f"{key} could not be looked at ({failed.times} times): {failed.message}")
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if rejected:
        raise typer.Exit(USAGE)
    if failures or any(error.reason is Reason.STORE_UNAVAILABLE for error in daemon.unsynced().values()):
        raise typer.Exit(CANNOT_TELL)
    if problems or not all(_in_order(job) for job in statuses):
        raise typer.Exit(FAILED)


def _in_order(job: JobStatus) -> bool:
    """Neither unsuccessful nor stalled, nor kept from its work by something outside. Suspended jobs, and those nobody
    asked for, are in order."""
    if any(condition.type is ConditionType.RECONCILING for condition in job.status.conditions):
        return False
    return job.status.phase not in (Phase.FAILED, Phase.STALLED, Phase.CANCELLED, Phase.INVALID)


def drain(
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Only ask for it.")] = False,
    timeout: Annotated[str | None, typer.Option("--timeout", help="How long to wait, as 90s, 30m, 2h.")] = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Have the daemon of this state directory start nothing more, finish what runs, and exit. A standby exits at once.
    Exit 4 when the time is over: it goes on draining."""
    try:
        patience = parse_duration(timeout).total_seconds() if timeout is not None else None
    except ValueError as error:
        complain(f"--timeout {timeout}: {error}")
        raise typer.Exit(USAGE) from error
    with said():
        settings = load_settings(config, state_dir=state_dir)
        pid = parts.signal_daemon(settings, signal.SIGUSR1)
        if pid is None:
            show.out.print(f"no daemon runs on {settings.state_dir}", markup=False)
            return
        show.out.print(
            f"the daemon (process {pid}) starts nothing more, and ends when what runs has ended", markup=False
        )
        if not no_wait:
            _wait_for_the_end(settings, pid, patience)


def _wait_for_the_end(settings: Settings, pid: int, patience: float | None) -> None:
    deadline = None if patience is None else time.monotonic() + patience
    told, store = "", parts.open_store(settings)
    while parts.daemon_process(settings) == pid:
        waits_for = _what_runs(store)
        if waits_for and waits_for != told:
            told = waits_for
            show.out.print(f"waits for {waits_for}", markup=False)
        if deadline is not None and time.monotonic() > deadline:
            complain("it has not ended yet" + (f": it waits for {told}" if told else ""), "it goes on draining")
            raise typer.Exit(CANNOT_TELL)
        time.sleep(POLL)
    show.out.print("it has ended", markup=False)


def _what_runs(store: SqlStore) -> str:
    """Empty: nothing, or it can't be told now."""
    try:
        hosts: Counter[str] = Counter()
        for part in store.open_slices():
            key = store.key_of_run(part.run)
            hosts[show.name_of(key.source, key.name) if key is not None else part.run] += len(part.hosts)
    except ReconcilerError:
        return ""
    return ", ".join(f"{name} ({count} host{'' if count == 1 else 's'})" for name, count in sorted(hosts.items()))
