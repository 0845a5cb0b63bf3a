"""Commands for before anything runs: plan, new, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from reconciler import app as parts
from reconciler.adapters.store import SqlStore
from reconciler.cli import show
from reconciler.cli.options import (
    CHANGES,
    FAILED,
    USAGE,
    Config,
    Output,
    Root,
    StateDir,
    complain,
    key_of,
    said,
)
from reconciler.core.errors import Refused
from reconciler.core.reading import Rejected, parse_manifests
from reconciler.core.reasons import Reason
from reconciler.settings import Settings, load_settings

_COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


def add_to(app: typer.Typer) -> None:
    app.command()(plan)
    app.command()(new)
    app.command()(doctor)


def plan(
    path: Root = Path(),
    name: Annotated[str | None, typer.Argument(help="Only this batch.")] = None,
    detailed: Annotated[bool, typer.Option("--detailed-exitcode", help="Exit 3 if something would run.")] = False,
    output: Output = show.Format.TABLE,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """What would run: which hosts, in which waves, and why. Nothing is started or written down."""
    with said():
        settings = load_settings(config, state_dir=state_dir)
        if not path.is_dir():
            raise Refused(Reason.PATH_MISSING, f"there is no directory {path}", "name the one with the manifests")
        store = _store_if_there(settings)
        if store is None:
            show.err.print("no database there: it is assumed that nothing has run yet")
        previews, rejected = parts.build_preview(settings, path, store)
        chosen = [found for found in previews if name is None or found.desired.record.key == key_of(name)]
        if output is show.Format.TABLE:
            for found in chosen:
                show.preview(found.desired, found.causes, found.plan)
        else:
            show.data([show.preview_data(found.desired, found.causes, found.plan) for found in chosen], output)
        for entry in rejected:
            first = entry.first
            show.problem(first.path, first.line, first.column, first.message, first.hint)
        if name is not None and not chosen:
            complain(f"there is no valid batch {name} in {path}")
        if rejected or (name is not None and not chosen):
            raise typer.Exit(USAGE)
        if detailed and any(found.plan.actions for found in chosen):
            raise typer.Exit(CHANGES)


def _store_if_there(settings: Settings) -> SqlStore | None:
    return parts.open_store(settings) if parts.has_store(settings) else None


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
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Write a manifest."""
    with said():
        max_limit = load_settings(config, state_dir=state_dir).max_limit
    spec: dict[str, Any] = {"playbook": playbook}
    if inventory is not None:
        spec["inventory"] = inventory
    selector: dict[str, Any] = {key: list(value) for key, value in (("tags", tag), ("hosts", host)) if value}
    if bool(selector) is everything:
        complain("say which hosts", "give --tag or --host, or --all for every host of the inventory")
        raise typer.Exit(USAGE)
    spec["selector"] = selector or {"all": True}
    if host is not None and len(host) == 1:
        spec["minHosts"] = 1  # fewer than two are taken for a mistake, unless the manifest says so
    spec |= {"strategy": "sequential" if sequential else "parallel", "limit": limit, "stopOnFailure": stop_on_failure}
    manifest = {"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": {"name": name}, "spec": spec}
    text = yaml.safe_dump(manifest, sort_keys=False)
    for entry in parse_manifests(text.encode(), str(file or "manifest"), max_limit):
        if isinstance(entry, Rejected):
            for problem in entry.problems:
                complain(problem.message, problem.hint)
            raise typer.Exit(USAGE)
    if file is None:
        show.out.print(text, end="", markup=False)
        return
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
    show.out.print(f"{file} is written; see: reconciler plan", markup=False)


def doctor(path: Root = Path(), config: Config = None, state_dir: StateDir = None) -> None:
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
