"""From a manifest that was accepted to what it wants here and now: which hosts, which playbook."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.facts import JobKey, ManifestRecord
from reconciler.core.hosts import Host, select
from reconciler.core.planning import Blocked, Desired, Limits
from reconciler.core.playbook import PlaybookFacts, inspect_playbook, playbook_digest
from reconciler.core.reasons import Reason
from reconciler.ports import Hosts, Snapshot


@dataclass(frozen=True, slots=True)
class _Inspected:
    facts: PlaybookFacts | Blocked
    digest: str


class Resolver:
    """Works out the Desired of a job. What a snapshot's content decides is worked out once for it."""

    def __init__(self, hosts: Hosts, limits: Limits) -> None:
        self._hosts = hosts
        self._limits = limits
        self._lock = threading.Lock()
        self._selected: dict[JobKey, tuple[str, str, tuple[Host, ...]]] = {}
        self._inspected: dict[tuple[str, str], dict[tuple[str, tuple[str, ...]], _Inspected]] = {}

    def resolve(self, record: ManifestRecord, snapshot: Snapshot, *, fresh: bool = False) -> Desired:
        """What `record` wants of this snapshot. Never raises for what is wrong in the source: that is part of the
        answer. `fresh` reads a dynamic inventory again."""
        inspected = self._inspect(record, snapshot)
        return Desired(
            record=record,
            revision=snapshot.revision,
            hosts=self._select(record, snapshot, fresh),
            playbook=inspected.facts,
            playbook_digest=inspected.digest,
            limits=self._limits,
        )

    def _select(self, record: ManifestRecord, snapshot: Snapshot, fresh: bool) -> tuple[Host, ...] | Blocked:
        known = self._selected.get(record.key)
        try:
            inventory = self._hosts.load(snapshot, record.spec.inventory, fresh=fresh)
            if known is not None and known[:2] == (inventory.digest, record.work_digest):
                return known[2]
            chosen = select(inventory, record.spec.selector)
        except Unavailable as error:
            if known is not None and known[1] == record.work_digest and not fresh:
                return known[2]
            return blocked_by(error)
        except Refused as error:
            return blocked_by(error)
        with self._lock:
            self._selected[record.key] = (inventory.digest, record.work_digest, chosen)
        return chosen

    def _inspect(self, record: ManifestRecord, snapshot: Snapshot) -> _Inspected:
        spec = record.spec
        of_snapshot = (snapshot.source, snapshot.revision)
        with self._lock:
            if of_snapshot not in self._inspected:
                for other in [key for key in self._inspected if key[0] == snapshot.source][:-1]:
                    del self._inspected[other]
                self._inspected[of_snapshot] = {}
            answers = self._inspected[of_snapshot]
        question = (spec.playbook, spec.inventory)
        if question not in answers:
            try:
                answers[question] = self._inspect_afresh(record, snapshot)
            except Unavailable as error:
                return _Inspected(blocked_by(error), "")
        found = answers[question]
        missing = _missing_files(spec.extra_vars_files, snapshot.files)
        return _Inspected(missing, found.digest) if missing is not None else found

    def _inspect_afresh(self, record: ManifestRecord, snapshot: Snapshot) -> _Inspected:
        def read(path: str) -> bytes | None:
            try:
                return snapshot.read(path)
            except Refused as error:
                if error.reason is Reason.PATH_MISSING:
                    return None
                raise

        spec = record.spec
        try:
            facts = inspect_playbook(spec.playbook, read)
        except Refused as error:
            return _Inspected(blocked_by(error), playbook_digest(spec.playbook, snapshot.files, (), spec.inventory))
        return _Inspected(facts, playbook_digest(spec.playbook, snapshot.files, facts.imports, spec.inventory))


def blocked_by(error: ReconcilerError) -> Blocked:
    return Blocked(error.reason, error.message, error.hint, permanent=isinstance(error, Refused))


def _missing_files(paths: tuple[str, ...], files: Mapping[str, str]) -> Blocked | None:
    missing = next((path for path in paths if path not in files), None)
    if missing is None:
        return None
    return Blocked(
        Reason.PATH_MISSING,
        f"spec.extraVarsFiles names {missing}, which the source does not have",
        "paths are relative to the root of the source",
    )
