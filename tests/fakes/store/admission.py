"""Whether a wave may start: free slots, free hosts, all or none."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from reconciler.core.facts import ChildStatus, Slice, SliceState
from reconciler.core.reasons import Reason
from reconciler.ports import Admitted, Busy, NewWave, Outdated
from tests.fakes.store.memory import KeptRun, KeptSlice, Memory, one_at_a_time

STILL_WAITING = timedelta(seconds=60)


class Admission(Memory):
    @one_at_a_time
    def admit(self, wave: NewWave, max_running: int) -> Admitted | Busy | Outdated:
        run, own = self._runs[wave.run], str(self._runs[wave.run].new.key)
        if all(part.id in run.slices for part in wave.slices):
            return Admitted()
        if not run.run.open or run.run.stop is not None:
            return Outdated()
        if self._pauses.keys() & {None, run.new.key.source}:
            return Outdated()
        if run.open_slices or any(run.children[host].status is not ChildStatus.PENDING for host in wave.hosts):
            return Outdated()
        locks = [frozenset(run.children[host].host_key for host in part.hosts) for part in wave.slices]
        holder = own if sum(map(len, locks)) > len(frozenset().union(*locks)) else self._lock_holder(locks)
        if holder is not None:
            run.waiting_since = run.waiting_seen_at = None
            return Busy(Reason.HOSTS_BUSY, holder)
        ahead = self._waits_longer(run)
        taken = [(other, len(each.part.hosts)) for other in self._runs.values() for each in other.open_slices]
        if ahead is not None or sum(size for _, size in taken) + len(wave.hosts) > max_running:
            run.waiting_since, run.waiting_seen_at = run.waiting_since or self.clock.now(), self.clock.now()
            first = str(taken[0][0].new.key) if taken else own
            return Busy(Reason.NO_FREE_SLOTS, ahead or first)
        run.waiting_since = run.waiting_seen_at = None
        for part, keys in zip(wave.slices, locks, strict=True):
            planned = Slice(part.id, wave.run, wave.number, wave.attempt, SliceState.PLANNED, part.hosts, fence=1)
            run.slices[part.id] = KeptSlice(planned, keys)
            fresh = {"reason": None, "message": "", "retry_at": None}
            self._change(run, part.hosts, wave=wave.number, attempt=wave.attempt, **fresh)
        self._tell(run.new.key, "WaveAdmitted", wave.run, text=f"wave {wave.number}: {len(wave.hosts)} hosts")
        return Admitted()

    def _lock_holder(self, locks: Iterable[frozenset[str]]) -> str | None:
        wanted = frozenset().union(*locks)
        holders = (run for run in self._runs.values() if any(each.locks & wanted for each in run.open_slices))
        return next((str(run.new.key) for run in holders), None)

    def _waits_longer(self, run: KeptRun) -> str | None:
        since = self.clock.now() - STILL_WAITING
        order = list(self._runs.values())
        waiting = [
            (other.waiting_since, order.index(other), str(other.new.key))
            for other in order
            if other is not run and other.run.open and other.waiting_since and (other.waiting_seen_at or since) >= since
        ]
        first = min(waiting, default=None)
        if first is None or (run.waiting_since and (run.waiting_since, order.index(run)) < first[:2]):
            return None
        return first[2]
