"""`reconciler validate`: what can be known of manifests without Ansible, a database or a host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reconciler.cli import show
from reconciler.cli.options import USAGE, Config, StateDir, said
from reconciler.core.errors import Refused
from reconciler.core.opening import unanswered_prompt
from reconciler.core.plans import Blocked
from reconciler.core.playbook import Listing, inspect_playbook
from reconciler.core.reading import Parsed, Rejected, parse_manifests, place_of_field
from reconciler.core.reasons import Reason
from reconciler.engine.catalogue import glob_pattern
from reconciler.engine.resolve import blocked_by
from reconciler.settings import load_settings


def add_to(app: typer.Typer) -> None:
    app.command()(validate)


class ValidateFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    GITHUB = "github"


def validate(
    paths: Annotated[list[Path], typer.Argument(help="Manifests, or folders of them.")],
    output: Annotated[
        ValidateFormat, typer.Option("-o", "--output", help="table, json, yaml, or github: annotations of its Actions.")
    ] = ValidateFormat.TABLE,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Check manifests, and what can be seen of their playbooks; without Ansible, any database or host."""
    with said():
        settings = load_settings(config, state_dir=state_dir)
    globs = tuple(glob_pattern(glob) for glob in settings.manifests)
    files = [file for path in paths for file in _files(path, globs)]
    findings = _Findings(settings.max_limit, _Sources(globs, files))
    for file in files:
        findings.look_at(file)
    if not files:
        findings.problem(paths[0], 1, 1, "there is no manifest in this folder", "see whether it is the right one")
    _tell(findings, output)
    if findings.problems:
        raise typer.Exit(USAGE)
    if output in (ValidateFormat.TABLE, ValidateFormat.GITHUB):
        show.out.print("1 manifest is valid" if findings.checked == 1 else f"{findings.checked} manifests are valid")


@dataclass(frozen=True, slots=True)
class _Found:
    """One thing that was found, and where; as programs are told it."""

    path: str
    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"

    def annotation(self, level: str) -> str:
        """As GitHub shows it beside the line of a pull request: where it counts from its root, commands start there."""
        file = os.path.relpath(self.path)
        text = f"{self.message}\nhint: {self.hint}" if self.hint else self.message
        place = f"file={_property(file)},line={self.line},col={self.column}"
        return f"::{level} {place},title=reconciler::{_escaped(text)}"


def _escaped(text: str) -> str:
    """As GitHub's commands have it: one command is one line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _tell(findings: _Findings, output: ValidateFormat) -> None:
    if output is ValidateFormat.GITHUB:
        for level, found in (("error", findings.problems), ("warning", findings.warnings)):
            for one in dict.fromkeys(found):
                show.out.print(one.annotation(level), markup=False)
    elif output is ValidateFormat.TABLE:
        for problem in findings.problems:
            show.problem(**asdict(problem))
        for warning in dict.fromkeys(findings.warnings):
            show.err.print(f"warning {warning}", markup=False)
    else:
        data = {
            "checked": findings.checked,
            "problems": [asdict(problem) for problem in findings.problems],
            "warnings": [str(warning) for warning in findings.warnings],
        }
        show.data(data, show.Format(output))


@dataclass(slots=True)
class _Findings:
    """What was found in the files so far."""

    max_limit: int
    sources: _Sources
    checked: int = 0
    problems: list[_Found] = field(default_factory=list)
    warnings: list[_Found] = field(default_factory=list)
    names: dict[Path | None, dict[str, str]] = field(default_factory=dict)
    """Where each name of a source is given."""

    def problem(self, path: Path | str, line: int, column: int, message: str, hint: str) -> None:
        self.problems.append(_Found(str(path), line, column, message, hint))

    def look_at(self, file: Path) -> None:
        content = self.sources.content(file)
        if isinstance(content, Blocked):
            self.problem(file, 1, 1, content.message, content.hint)
            return
        for entry in parse_manifests(content, str(file), self.max_limit):
            self.checked += 1
            if isinstance(entry, Rejected):
                for found in entry.problems:
                    self.problem(found.path, found.line, found.column, found.message, found.hint)
            else:
                self._look_at_manifest(entry, file, content)

    def _look_at_manifest(self, entry: Parsed, file: Path, content: bytes) -> None:
        name, here = entry.job.metadata.name, f"{file}:{entry.line}"
        earlier = self._names_beside(file).setdefault(name, here)
        if earlier != here:
            self.problem(file, entry.line, 1, f"the name {name} is taken by {earlier}", "names are unique in a source")
        found = self.sources.look(entry, file)
        if isinstance(found, Blocked):
            place = place_of_field(content, entry.document, found.field)
            self.problem(file, place.line, place.column, found.message, found.hint)
        else:
            self.warnings += [_Found(str(file), entry.line, 1, warning) for warning in found]

    def _names_beside(self, file: Path) -> dict[str, str]:
        """The names of its source: those found so far, and those of its manifests that nobody asked to check. A hook is
        given what a commit changes, and a name may be taken by what it does not."""
        root = self.sources.root_of(file)
        if root not in self.names:
            self.names[root] = {
                entry.job.metadata.name: f"{other}:{entry.line}"
                for other, content in self.sources.others(root)
                for entry in parse_manifests(content, str(other), self.max_limit)
                if isinstance(entry, Parsed)
            }
        return self.names[root]


def _files(path: Path, globs: Sequence[re.Pattern[str]]) -> Sequence[Path]:
    """Of the root of a source its manifests, of any other folder every YAML file; nothing in folders with a dot."""
    if not path.is_dir():
        return [path]
    found = sorted(file for suffix in ("yaml", "yml") for file in path.rglob(f"*.{suffix}"))
    inside = {file: file.relative_to(path).as_posix() for file in found}
    seen = [file for file in found if not _is_hidden(inside[file])]
    return [file for file in seen if any(glob.fullmatch(inside[file]) for glob in globs)] or seen


def _resolved(file: Path) -> Path:
    """As it is where its links go round in a circle: it can't be read then, which is told where that is tried."""
    try:
        return file.resolve()
    except RuntimeError:
        return file.absolute()


class _Sources:
    """What manifests name, looked for where their source has it: above the folder that its globs begin with."""

    def __init__(self, globs: Sequence[re.Pattern[str]], files: Sequence[Path]) -> None:
        self._globs = globs
        self._files = frozenset(_resolved(file) for file in files)
        self._listings: dict[Path, Listing] = {}

    def content(self, file: Path) -> bytes | Blocked:
        """What is in a manifest's file, or why a source would not read it."""
        root = self.root_of(file)
        try:
            if root is not None and not file.resolve().is_relative_to(root):
                return blocked_by(_leaves(file.name))
            if file.exists() and not file.is_file():  # to read a pipe would be to wait for ever
                return Blocked(Reason.PATH_UNREADABLE, "this is not a file", "a manifest is a file")
            return file.read_bytes()
        except RuntimeError:
            return Blocked(Reason.PATH_UNREADABLE, "its links lead round in a circle", "a manifest is a file")
        except OSError as error:
            hint = "see whether it is there, and its permissions"
            return Blocked(Reason.PATH_UNREADABLE, f"can't be read: {error.strerror}", hint)

    def others(self, root: Path | None) -> Iterator[tuple[str, bytes]]:
        """The manifests of a source that can be read and are not among the files to check; of no source, none."""
        if root is None:
            return
        for path in filter(self._is_manifest, sorted(self._listing(root).files)):
            file = root / path
            if file.resolve() not in self._files and not isinstance(content := self.content(file), Blocked):
                yield os.path.relpath(file), content

    def look(self, entry: Parsed, file: Path) -> tuple[str, ...] | Blocked:
        """What waves do to its playbook, or why it can't run; nothing if the manifest lies in no source."""
        root, spec = self.root_of(file), entry.job.spec
        if root is None:
            return ()

        def read(path: str) -> bytes | None:
            target = (root / path).resolve()
            if not target.is_relative_to(root):
                raise _leaves(path)
            try:
                return target.read_bytes() if target.is_file() else None
            except OSError as error:
                said = f"{path} may not be read: {error.strerror}"
                raise Refused(Reason.PATH_UNREADABLE, said, "see its permissions") from error

        try:
            facts = inspect_playbook(spec.playbook, self._listing(root), read)
        except Refused as error:
            return blocked_by(error)
        named = {"inventory": spec.inventory, "extraVarsFiles": spec.extra_vars_files}
        missing = (self._missing(root, name, path) for name, paths in named.items() for path in paths)
        if (wrong := next((found for found in missing if found is not None), None)) is not None:
            return wrong
        return unanswered_prompt(spec, facts) or tuple(str(warning) for warning in facts.warnings)

    def _missing(self, root: Path, name: str, path: str) -> Blocked | None:
        target = (root / path).resolve()
        if not target.is_relative_to(root):
            return replace(blocked_by(_leaves(path)), field=(name,))
        if target.exists():
            return None
        text = f"spec.{name} names {path}, which the source does not have"
        return Blocked(Reason.PATH_MISSING, text, "paths are relative to the root of the source", field=(name,))

    def root_of(self, file: Path) -> Path | None:
        """Of the source in which this is a manifest; None if it is in none."""
        whole = file.parent.resolve() / file.name
        homes = (up for up in whole.parents if self._is_manifest(whole.relative_to(up).as_posix()))
        return next(homes, None)

    def _is_manifest(self, path: str) -> bool:
        return any(glob.fullmatch(path) for glob in self._globs)

    def _listing(self, root: Path) -> Listing:
        if root not in self._listings:
            found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
            files = (file.relative_to(root).as_posix() for file in found)
            self._listings[root] = Listing({name: "" for name in files if not _is_hidden(name)})
        return self._listings[root]


def _leaves(path: str) -> Refused:
    return Refused(Reason.PATH_OUTSIDE_SOURCE, f"{path} leaves the source", "keep it in the source")


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
