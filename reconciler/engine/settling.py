"""Slices whose process is gone: whether they are started again, or lost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from reconciler.core.facts import JobKey, Run, Slice, SliceId, SliceState
from reconciler.ports import Clock, Executor, JobStore, Liveness

log = structlog.get_logger()

RESTART_FIRST = timedelta(seconds=1)
RESTART_MOST = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class _Lease:
    """A lease as it was first seen, by the monotonic clock: the wall clock may jump."""

    until: datetime | None
    seen_at: float


class Settler:
    """Decides over slices. Safe from several threads as long as no two settle the same job at once."""

    def __init__(self, store: JobStore, executor: Executor, clock: Clock, lease: timedelta) -> None:
        self._store = store
        self._executor = executor
        self._clock = clock
        self._lease = lease
        self._answers_since = clock.monotonic()
        self._leases: dict[JobKey, dict[SliceId, _Lease]] = {}

    def store_was_away(self) -> None:
        """No lease could be renewed: each gets one full term from now on before it counts as over."""
        self._answers_since = self._clock.monotonic()

    def try_again_now(self, part: Slice) -> None:
        """A slice that could not start does not wait for its turn any longer: whoever starts a daemon may have mended
        what was wrong."""
        now = self._clock.now()
        waits = part.state is SliceState.PLANNED and part.not_before is not None and part.not_before > now
        if waits and self._executor.liveness(part.id, part.fence) is not Liveness.ALIVE:
            self._store.requeue(part.id, part.fence, now, "started again with the daemon")

    def settle(self, key: JobKey, run: Run | None) -> bool:
        """Whether anything was decided over one."""
        parts = [part for part in run.slices if part.state.open] if run is not None else []
        known, now = self._leases.pop(key, {}), self._clock.monotonic()
        if parts:
            self._leases[key] = {
                part.id: lease
                if (lease := known.get(part.id)) is not None and lease.until == part.lease_expires_at
                else _Lease(part.lease_expires_at, now)
                for part in parts
            }
        settled = [self._settle(part, now - self._leases[key][part.id].seen_at) for part in parts]
        return any(settled)

    def _settle(self, part: Slice, unrenewed: float) -> bool:
        """Decide over a slice whose process is gone. Whether it is gone is its executor's word, never a guess; but one
        that lives and has not renewed its lease for so many seconds, two whole terms, hangs. One of which nothing is
        kept here was started by another daemon on this database, which answers for it as long as its lease is renewed."""
        liveness = self._executor.liveness(part.id, part.fence)
        if part.state is SliceState.PLANNED:
            if liveness is Liveness.GONE:
                self.start_again(part.id, part.fence, part.restarts, self._why_it_ended(part.id))
            return liveness is Liveness.GONE
        could = self._clock.monotonic() - self._answers_since
        elsewhere = liveness is Liveness.ABSENT and part.id not in self._executor.kept()
        if (liveness is Liveness.ALIVE or elsewhere) and min(unrenewed, could) <= 2 * self._lease.total_seconds():
            return False
        if self._executor.kill(part.id, part.fence) is not Liveness.GONE:
            return False
        if part.state is SliceState.CLAIMED:
            self.start_again(part.id, part.fence, part.restarts, self._why_it_ended(part.id))
            return True
        log.warning("slice_lost", slice=part.id, hosts=len(part.hosts))
        self._store.lose(part.id, part.fence, self._executor.recover(part.id))
        self._executor.forget(part.id)
        return True

    def _why_it_ended(self, slice_id: SliceId) -> str:
        said = self._executor.last_words(slice_id)
        return "its process ended before it began" + (f": {said}" if said else "")

    def start_again(self, slice_id: SliceId, fence: int, restarts: int, message: str) -> None:
        pause = min(RESTART_MOST, RESTART_FIRST * 2 ** min(restarts, 10))
        log.warning("slice_restarts", slice=slice_id, after=pause.total_seconds(), why=message)
        self._store.requeue(slice_id, fence, self._clock.now() + pause, message)
