"""One slice, in a process of its own: claim it, run its playbook, write down how every host ended.

    claim → prepare → mark started → run, with a heartbeat → spool → record

What holds throughout: nothing runs without a claim, nothing is written once the claim is over, and what ended is in
the spool on this machine before it is in the database, so that a database that is away for a while costs nothing. The
lease is judged by this process's own monotonic clock since the last renewal that succeeded: a clock that jumps breaks
no lease, and a process that was stopped for too long ends what it runs instead of going on with it. Whoever follows the
playbook judges it too, for the thread that renews the lease may itself wait for ever for an answer.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.facts import ChildStatus, HostOutcome, Revision, RunError, SliceId
from reconciler.core.manifest import Timeouts
from reconciler.core.reasons import Reason
from reconciler.engine.loglimit import LogLimit
from reconciler.ports import (
    Beat,
    Clock,
    LogLine,
    PlaybookResult,
    PlaybookWork,
    PreparedPlaybook,
    Runner,
    SliceStore,
    SliceWork,
    SpooledLine,
    StopKind,
)

log = logging.getLogger(__name__)
"""Of the standard library: structlog brings rich with it, a fifth of what this process takes to start."""

T = TypeVar("T")

LINES_AT_ONCE = 1000
CHARACTERS_AT_ONCE = 1 << 20
"""How much of a log goes to the store in one transaction."""


class SpoolWriter(Protocol):
    """Where a slice writes things down before they reach the store."""

    def line(self, line: SpooledLine) -> None: ...
    def result(self, result: PlaybookResult) -> None:
        """On disk when it returns."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often a slice does what."""

    lease: timedelta = timedelta(seconds=60)
    renew: timedelta = timedelta(seconds=10)
    ask: timedelta = timedelta(seconds=1)
    """How often it asks whether it was told to stop."""
    record: timedelta = timedelta(seconds=0.5)
    """How often log lines go to the store."""
    leave: timedelta = timedelta(seconds=5)
    """How long it waits, at its end, for a thread that waits for the database."""


def as_pinned(work: SliceWork) -> Timeouts:
    return work.spec.timeouts


class SliceProcess:
    """Runs one slice to its end. `runner_of` gives the runner for a source; `project` finds the unchanging copy of a source
    at a revision. `timeouts` says how long things may take: they steer, so that a change in the middle of a run holds from
    its next wave on. `mark` is what whoever started this process will look for; None: slice and fence."""

    def __init__(
        self,
        store: SliceStore,
        runner_of: Callable[[str], Runner],
        spool: SpoolWriter,
        clock: Clock,
        project: Callable[[str, Revision], Path],
        rhythm: Rhythm = Rhythm(),
        timeouts: Callable[[SliceWork], Timeouts] = as_pinned,
        mark: str | None = None,
        *,
        max_log_bytes: int,
    ) -> None:
        self._store = store
        self._runner_of = runner_of
        self._spool = spool
        self._clock = clock
        self._project = project
        self._rhythm = rhythm
        self._timeouts = timeouts
        self._mark = mark
        self._max_log_bytes = max_log_bytes
        self._printed = threading.Event()
        self._over = threading.Event()
        self._stop: StopKind | None = None
        self._stop_lock = threading.Lock()
        self._renewed = clock.monotonic()
        self._lines: deque[SpooledLine] = deque()
        self._lines_lock = threading.Lock()
        self._sequence = 0
        self._spool_failed = False

    def run(self, slice_id: SliceId, fence: int, owner: str, place: str, directory: Path) -> bool:
        """True once the result is in the store. False if it was not this process's to run, could not be started, or was
        decided over by somebody else: what is spooled is to be kept then."""
        self._renewed = self._clock.monotonic()
        try:
            work = self._answer(lambda: self._claim(slice_id, fence, owner, place))
        except Unavailable as error:
            log.warning("not claimed: %s", error.message)
            return False
        if work is None:
            return False
        threads = [
            threading.Thread(target=self._keep_lease, args=(work,), name="lease", daemon=True),
            threading.Thread(target=self._keep_recording, args=(work,), name="record", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            return self._run(work, directory)
        finally:
            self._printed.set()
            self._over.set()
            for thread in threads:
                thread.join(self._rhythm.leave.total_seconds())

    def _claim(self, slice_id: SliceId, fence: int, owner: str, place: str) -> SliceWork | None:
        before = self._clock.monotonic()
        work = self._store.claim(slice_id, fence, owner, self._rhythm.lease, place)
        self._renewed = before
        return work

    def _run(self, work: SliceWork, directory: Path) -> bool:
        try:
            timeouts = self._answer(lambda: self._timeouts(work))
            prepared = self._prepare(work, timeouts, directory)
        except Refused as error:
            log.warning("it can't be run: %s (%s)", error, error.reason.value)
            return self._refuse(work, error)
        except ReconcilerError as error:
            log.warning("given back, it could not start: %s (%s)", error, error.reason.value)
            self._give_back(work, str(error))
            return False
        if not self._mark_started(work):
            return False
        result = self._follow(work, prepared, self._clock.monotonic() + timeouts.wave.total_seconds())
        if self._is_lost():
            # Whoever decides over it then is to know what was proven, if nobody has decided yet.
            proven = tuple(outcome for outcome in result.outcomes if outcome.status is not ChildStatus.UNKNOWN)
            self._keep(lambda: self._spool.result(replace(result, outcomes=proven)))
            log.warning("the lease is lost: what it ran has been ended, nothing more is written")
            return False
        self._keep(lambda: self._spool.result(result))
        if result.unended:
            log.warning("a process can't be ended: its hosts stay locked until it is gone, or its time is over")
            return False
        return self._record(work, result)

    def _mark_started(self, work: SliceWork) -> bool:
        """False: it is told to stop, or another decision was made over it, or nobody can be asked for too long. Then
        nothing was executed, and it is given back."""
        try:
            if self._answer(lambda: self._store.mark_started(work.slice_id, work.fence)):
                return not self._is_lost()
            why = "it was told to stop before it began"
        except Unavailable as error:
            why = error.message
        self._give_back(work, why)
        return False

    def _give_back(self, work: SliceWork, why: str) -> None:
        """If that can't be said, whoever misses this process finds that nothing had begun."""
        try:
            self._answer(
                lambda: self._store.give_back(work.slice_id, work.fence, Reason.EXECUTOR_UNAVAILABLE, why),
            )
        except Unavailable as error:
            log.warning("not given back: %s", error.message)

    def _refuse(self, work: SliceWork, error: Refused) -> bool:
        """Somebody has to change something: to try again and again would keep its hosts from all others."""
        message = f"not started: {error.message}"
        outcomes = (HostOutcome(host, ChildStatus.ABORTED, error.reason, message) for host in work.hosts)
        return self._record(work, PlaybookResult(tuple(outcomes), RunError(error.reason, error.message, error.hint)))

    def _prepare(self, work: SliceWork, timeouts: Timeouts, directory: Path) -> PreparedPlaybook:
        spec = work.spec
        return self._runner_of(work.key.source).prepare(
            PlaybookWork(
                directory=directory,
                project=self._project(work.key.source, work.revision),
                playbook=spec.playbook,
                inventory=spec.inventory,
                hosts=work.hosts,
                extra_vars=spec.extra_vars,
                extra_vars_files=spec.extra_vars_files,
                tags=spec.tasks.tags,
                skip_tags=spec.tasks.skip_tags,
                check_mode=spec.check_mode,
                task_timeout=timeouts.task,
                mark={"RECONCILER_SLICE": self._mark or f"{work.slice_id}:{work.fence}"},
            )
        )

    def _follow(self, work: SliceWork, prepared: PreparedPlaybook, deadline: float) -> PlaybookResult:
        """Run it, and write down what it says, as far as its logs may go."""
        limit = LogLimit(self._max_log_bytes, work.hosts)

        def take(line: LogLine) -> None:
            for kept in limit.kept(line):
                self._log(kept)

        result = prepared.run(take, lambda: self._told(deadline))
        for line in limit.rest():
            self._log(line)
        self._printed.set()
        return result

    # -- the database, and who decides -------------------------------------------------------------------------------
    def _answer(self, ask: Callable[[], T]) -> T:
        """What the database says; asked again and again while it is away, until the lease is over. Raises Unavailable
        then."""
        while True:
            try:
                return ask()
            except Unavailable as error:
                if self._has_expired():
                    raise
                log.warning("the database can't be used now: %s", error.message)
                self._over.wait(self._rhythm.ask.total_seconds())

    def _told(self, deadline: float) -> StopKind | None:
        if not self._is_lost() and self._clock.monotonic() >= deadline:
            self._stop_for(StopKind.DEADLINE)
        return self._stop

    def _has_expired(self) -> bool:
        return self._clock.monotonic() - self._renewed > self._rhythm.lease.total_seconds()

    def _is_lost(self) -> bool:
        if self._has_expired():
            self._stop_for(StopKind.LOST)
        return self._stop is StopKind.LOST

    def _stop_for(self, why: StopKind) -> None:
        """What came first stands; but once the lease is lost, nothing else counts."""
        with self._stop_lock:
            if self._stop is None or why is StopKind.LOST:
                self._stop = why

    def _keep_lease(self, work: SliceWork) -> None:
        asked_at = self._clock.monotonic()
        while not self._over.wait(self._rhythm.ask.total_seconds()):
            beat: Beat | None = None
            try:
                renew = self._clock.monotonic() - asked_at >= self._rhythm.renew.total_seconds()
                beat = self._beat(work) if renew else self._ask(work)
                if renew:
                    asked_at = self._clock.monotonic()
            except Unavailable as error:
                log.warning("the database can't be used now: %s", error.message)
            if beat is Beat.LOST:
                self._stop_for(StopKind.LOST)
            elif beat is Beat.CANCEL:
                self._stop_for(StopKind.CANCEL)
            if self._is_lost():
                return

    def _beat(self, work: SliceWork) -> Beat:
        before = self._clock.monotonic()
        beat = self._store.heartbeat(work.slice_id, work.fence, self._rhythm.lease)
        if beat is not Beat.LOST:
            self._renewed = before
        return beat

    def _ask(self, work: SliceWork) -> Beat | None:
        return Beat.CANCEL if self._store.stop_requested(work.slice_id) else None

    # -- writing down ------------------------------------------------------------------------------------------------
    def _log(self, line: LogLine) -> None:
        self._sequence += 1
        spooled = SpooledLine(self._sequence, line.host, line.text)
        self._keep(lambda: self._spool.line(spooled))
        with self._lines_lock:
            self._lines.append(spooled)

    def _keep(self, write: Callable[[], None]) -> None:
        """Into the spool. A disk that is full costs what is there for the case that the store is away, and no more:
        the playbook goes on, and the store is told."""
        try:
            write()
        except OSError as error:
            if not self._spool_failed:
                log.warning("its spool can't be written: %s", error)
            self._spool_failed = True

    def _keep_recording(self, work: SliceWork) -> None:
        while not self._printed.wait(self._rhythm.record.total_seconds()):
            try:
                self._record_lines(work)
            except Unavailable as error:
                log.warning("the database can't be used now: %s", error.message)

    def _record_lines(self, work: SliceWork) -> None:
        """A few at a time, so that no transaction is long. Two threads may do so at once: what is there already stays as
        it is."""
        while lines := self._next_lines():
            if not self._store.append_logs(work.slice_id, work.fence, lines):
                return
            with self._lines_lock:
                while self._lines and self._lines[0].sequence <= lines[-1].sequence:
                    self._lines.popleft()

    def _next_lines(self) -> Sequence[SpooledLine]:
        found: list[SpooledLine] = []
        with self._lines_lock:
            characters = 0
            for line in islice(self._lines, LINES_AT_ONCE):
                found.append(line)
                characters += len(line.text)
                if characters > CHARACTERS_AT_ONCE:
                    break
        return found

    def _record(self, work: SliceWork, result: PlaybookResult) -> bool:
        """Bring lines and result to the store, however long it is away. A lease that ends meanwhile ends this too: the
        spool has everything, and whoever decides then reads it. An answer that was lost is asked for again."""
        self._printed.set()
        while True:
            try:
                self._record_lines(work)
                if self._store.finish(work.slice_id, work.fence, result):
                    return True
                log.warning("not recorded: another decision was made over it")
                return False
            except Unavailable as error:
                log.warning("the database can't be used now: %s", error.message)
                if self._has_expired():
                    return False
                self._over.wait(self._rhythm.ask.total_seconds())
