"""The API of composing: what a manifest would come to, and putting one into a source."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from starlette.requests import ClientDisconnect

from reconciler.core.composing import Choice, Misfit, compose
from reconciler.core.errors import Refused
from reconciler.core.facts import JobKey
from reconciler.core.reasons import Reason
from reconciler.ports import Authoring, Planned, Written
from reconciler.web.access import CallerHere
from reconciler.web.documents import (
    BatchBody,
    ManifestBody,
    PlannedDocument,
    WrittenDocument,
    planned_document,
    written_document,
)
from reconciler.web.doors import Doors, DoorsHere
from reconciler.web.problems import Declined, FieldError, invalid, problems
from reconciler.web.routing import SourceQuery, reading, writing
from reconciler.web.tokens import Caller

look, write = reading(), writing()

LOOKS_AGAIN = 0.25
"""Seconds between two looks whether a run was opened."""

OTHER_NAMES = 10
"""Names that are made, one after the other, where each turns out to be taken."""

MANIFEST = """\
apiVersion: reconciler/v1
kind: BatchJob
metadata: {name: patch-web}
spec:
  playbook: playbooks/patch.yml
  selector: {tags: [web]}
"""


async def _text(request: Request) -> str:
    """The body. Raises Declined (400) for one that is no text, or not whole."""
    try:
        return (await request.body()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Declined(400, "the body is no UTF-8 text") from error
    except ClientDisconnect:
        raise Declined(400, "the body is cut short") from None


@look.post(
    "/plan",
    operation_id="planManifest",
    tags=["manifests"],
    responses=problems(400, 403, 404, 409, 413),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "One manifest, as YAML (which JSON is too).",
            "content": {
                "application/yaml": {"schema": {"type": "string"}, "example": MANIFEST},
                "application/json": {"schema": {"type": "object"}},
            },
        }
    },
)
def plan_manifest(
    doors: DoorsHere, text: Annotated[str, Depends(_text)], source: SourceQuery = None
) -> PlannedDocument:
    """What a manifest would come to, were it in the source as that is now: its hosts in their waves, or what is wrong with
    it. Nothing is kept of it. `source` may be left out where there is only one."""
    authoring = _authoring(doors)
    return planned_document(authoring.plan(_source(authoring, source, writable=False), text))


@write.post("/manifests", operation_id="writeManifest", status_code=201, tags=["manifests"])
def write_manifest(
    doors: DoorsHere,
    caller: CallerHere,
    response: Response,
    body: ManifestBody,
    source: SourceQuery = None,
    wait: Annotated[int, Query(ge=0, le=30, description="Seconds to wait for its run to be opened.")] = 0,
) -> WrittenDocument:
    """Put a new manifest into a source: a commit where that is a repository. `source` may be left out where manifests can
    be put into one only."""
    authoring = _authoring(doors)
    into = _source(authoring, source, writable=True)
    planned = authoring.plan(into, body.manifest)
    if planned.problems:
        raise _rejected(planned)
    return _write(doors, caller, response, authoring, into, body.manifest, body.message, planned, wait)


@write.post("/batches", operation_id="createBatch", status_code=201, tags=["manifests"])
def create_batch(
    doors: DoorsHere,
    caller: CallerHere,
    response: Response,
    body: BatchBody,
    wait: Annotated[int, Query(ge=0, le=30, description="Seconds to wait for its run to be opened.")] = 5,
) -> WrittenDocument:
    """Run a playbook on servers, as job APIs are asked for it. It is written as a manifest into the source, by a commit
    where that is a repository; the daemon reads it there, and opens the parent and the child jobs."""
    authoring = _authoring(doors)
    into = _source(authoring, body.source, writable=True, place="body")
    choice = Choice(
        playbook=body.playbook,
        servers=body.servers,
        tags=body.tags,
        execution_strategy=body.execution_strategy,
        concurrent_limit=body.concurrent_limit,
        stop_on_failure=body.stop_on_failure,
        name=body.name,
        inventory=body.inventory,
        min_hosts=body.min_hosts,
    )
    refused: set[str] = set()

    def taken(name: str) -> bool:
        return name in refused or doors.requests.manifest(JobKey(into, name)) is not None

    while True:
        composed = compose(choice, taken=taken, max_limit=doors.max_limit)
        if isinstance(composed, tuple):
            raise _misfits(composed)
        planned = authoring.plan(into, composed.text)
        if planned.problems:
            raise _rejected(planned)
        if planned.refusal is not None:
            raise Declined(409, planned.refusal, hint=planned.hint)
        try:
            return _write(doors, caller, response, authoring, into, composed.text, body.message, planned, wait)
        except Refused as error:
            # Somebody has put one of that name there since the source was read last: a name that nobody chose may be another.
            if error.reason is not Reason.NAME_TAKEN or body.name is not None or len(refused) == OTHER_NAMES:
                raise
            refused.add(composed.name)


def _write(
    doors: Doors,
    caller: Caller,
    response: Response,
    authoring: Authoring,
    source: str,
    text: str,
    message: str,
    planned: Planned,
    wait: int,
) -> WrittenDocument:
    before = None if planned.name is None else doors.browser.latest_run(JobKey(source, planned.name))
    written = authoring.write(source, text, caller.name or "", message)
    run = _opened(doors, written, before, wait)
    document = written_document(written, planned.warnings, run)
    response.headers["Location"] = document.batch
    return document


def _opened(doors: Doors, written: Written, before: str | None, wait: int) -> str | None:
    """The run of what was written, if one is opened in time; `before` is the latest that a removed batch of this name has
    left, whose success is not the new one's."""
    key, until = JobKey(written.source, written.name), doors.clock.monotonic() + wait
    while True:
        run = doors.browser.latest_run(key)
        if run != before:
            return run
        if doors.clock.monotonic() >= until:
            return None
        threading.Event().wait(LOOKS_AGAIN)


def _authoring(doors: Doors) -> Authoring:
    if doors.authoring is None:
        raise Declined(409, "manifests can't be composed here", hint="ask the daemon itself")
    return doors.authoring


def _source(authoring: Authoring, named: str | None, *, writable: bool, place: str = "query") -> str:
    """Raises Declined (422) where none is named and it is not clear which is meant."""
    if named is not None:
        return named
    names = [offer.name for offer in authoring.offers() if offer.writable or not writable]
    if len(names) != 1:
        which = ", ".join(names) or ("none: see the setting `write`" if writable else "none")
        raise invalid("source", place, f"which one is meant? There is {which}")
    return names[0]


def _misfits(misfits: tuple[Misfit, ...]) -> Declined:
    errors = [FieldError(field=each.field, place="body", message=str(each)) for each in misfits]
    return Declined(422, "; ".join(each.message for each in misfits), errors=errors)


def _rejected(planned: Planned) -> Declined:
    errors = [
        FieldError(
            field="manifest",
            place="body",
            message=f"{each.line}:{each.column}: {each.message}{f' ({each.hint})' if each.hint else ''}",
        )
        for each in planned.problems
    ]
    first = planned.problems[0]
    return Declined(422, f"the manifest is not valid: {first.message}", hint=first.hint, errors=errors)
