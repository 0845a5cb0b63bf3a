"""Whatever a job went through, its status passes the linter: runs whose end is the one that the planner gives them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.facts import ChildStatus, HostRecord, Observed, RunError, RunStatus, Stop
from reconciler.core.planning import conclude
from reconciler.core.plans import Desired
from reconciler.core.reasons import Reason
from tests import status_linter
from tests.builders import NOON, make_spec
from tests.core.test_status import make_run, status_of, summary, worlds

LATER = timedelta(minutes=5)


@st.composite
def lived(draw: st.DrawFn) -> tuple[Desired, Observed]:
    """What is wanted as in any world, and what is known as a run that was lived through so far leaves it."""
    desired, observed = draw(worlds())
    spec = draw(st.sampled_from([desired.spec, make_spec(extraVars={"version": 1}), make_spec(checkMode=True)]))
    statuses = draw(st.lists(st.sampled_from(ChildStatus), min_size=1, max_size=8))
    run = make_run(
        *statuses,
        spec=spec,
        stop=draw(st.sampled_from([None, None, Stop(Reason.CANCELLED, "by kim")])),
        error=draw(st.sampled_from([None, None, RunError(Reason.PLAYBOOK_BROKEN, "no such module")])),
    )
    run = replace(
        run,
        children=tuple(replace(child, finished_at=NOON) if child.status.finished else child for child in run.children),
    )
    if all(status.finished for status in statuses):
        status, reason, message = conclude(run)
        run = replace(run, status=status, reason=reason, message=message, finished_at=NOON)
    elif not set(statuses) - {ChildStatus.PENDING, ChildStatus.SKIPPED}:
        run = replace(run, status=RunStatus.PENDING, started_at=None)
    digest = desired.record.coverage_digest if spec == desired.spec else "earlier"
    records = {
        child.host: HostRecord(digest if child.status is ChildStatus.SUCCESS else None, digest)
        for child in run.children
        if not spec.check_mode
    }
    return desired, replace(observed, run=run, hosts=records, history=(summary(run),))


@given(lived())
def test_whatever_a_job_went_through_its_status_can_be_true(life: tuple[Desired, Observed]) -> None:
    first = status_of(*life, later=LATER)
    status_linter.check(first, NOON + LATER)
    second = status_of(*life, first, 2 * LATER)
    status_linter.check(second, NOON + 2 * LATER)
