"""From a manifest that was accepted to what it wants here and now: which hosts, which playbook."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.facts import JobKey, ManifestRecord, Revision, Run
from reconciler.core.hosts import Host, Inventory, select
from reconciler.core.manifest import steered
from reconciler.core.plans import Blocked, Desired, Limits, Plan, RetryBasis
from reconciler.core.playbook import Listing, PlaybookFacts, inspect_playbook, playbook_digest
from reconciler.core.reading import place_of_field
from reconciler.core.reasons import Reason
from reconciler.ports import Hosts, Snapshot

_Question = tuple[str, tuple[str, ...], tuple[str, ...]]
"""All that an answer depends on beside the snapshot: playbook, inventory and extraVarsFiles of a spec."""


@dataclass(frozen=True, slots=True)
class _Inspected:
    facts: PlaybookFacts | Blocked
    digest: str


@dataclass(frozen=True, slots=True)
class _OfSnapshot:
    listing: Listing
    answers: dict[_Question, _Inspected] = field(default_factory=dict)


class Resolver:
    """Works out the Desired of a job. What a snapshot's content decides is worked out once for it."""

    def __init__(
        self, hosts: Hosts, limits: Limits, learned: Callable[[str, str, Inventory], None] = lambda *_: None
    ) -> None:
        """`learned` is told of each inventory that is new or has changed: its source, its name, and what is in it."""
        self._hosts = hosts
        self._limits = limits
        self._learned = learned
        self._told: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self._selected: dict[JobKey, tuple[str, str, tuple[Host, ...]]] = {}
        self._searched: dict[JobKey, str | None] = {}
        self._inspected: dict[tuple[str, str], _OfSnapshot] = {}

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
            commit=snapshot.commit,
        )

    def resolve_retry(self, record: ManifestRecord, pinned: Run | None, snapshot: Snapshot) -> RetryBasis:
        """What a retry runs of this snapshot: what the run had that it is `pinned` to, else what the manifest says. Its hosts
        are chosen already, and only looked up. Never raises, as `resolve` does not."""
        spec = record.spec if pinned is None else steered(pinned.spec, record.spec)
        inspected = self._inspect(replace(record, spec=spec), snapshot)
        try:
            hosts: Mapping[str, Host] | Blocked = self._hosts.load(snapshot, spec.inventory, fresh=True).hosts
        except ReconcilerError as error:
            hosts = blocked_by(error)
        if pinned is None:
            return RetryBasis(record.generation, spec, inspected.facts, inspected.digest, hosts, snapshot.commit)
        facts, hosts = _of_no_field(inspected.facts), _of_no_field(hosts)
        return RetryBasis(pinned.generation, spec, facts, pinned.playbook_digest, hosts, pinned.commit)

    def resolve_unseen(self, record: ManifestRecord, run: Run | None, *, read_here: bool) -> Desired:
        """What is left to say while the source can't be read, or by somebody who reads it not: what the run in progress
        pinned."""
        name = record.key.source
        why, hint = f"the source {name} can't be read", "see: reconciler sources"
        if not read_here:
            why, hint = f"nobody reads the source {name} at the moment", "reconciler run does"
        away = Blocked(Reason.SOURCE_UNAVAILABLE, why, hint, permanent=False)
        if run is None:
            return Desired(record, Revision(""), away, away, "", self._limits)
        return Desired(record, run.revision, away, away, run.playbook_digest, self._limits, run.commit)

    def learn(self, snapshot: Snapshot) -> None:
        """Read the inventory that manifests have by default, though none asks for it yet: who composes the first one is to
        have hosts to choose from. Raises as `Hosts.load`, but where there is none."""
        try:
            self._load(snapshot, ())
        except Refused as error:
            if error.reason is not Reason.INVENTORY_MISSING:
                raise

    def inventory_digest(self, snapshot: Snapshot, paths: tuple[str, ...]) -> str | None:
        """The same as long as these inventories give the same hosts; None while they can't be read."""
        try:
            return self._load(snapshot, paths).digest
        except ReconcilerError:
            return None

    def selected_from(self, key: JobKey) -> str | None:
        """The digest of the inventory that the job's hosts were last looked for in; None if it could not be read."""
        return self._searched.get(key)

    def inventory_name(self, snapshot: Snapshot, named: tuple[str, ...]) -> str:
        """The same for the same files, however a manifest names them."""
        return ",".join(self._inventory_paths(snapshot, named))

    def _load(self, snapshot: Snapshot, named: tuple[str, ...], *, fresh: bool = False) -> Inventory:
        inventory = self._hosts.load(snapshot, named, fresh=fresh)
        name = self.inventory_name(snapshot, named)
        with self._lock:
            news = self._told.get((snapshot.source, name)) != inventory.digest
        if news:
            self._learned(snapshot.source, name, inventory)
            with self._lock:
                self._told[snapshot.source, name] = inventory.digest
        return inventory

    def _select(self, record: ManifestRecord, snapshot: Snapshot, fresh: bool) -> tuple[Host, ...] | Blocked:
        known = self._selected.get(record.key)
        self._searched[record.key] = None
        try:
            inventory = self._load(snapshot, record.spec.inventory, fresh=fresh)
            self._searched[record.key] = inventory.digest
            if known is not None and known[:2] == (inventory.digest, record.work_digest):
                return known[2]
            chosen = select(inventory, record.spec.selector)
        except Unavailable as error:
            if known is not None and known[1] == record.work_digest and not fresh:
                return known[2]
            return blocked_by(error)
        except Refused as error:
            of_inventory = ("inventory",) if record.spec.inventory and self._searched[record.key] is None else ()
            return replace(blocked_by(error), field=error.field or of_inventory)
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
                self._inspected[of_snapshot] = _OfSnapshot(Listing(snapshot.files))
            listing, answers = self._inspected[of_snapshot].listing, self._inspected[of_snapshot].answers
        question = (spec.playbook, spec.inventory, spec.extra_vars_files)
        if question not in answers:
            try:
                answers[question] = self._inspect_afresh(record, snapshot, listing)
            except Unavailable as error:
                return _Inspected(blocked_by(error), "")
        return answers[question]

    def _inspect_afresh(self, record: ManifestRecord, snapshot: Snapshot, listing: Listing) -> _Inspected:
        def read(path: str) -> bytes | None:
            try:
                return snapshot.read(path)
            except Refused as error:
                if error.reason is Reason.PATH_MISSING:
                    return None
                raise

        spec = record.spec
        inventory = self._inventory_paths(snapshot, spec.inventory)
        try:
            facts, wrong = inspect_playbook(spec.playbook, listing, read), None
        except Refused as error:
            facts, wrong = PlaybookFacts(), blocked_by(error)
        digest = playbook_digest(spec.playbook, listing, facts, inventory, spec.extra_vars_files)
        if wrong is not None:
            return _Inspected(wrong, digest)
        try:
            for path in spec.extra_vars_files:
                snapshot.read(path)
        except Refused as error:
            named = Refused(error.reason, f"spec.extraVarsFiles: {error.message}", error.hint, ("extraVarsFiles",))
            return _Inspected(blocked_by(named), digest)
        return _Inspected(facts, digest)

    def _inventory_paths(self, snapshot: Snapshot, named: tuple[str, ...]) -> tuple[str, ...]:
        """Variables beside an inventory count as the playbook's content, wherever the inventory is named."""
        try:
            return self._hosts.paths(snapshot, named)
        except Refused:
            return named  # what is wrong with it, the selection says


Anything = TypeVar("Anything")


def _of_no_field(found: Anything | Blocked) -> Anything | Blocked:
    """Without the field that is at fault: the manifest of that revision is not the one that is shown."""
    return replace(found, field=()) if isinstance(found, Blocked) else found


def blocked_by(error: ReconcilerError) -> Blocked:
    return Blocked(error.reason, error.message, error.hint, permanent=isinstance(error, Refused), field=error.field)


def with_place(planned: Plan, record: ManifestRecord, snapshot: Snapshot | None) -> Plan:
    """The plan, with the place in the manifest where what keeps it from running stands, if it stands there."""
    blocked = planned.blocked
    if blocked is None or not blocked.field or record.rejected is not None or snapshot is None:
        return planned
    try:
        content = snapshot.read(record.path)
    except ReconcilerError:  # gone or changed meanwhile: the next look is at what came after it
        return planned
    place = place_of_field(content, record.document, blocked.field)
    message = f"{record.path}:{place.line}:{place.column}: {blocked.message}"
    return replace(planned, blocked=replace(blocked, message=message))
