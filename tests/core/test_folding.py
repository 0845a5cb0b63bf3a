"""What is said of a run, and of a chain of runs in which some hosts were tried again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.facts import Child, ChildStatus, Observed, Run, RunError, RunStatus, Stop
from reconciler.core.folding import conclude, fold, run_of, standing
from reconciler.core.reasons import Reason
from tests.builders import make_spec
from tests.core.test_status import make_child, make_run

FAILED, SUCCESS, SKIPPED, UNKNOWN = ChildStatus.FAILED, ChildStatus.SUCCESS, ChildStatus.SKIPPED, ChildStatus.UNKNOWN
CANCELLED, PENDING, RUNNING = ChildStatus.CANCELLED, ChildStatus.PENDING, ChildStatus.RUNNING


def skipped(number: int, reason: Reason) -> Child:
    return make_child(number, SKIPPED, reason=reason)


def first(*statuses: ChildStatus) -> tuple[Child, ...]:
    return tuple(make_child(number, status) for number, status in enumerate(statuses, start=1))


def retry(*children: Child, status: RunStatus = RunStatus.SUCCESS, **fields: Any) -> Run:
    numbered = tuple(replace(child, ordinal=place) for place, child in enumerate(children, start=1))
    return replace(make_run(status=status, **fields), children=numbered, retry_of="batch-0")


# -- one run ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("children", "status", "reason"),
    [
        (first(SUCCESS, SUCCESS), RunStatus.SUCCESS, Reason.SUCCEEDED),
        (first(SUCCESS, FAILED, CANCELLED), RunStatus.FAILED, Reason.HOSTS_FAILED),
        (first(SUCCESS, UNKNOWN), RunStatus.FAILED, Reason.HOSTS_FAILED),
        (first(SUCCESS, CANCELLED), RunStatus.CANCELLED, Reason.CANCELLED),
        ((make_child(1, SUCCESS), skipped(2, Reason.SUPERSEDED)), RunStatus.CANCELLED, Reason.SUPERSEDED),
        ((make_child(1, SUCCESS), skipped(2, Reason.REMOVED)), RunStatus.CANCELLED, Reason.REMOVED),
        ((make_child(1, SUCCESS), skipped(2, Reason.NOT_TARGETED)), RunStatus.SUCCESS, Reason.SUCCEEDED),
        ((skipped(1, Reason.NOT_TARGETED),), RunStatus.FAILED, Reason.NOTHING_TARGETED),
        ((make_child(1, SUCCESS), skipped(2, Reason.DEADLINE_EXCEEDED)), RunStatus.FAILED, Reason.DEADLINE_EXCEEDED),
        ((make_child(1, FAILED), skipped(2, Reason.DEADLINE_EXCEEDED)), RunStatus.FAILED, Reason.DEADLINE_EXCEEDED),
        ((make_child(1, CANCELLED), skipped(2, Reason.DEADLINE_EXCEEDED)), RunStatus.FAILED, Reason.DEADLINE_EXCEEDED),
    ],
)
def test_a_run_ends_as_its_hosts_did(children: tuple[Child, ...], status: RunStatus, reason: Reason) -> None:
    ended = conclude(children, None, None)
    assert (ended.status, ended.reason) == (status, reason)


def test_a_broken_playbook_is_said_before_all_else() -> None:
    broken = RunError(Reason.PLAYBOOK_BROKEN, "no such module", "install it")
    ended = conclude((make_child(1, FAILED), skipped(2, Reason.DEADLINE_EXCEEDED)), None, broken)
    assert (ended.reason, ended.message) == (Reason.PLAYBOOK_BROKEN, "no such module (install it)")


def test_who_cancelled_is_said() -> None:
    ended = conclude(first(SUCCESS, CANCELLED), Stop(Reason.CANCELLED, "cancelled by kim: an incident"), None)
    assert ended.message == "cancelled by kim: an incident"


# -- a chain ---------------------------------------------------------------------------------------------------------
def test_twenty_of_three_hundred_that_are_tried_again_are_three_hundred() -> None:
    before = first(*[SUCCESS] * 280, *[FAILED] * 20)
    tried = (replace(make_child(number, SUCCESS), job_id=f"again-{number}") for number in range(281, 301))
    again = retry(*tried)
    observed = Observed(run=again, earlier=(before,))
    children = fold(observed)
    assert [child.ordinal for child in children] == list(range(1, 301))
    assert {child.job_id for child in children[280:]} == {f"again-{number}" for number in range(281, 301)}
    whole = standing(observed)
    assert whole is not None
    assert (whole.status, whole.message) == (RunStatus.SUCCESS, "300 success")


@pytest.mark.parametrize("status", [status for status in ChildStatus if status is not SKIPPED])
def test_the_latest_of_each_host_counts_also_while_it_is_on_its_way(status: ChildStatus) -> None:
    observed = Observed(run=retry(make_child(2, status)), earlier=(first(SUCCESS, FAILED),))
    assert [child.status for child in fold(observed)] == [SUCCESS, status]


@pytest.mark.parametrize(
    ("reason", "counts"),
    [
        (Reason.CANCELLED, False),
        (Reason.SUPERSEDED, False),
        (Reason.DEADLINE_EXCEEDED, False),
        (Reason.NOT_TARGETED, True),
    ],
)
def test_what_never_started_leaves_what_was_before(reason: Reason, counts: bool) -> None:
    observed = Observed(run=retry(skipped(2, reason)), earlier=(first(SUCCESS, FAILED),))
    assert fold(observed)[1].status is (SKIPPED if counts else FAILED)


def test_a_chain_of_three_has_of_each_host_the_latest() -> None:
    second = (make_child(2, FAILED, message="second"), make_child(3, SUCCESS))
    third = retry(make_child(2, SUCCESS))
    observed = Observed(run=third, earlier=(first(SUCCESS, FAILED, FAILED), second))
    assert [(child.host, child.status) for child in fold(observed)] == [
        ("web-1", SUCCESS),
        ("web-2", SUCCESS),
        ("web-3", SUCCESS),
    ]


def test_of_a_chain_whose_beginning_is_gone_what_is_left_is_told() -> None:
    observed = Observed(run=retry(make_child(2, SUCCESS)), earlier=())
    assert [child.host for child in fold(observed)] == ["web-2"]
    assert standing(observed) is not None


@pytest.mark.parametrize(
    ("before", "again", "status"),
    [
        ((SUCCESS, FAILED), (SUCCESS, RunStatus.SUCCESS), RunStatus.SUCCESS),
        ((FAILED, FAILED), (SUCCESS, RunStatus.SUCCESS), RunStatus.FAILED),
        ((CANCELLED, FAILED), (SUCCESS, RunStatus.SUCCESS), RunStatus.CANCELLED),
        ((SKIPPED, FAILED), (SUCCESS, RunStatus.SUCCESS), RunStatus.FAILED),
        ((SUCCESS, FAILED), (SKIPPED, RunStatus.CANCELLED), RunStatus.FAILED),
        ((SUCCESS, UNKNOWN), (CANCELLED, RunStatus.CANCELLED), RunStatus.CANCELLED),
        ((SUCCESS, FAILED), (FAILED, RunStatus.FAILED), RunStatus.FAILED),
    ],
)
def test_a_chain_stands_as_all_of_its_hosts_do(
    before: tuple[ChildStatus, ...], again: tuple[ChildStatus, RunStatus], status: RunStatus
) -> None:
    """Skipped: by stopOnFailure in the first, cancelled before it started in the second."""
    earlier = tuple(replace(child, reason=Reason.STOPPED_ON_FAILURE) for child in first(*before))
    run = retry(make_child(2, again[0], reason=Reason.CANCELLED), status=again[1], spec=make_spec(checkMode=True))
    whole = standing(Observed(run=run, earlier=(earlier,)))
    assert whole is not None
    assert whole.status is status


def test_a_retry_that_broke_is_told_as_it_broke() -> None:
    run = retry(
        make_child(2, ChildStatus.ABORTED), status=RunStatus.FAILED, reason=Reason.PLAYBOOK_BROKEN, message="why"
    )
    whole = standing(Observed(run=run, earlier=(first(SUCCESS, FAILED),)))
    assert whole is not None
    assert (whole.reason, whole.message) == (Reason.PLAYBOOK_BROKEN, "why")


def test_while_a_run_is_in_progress_nothing_is_concluded() -> None:
    assert standing(Observed()) is None
    assert standing(Observed(run=make_run(RUNNING), earlier=(first(FAILED),))) is None


def test_the_run_of_a_child_is_in_its_name() -> None:
    child = replace(make_child(1), job_id="job-20261123-145052-7k3fq2mzsa-0003")
    assert run_of(child) == "batch-20261123-145052-7k3fq2mzsa"
