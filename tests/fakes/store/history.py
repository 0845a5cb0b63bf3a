"""What is known of a job, and what people look up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from reconciler.adapters.store.summaries import shrunk
from reconciler.core.facts import Child, JobKey, Observed, Run, RunStatus
from reconciler.core.folding import after_all
from reconciler.core.status import JobStatus
from reconciler.ports import SpooledLine, StoredMetrics
from tests.fakes.store.manifests import Manifests
from tests.fakes.store.memory import KeptRun, one_at_a_time
from tests.fakes.store.supervision import Supervision


def in_a_list(status: JobStatus) -> JobStatus:
    return JobStatus.model_validate(shrunk(status.model_dump(mode="json", by_alias=True)))


class Lookups(Manifests, Supervision):
    @one_at_a_time
    def observe(self, key: JobKey) -> Observed:
        runs = self._of(key)
        success = next((run for run in runs if self._is_whole_success(run, runs)), None)
        return Observed(
            causes=tuple(each.cause for each in self._causes.values() if each.key == key and not each.handled),
            run=runs[0].whole() if runs else None,
            hosts=dict(self._records[key]),
            last_success=success.summary() if success else None,
            history=tuple(run.summary() for run in runs[:5]),
            earlier=self._earlier(runs[0].run.retry_of) if runs else (),
            pause=self._pauses.get(None) or self._pauses.get(key.source),
        )

    def _is_whole_success(self, run: KeptRun, runs: Sequence[KeptRun]) -> bool:
        if run.run.status is not RunStatus.SUCCESS or run.new.spec.check_mode:
            return False
        earlier = self._earlier(run.run.retry_of)
        if earlier and any(later.run.retry_of == run.run.job_id for later in runs):
            return False
        return after_all(run.whole(), earlier).status is RunStatus.SUCCESS

    def _earlier(self, retry_of: str | None) -> tuple[tuple[Child, ...], ...]:
        state = self._runs.get(retry_of or "")
        return () if state is None else (*self._earlier(state.run.retry_of), tuple(state.children.values()))

    @one_at_a_time
    def runs(self, key: JobKey, limit: int, since: datetime | None = None) -> Sequence[Run]:
        young = [run for run in self._of(key) if since is None or run.run.created_at >= since]
        return tuple(run.whole() for run in young[:limit])

    @one_at_a_time
    def run(self, job_id: str) -> tuple[JobKey, Run] | None:
        found = self._runs.get(job_id)
        return None if found is None else (found.new.key, found.whole())

    @one_at_a_time
    def children(self, run: str) -> Sequence[Child]:
        return tuple(self._runs[run].children.values()) if run in self._runs else ()

    @one_at_a_time
    def host_history(
        self, host: str, since: datetime | None, limit: int, source: str | None = None
    ) -> Sequence[tuple[JobKey, Child]]:
        found = [
            (run.new.key, run.children[host])
            for run in reversed(self._runs.values())
            if host in run.children
            and (since is None or run.run.created_at >= since)
            and source in (None, run.new.key.source)
        ]
        return tuple(found[:limit])

    @one_at_a_time
    def log(self, run: str, host: str | None, attempt: int | None, after: int) -> Sequence[SpooledLine]:
        return self._lines_of(run, host, attempt, after)

    def _lines_of(self, run: str, host: str | None, attempt: int | None, after: int) -> tuple[SpooledLine, ...]:
        return tuple(
            SpooledLine(line.number, host, line.text)
            for line in self._lines
            if (line.run, line.host) == (run, host) and line.number > after and attempt in (None, line.attempt)
        )

    @one_at_a_time
    def metrics(self) -> StoredMetrics:
        return StoredMetrics(
            statuses=tuple(in_a_list(status) for status in self.statuses()),
            sources=self.source_statuses(),
            counters={name: dict(values) for name, values in self._counters.items()},
            running=sum(len(part.hosts) for part in self.open_slices()),
        )
