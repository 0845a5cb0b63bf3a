"""How an operation of the API is told: who may ask for it, and what is the same for all of them.

An operation names its scope by the router that it is on, and the scope is looked at before a byte of the body is read.
Every JSON that is got carries an ETag; whoever has it already is told so (304).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel

from reconciler.web.access import caller_of, check_scope
from reconciler.web.problems import Declined, invalid, problems
from reconciler.web.tokens import Scope

PREFIX = "/api/v1"

MOST, USUAL = 200, 50
"""Items of a page."""

LARGEST, LARGEST_COUNT = 2**53 - 1, 2**31 - 1
"""Of numbers: what JSON has in every language, and of what databases count in 32 bits (attempts, hosts of a run)."""

LISTS = frozenset({"phase", "status", "tag"})
"""Parameters that may be given several times."""

_Item = TypeVar("_Item")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


# -- documents -------------------------------------------------------------------------------------------------------
class Document(BaseModel):
    """What the API sends and takes: names in camelCase, nothing that is not described."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )


class Page(Document, Generic[_Item]):
    """A part of a list. `next` is the `cursor` of the part that follows; null: this is the end."""

    items: tuple[_Item, ...]
    next: str | None = None


# -- who may ---------------------------------------------------------------------------------------------------------
def _route_needing(scope: Scope | None) -> type[APIRoute]:
    class Guarded(APIRoute):
        needs = scope

        def get_route_handler(self) -> Handler:
            inner = super().get_route_handler()
            known = tuple(_parameters_of(self.dependant))

            async def handler(request: Request) -> Response:
                if scope is not None:
                    check_scope(caller_of(request), scope)
                if scope not in (None, Scope.READ):
                    _check_json(request)
                _check_query(request, known)
                return _tagged(request, await inner(request))

            return handler

    return Guarded


def _router(scope: Scope | None, *statuses: int) -> APIRouter:
    return APIRouter(prefix=PREFIX, route_class=_route_needing(scope), responses=problems(*statuses))


def reading() -> APIRouter:
    """Operations that only look."""
    return _router(Scope.READ, 401, 421, 422, 429, 500, 503)


def operating() -> APIRouter:
    """Operations that ask for something of a batch."""
    return _router(Scope.OPERATE, 400, 401, 403, 404, 409, 413, 415, 421, 422, 429, 500, 503)


def writing() -> APIRouter:
    """Operations that put something into a source."""
    return _router(Scope.WRITE, 400, 401, 403, 404, 409, 413, 415, 421, 422, 429, 500, 503)


def open_to_all() -> APIRouter:
    """Operations that say who somebody is."""
    return _router(None, 400, 401, 403, 413, 421, 422, 429, 500, 503)


def _check_json(request: Request) -> None:
    """Raises Declined (415) for what a session asks for otherwise: forms, which any site may have sent by a browser, are of
    other types."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if caller_of(request).by_cookie and kind != "application/json":
        raise Declined(415, "a session asks for a change by Content-Type: application/json")


def _parameters_of(dependant: Dependant) -> Iterator[str]:
    """The names that an operation knows in the query."""
    yield from (field.alias for field in dependant.query_params)
    for each in dependant.dependencies:
        yield from _parameters_of(each)


def _check_query(request: Request, known: Sequence[str]) -> None:
    """Raises Declined (422) for a parameter that nobody looks at: `stauts=failed` would be answered with everything. And for
    one that is given twice where one is meant: nobody could say which."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    for name, times in given.items():
        if name not in known:
            there = f"there is {', '.join(known)}" if known else "there is none here"
            raise invalid(name[:100], "query", f"this is no parameter: {there}")
        if times > 1 and name not in LISTS:
            raise invalid(name, "query", "give it once")


# -- what one has already --------------------------------------------------------------------------------------------
def _tagged(request: Request, response: Response) -> Response:
    """With an ETag, or that it is the one that the client has already."""
    if request.method != "GET" or response.status_code != 200 or response.media_type != "application/json":
        return response
    tag = f'"{sha256(bytes(response.body)).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Accept, Authorization, Cookie"}
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


def etag_answers(description: str) -> dict[int | str, dict[str, Any]]:
    """For the description of something that is got."""
    header = {"description": "Of If-None-Match, next time.", "schema": {"type": "string"}}
    return {
        200: {"description": description, "headers": {"ETag": header}},
        304: {"description": "It is what the client has already."},
    }


# -- what is sent ----------------------------------------------------------------------------------------------------
_IN_NO_TEXT = re.compile("[\0\ud800-\udfff]")

NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"

Plain = Annotated[str, StringConstraints(max_length=253, pattern=NO_CONTROLS)]
SourcePath = Annotated[Plain, Path(description="A source.", examples=["default"])]
NamePath = Annotated[Plain, Path(description="A batch of it.", examples=["patch-web"])]
HostPath = Annotated[Plain, Path(description="A host of its inventory.", examples=["web-3"])]
RequestPath = Annotated[Plain, Path(description="A request.", examples=["5f0c0f9e2b7a4a3c9d1e8f6a7b5c4d3e"])]
JobPath = Annotated[Plain, Path(description="A run or a child job.", examples=["batch-20261123-145052-7k3fq2mzsa"])]
SourceQuery = Annotated[Plain | None, Query(description="Of this source.", examples=["default"])]
TextQuery = Annotated[Plain, Query(description="This is in it, whatever its case.")]
LimitQuery = Annotated[int, Query(ge=1, le=MOST, description="Items of a page.")]
CursorQuery = Annotated[str | None, Query(max_length=2000, description="`next` of the page before.")]
NumberQuery = Annotated[int, Query(ge=0, le=LARGEST)]


def cursor_of(*parts: str | int | datetime) -> str:
    """Where a page ends, as clients hand it back."""
    plain = [part.isoformat() if isinstance(part, datetime) else part for part in parts]
    return base64.urlsafe_b64encode(json.dumps(plain, separators=(",", ":")).encode()).decode().rstrip("=")


def parts_of(cursor: str, *kinds: type) -> Sequence[Any]:
    """What a cursor was made of. Raises Declined (422) for one that this API has not given."""
    wrong = invalid("cursor", "query", "this is no cursor: give `next` of the page before, as it was")
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        plain = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError, binascii.Error) as error:
        raise wrong from error
    if not isinstance(plain, list) or len(plain) != len(kinds):
        raise wrong
    return [_part(value, kind, wrong) for value, kind in zip(plain, kinds, strict=True)]


def _part(value: object, kind: type, wrong: Declined) -> Any:
    if kind is int and type(value) is int and 0 <= value <= LARGEST_COUNT:
        return value
    if kind is str and isinstance(value, str) and not _IN_NO_TEXT.search(value):
        return value
    if kind is datetime and isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise wrong from error
        if moment.tzinfo is not None and 1970 <= moment.year <= 9998:
            return moment
    raise wrong


def page_of(items: Sequence[Any], limit: int, cursor: Callable[[Any], str]) -> tuple[Sequence[Any], str | None]:
    """Of items of which one more than `limit` was asked for: those of the page, and the cursor of the next."""
    shown = items[:limit]
    return shown, cursor(shown[-1]) if len(items) > limit else None
