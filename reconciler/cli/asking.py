"""Commands that ask for something: trigger, cancel, wait."""

from __future__ import annotations

import getpass
import os
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from reconciler import app as parts
from reconciler.adapters.store import SqlStore
from reconciler.cli import show
from reconciler.cli.options import (
    CANNOT_TELL,
    FAILED,
    USAGE,
    Config,
    Name,
    StateDir,
    complain,
    key_of,
    log_to_stderr,
    opened,
    status_of,
)
from reconciler.core.errors import Refused
from reconciler.core.facts import JobKey
from reconciler.core.manifest import parse_duration
from reconciler.core.status import JobStatus, Phase
from reconciler.ports import Request, RequestKind
from reconciler.settings import Settings

ENDED = (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.STALLED, Phase.REMOVED, Phase.INVALID)

POLL = 0.2
"""Seconds between two looks at the database."""


def add_to(app: typer.Typer) -> None:
    app.command()(trigger)
    app.command()(cancel)
    app.command()(wait)


def trigger(
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the run.")] = "",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Ask for another run."""
    with opened(config, state_dir) as (store, settings):
        body = status_of(store, name).status
        if body.phase in (Phase.INVALID, Phase.REMOVED):
            complain(f"{name} has no valid manifest", f"see: reconciler status {name}")
            raise typer.Exit(USAGE)
        _ask(store, RequestKind.TRIGGER, key_of(store, name), None, reason)
        then = f"see: reconciler status {name}"
        if not parts.daemon_runs(settings):
            then = "no daemon runs here; it is done by the next: reconciler run"
        if body.suspended:
            then = f"it is suspended, and runs once its manifest says so no more; {then}"
        elif (current := store.observe(key_of(store, name)).run) is not None and current.open:
            then = f"it begins when the run in progress has ended; {then}"
        show.out.print(f"{name}: a run is asked for; {then}", markup=False)


def cancel(
    name: Annotated[str | None, typer.Argument(help="NAME or SOURCE/NAME of a batch.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every run in progress.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the run.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until the run has ended.")] = False,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """End a run in progress: what runs is ended, what waits is skipped. Works without a daemon too."""
    if (name is None) != everything:
        complain("name one batch, or give --all")
        raise typer.Exit(USAGE)
    with opened(config, state_dir) as (store, settings):
        names = [f"{job.metadata.source}/{job.metadata.name}" for job in store.statuses()] if name is None else [name]
        asked: dict[JobKey, str] = {}
        for each in names:
            observed = store.observe(key_of(store, each))
            current = observed.run
            if current is not None and current.open:
                _ask(store, RequestKind.CANCEL, key_of(store, each), current.job_id, reason)
                asked[key_of(store, each)] = current.job_id
                show.out.print(f"{each}: {current.job_id} is asked to end", markup=False)
                if waiting := [cause.message for cause in observed.causes]:
                    show.out.print(f"  another run begins after it: {'; '.join(waiting)}", markup=False)
            elif not everything:
                status_of(store, each)
                complain(f"{each} has no run in progress")
                raise typer.Exit(FAILED)
        if asked and not parts.daemon_runs(settings):
            _see_to_the_end(settings, store, config, tuple(asked))
        while wait and any((found := store.run(run)) is not None and found[1].open for run in asked.values()):
            time.sleep(POLL)


def _see_to_the_end(settings: Settings, store: SqlStore, config: Path | None, keys: Sequence[JobKey]) -> None:
    """With no daemon there is nobody else to end what lost its process, and to say how the run ended."""
    log_to_stderr(settings, quiet=True)
    try:
        with parts.only_daemon(settings):
            daemon = parts.build_daemon(settings, (), store, config).daemon
            daemon.drain()
            daemon.start(once=True)
            for key in keys:
                daemon.queue.add(key)
            while not daemon.rested(POLL):
                pass
            daemon.stop()
    except Refused:
        return  # one has started in the meantime


def _ask(store: SqlStore, kind: RequestKind, key: JobKey, run_id: str | None, reason: str) -> None:
    store.add_request(Request(uuid.uuid4().hex, kind, key, run_id, who(), reason, datetime.now(UTC)))


def who() -> str:
    """Who asks, for the record: user and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without an entry, as containers have them
        user = f"uid-{os.getuid()}"
    return f"{user}@{os.uname().nodename}"


def wait(
    name: Name,
    phase: Annotated[Phase | None, typer.Option("--for", help="This phase; none: any end.")] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help="Not before the source was seen at this revision; its start will do."),
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="As 90s, 30m, 2h.")] = "1h",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Wait until a batch has ended, or is in a phase. Exit 1 if it ended otherwise, 4 when the time is over."""
    try:
        patience = parse_duration(timeout).total_seconds()
    except ValueError as error:
        complain(f"--timeout {timeout}: {error}")
        raise typer.Exit(USAGE) from error
    with opened(config, state_dir) as (store, _):
        deadline = time.monotonic() + patience
        key = key_of(store, name)
        while True:
            job = status_of(store, str(key))
            found, seen = job.status.phase, revision is None or _is_at(job, revision)
            if seen and (found is phase or (found in ENDED and _has_ended(store, key, job))):
                show.out.print(f"{name}: {found}", markup=False)
                raise typer.Exit(0 if found is (phase or Phase.SUCCEEDED) else FAILED)
            if time.monotonic() > deadline:
                still = f"{name} is still {found}" if seen else f"{name} was last seen at {job.status.revision}"
                complain(f"{still} after {timeout}")
                raise typer.Exit(CANNOT_TELL)
            time.sleep(POLL)


def _is_at(job: JobStatus, revision: str) -> bool:
    """Whether the whole revision, or its digest, begins so."""
    known = job.status.revision
    return bool(revision) and any(part.startswith(revision) for part in (known, known.rpartition(":")[2]))


def _has_ended(store: SqlStore, key: JobKey, job: JobStatus) -> bool:
    """Whether what the status says is the end of it, and not of what was before. A job that stalls, or is gone from its
    source, does not rest as long as something asks for a run that can't start."""
    record = store.manifest(key)
    if record is None:
        return True
    current = job.status.observed_generation == record.generation
    return current and (job.status.phase in (Phase.STALLED, Phase.REMOVED, Phase.INVALID) or store.job_at_rest(key))
