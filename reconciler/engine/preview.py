"""What would run, without running it: the planner's own answer, shown before anything is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from reconciler.core.facts import Cause, JobKey, ManifestRecord, Observed
from reconciler.core.planning import Desired, Plan, plan
from reconciler.core.reading import Rejected
from reconciler.engine.catalogue import Catalogue
from reconciler.engine.causes import due_causes, trigger_cause
from reconciler.engine.resolve import Resolver, with_place
from reconciler.ports import NewCause, Request, RequestKind, Snapshot


@dataclass(frozen=True, slots=True)
class Preview:
    """What the planner would do with one job, and what for."""

    desired: Desired
    causes: tuple[Cause, ...]
    plan: Plan


def preview(
    snapshot: Snapshot,
    catalogue: Catalogue,
    resolver: Resolver,
    records: Mapping[str, ManifestRecord],
    observe: Callable[[JobKey], Observed],
    requests: Callable[[JobKey], Sequence[Request]],
    now: datetime,
) -> tuple[Sequence[Preview], Sequence[Rejected]]:
    """Every job of the snapshot, and what was rejected. `records`, `observe` and `requests` say what has been and what
    was asked for; nothing is changed."""
    decision = catalogue.decide(catalogue.read(snapshot), records, snapshot.revision, now)
    after = {**records, **{record.key.name: record for record in decision.changed}}
    found = []
    for record in sorted(after.values(), key=lambda record: record.key):
        if record.removed_at is not None and record not in decision.changed:
            continue
        observed = observe(record.key)
        desired = resolver.resolve(record, snapshot)
        changed = [cause for cause in decision.causes if cause.key == record.key]
        asked = [trigger_cause(each) for each in requests(record.key) if each.kind is RequestKind.TRIGGER]
        known = {(cause.kind, cause.key) for cause in observed.causes}
        new = tuple(
            _as_cause(cause, now)
            for cause in (*changed, *asked, *due_causes(desired, observed))
            if (cause.kind, cause.cause) not in known
        )
        observed = replace(observed, causes=(*observed.causes, *new))
        found.append(Preview(desired, observed.causes, with_place(plan(desired, observed, now), record, snapshot)))
    return found, decision.rejected


def _as_cause(cause: NewCause, now: datetime) -> Cause:
    return Cause(cause.kind, cause.cause, cause.message, now, cause.hosts)
