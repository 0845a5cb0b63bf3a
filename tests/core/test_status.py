"""What is said of a job, in each of the situations that an operator meets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.core.documents import Problem
from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    ChildStatus,
    HostRecord,
    Observed,
    Revision,
    Run,
    RunStatus,
    RunSummary,
    Slice,
    SliceState,
)
from reconciler.core.failures import MAX_MESSAGE, group_failures
from reconciler.core.manifest import BatchJobSpec, coverage_digest, work_digest
from reconciler.core.planning import plan, slice_id
from reconciler.core.plans import Blocked, Desired, Limits
from reconciler.core.playbook import PlaybookFacts
from reconciler.core.reading import Rejected
from reconciler.core.reasons import Reason
from reconciler.core.report import WaitsFor, report, report_invalid
from reconciler.core.status import Condition, ConditionType, JobStatus, JobStatusBody, Phase
from reconciler.core.views import commit_view, progress, wave_views
from tests.builders import (
    COMMIT,
    COMMIT_REVISION,
    NOON,
    PLAYBOOK_DIGEST,
    REVISION,
    make_spec,
    manifest_record,
    numbered_hosts,
)

RUN = "batch-1"
CHANGED = Cause(CauseKind.SPEC_CHANGED, "generation:2", "the manifest's work fields changed", NOON)
GONE = Blocked(Reason.PATH_MISSING, "there is no playbooks/patch.yml", "write it")
AWAY = Blocked(Reason.INVENTORY_UNREADABLE, "no answer", permanent=False)


def make_child(number: int, status: ChildStatus = ChildStatus.PENDING, **fields: Any) -> Child:
    host = f"web-{number}"
    facts = {"wave": None if status in (ChildStatus.PENDING, ChildStatus.SKIPPED) else 1, **fields}
    return Child(f"{RUN}-{number}", host, f"{host}:22", host, number, status=status, **facts)


def make_run(*statuses: ChildStatus, spec: BatchJobSpec | None = None, **fields: Any) -> Run:
    """One child for each status. Whatever runs is in one slice."""
    spec = spec or make_spec()
    children = tuple(make_child(number, status) for number, status in enumerate(statuses, start=1))
    running = tuple(child.host for child in children if child.status is ChildStatus.RUNNING)
    part = Slice(slice_id(RUN, 1, 1, running), RUN, 1, 1, SliceState.STARTED, running, fence=1, started_at=NOON)
    facts = {
        "revision": REVISION,
        "status": RunStatus.RUNNING,
        "started_at": NOON,
        "children": children,
        "slices": (part,) if running else (),
        **fields,
    }
    return Run(
        job_id=RUN,
        cause=CauseKind.SPEC_CHANGED,
        cause_key="generation:1",
        generation=1,
        work_digest=work_digest(spec),
        playbook_digest=PLAYBOOK_DIGEST,
        spec=spec,
        created_at=NOON,
        **facts,
    )


def summary(run: Run) -> RunSummary:
    return RunSummary(
        job_id=run.job_id,
        cause=run.cause,
        generation=run.generation,
        work_digest=run.work_digest,
        playbook_digest=run.playbook_digest,
        revision=run.revision,
        check_mode=run.spec.check_mode,
        status=run.status,
        reason=run.reason,
        message=run.message,
        hosts=Counter(child.status for child in run.children),
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        commit=run.commit,
    )


def make_desired(spec: BatchJobSpec | None = None, hosts: int | Blocked = 5, **record: Any) -> Desired:
    return Desired(
        manifest_record(spec=spec, **record),
        REVISION,
        numbered_hosts(hosts) if isinstance(hosts, int) else hosts,
        PlaybookFacts(),
        PLAYBOOK_DIGEST,
        Limits(max_running=50),
    )


def status_of(
    desired: Desired, observed: Observed, previous: JobStatus | None = None, later: timedelta = timedelta()
) -> JobStatus:
    now = NOON + later
    return report(desired, observed, plan(desired, observed, now), previous, now)


def said(desired: Desired, observed: Observed) -> JobStatusBody:
    return status_of(desired, observed).status


def condition(body: JobStatusBody, kind: ConditionType) -> Condition | None:
    return next((found for found in body.conditions if found.type is kind), None)


def ready(body: JobStatusBody) -> tuple[str, str]:
    found = condition(body, ConditionType.READY)
    assert found is not None
    return found.status, found.reason


def ended(status: RunStatus, reason: Reason, *children: ChildStatus, **fields: Any) -> Run:
    return make_run(*children, status=status, reason=reason, message="how it ended", finished_at=NOON, **fields)


# -- counting --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({}, "0/0 completed, 0 failed"),
        ({ChildStatus.PENDING: 5}, "0/5 completed, 0 failed"),
        ({ChildStatus.SUCCESS: 2, ChildStatus.FAILED: 1, ChildStatus.RUNNING: 2}, "3/5 completed, 1 failed"),
        ({ChildStatus.UNREACHABLE: 1, ChildStatus.ABORTED: 1, ChildStatus.UNKNOWN: 1}, "3/3 completed, 3 failed"),
        ({ChildStatus.SKIPPED: 2, ChildStatus.CANCELLED: 1}, "3/3 completed, 0 failed"),
    ],
)
def test_progress_counts_all_that_ended_and_which_of_them_went_wrong(
    counts: Mapping[ChildStatus, int], text: str
) -> None:
    assert progress(counts) == text


def test_forty_failures_of_one_cause_are_one_line() -> None:
    disk = [make_child(n, ChildStatus.FAILED, task="Install", message="no space left") for n in range(1, 41)]
    lock = [make_child(n, ChildStatus.FAILED, task="Install", message="dpkg is locked") for n in range(41, 44)]
    down = [make_child(44, ChildStatus.UNREACHABLE, message="timed out", reason=Reason.CONNECTION_FAILED)]
    fine = [make_child(45, ChildStatus.SUCCESS), make_child(46, ChildStatus.SKIPPED)]
    groups = group_failures([*lock, *down, *fine, *disk])
    assert [(group.message, group.hosts) for group in groups] == [
        ("no space left", 40),
        ("dpkg is locked", 3),
        ("timed out", 1),
    ]
    assert groups[0].examples == ("web-1", "web-2", "web-3", "web-4", "web-5")
    assert groups[2].reason == Reason.CONNECTION_FAILED


def test_a_message_with_the_hosts_own_name_and_address_is_the_same_failure() -> None:
    refused = "Failed to connect to the host via ssh: ssh: connect to host {} port 22: Connection refused ({})"
    down = [
        replace(child, message=refused.format(child.address, child.host))
        for child in (make_child(n, ChildStatus.UNREACHABLE) for n in range(1, 41))
    ]
    (group,) = group_failures(down)
    assert group.hosts == 40
    assert group.message == refused.format("<host>", "<host>")
    (alone,) = group_failures(down[:1])
    assert alone.message == down[0].message


@pytest.mark.parametrize(
    "message",
    [
        "could not reach db.{} from here",
        "{}.example.com does not resolve",
        "{}-standby is not in sync",
        "{}0 is full",
        "x{} is full",
    ],
)
def test_a_name_that_only_holds_the_hosts_is_another_name(message: str) -> None:
    children = [make_child(n, ChildStatus.FAILED) for n in (1, 2)]
    told = [replace(child, message=message.format(child.host)) for child in children]
    assert len(group_failures(told)) == 2


def test_what_is_drawn_by_lot_does_not_make_two_failures_of_one() -> None:
    left = "rm: cannot remove '/root/.ansible/tmp/ansible-tmp-17{0}.5{0}-{0}-99{0}/': no space left at 0x7f00{0}{0}aa"
    children = [make_child(n, ChildStatus.FAILED, message=left.format(n)) for n in (1, 2, 3)]
    (group,) = group_failures(children)
    assert group.message == "rm: cannot remove '/root/.ansible/tmp/…/': no space left at …"


def test_the_same_message_of_two_tasks_is_two_failures() -> None:
    children = [make_child(n, ChildStatus.FAILED, task=f"Step {n}", message="failed") for n in (1, 2)]
    assert len(group_failures(children)) == 2


def test_waves_are_told_with_how_each_of_them_ended() -> None:
    children = [
        make_child(1, ChildStatus.SUCCESS, wave=1, started_at=NOON, finished_at=NOON),
        make_child(2, ChildStatus.FAILED, wave=2, started_at=NOON, finished_at=NOON),
        make_child(3, ChildStatus.RUNNING, wave=3, started_at=NOON),
        make_child(4, ChildStatus.PENDING),
    ]
    assert [(wave.number, wave.status, wave.hosts) for wave in wave_views(children)] == [
        (1, RunStatus.SUCCESS, 1),
        (2, RunStatus.FAILED, 1),
        (3, RunStatus.RUNNING, 1),
    ]
    assert wave_views(children)[2].finished_at is None


def test_coverage_compares_the_hosts_selected_now_with_what_they_succeeded_with() -> None:
    desired = make_desired(hosts=4)
    current = coverage_digest(desired.spec)
    records = {
        "web-1": HostRecord(current, current),
        "web-2": HostRecord("earlier", current),
        "web-3": HostRecord(None, current),
        "gone": HostRecord(current, current),
    }
    run = ended(RunStatus.FAILED, Reason.HOSTS_FAILED, ChildStatus.SUCCESS)
    body = said(desired, Observed(run=run, hosts=records))
    counts = body.coverage
    assert (counts.selected, counts.up_to_date, counts.behind, counts.never) == (4, 1, 1, 2)
    found = condition(body, ConditionType.UP_TO_DATE)
    assert found is not None
    assert (found.status, found.reason) == ("False", Reason.HOSTS_BEHIND)
    assert found.message.startswith("3 of 4")


# -- the situations --------------------------------------------------------------------------------------------------
PENDING, RUNNING, SUCCESS, FAILED = (
    ChildStatus.PENDING,
    ChildStatus.RUNNING,
    ChildStatus.SUCCESS,
    ChildStatus.FAILED,
)
SUSPENDED = make_spec(suspend=True)
SITUATIONS: dict[str, tuple[Desired, Observed, Phase, str, Reason, ConditionType | None]] = {
    "about to start": (
        make_desired(),
        Observed(causes=(CHANGED,)),
        Phase.PENDING,
        "False",
        Reason.PROGRESSING,
        ConditionType.RECONCILING,
    ),
    "in its first wave": (
        make_desired(),
        Observed(run=make_run(SUCCESS, RUNNING, PENDING)),
        Phase.RUNNING,
        "False",
        Reason.PROGRESSING,
        ConditionType.RECONCILING,
    ),
    "succeeded": (
        make_desired(),
        Observed(run=ended(RunStatus.SUCCESS, Reason.SUCCEEDED, SUCCESS)),
        Phase.SUCCEEDED,
        "True",
        Reason.SUCCEEDED,
        None,
    ),
    "failed": (
        make_desired(),
        Observed(run=ended(RunStatus.FAILED, Reason.HOSTS_FAILED, FAILED)),
        Phase.FAILED,
        "False",
        Reason.HOSTS_FAILED,
        ConditionType.STALLED,
    ),
    "playbook broken": (
        make_desired(),
        Observed(run=ended(RunStatus.FAILED, Reason.PLAYBOOK_BROKEN, ChildStatus.ABORTED)),
        Phase.FAILED,
        "False",
        Reason.PLAYBOOK_BROKEN,
        ConditionType.STALLED,
    ),
    "cancelled": (
        make_desired(),
        Observed(run=ended(RunStatus.CANCELLED, Reason.CANCELLED, ChildStatus.CANCELLED)),
        Phase.CANCELLED,
        "False",
        Reason.CANCELLED,
        None,
    ),
    "never asked for": (make_desired(), Observed(), Phase.PENDING, "False", Reason.NOT_REQUESTED, None),
    "playbook missing": (
        replace(make_desired(), playbook=GONE),
        Observed(causes=(CHANGED,)),
        Phase.STALLED,
        "False",
        Reason.PATH_MISSING,
        ConditionType.STALLED,
    ),
    "too few hosts": (
        make_desired(hosts=1),
        Observed(causes=(CHANGED,)),
        Phase.STALLED,
        "False",
        Reason.TOO_FEW_HOSTS,
        ConditionType.STALLED,
    ),
    "inventory away": (
        make_desired(hosts=AWAY),
        Observed(causes=(CHANGED,)),
        Phase.PENDING,
        "False",
        Reason.INVENTORY_UNREADABLE,
        ConditionType.RECONCILING,
    ),
    "suspended in the middle": (
        make_desired(SUSPENDED),
        Observed(run=make_run(SUCCESS, PENDING)),
        Phase.RUNNING,
        "False",
        Reason.SUSPENDED,
        None,
    ),
    "suspended after success": (
        make_desired(SUSPENDED),
        Observed(run=ended(RunStatus.SUCCESS, Reason.SUCCEEDED, SUCCESS)),
        Phase.SUCCEEDED,
        "True",
        Reason.SUCCEEDED,
        None,
    ),
    "removed": (
        make_desired(removed_at=NOON),
        Observed(run=ended(RunStatus.SUCCESS, Reason.SUCCEEDED, SUCCESS)),
        Phase.REMOVED,
        "False",
        Reason.REMOVED,
        None,
    ),
}


@pytest.mark.parametrize(
    ("desired", "observed", "phase", "is_ready", "reason", "present"), SITUATIONS.values(), ids=SITUATIONS
)
def test_each_situation_has_its_phase_and_conditions(
    desired: Desired,
    observed: Observed,
    phase: Phase,
    is_ready: str,
    reason: Reason,
    present: ConditionType | None,
) -> None:
    body = said(desired, observed)
    assert (body.phase, ready(body)) == (phase, (is_ready, reason))
    for kind in (ConditionType.RECONCILING, ConditionType.STALLED):
        assert (condition(body, kind) is not None) is (kind is present)


def test_a_run_that_only_looked_says_so() -> None:
    spec = make_spec(checkMode=True)
    body = said(make_desired(spec), Observed(run=ended(RunStatus.SUCCESS, Reason.SUCCEEDED, SUCCESS, spec=spec)))
    assert ready(body) == ("True", Reason.CHECK_MODE)
    assert body.run is not None
    assert body.run.check_mode


def test_a_refusal_tells_the_remedy() -> None:
    body = said(replace(make_desired(), playbook=GONE), Observed(causes=(CHANGED,)))
    assert body.message == "there is no playbooks/patch.yml (write it)"


def test_a_rejected_file_is_told_beside_the_accepted_spec_that_goes_on() -> None:
    problem = Problem("jobs/patch-web.yaml", 1, 9, 10, "spec.limit must be at least 1, not 0", "Example: 5")
    body = said(make_desired(rejected=problem), Observed(run=ended(RunStatus.SUCCESS, Reason.SUCCEEDED, SUCCESS)))
    accepted = condition(body, ConditionType.ACCEPTED)
    assert accepted is not None
    assert (accepted.status, accepted.reason) == ("False", Reason.MANIFEST_INVALID)
    assert accepted.message == f"{problem} (Example: 5)"
    assert ready(body) == ("True", Reason.SUCCEEDED)


def test_a_changed_playbook_is_not_up_to_date_and_the_job_stays_ready() -> None:
    desired = replace(make_desired(), playbook_digest="another")
    body = said(desired, Observed(run=ended(RunStatus.SUCCESS, Reason.SUCCEEDED, SUCCESS)))
    found = condition(body, ConditionType.UP_TO_DATE)
    assert found is not None
    assert (found.status, found.reason) == ("False", Reason.PLAYBOOK_CHANGED)
    assert ready(body) == ("True", Reason.SUCCEEDED)


def test_who_holds_the_hosts_is_named() -> None:
    desired, observed = make_desired(), Observed(run=make_run(PENDING, PENDING))
    planned = plan(desired, observed, NOON)
    waits_for = WaitsFor(Reason.HOSTS_BUSY, "default/patch-db")
    body = report(desired, observed, planned, None, NOON, waits_for=waits_for).status
    assert ready(body) == ("False", Reason.HOSTS_BUSY)
    assert body.message == "waits for hosts that default/patch-db has"
    assert body.run is not None
    assert (body.run.waits_for, body.run.waves) == ("default/patch-db", 1)


def test_who_holds_the_slots_is_named() -> None:
    desired, observed = make_desired(), Observed(run=make_run(PENDING, PENDING))
    waits_for = WaitsFor(Reason.NO_FREE_SLOTS, "default/patch-db")
    body = report(desired, observed, plan(desired, observed, NOON), None, NOON, waits_for=waits_for).status
    assert ready(body) == ("False", Reason.NO_FREE_SLOTS)
    assert body.message == "waits for slots that default/patch-db has"


def test_while_the_hosts_can_not_be_read_the_coverage_stays_as_it_was_known() -> None:
    known = report(make_desired(), Observed(), plan(make_desired(), Observed(), NOON), None, NOON)
    away = Blocked(Reason.INVENTORY_UNREADABLE, "ansible-inventory failed", "", permanent=False)
    desired = replace(make_desired(), hosts=away)
    body = report(desired, Observed(), plan(desired, Observed(), NOON), known, NOON).status
    assert body.coverage == known.status.coverage
    assert body.coverage.selected > 0


def test_a_name_that_only_an_invalid_manifest_has_is_invalid_with_place_and_hint() -> None:
    wrong = Problem("jobs/web.yaml", 1, 7, 10, "limit is 0", "give 1 to 20")
    rejected = Rejected("jobs/web.yaml", 1, "web", (wrong,))
    first = report_invalid("default", "web", rejected, COMMIT_REVISION, COMMIT, None, NOON)
    assert (first.status.phase, first.metadata.path) == (Phase.INVALID, "jobs/web.yaml")
    assert first.status.message == "jobs/web.yaml:7:10: limit is 0 (give 1 to 20)"
    assert (first.status.revision, first.status.commit) == (COMMIT_REVISION, commit_view(COMMIT))
    told = {(c.type, c.status, c.reason) for c in first.status.conditions}
    invalid = Reason.MANIFEST_INVALID
    assert told == {("Ready", "False", invalid), ("Stalled", "True", invalid), ("Accepted", "False", invalid)}
    later = report_invalid("default", "web", rejected, COMMIT_REVISION, COMMIT, first, NOON + timedelta(minutes=1))
    assert later == first


def test_the_revision_that_was_seen_and_that_of_each_run_name_their_commits() -> None:
    newer = replace(COMMIT, id="f" * 40, subject="Renew the certificates", signer="release@example.org")
    desired = replace(make_desired(), revision=Revision(f"main@sha1:{newer.id}"), commit=newer)
    run = ended(RunStatus.SUCCESS, Reason.SUCCEEDED, SUCCESS, revision=COMMIT_REVISION, commit=COMMIT)
    body = said(desired, Observed(run=run, last_success=summary(run), history=(summary(run),)))
    assert body.commit == commit_view(newer)
    assert body.run is not None
    assert body.last_success is not None
    assert body.run.commit == body.last_success.commit == body.history[0].commit == commit_view(COMMIT)
    assert body.model_dump(mode="json", by_alias=True)["history"][0]["commit"] == {
        "id": COMMIT.id,
        "author": "Ada Lovelace <ada@example.org>",
        "date": "2026-11-22T10:02:00Z",
        "subject": "Restart nginx after its configuration changed",
        "signer": None,
    }


def test_a_directory_has_no_commits() -> None:
    run = ended(RunStatus.SUCCESS, Reason.SUCCEEDED, SUCCESS)
    body = said(make_desired(), Observed(run=run, last_success=summary(run), history=(summary(run),)))
    document = body.model_dump(mode="json", by_alias=True)
    views = (document, document["run"], document["lastSuccess"], document["history"][0])
    assert [view["commit"] for view in views] == [None] * 4


def test_a_condition_remembers_when_it_last_changed() -> None:
    desired = make_desired()
    going_on = Observed(run=make_run(RUNNING, PENDING))
    over = Observed(run=ended(RunStatus.SUCCESS, Reason.SUCCEEDED, SUCCESS, SUCCESS))
    minute = timedelta(minutes=1)
    first = status_of(desired, going_on)
    second = status_of(desired, going_on, first, minute)
    third = status_of(desired, over, second, 2 * minute)

    def since(status: JobStatus, kind: ConditionType) -> timedelta | None:
        found = condition(status.status, kind)
        return None if found is None else found.last_transition_time - NOON

    assert [since(s, ConditionType.READY) for s in (first, second, third)] == [timedelta(), timedelta(), 2 * minute]
    assert [since(s, ConditionType.ACCEPTED) for s in (first, second, third)] == [timedelta()] * 3


def test_of_many_children_the_telling_ones_are_shown_and_all_are_counted() -> None:
    run = make_run(*[SUCCESS] * 5, PENDING, FAILED, RUNNING)
    desired, observed = make_desired(), Observed(run=run)
    body = report(desired, observed, plan(desired, observed, NOON), None, NOON, max_children=3).status
    assert [child.status for child in body.children] == [RUNNING, FAILED, PENDING]
    assert (body.hosts.selected, body.hosts.success, body.progress) == (8, 5, "6/8 completed, 1 failed")


def test_of_a_run_that_was_cut_short_the_hosts_that_were_interrupted_come_first() -> None:
    """Somebody has to look at them, and there may be more of the others than are shown."""
    run = make_run(SUCCESS, ChildStatus.SKIPPED, ChildStatus.CANCELLED, SUCCESS, ChildStatus.CANCELLED)
    desired, observed = make_desired(), Observed(run=run)
    body = report(desired, observed, plan(desired, observed, NOON), None, NOON, max_children=4).status
    told = [child.status.value for child in body.children]
    assert told == ["cancelled", "cancelled", "skipped", "success"]


def test_a_long_message_is_cut() -> None:
    run = replace(make_run(), children=(make_child(1, FAILED, message="x" * 5000),))
    body = said(make_desired(), Observed(run=run))
    assert len(body.children[0].message) == len(body.failures[0].message) == MAX_MESSAGE
