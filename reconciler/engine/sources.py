"""Sources under the daemon's care: which of them are known, or held; and each by itself: read it, decide over its
manifests, say how it stands."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence, Set
from datetime import timedelta

import structlog

from reconciler.core.errors import ReconcilerError
from reconciler.core.facts import JobKey, Revision
from reconciler.core.reading import Parsed
from reconciler.core.reasons import Reason
from reconciler.core.report import report_invalid, report_source, report_unread_source
from reconciler.core.status import JobStatus, SourceStatus, to_the_second
from reconciler.engine.catalogue import Catalogue, Decision, Entry
from reconciler.engine.resolve import blocked_by
from reconciler.ports import Clock, JobStore, Shown, Sink, Snapshot, Source

log = structlog.get_logger()

DECIDED_AGAIN = timedelta(minutes=10)
"""After so long a source is decided over again, though nothing of it changed."""


class KnownSources:
    """The sources of a daemon, as the database knows them. Those that it has never seen are written down before any of
    them is read, all together: the first sources of a new database are known, one that is added to others later is
    held until somebody says whether it has run before, and so is one of which something is shown that the database knows
    nothing of."""

    def __init__(self, store: JobStore, names: Sequence[str], shown: Shown) -> None:
        self._store = store
        self._names = names
        self._shown = shown

    def held(self, source: str) -> Reason | None:
        """Why nothing of a source may run, if so."""
        known = self._store.sources()
        unknown = [name for name in self._names if name not in known]
        if unknown:
            self._store.add_sources({name: why_held(name, known, self._shown) for name in unknown})
            known = self._store.sources()
        return known.get(source)

    def lost(self, source: str, entries: Sequence[Entry], records: Collection[str]) -> frozenset[str]:
        """As `lost_jobs`."""
        return lost_jobs(source, entries, records, self._shown)


def why_held(source: str, known: Mapping[str, Reason | None], shown: Shown) -> Reason | None:
    """Why a source is held, or is to be, if the database that knows these has never seen it."""
    if source in known:
        return known[source]
    if shown.has_jobs(source):
        return Reason.STATE_LOST
    return Reason.AWAITING_ADOPTION if known else None


def lost_jobs(source: str, entries: Sequence[Entry], records: Collection[str], shown: Shown) -> frozenset[str]:
    """Names of manifests of which the database has no record, and something is shown all the same: such as when an older
    database is back."""
    given = {entry.job.metadata.name for entry in entries if isinstance(entry, Parsed)}
    return frozenset(name for name in given.difference(records) if shown.has_job(JobKey(source, name)))


class SourceKeeper:
    """Keeps the catalogue of one source in step with it."""

    def __init__(
        self,
        source: Source,
        catalogue: Catalogue,
        store: JobStore,
        sinks: Sequence[Sink],
        clock: Clock,
        known: KnownSources,
        *,
        interval: timedelta | None = None,
    ) -> None:
        """`interval`: how often the source is read though nothing was noticed; None: as often as the daemon's pace
        says."""
        self.source = source
        self.interval = interval
        self._catalogue = catalogue
        self._store = store
        self._sinks = sinks
        self._clock = clock
        self._known = known
        self._held: Reason | None = None
        self._lock = threading.Lock()
        self._publishing = threading.Lock()
        self._told: frozenset[str] = frozenset()
        self._closed = False
        self._snapshot: Snapshot | None = None
        self._finished: Revision | None = None
        self._status: SourceStatus | None = None
        self._decided: SourceStatus | None = None
        self._decided_at = clock.monotonic()
        self._invalid: Mapping[str, JobStatus] | None = None

    def current(self) -> Snapshot | None:
        """The source as it was last read; None before the first time. Never one whose manifests are about to change."""
        with self._publishing:
            return self._snapshot

    @property
    def status(self) -> SourceStatus | None:
        return self._status

    def sync(self) -> frozenset[JobKey]:
        """Read the source, and write down what its manifests ask for. Returns the jobs to look at: those that changed; at
        a new revision all others that live, too; the first time all, those that were removed included. A source that
        can't be read says so in its status, and raises."""
        with self._lock:
            try:
                snapshot = self.source.sync()
                entries = self._catalogue.read(snapshot)
            except ReconcilerError as error:
                if not self._closed:
                    why = blocked_by(error)
                    self._say(report_unread_source(self.source.name, why, self._previous(), self._clock.now()))
                raise
            held = self._known.held(self.source.name)
            if snapshot is self._snapshot and held is self._held and self._is_told(snapshot):
                return frozenset()
            records = self._store.manifests(self.source.name)
            lost = self._known.lost(self.source.name, entries, records)
            decision = self._catalogue.decide(
                entries, records, snapshot.revision, self._clock.now(), held=held, lost=lost
            )
            with self._publishing:
                if decision.changed:
                    self._store.save_manifests(decision.changed, decision.causes)
                self._snapshot = snapshot
            known = {**records, **{record.key.name: record for record in decision.changed}}
            self._say_invalid(decision, known.keys(), snapshot)
            self._say(
                report_source(
                    self.source.name,
                    snapshot.revision,
                    snapshot.commit,
                    known.values(),
                    decision.rejected,
                    decision.staying,
                    self._previous(),
                    self._clock.now(),
                    empty=decision.empty,
                    notes=snapshot.notes,
                    held=held,
                )
            )
            if held is not None and held is not self._held:
                hint = f"reconciler adopt {self.source.name}"
                log.warning("source_held", source=self.source.name, reason=held.value, hint=hint)
            self._held = held
            rejected = frozenset(str(entry.first) for entry in decision.rejected)
            for problem in sorted(rejected - self._told):
                log.warning("manifest_rejected", source=self.source.name, problem=problem)
            self._told = rejected
            to_look_at = {record.key for record in decision.changed}
            if self._finished != snapshot.revision:
                first = self._finished is None
                to_look_at |= {record.key for record in records.values() if first or record.removed_at is None}
            self._finished = snapshot.revision  # only now: what was cut short is to be looked at next time
            self._decided, self._decided_at = self._status, self._clock.monotonic()
            return frozenset(to_look_at)

    def _is_told(self, snapshot: Snapshot) -> bool:
        """Whether everything about a snapshot that was decided over before has been written and said: then it is only
        said that it has been read once more. From time to time it is decided again all the same, in case that somebody
        else has changed what was written."""
        recent = self._clock.monotonic() - self._decided_at < DECIDED_AGAIN.total_seconds()
        if (
            self._status is None
            or self._decided is not self._status
            or self._finished != snapshot.revision
            or not recent
        ):
            return False
        body = self._status.status.model_copy(update={"last_sync": to_the_second(self._clock.now())})
        self._say(self._status.model_copy(update={"status": body}))
        self._decided = self._status
        return True

    def close(self) -> None:
        """End what goes on for the source. A reading that fails by it says nothing of the source."""
        self._closed = True
        self.source.close()

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

    def _say_invalid(self, decision: Decision, accepted: Set[str], snapshot: Snapshot) -> None:
        """Names that no valid manifest ever had get a status too, as long as something invalid wants them."""
        source, now = self.source.name, self._clock.now()
        said: dict[str, JobStatus] = {}
        for entry in decision.rejected:
            if entry.name is not None and entry.name not in accepted and entry.name not in said:
                known = self._invalid.get(entry.name) if self._invalid is not None else None
                previous = known or self._store.status(JobKey(source, entry.name))
                said[entry.name] = report_invalid(
                    source, entry.name, entry, snapshot.revision, snapshot.commit, previous, now
                )
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
