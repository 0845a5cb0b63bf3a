"""Manifests and what they ask for, and what is shown of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from reconciler.adapters.store.rows import storable
from reconciler.core.facts import Cause, JobKey, ManifestRecord
from reconciler.core.status import JobStatus, SourceStatus
from reconciler.ports import NewCause
from tests.fakes.store.memory import KeptCause, Memory, one_at_a_time


class Manifests(Memory):
    @one_at_a_time
    def manifests(self, source: str) -> Mapping[str, ManifestRecord]:
        return {key.name: record for key, record in self._manifests.items() if key.source == source}

    @one_at_a_time
    def manifest(self, key: JobKey) -> ManifestRecord | None:
        return self._manifests.get(key)

    @one_at_a_time
    def save_manifests(self, records: Sequence[ManifestRecord], causes: Sequence[NewCause]) -> None:
        for record in records:
            before = self._manifests.get(record.key)
            held = record.held or self._known.get(record.key.source) if before is None else before.held
            self._manifests[record.key] = replace(record, held=held)
            what = "ManifestRemoved" if record.removed_at else "ManifestRejected" if record.rejected else None
            self._tell(record.key, what or "ManifestAccepted", text=record.path)
        self._add_causes(causes)

    @one_at_a_time
    def add_causes(self, causes: Sequence[NewCause]) -> None:
        self._add_causes(causes)

    def _add_causes(self, causes: Iterable[NewCause]) -> None:
        for new in causes:
            unique = (new.key, new.kind, new.cause)
            if unique not in self._causes:
                message = storable(new.message)
                cause = Cause(new.kind, new.cause, message, self.clock.now(), new.hosts, new.retry_of, new.pinned)
                self._causes[unique] = KeptCause(new.key, cause)
                self._tell(new.key, "CauseAdded", reason=new.kind, text=new.message)

    @one_at_a_time
    def drop_causes(self, key: JobKey, causes: Sequence[Cause]) -> None:
        for cause in causes:
            known = self._causes.get((key, cause.kind, cause.key))
            if known is not None and not known.handled:
                del self._causes[key, cause.kind, cause.key]
                self._tell(key, "CauseDropped", reason=cause.kind, text=cause.message)

    @one_at_a_time
    def at_rest(self, source: str) -> frozenset[str]:
        return frozenset(key.name for key in self._manifests if key.source == source and self._rests(key))

    @one_at_a_time
    def job_at_rest(self, key: JobKey) -> bool:
        return key in self._manifests and self._rests(key)

    def _rests(self, key: JobKey) -> bool:
        pending = any(each.key == key and not each.handled for each in self._causes.values())
        asked = any(request.key == key and request.result is None for request in self._requests.values())
        return not pending and not asked and not any(run.run.open for run in self._of(key))

    @one_at_a_time
    def save_status(self, key: JobKey, status: JobStatus) -> None:
        self._statuses[key] = status
        runs = self._of(key)
        if runs or key in self._manifests:
            self._active[key] = runs[0].run.created_at if runs else self._manifests[key].seen_at

    @one_at_a_time
    def status(self, key: JobKey) -> JobStatus | None:
        return self._statuses.get(key) or self._invalid.get(key)

    @one_at_a_time
    def statuses(self, source: str | None = None) -> Sequence[JobStatus]:
        shown = {**self._invalid, **self._statuses}
        return tuple(shown[key] for key in sorted(shown) if source in (None, key.source))

    @one_at_a_time
    def save_invalid(self, source: str, statuses: Sequence[JobStatus]) -> frozenset[str]:
        before = {key for key in self._invalid if key.source == source}
        now = {JobKey(source, status.metadata.name): status for status in statuses}
        self._invalid = {key: kept for key, kept in self._invalid.items() if key.source != source} | now
        for key, status in now.items():
            if key not in self._statuses:
                self._active[key] = max(condition.last_transition_time for condition in status.status.conditions)
        return frozenset(key.name for key in before - now.keys())

    @one_at_a_time
    def save_source_status(self, status: SourceStatus) -> None:
        self._sources[status.metadata.name] = status

    @one_at_a_time
    def source_statuses(self) -> Sequence[SourceStatus]:
        return tuple(self._sources[name] for name in sorted(self._sources))
