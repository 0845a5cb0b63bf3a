"""What the stories about stores are told with: a store, its clock, and the steps that lead somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from reconciler.core.facts import Cause, Child, ChildStatus, JobKey, Run, RunStatus, Slice, SliceId
from reconciler.core.hosts import Host
from reconciler.core.manifest import BatchJobSpec
from reconciler.core.reasons import Reason
from reconciler.ports import Admitted, Browser, History, JobStore, NewWave, PlaybookResult, SliceWork, SpooledLine
from tests.builders import JOB, all_succeeded, hosts, make_new_run, make_wave, manifest_record, new_cause
from tests.fakes.clock import FakeClock

LEASE = timedelta(seconds=60)
PLENTY = 100
"""More slots than any story here fills."""


class Store(JobStore, History, Browser, Protocol):
    """All ports of a store: every one has them."""


@dataclass(frozen=True, slots=True)
class World:
    """A store and its clock."""

    store: Store
    clock: FakeClock

    def accept(self, key: JobKey = JOB, spec: BatchJobSpec | None = None) -> None:
        """A manifest that asks for nothing."""
        self.store.save_manifests((manifest_record(key, spec),), ())

    def cause(self, name: str = "1", key: JobKey = JOB) -> Cause:
        """One that is pending."""
        self.store.add_causes((new_cause(name, key=key),))
        return next(cause for cause in self.store.observe(key).causes if cause.key == name)

    def open_run(
        self,
        selection: Sequence[Host] = hosts("web-1", "web-2", "web-3"),
        *,
        key: JobKey = JOB,
        cause: str = "1",
        spec: BatchJobSpec | None = None,
    ) -> str:
        self.accept(key, spec)
        new = make_new_run(self.cause(cause, key), selection, key=key, spec=spec)
        assert self.store.open_run(new)
        return new.job_id

    def admit(self, run: str, *slices: Sequence[str], number: int = 1, attempt: int = 1) -> NewWave:
        wave = make_wave(run, *slices, number=number, attempt=attempt)
        assert self.store.admit(wave, PLENTY) == Admitted()
        return wave

    def admit_one(self, run: str, *names: str, number: int = 1, attempt: int = 1) -> SliceId:
        """A wave of one slice."""
        return self.admit(run, names, number=number, attempt=attempt).slices[0].id

    def claim(self, slice_id: SliceId, fence: int = 1) -> SliceWork | None:
        return self.store.claim(slice_id, fence, "worker-1", LEASE, "here")

    def start(self, run: str, *names: str, number: int = 1, attempt: int = 1) -> SliceId:
        """A slice with a process at work."""
        slice_id = self.admit_one(run, *names, number=number, attempt=attempt)
        assert self.claim(slice_id) is not None
        assert self.store.mark_started(slice_id, 1)
        return slice_id

    def run_wave(
        self, run: str, *names: str, number: int = 1, attempt: int = 1, result: PlaybookResult | None = None
    ) -> None:
        slice_id = self.start(run, *names, number=number, attempt=attempt)
        assert self.store.finish(slice_id, 1, result or all_succeeded(names))

    def run_to_success(self, cause: str, key: JobKey = JOB, spec: BatchJobSpec | None = None) -> str:
        """A whole run over web-1 and web-2."""
        run = self.open_run(hosts("web-1", "web-2"), key=key, cause=cause, spec=spec)
        self.run_wave(run, "web-1", "web-2")
        assert self.store.finish_run(run, RunStatus.SUCCESS, Reason.SUCCEEDED, "2 success")
        return run

    # -- looking -----------------------------------------------------------------------------------------------------
    def run(self, key: JobKey = JOB) -> Run:
        run = self.store.observe(key).run
        assert run is not None
        return run

    def child(self, host: str, key: JobKey = JOB) -> Child:
        return next(child for child in self.run(key).children if child.host == host)

    def statuses(self, key: JobKey = JOB) -> dict[str, ChildStatus]:
        return {child.host: child.status for child in self.run(key).children}

    def slice(self, slice_id: SliceId, key: JobKey = JOB) -> Slice:
        return next(part for part in self.run(key).slices if part.id == slice_id)

    def events(self, after: int = 0) -> list[str]:
        return [event.type for event in self.store.events_after(after)]

    def counter(self, name: str, *labels: str) -> float:
        return self.store.metrics().counters.get(name, {}).get(labels or ("",), 0.0)

    def log_of(self, run: str, host: str | None) -> list[str]:
        return [line.text for line in self.store.log(run, host, None, 0)]


def line(sequence: int, text: str, host: str | None = None) -> SpooledLine:
    return SpooledLine(sequence, host, text)
