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
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


_QUOTED = ("'", '"', "|", ">")


class _Frame:
    """A mapping or list that is being read. `key` is that of a mapping whose value comes next; `dropped` says that
    this value is to be read and forgotten, since its key is refused."""

    __slots__ = ("dropped", "is_mapping", "key", "location", "node")

    def __init__(self, node: Node, location: Location, *, is_mapping: bool) -> None:
        self.node = node
        self.location = location
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

    def _read_root(self, parser: yaml.CSafeLoader) -> Node | None:
        """One document, up to its end; None if it is empty."""
        root: Node | None = None
        self._frames = []
        while True:
            event = parser.get_event()
            place = _place_of(event)
            match event:
                case yaml.DocumentEndEvent():
                    empty = root is None or (root.value is None and not self._problems)
                    return None if empty else root
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._frames.pop()
                case yaml.AliasEvent():
                    hint = "Write the value out: an alias hides what is in a manifest."
                    self._note(place, f"aliases (*{event.anchor}) are not allowed", hint)
                    self._put(place, Node(place, None))
                case yaml.ScalarEvent():
                    self._check_anchor(event, place)
                    if self._frames and self._frames[-1].wants_key:
                        self._open_key(event, place)
                    else:
                        node = Node(place, self._scalar(event, place))
                        root = root or node
                        self._put(place, node)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._check_anchor(event, place)
                    is_mapping = isinstance(event, yaml.MappingStartEvent)
                    if event.tag is not None and not event.implicit:
                        self._note(place, f"the tag {event.tag} is not allowed", "Remove it.")
                    if len(self._frames) >= MAX_DEPTH:
                        raise _TooDeep(
                            self._problem(place, f"nested more than {MAX_DEPTH} deep", "Is this a manifest?")
                        )
                    node = Node(place, {} if is_mapping else [])
                    root = root or node
                    if self._frames and self._frames[-1].wants_key:
                        self._note(place, "a key must be plain text", "Give lists and maps as values.")
                        self._frames[-1].key, self._frames[-1].dropped = "", True
                    location = self._location()
                    self._put(place, node)
                    self._frames.append(_Frame(node, location, is_mapping=is_mapping))
                case _:
                    pass

    def _check_anchor(self, event: Any, place: Place) -> None:
        if event.anchor is not None:
            self._note(place, f"anchors (&{event.anchor}) are not allowed", "Write the value out where it is used.")

    def _open_key(self, event: yaml.ScalarEvent, place: Place) -> None:
        frame = self._frames[-1]
        key = event.value
        frame.key, frame.dropped = key, True
        if key == "<<" and event.style not in _QUOTED:
            self._note(place, "merge keys (<<) are not allowed", "Write the fields out.")
        elif key in frame.node.keys:
            first = frame.node.keys[key]
            self._note(place, f"the key {key} is given twice; first in line {first.line}", "Remove one of the two.")
        else:
            frame.dropped = False
            frame.node.keys[key] = place

    def _put(self, place: Place, node: Node) -> None:
        """Into the mapping or list that is being read."""
        if not self._frames:
            return
        frame = self._frames[-1]
        if not frame.is_mapping:
            frame.node.children[len(frame.node.value)] = node
            frame.node.value.append(node.value)
            return
        if frame.key is None:  # an alias in the place of a key, which is noted already
            frame.key, frame.dropped = "", True
            return
        if not frame.dropped:
            frame.node.children[frame.key] = node
            frame.node.value[frame.key] = node.value
        frame.key, frame.dropped = None, False

    def _location(self) -> Location:
        """Of the value that comes next."""
        if not self._frames:
            return ()
        frame = self._frames[-1]
        return (*frame.location, len(frame.node.value) if frame.key is None else frame.key)

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> Any:
        text: str = event.value
        if event.tag is not None and event.tag != "!":
            if event.tag == "!vault" and self._may_be_vaulted():
                return {VAULT_KEY: text}
            hint = "`!vault` is understood in spec.extraVars only." if event.tag == "!vault" else "Remove it."
            self._note(place, f"the tag {event.tag} is not allowed here", hint)
            return text
        if event.style in _QUOTED:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.fullmatch(text) and len(text) <= 4000:
            return int(text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if math.isfinite(number):
                return number
        if _NOT_FINITE.fullmatch(text):
            self._note(place, f"{text} is no number that a manifest can hold", "Put it in quotes if it is text.")
        return text

    def _may_be_vaulted(self) -> bool:
        location = self._location()
        return any(location[: len(below)] == below and len(location) > len(below) for below in self._vaulted)

    def _problem(self, place: Place, message: str, hint: str) -> Problem:
        return Problem(self._path, self._number, place.line, place.column, message, hint)

    def _note(self, place: Place, message: str, hint: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(self._problem(place, message, hint))

    def _explain(self, error: yaml.MarkedYAMLError) -> Problem:
        """The parser's complaint in plain words."""
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark is not None else _START
        said = error.problem or "it can't be read"
        if "\\t" in said or self._line(place).lstrip(" ").startswith("\t"):
            return self._problem(place, "a tab is used for indentation", "YAML is indented with spaces only.")
        hint = "Look at this line and the one before: indentation, a missing ':' or a quote that is not closed."
        return self._problem(place, f"this is not YAML: {said}", hint)

    def _line(self, place: Place) -> str:
        lines = self._text.split("\n")
        return lines[place.line - 1] if place.line <= len(lines) else ""


def _place_of(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


class _TooDeep(Exception):
    """Nested deeper than anything a person writes."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem
