"""Commands for before anything runs: plan, new, doctor."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reconciler import app as parts
from reconciler.cli import show
from reconciler.cli.committing import commit_only, repository_of
from reconciler.cli.markdown import markdown
from reconciler.cli.options import (
    CANNOT_TELL,
    CHANGES,
    FAILED,
    USAGE,
    Config,
    MaybeRoot,
    StateDir,
    WorkingTree,
    complain,
    is_named,
    root_of,
    said,
    warn_of_uncommitted,
)
from reconciler.cli.previews import Outlook, draw, outlook_of_change, outlook_of_plan
from reconciler.core.composing import IN_MANIFEST, Choice, Composed, compose
from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason
from reconciler.settings import Settings, load_settings

_COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


def add_to(app: typer.Typer) -> None:
    app.command()(plan)
    app.command()(new)
    app.command()(doctor)


class PlanFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    MARKDOWN = "markdown"


def plan(
    path: MaybeRoot = None,
    name: Annotated[str | None, typer.Argument(help="Only this batch.")] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="What merging the commit that is checked out into this revision would run."),
    ] = None,
    working_tree: WorkingTree = False,
    detailed: Annotated[bool, typer.Option("--detailed-exitcode", help="Exit 3 if something would run.")] = False,
    output: Annotated[
        PlanFormat, typer.Option("-o", "--output", help="table, json, yaml or markdown.")
    ] = PlanFormat.TABLE,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """What would run: which hosts, in which waves, and why. Nothing is started or written down."""
    with said():
        settings = load_settings(config, state_dir=state_dir)
        if settings.sources and path is not None and name is None and not path.is_dir():
            path, name = None, str(path)  # with no path to give, the first argument is the batch
        if against is None:
            found = _as_it_is(settings, path, name, working_tree=working_tree)
        elif working_tree:
            complain("--against compares commits, and --working-tree is about files", "give one of them")
            raise typer.Exit(USAGE)
        else:
            found = _merged(settings, path or Path(), name, against)
        _tell(found, output)
        unknown = name is not None and found.empty
        where = "here" if path is None else f"in {path}"
        if unknown:
            complain(f"there is no valid batch {name} {where}")
        elif found.empty and not found.rejected:
            show.err.print(f"there is no manifest {where}: is it the root of a source?", markup=False)
        if found.rejected or unknown:
            raise typer.Exit(USAGE)
        if not found.whole:
            raise typer.Exit(CANNOT_TELL)
        if detailed and found.runs:
            raise typer.Exit(CHANGES)


def _tell(found: Outlook, output: PlanFormat) -> None:
    if output is PlanFormat.TABLE:
        if found.about:
            show.err.print(found.about, markup=False)
        draw(found)
    elif output is PlanFormat.MARKDOWN:
        show.out.print(markdown(found), end="", markup=False)
    else:
        show.data(found.data, show.Format(output))
    for entry in found.rejected:
        first = entry.first
        show.problem(first.path, first.line, first.column, first.message, first.hint)


def _as_it_is(settings: Settings, path: Path | None, name: str | None, *, working_tree: bool) -> Outlook:
    root = root_of(settings, path)
    if root is not None:
        warn_of_uncommitted(root, working_tree=working_tree)
    store = parts.open_store(settings) if parts.has_store(settings) else None
    about = "no database there: it is assumed that nothing has run yet" if store is None else ""
    only = name.rpartition("/")[0] or None if name is not None else None
    forecast = parts.build_forecast(settings, root, store, only=only, working_tree=working_tree)
    for source, error in forecast.unread.items():
        if len(settings.sources) < 2:
            raise error
        complain(f"the source {source} can't be read: {error.message}", error.hint)
    chosen = [found for found in forecast.previews if name is None or is_named(found.key, name)]
    return outlook_of_plan(chosen, forecast.rejected, about, whole=not forecast.unread)


def _merged(settings: Settings, path: Path, name: str | None, against: str) -> Outlook:
    change = parts.build_change(settings, _there(path), against)
    return outlook_of_change(change if name is None else change.only(lambda key: is_named(key, name)))


def new(
    name: Annotated[str, typer.Argument(help="Name of the batch: a DNS label.")],
    playbook: Annotated[str, typer.Option("--playbook", help="Relative to the root of the source.")],
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Hosts that carry it; again for all of several.")
    ] = None,
    host: Annotated[list[str] | None, typer.Option("--host", help="This host; again for several, in order.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every host of the inventory.")] = False,
    inventory: Annotated[str | None, typer.Option("--inventory", help="Relative to the root of the source.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="Hosts at a time.")] = 5,
    sequential: Annotated[bool, typer.Option("--sequential", help="One host after the other, in order.")] = False,
    stop_on_failure: Annotated[bool, typer.Option("--stop-on-failure", help="No wave after a failed one.")] = False,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Write it here instead of to stdout.")] = None,
    commit: Annotated[
        bool, typer.Option("--commit", help="Commit it alone: jobs/NAME.yaml in the git repository here, or --file.")
    ] = False,
    path: Annotated[
        Path | None, typer.Option("--path", help="With --commit: the source that gets jobs/NAME.yaml.")
    ] = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Write a manifest."""
    with said():
        max_limit = load_settings(config, state_dir=state_dir).max_limit
    if path is not None and (file is not None or not commit):
        complain("--path goes with --commit, and not with --file", "--file names the whole path")
        raise typer.Exit(USAGE)
    if bool(tag or host) is everything:
        complain("say which hosts", "give --tag or --host, or --all for every host of the inventory")
        raise typer.Exit(USAGE)
    choice = Choice(
        name=name,
        playbook=playbook,
        inventory=inventory,
        tags=tuple(tag or ()),
        servers=tuple(host or ()),
        everything=everything,
        execution_strategy="sequential" if sequential else "parallel",
        concurrent_limit=limit,
        stop_on_failure=stop_on_failure,
        # fewer than two are taken for a mistake, unless the manifest says so
        min_hosts=1 if host is not None and len(host) == 1 else None,
    )
    composed = compose(choice, words=IN_MANIFEST, max_limit=max_limit)
    if not isinstance(composed, Composed):
        for misfit in composed:
            complain(misfit.message, misfit.hint)
        raise typer.Exit(USAGE)
    text = composed.text
    if commit:
        with said():
            _write_and_commit(file or _home(path) / "jobs" / f"{name}.yaml", name, text)
    elif file is None:
        show.out.print(text, end="", markup=False)
    else:
        _write(file, text)
        show.out.print(f"{file} is written; see: reconciler plan", markup=False)


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as written:
            written.write(text)
    except FileExistsError as error:
        complain(f"{file} is already there", "give another --file, or edit it")
        raise typer.Exit(USAGE) from error
    except OSError as error:
        complain(f"{file} could not be written: {error.strerror}")
        raise typer.Exit(USAGE) from error


def _home(path: Path | None) -> Path:
    """The source that a manifest is for: the one that is named, else the whole repository around."""
    return Path(os.path.relpath(repository_of(Path()))) if path is None else _there(path)


def _there(path: Path) -> Path:
    if not path.is_dir():
        raise Refused(Reason.PATH_MISSING, f"there is no directory {path}", "name the one with the manifests")
    return path


def _write_and_commit(file: Path, name: str, text: str) -> None:
    repository_of(file.parent)  # before anything is written
    _write(file, text)
    message, committed = f"Add batch {name}", None
    try:
        committed = commit_only(file, message)
    finally:
        if committed is None:
            file.unlink()
    show.out.print(f"{file} is committed as {committed}: {message}", markup=False)
    show.out.print("push it: pushed commits are picked up by the daemon", markup=False)


def doctor(path: MaybeRoot = None, config: Config = None, state_dir: StateDir = None) -> None:
    """Everything a run needs: Ansible, playbooks with their roles and collections, inventory, ssh, database, folders."""
    from reconciler.doctor import examine

    with said():
        settings = load_settings(config, state_dir=state_dir)
    worst = 0
    for finding in examine(settings, path):
        colour = _COLOURS[finding.level]
        show.out.print(f"[{colour}]{finding.level:<8}[/]", end="")
        show.out.print(f"{finding.about}: {finding.message}", markup=False)
        if finding.hint:
            show.out.print(f"        hint: {finding.hint}", markup=False)
        worst = max(worst, finding.level == "problem")
    if worst:
        raise typer.Exit(FAILED)
