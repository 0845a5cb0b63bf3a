"""What all commands share: their options, their exit codes, and how errors are told."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import structlog
import typer

from reconciler import app as parts
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

FAILED, USAGE, CHANGES, CANNOT_TELL, INTERRUPTED = 1, 2, 3, 4, 130


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


def key_of(name: str) -> JobKey:
    source, _, own = name.rpartition("/")
    return JobKey(source or parts.SOURCE, own)


def status_of(store: SqlStore, name: str) -> JobStatus:
    """The status of a batch; none: says which there are, and ends the command."""
    status = store.status(key_of(name))
    if status is not None:
        return status
    known = ", ".join(job.metadata.name for job in store.statuses()) or "none"
    complain(f"there is no batch {name}", f"there are: {known}")
    raise typer.Exit(USAGE)


def log_to_stderr(settings: Settings, *, quiet: bool) -> None:
    """The log is for the daemon's operator. Who waits for `run --once` sees its progress instead, unless a level is
    set."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    if quiet and "log_level" not in settings.model_fields_set:
        level = logging.WARNING
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
