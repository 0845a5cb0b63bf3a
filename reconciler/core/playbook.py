"""What can be seen in a playbook's text without running it: its questions, and what waves do to it.

Only static things are followed: `import_playbook`, task files named by `import_tasks` and `include_tasks` without a
template, and the task files of roles. What a template decides is Ansible's to find out.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml

from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason

Read = Callable[[str], bytes | None]
"""The content of a file of the source; None if it is not there. May raise Refused for one that leaves the source."""

REACHED = (
    "action_plugins",
    "callback_plugins",
    "collections",
    "connection_plugins",
    "filter_plugins",
    "files",
    "group_vars",
    "handlers",
    "host_vars",
    "library",
    "lookup_plugins",
    "module_utils",
    "roles",
    "tasks",
    "templates",
    "test_plugins",
    "vars",
)
"""Folders, at the root of a source or beside a playbook, whose files count as the playbook's content."""

MOST_FILES = 500
"""So many task files are looked through; a playbook with more is judged by those."""


class WarningKind(StrEnum):
    PLAY_NOT_SELECTED = "PlayNotSelected"
    RUN_ONCE_PER_WAVE = "RunOncePerWave"
    SERIAL_INSIDE_WAVE = "SerialInsideWave"


@dataclass(frozen=True, slots=True)
class WaveWarning:
    """Something that running in waves does to this playbook, and where it says so (line from 1)."""

    kind: WarningKind
    message: str
    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class PlaybookFacts:
    """`imports`: the playbooks it imports, itself left out. `prompts`: variables it asks a person for."""

    imports: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    warnings: tuple[WaveWarning, ...] = ()


def inspect_playbook(path: str, read: Read) -> PlaybookFacts:
    """Look through a playbook. Raises Refused (PathMissing, PathOutsideSource, PlaybookInvalid)."""
    inspection = _Inspection(read)
    inspection.playbook(path, named_by="spec.playbook")
    return PlaybookFacts(tuple(inspection.playbooks[1:]), tuple(inspection.prompts), tuple(inspection.warnings))


def playbook_digest(path: str, files: Mapping[str, str], imports: Sequence[str], inventory: Sequence[str]) -> str:
    """One digest over everything that counts as the playbook's content.

    That is: the playbook, the playbooks it imports, ansible.cfg, and every file below one of the folders `REACHED` at
    the root of the source, beside one of these playbooks, or (variables only) beside the inventory. The inventory
    itself, and anything else in the source, does not count.
    """
    books = (path, *imports)
    besides = {"", *(posixpath.dirname(book) for book in books)}
    below = {posixpath.join(beside, folder) + "/" for beside in besides for folder in REACHED}
    homes = {entry if entry not in files else posixpath.dirname(entry) for entry in inventory}
    below |= {posixpath.join(home, folder) + "/" for home in homes for folder in ("group_vars", "host_vars")}
    prefixes = tuple(below)
    counted = sorted(name for name in files if name in books or name == "ansible.cfg" or name.startswith(prefixes))
    digest = hashlib.sha256()
    for name in counted:
        digest.update(f"{name}\0{files[name]}\n".encode())
    return digest.hexdigest()


class _Loader(yaml.CSafeLoader):
    """Understands any tag as the value it stands on, and remembers the line of each mapping."""


def _any_tag(loader: _Loader, _: str, node: yaml.Node) -> object:
    match node:
        case yaml.MappingNode():
            return _mapping(loader, node)
        case yaml.SequenceNode():
            return loader.construct_sequence(node, deep=True)
        case _:
            return str(node.value)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    found = {}
    for key_node, value_node in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else ""
        found[key] = loader.construct_object(value_node, deep=True)
        found[_LINE, key] = key_node.start_mark.line + 1
    return found


_LINE = "line of"
_Loader.add_multi_constructor("!", _any_tag)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


class _Inspection:
    def __init__(self, read: Read) -> None:
        self._read = read
        self.playbooks: list[str] = []
        self.prompts: list[str] = []
        self.warnings: list[WaveWarning] = []
        self._task_files: set[str] = set()

    def playbook(self, path: str, named_by: str) -> None:
        if path in self.playbooks:
            return
        self.playbooks.append(path)
        data = self._read(path)
        if data is None:
            raise Refused(
                Reason.PATH_MISSING,
                f"{named_by} names {path}, which the source does not have",
                "paths are relative to the root of the source",
            )
        plays = self._load(path, data)
        if not isinstance(plays, list) or not plays or not all(isinstance(play, dict) for play in plays):
            raise Refused(Reason.PLAYBOOK_INVALID, f"{path} is not a list of plays", "begin each play with `- hosts:`")
        for play in plays:
            self._play(path, play)

    def _load(self, path: str, data: bytes) -> object:
        try:
            return yaml.load(data, _Loader)  # noqa: S506 - a subclass of the safe loader
        except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else path
            said = getattr(error, "problem", None) or str(error)
            raise Refused(Reason.PLAYBOOK_INVALID, f"{place}: not YAML: {said}", "mend the playbook") from error

    def _play(self, path: str, play: dict[Any, Any]) -> None:
        imported = play.get("import_playbook", play.get("ansible.builtin.import_playbook"))
        if isinstance(imported, str):
            if "{{" not in imported:
                self.playbook(posixpath.normpath(posixpath.join(posixpath.dirname(path), imported)), named_by=path)
            return
        for prompt in _list(play.get("vars_prompt")):
            if isinstance(prompt, dict) and isinstance(prompt.get("name"), str):
                self.prompts.append(prompt["name"])
        if play.get("hosts") in ("localhost", "127.0.0.1", ["localhost"]):
            text = "this play is on localhost, which is in no selection: it is left out of every wave"
            self._warn(WarningKind.PLAY_NOT_SELECTED, text, path, play, "hosts")
        if "serial" in play:
            text = "serial acts inside a wave, not across the run"
            self._warn(WarningKind.SERIAL_INSIDE_WAVE, text, path, play, "serial")
        self._tasks(path, [play])
        for role in _list(play.get("roles")):
            self._role(role.get("role", role.get("name")) if isinstance(role, dict) else role)

    def _role(self, name: object) -> None:
        if isinstance(name, str) and "{{" not in name and "/" not in name:
            for folder in ("tasks", "handlers"):
                self._task_file(f"roles/{name}/{folder}/main.yml")

    def _task_file(self, path: str) -> None:
        if path in self._task_files or len(self._task_files) >= MOST_FILES:
            return
        self._task_files.add(path)
        data = self._read(path)
        if data is None:
            return
        try:
            self._tasks(path, _list(self._load(path, data)))
        except Refused:
            return  # only warnings come from task files: Ansible reports a broken one when it gets there

    def _tasks(self, path: str, entries: Sequence[object]) -> None:
        for entry in _entries(entries):
            if entry.get("run_once") in (True, "yes", "true"):
                text = "run_once runs once in every wave, not once in the run"
                self._warn(WarningKind.RUN_ONCE_PER_WAVE, text, path, entry, "run_once")
            for action in ("import_tasks", "include_tasks"):
                named = entry.get(action, entry.get(f"ansible.builtin.{action}"))
                named = named.get("file") if isinstance(named, dict) else named
                if isinstance(named, str) and "{{" not in named:
                    self._task_file(posixpath.normpath(posixpath.join(posixpath.dirname(path), named)))
            for action in ("import_role", "include_role"):
                role = entry.get(action, entry.get(f"ansible.builtin.{action}"))
                if isinstance(role, dict):
                    self._role(role.get("name"))

    def _warn(self, kind: WarningKind, message: str, path: str, entry: Mapping[Any, Any], key: str) -> None:
        self.warnings.append(WaveWarning(kind, message, path, entry[_LINE, key]))


def _entries(entries: Sequence[object]) -> Iterator[dict[Any, Any]]:
    """Plays, tasks and blocks, with what is inside them."""
    for entry in entries:
        if isinstance(entry, dict):
            yield entry
            for inside in ("pre_tasks", "tasks", "post_tasks", "handlers", "block", "rescue", "always"):
                yield from _entries(_list(entry.get(inside)))


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
