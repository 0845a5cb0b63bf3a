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
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_QUOTE = "Put it in quotes if it is meant as text."


class _TooDeep(Exception):
    """Reading ends here: whatever follows can't be told from what it is nested in."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _Frame:
    """A mapping or list being read.

    A mapping has its `key` between the key and its value. `dropped`: that value is read and forgotten, because its key
    is refused.
    """

    __slots__ = ("dropped", "key", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.key: str | None = None
        self.dropped = False


class _Reader:
    """Reads the events of one text. The problems found on the way are those of the document being read."""

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
            while not isinstance(event := parser.get_event(), yaml.StreamEndEvent):
                if isinstance(event, yaml.DocumentStartEvent):
                    self._number = len(found) + 1
                    self._problems = []
                    root = self._read_root(parser)
                    if root is not None:
                        found.append(Document(self._number, root, tuple(self._problems)))
        except _TooDeep as error:
            return Unreadable(error.problem)
        except yaml.MarkedYAMLError as error:
            return Unreadable(self._explain(error))
        finally:
            parser.dispose()
        if not found:
            return Unreadable(
                self._problem(_START, "the file has no document", "Write a manifest, or remove the file.")
            )
        return tuple(found)

    def _read_root(self, parser: yaml.CSafeLoader) -> Node | None:
        """The node at the top of the document that begins here; None if the document is empty."""
        self._frames = []
        root: Node | None = None
        event = parser.get_event()
        empty = _is_nothing(event)
        while not isinstance(event, yaml.DocumentEndEvent):
            node = self._read(event)
            if node is not None and not self._frames:
                root = node
            elif node is not None:
                self._put(node)
            event = parser.get_event()
        return None if empty else root

    def _read(self, event: Any) -> Node | None:
        """The node that this event completes; None: it only begins one."""
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.CollectionEndEvent):
            return self._frames.pop().node
        place = _place(event)
        if isinstance(event, yaml.AliasEvent):
            self._report(place, "an alias (*) is not allowed", "Write the value out where it is used.")
            return Node(place, None)
        if len(self._frames) == MAX_DEPTH:
            raise _TooDeep(self._problem(place, f"nested more than {MAX_DEPTH} levels deep", "Make it flatter."))
        self._refuse_properties(event, place)
        self._frames.append(_Frame(Node(place, {} if isinstance(event, yaml.MappingStartEvent) else [])))
        return None

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        place = _place(event)
        text: str = event.value
        if event.tag == "!vault" and self._vault_is_allowed():
            return Node(place, {VAULT_KEY: text})
        self._refuse_properties(event, place)
        if "\0" in text:
            self._report(place, "the text has a NUL character", "Remove the \\0.")
            return Node(place, None)
        if not event.implicit[0]:
            return Node(place, text)
        if text in _CONSTANTS:
            return Node(place, _CONSTANTS[text])
        if _INTEGER.fullmatch(text):
            if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
                self._report(place, "the number does not fit in 64 bits", _QUOTE)
                return Node(place, None)
            return Node(place, int(text))
        if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and not math.isfinite(float(text))):
            self._report(place, "the number is not finite", _QUOTE)
            return Node(place, None)
        if _FLOAT.fullmatch(text):
            return Node(place, float(text))
        return Node(place, text)

    def _put(self, node: Node) -> None:
        """Into the mapping or list that is being read."""
        frame = self._frames[-1]
        parent = frame.node
        if isinstance(parent.value, list):
            parent.children[len(parent.value)] = node
            parent.value.append(node.value)
        elif frame.dropped:
            frame.dropped = False
        elif frame.key is None:
            self._take_key(frame, node)
        else:
            parent.children[frame.key] = node
            parent.value[frame.key] = node.value
            frame.key = None

    def _take_key(self, frame: _Frame, node: Node) -> None:
        key = node.value
        if not isinstance(key, str):
            self._report(node.place, "a key must be text", "Put the key in quotes.")
            frame.dropped = True
        elif key == "<<":
            self._report(node.place, "a merge key (<<) is not allowed", "Write the keys out where they are used.")
            frame.dropped = True
        elif key in frame.node.keys:
            self._report(
                node.place,
                f"{shown(key)} is given twice",
                f"It stands on line {frame.node.keys[key].line} already: remove one of the two.",
            )
            frame.dropped = True
        else:
            frame.node.keys[key] = node.place
            frame.key = key

    def _vault_is_allowed(self) -> bool:
        here: list[str | int] = []
        for frame in self._frames:
            if isinstance(frame.node.value, list):
                here.append(len(frame.node.value))
            elif frame.key is not None:
                here.append(frame.key)
            else:
                return False
        return any(len(here) > len(above) and tuple(here[: len(above)]) == above for above in self._vaulted)

    def _refuse_properties(self, event: Any, place: Place) -> None:
        if event.anchor is not None:
            self._report(place, "an anchor (&) is not allowed", "Write the value out where it is used.")
        tag: str | None = getattr(event, "tag", None)
        if tag == "!vault":
            where = " or ".join(".".join(map(str, above)) for above in self._vaulted) or "other files"
            self._report(place, "!vault is not allowed here", f"It can stand before a text in {where}.")
        elif tag is not None:
            self._report(place, f"the tag {shown(tag)} is not allowed", "Write a plain value; quotes make it text.")

    def _report(self, place: Place, message: str, hint: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(self._problem(place, message, hint))

    def _problem(self, place: Place, message: str, hint: str) -> Problem:
        return Problem(self._path, self._number, place.line, place.column, message, hint)

    # -- what the parser says, in plain words
    def _explain(self, error: yaml.MarkedYAMLError) -> Problem:
        conflict = re.search(r"^<{7}(?: |$)", self._text, re.MULTILINE)
        if conflict:
            line = self._text.count("\n", 0, conflict.start()) + 1
            return self._problem(Place(line, 1), "a merge conflict is left in the file", "Resolve it and commit again.")
        said = error.problem or "the text breaks off"
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark is not None else _START
        lines = _BREAK.split(self._text)
        if place.line > len(lines):  # the end, counted as if a line ended there
            place = Place(len(lines), len(lines[-1]) + 1)
        indent = re.match(r"[ \t]*", lines[place.line - 1])
        if indent and "\t" in indent[0] and place.column <= len(indent[0]) + 1:
            column = indent[0].index("\t") + 1
            return self._problem(Place(place.line, column), "a tab is used to indent", "YAML indents with spaces only.")
        if said == "found unexpected end of stream" and error.context_mark is not None:
            # The end of the file is no help: the quote stands where the trouble began.
            place = Place(error.context_mark.line + 1, error.context_mark.column + 1)
        for words, message, hint in _PLAIN_WORDS:
            if words in said:
                return self._problem(place, message, hint)
        return self._problem(place, f"this is not YAML: {said}", "Look at the indentation and the quotes around here.")


_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_PLAIN_WORDS = (
    (
        "mapping values are not allowed",
        "a ':' stands where no key can be",
        "Keys of one mapping begin in the same column; a text with ': ' in it needs quotes.",
    ),
    (
        "did not find expected key",
        "this does not fit what stands above",
        "Keys of one mapping begin in the same column; nothing follows a closing quote or bracket.",
    ),
    (
        "did not find expected '-' indicator",
        "this does not fit the list above",
        "Items of one list begin with '-' in the same column.",
    ),
    ("could not find expected ':'", "a key without ':'", "Write `key: value`, with a space after the colon."),
    ("found unexpected end of stream", "a quote is opened here and never closed", "Close it."),
    ("did not find expected ',' or ']'", "a '[' is not closed", "Close the list with ']', with ',' between its items."),
    ("did not find expected ',' or '}'", "a '{' is not closed", "Close it with '}', with ',' between the keys."),
    (
        "did not find expected node content",
        "a value is missing or a bracket too much",
        "Look at the brackets before it.",
    ),
    ("cannot start any token", "a value can't begin with this character", "Put the value in quotes."),
    (
        "unknown escape character",
        "this escape (\\) does not exist",
        "Use single quotes, or write \\\\ for a backslash.",
    ),
    ("expected <document start>", "something follows the end of the document", "Documents are separated by `---`."),
    ("undefined tag handle", "the tag is not known", "Write a plain value; quotes make it text."),
    ("incompatible YAML document", "the file asks for another version of YAML", "Remove the %YAML line."),
)


def shown(text: str) -> str:
    """A text from a file as messages quote it: on one line, safe for a terminal, not longer than helps."""
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return f'"{"".join(char if char.isprintable() else repr(char)[1:-1] for char in short)}"'


def _place(event: Any) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1)


def _is_nothing(event: Any) -> bool:
    return (
        isinstance(event, yaml.ScalarEvent)
        and event.value == ""
        and bool(event.implicit[0])
        and event.anchor is None
        and event.tag is None
    )
