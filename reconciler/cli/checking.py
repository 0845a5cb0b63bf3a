"""Commands for before anything runs: validate, plan, new, doctor."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
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
from reconciler.core.planning import Blocked, unanswered_prompt
from reconciler.core.playbook import Listing, inspect_playbook
from reconciler.core.reading import Parsed, Rejected, parse_manifests
from reconciler.core.reasons import Reason
from reconciler.engine.catalogue import glob_pattern
from reconciler.engine.resolve import blocked_by
from reconciler.settings import Settings, load_settings

_COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


def add_to(app: typer.Typer) -> None:
    app.command()(validate)
    app.command()(plan)
    app.command()(new)
    app.command()(doctor)


def validate(
    paths: Annotated[list[Path], typer.Argument(help="Manifests, or folders of them.")],
    output: Output = show.Format.TABLE,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Check manifests, and what can be seen of their playbooks; without Ansible, any database or host."""
    with said():
        settings = load_settings(config, state_dir=state_dir)
    problems: list[dict[str, Any]] = []
    warnings: list[str] = []
    names: dict[str, str] = {}
    checked = 0
    globs = tuple(glob_pattern(glob) for glob in settings.manifests)
    playbooks = _Playbooks(globs)
    for file in _files(paths, globs):
        content = _content(file)
        if isinstance(content, str):
            problems.append(_problem(str(file), 1, 1, content, "see whether it is there, and its permissions"))
            continue
        for entry in parse_manifests(content, str(file), settings.max_limit):
            checked += 1
            if isinstance(entry, Rejected):
                problems += [_problem(p.path, p.line, p.column, p.message, p.hint) for p in entry.problems]
                continue
            name, here = entry.job.metadata.name, f"{file}:{entry.line}"
            earlier = names.setdefault(name, here)
            if earlier != here:
                text = f"the name {name} is taken by {earlier}"
                problems.append(_problem(str(file), entry.line, 1, text, "names are unique in a source"))
            found = playbooks.look(entry, file)
            if isinstance(found, Blocked):
                problems.append(_problem(str(file), entry.line, 1, found.message, found.hint))
            else:
                warnings += [f"{file}:{entry.line}:1: {warning}" for warning in found]
    if output is not show.Format.TABLE:
        show.data({"checked": checked, "problems": problems, "warnings": warnings}, output)
    else:
        for problem in problems:
            show.problem(**problem)
        for warning in dict.fromkeys(warnings):
            show.err.print(f"warning {warning}", markup=False)
    if problems:
        raise typer.Exit(USAGE)
    if output is show.Format.TABLE:
        show.out.print("1 manifest is valid" if checked == 1 else f"{checked} manifests are valid")


def _problem(path: str, line: int, column: int, message: str, hint: str) -> dict[str, Any]:
    return {"path": path, "line": line, "column": column, "message": message, "hint": hint}


def _files(paths: Sequence[Path], globs: Sequence[re.Pattern[str]]) -> Iterator[Path]:
    """Of the root of a source its manifests, of any other folder every YAML file; nothing in folders with a dot."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for suffix in ("yaml", "yml") for file in path.rglob(f"*.{suffix}"))
        inside = {file: file.relative_to(path).as_posix() for file in found}
        seen = [file for file in found if not _is_hidden(inside[file])]
        manifests = [file for file in seen if any(glob.fullmatch(inside[file]) for glob in globs)]
        yield from manifests or seen


def _content(file: Path) -> bytes | str:
    """What is in it, or why that can't be read."""
    try:
        if file.exists() and not file.is_file():
            return "this is not a file"  # to read a pipe would be to wait for ever
        return file.read_bytes()
    except OSError as error:
        return f"can't be read: {error.strerror}"


class _Playbooks:
    """Looks at the playbooks of manifests that lie where their source has them."""

    def __init__(self, globs: Sequence[re.Pattern[str]]) -> None:
        self._globs = globs
        self._listings: dict[Path, Listing] = {}

    def look(self, entry: Parsed, file: Path) -> tuple[str, ...] | Blocked:
        """What waves do to it, or why it can't run; nothing if the manifest lies in no source."""
        whole = file.resolve()
        homes = (up for up in whole.parents if self._is_manifest(whole.relative_to(up).as_posix()))
        root = next(homes, None)
        if root is None:
            return ()

        def read(path: str) -> bytes | None:
            target = (root / path).resolve()
            if not target.is_relative_to(root):
                raise Refused(Reason.PATH_OUTSIDE_SOURCE, f"{path} leaves the source", "keep it in the source")
            try:
                return target.read_bytes() if target.is_file() else None
            except OSError as error:
                said = f"{path} may not be read: {error.strerror}"
                raise Refused(Reason.PATH_UNREADABLE, said, "see its permissions") from error

        try:
            facts = inspect_playbook(entry.job.spec.playbook, self._listing(root), read)
        except Refused as error:
            return blocked_by(error)
        return unanswered_prompt(entry.job.spec, facts) or tuple(str(warning) for warning in facts.warnings)

    def _is_manifest(self, path: str) -> bool:
        return any(glob.fullmatch(path) for glob in self._globs)

    def _listing(self, root: Path) -> Listing:
        if root not in self._listings:
            found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
            files = (file.relative_to(root).as_posix() for file in found)
            self._listings[root] = Listing({name: "" for name in files if not _is_hidden(name)})
        return self._listings[root]


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


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
    try:
        return parts.open_store(settings)
    except Refused:
        return None


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
