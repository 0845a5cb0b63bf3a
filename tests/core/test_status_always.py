"""Whatever a job went through, its status passes the linter: runs whose end is the one that the planner gives them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.facts import Cause, CauseKind, ChildStatus, HostRecord, Observed, Pause, RunError, RunStatus, Stop
from reconciler.core.folding import conclude
from reconciler.core.plans import Blocked, Desired
from reconciler.core.playbook import PlaybookFacts
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, JobStatus, Phase
from tests import status_linter
from tests.builders import NOON, PLAYBOOK_DIGEST, REVISION, make_spec
from tests.core.test_status import (
    AWAY,
    CHANGED,
    FAILED,
    GONE,
    PENDING,
    RUN,
    condition,
    make_child,
    make_desired,
    make_run,
    ready,
    said,
    status_of,
    summary,
)

LATER = timedelta(minutes=5)
SPECS = tuple(
    make_spec(suspend=suspend, stopOnFailure=stop, onChange=policy, runOn=run_on)
    for suspend, stop, policy, run_on in product(
        (False, True), (False, True), ("Finish", "StopAfterWave", "Cancel"), ([], ["spec"])
    )
)
RUN_REASONS = (None, Reason.SUCCEEDED, Reason.HOSTS_FAILED, Reason.CANCELLED, Reason.SUPERSEDED, Reason.REMOVED)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Desired, Observed]:
    """Any job: wanted anyhow, blocked or not, with a run in any state, or none."""
    hosts = draw(st.integers(0, 12) | st.sampled_from([GONE, AWAY]))
    removed_at = draw(st.sampled_from([None, None, NOON]))
    held = draw(st.sampled_from([None, None, None, Reason.STATE_LOST]))
    desired = make_desired(draw(st.sampled_from(SPECS)), hosts, removed_at=removed_at)
    desired = replace(desired, record=replace(desired.record, held=held))
    playbooks: tuple[PlaybookFacts | Blocked, ...] = (PlaybookFacts(), PlaybookFacts(prompts=("password",)), GONE, AWAY)
    digest = draw(st.sampled_from([PLAYBOOK_DIGEST, "another"]))
    desired = replace(desired, playbook=draw(st.sampled_from(playbooks)), playbook_digest=digest)
    run = None
    if draw(st.booleans()):
        status = draw(st.sampled_from(RunStatus))
        possible = [s for s in ChildStatus if s.finished or not status.finished]
        run = make_run(
            *draw(st.lists(st.sampled_from(possible), max_size=8)),
            spec=draw(st.sampled_from([desired.spec, make_spec(extraVars={"version": 1}), make_spec(checkMode=True)])),
            status=status,
            reason=draw(st.sampled_from(RUN_REASONS)) if status.finished else None,
            stop=draw(st.sampled_from([None, None, Stop(Reason.CANCELLED, "by kim")])),
            error=draw(st.sampled_from([None, None, RunError(Reason.PLAYBOOK_BROKEN, "no such module")])),
            held_since=draw(st.sampled_from([None, NOON])),
        )
        later = NOON + timedelta(seconds=draw(st.sampled_from([0, 30])))
        again: dict[str, Any] = {"wave": 1, "attempt": 1, "reason": Reason.RETRY_SCHEDULED, "retry_at": later}
        waits = draw(st.booleans())
        children = tuple(replace(c, **again) if waits and c.status is PENDING else c for c in run.children)
        run = replace(run, children=children)
    asked = Cause(CauseKind.REQUESTED, "now", "asked", NOON)
    retried = Cause(CauseKind.RETRIED, "request:1", "asked", NOON, ("web-1", "gone"), RUN, REVISION)
    causes = draw(st.sampled_from([(), (CHANGED,), (asked,), (retried,), (asked, retried)]))
    earlier = draw(st.sampled_from([(), (tuple(make_child(n, FAILED) for n in (1, 2, 3)),)])) if run is not None else ()
    pause = draw(
        st.sampled_from([None, None, Pause(None, "kim", "an incident", NOON), Pause("default", "kim", "", NOON)])
    )
    if run is not None and earlier:
        run = replace(run, retry_of="batch-0", cause=CauseKind.RETRIED)
    return desired, Observed(causes=causes, run=run, earlier=earlier, pause=pause)


@given(worlds())
def test_in_every_world_the_conditions_fit_together(world: tuple[Desired, Observed]) -> None:
    desired, observed = world
    body = said(desired, observed)
    kinds = [found.type for found in body.conditions]
    assert set(Counter(kinds).values()) == {1}, "each kind once"
    assert {ConditionType.READY, ConditionType.ACCEPTED, ConditionType.UP_TO_DATE} <= set(kinds)
    assert not {ConditionType.RECONCILING, ConditionType.STALLED} <= set(kinds)
    if ready(body)[0] == "True":
        assert not {ConditionType.RECONCILING, ConditionType.STALLED} & set(kinds)
    if body.phase is Phase.STALLED:
        assert ConditionType.STALLED in kinds
    for kind in (ConditionType.RECONCILING, ConditionType.STALLED, ConditionType.SUSPENDED):
        found = condition(body, kind)
        assert found is None or found.status == "True"
    reasons = {str(reason) for reason in Reason}
    assert all(found.reason in reasons for found in body.conditions)


@given(worlds())
def test_in_every_world_the_status_survives_json(world: tuple[Desired, Observed]) -> None:
    status = status_of(*world)
    assert JobStatus.model_validate_json(status.model_dump_json(by_alias=True)) == status


@given(worlds())
def test_the_same_world_is_told_the_same_way(world: tuple[Desired, Observed]) -> None:
    first = status_of(*world)
    assert status_of(*world, first, timedelta(hours=1)) == first


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
        retry_of="batch-0" if observed.earlier else None,
    )
    run = replace(
        run,
        children=tuple(replace(child, finished_at=NOON) if child.status.finished else child for child in run.children),
    )
    if all(status.finished for status in statuses):
        ended = conclude(run.children, run.stop, run.error)
        run = replace(run, status=ended.status, reason=ended.reason, message=ended.message, finished_at=NOON)
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
