"""One source under the daemon's care: read it, decide over its manifests, say how it stands."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence, Set

import structlog

from reconciler.core.errors import ReconcilerError
from reconciler.core.facts import JobKey, Revision
from reconciler.core.report import report_invalid, report_source, report_unread_source
from reconciler.core.status import JobStatus, SourceStatus
from reconciler.engine.catalogue import Catalogue, Decision
from reconciler.engine.resolve import blocked_by
from reconciler.ports import Clock, JobStore, Sink, Snapshot, Source

log = structlog.get_logger()


class SourceKeeper:
    """Keeps the catalogue of one source in step with it."""

    def __init__(
        self, source: Source, catalogue: Catalogue, store: JobStore, sinks: Sequence[Sink], clock: Clock
    ) -> None:
        self.source = source
        self._catalogue = catalogue
        self._store = store
        self._sinks = sinks
        self._clock = clock
        self._lock = threading.Lock()
        self._publishing = threading.Lock()
        self._told: frozenset[str] = frozenset()
        self._snapshot: Snapshot | None = None
        self._status: SourceStatus | None = None
        self._invalid: Mapping[str, JobStatus] | None = None

    def current(self) -> Snapshot | None:
        """The source as it was last read; None before the first time. Never one whose manifests are about to change."""
        with self._publishing:
            return self._snapshot

    @property
    def status(self) -> SourceStatus | None:
        return self._status

    def sync(self) -> frozenset[JobKey]:
        """Read the source, and write down what its manifests ask for. Returns the jobs to look at. A source that can't
        be read says so in its status, and raises."""
        with self._lock:
            try:
                snapshot = self.source.sync()
                entries = self._catalogue.read(snapshot)
            except ReconcilerError as error:
                why = blocked_by(error)
                self._say(report_unread_source(self.source.name, why, self._previous(), self._clock.now()))
                raise
            records = self._store.manifests(self.source.name)
            decision = self._catalogue.decide(entries, records, snapshot.revision, self._clock.now())
            moved = self._snapshot is None or self._snapshot.revision != snapshot.revision
            with self._publishing:
                if decision.changed:
                    self._store.save_manifests(decision.changed, decision.causes)
                self._snapshot = snapshot
            known = {**records, **{record.key.name: record for record in decision.changed}}
            self._say_invalid(decision, known.keys(), snapshot.revision)
            self._say(
                report_source(
                    self.source.name,
                    snapshot.revision,
                    known.values(),
                    decision.rejected,
                    decision.held,
                    self._previous(),
                    self._clock.now(),
                    empty=decision.empty,
                )
            )
            changed = {record.key for record in decision.changed}
            live = {record.key for record in records.values() if record.removed_at is None}
            rejected = frozenset(str(entry.first) for entry in decision.rejected)
            for problem in sorted(rejected - self._told):
                log.warning("manifest_rejected", source=self.source.name, problem=problem)
            self._told = rejected
            return frozenset(changed | live if moved else changed)

    def _say(self, status: SourceStatus) -> None:
        if status == self._status:
            return
        self._store.save_source_status(status)
        try:
            for sink in self._sinks:
                sink.write_source(status)
        except OSError as failure:
            log.warning("status_not_written", source=self.source.name, why=str(failure))
            return
        self._status = status  # only now: what was not written is to be tried again

    def _previous(self) -> SourceStatus | None:
        """What was said last, by an earlier daemon too."""
        if self._status is None:
            own = (said for said in self._store.source_statuses() if said.metadata.name == self.source.name)
            return next(own, None)
        return self._status

    def _say_invalid(self, decision: Decision, accepted: Set[str], revision: Revision) -> None:
        """Names that no valid manifest ever had get a status too, as long as something invalid wants them."""
        source, now = self.source.name, self._clock.now()
        said: dict[str, JobStatus] = {}
        for entry in decision.rejected:
            if entry.name is not None and entry.name not in accepted and entry.name not in said:
                known = self._invalid.get(entry.name) if self._invalid is not None else None
                previous = known or self._store.status(JobKey(source, entry.name))
                said[entry.name] = report_invalid(source, entry.name, entry, revision, previous, now)
        if said == self._invalid:
            return
        gone = self._store.save_invalid(source, tuple(said.values())) - accepted
        try:
            for sink in self._sinks:
                for status in said.values():
                    sink.write(status)
                for name in sorted(gone):
                    sink.remove(JobKey(source, name))
        except OSError as failure:
            log.warning("status_not_written", source=source, why=str(failure))
            return
        self._invalid = said
