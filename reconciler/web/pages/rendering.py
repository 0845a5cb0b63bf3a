"""How values become text on a page.

Whatever is put into a template is escaped, and characters that do something instead of being seen are written out first:
a host name that turns the line around, or a log line with a bell in it, is shown as what it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from reconciler.core.facts import ChildStatus, RunStatus
from reconciler.core.status import HostCounts, Phase

STATIC = Path(__file__).parent.parent / "static"
TEMPLATES = Path(__file__).parent.parent / "templates"

DIGEST_WIDTH = 8
"""Characters of a commit or a digest that are shown."""

NARROWEST = 1.5
"""Percent of a bar that is taken by what is there at all."""

_ANSI = re.compile(r"(?:\x1b\[|\x9b)[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
_DOES_SOMETHING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Controls, what turns text around, and what has no width; not the joiners that scripts and emoji are written with."""

_COLOUR_OF_PHASE: Mapping[Phase, str] = {
    Phase.PENDING: "yellow",
    Phase.AWAITING_APPROVAL: "yellow",
    Phase.RUNNING: "blue",
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.STALLED: "red",
    Phase.INVALID: "red",
    Phase.CANCELLED: "grey",
    Phase.REMOVED: "grey",
}
_COLOUR: Mapping[str, str] = {
    ChildStatus.PENDING: "yellow",
    ChildStatus.RUNNING: "blue",
    ChildStatus.SUCCESS: "green",
    ChildStatus.FAILED: "red",
    ChildStatus.UNREACHABLE: "red",
    ChildStatus.ABORTED: "red",
    ChildStatus.UNKNOWN: "red",
    ChildStatus.SKIPPED: "grey",
    ChildStatus.CANCELLED: "grey",
}


def visible(value: object) -> object:
    """Text without colours of a terminal, and with each character that does something written as its code."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _DOES_SOMETHING.sub(_written_out, _ANSI.sub("", str(value)))


def exact(value: str) -> Markup:
    """Text as it is, for attributes that scripts and forms take it from again."""
    return escape(value)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def colour(status: Phase | ChildStatus | RunStatus) -> str:
    """Blue runs, green is well, red is not, yellow waits."""
    return _COLOUR_OF_PHASE[status] if isinstance(status, Phase) else _COLOUR[status]


def words(name: str) -> str:
    """`AwaitingApproval` as people write it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)


def nodes(count: int) -> str:
    return "1 Node" if count == 1 else f"{count:,} Nodes"


def counted(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count:,} {what}s"


def digest(revision: str) -> str:
    """The beginning of what identifies it."""
    return revision.rpartition(":")[2][:DIGEST_WIDTH]


def author_name(author: str) -> str:
    """Without the address, unless there is nothing else."""
    return author.partition("<")[0].strip() or author


def instant(moment: datetime) -> str:
    """For `datetime` attributes."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def exactly(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(length: timedelta) -> str:
    """`0.4 s`, `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    seconds = max(length.total_seconds(), 0.0)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {name} {rest} {smaller}" if rest else f"{whole // size} {name}"
    return f"{whole} s"


def ago(moment: datetime, now: datetime) -> str:
    """How long ago, in one unit."""
    seconds = max((now - moment).total_seconds(), 0.0)
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {name} ago"
    return "just now" if seconds < 10 else f"{int(seconds)} s ago"


def parts_of(hosts: HostCounts) -> list[tuple[str, float, float]]:
    """The bar of a progress: colour, where it begins and how wide it is, in percent. Two that failed of thousands are
    seen too."""
    bad = hosts.failed + hosts.unreachable + hosts.aborted + hosts.unknown
    sizes = {"green": hosts.success, "red": bad, "grey": hosts.skipped + hosts.cancelled, "blue": hosts.running}
    widths = {name: max(100 * size / hosts.selected, NARROWEST) for name, size in sizes.items() if size}
    too_much = sum(widths.values()) - 100
    if too_much > 0:
        widths[max(widths, key=lambda name: widths[name])] -= too_much
    found, at = [], 0.0
    for name, width in widths.items():
        found.append((name, round(at, 3), round(width, 3)))
        at += width
    return found


def address_of_batch(source: str, name: str, run: str | None = None) -> str:
    query = f"?{urlencode({'run': run})}" if run else ""
    return f"/batches/{quote(source, safe='')}/{quote(name, safe='')}{query}"


def address_of_log(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}/log"


def address_of_server(source: str, name: str) -> str:
    return f"/servers/{quote(source, safe='')}/{quote(name, safe='')}"


def with_query(path: str, **fields: Any) -> str:
    """An address with these fields; what is empty is left out, lists are repeated."""
    given = {name: value for name, value in fields.items() if value not in (None, "", (), [])}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def anchor(*parts: str) -> str:
    """An id of an element that is made from names which may hold anything."""
    return "x" + sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def version_of_static() -> str:
    """It is part of the address of every stylesheet and script, so that browsers may keep them for ever."""
    found = sha256()
    for file in sorted(STATIC.iterdir()):
        found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


def environment() -> Environment:
    """The templates, with all that they may call."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
        auto_reload=False,
    )
    for function in (
        colour,
        exact,
        words,
        nodes,
        counted,
        digest,
        author_name,
        instant,
        exactly,
        span,
        ago,
    ):
        made.filters[function.__name__] = function
    made.globals.update(
        anchor=anchor,
        address_of_batch=address_of_batch,
        address_of_log=address_of_log,
        address_of_server=address_of_server,
        parts_of=parts_of,
        with_query=with_query,
        static=f"/static/{version_of_static()}",
    )
    return made
