"""Commands about reconciler itself: config, specs, version, and the process of a slice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reconciler import __version__
from reconciler.cli import show
from reconciler.cli.options import FAILED, Config, StateDir, said
from reconciler.settings import load_settings

settings_app = typer.Typer(no_args_is_help=True, help="The settings.")


def add_to(app: typer.Typer) -> None:
    app.add_typer(settings_app, name="config")
    app.command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(worker)
    app.command()(specs)
    app.command()(version)


def _tell_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


def reconciler(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """GitOps for Ansible batches."""


@settings_app.command("show")
def config_show(config: Config = None, state_dir: StateDir = None) -> None:
    """The settings in force, wherever they came from."""
    with said():
        settings = load_settings(config, state_dir=state_dir)
        show.data(settings.model_dump(mode="json"), show.Format.YAML)


def worker(context: typer.Context) -> None:
    """The process of one slice; started by the daemon."""
    from reconciler.worker import main

    raise typer.Exit(main(context.args))


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


def version() -> None:
    """The version."""
    show.out.print(__version__)
