"""What the last look at each job came to, and whether by that anything is still to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from reconciler.core.facts import JobKey, Slice, SliceId, SliceState
from reconciler.core.plans import Blocked
from reconciler.core.reasons import Reason
from reconciler.engine.reconcile import Look
from reconciler.ports import Clock, Executor, JobStore, Liveness

GIVE_UP = 4
"""So many failures of a look, or of a start of a slice, one after the other, and who waits for rest waits no longer:
about 10 to 20 seconds."""

NEXT = 2
"""Jobs that are asked, of those that wait for slots: what is free is kept for the one that waits longest, and another one is
in case that it is not known here which that is."""

PATIENCE = timedelta(seconds=20)
"""How long who waits for rest waits for the next try of a slice that failed to start before."""


@dataclass(frozen=True, slots=True)
class FailedLook:
    """A look at a job that could not be finished; it is tried again."""

    reason: Reason
    message: str
    times: int


class Prospects:
    """Safe from several threads as long as no two look at the same job at once."""

    def __init__(self, store: JobStore, executor: Executor, clock: Clock) -> None:
        self._store = store
        self._executor = executor
        self._clock = clock
        self._waiting: dict[JobKey, None] = {}  # in the order in which they began to wait
        self._for_slots: set[JobKey] = set()
        self._alarms: set[JobKey] = set()
        self._held: set[JobKey] = set()
        self._failed: dict[JobKey, FailedLook] = {}
        self._restarts: Mapping[SliceId, int] = {}

    # -- what was seen -----------------------------------------------------------------------------------------------
    def begin(self) -> None:
        """What failed to start before this process did counts for nothing: somebody may have mended it."""
        self._restarts = {part.id: part.restarts for part in self._store.open_slices()}

    def looking(self, key: JobKey) -> None:
        """It may be refused hosts now: room that is made meanwhile is not to be overlooked."""
        self._waiting.setdefault(key)
        self._for_slots.discard(key)

    def looked(self, key: JobKey, look: Look) -> None:
        self._failed.pop(key, None)
        if not look.waits:
            self._waiting.pop(key, None)
        for keys, among in (
            (self._for_slots, look.behind is not None),
            (self._alarms, look.again is not None and not look.outside),
            (self._held, look.held),
        ):
            if among:
                keys.add(key)
            else:
                keys.discard(key)

    def failed(self, key: JobKey, why: Blocked) -> int:
        """How often in a row, this time included."""
        self._waiting.pop(key, None)
        self._for_slots.discard(key)
        self._alarms.discard(key)
        before = self._failed.get(key)
        times = 1 if before is None else before.times + 1
        self._failed[key] = FailedLook(why.reason, str(why), times)
        return times

    def may_go_on(self) -> Sequence[JobKey]:
        """Who is to look again, now that there is room: all that wait for hosts, and of those that wait for slots the few
        that have waited longest. Each that gets in makes the next be asked; to ask all of hundreds each time would leave no
        time for anything else."""
        waiting = tuple(self._waiting)
        slots = [key for key in waiting if key in self._for_slots]
        return [*(key for key in waiting if key not in self._for_slots), *slots[:NEXT]]

    def waits(self, key: JobKey) -> bool:
        return key in self._waiting

    @property
    def failures(self) -> Mapping[JobKey, FailedLook]:
        """Looks that could not be finished so far."""
        return dict(self._failed)

    def liveness(self, part: Slice) -> Liveness:
        return self._executor.liveness(part.id, part.fence, part.place)

    # -- what is to come ---------------------------------------------------------------------------------------------
    def of_slices(self, parts: Sequence[Slice]) -> tuple[Sequence[Slice], Sequence[Slice]]:
        """Open slices: those of which something is to come, and the others."""
        hopeless = [part for part in parts if self._seems_hopeless(part)]
        return [part for part in parts if part not in hopeless], hopeless

    def anything(self, hopeless: Sequence[Slice]) -> bool:
        """Of any job, where all open slices are hopeless. A job that waits for another is woken when that one makes room;
        for these, in vain."""
        if any(failed.times < GIVE_UP for failed in tuple(self._failed.values())):
            return True
        in_vain = {self._store.key_of_run(part.run) for part in hopeless}
        if hopeless:
            in_vain |= set(self._waiting)
        return bool((set(self._waiting) | self._alarms) - in_vain)

    def _seems_hopeless(self, part: Slice) -> bool:
        """Nothing runs for it, and again and again it could not be started, or what became of it not be recorded; or it is
        not to start before somebody says so."""
        if self.liveness(part) is Liveness.ALIVE:
            return False
        key = self._store.key_of_run(part.run)
        if part.state is SliceState.PLANNED:
            failed_here = part.restarts - self._restarts.get(part.id, 0)
            if key in self._held or failed_here >= GIVE_UP or (failed_here > 0 and self._is_far(part)):
                return True
        failed = self._failed.get(key) if key is not None else None
        return failed is not None and failed.times >= GIVE_UP

    def _is_far(self, part: Slice) -> bool:
        """Whether its next try is later than anybody who waits for rest is to wait."""
        return part.not_before is not None and part.not_before - self._clock.now() > PATIENCE
