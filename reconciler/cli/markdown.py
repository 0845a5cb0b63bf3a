"""What would run, as a comment on a pull request.

Text of a manifest, an inventory or a playbook only ever stands in a span of code, on one line: there it mentions nobody,
links to nothing and ends no table, list or fence. The table has words of our own only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain

from reconciler.cli.previews import Outlook, Told, printable, removal, unchanged
from reconciler.cli.show import name_of
from reconciler.core.facts import ManifestRecord
from reconciler.core.reading import Rejected
from reconciler.engine.preview import Preview

LONGEST = 60_000
"""Characters of the whole. GitHub takes no comment of more than 65,536."""

MOST_ROWS = 200
MOST_NAMED = 10
"""Hosts of a wave, waves of a batch, warnings: what is more is counted."""

TEXT_WIDTH = 300
"""Characters that are shown of a message or a name."""


def markdown(outlook: Outlook) -> str:
    """The whole, with a line feed at its end."""
    batches = f"{outlook.runs} batches" if outlook.runs > 1 else f"{'1' if outlook.runs else 'no'} batch"
    jobs = sorted(outlook.jobs, key=lambda job: not job.preview.runs)
    lines = [f"## reconciler: {batches} would run", ""]
    if outlook.about:
        lines += [f"{outlook.about[0].upper()}{outlook.about[1:]}.", ""]
    rows = [*map(_row, jobs), *map(_row_of_removed, outlook.removed)]
    if rows:
        lines += ["| Batch | Runs | Why |", "| --- | --- | --- |", *rows[:MOST_ROWS], ""]
    if len(rows) > MOST_ROWS:
        lines += [f"And {len(rows) - MOST_ROWS} more batches.", ""]
    if outlook.unchanged:
        lines += [f"{unchanged(outlook.unchanged)}.", ""]
    sections = [_rejected(outlook.rejected), *(_section(job) for job in jobs)]
    return "\n".join(chain(lines, _as_fit(sections, LONGEST - sum(len(line) + 1 for line in lines))))


def _as_fit(sections: Sequence[Sequence[str]], room: int) -> Iterator[str]:
    """The lines of as many sections as there is room for, with what is left out counted."""
    told = [section for section in sections if section]
    for place, section in enumerate(told):
        room -= sum(len(line) + 1 for line in section)
        if room < 0:
            yield f"{len(told) - place} more sections are left out: `reconciler plan` shows all.\n"
            return
        yield from section


def _row(job: Told) -> str:
    found = job.preview
    blocked = found.plan.blocked
    if ahead := _ahead(found):
        runs, why = ahead, ", ".join(dict.fromkeys(cause.kind for cause in found.causes)) or job.nothing
    elif blocked is not None:
        runs, why = "blocked", blocked.reason.value
    else:
        runs, why = "nothing", job.nothing
    return f"| {name_of(found.key.source, found.key.name)} | {runs} | {why} |"


def _row_of_removed(record: ManifestRecord) -> str:
    return f"| {name_of(record.key.source, record.key.name)} | nothing | {removal(record)} |"


def _ahead(found: Preview) -> str:
    """`7 hosts in 2 waves`; empty if no wave is to start."""
    waves = found.plan.waves if found.runs else ()
    hosts = sum(len(wave) for wave in waves)
    return f"{hosts} host{'s' * (hosts != 1)} in {len(waves)} wave{'s' * (len(waves) != 1)}" if waves else ""


def _section(job: Told) -> list[str]:
    found = job.preview
    items = [f"{cause.kind}: {_code(cause.message)}" for cause in found.causes]
    items += _some([f"wave {number}: {_names(wave)}" for number, wave in enumerate(found.plan.waves, start=1)], "waves")
    items += [f"{what}: {_names(names)}" for what, names in (("joined", job.joined), ("left", job.left)) if names]
    if (blocked := found.plan.blocked) is not None:
        items.append(_hinted(f"**{blocked.reason}**: {_code(blocked.message)}", blocked.hint))
    items += _some([f"**warning**: {_code(warning)}" for warning in job.warnings], "warnings")
    return _titled(": ".join(filter(None, (name_of(found.key.source, found.key.name), _ahead(found)))), items)


def _rejected(rejected: Sequence[Rejected]) -> list[str]:
    items = [
        _hinted(f"{_code(f'{found.path}:{found.line}:{found.column}')}: {_code(found.message)}", found.hint)
        for entry in rejected
        for found in entry.problems
    ]
    return _titled("Rejected manifests", items)


def _hinted(item: str, hint: str) -> str:
    return f"{item}\n  - hint: {_code(hint)}" if hint else item


def _titled(title: str, items: Sequence[str]) -> list[str]:
    return [f"### {title}", "", *(f"- {item}" for item in items), ""] if items else []


def _names(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return _code(", ".join(names[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")


def _some(items: Sequence[str], what: str) -> list[str]:
    more = len(items) - MOST_NAMED
    return [*items[:MOST_NAMED], *([f"and {more} more {what}"] if more > 0 else [])]


def _code(foreign: str) -> str:
    """A span of code, between more backticks than it has in a row."""
    text = printable(foreign)
    text = text if len(text) <= TEXT_WIDTH else f"{text[: TEXT_WIDTH - 1]}…"
    fence = "`" * (1 + max((len(found) for found in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}" if text else ""
