"""What became of a run, and of a chain of runs that try hosts of the one before again.

A run by itself is judged by the table of SEMANTICS "Status tables". A retry has some hosts of another run only; what is
said of the job is about all of them, each as it ended last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reconciler.core.facts import Child, ChildStatus, Observed, Run, RunError, RunStatus, Stop
from reconciler.core.reasons import Reason


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How a run ended, or a chain of runs so far."""

    status: RunStatus
    reason: Reason
    message: str


_USUAL = {
    RunStatus.SUCCESS: Reason.SUCCEEDED,
    RunStatus.FAILED: Reason.HOSTS_FAILED,
    RunStatus.CANCELLED: Reason.CANCELLED,
}


def conclude(children: Sequence[Child], stop: Stop | None, error: RunError | None) -> Conclusion:
    """The parent's status out of its children's, by the table of SEMANTICS "Status tables". All children ended."""
    counts = Counter(child.status for child in children)
    reasons = {child.reason for child in children if child.status is ChildStatus.SKIPPED}
    said = ", ".join(f"{counts[status]} {status}" for status in ChildStatus if counts[status])
    if error is not None:
        return Conclusion(RunStatus.FAILED, error.reason, str(error))
    if Reason.DEADLINE_EXCEEDED in reasons:
        return Conclusion(RunStatus.FAILED, Reason.DEADLINE_EXCEEDED, f"timeouts.run has passed: {said}")
    if any(counts[status] for status in ChildStatus if status.unsuccessful):
        return Conclusion(RunStatus.FAILED, Reason.HOSTS_FAILED, said)
    if stop is not None and (counts[ChildStatus.CANCELLED] or Reason.CANCELLED in reasons):
        return Conclusion(RunStatus.CANCELLED, stop.reason, stop.message or said)
    for reason in (Reason.CANCELLED, Reason.SUPERSEDED, Reason.REMOVED):
        if reason in reasons:
            return Conclusion(RunStatus.CANCELLED, reason, said)
    if counts[ChildStatus.CANCELLED]:
        cancelled = next((c.reason for c in children if c.status is ChildStatus.CANCELLED and c.reason), None)
        return Conclusion(RunStatus.CANCELLED, cancelled or Reason.CANCELLED, said)
    if children and reasons == {Reason.NOT_TARGETED} and counts[ChildStatus.SKIPPED] == len(children):
        why = " and ".join(sorted({child.message for child in children if child.message}))
        message = f"nothing was done on any of the selected hosts: {why}"
        return Conclusion(RunStatus.FAILED, Reason.NOTHING_TARGETED, message)
    if any(map(never_started, children)):  # a failure stopped it, which a person has resolved since, or a retry mended
        return Conclusion(RunStatus.FAILED, Reason.HOSTS_FAILED, said)
    return Conclusion(RunStatus.SUCCESS, Reason.SUCCEEDED, said)


def fold(observed: Observed) -> tuple[Child, ...]:
    """Each host of the run and of those that it tries again, as it stands by its latest attempt in whichever run."""
    return () if observed.run is None else _latest(observed.run, observed.earlier)


def _latest(run: Run, earlier: Sequence[Sequence[Child]]) -> tuple[Child, ...]:
    """In the order of the first run. A child that was skipped was not tried: what came of the host before still holds."""
    if not earlier:
        return run.children
    found: dict[str, Child] = {}
    for children in (*earlier, run.children):
        for child in children:
            before = found.get(child.host)
            if before is None:
                found[child.host] = replace(child, ordinal=len(found) + 1)
            elif not never_started(child):
                found[child.host] = replace(child, ordinal=before.ordinal)
    return tuple(found.values())


def never_started(child: Child) -> bool:
    """Whether it ended before anything was done for it. One that no play targets had its turn."""
    return child.status is ChildStatus.SKIPPED and child.reason is not Reason.NOT_TARGETED


def standing(observed: Observed) -> Conclusion | None:
    """How the job stands by its latest run that has ended, and by what the runs before left that it tries again. None: no
    run has ended, or one is in progress."""
    run = observed.run
    if run is None or run.open:
        return None
    return after_all(run, observed.earlier)


def after_all(run: Run, earlier: Sequence[Sequence[Child]]) -> Conclusion:
    """How a run that has ended leaves the hosts of itself and of the runs before (their children, oldest first) that it
    tries again."""
    own = Conclusion(run.status, run.reason or _USUAL[run.status], run.message)
    if not earlier:
        return own
    children = _latest(run, earlier)
    whole = conclude(children, run.stop, None)
    if run.status is RunStatus.FAILED:
        return replace(own, message=whole.message) if run.reason is Reason.HOSTS_FAILED else own
    return whole


def run_of(child: Child) -> str:
    """The run (job_id) that a child is part of."""
    return "batch-" + child.job_id.removeprefix("job-").rpartition("-")[0]
