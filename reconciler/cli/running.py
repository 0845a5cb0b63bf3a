"""`reconciler run`: the daemon, or everything that is due, once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from reconciler import __version__
from reconciler import app as parts
from reconciler.adapters.store import SqlStore
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
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, JobStatus, Phase
from reconciler.settings import load_settings

if TYPE_CHECKING:
    from reconciler.engine.daemon import Daemon

log = structlog.get_logger()

STOPPING, LEAVING = 30.0, 1.0
"""Seconds for looks in progress: whatever is cut off is found again, so that who is in a hurry need not wait."""

POLL = 0.25
"""Seconds between two looks at what a person wants and what has come of the work."""


def add_to(app: typer.Typer) -> None:
    app.command()(run)


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
    end at once; what runs goes on by itself, and the next start finds it again.
    """
    with said():
        http = {"listen": listen} if listen is not None else None
        settings = load_settings(config, state_dir=state_dir, http=http)
        root = root_of(settings, path)
        log_to_stderr(settings, quiet=once)
        if root is not None:
            parts.keep_apart(settings, root)
            warn_of_uncommitted(root, working_tree=working_tree)
        store = parts.create_store(settings)
        interrupts = Interrupts()
        interrupts.catch()
        with parts.only_daemon(settings):
            built = parts.build_sources(settings, root, store, working_tree=working_tree)
            running = parts.build_daemon(settings, built, store, config)
            daemon = running.daemon
            interrupts.at_once = daemon.drain
            web = None
            if settings.http.enabled and not no_http and not once:
                web = parts.build_web_server(settings, running, store, built)
                web.start()
            if not once:
                log.info(
                    "daemon_started",
                    version=__version__,
                    sources=", ".join(str(each) for each in built),
                    state=str(settings.state_dir),
                    port="none" if web is None else web.server.port,
                )
            with progress_to(show.out if once else None, store) as progress:
                running.start(once=once)
                _go_on(daemon, interrupts, progress, once=once)
            if once and not interrupts.any:
                daemon.trim()
            running.stop(LEAVING if interrupts.leave else STOPPING)
            if web is not None:
                web.stop()
        if once:
            _sum_up(store, daemon, interrupted=interrupts.any)
            return
        log.info("daemon_stopped")
        if interrupts.count:
            raise typer.Exit(INTERRUPTED)


class Interrupts:
    """What a person at the keyboard, or a service manager, wants of this process."""

    def __init__(self) -> None:
        self.count = 0
        self.terminated = False
        self.at_once: Callable[[], None] = lambda: None
        """What a signal does before anybody gets round to heeding it. It interrupts whatever the main thread does."""

    def catch(self) -> None:
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._terminate)

    @property
    def any(self) -> bool:
        return self.terminated or self.count > 0

    @property
    def leave(self) -> bool:
        return self.terminated or self.count > 2

    def _interrupt(self, *_: object) -> None:
        self.count += 1
        self.at_once()

    def _terminate(self, *_: object) -> None:
        self.terminated = True
        self.at_once()


def _go_on(daemon: Daemon, interrupts: Interrupts, progress: Progress, *, once: bool) -> None:
    """Until rest (`once`, or after Ctrl-C), or until told to leave."""
    heeded = 0
    while not interrupts.leave:
        if interrupts.count > heeded:
            heeded = interrupts.count
            if heeded == 1:
                show.err.print("nothing more is started; what runs is waited for (Ctrl-C again cancels it)")
            else:
                daemon.cancel_everything(who(), "interrupted")
                show.err.print("what runs is cancelled (Ctrl-C again leaves at once)")
        if not once and interrupts.count == 0:
            time.sleep(POLL)
        elif daemon.rested(POLL):
            break
        progress.update()
    progress.update()


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
