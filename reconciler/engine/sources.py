"""One source under the daemon's care: read it, decide over its manifests, say how it stands."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence, Set

import structlog

from reconciler.core.errors import ReconcilerError, Unavailable
from reconciler.core.facts import JobKey, Revision
from reconciler.core.reasons import Reason
from reconciler.core.report import report_invalid
from reconciler.core.status import (
    Condition,
    ConditionType,
    JobStatus,
    ManifestCounts,
    RejectedView,
    SourceMetadata,
    SourceStatus,
    SourceStatusBody,
)
from reconciler.engine.catalogue import Catalogue, Decision
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
                self._say(None, error)
                raise
            records = self._store.manifests(self.source.name)
            decision = self._catalogue.decide(entries, records, snapshot.revision, self._clock.now())
            moved = self._snapshot is None or self._snapshot.revision != snapshot.revision
            with self._publishing:
                if decision.changed:
                    self._store.save_manifests(decision.changed, decision.causes)
                self._snapshot = snapshot
            accepted = {*records, *(record.key.name for record in decision.changed)}
            self._say_invalid(decision, accepted, snapshot.revision)
            self._say(decision, None)
            changed = {record.key for record in decision.changed}
            live = {record.key for record in records.values() if record.removed_at is None}
            rejected = frozenset(str(entry.first) for entry in decision.rejected)
            for problem in sorted(rejected - self._told):
                log.warning("manifest_rejected", source=self.source.name, problem=problem)
            self._told = rejected
            return frozenset(changed | live if moved else changed)

    def _say(self, decision: Decision | None, error: ReconcilerError | None) -> None:
        status = self._describe(decision, error)
        if status == self._status:
            return
        self._status = status
        self._store.save_source_status(status)
        try:
            for sink in self._sinks:
                sink.write_source(status)
        except OSError as failure:
            log.warning("status_not_written", source=self.source.name, why=str(failure))

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
        self._invalid = said
        try:
            for sink in self._sinks:
                for status in said.values():
                    sink.write(status)
                for name in sorted(gone):
                    sink.remove(JobKey(source, name))
        except OSError as failure:
            log.warning("status_not_written", source=source, why=str(failure))

    def _describe(self, decision: Decision | None, error: ReconcilerError | None) -> SourceStatus:
        before = self._status
        now = self._clock.now()
        if error is not None:
            kind = ConditionType.RECONCILING if isinstance(error, Unavailable) else ConditionType.STALLED
            told = [(ConditionType.READY, "False", error.reason, str(error)), (kind, "True", error.reason, str(error))]
        elif decision is not None and decision.empty:
            text = f"no manifest matches; {len(decision.held)} jobs are held and none is removed"
            told = [
                (ConditionType.READY, "False", Reason.SOURCE_EMPTY, text),
                (ConditionType.STALLED, "True", Reason.SOURCE_EMPTY, text),
            ]
        else:
            held = decision.held if decision is not None else ()
            text = "read completely"
            if held:
                text += f"; {', '.join(held)} not removed: a new file that is invalid may be theirs"
            told = [(ConditionType.READY, "True", Reason.SYNCED, text)]
        since = {c.type: c for c in before.status.conditions} if before is not None else {}
        conditions = tuple(
            Condition(
                type=kind,
                status="True" if value == "True" else "False",
                reason=reason,
                message=text,
                last_transition_time=since[kind].last_transition_time
                if kind in since and since[kind].status == value
                else now,
                observed_generation=0,
            )
            for kind, value, reason, text in told
        )
        if decision is None:
            body = (
                before.status
                if before is not None
                else SourceStatusBody(observed_revision=None, last_sync=None, manifests=ManifestCounts(), conditions=())
            )
            return SourceStatus(
                metadata=SourceMetadata(name=self.source.name),
                status=body.model_copy(update={"conditions": conditions}),
            )
        rejected = tuple(
            RejectedView(
                path=entry.path,
                document=entry.document,
                name=entry.name,
                line=entry.first.line,
                column=entry.first.column,
                message=entry.first.message,
                hint=entry.first.hint,
            )
            for entry in decision.rejected
        )
        records = self._store.manifests(self.source.name).values()
        assert self._snapshot is not None  # a decision comes after a snapshot
        revision = self._snapshot.revision
        return SourceStatus(
            metadata=SourceMetadata(name=self.source.name),
            status=SourceStatusBody(
                observed_revision=revision,
                last_sync=now,
                manifests=ManifestCounts(
                    accepted=sum(record.removed_at is None for record in records),
                    rejected=len(rejected),
                    removed=sum(record.removed_at is not None for record in records),
                ),
                conditions=conditions,
                rejected=rejected,
            ),
        )
