"""What is kept to be asked about later, and how it goes in the end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from reconciler.core.facts import ASKED_BY_ANNOTATION, CauseKind, JobKey, RunStatus
from reconciler.ports import Request
from tests.fakes.store.memory import KeptRun, Memory, one_at_a_time


class Audit(Memory):
    @one_at_a_time
    def requests(self, key: JobKey | None, since: datetime | None, limit: int) -> Sequence[Request]:
        found = [
            request
            for request in self._requests.values()
            if key in (None, request.key) and (since is None or request.at >= since)
        ]
        return tuple(sorted(found, key=lambda request: (request.at, request.id), reverse=True)[:limit])

    @one_at_a_time
    def trim(self, key: JobKey, keep: int, older_than: datetime) -> int:
        ended = [run.run for run in self._of(key) if run.run.finished_at is not None]
        old = {
            run.job_id
            for number, run in enumerate(ended)
            if number >= keep or (run.finished_at is not None and run.finished_at < older_than)
        }
        for name in old:
            self._runs[name].attempts.clear()
        before = len(self._lines)
        self._lines = [line for line in self._lines if line.run not in old]
        return before - len(self._lines)

    @one_at_a_time
    def purge(self, older_than: datetime, at_once: int = 500) -> int:
        old = {
            name
            for name, run in self._runs.items()
            if run.run.finished_at is not None and run.run.finished_at < older_than
        }
        gone = old - self._staying()
        removed = sum(1 + len(self._runs.pop(name).children) for name in gone)
        self._lines = [line for line in self._lines if line.run not in gone]
        causes = [
            unique
            for unique, each in self._causes.items()
            if each.handled_at is not None
            and each.handled_at < older_than
            and each.run is not None
            and each.run not in self._runs
            and not (each.cause.kind is CauseKind.REQUESTED and each.cause.key.startswith(ASKED_BY_ANNOTATION))
        ]
        requests = [
            name
            for name, request in self._requests.items()
            if request.result is not None and (request.answered_at or request.at) < older_than
        ]
        for unique in causes:
            del self._causes[unique]
        for name in requests:
            del self._requests[name]
        return removed + len(causes) + len(requests)

    def _staying(self) -> set[str]:
        """Of each job the latest run and the last that succeeded, and whatever these try again."""
        newest = {run.new.key: run for run in self._runs.values()}
        good = {run.new.key: run for run in self._runs.values() if _succeeded(run)}
        staying: set[str] = set()
        for run in (*newest.values(), *good.values()):
            followed: KeptRun | None = run
            while followed is not None:
                staying.add(followed.new.job_id)
                followed = self._runs.get(followed.run.retry_of or "")
        return staying


def _succeeded(run: KeptRun) -> bool:
    return run.run.status is RunStatus.SUCCESS and not run.new.spec.check_mode
