"""What single fields of a manifest may hold: durations, texts, paths, plain data, each refused with a remedy."""

from __future__ import annotations

import ipaddress
import keyword
import math
import posixpath
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError


def wrong(message: str, hint: str, inside: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """A refusal of a value. `message` goes on after the field's name ("must be ..."); `inside` leads from the value to
    the part of it that is at fault."""
    return PydanticCustomError("refused", "{text}", {"text": message, "hint": hint, "inside": inside})


# -- durations -------------------------------------------------------------------------------------------------------
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = timedelta(days=3650)


def parse_duration(text: str) -> timedelta:
    """`90s`, `30m`, `2h` or `1d`: a whole number of at least 1, and a unit; ten years at most. Raises ValueError."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 30m, 2h or 1d")
    duration = timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    if duration > _LONGEST:
        raise ValueError(f"{text} is longer than {_LONGEST.days}d")
    return duration


def format_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads as the same; fractions of a second are dropped."""
    seconds = int(duration.total_seconds())
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"


def _read_duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        if timedelta(seconds=1) <= value <= _LONGEST and not value.microseconds:
            return value
    elif isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError:
            pass
    elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
        raise wrong("has no unit", f"Write {value}s for seconds or {value}m for minutes.")
    raise wrong(
        f"must be a duration between 1s and {_LONGEST.days}d",
        "Write a whole number and one unit: 90s, 30m, 2h or 1d.",
    )


Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,8}[smhd]$"}),
]


# -- texts -----------------------------------------------------------------------------------------------------------
_LONGEST_PATH = 400
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _check_name(name: str) -> str:
    if _NAME.fullmatch(name):
        return name
    if "/" in name or "\\" in name or name.startswith("."):
        raise wrong("is a name and not a path", _name_hint(name))
    if len(name) > 63:
        raise wrong(f"has {len(name)} characters; a name has 63 at most", "Shorten it.")
    raise wrong("must be lower-case letters, digits and '-', with a letter or digit at both ends", _name_hint(name))


def _name_hint(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name[:200].lower()).strip("-")[:63].strip("-")
    return f"For example: {slug or 'patch-web'}"


def _check_path(path: str) -> str:
    if not path.strip():
        raise wrong("is empty", "Give a path relative to the root of the repository.")
    if _CONTROL.search(path):
        raise wrong("has a control character", "Write the path on one line, without escapes.")
    if len(path) > _LONGEST_PATH:
        raise wrong(f"has {len(path)} characters; a path has {_LONGEST_PATH} at most", "Move the file up.")
    if "\\" in path:
        raise wrong("has a backslash", "Separate the parts of a path with '/'.")
    if path.startswith(("/", "~")):
        raise wrong("must be relative to the root of the repository", "Only what is in the repository can be used.")
    if path.startswith("-"):
        raise wrong("begins with '-'", "It would be taken for an option: rename the file.")
    if "$" in path:
        raise wrong("has a '$'", "Ansible would put a variable there: rename the file.")
    if ".." in path.split("/"):
        raise wrong("leaves the repository with '..'", "Write the path from the root of the repository, without '..'.")
    return posixpath.normpath(path)


def _check_inventory_path(path: str) -> str:
    if "," in path:
        raise wrong(
            "has a ','", "Ansible takes that for a list of hosts. Several files are a list: [hosts.yml, more.yml]"
        )
    return path


def _check_plain(text: str) -> str:
    if not text.strip():
        raise wrong("is empty", "Give it a value or remove it.")
    if _CONTROL.search(text):
        raise wrong("has a control character or a line break", "Write it on one line.")
    return text


def _check_task_tag(tag: str) -> str:
    if "," in tag:
        raise wrong("has a ','", "Each tag is an item of its own: [packages, config]")
    if tag.startswith("-"):
        raise wrong("begins with '-'", "It would be taken for an option.")
    return tag


def _check_search(search: str) -> str:
    if "/" in search and re.fullmatch(r"[0-9.]+/.*|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*/.*", search):
        try:
            ipaddress.ip_network(search, strict=False)
        except ValueError:
            raise wrong("looks like a network and is none", "For example: 10.0.0.0/8 or fd00::/8") from None
    return search


def _as_set(texts: tuple[str, ...]) -> tuple[str, ...]:
    # Sorted, because the order of tags means nothing: changing it must not change a digest and run a fleet again.
    return tuple(sorted(set(texts)))


def _as_list(value: object) -> object:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, str):
        return (value,)
    raise wrong("must be a path or a list of paths", "For example: inventory/hosts.yml")


Name = Annotated[str, AfterValidator(_check_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]
Text = Annotated[str, AfterValidator(_check_plain), WithJsonSchema({"type": "string", "minLength": 1})]
Tags = Annotated[tuple[Text, ...], AfterValidator(_as_set)]
Search = Annotated[Text, AfterValidator(_check_search)]
TaskTags = Annotated[tuple[Annotated[Text, AfterValidator(_check_task_tag)], ...], AfterValidator(_as_set)]
_PATH_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "maxLength": _LONGEST_PATH,
    "pattern": r"^(?![-/~])(?!(.*/)?\.\.(/|$))[^$\\\x00-\x1f]+$",
}
RelativePath = Annotated[str, AfterValidator(_check_path), WithJsonSchema(_PATH_SCHEMA)]
_InventoryPath = Annotated[
    str, AfterValidator(_check_path), AfterValidator(_check_inventory_path), WithJsonSchema(_PATH_SCHEMA)
]
InventoryPaths = Annotated[
    tuple[_InventoryPath, ...],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [_PATH_SCHEMA, {"type": "array", "items": _PATH_SCHEMA}]}),
]


# -- values of extraVars ---------------------------------------------------------------------------------------------
def _check_variable_name(name: str) -> str:
    if name.startswith("ansible_"):
        raise wrong(
            "begins with 'ansible_'",
            "Such variables change how hosts are reached; they belong in the inventory.",
        )
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name):
        raise wrong("is no name of a variable", "Letters, digits and '_', no digit first, and no word of Python.")
    return name


def _check_data(value: object) -> Any:
    for inside, text in _misplaced_data(value):
        raise wrong(text, "extraVars are plain data: text, numbers, true, false, null, lists and maps.", inside)
    return value


def _misplaced_data(value: object, inside: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    match value:
        case None | bool() | int() | str():
            pass
        case float():
            if not math.isfinite(value):
                yield inside, "is not a finite number"
        case {"__ansible_vault": str() as text, **others} if not others:
            if not text.lstrip().startswith("$ANSIBLE_VAULT;"):
                yield inside, "is no text made by ansible-vault"
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _misplaced_data(item, (*inside, index))
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    yield inside, "has a key that is no text"
                elif key.startswith("__ansible_"):
                    yield (*inside, key), "has a key that Ansible keeps for itself"
                else:
                    yield from _misplaced_data(item, (*inside, key))
        case _:
            yield inside, "is no plain data"


VariableName = Annotated[str, AfterValidator(_check_variable_name)]
Data = Annotated[Any, AfterValidator(_check_data)]
