"""Which hosts are tried again: by themselves after an attempt, and by hand after a run."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.facts import Cause, CauseKind, ChildStatus, HostOutcome, Observed, Revision, RunStatus
from reconciler.core.manifest import Retry
from reconciler.core.reasons import Reason
from reconciler.core.retrying import (
    AtRevision,
    Refusal,
    Which,
    choose_hosts,
    choose_revision,
    is_due,
    next_attempt,
    retries_to_open,
)
from tests.builders import NOON, REVISION, make_spec, manifest_record
from tests.core.test_status import make_child, make_run

RETRY = Retry(limit=2, backoff=timedelta(seconds=30))
UNKNOWN_TOO = Retry(limit=2, backoff=timedelta(seconds=30), unknown=True)
FAILED, SUCCESS, SKIPPED, UNKNOWN = ChildStatus.FAILED, ChildStatus.SUCCESS, ChildStatus.SKIPPED, ChildStatus.UNKNOWN
CANCELLED, ABORTED, UNREACHABLE = ChildStatus.CANCELLED, ChildStatus.ABORTED, ChildStatus.UNREACHABLE


# -- by itself -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "reason", "retry", "again"),
    [
        (FAILED, Reason.TASK_FAILED, RETRY, True),
        (FAILED, Reason.DEADLINE_EXCEEDED, RETRY, True),
        (UNREACHABLE, Reason.CONNECTION_FAILED, RETRY, True),
        (ABORTED, Reason.STOPPED_WITH_OTHERS, RETRY, True),
        (ABORTED, Reason.HOST_GONE, RETRY, False),
        (ABORTED, Reason.PLAYBOOK_BROKEN, RETRY, False),
        (UNKNOWN, Reason.SLICE_LOST, RETRY, False),
        (UNKNOWN, Reason.SLICE_LOST, UNKNOWN_TOO, True),
        (UNKNOWN, Reason.COMPANION_MISSING, UNKNOWN_TOO, True),
        (SUCCESS, None, UNKNOWN_TOO, False),
        (SKIPPED, Reason.NOT_TARGETED, UNKNOWN_TOO, False),
        (CANCELLED, Reason.CANCELLED, UNKNOWN_TOO, False),
        (FAILED, Reason.TASK_FAILED, Retry(), False),
    ],
)
def test_what_is_tried_again(status: ChildStatus, reason: Reason | None, retry: Retry, again: bool) -> None:
    assert (next_attempt(retry, HostOutcome("web-1", status, reason), 1, NOON) is not None) is again


def test_what_went_wrong_is_told_with_when_it_is_tried_again() -> None:
    failed = HostOutcome("web-1", FAILED, Reason.TASK_FAILED, "no such package\nmore of it")
    first, second = next_attempt(RETRY, failed, 1, NOON), next_attempt(RETRY, failed, 2, NOON)
    assert first is not None
    assert second is not None
    assert (first.at - NOON, second.at - NOON) == (timedelta(seconds=30), timedelta(minutes=1))
    assert first.message == "attempt 1 of 3: no such package; again at 12:00:30 UTC"
    assert next_attempt(RETRY, failed, 3, NOON) is None
    silent = next_attempt(RETRY, replace(failed, message=" \n"), 1, NOON)
    assert silent is not None
    assert silent.message.startswith("attempt 1 of 3: failed; ")


@given(st.integers(1, 3600), st.integers(1, 100))
def test_a_pause_is_at_least_the_backoff_and_at_most_an_hour(seconds: int, attempt: int) -> None:
    retry = Retry(limit=100, backoff=timedelta(seconds=seconds))
    following = next_attempt(retry, HostOutcome("web-1", FAILED, message="x" * 4000), attempt, NOON)
    assert following is not None
    assert retry.backoff <= following.at - NOON <= timedelta(hours=1)
    assert len(following.message) < 300


@pytest.mark.parametrize(("seconds", "due"), [(-1, True), (0, True), (1, False), (3600, False), (3601, True)])
def test_a_host_is_due_when_its_time_has_come_or_the_clock_was_set_back(seconds: int, due: bool) -> None:
    waits = replace(make_child(1), retry_at=NOON + timedelta(seconds=seconds))
    assert is_due(waits, NOON) is due


# -- by hand ---------------------------------------------------------------------------------------------------------
RUN = make_run(
    *(SUCCESS, FAILED, UNREACHABLE, ABORTED, SKIPPED, CANCELLED, UNKNOWN, SKIPPED),
    status=RunStatus.FAILED,
    reason=Reason.HOSTS_FAILED,
)
RUN = replace(RUN, children=(*RUN.children[:-1], replace(RUN.children[-1], reason=Reason.NOT_TARGETED)))
RECORD = manifest_record()


def chosen(*named: str, which: Which | None = None, **observed: Any) -> tuple[str, ...] | Refusal:
    return choose_hosts(RECORD, Observed(**{"run": RUN, **observed}), RUN.job_id, named, which)


@pytest.mark.parametrize(
    ("which", "numbers"),
    [
        (None, (2, 3, 4)),
        (Which.FAILED, (2, 3, 4)),
        (Which.UNFINISHED, (2, 3, 4, 5, 6)),
        (Which.UNKNOWN, (7,)),
    ],
)
def test_hosts_are_chosen_by_what_became_of_them(which: Which | None, numbers: tuple[int, ...]) -> None:
    assert chosen(which=which) == tuple(f"web-{number}" for number in numbers)


def test_hosts_that_are_named_are_tried_again_whatever_became_of_them_but_success() -> None:
    assert chosen("web-7", "web-2", "web-7", "web-8") == ("web-2", "web-7", "web-8")
    assert chosen("web-2", which=Which.FAILED) == ("web-2",)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("web-9",), "batch-1 has no host web-9"),
        (("web-1", "web-2"), "web-1 succeeded: there is nothing to try again"),
    ],
)
def test_a_name_that_can_not_be_meant_refuses_all(asked: tuple[str, ...], says: str) -> None:
    found = chosen(*asked)
    assert isinstance(found, Refusal)
    assert found.message == says


def test_a_named_host_that_did_not_end_so_is_refused() -> None:
    found = chosen("web-7", which=Which.FAILED)
    assert isinstance(found, Refusal)
    assert found.message == "web-7 is unknown, not failed"


def test_nothing_that_matches_is_refused_with_what_there_is() -> None:
    run = replace(RUN, children=(RUN.children[0], *RUN.children[4:]))
    found = chosen(run=run)
    assert isinstance(found, Refusal)
    assert found.message == "no host is failed"
    assert (
        found.hint
        == "1 unknown: look at them, then --unknown, or reconciler resolve; 2 skipped or cancelled: --unfinished"
    )
    alone = chosen(run=replace(RUN, children=RUN.children[:1]), which=Which.UNKNOWN)
    assert isinstance(alone, Refusal)
    assert alone.hint == "reconciler trigger runs all of them again"


def test_hosts_are_those_of_the_whole_chain() -> None:
    later = replace(RUN, children=(replace(RUN.children[1], status=SUCCESS),))
    assert chosen(run=later, earlier=(RUN.children,)) == ("web-3", "web-4")


@pytest.mark.parametrize(
    ("record", "run", "run_id", "says"),
    [
        (None, RUN, "batch-1", "the manifest is gone"),
        (manifest_record(removed_at=NOON), RUN, "batch-1", "the manifest is gone"),
        (RECORD, None, "batch-1", "it has not run yet"),
        (RECORD, RUN, "batch-0", "superseded: batch-1 is the latest run, and not batch-0"),
        (RECORD, RUN, None, "superseded"),
        (RECORD, replace(RUN, status=RunStatus.RUNNING), "batch-1", "batch-1 is still in progress"),
        (manifest_record(spec=make_spec(checkMode=True)), RUN, "batch-1", "superseded: the manifest has changed"),
    ],
)
def test_only_the_latest_run_of_what_is_wanted_now_is_tried_again(
    record: Any, run: Any, run_id: Any, says: str
) -> None:
    found = choose_hosts(record, Observed(run=run), run_id, (), None)
    assert isinstance(found, Refusal)
    assert found.message.startswith(says)


def test_a_retry_runs_what_the_run_had_and_once_the_playbook_is_another_it_must_be_said() -> None:
    assert choose_revision(RUN, RUN.playbook_digest, None) == REVISION
    assert choose_revision(RUN, "another", AtRevision.SAME) == REVISION
    assert choose_revision(RUN, "another", AtRevision.LATEST) is None
    assert isinstance(choose_revision(RUN, "another", None), Refusal)


def test_a_retry_is_opened_unless_anything_asks_for_all() -> None:
    retry = Cause(CauseKind.RETRIED, "request:1", "", NOON, ("web-1",), "batch-1", Revision("dir@sha256:1"))
    joined = Cause(CauseKind.HOSTS_JOINED, "joined", "", NOON, ("web-9",))
    asked = Cause(CauseKind.REQUESTED, "request:2", "", NOON)
    assert retries_to_open((joined, retry)) == (retry,)
    assert retries_to_open((retry, asked)) == ()
    assert retries_to_open((joined,)) == ()
