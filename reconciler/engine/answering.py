"""What people asked for outside a manifest: put into effect, or refused with the reason."""

from __future__ import annotations

from typing import assert_never

from reconciler.core.facts import JobKey, ManifestRecord, Observed, Stop
from reconciler.core.reasons import Reason
from reconciler.engine.causes import trigger_cause
from reconciler.ports import JobStore, Request, RequestKind


def answer_requests(store: JobStore, key: JobKey, record: ManifestRecord | None, observed: Observed) -> bool:
    """Whether there was one."""
    pending = store.pending_requests(key)
    for request in pending:
        _answer(store, request, record, observed)
    return bool(pending)


def _answer(store: JobStore, request: Request, record: ManifestRecord | None, observed: Observed) -> None:
    """Put a person's request into effect, or say why not."""
    match request.kind:
        case RequestKind.TRIGGER:
            if record is None or record.removed_at is not None:
                store.refuse_request(request, "refused: the manifest is gone from its source")
                return
            store.accept_trigger(request, trigger_cause(request))
        case RequestKind.CANCEL:
            run = observed.run
            if run is None or not run.open or run.job_id != request.run:
                store.refuse_request(request, "refused: that run has ended")
                return
            said = f": {request.reason}" if request.reason else ""
            store.accept_cancel(request, Stop(Reason.CANCELLED, f"cancelled by {request.by}{said}"))
        case _:
            assert_never(request.kind)
