"""What people asked for outside a manifest: put into effect, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from reconciler.core.facts import Child, ChildStatus, JobKey, ManifestRecord, Observed, Stop
from reconciler.core.failures import short
from reconciler.core.folding import fold, run_of
from reconciler.core.reasons import Reason
from reconciler.core.retrying import Refusal
from reconciler.engine.causes import retry_cause, trigger_cause
from reconciler.ports import JobStore, Request, RequestKind

AS = {"success": ChildStatus.SUCCESS, "failed": ChildStatus.FAILED}
"""How a person may say that a host ended."""


def answer_requests(
    store: JobStore,
    key: JobKey,
    record: ManifestRecord | None,
    observed: Observed,
    playbook: Callable[[], str | None],
) -> frozenset[RequestKind]:
    """Of which kinds any was answered. `playbook` gives the digest of the playbook as its source has it now; None while
    nobody can tell: a request that can't be judged without waits."""
    answered = [
        request.kind for request in store.pending_requests(key) if _answer(store, request, record, observed, playbook)
    ]
    return frozenset(answered)


def _answer(
    store: JobStore,
    request: Request,
    record: ManifestRecord | None,
    observed: Observed,
    playbook: Callable[[], str | None],
) -> bool:
    """Put a person's request into effect, or say why not. False: neither can be done now."""
    match request.kind:
        case RequestKind.TRIGGER:
            if record is None or record.removed_at is not None:
                _refuse(store, request, Refusal("the manifest is gone from its source"))
            else:
                store.accept_cause(request, trigger_cause(request))
        case RequestKind.CANCEL:
            run = observed.run
            if run is None or not run.open or run.job_id != request.run:
                _refuse(store, request, Refusal("that run has ended"))
            else:
                said = f": {request.reason}" if request.reason else ""
                store.accept_cancel(request, Stop(Reason.CANCELLED, f"cancelled by {request.by}{said}"))
        case RequestKind.RETRY:
            return _answer_retry(store, request, record, observed, playbook)
        case RequestKind.RESOLVE:
            _answer_resolve(store, request, observed)
        case RequestKind.ADOPT | RequestKind.PAUSE | RequestKind.RESUME:  # of a source, not of a job: in force at once
            return False
        case RequestKind.WRITE:  # written down once it was done
            return False
        case _:
            assert_never(request.kind)
    return True


def _refuse(store: JobStore, request: Request, why: Refusal) -> None:
    store.refuse_request(request, f"refused: {why}")


def _answer_retry(
    store: JobStore,
    request: Request,
    record: ManifestRecord | None,
    observed: Observed,
    playbook: Callable[[], str | None],
) -> bool:
    cause = retry_cause(request, record, observed, playbook())
    if cause is None:
        return False
    if isinstance(cause, Refusal):
        _refuse(store, request, cause)
    else:
        store.accept_cause(request, cause)
    return True


def _answer_resolve(store: JobStore, request: Request, observed: Observed) -> None:
    host, status = request.arguments.get("host", ""), AS.get(request.arguments.get("as", ""))
    child = child_to_resolve(observed, host, request.run)
    if isinstance(child, Refusal):
        _refuse(store, request, child)
    elif status is None:
        _refuse(store, request, Refusal(f"a host ends as {' or '.join(AS)}"))
    elif not request.reason.strip():
        _refuse(store, request, Refusal("nobody said how they know", "--reason"))
    else:
        message = f"resolved as {status} by {request.by}: {request.reason}"
        before = f" (it was unknown: {child.message})" if child.message else ""
        store.accept_resolve(request, child.job_id, status, short(message + before))


def child_to_resolve(observed: Observed, host: str, run_id: str | None) -> Child | Refusal:
    """The part of a run that left this host unknown, if it still is; `run_id`: the run that is meant, None: any."""
    child = next((child for child in fold(observed) if child.host == host), None)
    if child is None:
        return Refusal(f"the run has no host {host}")
    if child.status is not ChildStatus.UNKNOWN:
        return Refusal(f"{host} is {child.status}, not unknown")
    if run_id not in (None, run_of(child)):
        return Refusal(f"{host} is unknown by {run_of(child)}, and not by {run_id}")
    return child
