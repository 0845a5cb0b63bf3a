"""What is said of a job: its status document, derived from values in one function and nowhere else.

`report()` is a table from the planner's verdict to phase and conditions. Nothing else in the project sets a condition.
`Reconciling` and `Stalled` are present only while True and never both; `Ready` is always present.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, assert_never

from pydantic import BaseModel, ConfigDict

from reconciler.core.facts import (
    ChildStatus,
    Commit,
    Coverage,
    ManifestRecord,
    Observed,
    Run,
    RunStatus,
    SliceState,
)
from reconciler.core.failures import EXAMPLES, group_failures, short
from reconciler.core.folding import Conclusion, fold, standing
from reconciler.core.opening import count_hosts, coverage_of, left_behind, paused, rest
from reconciler.core.plans import Blocked, Desired, Plan, Verdict
from reconciler.core.reading import Rejected
from reconciler.core.reasons import Reason
from reconciler.core.retrying import waits_for_retry
from reconciler.core.status import (
    Condition,
    ConditionType,
    CoverageCounts,
    HostCounts,
    JobMetadata,
    JobStatus,
    JobStatusBody,
    ManifestCounts,
    Phase,
    RejectedView,
    RunStatusView,
    SourceMetadata,
    SourceStatus,
    SourceStatusBody,
)
from reconciler.core.views import (
    child_view,
    commit_view,
    history_view,
    most_telling,
    progress,
    success_view,
    wave_views,
)


@dataclass(frozen=True, slots=True)
class WaitsFor:
    """What a job was refused for now: HostsBusy or NoFreeSlots, and the job (`source/name`) that has it."""

    reason: Reason
    holder: str

    @property
    def what(self) -> str:
        return "slots" if self.reason is Reason.NO_FREE_SLOTS else "hosts"


def report(
    desired: Desired,
    observed: Observed,
    plan: Plan,
    previous: JobStatus | None,
    now: datetime,
    *,
    waits_for: WaitsFor | None = None,
    max_children: int = 200,
) -> JobStatus:
    """The status document of a job, out of what is wanted, what is known and what the planner says.

    `previous` gives the times at which conditions last changed, and the coverage while the hosts can't be read.
    `waits_for` is what this job was refused, if it was.
    """
    record, run = desired.record, observed.run
    children = fold(observed)
    hosts = desired.hosts if not isinstance(desired.hosts, Blocked) else ()
    covered = coverage_of(hosts, observed.hosts, record.coverage_digest)
    coverage = CoverageCounts(
        selected=len(hosts),
        up_to_date=covered.get(Coverage.UP_TO_DATE, 0),
        behind=covered.get(Coverage.BEHIND, 0),
        never=covered.get(Coverage.NEVER, 0),
    )
    if isinstance(desired.hosts, Blocked) and not desired.hosts.permanent and previous is not None:
        coverage = previous.status.coverage
    counts = Counter(child.status for child in children)
    said = _verdict(desired, observed, plan, waits_for)
    return JobStatus(
        metadata=JobMetadata(
            name=record.key.name,
            source=record.key.source,
            path=record.path,
            generation=record.generation,
            labels=record.labels,
        ),
        status=JobStatusBody(
            observed_generation=record.generation,
            phase=said.phase,
            message=short(said.message),
            progress=progress(counts),
            revision=desired.revision,
            commit=commit_view(desired.commit),
            suspended=desired.spec.suspend or observed.pause is not None,
            strategy=desired.spec.strategy,
            playbook=desired.spec.playbook,
            conditions=_conditions(desired, observed, said, covered, previous, now),
            run=None if run is None else _run_view(run, plan, waits_for),
            hosts=HostCounts(selected=len(children), **{status.value: counts[status] for status in ChildStatus}),
            coverage=coverage,
            failures=group_failures(children),
            waves=wave_views(run.children if run is not None else ()),
            children=tuple(child_view(child) for child in sorted(children, key=most_telling)[:max_children]),
            warnings=plan.warnings,
            last_success=success_view(observed.last_success),
            history=tuple(history_view(summary) for summary in observed.history),
        ),
    )


def report_invalid(
    source: str,
    name: str,
    rejected: Rejected,
    revision: str,
    commit: Commit | None,
    previous: JobStatus | None,
    now: datetime,
) -> JobStatus:
    """The status document of a name that no valid manifest ever had: what is wrong with the one that wants it."""
    first = rejected.first
    text = f"{first}{f' ({first.hint})' if first.hint else ''}"
    condition = _condition_writer(previous, 0, now)
    return JobStatus(
        metadata=JobMetadata(name=name, source=source, path=rejected.path, generation=0),
        status=JobStatusBody(
            observed_generation=0,
            phase=Phase.INVALID,
            message=short(text),
            progress=progress({}),
            revision=revision,
            commit=commit_view(commit),
            conditions=(
                condition(ConditionType.READY, "False", Reason.MANIFEST_INVALID, text),
                condition(ConditionType.STALLED, "True", Reason.MANIFEST_INVALID, text),
                condition(ConditionType.ACCEPTED, "False", Reason.MANIFEST_INVALID, text),
            ),
        ),
    )


def report_source(
    name: str,
    revision: str,
    commit: Commit | None,
    records: Collection[ManifestRecord],
    rejected: Sequence[Rejected],
    staying: Sequence[str],
    previous: SourceStatus | None,
    now: datetime,
    *,
    empty: bool,
    notes: Sequence[str],
    held: Reason | None = None,
) -> SourceStatus:
    """The status document of a source that was read completely: `records` of all its manifests, tombstones included;
    `staying` are jobs whose manifest is gone and that are not removed yet; `empty`: it has none any more, though it had;
    `held`: why nothing of it runs before it is adopted; `notes` is what a person should know beside that."""
    condition = _condition_writer(previous, 0, now)
    if empty:
        text = "; ".join((f"no manifest matches; {len(staying)} jobs are held and none is removed", *notes))
        conditions = [
            condition(ConditionType.READY, "False", Reason.SOURCE_EMPTY, text),
            condition(ConditionType.STALLED, "True", Reason.SOURCE_EMPTY, text),
        ]
    elif held is not None:
        text = "; ".join((_held(name, held, records), *notes))
        conditions = [
            condition(ConditionType.READY, "False", held, text),
            condition(ConditionType.STALLED, "True", held, text),
        ]
    else:
        kept = [f"{', '.join(staying)} not removed: a new file that is invalid may be theirs"] if staying else []
        text = "; ".join(("read completely", *kept, *notes))
        conditions = [condition(ConditionType.READY, "True", Reason.SYNCED, text)]
    if commit is not None and commit.signer is not None:
        signed = f"signed by {commit.signer}"
        conditions.append(condition(ConditionType.SOURCE_VERIFIED, "True", Reason.VERIFIED, signed))
    counts = ManifestCounts(
        accepted=sum(record.removed_at is None for record in records),
        rejected=len(rejected),
        removed=sum(record.removed_at is not None for record in records),
    )
    views = tuple(
        RejectedView(
            path=entry.path,
            document=entry.document,
            name=entry.name,
            line=entry.first.line,
            column=entry.first.column,
            message=entry.first.message,
            hint=entry.first.hint,
        )
        for entry in rejected
    )
    return SourceStatus(
        metadata=SourceMetadata(name=name),
        status=SourceStatusBody(
            observed_revision=revision,
            commit=commit_view(commit),
            last_sync=now,
            manifests=counts,
            conditions=tuple(conditions),
            rejected=views,
        ),
    )


def _held(name: str, why: Reason, records: Collection[ManifestRecord]) -> str:
    waiting = sum(record.held is not None and record.removed_at is None for record in records)
    what = "there are status files of it, and the database knows nothing of it"
    if why is Reason.AWAITING_ADOPTION:
        what = "the database has never seen this source, and knows others"
    jobs = "1 job waits" if waiting == 1 else f"{waiting} jobs wait"
    return f"held, for {what}: {jobs} (reconciler adopt {name} --as-done if it has run before, else --run)"


def report_unread_source(name: str, why: Blocked, previous: SourceStatus | None, now: datetime) -> SourceStatus:
    """The status document of a source that can't be read: what was last known of it, and why. Whether it is verified
    stays as it was, unless that is why."""
    condition = _condition_writer(previous, 0, now)
    kind = ConditionType.STALLED if why.permanent else ConditionType.RECONCILING
    known = SourceStatusBody(observed_revision=None, last_sync=None, manifests=ManifestCounts(), conditions=())
    if previous is not None:
        known = previous.status
    verified = [before for before in known.conditions if before.type is ConditionType.SOURCE_VERIFIED]
    if why.reason is Reason.SOURCE_UNVERIFIED:
        verified = [condition(ConditionType.SOURCE_VERIFIED, "False", why.reason, str(why))]
    conditions = (
        condition(ConditionType.READY, "False", why.reason, str(why)),
        condition(kind, "True", why.reason, str(why)),
        *verified,
    )
    return SourceStatus(metadata=SourceMetadata(name=name), status=known.model_copy(update={"conditions": conditions}))


class _Saying(BaseModel):
    """What the verdict amounts to for a reader."""

    model_config = ConfigDict(frozen=True)
    phase: Phase
    ready: bool
    reason: Reason
    message: str
    reconciling: bool = False
    stalled: bool = False


def _verdict(desired: Desired, observed: Observed, plan: Plan, waits_for: WaitsFor | None) -> _Saying:
    """The table from verdict to phase, Ready, Reconciling and Stalled."""
    run, stands = observed.run, standing(observed)
    last = _last_phase(observed)
    blocked = plan.blocked
    match plan.verdict:
        case Verdict.CONVERGED:
            reason = Reason.CHECK_MODE if run is not None and run.spec.check_mode else Reason.SUCCEEDED
            return _Saying(phase=Phase.SUCCEEDED, ready=True, reason=reason, message=_ended(stands))
        case Verdict.FAILED:
            reason, message = _failed(desired, observed, stands)
            return _Saying(phase=Phase.FAILED, ready=False, reason=reason, message=message, stalled=True)
        case Verdict.CANCELLED:
            reason = Reason.CANCELLED if stands is None else stands.reason
            return _Saying(phase=Phase.CANCELLED, ready=False, reason=reason, message=_ended(stands))
        case Verdict.IDLE:
            message = "nothing has asked for a run of this spec yet; reconciler trigger does"
            return _Saying(phase=last or Phase.PENDING, ready=False, reason=Reason.NOT_REQUESTED, message=message)
        case Verdict.PROGRESSING:
            phase = Phase.RUNNING if run is not None and run.open and run.started_at is not None else Phase.PENDING
            if waits_for is not None:
                message = f"waits for {waits_for.what} that {waits_for.holder} has"
                return _Saying(phase=phase, ready=False, reason=waits_for.reason, message=message, reconciling=True)
            message = _going_on(run, plan)
            return _Saying(phase=phase, ready=False, reason=Reason.PROGRESSING, message=message, reconciling=True)
        case Verdict.WAITING:
            reason, message = _said(blocked)
            phase = last if last is not None and run is not None and run.open else Phase.PENDING
            return _Saying(phase=phase, ready=False, reason=reason, message=message, reconciling=True)
        case Verdict.STALLED:
            reason, message = _said(blocked)
            return _Saying(phase=Phase.STALLED, ready=False, reason=reason, message=message, stalled=True)
        case Verdict.SUSPENDED:
            return _suspended(desired, observed, run)
        case Verdict.REMOVED:
            return _removed(desired.record)
        case _:
            assert_never(plan.verdict)


def _suspended(desired: Desired, observed: Observed, run: Run | None) -> _Saying:
    effect = f"{_remaining(run)} held" if run is not None and run.open else "nothing new starts"
    reason, message = Reason.SUSPENDED, f"suspended: {effect}"
    if observed.pause is not None:
        reason, message = Reason.PAUSED, f"{effect}: {paused(observed.pause)}"
    at_rest = not observed.causes and (run is None or not run.open)
    converged = at_rest and rest(desired, observed) is Verdict.CONVERGED
    reason = Reason.SUCCEEDED if converged else reason
    return _Saying(phase=_last_phase(observed) or Phase.PENDING, ready=converged, reason=reason, message=message)


def _removed(record: ManifestRecord) -> _Saying:
    problem = record.rejected
    if problem is None:
        message = f"{record.path} no longer has this manifest"
        return _Saying(phase=Phase.REMOVED, ready=False, reason=Reason.REMOVED, message=message)
    # It is to come back, and can't.
    reason, message = Reason.MANIFEST_INVALID, f"{problem} ({problem.hint})" if problem.hint else str(problem)
    return _Saying(phase=Phase.INVALID, ready=False, reason=reason, message=message, stalled=True)


def _said(blocked: Blocked | None) -> tuple[Reason, str]:
    if blocked is None:
        return Reason.PROGRESSING, ""
    return blocked.reason, str(blocked)


def _failed(desired: Desired, observed: Observed, stands: Conclusion | None) -> tuple[Reason, str]:
    """The latest run failed, or had other hosts than those that are left behind."""
    if stands is not None and stands.status is RunStatus.FAILED:
        return stands.reason, stands.message
    behind = left_behind(desired, observed)
    named = ", ".join(behind[:EXAMPLES]) + (", …" if len(behind) > EXAMPLES else "")
    verb = "has" if len(behind) == 1 else "have"
    return Reason.HOSTS_FAILED, f"{named} {verb} not succeeded with the current spec"


def _last_phase(observed: Observed) -> Phase | None:
    run, stands = observed.run, standing(observed)
    if run is None:
        return None
    status = run.status if stands is None else stands.status
    match status:
        case RunStatus.PENDING:
            return Phase.PENDING
        case RunStatus.RUNNING:
            return Phase.RUNNING
        case RunStatus.SUCCESS:
            return Phase.SUCCEEDED
        case RunStatus.FAILED:
            return Phase.FAILED
        case RunStatus.CANCELLED:
            return Phase.CANCELLED
        case _:
            assert_never(status)


def _ended(stands: Conclusion | None) -> str:
    return stands.message if stands is not None else ""


def _remaining(run: Run) -> str:
    left = sum(child.status is ChildStatus.PENDING for child in run.children)
    return f"{left} of {len(run.children)} hosts"


def _going_on(run: Run | None, plan: Plan) -> str:
    if run is None or not run.open:
        return "a run is about to start"
    running = {part.wave for part in run.slices if part.state.open}
    if running and (why := _cannot_start(run)) is not None:
        return f"wave {max(running)} of {_waves(run, plan)} can't start yet: {why}"
    if running:
        return f"wave {max(running)} of {_waves(run, plan)} is running"
    waiting = [child for child in run.children if waits_for_retry(child)]
    first = min((child.retry_at for child in waiting if child.retry_at is not None), default=None)
    if first is not None:
        wave = f"wave {waiting[0].wave} of {_waves(run, plan)}"
        return f"{wave}: retries {count_hosts(len(waiting))} at {first:%H:%M:%S} UTC"
    return f"{_remaining(run)} are still to come"


def _cannot_start(run: Run) -> str | None:
    """Why, when all that is open of a run was tried to start and could not."""
    parts = [part for part in run.slices if part.state.open]
    if not all(part.state is SliceState.PLANNED and part.restarts > 0 for part in parts):
        return None
    hosts = {host for part in parts for host in part.hosts}
    return next((child.message for child in run.children if child.host in hosts and child.message), None)


def _waves(run: Run, plan: Plan) -> int:
    started = {child.wave for child in run.children if child.wave is not None}
    started |= {part.wave for part in run.slices if part.state.open}
    return max(started, default=0) + (len(plan.waves) if run.open else 0)


class _ConditionWriter(Protocol):
    def __call__(
        self, kind: ConditionType, status: Literal["True", "False", "Unknown"], reason: str, text: str
    ) -> Condition: ...


def _condition_writer(previous: JobStatus | SourceStatus | None, generation: int, now: datetime) -> _ConditionWriter:
    """Writes conditions that keep the time of their last change, as `previous` has it."""
    before = {condition.type: condition for condition in previous.status.conditions} if previous is not None else {}

    def condition(
        kind: ConditionType, status: Literal["True", "False", "Unknown"], reason: str, text: str
    ) -> Condition:
        was = before.get(kind)
        since = was.last_transition_time if was is not None and was.status == status else now
        return Condition(
            type=kind,
            status=status,
            reason=reason,
            message=short(text),
            last_transition_time=since,
            observed_generation=generation,
        )

    return condition


def _conditions(
    desired: Desired,
    observed: Observed,
    said: _Saying,
    covered: Mapping[Coverage, int],
    previous: JobStatus | None,
    now: datetime,
) -> tuple[Condition, ...]:
    condition = _condition_writer(previous, desired.record.generation, now)
    found = [condition(ConditionType.READY, "True" if said.ready else "False", said.reason, said.message)]
    if said.reconciling:
        found.append(condition(ConditionType.RECONCILING, "True", said.reason, said.message))
    if said.stalled:
        found.append(condition(ConditionType.STALLED, "True", said.reason, said.message))
    if (problem := desired.record.rejected) is not None:
        hint = f" ({problem.hint})" if problem.hint else ""
        found.append(condition(ConditionType.ACCEPTED, "False", Reason.MANIFEST_INVALID, f"{problem}{hint}"))
    else:
        found.append(condition(ConditionType.ACCEPTED, "True", Reason.ACCEPTED, Reason.ACCEPTED.paragraph))
    found.append(condition(ConditionType.UP_TO_DATE, *_up_to_date(desired, observed, said, covered)))
    if observed.pause is not None:
        text = f"{paused(observed.pause)}{'; spec.suspend is true too' * desired.spec.suspend}"
        found.append(condition(ConditionType.SUSPENDED, "True", Reason.PAUSED, text))
    elif desired.spec.suspend:
        found.append(condition(ConditionType.SUSPENDED, "True", Reason.SUSPENDED, "spec.suspend is true"))
    return tuple(found)


def _up_to_date(
    desired: Desired, observed: Observed, said: _Saying, covered: Mapping[Coverage, int]
) -> tuple[Literal["True", "False", "Unknown"], str, str]:
    """Whether what ran last is what the source has now; the first rule that holds."""
    run = observed.run
    if isinstance(desired.playbook, Blocked):
        return "Unknown", desired.playbook.reason, desired.playbook.message
    if isinstance(desired.hosts, Blocked):
        return "Unknown", desired.hosts.reason, desired.hosts.message
    if run is None or run.work_digest != desired.record.work_digest:
        return (
            "False",
            Reason.NOT_REQUESTED if said.reason is Reason.NOT_REQUESTED else Reason.PROGRESSING,
            "the current spec has not run yet",
        )
    if run.playbook_digest != desired.playbook_digest or _with_another_playbook(desired, observed):
        text = f"{desired.spec.playbook} or a file it can reach changed at {desired.revision}"
        return "False", Reason.PLAYBOOK_CHANGED, text
    missing = covered.get(Coverage.BEHIND, 0) + covered.get(Coverage.NEVER, 0)
    if missing and not run.spec.check_mode:
        text = f"{missing} of {len(desired.hosts)} selected hosts have not succeeded with the current spec"
        return "False", Reason.HOSTS_BEHIND, text
    return "True", Reason.UP_TO_DATE, Reason.UP_TO_DATE.paragraph


def _with_another_playbook(desired: Desired, observed: Observed) -> bool:
    """Whether a selected host last succeeded with the current spec, and with another content of its playbook. The
    latest run may have had other hosts (those that joined)."""
    if isinstance(desired.hosts, Blocked):
        return False
    records = (observed.hosts.get(host.name) for host in desired.hosts)
    return any(
        record.success_digest == desired.record.coverage_digest
        and record.success_playbook not in (None, desired.playbook_digest)
        for record in records
        if record is not None
    )


def _run_view(run: Run, plan: Plan, waits_for: WaitsFor | None) -> RunStatusView:
    return RunStatusView(
        id=run.job_id,
        cause=run.cause,
        cause_message=short(run.cause_message),
        status=run.status,
        reason=run.reason,
        revision=run.revision,
        commit=commit_view(run.commit),
        check_mode=run.spec.check_mode,
        retry_of=run.retry_of,
        waits_for=None if waits_for is None else waits_for.holder,
        waves=_waves(run, plan),
        attempts=max((child.attempt for child in run.children), default=0),
        started_at=run.started_at,
        finished_at=run.finished_at,
    )
