"""What can be seen in a playbook's text without running it: its questions, and what waves do to it.

Only static things are followed: `import_playbook`, the task files of roles and of `import_tasks` and `include_tasks`
without a template, and for the content every other file that a text names. What a template decides is Ansible's to
find out.
"""

from __future__ import annotations

import bisect
import configparser
import hashlib
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""Folders, at the root of a source or beside a playbook or task file, whose files count as the playbook's content."""

MOST_FILES = 500
"""So many task files are looked through, and so many files for the names in them; a playbook with more is judged by
those."""

_PATHS_IN_CONFIG = frozenset({"collections_path", "collections_paths", "library", "module_utils", "roles_path"})
_WORDS = re.compile(r"""[\s=,'"()\[\]{}|]+""")
_PLAYBOOK_DIR = re.compile(r"\{\{\s*playbook_dir\s*\}\}")
_ROLE_PATH = re.compile(r"\{\{\s*role_path\s*\}\}")
_OF_ROLE = re.compile(r"(?P<role>.+)/(?:defaults|handlers|meta|tasks|vars)/[^/]+")


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
    """`imports`: the playbooks it imports, itself left out. `named`: every other file that the text of one of them names
    without a template, those below a folder so named, and what the YAML files among these name in turn. `prompts`:
    variables it asks a person for."""

    imports: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    warnings: tuple[WaveWarning, ...] = ()


def inspect_playbook(path: str, listing: Listing, read: Read) -> PlaybookFacts:
    """Look through a playbook of a source that has these files. Raises Refused (PathMissing, PathOutsideSource,
    PlaybookInvalid)."""
    inspection = _Inspection(listing, read)
    inspection.playbook(path, named_by=SPEC_PLAYBOOK)
    named = inspection.named() - {*inspection.playbooks}
    return PlaybookFacts(
        tuple(inspection.playbooks[1:]), tuple(sorted(named)), tuple(inspection.prompts), tuple(inspection.warnings)
    )


def playbook_digest(
    path: str, listing: Listing, facts: PlaybookFacts, inventory: Sequence[str], extra_vars_files: Sequence[str]
) -> str:
    """One digest over everything that counts as the playbook's content.

    That is: the playbook, the playbooks it imports, the files that their text names, extraVarsFiles, ansible.cfg, and
    every file below one of the folders `REACHED` at the root of the source, beside one of these playbooks and task files,
    or (variables only) beside the inventory. The inventory itself, and anything else in the source, does not count.
    """
    files, books = listing.files, (path, *facts.imports)
    besides = {"", *(posixpath.dirname(name) for name in (*books, *facts.named) if name in books or _is_yaml(name))}
    below = {posixpath.join(beside, folder) for beside in besides for folder in REACHED}
    homes = {entry if entry not in files else posixpath.dirname(entry) for entry in inventory}
    below |= {
        posixpath.normpath(posixpath.join(home, folder)) for home in homes for folder in ("group_vars", "host_vars")
    }
    counted = {*books, *facts.named, *map(posixpath.normpath, extra_vars_files), "ansible.cfg"} & files.keys()
    for folder in below:
        counted.update(listing.below(folder))
    digest = hashlib.sha256()
    for name in sorted(counted):
        digest.update(f"{name}\0{files[name]}\n".encode())
    return digest.hexdigest()


class Listing:
    """The files of a snapshot with the digests of their content, to be asked for one and for those below a folder. Made
    once for all playbooks of a snapshot: there may be fifty thousand files."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self._ordered = sorted(files)
        self._parts: frozenset[str] | None = None

    def has(self, path: str) -> bool:
        return path in self.files

    def may_have(self, word: str) -> bool:
        """Whether a file or folder has this name at all. Most words of a text are no path, and this is cheap."""
        if self._parts is None:
            self._parts = frozenset(part for path in self._ordered for part in path.split("/")) | {"..", "."}
        return word.rstrip("/").rpartition("/")[2] in self._parts

    def has_below(self, folder: str) -> bool:
        return next(self.below(folder), None) is not None

    def below(self, folder: str) -> Iterator[str]:
        start = bisect.bisect_left(self._ordered, f"{folder}/")
        for at in range(start, len(self._ordered)):
            if not self._ordered[at].startswith(f"{folder}/"):
                return
            yield self._ordered[at]


def _is_yaml(path: str) -> bool:
    return path.endswith((".yml", ".yaml"))


class _Loader(yaml.CSafeLoader):
    """Understands any tag as the value it stands on, and remembers the line of each mapping. Numbers, dates and the like
    stay text: nothing here needs them, and PyYAML's own readers fail on some (`!!int ""`, a date of the year 0) in ways
    of their own."""


def _text(_: _Loader, node: yaml.Node) -> str:
    return str(node.value)


def _truth(_: _Loader, node: yaml.Node) -> object:
    return _Loader.bool_values.get(str(node.value).lower(), node.value)


def _any_tag(loader: _Loader, _: str, node: yaml.Node) -> object:
    match node:
        case yaml.MappingNode():
            return _mapping(loader, node)
        case yaml.SequenceNode():
            return loader.construct_sequence(node, deep=True)
        case _:
            return str(node.value)


def _mapping(loader: _Loader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, "this is no mapping", node.start_mark)
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
_Loader.add_constructor("tag:yaml.org,2002:bool", _truth)
for _kind in ("binary", "float", "int", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _text)


MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 100
MAX_NODES = 500_000
"""Of one file, aliases written out."""


def _check_bounds(data: bytes) -> None:
    """Raises ValueError for what would cost more than a file is worth: composing recurses on the C stack, so that a file
    of brackets would end this process, and aliases of aliases would keep it busy for ever."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has {len(data):,} bytes; {MAX_BYTES:,} are read")
    sizes: dict[str, int] = {}
    around: list[tuple[str | None, int]] = []
    for event in yaml.parse(data, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            if len(around) == MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
            around.append((event.anchor, 1))
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = around.pop()
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in around):
                raise ValueError(f"the alias *{event.anchor} stands inside of what it stands for")
            anchor, size = None, sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if around:
            around[-1] = (around[-1][0], around[-1][1] + size)
        if size > MAX_NODES or (around and around[-1][1] > MAX_NODES):
            raise ValueError(f"it has more than {MAX_NODES:,} values, its aliases written out")


SPEC_PLAYBOOK = "spec.playbook"
"""Who names the playbook itself; all others are named by a playbook."""


class _Inspection:
    def __init__(self, files: Listing, read: Read) -> None:
        self._files = files
        self._read = read
        self.playbooks: list[str] = []
        self.prompts: list[str] = []
        self.warnings: list[WaveWarning] = []
        self._task_files: set[str] = set()
        self._role_folders: set[str] = set()
        self._config: Sequence[tuple[str, str]] | None = None

    def playbook(self, path: str, named_by: str) -> None:
        if path in self.playbooks:
            return
        self.playbooks.append(path)
        field = ("playbook",) if named_by == SPEC_PLAYBOOK else ()
        try:
            data = self._read(path)
        except Refused as error:
            said = error.message if field else f"{named_by}: {error.message}"
            raise Refused(error.reason, said, error.hint, field) from error
        if data is None:
            raise Refused(
                Reason.PATH_MISSING,
                f"{named_by} names {path}, which the source does not have",
                "paths are relative to the root of the source",
                field,
            )
        plays = self._load(path, data)
        if not isinstance(plays, list) or not plays or not all(isinstance(play, dict) for play in plays):
            raise Refused(
                Reason.PLAYBOOK_INVALID, f"{path}:1:1: this is not a list of plays", "begin each play with `- hosts:`"
            )
        for play in plays:
            self._play(path, play)

    def _load(self, path: str, data: bytes) -> object:
        try:
            _check_bounds(data)
            return yaml.load(data, _Loader)  # noqa: S506 - a subclass of the safe loader
        except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else path
            said = getattr(error, "problem", None) or str(error)
            raise Refused(Reason.PLAYBOOK_INVALID, f"{place}: not YAML: {said}", "mend the playbook") from error

    def _play(self, path: str, play: dict[Any, Any]) -> None:
        key = "import_playbook" if "import_playbook" in play else "ansible.builtin.import_playbook"
        imported = play.get(key)
        if isinstance(imported, str):
            if "{{" not in imported:
                whole = posixpath.normpath(posixpath.join(posixpath.dirname(path), imported))
                self.playbook(whole, named_by=f"{path}:{play[_LINE, key]}")
            return
        for prompt in _list(play.get("vars_prompt")):
            if isinstance(prompt, dict) and isinstance(prompt.get("name"), str):
                self.prompts.append(prompt["name"])
        if play.get("hosts") in ("localhost", "127.0.0.1", ["localhost"]):
            text = "this play is on localhost: every wave leaves it out, unless a host of that name is selected"
            self._warn(WarningKind.PLAY_NOT_SELECTED, text, path, play, "hosts")
        if "serial" in play:
            text = "serial acts inside a wave, not across the run"
            self._warn(WarningKind.SERIAL_INSIDE_WAVE, text, path, play, "serial")
        self._tasks(path, [play])
        self._roles(play.get("roles"))

    def _roles(self, named: object) -> None:
        for role in _list(named):
            self._role(role.get("role", role.get("name")) if isinstance(role, dict) else role)

    def _role(self, name: object, tasks: object = "main") -> None:
        """Look through a role, where Ansible finds it: beside the playbook, at the root, or as ansible.cfg says."""
        if not isinstance(name, str) or not isinstance(tasks, str) or "{{" in name + tasks:
            return
        books = [posixpath.dirname(book) for book in self.playbooks]
        configured = [folder for option, folder in self._configured() if option == "roles_path"]
        homes = [*(posixpath.join(book, "roles") for book in books), "roles", *configured, *books]
        for role in (posixpath.normpath(posixpath.join(home, name)) for home in homes):
            if self._files.has_below(role):
                self._role_folders.add(role)
                for file in (f"tasks/{tasks}", "handlers/main", "meta/main"):
                    for ending in ("", ".yml", ".yaml"):
                        if self._files.has(f"{role}/{file}{ending}"):
                            self._task_file(f"{role}/{file}{ending}")
                return

    def _task_file(self, path: str) -> None:
        if path in self._task_files or len(self._task_files) >= MOST_FILES:
            return
        self._task_files.add(path)
        try:
            data = self._read(path)
            content = None if data is None else self._load(path, data)
        except Refused:
            return  # only warnings come from task files: Ansible reports a broken one when it gets there
        if isinstance(content, dict):  # the meta of a role
            self._roles(content.get("dependencies"))
        self._tasks(path, _list(content))

    def _tasks(self, path: str, entries: Sequence[object]) -> None:
        for entry in _entries(entries):
            if entry.get("run_once") in (True, "yes", "true", "1"):
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
                    self._role(role.get("name"), role.get("tasks_from", "main"))

    # -- what the text names -----------------------------------------------------------------------------------------
    def named(self) -> set[str]:
        """Every file that is named by what was looked through, or by a YAML file that is named itself."""
        found = {path for path in self._task_files if self._files.has(path)}
        for folder in (*self._role_folders, *(folder for _, folder in self._configured())):
            found.update(self._files.below(folder))
        waiting = [*self.playbooks, *sorted(found)]
        looked: set[str] = set()
        while waiting and len(looked) < MOST_FILES:
            path = waiting.pop(0)
            if path in looked or not (_is_yaml(path) or path in self.playbooks):
                continue
            looked.add(path)
            new = self._named_in(path) - found
            found |= new
            waiting += sorted(new)
        return found

    def _named_in(self, path: str) -> set[str]:
        try:
            data = self._read(path)
        except Refused:
            return set()  # it is named, and whoever needs it is told by Ansible
        found: set[str] = set()
        folders = {posixpath.dirname(book) for book in self.playbooks}
        for text in _scalars(data or b""):
            for written in _instead(text, path, folders):
                for word in {written, *_WORDS.split(written)}:
                    if not _may_be_a_path(word) or not self._files.may_have(word):
                        continue
                    for base in {"", posixpath.dirname(path), *folders}:
                        found.update(self._meant(posixpath.normpath(posixpath.join(base, word)), word))
        return found

    def _meant(self, path: str, word: str) -> Iterator[str]:
        """The file of this name, or the files below the folder; a folder with a playbook of ours in it is no content of
        it, but the place where everything is."""
        if self._files.has(path):
            yield path
        elif "/" in word and path != "." and not any(book.startswith(f"{path}/") for book in self.playbooks):
            yield from self._files.below(path)

    def _configured(self) -> Sequence[tuple[str, str]]:
        """Options of ansible.cfg with the folders, from the root, in which Ansible looks for roles, modules, plugins."""
        if self._config is None:
            self._config = tuple(_folders_of(self._config_file()))
        return self._config

    def _config_file(self) -> bytes:
        try:
            return self._read("ansible.cfg") or b""
        except Refused:
            return b""

    def _warn(self, kind: WarningKind, message: str, path: str, entry: Mapping[Any, Any], key: str) -> None:
        self.warnings.append(WaveWarning(kind, message, path, entry[_LINE, key]))


def _entries(entries: Sequence[object]) -> Iterator[dict[Any, Any]]:
    """Plays, tasks and blocks, with what is inside them."""
    for entry in entries:
        if isinstance(entry, dict):
            yield entry
            for inside in ("pre_tasks", "tasks", "post_tasks", "handlers", "block", "rescue", "always"):
                yield from _entries(_list(entry.get(inside)))


def _folders_of(config: bytes) -> Iterator[tuple[str, str]]:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",), strict=False)
    try:
        parser.read_string(config.decode())
    except (configparser.Error, UnicodeDecodeError):
        return  # it is refused where Ansible reads it
    for section in parser.sections():
        for name, value in parser.items(section):
            if name in _PATHS_IN_CONFIG or name.endswith("_plugins"):
                folders = (folder.strip().removeprefix("{{CWD}}/") for folder in value.split(":"))
                yield from ((name, posixpath.normpath(folder)) for folder in folders if folder)


def _may_be_a_path(word: str) -> bool:
    """Words of a message or a tag may well be names of things in the source, as `jobs` and `hosts` are, and mean none
    of them."""
    return "/" in word or "." in word


def _scalars(data: bytes) -> Iterator[str]:
    """The scalars of a YAML text, up to where it ends being one, and none of one that is too large; names of tasks and
    plays and patterns of hosts left out, for these are words and no paths."""
    before = ""
    if len(data) > MAX_BYTES:
        return
    try:
        for event in yaml.parse(data, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.ScalarEvent):
                if before not in ("hosts", "name"):
                    yield event.value
                before = event.value
            elif not isinstance(event, yaml.DocumentStartEvent):
                before = ""
    except (yaml.YAMLError, UnicodeDecodeError):
        return


def _instead(text: str, path: str, playbook_folders: Iterable[str]) -> Iterator[str]:
    """The text with the two folders filled in that everybody writes as templates."""
    role = _OF_ROLE.fullmatch(path)
    if role is not None:
        text = _ROLE_PATH.sub(lambda _: role["role"], text)
    if _PLAYBOOK_DIR.search(text) is None:
        yield text
        return
    for folder in playbook_folders:
        yield _PLAYBOOK_DIR.sub(folder.replace("\\", r"\\") or ".", text)


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
