"""What all commands share: their options, their exit codes, and how errors are told."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO, cast

import structlog
import typer

from reconciler import app as parts
from reconciler import sources
from reconciler.adapters.store import SqlStore
from reconciler.cli import show
from reconciler.core.errors import ReconcilerError, Refused
from reconciler.core.facts import JobKey
from reconciler.core.reasons import Reason
from reconciler.core.status import JobStatus
from reconciler.settings import Settings, load_settings

Config = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help="Where the state is.")]
Output = Annotated[show.Format, typer.Option("-o", "--output", help="table, json or yaml.")]
Name = Annotated[str, typer.Argument(help="NAME or SOURCE/NAME of a batch.")]
Root = Annotated[Path, typer.Argument(help="The directory with the manifests.")]

MaybeRoot = Annotated[
    Path | None,
    typer.Argument(
        help="A git repository or a directory with manifests; none: the sources of the settings, else here."
    ),
]
WorkingTree = Annotated[
    bool, typer.Option("--working-tree", help="Of a git repository the files as they lie there, committed or not.")
]

FAILED, USAGE, CHANGES, CANNOT_TELL, INTERRUPTED = 1, 2, 3, 4, 130


REASON_MOST = 4000
"""Characters of a reason that are kept."""


def bounded(reason: str) -> str:
    """Ends the command if the end of it would be lost."""
    if len(reason) > REASON_MOST:
        complain(f"--reason has {len(reason)} characters", f"give at most {REASON_MOST}, and a link to the rest")
        raise typer.Exit(USAGE)
    return reason


Why = Annotated[str, typer.Option("--reason", help="Why; kept for audits.", callback=bounded)]


@contextmanager
def said() -> Iterator[None]:
    """Errors for people: what, and what to do next, on stderr."""
    try:
        yield
    except Refused as error:
        complain(error.message, error.hint)
        raise typer.Exit(CANNOT_TELL if error.reason is Reason.STORE_UNAVAILABLE else USAGE) from error
    except ReconcilerError as error:
        complain(error.message, error.hint)
        raise typer.Exit(CANNOT_TELL) from error


def complain(message: str, hint: str = "") -> None:
    show.err.print("[red]error[/] ", end="")
    show.err.print(message, markup=False)
    if hint:
        show.err.print(f"  hint: {hint}", markup=False)


@contextmanager
def opened(config: Path | None, state_dir: Path | None) -> Iterator[tuple[SqlStore, Settings]]:
    """The database that is there, and the settings it was found by."""
    with said():
        settings = load_settings(config, state_dir=state_dir)
        store = parts.open_store(settings)
        try:
            yield store, settings
        finally:
            store.close()


def root_of(settings: Settings, path: Path | None) -> Path | None:
    """The directory that is meant; None: the sources of the settings. Raises Refused."""
    if path is None and settings.sources:
        return None
    root = Path() if path is None else path
    if not root.is_dir():
        raise Refused(
            Reason.PATH_MISSING,
            f"there is no directory {root}",
            f"name the one with the manifests; for one batch: reconciler trigger {root}",
        )
    if settings.sources:
        names = ", ".join(source.name for source in settings.sources)
        raise Refused(
            Reason.SETTINGS_INVALID,
            f"the settings name sources ({names}), and the command line the directory {root}: which is meant?",
            "leave the directory out, or give a --config without sources",
        )
    return root


def warn_of_uncommitted(root: Path, *, working_tree: bool) -> None:
    """Who works in a repository may wonder why an edit has no effect."""
    if not working_tree and sources.is_repository(root) and (count := sources.uncommitted(root)):
        what = "1 uncommitted file counts" if count == 1 else f"{count} uncommitted files count"
        show.err.print(f"warning: {what} for nothing: what is committed runs (--working-tree takes files as they are)")


def key_of(store: SqlStore, name: str) -> JobKey:
    """The batch that is meant by NAME or SOURCE/NAME: NAME alone is that of the source `default`, else of the
    only one that has it. Raises Refused if several have."""
    source, _, own = name.rpartition("/")
    if source:
        return JobKey(source, own)
    if store.status(JobKey(sources.DEFAULT, own)) is not None:
        return JobKey(sources.DEFAULT, own)
    there = {job.metadata.source for job in store.statuses() if job.metadata.name == own}
    if len(there) > 1:
        raise Refused(
            Reason.SETTINGS_INVALID,
            f"several sources have a batch {own}",
            f"name one: {', '.join(f'{each}/{own}' for each in sorted(there))}",
        )
    return JobKey(next(iter(there), sources.DEFAULT), own)


def is_named(key: JobKey, name: str) -> bool:
    """Whether NAME or SOURCE/NAME can mean this batch."""
    return name in (key.name, str(key))


def status_of(store: SqlStore, name: str) -> JobStatus:
    """The status of a batch; none: says which there are, and ends the command."""
    status = store.status(key_of(store, name))
    if status is not None:
        return status
    known = ", ".join(show.name_of(job.metadata.source, job.metadata.name) for job in store.statuses()) or "none"
    complain(f"there is no batch {name}", f"there are: {known}")
    raise typer.Exit(USAGE)


def log_to_stderr(settings: Settings, *, quiet: bool) -> None:
    """The log is for the daemon's operator. Who waits for `run --once` sees its progress instead, unless a level is
    set."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    if quiet and "log_level" not in settings.model_fields_set:
        level = logging.WARNING
    log = cast(TextIO, _Log())
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=lambda *_: structlog.PrintLogger(log),
        cache_logger_on_first_use=False,
    )


class _Log:
    """stderr, for a log: a disk that is full, or a terminal that has gone away, must not end what it would tell of."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
