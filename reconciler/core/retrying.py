"""Trying again what did not succeed: by itself, as `retry` of the manifest says, and by hand, as a person asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    ChildStatus,
    HostOutcome,
    ManifestRecord,
    Observed,
    Revision,
    Run,
)
from reconciler.core.folding import fold
from reconciler.core.manifest import LONGEST_BACKOFF, Retry
from reconciler.core.reasons import Reason

NAMED = 5
"""Hosts that a refusal names."""

SAID = 200
"""Characters of what went wrong that are shown while the host waits; its attempt has all of it."""

NOT_SUCCEEDED = frozenset({ChildStatus.FAILED, ChildStatus.UNREACHABLE, ChildStatus.ABORTED})
IN_VAIN = frozenset({Reason.PLAYBOOK_BROKEN, Reason.HOST_GONE})
"""What another attempt of the same run would not change."""


# -- by itself -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class NextAttempt:
    """When a host is tried again, and what is said of it until then."""

    at: datetime
    message: str


def next_attempt(retry: Retry, outcome: HostOutcome, attempt: int, now: datetime) -> NextAttempt | None:
    """What follows an attempt (counted from 1) that ended so; None: nothing, the outcome stands."""
    wanted = NOT_SUCCEEDED | {ChildStatus.UNKNOWN} if retry.unknown else NOT_SUCCEEDED
    if outcome.status not in wanted or outcome.reason in IN_VAIN or attempt > retry.limit:
        return None
    at = now + backoff(retry, attempt)
    went_wrong = (outcome.message.strip() or outcome.status.value).splitlines()[0][:SAID]
    return NextAttempt(at, f"attempt {attempt} of {retry.limit + 1}: {went_wrong}; again at {at:%H:%M:%S} UTC")


def backoff(retry: Retry, attempt: int) -> timedelta:
    """How long to wait after this attempt: twice as long after each one, up to an hour."""
    doubled: int = 2 ** min(attempt - 1, 12)
    return min(LONGEST_BACKOFF, retry.backoff * doubled)


def waits_for_retry(child: Child) -> bool:
    """Whether its last attempt did not succeed, and another is to come."""
    return child.status is ChildStatus.PENDING and child.retry_at is not None


def is_due(child: Child, now: datetime) -> bool:
    """Whether its next attempt may start. One that is further away than any backoff was scheduled by a clock that has
    been set back since."""
    at = child.retry_at
    return at is not None and not now < at <= now + LONGEST_BACKOFF


# -- by hand ---------------------------------------------------------------------------------------------------------
class Which(StrEnum):
    """Hosts of a run by what became of them."""

    FAILED = "failed"  # failed, unreachable, aborted
    UNFINISHED = "unfinished"  # those, and what was skipped or cancelled
    UNKNOWN = "unknown"


class AtRevision(StrEnum):
    """What a retry runs."""

    SAME = "same"  # what the run had that it tries again
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something that was asked for is not done, and what to do instead."""

    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def choose_hosts(
    record: ManifestRecord | None, observed: Observed, run_id: str | None, named: Sequence[str], which: Which | None
) -> tuple[str, ...] | Refusal:
    """The hosts of the run that are to be tried again: those `named`, else those that ended as `which` says (None:
    failed); with both, the named ones must have ended so. The run must be the latest of the current work fields."""
    run = observed.run
    if record is None or record.removed_at is not None:
        return Refusal("the manifest is gone from its source")
    if run is None:
        return Refusal("it has not run yet", "reconciler trigger runs it")
    if run.job_id != run_id:
        return Refusal(f"superseded: {run.job_id} is the latest run, and not {run_id}", "see how that one stands")
    if run.open:
        return Refusal(f"{run.job_id} is still in progress", "wait for its end, or cancel it")
    if run.work_digest != record.work_digest:
        return Refusal(
            "superseded: the manifest has changed since, and what that run did is not wanted any more",
            "reconciler trigger runs what it says now",
        )
    children = fold(observed)
    return _named(run, children, named, which) if named else _ended_so(children, which or Which.FAILED)


def _named(run: Run, children: Sequence[Child], named: Sequence[str], which: Which | None) -> tuple[str, ...] | Refusal:
    by_name = {child.host: child for child in children}
    if strangers := [name for name in named if name not in by_name]:
        return Refusal(f"{run.job_id} has no host {_some(strangers)}")
    chosen = [by_name[name] for name in dict.fromkeys(named)]
    if done := [child.host for child in chosen if child.status is ChildStatus.SUCCESS]:
        return Refusal(f"{_some(done)} succeeded: there is nothing to try again", "leave it out")
    if which is not None and (others := [child for child in chosen if not _is(child, which)]):
        return Refusal(f"{_some([child.host for child in others])} is {others[0].status}, not {which}")
    return tuple(child.host for child in children if child.host in named)


def _ended_so(children: Sequence[Child], which: Which) -> tuple[str, ...] | Refusal:
    chosen = tuple(child.host for child in children if _is(child, which))
    if chosen:
        return chosen
    hints = []
    if unknown := sum(_is(child, Which.UNKNOWN) for child in children):
        hints.append(f"{unknown} unknown: look at them, then --unknown, or reconciler resolve")
    failed = sum(_is(child, Which.FAILED) for child in children)
    if failed:
        hints.append(f"{failed} failed: --failed")
    if unfinished := sum(_is(child, Which.UNFINISHED) for child in children) - failed:
        hints.append(f"{unfinished} skipped or cancelled: --unfinished")
    return Refusal(f"no host is {which}", "; ".join(hints) or "reconciler trigger runs all of them again")


def _is(child: Child, which: Which) -> bool:
    match which:
        case Which.FAILED:
            return child.status in NOT_SUCCEEDED
        case Which.UNFINISHED:
            # A host that no play targets was not left out: to try it again would do nothing again.
            cut_short = child.status in (ChildStatus.SKIPPED, ChildStatus.CANCELLED)
            return child.status in NOT_SUCCEEDED or (cut_short and child.reason is not Reason.NOT_TARGETED)
        case Which.UNKNOWN:
            return child.status is ChildStatus.UNKNOWN


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def choose_revision(run: Run, playbook_digest: str, at: AtRevision | None) -> Revision | Refusal | None:
    """What a retry of the run is pinned to; None: the newest. It must be said once the playbook is another."""
    if at is AtRevision.LATEST:
        return None
    if at is None and playbook_digest != run.playbook_digest:
        return Refusal(
            "the playbook, or a file it can reach, has changed since that run: which of the two is to run?",
            "--revision same, or --revision latest",
        )
    return run.revision


def retries_to_open(causes: Sequence[Cause]) -> tuple[Cause, ...]:
    """The causes of which the next run is a retry, oldest first: none if anything asks for the whole selection, which has
    their hosts too."""
    retried = tuple(cause for cause in causes if cause.kind is CauseKind.RETRIED)
    whole = any(cause.kind not in (CauseKind.RETRIED, CauseKind.HOSTS_JOINED) for cause in causes)
    return () if whole else retried


def is_outdated(cause: Cause, record: ManifestRecord, run: Run | None) -> bool:
    """Whether it is a retry of a run that is not the latest of the current work fields any more."""
    if cause.kind is not CauseKind.RETRIED:
        return False
    return run is None or run.job_id != cause.retry_of or run.work_digest != record.work_digest
