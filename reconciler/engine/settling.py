"""Slices whose process is gone, hangs, or is on a machine that can't be asked: whether they are started again, or lost.

A slice that never started touched no host, and is started again. One that has started is lost, and what nothing proves
of its hosts is unknown; first everything that was left of it is ended, so that no host is freed while something still
works on it. Where that can't be done, its hosts stay locked for as long as it may run.

Leases are judged by the monotonic clock, from when they were first seen as they are: the wall clock may jump.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from reconciler.core.errors import Unavailable
from reconciler.core.facts import JobKey, Run, Slice, SliceId, SliceState
from reconciler.core.manifest import Timeouts
from reconciler.ports import VANISHED, Clock, Executor, JobStore, Liveness, Spool, SpooledLine

log = structlog.get_logger()

RESTART_FIRST = timedelta(seconds=1)
RESTART_MOST = timedelta(minutes=5)

ENDING = timedelta(seconds=60)
"""What a slice's own process may take to end what it runs, once `timeouts.wave` has passed: far more than it does."""

OUT_OF_REACH = (
    "the machine that ran this host could not be asked, or what ran there not be ended, before timeouts.wave had passed; "
    "nothing proves how it ended"
)

LINES_AT_ONCE = 1000
"""Lines of a log that are brought to the store in one transaction."""


_Row = tuple[SliceState, int, datetime | None]


@dataclass(frozen=True, slots=True)
class _Sight:
    """A slice, and since when it has been seen as it is, in seconds of the monotonic clock."""

    row: _Row
    liveness: Liveness
    since: float
    started: float | None
    """When it was started, as far as was to be known when that was first seen."""


def _row(part: Slice) -> _Row:
    """What changes as long as somebody answers for it: a claim, a renewed lease."""
    return part.state, part.fence, part.lease_expires_at


class Settler:
    """Decides over slices. Safe from several threads as long as no two settle the same job at once."""

    def __init__(self, store: JobStore, executor: Executor, clock: Clock, lease: timedelta) -> None:
        self._store = store
        self._executor = executor
        self._clock = clock
        self._lease = lease
        self._answers_since = clock.monotonic()
        self._sights: dict[JobKey | None, dict[SliceId, _Sight]] = {}

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
        """Whether anything was decided over a slice of this job."""
        parts = [part for part in run.slices if part.state.open] if run is not None else []
        return self._settle_all(key, parts)

    def settle_own(self) -> bool:
        """The same for whoever does not lead, over slices of which the process was on this machine: nobody else can ask
        here. Raises Unavailable when the store is away."""
        try:
            claimed = [part for part in self._store.open_slices() if part.place is not None]
            here = [part for part in claimed if self._liveness(part) is not Liveness.UNREACHABLE]
            return self._settle_all(None, here)
        except Unavailable:
            self.store_was_away()
            raise

    def _liveness(self, part: Slice) -> Liveness:
        return self._executor.liveness(part.id, part.fence, part.place)

    def _settle_all(self, whose: JobKey | None, parts: Sequence[Slice]) -> bool:
        known = self._sights.pop(whose, {})
        if not parts:
            return False
        sights = self._sights[whose] = {part.id: self._look(part, known.get(part.id)) for part in parts}
        settled = [self._settle(part, sights[part.id]) for part in parts]
        return any(settled)

    def _look(self, part: Slice, before: _Sight | None) -> _Sight:
        now = self._clock.monotonic()
        started = before.started if before is not None else None
        if part.started_at is not None and started is None:
            started = now - max(0.0, (self._clock.now() - part.started_at).total_seconds())
        row, liveness = _row(part), self._liveness(part)
        as_before = before is not None and (before.row, before.liveness) == (row, liveness)
        return _Sight(row, liveness, before.since if before is not None and as_before else now, started)

    def _settle(self, part: Slice, sight: _Sight) -> bool:
        """Whether its process is gone is its executor's word, never a guess. But one that lives and says nothing for two
        whole terms hangs, and so long is waited where nobody can be asked."""
        if sight.liveness is not Liveness.GONE and not self._is_silent(part, sight):
            return False
        if part.state is SliceState.PLANNED:
            return self._settle_planned(part, sight.liveness)
        liveness = sight.liveness
        if liveness is not Liveness.UNREACHABLE:
            liveness = self._executor.kill(part.id, part.fence, part.place)
        if part.state is SliceState.CLAIMED:
            # One elsewhere that only seems to be gone can't start any more: its fence is over.
            if liveness is Liveness.GONE or self._is_silent(part, sight):
                self._start_again(part)
                return True
            return False
        if liveness is not Liveness.GONE and not self._has_had_its_time(part, sight):
            return False
        self._lose(part, VANISHED if liveness is Liveness.GONE else OUT_OF_REACH)
        return True

    def _settle_planned(self, part: Slice, liveness: Liveness) -> bool:
        """Nobody has claimed it. Where there is no process, one is started by whoever plans."""
        if liveness is Liveness.ALIVE:
            liveness = self._executor.kill(part.id, part.fence)
        if liveness is Liveness.GONE:
            self._start_again(part)
        return liveness is Liveness.GONE

    def _is_silent(self, part: Slice, sight: _Sight) -> bool:
        """Whether it has been as it is for two whole terms, in which whoever answers for it could have said so. The
        store is asked once more: this process may itself have been stopped since it last asked."""
        now = self._clock.monotonic()
        if min(now - sight.since, now - self._answers_since) <= 2 * self._lease.total_seconds():
            return False
        return any(_row(there) == sight.row for there in self._store.open_slices() if there.id == part.id)

    def _has_had_its_time(self, part: Slice, sight: _Sight) -> bool:
        """Whether even its own process would have ended it by now, as its manifest has it."""
        key = self._store.key_of_run(part.run)
        record = self._store.manifest(key) if key is not None else None
        wave = (record.spec.timeouts if record is not None else Timeouts()).wave
        started = self._clock.monotonic() if sight.started is None else sight.started
        over = self._clock.monotonic() - started >= (wave + ENDING).total_seconds()
        if not over:
            log.warning("slice_out_of_reach", slice=part.id, place=part.place, hosts=len(part.hosts))
        return over and self._is_silent(part, sight)

    def _lose(self, part: Slice, why: str) -> None:
        spool = self._executor.recover(part.id, part.place)
        proven = {outcome.host for outcome in spool.result.outcomes} if spool is not None and spool.result else set()
        if lost := set(part.hosts) - proven:
            log.warning("slice_lost", slice=part.id, hosts=len(lost), why=why)
        else:
            log.info("slice_recovered", slice=part.id, hosts=len(part.hosts))
        if spool is not None:
            for lines in _in_parts(spool.logs):
                if not self._store.append_logs(part.id, part.fence, lines):
                    break
            spool = Spool((), spool.result)
        self._store.lose(part.id, part.fence, spool, why)
        self._executor.forget(part.id)

    def _start_again(self, part: Slice) -> None:
        said = self._executor.last_words(part.id, part.place)
        why = "its process ended before it began" + (f": {said}" if said else "")
        self.start_again(part.id, part.fence, part.restarts, why)

    def start_again(self, slice_id: SliceId, fence: int, restarts: int, message: str) -> None:
        pause = min(RESTART_MOST, RESTART_FIRST * 2 ** min(restarts, 10))
        log.warning("slice_restarts", slice=slice_id, after=pause.total_seconds(), why=message)
        self._store.requeue(slice_id, fence, self._clock.now() + pause, message)


def _in_parts(lines: Sequence[SpooledLine]) -> Iterator[Sequence[SpooledLine]]:
    """So that no transaction is long."""
    return (lines[start : start + LINES_AT_ONCE] for start in range(0, len(lines), LINES_AT_ONCE))
