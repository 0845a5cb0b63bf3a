"""One event of ansible-runner as a value, whatever came for one.

Callback plugins of others make events, modules and the hosts they run on fill them, and whoever writes to Ansible's
output can forge one. So nothing of their form is taken for granted: what is not of the kind that it should be counts as
left out, and text is made fit for a database and a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

LONGEST_NAME = 500
"""Characters of the name of a task, a play or an item that are kept."""

_ANSI = re.compile(r"(?:\x1b\[|\x9b)[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
"""Bytes that were no UTF-8, as Python keeps them; nothing can write them."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happened (`kind`), to which host if to one, and all that was said of it."""

    kind: str
    host: str | None
    data: Mapping[str, Any]
    result: Mapping[str, Any]
    """What a module returned."""
    printed: str
    """What Ansible wrote to its output at that."""
    made_at: datetime
    """When Ansible made it, not when we came to read it; if it does not say so, now."""

    @classmethod
    def of(cls, raw: object) -> Self:
        """Of any JSON. Never raises."""
        event = mapping(raw)
        data = mapping(event.get("event_data"))
        kind, host, printed = event.get("event"), data.get("host"), event.get("stdout")
        return cls(
            kind=kind if isinstance(kind, str) else "",
            host=host if isinstance(host, str) and host else None,
            data=data,
            result=mapping(data.get("res")),
            printed=plain(printed) if isinstance(printed, str) else "",
            made_at=_instant(event.get("created")) or datetime.now(UTC),
        )


def _instant(said: object) -> datetime | None:
    """In UTC; None if it is none, or before there were clocks in computers: not every database takes one."""
    try:
        moment = datetime.fromisoformat(said) if isinstance(said, str) else None
        if moment is None:
            return None
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year >= 1970 else None


def mapping(value: object) -> Mapping[str, Any]:
    """What is none is one without anything in it."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """What is none is one without anything in it."""
    return value if isinstance(value, list | tuple) else ()


def plain(text: str) -> str:
    """Without terminal codes and control characters, and with `\\n` alone as line end."""
    text = _CONTROL.sub("", _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))
    return _SURROGATE.sub("\ufffd", text)


def shown(value: object) -> str:
    """Whatever a module has put there, as plain text; what is no text as JSON."""
    if value is None:
        return ""
    return plain(value if isinstance(value, str) else _as_json(value, indent=2)).strip()


def one_line(value: object) -> str:
    """The same on one line, and not longer than a name is."""
    text = "" if value is None else value if isinstance(value, str) else _as_json(value, indent=None)
    line = " ".join(plain(text).split("\n"))
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def _as_json(value: object, indent: int | None) -> str:
    try:
        return json.dumps(value, default=str, indent=indent)
    except RecursionError:  # the reader of JSON goes deeper than its writer
        return "(nested too deeply to be shown)"


def task_name(data: Mapping[str, Any]) -> str:
    """As people see it, with its role."""
    task, role = one_line(data.get("task")), one_line(data.get("role"))
    return one_line(f"{role} : {task}") if role and not task.startswith(f"{role} : ") else task


def uuid_of(value: object) -> str:
    """ansible-runner appends a number to one that comes again: another batch, or another host of a free strategy."""
    return value.split("_", maxsplit=1)[0] if isinstance(value, str) else ""
