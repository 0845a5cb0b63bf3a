"""The API of composing: what a manifest would come to, and putting one into a source."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
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
from reconciler.web.problems import AGAIN, Declined, FieldError, invalid, problems
from reconciler.web.routing import SourceQuery, reading, writing

look, write = reading(), writing()

LOOKS_AGAIN = 0.25
"""Seconds between two looks whether a run was opened."""

PLANNED_AT_ONCE = 4
"""Manifests: each may have an inventory of its own read."""

PATIENCE, PATIENCE_TO_WRITE = 10.0, 60.0
"""Seconds that somebody waits for the turn to plan, or to write into a source: a push may take some."""

OTHER_NAMES = 10
"""Names that are made, one after the other, where each turns out to be taken."""

_Answer = TypeVar("_Answer")

MANIFEST = """\
apiVersion: reconciler/v1
kind: BatchJob
metadata: {name: patch-web}
spec:
  playbook: playbooks/patch.yml
  selector: {tags: [web]}
"""


class Turns:
    """What may take long: reading inventories for a plan, and pushing. Whoever waits for a turn, or for a run to be opened,
    waits in the event loop: were it in the threads that answer requests, some who plan or write would hold up all pages."""

    def __init__(self) -> None:
        self._threads = CapacityLimiter(math.inf)  # of their own, bounded by the turns
        self._plan = asyncio.Semaphore(PLANNED_AT_ONCE)
        self._write: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(1))
        """Of each source."""

    async def plan(self, ask: Callable[[], _Answer]) -> _Answer:
        """Raises Declined (503) if it takes too long to be one's turn."""
        return await self._take(self._plan, PATIENCE, "too many manifests are being planned", ask)

    async def write(self, source: str, ask: Callable[[], _Answer]) -> _Answer:
        """Into a source that is known. Raises Declined (503) if it takes too long to be one's turn."""
        why = f"too many manifests are being written into {source}"
        return await self._take(self._write[source], PATIENCE_TO_WRITE, why, ask)

    async def _take(self, turn: asyncio.Semaphore, patience: float, why: str, ask: Callable[[], _Answer]) -> _Answer:
        try:
            async with asyncio.timeout(patience):
                await turn.acquire()
        except TimeoutError:
            headers = {"Retry-After": str(AGAIN)}
            raise Declined(503, why, hint="try again in a moment", headers=headers) from None
        try:
            return await run_sync(ask, limiter=self._threads)
        finally:
            turn.release()


async def _turns_of(request: Request) -> Turns:
    turns: Turns = request.app.state.turns
    return turns


TurnsHere = Annotated[Turns, Depends(_turns_of)]


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
async def plan_manifest(
    doors: DoorsHere, turns: TurnsHere, text: Annotated[str, Depends(_text)], source: SourceQuery = None
) -> PlannedDocument:
    """What a manifest would come to, were it in the source as that is now: its hosts in their waves, or what is wrong with
    it. Nothing is kept of it. `source` may be left out where there is only one."""
    authoring = _authoring(doors)

    def plan() -> PlannedDocument:
        return planned_document(authoring.plan(_source(authoring, source, writable=False), text))

    return await turns.plan(plan)


@write.post("/manifests", operation_id="writeManifest", status_code=201, tags=["manifests"])
async def write_manifest(
    doors: DoorsHere,
    turns: TurnsHere,
    caller: CallerHere,
    response: Response,
    body: ManifestBody,
    source: SourceQuery = None,
    wait: Annotated[int, Query(ge=0, le=30, description="Seconds to wait for its run to be opened.")] = 0,
) -> WrittenDocument:
    """Put a new manifest into a source: a commit where that is a repository. `source` may be left out where manifests can
    be put into one only."""
    authoring = _authoring(doors)

    def plan() -> _Accepted:
        into = _source(authoring, source, writable=True)
        return _accepted(doors, authoring, into, body.manifest)

    writer = _Writer(doors, turns, authoring, caller.name or "", body.message)
    document = await writer.write(await turns.plan(plan), wait)
    response.headers["Location"] = document.batch
    return document


@write.post("/batches", operation_id="createBatch", status_code=201, tags=["manifests"])
async def create_batch(
    doors: DoorsHere,
    turns: TurnsHere,
    caller: CallerHere,
    response: Response,
    body: BatchBody,
    wait: Annotated[int, Query(ge=0, le=30, description="Seconds to wait for its run to be opened.")] = 5,
) -> WrittenDocument:
    """Run a playbook on servers, as job APIs are asked for it. It is written as a manifest into the source, by a commit
    where that is a repository; the daemon reads it there, and opens the parent and the child jobs."""
    authoring = _authoring(doors)
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

    def plan() -> _Accepted:
        into = _source(authoring, body.source, writable=True, place="body")

        def taken(name: str) -> bool:
            return name in refused or doors.requests.manifest(JobKey(into, name)) is not None

        composed = compose(choice, taken=taken, max_limit=doors.max_limit)
        if isinstance(composed, tuple):
            raise _misfits(composed)
        return _accepted(doors, authoring, into, composed.text)

    writer = _Writer(doors, turns, authoring, caller.name or "", body.message)
    while True:
        accepted = await turns.plan(plan)
        try:
            document = await writer.write(accepted, wait)
        except Refused as error:
            # Somebody has put one of that name there since the source was read last: a name that nobody chose may be another.
            if error.reason is not Reason.NAME_TAKEN or body.name is not None or len(refused) == OTHER_NAMES:
                raise
            refused.add(accepted.key.name)
        else:
            response.headers["Location"] = document.batch
            return document


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A manifest that may be written. `before`: the latest run that a removed batch of its name has left, whose success is
    not the new one's."""

    key: JobKey
    text: str
    warnings: tuple[str, ...]
    before: str | None


def _accepted(doors: Doors, authoring: Authoring, source: str, text: str) -> _Accepted:
    """Raises Declined for a manifest that is not valid (422), or that would stall (409)."""
    planned = authoring.plan(source, text)
    if planned.problems:
        raise _rejected(planned)
    assert planned.name is not None  # it is valid
    if planned.refusal is not None:
        raise Declined(409, planned.refusal, hint=planned.hint)
    key = JobKey(source, planned.name)
    return _Accepted(key, text, planned.warnings, doors.browser.latest_run(key))


@dataclass(frozen=True, slots=True)
class _Writer:
    """Somebody who writes manifests, with a message."""

    doors: Doors
    turns: Turns
    authoring: Authoring
    by: str
    message: str

    async def write(self, accepted: _Accepted, wait: int) -> WrittenDocument:
        def put() -> Written:
            return self.authoring.write(accepted.key.source, accepted.text, self.by, self.message)

        written = await self.turns.write(accepted.key.source, put)
        return written_document(written, accepted.warnings, await self._opened(accepted, wait))

    async def _opened(self, accepted: _Accepted, wait: int) -> str | None:
        """Its run, if one is opened in time."""
        monotonic, latest_run = self.doors.clock.monotonic, self.doors.browser.latest_run
        until = monotonic() + wait
        while True:
            run = await run_sync(latest_run, accepted.key)
            if run != accepted.before:
                return run
            if monotonic() >= until:
                return None
            await asyncio.sleep(LOOKS_AGAIN)


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
