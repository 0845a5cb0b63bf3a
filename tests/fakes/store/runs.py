"""Runs: opening one with all its children, ending what never started, ending it, and removing what is old."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reconciler.core.facts import Child, ChildStatus, HostRecord, JobKey, Revision, Run, RunStatus
from reconciler.core.reasons import Reason
from reconciler.ports import NewRun
from tests.fakes.store.memory import KeptRun, Memory, one_at_a_time


class Runs(Memory):
    @one_at_a_time
    def open_run(self, new: NewRun) -> bool:
        known = self._causes.get((new.key, new.cause.kind, new.cause.key))
        if known is None or known.handled or any(run.run.open for run in self._of(new.key)):
            return False
        if self._pauses.keys() & {None, new.key.source}:
            return False
        run = Run(
            job_id=new.job_id,
            cause=new.cause.kind,
            cause_key=new.cause.key,
            cause_message=new.cause.message,
            generation=new.generation,
            work_digest=new.work_digest,
            playbook_digest=new.playbook_digest,
            revision=new.revision,
            spec=new.spec,
            status=RunStatus.PENDING,
            created_at=self.clock.now(),
            commit=new.commit,
            retry_of=new.cause.retry_of,
        )
        stem = "job-" + new.job_id.removeprefix("batch-")
        children = {
            host.name: Child(f"{stem}-{ordinal:04}", host.name, host.host_key, host.address, ordinal, commit=new.commit)
            for ordinal, host in enumerate(new.hosts, start=1)
        }
        self._runs[new.job_id] = KeptRun(new, run, children)
        self._see_servers(new.key.source, new.inventory, new.hosts)
        self._active[new.key] = run.created_at
        records = self._records[new.key]
        for host in new.hosts:
            before = records.get(host.name)
            records[host.name] = (
                replace(before, seen_digest=new.coverage_digest) if before else HostRecord(None, new.coverage_digest)
            )
        for cause in new.handles:
            self._causes[new.key, cause.kind, cause.key].handle(new.job_id, self.clock.now())
        self._tell(new.key, "RunOpened", new.job_id, new.cause.kind, new.cause.message)
        return True

    @one_at_a_time
    def skip(self, run: str, hosts: Sequence[str], reason: Reason, message: str) -> None:
        state = self._runs[run]
        taken = {host for each in state.open_slices for host in each.part.hosts}
        pending = [
            host
            for host in hosts
            if host not in taken
            and state.children[host].status is ChildStatus.PENDING
            and state.children[host].retry_at is None
        ]
        if pending:
            ended = {"status": ChildStatus.SKIPPED, "reason": reason, "message": message}
            self._change(state, pending, **ended, finished_at=self.clock.now())
            self._counters["children_finished_total"][ChildStatus.SKIPPED.value,] += len(pending)
            self._tell(state.new.key, "HostsSkipped", run, reason, f"{len(pending)} hosts")

    @one_at_a_time
    def finish_run(self, run: str, status: RunStatus, reason: Reason, message: str) -> bool:
        state, now = self._runs[run], self.clock.now()
        if not state.run.open:
            return False
        state.run = replace(state.run, status=status, reason=reason, message=message, finished_at=now)
        state.waiting_since = state.waiting_seen_at = None
        if status is RunStatus.SUCCESS:
            children = state.children.values()
            self._remember(state, [child.host for child in children if child.reason is Reason.NOT_TARGETED])
        self._counters["runs_finished_total"][status.value, reason.value] += 1
        if state.run.started_at is not None:
            self._count_duration("run_duration_seconds", status.value)
        self._tell(state.new.key, "RunFinished", run, reason, message)
        return True

    @one_at_a_time
    def open_runs(self) -> Sequence[tuple[JobKey, str]]:
        return tuple((run.new.key, name) for name, run in self._runs.items() if run.run.open)

    @one_at_a_time
    def key_of_run(self, run: str) -> JobKey | None:
        return self._runs[run].new.key if run in self._runs else None

    @one_at_a_time
    def revisions_in_use(self, source: str) -> frozenset[Revision]:
        removed = {key for key, record in self._manifests.items() if record.removed_at is not None}
        ours = [run for run in self._runs.values() if run.new.key.source == source]
        latest = {run.new.key: run for run in ours if run.new.key not in removed}
        unfinished = (run for run in ours if run.run.open)
        pending = {
            each.cause.pinned for each in self._causes.values() if each.key.source == source and not each.handled
        }
        kept = {run.run.revision for run in (*latest.values(), *unfinished)}
        return frozenset(kept | {revision for revision in pending if revision is not None})
