"""Inventories of any format and plugin, read by `ansible-inventory` and kept for as long as they hold.

A static inventory (plain YAML, INI or TOML) is a function of its files, so it is read once for their content, and kept on
disk over restarts. One that executes something (a script, a plugin's configuration) is read again when it is older
than `refresh`, or when asked for afresh.

Ansible is shown a tree of links to what the snapshot has, and nothing else: what lies in the live folder beside it,
left out by .reconcilerignore or put there a moment ago, will not be in the copy that a run works on.
"""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import json
import os
import posixpath
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import yaml

from reconciler.adapters.processes import descendants, end
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.hosts import Host, Inventory
from reconciler.core.reasons import Reason
from reconciler.ports import Clock, Snapshot

MOST_KEPT = 256
"""So many readings are kept, in memory and on disk."""

PAUSE_AFTER_ERROR = 5.0
"""Seconds for which an error is told again, so that a thousand manifests don't start a thousand readings that fail."""

LONGEST_NAME = 253
"""Characters of a host's name, and of its address, as DNS has them."""

LONGEST_KEY = 700
"""Characters of a host_key; of a longer one its digest is the key."""

_FORMAT = 2
_NOT_REAL_GROUPS = frozenset({"all", "ungrouped"})
_PLUGIN_KEY = re.compile(rb"""^\s*\{?\s*["']?plugin["']?\s*:""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class InventoryOptions:
    """How inventories are read. Paths in `default` are relative to the root of a source; `ansible_inventory` None: the
    one beside this Python, else the first on PATH. `pass_env` names what it gets of our environment beside HOME, PATH."""

    ansible_inventory: Path | None = None
    default: tuple[str, ...] = ()
    tags_variable: str = "reconciler_tags"
    refresh: timedelta = timedelta(minutes=5)
    time_limit: timedelta = timedelta(seconds=60)
    vault_password_files: tuple[Path, ...] = ()
    pass_env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Question:
    """One inventory at one content. `key` is the same for the same content, on every machine and in every process."""

    key: str
    source: str
    root: Path
    paths: tuple[str, ...]
    files: tuple[str, ...]
    static: bool
    connection: str
    port: str


@dataclass(frozen=True, slots=True)
class _Answer:
    read_at: float
    found: Inventory | ReconcilerError


class AnsibleInventory:
    """The Hosts port. `cache_dir` None: nothing is kept on disk. Several threads may ask at once."""

    def __init__(self, options: InventoryOptions, clock: Clock, cache_dir: Path | None = None) -> None:
        self._options = options
        self._clock = clock
        self._cache_dir = cache_dir
        self._lock = threading.Lock()
        self._questions: dict[tuple[str, str, tuple[str, ...]], _Question] = {}
        self._answers: dict[str, _Answer] = {}
        self._under_way: dict[str, Future[Inventory]] = {}

    def load(self, snapshot: Snapshot, inventory: tuple[str, ...], *, fresh: bool = False) -> Inventory:
        """The inventory made of these paths of the snapshot; none: what its ansible.cfg names, else the default.

        Raises Refused (PathMissing, PathOutsideSource, InventoryMissing) or Unavailable (InventoryUnreadable,
        InventoryEmpty, AnsibleMissing).
        """
        question = self._question(snapshot, inventory)
        with self._lock:
            answer = self._answers.get(question.key)
            if answer is not None and self._holds(question, answer, fresh):
                return _told(answer.found)
            theirs = self._under_way.get(question.key)
            mine = theirs or self._under_way.setdefault(question.key, Future())
        if theirs is not None:
            return _told(theirs.exception() or theirs.result())
        try:
            found = self._kept_on_disk(question) or self._read(question, snapshot)
        except BaseException as error:
            self._end_reading(question, mine, error)
            raise
        self._end_reading(question, mine, found)
        return found

    def paths(self, snapshot: Snapshot, inventory: tuple[str, ...]) -> tuple[str, ...]:
        """The paths, relative to the snapshot's root, that `load` reads for `inventory`. Raises Refused."""
        return self._question(snapshot, inventory).paths

    # -- what is asked -----------------------------------------------------------------------------------------------
    def _question(self, snapshot: Snapshot, inventory: tuple[str, ...]) -> _Question:
        asked = (snapshot.source, f"{snapshot.revision} {snapshot.root}", inventory)
        with self._lock:
            known = self._questions.get(asked)
        if known is None:
            known = self._examine(snapshot, inventory)
            with self._lock:
                self._questions[asked] = known
                _forget_oldest(self._questions)
        return known

    def _examine(self, snapshot: Snapshot, inventory: tuple[str, ...]) -> _Question:
        config = _ansible_cfg(snapshot)
        paths = inventory or _configured(snapshot, config) or self._options.default
        if not paths:
            raise Refused(
                Reason.INVENTORY_MISSING,
                "no inventory is named",
                "set spec.inventory, `inventory` in ansible.cfg, or the setting inventory.default",
            )
        paths = tuple(_inside(snapshot, path) for path in paths)
        files = {name: snapshot.files[name] for name in _files_of(snapshot, paths)}
        about = [_FORMAT, snapshot.source, paths, self._options.tags_variable, sorted(files.items())]
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        static = not any(
            _executes(snapshot, name) for name in files if not _is_variables(name) and name != "ansible.cfg"
        )
        connection = config.get("defaults", "transport", fallback="smart").strip()
        port = config.get("defaults", "remote_port", fallback="22").strip()
        return _Question(key, snapshot.source, snapshot.root, paths, tuple(files), static, connection, port)

    # -- what is known -----------------------------------------------------------------------------------------------
    def _holds(self, question: _Question, answer: _Answer, fresh: bool) -> bool:
        age = self._clock.monotonic() - answer.read_at
        if isinstance(answer.found, ReconcilerError):
            return not fresh and age < PAUSE_AFTER_ERROR
        return question.static or (not fresh and age < self._options.refresh.total_seconds())

    def _end_reading(self, question: _Question, mine: Future[Inventory], found: Inventory | BaseException) -> None:
        with self._lock:
            del self._under_way[question.key]
            if isinstance(found, Inventory | ReconcilerError):
                self._answers.pop(question.key, None)
                self._answers[question.key] = _Answer(self._clock.monotonic(), found)
                _forget_oldest(self._answers)
        match found:
            case Inventory():
                mine.set_result(found)
            case Exception():
                mine.set_exception(found)
            case _:  # Ctrl-C is meant for the thread that got it
                mine.set_exception(Unavailable(Reason.INVENTORY_UNREADABLE, "the reading was interrupted"))

    def _kept_on_disk(self, question: _Question) -> Inventory | None:
        if self._cache_dir is None or not question.static:
            return None
        try:
            kept = json.loads((self._cache_dir / f"{question.key}.json").read_bytes())
            return _inventory((_kept_host(**host) for host in kept["hosts"]), kept["groups"])
        except (OSError, ValueError, KeyError, TypeError):  # not there or not ours: it is read again and replaced
            return None

    def _keep_on_disk(self, question: _Question, inventory: Inventory) -> None:
        """Hosts only, no variables: those may be secrets."""
        if self._cache_dir is None or not question.static:
            return
        with contextlib.suppress(OSError):  # a disk that is full costs a second at the next start, and no more
            self._cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = {"hosts": [asdict(host) for host in inventory.hosts.values()], "groups": inventory.groups}
            descriptor, name = tempfile.mkstemp(dir=self._cache_dir, prefix=".", suffix=".tmp")
            with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor has no path
                json.dump(content, file, default=sorted)
            Path(name).replace(self._cache_dir / f"{question.key}.json")
            kept = sorted(self._cache_dir.glob("*.json"), key=lambda path: path.stat().st_mtime)
            for path in kept[:-MOST_KEPT]:
                path.unlink(missing_ok=True)

    # -- reading -----------------------------------------------------------------------------------------------------
    def _read(self, question: _Question, snapshot: Snapshot) -> Inventory:
        with tempfile.TemporaryDirectory(prefix="reconciler-inventory-", ignore_cleanup_errors=True) as scratch:
            tree = Path(scratch) / "source"
            _link(snapshot, question, tree)
            told = self._run(question, Path(scratch), tree)
        for name in question.files:
            # Else what a directory held meanwhile would be kept as the answer for what it held before; and what may not
            # be read, or leaves the source, would be missing from the answer without a word.
            snapshot.read(name)
        listing = _listing(told)
        groups = _groups(listing)
        variables = _mapping(_mapping(listing.get("_meta")).get("hostvars"))
        inventory = _inventory(
            (self._host(question, name, _mapping(variables.get(name)), groups) for name in groups["all"]), groups
        )
        if not inventory.hosts:
            raise Unavailable(
                Reason.INVENTORY_EMPTY,
                f"{', '.join(question.paths)}: no host is in this inventory",
                f"see what `ansible-inventory --graph -i {question.paths[0]}` shows",
            )
        self._keep_on_disk(question, inventory)
        return inventory

    def _run(self, question: _Question, scratch: Path, tree: Path) -> bytes:
        command = [self._program(), "--list"]
        for path in question.paths:
            command += ["-i", str(tree / path)]
        for file in self._options.vault_password_files:
            command += ["--vault-password-file", str(file.absolute())]
        limit = self._options.time_limit.total_seconds()
        with _in_memory("output") as stdout, _in_memory("errors") as stderr:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=tree,
                    env=self._environment(tree, scratch),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            except OSError as error:
                raise Unavailable(Reason.ANSIBLE_MISSING, f"{command[0]} does not start: {error.strerror}") from error
            try:
                returned = process.wait(limit)
            except subprocess.TimeoutExpired as error:
                raise Unavailable(
                    Reason.INVENTORY_UNREADABLE,
                    f"{', '.join(question.paths)}: ansible-inventory took longer than {limit:g} s and was ended",
                    "see what its script or plugin waits for",
                ) from error
            finally:
                _end_all(process)
            output, errors = _written(stdout), _written(stderr).decode(errors="replace")
        if returned != 0:
            said = _clean(errors, tree, question.root)
            words = f"{', '.join(question.paths)}: {said or f'ansible-inventory ended with {returned}'}"
            raise Unavailable(
                Reason.INVENTORY_UNREADABLE,
                _not_yaml(question, said) or words,
                f"try `ansible-inventory --list -i {question.paths[0]}`",
            )
        return output

    def _program(self) -> str:
        named = self._options.ansible_inventory
        beside = Path(sys.executable).with_name("ansible-inventory")
        found = shutil.which(named or (beside if beside.exists() else "ansible-inventory"))
        if found is None:
            raise Unavailable(
                Reason.ANSIBLE_MISSING,
                f"{named or 'ansible-inventory'} is not there or can't be executed",
                "install ansible-core, or set ansible.ansible_playbook",
            )
        return os.path.abspath(found)  # noqa: PTH100 - links stay: the real file may belong to another environment

    def _environment(self, root: Path, scratch: Path) -> dict[str, str]:
        """All that Ansible gets. A source without write access, or a home without, must not matter; a source that
        inventory scripts leave compiled files in would change by being read."""
        environment = {
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "ANSIBLE_LOCAL_TEMP": str(scratch / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            # whatever ansible.cfg says: both write between the lines of the answer
            "ANSIBLE_DEBUG": "0",
            "ANSIBLE_VERBOSITY": "0",
            # without these a file that no plugin can parse is a warning, and the inventory empty
            "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True",
            "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True",
        }
        config = root / "ansible.cfg"
        if config.is_file():  # named outright, for Ansible passes over one in a folder that all may write to
            environment["ANSIBLE_CONFIG"] = str(config)
        names = ("PATH", "HOME", *self._options.pass_env)
        return environment | {name: os.environ[name] for name in names if name in os.environ}

    # -- one host ----------------------------------------------------------------------------------------------------
    def _host(
        self, question: _Question, name: str, variables: Mapping[str, Any], groups: Mapping[str, tuple[str, ...]]
    ) -> Host:
        def text(*names: str) -> str:
            found = (_plain(variables.get(variable)) for variable in names)
            return next((value for value in found if value), "")

        address = text("ansible_host", "ansible_ssh_host").strip("[]") or name
        if max(len(name), len(address)) > LONGEST_NAME:
            raise Unavailable(
                Reason.INVENTORY_UNREADABLE,
                f"{', '.join(question.paths)}: the name or the address of {name[:40]!r} is too long",
                f"mend it: no host has one of more than {LONGEST_NAME} characters",
            )
        connection = text("ansible_connection") or question.connection
        if identity := text("reconciler_host_id"):
            host_key = identity
        elif connection in ("local", "ansible.builtin.local"):
            host_key = f"{question.source}/{','.join(question.paths)}/{name}"
        else:
            host_key = f"{address.lower()}:{text('ansible_port', 'ansible_ssh_port') or question.port}"
        for said in (name, address, host_key):
            if not said.isprintable():
                raise Unavailable(
                    Reason.INVENTORY_UNREADABLE,
                    f"{', '.join(question.paths)}: the name or the address of {name[:40]!r} has a character that can't be "
                    f"printed: {said[:40]!r}",
                    "mend it: names are written to files, a line each",
                )
        tags = variables.get(self._options.tags_variable, variables.get("tags"))
        if len(host_key) > LONGEST_KEY:
            host_key = hashlib.sha256(host_key.encode("utf-8", "replace")).hexdigest()
        return Host(name, address, host_key, frozenset(_tags(tags)))


# == Paths ===========================================================================================================
def _ansible_cfg(snapshot: Snapshot) -> configparser.RawConfigParser:
    config = configparser.RawConfigParser(inline_comment_prefixes=(";",), strict=False)
    if "ansible.cfg" in snapshot.files:
        try:
            config.read_string(snapshot.read("ansible.cfg").decode())
        except (configparser.Error, UnicodeDecodeError) as error:
            problem = str(error).splitlines()[0]
            raise Unavailable(Reason.INVENTORY_UNREADABLE, f"ansible.cfg can't be read: {problem}") from error
    return config


def _configured(snapshot: Snapshot, config: configparser.RawConfigParser) -> tuple[str, ...]:
    named = config.get("defaults", "inventory", fallback="")
    root = snapshot.root
    paths = (Path(path.strip().replace("{{CWD}}", str(root))).expanduser() for path in named.split(",") if path.strip())
    return tuple(os.path.relpath(path, root) if path.is_absolute() else str(path) for path in paths)


def _inside(snapshot: Snapshot, path: str) -> str:
    name = posixpath.normpath(path)
    if name != "." and not any(file.startswith(f"{name}/") for file in snapshot.files):
        try:
            snapshot.read(path)
        except Refused as error:
            raise Refused(error.reason, f"the inventory can't be had: {error.message}", error.hint) from error
    return name


def _files_of(snapshot: Snapshot, paths: Sequence[str]) -> list[str]:
    """Everything whose content decides what the inventory says."""
    real = [os.path.relpath(os.path.realpath(snapshot.root / path), os.path.realpath(snapshot.root)) for path in paths]
    names = {*paths, *real, "ansible.cfg"}
    folders = tuple(f"{path}/" for path in names)
    everything = "." in names
    return [
        name
        for name in snapshot.files
        if everything or name in names or name.startswith(folders) or _is_variables(name)
    ]


def _link(snapshot: Snapshot, question: _Question, tree: Path) -> None:
    """Make the tree that Ansible reads: a link to each file of the snapshot. Variables at the root are in it only if an
    inventory is there too: else Ansible would take the root for the folder of the playbook, which it seldom is."""
    homes = {path if path not in snapshot.files else posixpath.dirname(path) for path in question.paths}
    not_for_hosts = ("group_vars/", "host_vars/") if homes.isdisjoint({"", "."}) else ()
    tree.mkdir()
    made = {""}
    for name in snapshot.files:
        if name.startswith(not_for_hosts):
            continue
        folder = posixpath.dirname(name)
        if folder not in made:
            (tree / folder).mkdir(parents=True, exist_ok=True)
            made.add(folder)
        os.symlink(f"{question.root}/{name}", f"{tree}/{name}")  # noqa: PTH211 - there may be fifty thousand


def _is_variables(name: str) -> bool:
    return not {"group_vars", "host_vars"}.isdisjoint(name.split("/")[:-1])


def _executes(snapshot: Snapshot, name: str) -> bool:
    """Whether Ansible would run this file, or a plugin that it configures."""
    content = snapshot.read(name)
    try:
        mode = (snapshot.root / name).stat().st_mode
    except OSError as error:
        raise Unavailable(Reason.SOURCE_MOVED, f"{name} changed while the source was read") from error
    return bool(mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)) or bool(_PLUGIN_KEY.search(content))


# == What ansible-inventory says =====================================================================================
def _listing(told: bytes) -> Mapping[str, Any]:
    try:
        listing = json.loads(told)
        if not isinstance(listing, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise Unavailable(
            Reason.INVENTORY_UNREADABLE,
            f"ansible-inventory did not answer in JSON: {error}",
            "see what `ansible-inventory --list` prints",
        ) from error
    return listing


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(value: object) -> tuple[str, ...]:
    return tuple(name for name in value if name and isinstance(name, str)) if isinstance(value, list) else ()


def _groups(listing: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Every group with all its hosts, in the order in which Ansible goes through them: its own, then level by level
    those of the groups below it."""
    below = {name: _names(_mapping(group).get("children")) for name, group in listing.items() if name != "_meta"}
    own = {name: _names(_mapping(group).get("hosts")) for name, group in listing.items() if name != "_meta"}
    names = _from_the_top("all", below)
    return {
        name: tuple(dict.fromkeys(host for group in _from_the_top(name, below) for host in own.get(group, ())))
        for name in dict.fromkeys((*names, *below))
    }


def _from_the_top(name: str, below: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    seen = {name: None}
    level: Iterable[str] = (name,)
    while level := tuple(child for group in level for child in below.get(group, ()) if child not in seen):
        seen |= dict.fromkeys(level)
    return tuple(seen)


def _inventory(hosts: Iterable[Host], groups: Mapping[str, Iterable[str]]) -> Inventory:
    members = {name: tuple(names) for name, names in groups.items()}
    of_host: dict[str, set[str]] = {}
    for group, names in members.items():
        for name in names if group not in _NOT_REAL_GROUPS else ():
            of_host.setdefault(name, set()).add(group)
    known = {}
    for host in hosts:
        mine = frozenset(of_host.get(host.name, ()))
        tags = host.tags | {f"group:{group}" for group in mine}
        known[host.name] = Host(host.name, host.address, host.host_key, tags, mine)
    told = json.dumps([[asdict(host) for host in known.values()], members], default=sorted)
    return Inventory(hashlib.sha256(told.encode()).hexdigest(), known, members)


def _kept_host(name: str, address: str, host_key: str, tags: list[str], groups: list[str]) -> Host:
    return Host(name, address, host_key, frozenset(tags), frozenset(groups))


def _plain(value: object) -> str:
    """A variable as text; "" if it is none, is encrypted, or needs a template that only a play can fill in."""
    if isinstance(value, dict) and set(value) == {"__ansible_unsafe"}:
        value = value["__ansible_unsafe"]
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        return ""
    text = str(value).strip()
    return "" if "{{" in text or "{%" in text else text


def _tags(value: object) -> list[str]:
    """A list of tags, a mapping (`key=value` each, a list of values giving several), or text with commas."""
    match value:
        case dict() if set(value) != {"__ansible_unsafe"}:
            pairs = (
                (key, each) for key, given in value.items() for each in (given if isinstance(given, list) else [given])
            )
            return [f"{key}={text}" for key, each in pairs if (text := _plain(each))]
        case list():
            return [text for each in value if (text := _plain(each))]
        case _:
            return [text for part in _plain(value).split(",") if (text := part.strip())]


_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_EXCERPT = re.compile(r"\s*(\d+ .*|\d+|\^.*|\(source not shown.*|<<< caused by >>>)\s*")
_SECRETS = (
    (
        re.compile(
            r"(?i)((?:pass(?:word|wd|phrase)?|secret|token|api_?key)\w*[\"']?\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|\S+)"
        ),
        r"\1***",
    ),
    (re.compile(r"(://[^\s/:@]*:)[^\s/@]+@"), r"\1***@"),
)


def _clean(said: str, *roots: Path) -> str:
    """Ansible's words without colours, passwords, excerpts of files (they hold what is beside the fault) and repeats."""
    text = _ANSI.sub("", said)
    for root in roots:
        text = text.replace(f"{root}/", "")
    for secret, instead in _SECRETS:
        text = secret.sub(instead, text)
    lines = (line.strip() for line in text.splitlines() if not _EXCERPT.fullmatch(line))
    kept = [line.removeprefix("[WARNING]: ").removeprefix("[ERROR]: ") for line in lines if line]
    told = [line for line in dict.fromkeys(kept) if not line.startswith("Origin: <")]
    new = [line for line in told if not any(line.rstrip(".") in other for other in told if other != line)]
    return " ".join(new)[:2000]


def _not_yaml(question: _Question, said: str) -> str:
    """Where the first file that Ansible complains of stops being YAML; "" if that is not what is wrong. Each of its
    plugins in turn tries to read a file, so that its own words bury the place."""
    for name in question.files:
        if name.endswith((".yml", ".yaml")) and name in said:
            try:
                with (question.root / name).open("rb") as opened:
                    for _ in yaml.parse(opened, Loader=yaml.CSafeLoader):
                        pass
            except yaml.MarkedYAMLError as error:
                if error.problem_mark is not None:
                    line, column = error.problem_mark.line + 1, error.problem_mark.column + 1
                    return f"{name}:{line}:{column}: not YAML: {error.problem}"
            except (OSError, yaml.YAMLError):
                continue
    return ""


def _in_memory(name: str) -> BinaryIO:
    """A file that lies on no disk: the answer has every variable, decrypted. A pipe would be waited for, if a script left
    a process behind that has it open."""
    return open(os.memfd_create(name, os.MFD_CLOEXEC), "w+b")  # noqa: PTH123 - a descriptor has no path


def _written(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _end_all(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        below = descendants(process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            end((psutil.Process(process.pid), *below), patience=2.0)
        process.wait()


def _told(found: Inventory | BaseException) -> Inventory:
    """What somebody else's reading found. An error is raised anew: one object can't be raised by two threads."""
    if isinstance(found, ReconcilerError):
        raise type(found)(found.reason, found.message, found.hint)
    if isinstance(found, BaseException):
        raise found
    return found


def _forget_oldest(kept: dict[Any, Any]) -> None:
    while len(kept) > MOST_KEPT:
        del kept[next(iter(kept))]
