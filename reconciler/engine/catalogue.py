"""The manifests of one source: which jobs there are, what was accepted of each, and what was rejected.

Three promises. One bad file never stops the others. A file that turned invalid never removes its job, nor does a source
that is empty all of a sudden. What is decided of a manifest (its generation, its causes) is written down in one
transaction, so that a crash decides nothing twice.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from reconciler.core.errors import Refused
from reconciler.core.facts import ASKED_BY_ANNOTATION, CauseKind, JobKey, ManifestRecord, Revision
from reconciler.core.manifest import (
    BatchJob,
    Problem,
    RunOn,
    coverage_digest,
    spec_digest,
    work_digest,
)
from reconciler.core.reading import Parsed, Rejected, parse_manifests
from reconciler.core.reasons import Reason
from reconciler.ports import NewCause, Snapshot

Entry = Parsed | Rejected

LONGEST_PATH = 1000
"""Characters of a manifest's path."""

LONGEST_IN_KEY = 200
"""Characters of an annotation that stand in the key of its cause as they are."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one sync amounts to: the records that change, the causes they bring, and what hangs on no job."""

    changed: tuple[ManifestRecord, ...]
    causes: tuple[NewCause, ...]
    rejected: tuple[Rejected, ...]
    """Every rejected document, those of jobs that keep their accepted spec included."""
    staying: tuple[str, ...] = ()
    """Jobs whose manifest is gone, and that are not removed for the moment."""
    empty: bool = False
    """The source has no manifests at all, though it had."""


class Catalogue:
    """Reads the manifests of one source, each file again only when its content changed."""

    def __init__(self, source: str, patterns: Sequence[str], max_limit: int) -> None:
        self.source = source
        self._patterns = tuple(glob_pattern(pattern) for pattern in patterns)
        self._max_limit = max_limit
        self._parsed: dict[str, tuple[str, tuple[Entry, ...]]] = {}
        self._syncs = 0
        self._missing_since: dict[str, int] = {}
        self._rejected_since: dict[str, int] = {}

    def read(self, snapshot: Snapshot) -> tuple[Entry, ...]:
        """Every manifest of the snapshot, in the order of paths. Raises Unavailable if it moved meanwhile."""
        found: dict[str, tuple[str, tuple[Entry, ...]]] = {}
        for path in sorted(snapshot.files):
            if not any(pattern.fullmatch(path) for pattern in self._patterns):
                continue
            digest = snapshot.files[path]
            known = self._parsed.get(path)
            found[path] = known if known is not None and known[0] == digest else (digest, self._parse(snapshot, path))
        self._parsed = found
        return tuple(entry for _, entries in found.values() for entry in entries)

    def _parse(self, snapshot: Snapshot, path: str) -> tuple[Entry, ...]:
        if len(path) > LONGEST_PATH:
            problem = Problem(path, 1, 1, 1, f"its path has {len(path)} characters", f"use at most {LONGEST_PATH}")
            return (Rejected(path, 1, None, (problem,)),)
        try:
            return parse_manifests(snapshot.read(path), path, self._max_limit)
        except Refused as error:
            problem = Problem(path, 1, 1, 1, error.message, error.hint)
            return (Rejected(path, 1, None, (problem,)),)

    def decide(
        self,
        entries: Sequence[Entry],
        records: Mapping[str, ManifestRecord],
        revision: Revision,
        now: datetime,
        *,
        held: Reason | None = None,
        lost: Collection[str] = (),
    ) -> Decision:
        """Compare what the source gives with what was accepted before. `held`: why the whole source is; what is new in it
        is, too. `lost`: new ones of which something is known all the same; they are held by themselves."""
        entries = _refuse_duplicates(entries)
        given = {entry.job.metadata.name: entry for entry in entries if isinstance(entry, Parsed)}
        rejected = tuple(entry for entry in entries if isinstance(entry, Rejected))
        live = {name: record for name, record in records.items() if record.removed_at is None}

        changed: list[ManifestRecord] = []
        causes: list[NewCause] = []
        for name, entry in given.items():
            before = records.get(name)
            after = self._accept(entry, before, revision, now, Reason.STATE_LOST if name in lost else held)
            if after != before:
                changed.append(after)
                causes += _causes(after, entry.job, before)

        unclear = self._rejected_paths(rejected)
        absent = [record for name, record in live.items() if name not in given]
        staying: list[str] = []
        for record in absent:
            problem = _problem_of(record, rejected)
            if problem is not None:
                if record.rejected != problem:
                    changed.append(replace(record, rejected=problem))
            elif not entries or self._may_be_renamed(record, unclear):
                staying.append(record.key.name)
            else:
                changed.append(replace(record, removed_at=now, rejected=None))
        for record in records.values():  # of one that was removed: whether it is to come back, and can't
            if record.removed_at is not None and record.key.name not in given:
                named = next((entry.first for entry in rejected if entry.name == record.key.name), None)
                if record.rejected != named:
                    changed.append(replace(record, rejected=named))
        self._missing_since = {name: self._missing_since.get(name, self._syncs) for name in staying}
        self._syncs += 1
        return Decision(tuple(changed), tuple(causes), rejected, tuple(staying), empty=not entries and bool(live))

    def _accept(
        self,
        entry: Parsed,
        before: ManifestRecord | None,
        revision: Revision,
        now: datetime,
        held: Reason | None,
    ) -> ManifestRecord:
        spec, metadata = entry.job.spec, entry.job.metadata
        same = before is not None and before.spec == spec  # then its digests need not be worked out again
        digest = before.spec_digest if before is not None and same else spec_digest(spec)
        if before is None:
            key, generation = JobKey(self.source, metadata.name), 1
        else:
            key, generation = before.key, before.generation + (digest != before.spec_digest)
        kept = before is not None and generation == before.generation
        return ManifestRecord(
            key=key,
            path=entry.path,
            document=entry.document,
            generation=generation,
            spec=spec,
            spec_digest=digest,
            work_digest=before.work_digest if before is not None and same else work_digest(spec),
            coverage_digest=before.coverage_digest if before is not None and same else coverage_digest(spec),
            labels=dict(metadata.labels),
            requested_at=entry.job.requested_at,
            revision=before.revision if before is not None and kept else revision,
            seen_at=before.seen_at if before is not None and kept else now,
            held=before.held if before is not None else held,
        )

    def _rejected_paths(self, rejected: Sequence[Rejected]) -> Mapping[str, int]:
        """Rejected files by the sync that first saw them so. One that gives other jobs counts too: a manifest may have
        been moved into it."""
        paths = {entry.path for entry in rejected}
        self._rejected_since = {path: self._rejected_since.get(path, self._syncs) for path in paths}
        return self._rejected_since

    def _may_be_renamed(self, record: ManifestRecord, unclear: Mapping[str, int]) -> bool:
        """Whether a rejected file may hold this job's manifest now: it turned so when this one went, or before
        anybody looked."""
        missing = self._missing_since.get(record.key.name, self._syncs)
        return any(since >= missing for since in unclear.values())


def _refuse_duplicates(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Documents that give the same name reject each other: which of two files is meant is not for us to guess."""
    by_name: defaultdict[str, list[Parsed]] = defaultdict(list)
    for entry in entries:
        if isinstance(entry, Parsed):
            by_name[entry.job.metadata.name].append(entry)

    def refused(entry: Parsed) -> Rejected:
        name = entry.job.metadata.name
        others = ", ".join(f"{o.path}:{o.line}" for o in by_name[name] if o is not entry)
        problem = Problem(
            entry.path,
            entry.document,
            entry.line,
            1,
            f"the name {name} is given by {others} too",
            "rename one of them, or remove it: neither takes effect while both are there",
        )
        return Rejected(entry.path, entry.document, name, (problem,))

    return tuple(
        refused(entry) if isinstance(entry, Parsed) and len(by_name[entry.job.metadata.name]) > 1 else entry
        for entry in entries
    )


def _problem_of(record: ManifestRecord, rejected: Sequence[Rejected]) -> Problem | None:
    """What is wrong with the file that last gave this job: its own document's problem, else that of the file."""
    of_file = [entry for entry in rejected if entry.path == record.path]
    of_name = [entry for entry in rejected if entry.name == record.key.name]
    own = [entry for entry in of_file if entry.name == record.key.name or entry.document == record.document]
    found = next(iter((*own, *of_file, *of_name)), None)
    return found.first if found is not None else None


def _causes(record: ManifestRecord, job: BatchJob, before: ManifestRecord | None) -> list[NewCause]:
    """What a manifest that was accepted asks for."""
    causes = []
    if RunOn.SPEC in job.spec.run_on and (before is None or before.work_digest != record.work_digest):
        what = "the manifest is new" if before is None else "the manifest's work fields changed"
        message = f"{what} (generation {record.generation})"
        causes.append(NewCause(record.key, CauseKind.SPEC_CHANGED, f"generation:{record.generation}", message))
    asked = record.requested_at
    if asked is not None and (before is None or before.requested_at != asked):
        message = f"reconciler/requestedAt is {asked}"
        causes.append(NewCause(record.key, CauseKind.REQUESTED, _key_of_annotation(asked), message))
    return causes


def _key_of_annotation(value: str) -> str:
    """The value itself, unless it is longer than a key may be."""
    short = value if len(value) <= LONGEST_IN_KEY else hashlib.sha256(value.encode()).hexdigest()
    return f"{ASKED_BY_ANNOTATION}{short}"


def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob over paths as a regular expression: `**/` is any number of folders, `*` and `?` stay within one part."""
    parts = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", glob)
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in pieces))
