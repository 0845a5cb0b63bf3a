"""What people commit and configure: manifests, playbooks, rules of what to ignore, addresses and names, settings.

Each `check_…` is given any bytes, and fails if a promise of the code is broken.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from reconciler.core.documents import MAX_PROBLEMS, Place, Problem
from reconciler.core.errors import Refused
from reconciler.core.ignore import IgnoreRules
from reconciler.core.manifest import (
    coverage_digest,
    format_duration,
    parse_duration,
    spec_digest,
    spec_from_json,
    spec_to_json,
    work_digest,
)
from reconciler.core.playbook import Listing, PlaybookFacts, inspect_playbook, playbook_digest
from reconciler.core.reading import Parsed, parse_manifests, place_of_field
from reconciler.core.reasons import Reason
from reconciler.core.repository import PROTOCOLS, check_ref, check_subpath, parse_address, plain_text, redacted
from reconciler.settings import Settings, load_settings

T = TypeVar("T")


def unless_refused(read: Callable[[], T], *reasons: Reason) -> T | None:
    """What is read. None: it was refused, for one of these reasons, with what is wrong and what to do."""
    try:
        return read()
    except Refused as error:
        refused = error
    assert refused.reason in reasons, f"refused for {refused.reason}"
    assert refused.message
    assert refused.hint
    return None


PATH = "jobs/web.yaml"
_BREAKS_OF_YAML = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


def check_manifests(data: bytes) -> None:
    """Every document is a job that can be written down and read again, or has problems that lead to their place."""
    entries = parse_manifests(data, PATH)
    assert entries
    for entry in entries:
        if isinstance(entry, Parsed):
            spec = entry.job.spec
            again = spec_from_json(spec_to_json(spec))
            assert again == spec
            digests = (spec_digest, work_digest, coverage_digest)
            assert [digest(again) for digest in digests] == [digest(spec) for digest in digests]
            place = place_of_field(data, entry.document, ("selector", "tags", 0))
            assert _is_inside(place, data), f"the field is at {place}"
        else:
            assert 1 <= len(entry.problems) <= MAX_PROBLEMS
            for problem in entry.problems:
                assert problem.path == PATH
                # of a file that can't be read as a whole it says where reading ended
                assert problem.document == entry.document or (len(entries) == 1 and problem.document > 1)
                _check_problem(problem, data)


def _check_problem(problem: Problem, data: bytes) -> None:
    assert _is_inside(Place(problem.line, problem.column), data), f"{problem} is not inside"
    assert problem.message, f"{problem} has no message"
    assert problem.hint, f"{problem} has no hint"
    assert problem.message.isprintable(), f"{problem.message!r} is no line for a terminal"
    assert problem.hint.isprintable(), f"{problem.hint!r} is no line for a terminal"
    assert len(problem.message) + len(problem.hint) < 2000, f"{problem} is longer than anybody reads"


def _is_inside(place: Place, data: bytes) -> bool:
    """By the breaks of YAML or those of an editor; just after the end of a line counts too."""
    text = data.decode("utf-8", errors="replace")
    return any(
        1 <= place.line <= len(lines) and 1 <= place.column <= len(lines[place.line - 1]) + 1
        for lines in (_BREAKS_OF_YAML.split(text), text.split("\n"))
    )


PLAYBOOK = "site.yml"
FILES_OF_THE_SOURCE = (PLAYBOOK, "tasks.yml", "roles/app/tasks/main.yml", "roles/app/meta/main.yml", "ansible.cfg")
"""All with the same content: a text may name itself in any role."""


def check_playbook(data: bytes) -> None:
    """A playbook is understood, or refused with a reason and a remedy."""
    listing = Listing(dict.fromkeys(FILES_OF_THE_SOURCE, "0" * 64))

    def inspect() -> PlaybookFacts:
        return inspect_playbook(PLAYBOOK, listing, lambda path: data if listing.has(path) else None)

    facts = unless_refused(inspect, Reason.PLAYBOOK_INVALID, Reason.PATH_MISSING)
    if facts is None:
        return
    assert {*facts.imports, *facts.named} <= listing.files.keys()
    assert all(1 <= warning.line <= data.count(b"\n") + data.count(b"\r") + 1 for warning in facts.warnings)
    assert len(playbook_digest(PLAYBOOK, listing, facts, (), ())) == 64


def check_ignore_rules(data: bytes) -> None:
    """The first line is a path, the others are rules: each is understood or matches nothing, and none takes long."""
    path, _, rules = data.decode("utf-8", errors="replace").partition("\n")
    parsed = IgnoreRules.parse(rules)
    parsed.leaves_out_below(path)
    # who is left out last is left out, and who is taken in last is in
    assert IgnoreRules.parse(f"{rules}\n*").leaves_out("a", folder=True)
    assert not IgnoreRules.parse(f"{rules}\n!*").leaves_out("a", folder=True)


def check_addresses(data: bytes) -> None:
    """What is taken for an address, a branch, a folder or a duration can't be taken for anything else by git."""
    text = data.decode("utf-8", errors="replace")
    if (address := _unless_wrong(parse_address, text)) is not None:
        assert address.text == text
        assert not text.startswith("-")
        assert address.protocol in (None, *PROTOCOLS)
        assert str(address).isprintable() or not text.isprintable()
    if (ref := _unless_wrong(check_ref, text)) is not None:
        assert ref == text
        assert not ref.startswith("-")
        assert ".." not in ref
    if (folder := _unless_wrong(check_subpath, text)) is not None:
        assert not folder.startswith(("-", "/", "../"))
        assert folder != ".."
    if (duration := _unless_wrong(parse_duration, text)) is not None:
        assert parse_duration(format_duration(duration)) == duration
    assert "\n" not in plain_text(text)
    assert redacted(redacted(text)) == redacted(text)


def _unless_wrong(read: Callable[[str], T], text: str) -> T | None:
    try:
        return read(text)
    except ValueError as error:
        said = str(error)
    assert said
    return None


def check_settings(data: bytes) -> None:
    """A settings file is understood, or refused with what is wrong in it."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        settings = unless_refused(lambda: load_settings(Path(file.name)), Reason.SETTINGS_INVALID)
    if settings is None:
        return
    again = Settings.model_validate_json(settings.model_dump_json(exclude={"database_url"}))
    assert again.model_dump() == settings.model_copy(update={"database_url": None}).model_dump()
