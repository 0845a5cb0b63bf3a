"""Commands about the database: db upgrade, current, backup, restore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler import app as parts
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store.database import current_schema
from reconciler.cli import show
from reconciler.cli.asking import who
from reconciler.cli.options import Config, StateDir, said
from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason
from reconciler.settings import load_settings

if TYPE_CHECKING:
    from reconciler.adapters.store.restore import Asked, Restored

db = typer.Typer(no_args_is_help=True, help="The database.")

FEW = 10
"""Lines of one kind that are shown of many."""


def add_to(app: typer.Typer) -> None:
    app.add_typer(db, name="db")


@db.command()
def upgrade(config: Config = None, state_dir: StateDir = None) -> None:
    """Make the tables, or bring them up to date; an SQLite database is made where there is none."""
    with said():
        parts.create_store(load_settings(config, state_dir=state_dir)).close()
    current(config, state_dir)


@db.command()
def current(config: Config = None, state_dir: StateDir = None) -> None:
    """The schema of the database, and the one of this version."""
    from reconciler.adapters.store import migrate

    with said():
        settings = load_settings(config, state_dir=state_dir)
        found = current_schema(settings.url)
        if found is None:
            parts.open_store(settings).close()  # says which place was looked at
        show.out.print(f"{found} (this version: {migrate.head()})")


@db.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where to; one that is there is replaced.")],
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Write all that is in the database to a file, as it is at this moment, whoever works meanwhile."""
    from reconciler.adapters.store.backup import write_backup

    with said():
        settings = load_settings(config, state_dir=state_dir)
        rows = write_backup(settings.url, file, SystemClock().now())
        show.out.print(f"{file} has {rows} rows in {file.stat().st_size} bytes", markup=False)


@db.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `db backup` wrote, of whatever kind of database.")],
    replace: Annotated[bool, typer.Option("--replace", help="Give up what the database has.")] = False,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Make the database of a backup again. It comes up paused, and says what will run once it is resumed."""
    from reconciler.adapters.store.restore import restore as make_of

    with said():
        settings = load_settings(config, state_dir=state_dir)
        parts.make_state_dir(settings)
        if (process := parts.daemon_process(settings)) is not None:
            why = f"a daemon (process {process}) works with the database that is to be replaced"
            raise Refused(Reason.SETTINGS_INVALID, why, "stop it first: reconciler drain, or systemctl stop reconciler")
        with parts.only_daemon(settings):
            _tell(make_of(settings.url, file, who(), SystemClock().now(), replace=replace))


def _tell(restored: Restored) -> None:
    show.out.print(f"restored as it was at {restored.made_at:%Y-%m-%d %H:%M:%S %Z}; everything is paused", markup=False)
    runs = []
    for run in restored.runs:
        counts = [f"{len(run.pending)} to run"] if run.pending else []
        counts += [f"{len(run.running)} at work when it was backed up"] if run.running else []
        names = [*run.pending, *run.running]
        hosts = f" ({', '.join(names[:FEW])}{', …' if len(names) > FEW else ''})" if names else ""
        runs.append(f"{run.key} {run.job_id}: {', '.join(counts) or 'all its hosts are done'}{hosts}")
    _list("once it is resumed, these runs go on:", runs)
    _list("these begin:", _asked(restored.causes))
    _list("and these requests are answered:", _asked(restored.requests))
    if not (restored.runs or restored.causes or restored.requests):
        show.out.print("nothing would run that was not asked for since")
    show.out.print("  next: `reconciler plan` says what would run, and `reconciler resume` lets it")


def _asked(entries: Sequence[Asked]) -> list[str]:
    return [f"{each.key} {each.what}: {each.why}" for each in entries]


def _list(title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    show.out.print(title)
    for each in lines[:FEW]:
        show.out.print(f"  {each}", markup=False)
    if len(lines) > FEW:
        show.out.print(f"  and {len(lines) - FEW} more")
