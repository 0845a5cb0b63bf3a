"""Hosts that are tried again, runs that are held, and hosts of which a person says how they ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.adapters.store.rows import storable
from reconciler.core.facts import ChildStatus, RunStatus
from reconciler.core.folding import conclude
from reconciler.core.reasons import Reason
from reconciler.ports import Request
from tests.fakes.store.memory import one_at_a_time
from tests.fakes.store.requests import Requests
from tests.fakes.store.slices import Slices


class Retries(Requests, Slices):
    @one_at_a_time
    def hold_run(self, run: str, since: datetime) -> None:
        state = self._runs.get(run)
        if state is None or not state.run.open or state.run.held_since is not None:
            return
        state.run = replace(state.run, held_since=since)
        self._tell(state.new.key, "RunHeld", run)

    @one_at_a_time
    def release_run(self, run: str) -> None:
        state = self._runs.get(run)
        if state is None or not state.run.open or state.run.held_since is None:
            return
        passed = max(timedelta(0), self.clock.now() - state.run.held_since)
        state.run = replace(state.run, held_since=None, held=state.run.held + passed)
        self._tell(state.new.key, "RunReleased", run)

    @one_at_a_time
    def give_up_retries(self, run: str, hosts: Sequence[str]) -> None:
        state = self._runs[run]
        waiting = [
            host
            for host in hosts
            if state.children[host].status is ChildStatus.PENDING and state.children[host].retry_at is not None
        ]
        for host in waiting:
            self._let_stand(state, host, state.children[host].attempt)
        if waiting:
            self._tell(state.new.key, "RetriesGivenUp", run, text=f"{len(waiting)} hosts")

    @one_at_a_time
    def accept_resolve(self, request: Request, child: str, status: ChildStatus, message: str) -> bool:
        state, known = next(
            (state, found)
            for state in self._runs.values()
            for found in state.children.values()
            if found.job_id == child
        )
        if known.status is not ChildStatus.UNKNOWN:
            self._answer(request, f"refused: {known.host} is {known.status}, not unknown")
            return False
        if not self._answer(request, "accepted"):
            return False
        self._change(state, (known.host,), status=status, reason=Reason.RESOLVED, message=storable(message))
        state.attempts[known.host, known.attempt] = state.children[known.host]
        if status is ChildStatus.SUCCESS:
            self._remember(state, (known.host,))
        if not state.run.open:
            self._conclude_again(state.new.job_id)
        self._tell(state.new.key, "HostResolved", state.new.job_id, Reason.RESOLVED, message)
        return True

    def _conclude_again(self, run: str) -> None:
        state = self._runs[run]
        children = tuple(state.children.values())
        ended = conclude(children, state.run.stop, state.run.error)
        state.run = replace(state.run, status=ended.status, reason=ended.reason, message=ended.message)
        if ended.status is RunStatus.SUCCESS:
            self._remember(state, [child.host for child in children if child.reason is Reason.NOT_TARGETED])
