"""Values as the status documents show them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from reconciler.core.facts import (
    Child,
    ChildStatus,
    Commit,
    RunStatus,
    RunSummary,
)
from reconciler.core.failures import short
from reconciler.core.status import (
    ChildView,
    CommitView,
    HistoryView,
    SuccessView,
    WaveView,
)


def commit_view(commit: Commit | None) -> CommitView | None:
    """As documents have it; none where there is none."""
    if commit is None:
        return None
    return CommitView(
        id=commit.id, author=commit.author, date=commit.date, subject=commit.subject, signer=commit.signer
    )


# -- Views of the children -------------------------------------------------------------------------------------------
def progress(counts: Mapping[ChildStatus, int]) -> str:
    """`3/5 completed, 1 failed`: completed are all that ended, failed ones included."""
    done = sum(count for status, count in counts.items() if status.finished)
    bad = sum(count for status, count in counts.items() if status.unsuccessful)
    return f"{done}/{sum(counts.values())} completed, {bad} failed"


def wave_views(children: Sequence[Child]) -> tuple[WaveView, ...]:
    """The waves that have begun, in order, each with what came of it so far."""
    waves: defaultdict[int, list[Child]] = defaultdict(list)
    for child in children:
        if child.wave is not None:
            waves[child.wave].append(child)
    return tuple(_wave_view(number, waves[number]) for number in sorted(waves))


def _wave_view(number: int, children: Sequence[Child]) -> WaveView:
    started = [child.started_at for child in children if child.started_at is not None]
    finished = [child.finished_at for child in children if child.finished_at is not None]
    ended = all(child.status.finished for child in children)
    begun = bool(started) or any(child.retry_at is not None for child in children)
    if not ended:
        status = RunStatus.RUNNING if begun else RunStatus.PENDING
    elif any(child.status.unsuccessful for child in children):
        status = RunStatus.FAILED
    elif any(child.status is ChildStatus.CANCELLED for child in children):
        status = RunStatus.CANCELLED
    else:
        status = RunStatus.SUCCESS
    return WaveView(
        number=number,
        status=status,
        hosts=len(children),
        started_at=min(started, default=None),
        finished_at=max(finished, default=None) if ended else None,
    )


def most_telling(child: Child) -> tuple[int, int]:
    """Unfinished and unsuccessful children first, then those that were cut short, each in the order of selection."""
    if child.status is ChildStatus.RUNNING:
        rank = 0
    elif child.status.unsuccessful:
        rank = 1
    elif not child.status.finished:
        rank = 2
    elif child.status is ChildStatus.CANCELLED:
        rank = 3
    elif child.status is ChildStatus.SKIPPED:
        rank = 4
    else:
        rank = 5
    return rank, child.ordinal


def child_view(child: Child) -> ChildView:
    """One host's part of a run."""
    return ChildView(
        host=child.host,
        job_id=child.job_id,
        wave=child.wave,
        status=child.status,
        reason=child.reason,
        task=child.task,
        attempt=child.attempt,
        message=short(child.message),
        started_at=child.started_at,
        finished_at=child.finished_at,
    )


def success_view(summary: RunSummary | None) -> SuccessView | None:
    """The last success; none as long as there is none."""
    if summary is None or summary.finished_at is None:
        return None
    return SuccessView(
        run=summary.job_id,
        generation=summary.generation,
        revision=summary.revision,
        commit=commit_view(summary.commit),
        finished_at=summary.finished_at,
    )


def history_view(summary: RunSummary) -> HistoryView:
    """One line of the history."""
    return HistoryView(
        id=summary.job_id,
        cause=summary.cause,
        generation=summary.generation,
        revision=summary.revision,
        commit=commit_view(summary.commit),
        status=summary.status,
        hosts=summary.hosts,
        retry_of=summary.retry_of,
        started_at=summary.started_at,
        finished_at=summary.finished_at,
    )
