"""YAML text into documents that know where everything in them stands.

Nothing here raises on any bytes: what can't be read is a `Problem` with its place and what to do about it. Scalars are
read as YAML 1.2 has them, so that `on`, `yes`, `22:30`, `0644` and dates are the text that the author sees. Whatever
lets a short file mean something long or something else (aliases, merge keys, tags, a key given twice) is refused.

The parser's events are read one by one instead of composing a tree with it, because its composer recurses on the C
stack: a file of brackets would end the process.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import yaml

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 32
MAX_PROBLEMS: Final = 20
"""More than this of one document are no help to anybody."""

VAULT_KEY: Final = "__ansible_vault"
"""`!vault |` and its text are read as `{VAULT_KEY: text}`, which is how Ansible writes such a value as JSON."""

type_of = type
Location = tuple[str | int, ...]
"""Keys and indexes (from 0) that lead from the top of a document to something in it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a file that its author must change: where (all counted from 1), what is wrong, what to do."""

    path: str
    document: int
    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"


class Place(NamedTuple):
    """Line and column, counted from 1."""

    line: int
    column: int


_START = Place(1, 1)


class Node:
    """A value and its place; for a mapping also its `keys` with theirs, and what is inside a mapping or list."""

    __slots__ = ("children", "keys", "place", "value")

    def __init__(self, place: Place, value: Any) -> None:
        self.place = place
        self.value = value
        self.keys: dict[str, Place] = {}
        self.children: dict[str | int, Node] = {}


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file, the `number`-th that is not empty.

    `problems` are those of its form (a key given twice, an alias, ...); with any, `value` lacks what they stand for.
    """

    number: int
    root: Node
    problems: tuple[Problem, ...]

    @property
    def value(self) -> Any:
        """Plain data: dict with text as keys, list, str, int, float, bool, None."""
        return self.root.value

    def place(self, location: Location) -> Place:
        """Where the value stands; if it is not there, the key of the innermost thing around it that is."""
        node, place = self.root, self.root.place
        for part in location:
            child = node.children.get(part)
            if child is None:
                return place
            place = node.keys[part] if isinstance(part, str) else child.place
            node = child
        return node.place

    def key_place(self, location: Location) -> Place:
        """Where the key stands that the location ends with; for an item of a list, the item."""
        parent = self.root
        for part in location[:-1]:
            child = parent.children.get(part)
            if child is None:
                return self.place(location)
            parent = child
        last = location[-1] if location else None
        return parent.keys[last] if isinstance(last, str) and last in parent.keys else self.place(location)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is no YAML as a whole, or has nothing in it."""

    problem: Problem


def read_documents(data: bytes, path: str, vaulted: Sequence[Location] = ()) -> tuple[Document, ...] | Unreadable:
    """The documents of a file, at least one; empty ones between `---` are left out.

    `path` is only for the problems. `!vault` is accepted below the locations in `vaulted` and nowhere else.
    """
    text = _decode(data, path)
    if isinstance(text, Unreadable):
        return text
    return _Reader(text, path, tuple(vaulted)).documents()


# -- bytes to text ---------------------------------------------------------------------------------------------------
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_UTF_8 = "Save the file as UTF-8."


def _decode(data: bytes, path: str) -> str | Unreadable:
    def unreadable(message: str, hint: str, before: bytes = b"") -> Unreadable:
        text = before.decode("utf-8", errors="replace")
        column = len(text) - (text.rfind("\n") + 1) + 1
        return Unreadable(Problem(path, 1, text.count("\n") + 1, column, message, hint))

    if len(data) > MAX_BYTES:
        return unreadable(
            f"the file has {len(data):,} bytes; a manifest has {MAX_BYTES:,} at most",
            "Is this a manifest? Keep data for playbooks outside the folder of the manifests.",
        )
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return unreadable("the file is UTF-16", _UTF_8)
    if data.startswith(codecs.BOM_UTF8):
        return unreadable("the file begins with a byte order mark", "Save the file as UTF-8 without BOM.")
    nul = data.find(b"\0")
    if nul >= 0:
        return unreadable("the file is binary: it has a NUL byte", "A manifest is YAML text.", data[:nul])
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return unreadable(f"byte 0x{data[error.start]:02x} is not UTF-8", _UTF_8, data[: error.start])
    odd = _UNPRINTABLE.search(text)
    if odd:
        return unreadable(
            f"character U+{ord(odd[0]):04X} is not allowed in YAML",
            "Remove it; in a text in double quotes it can be written as an escape.",
            text[: odd.start()].encode(),
        )
    return text


# -- text to documents -----------------------------------------------------------------------------------------------
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)?\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.(?=[0-9eE]|\Z))?[0-9]*)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class _Frame:
    """A mapping or list that is being read. `key` is that of a mapping whose value comes next; `dropped` says that
    this value is to be read and forgotten, since its key is refused."""

    __slots__ = ("dropped", "is_mapping", "key", "node")

    def __init__(self, node: Node, *, is_mapping: bool) -> None:
        self.node = node
        self.is_mapping = is_mapping
        self.key: str | None = None
        self.dropped = False

    @property
    def wants_key(self) -> bool:
        return self.is_mapping and self.key is None


class _Reader:
    """Reads the events of one text; the problems found on the way belong to the document being read."""

    def __init__(self, text: str, path: str, vaulted: tuple[Location, ...]) -> None:
        self._text = text
        self._path = path
        self._vaulted = vaulted
        self._number = 1
        self._problems: list[Problem] = []
        self._frames: list[_Frame] = []

    def documents(self) -> tuple[Document, ...] | Unreadable:
        found: list[Document] = []
        parser = yaml.CSafeLoader(self._text)
        try:
            while True:
                event = parser.get_event()
                match event:
                    case yaml.DocumentStartEvent():
                        self._number = len(found) + 1
                        self._problems = []
                        root = self._read_root(parser)
                        if root is not None:
                            found.append(Document(self._number, root, tuple(self._problems)))
                    case yaml.StreamEndEvent():
                        break
                    case _:
                        pass
        except _TooDeep as error:
            return Unreadable(error.problem)
        except yaml.MarkedYAMLError as error:
            return Unreadable(self._explain(error))
        except yaml.YAMLError as error:
            return Unreadable(self._problem(_START, f"this is not YAML: {error}", ""))
        finally:
            parser.dispose()
        if not found:
            return Unreadable(
                self._problem(_START, "the file has no document", "Write a manifest, or remove the file.")
            )
        return tuple(found)
