"""What people look up a page at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from reconciler.adapters.store.rows import folded
from reconciler.adapters.store.summaries import batch_search, tags_of
from reconciler.core.facts import Child, ChildStatus, JobKey, TaskCounts
from reconciler.core.hosts import natural_text
from reconciler.core.status import Phase
from reconciler.ports import (
    AttemptRow,
    BatchesWanted,
    BatchMark,
    BatchRow,
    RunRow,
    RunsWanted,
    ServerMark,
    ServerRow,
    ServersWanted,
    SpooledLine,
)
from tests.fakes.store.history import Lookups, in_a_list
from tests.fakes.store.memory import KeptRun, one_at_a_time


class Browsing(Lookups):
    # -- batches -----------------------------------------------------------------------------------------------------
    @one_at_a_time
    def batches(self, wanted: BatchesWanted, after: BatchMark | None, limit: int) -> Sequence[BatchRow]:
        rows = [row for row in self._among(wanted) if _of_phases(wanted, row.status.status.phase)]
        rows.sort(key=lambda row: row.mark.key)
        rows.sort(key=lambda row: row.active_at, reverse=True)
        return tuple(row for row in rows if after is None or _beyond(row.mark, after))[:limit]

    @one_at_a_time
    def batches_of(self, keys: Sequence[JobKey]) -> Sequence[BatchRow]:
        return tuple(row for row in self._among(BatchesWanted()) if row.mark.key in set(keys))

    @one_at_a_time
    def status_texts(self, keys: Sequence[JobKey]) -> Mapping[JobKey, str]:
        return {row.mark.key: row.status.model_dump_json() for row in self.batches_of(keys)}

    @one_at_a_time
    def phase_counts(self, wanted: BatchesWanted) -> Mapping[Phase, int]:
        return dict(Counter(row.status.status.phase for row in self._among(wanted)))

    def _among(self, wanted: BatchesWanted) -> Iterator[BatchRow]:
        """In whatever phase."""
        for key, status in {**self._invalid, **self._statuses}.items():
            search = batch_search(key, status.status.playbook)
            if wanted.source in (None, key.source) and folded(wanted.text) in search:
                yield BatchRow(in_a_list(status), self._active[key])

    # -- jobs --------------------------------------------------------------------------------------------------------
    @one_at_a_time
    def run_rows(self, wanted: RunsWanted, before: str | None, limit: int) -> Sequence[RunRow]:
        runs = list(self._runs.values())
        if before in self._runs:
            runs = runs[: list(self._runs).index(before)]
        elif before is not None:
            runs = [run for run in runs if run.new.job_id < before]
        return tuple(_run_row(run) for run in reversed(runs) if _is_wanted(run, wanted))[:limit]

    @one_at_a_time
    def run_row(self, job_id: str) -> RunRow | None:
        return _run_row(self._runs[job_id]) if job_id in self._runs else None

    @one_at_a_time
    def latest_run(self, key: JobKey) -> str | None:
        return next((run.new.job_id for run in reversed(self._runs.values()) if run.new.key == key), None)

    @one_at_a_time
    def child(self, job_id: str) -> tuple[JobKey, Child] | None:
        found = self._find_child(job_id)
        return None if found is None else (found[0].new.key, found[1])

    @one_at_a_time
    def child_page(self, run: str, statuses: frozenset[ChildStatus], after: int, limit: int) -> Sequence[Child]:
        children = self._runs[run].children.values() if run in self._runs else ()
        of_status = (child for child in children if not statuses or child.status in statuses)
        return tuple(child for child in of_status if child.ordinal > after)[:limit]

    @one_at_a_time
    def attempts(self, job_id: str) -> Sequence[AttemptRow]:
        found = self._find_child(job_id)
        if found is None:
            return ()
        state, child = found
        rows = [_attempt_row(number, ended) for (host, number), ended in state.attempts.items() if host == child.host]
        for each in state.open_slices:
            if child.host in each.part.hosts:
                started = each.part.started_at
                status = ChildStatus.PENDING if started is None else ChildStatus.RUNNING
                rows.append(AttemptRow(each.part.attempt, status, None, "", None, TaskCounts(), started, None))
        return tuple(sorted(rows, key=lambda row: row.number))

    def _find_child(self, job_id: str) -> tuple[KeptRun, Child] | None:
        return next(
            ((run, child) for run in self._runs.values() for child in run.children.values() if child.job_id == job_id),
            None,
        )

    @one_at_a_time
    def log_page(
        self, run: str, host: str | None, attempt: int | None, after: int, limit: int
    ) -> Sequence[SpooledLine]:
        return self._lines_of(run, host, attempt, after)[:limit]

    # -- servers -----------------------------------------------------------------------------------------------------
    @one_at_a_time
    def servers(self, wanted: ServersWanted, after: ServerMark | None, limit: int) -> Sequence[ServerRow]:
        rows = sorted(self._server_rows(wanted), key=lambda row: _place(row.mark))
        return tuple(row for row in rows if after is None or _place(row.mark) > _place(after))[:limit]

    @one_at_a_time
    def server_tags(self, source: str | None) -> Mapping[str, int]:
        rows = self._server_rows(ServersWanted(source=source))
        return dict(Counter(tag for row in rows for tag in tags_of(row.tags, row.groups)))

    def _server_rows(self, wanted: ServersWanted) -> Iterator[ServerRow]:
        groups = set() if wanted.group is None else {f"group:{wanted.group}"}
        for (source, inventory, name), known in self._servers.items():
            host = known.host
            tags = tags_of(host.tags, host.groups)
            if (
                wanted.source in (None, source)
                and (not wanted.names or name in wanted.names)
                and folded(wanted.text) in folded(name, host.address)
                and set(tags) >= wanted.tags | groups
            ):
                last = self._last_of(source, inventory, name)
                yield ServerRow(
                    source,
                    inventory,
                    name,
                    host.address,
                    tuple(sorted(host.tags)),
                    tuple(sorted(host.groups)),
                    known.first_seen,
                    known.last_seen,
                    None if last is None else last.children[name],
                    None if last is None else last.new.key,
                )

    def _last_of(self, source: str, inventory: str, name: str) -> KeptRun | None:
        return next(
            (
                run
                for run in reversed(self._runs.values())
                if (run.new.key.source, run.new.inventory) == (source, inventory) and name in run.children
            ),
            None,
        )


def _of_phases(wanted: BatchesWanted, phase: Phase) -> bool:
    return phase in wanted.phases if wanted.phases else phase is not Phase.REMOVED


def _beyond(mark: BatchMark, after: BatchMark) -> bool:
    return mark.active_at < after.active_at or (mark.active_at == after.active_at and mark.key > after.key)


def _place(mark: ServerMark) -> tuple[str, str, str, str]:
    return natural_text(mark.name), mark.name, mark.source, mark.inventory


def _is_wanted(run: KeptRun, wanted: RunsWanted) -> bool:
    return (
        wanted.source in (None, run.new.key.source)
        and wanted.name in (None, run.new.key.name)
        and (not wanted.statuses or run.run.status in wanted.statuses)
    )


def _run_row(state: KeptRun) -> RunRow:
    return RunRow(state.new.key, state.summary(), state.new.spec.playbook)


def _attempt_row(number: int, child: Child) -> AttemptRow:
    return AttemptRow(
        number, child.status, child.reason, child.message, child.task, child.counts, child.started_at, child.finished_at
    )
