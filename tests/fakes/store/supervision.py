"""What is decided over slices from outside their processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from reconciler.core.facts import Slice, SliceId, SliceState, Stop
from reconciler.core.reasons import Reason
from reconciler.ports import VANISHED, PlaybookResult, Spool
from tests.fakes.store.memory import KeptRun, KeptSlice, one_at_a_time
from tests.fakes.store.slices import Slices

UNSTARTED = (SliceState.PLANNED, SliceState.CLAIMED)


class Supervision(Slices):
    @one_at_a_time
    def open_slices(self) -> Sequence[Slice]:
        return tuple(each.part for run in self._runs.values() for each in run.open_slices)

    @one_at_a_time
    def stop_slices(self, run: str, stop: Stop) -> None:
        state = self._runs[run]
        untold = [each for each in state.open_slices if each.stop is None]
        if untold:
            self._tell(state.new.key, "SlicesStopping", run, stop.reason, stop.message)
        for each in untold:
            each.stop = stop
            each.part = replace(each.part, stop=stop.reason)
            self._withdraw(state, each, stop)

    @one_at_a_time
    def withdraw_slices(self, ids: Sequence[SliceId], stop: Stop) -> None:
        for found in map(self._find, ids):
            if found is not None:
                self._withdraw(*found, stop)

    def _withdraw(self, state: KeptRun, each: KeptSlice, stop: Stop) -> None:
        if each.part.state is SliceState.PLANNED:
            self._end(state, each, PlaybookResult(()), stop=stop)

    @one_at_a_time
    def requeue(self, slice_id: SliceId, fence: int, not_before: datetime, message: str) -> bool:
        found = self._at(slice_id, fence, UNSTARTED)
        return found is not None and self._plan_again(*found, not_before, Reason.EXECUTOR_UNAVAILABLE, message)

    @one_at_a_time
    def lose(self, slice_id: SliceId, fence: int, spool: Spool | None, why: str = VANISHED) -> bool:
        found = self._at(slice_id, fence, (SliceState.STARTED,))
        if found is None:
            return False
        if spool is not None:
            self._add_lines(*found, spool.logs)
        result = spool.result if spool is not None and spool.result is not None else PlaybookResult(())
        whole = {outcome.host for outcome in result.outcomes}.issuperset(found[1].part.hosts)
        return self._end(*found, result, lost=None if whole else why)
