"""Errors of the daemon's port as problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.reasons import Reason

MEDIA_TYPE = "application/problem+json"

AGAIN = 5
"""Seconds after which what is away for the moment may be asked again."""

MOST_ERRORS = 20
"""More than this of one request are no help to anybody."""


class FieldError(BaseModel):
    """One thing that is wrong with what was sent: where it is, by names and indexes, and what is wrong with it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    field: str
    """`hosts.0`; for a parameter of the address, its name; empty: the whole body."""
    place: str
    """body, query, path or header"""
    message: str


class Problem(BaseModel):
    """Why a request was not done (RFC 9457)."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Conflict",
                    "status": 409,
                    "detail": "batch-20261123-145052-7k3fq2mzsa is still in progress",
                    "hint": "wait for its end, or cancel it",
                }
            ]
        },
    )

    type: str = "about:blank"
    title: str
    """What the status means."""
    status: int
    detail: str
    """What is wrong, a line of plain text."""
    reason: str | None = None
    """CamelCase, from specs/conditions.yaml."""
    hint: str | None = None
    """What to do next."""
    errors: tuple[FieldError, ...] | None = None
    """Each thing that is wrong with what was sent."""


class Declined(HTTPException):
    """A request that is answered with a problem that says more than its status and detail."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        hint: str = "",
        reason: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.hint = hint
        self.reason = reason
        self.errors = tuple(errors)


def not_found(what: str) -> Declined:
    return Declined(404, f"there is no {what}")


def invalid(field: str, place: str, message: str) -> Declined:
    """One thing that was sent is wrong."""
    return Declined(422, f"{field}: {message}", errors=(FieldError(field=field, place=place, message=message),))


def problem(error: HTTPException) -> JSONResponse:
    """The answer that it stands for."""
    document = Problem(title=HTTPStatus(error.status_code).phrase, status=error.status_code, detail=error.detail)
    if isinstance(error, Declined):
        extra = {"reason": error.reason, "hint": error.hint or None, "errors": error.errors or None}
        document = document.model_copy(update=extra)
    shown = document.model_dump(mode="json", exclude_none=True)
    headers = {"Cache-Control": "no-store", **(error.headers or {})}
    return JSONResponse(shown, error.status_code, headers, MEDIA_TYPE)


def answer_with_problems(web: FastAPI) -> None:
    """From now on whatever goes wrong is answered with a problem document: HTTPException, of the router too, with its
    status, detail and headers; what was sent and is invalid, with each field; Refused as 409 (404 for a source that is not known), Unavailable as 503;
    a bug as 500, which tells nothing of itself."""

    @web.exception_handler(HTTPException)
    async def answer(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error)

    @web.exception_handler(RequestValidationError)
    async def answer_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [_field_error(each) for each in error.errors()[:MOST_ERRORS]]
        detail = "; ".join(f"{each.field or each.place}: {each.message}" for each in errors[:3])
        return problem(Declined(422, detail or "what was sent is invalid", errors=errors))

    @web.exception_handler(Refused)
    async def answer_refused(_: Request, error: Refused) -> JSONResponse:
        return problem(as_declined(error))

    @web.exception_handler(Unavailable)
    async def answer_unavailable(_: Request, error: Unavailable) -> JSONResponse:
        headers = {"Retry-After": str(AGAIN)}
        return problem(Declined(503, error.message, hint=error.hint, reason=error.reason, headers=headers))

    @web.exception_handler(Exception)
    async def answer_bug(_: Request, __: Exception) -> JSONResponse:
        return problem(Declined(500, "this is a bug of reconciler; its log says more"))


def as_declined(error: Refused) -> Declined:
    status = 404 if error.reason is Reason.SOURCE_UNKNOWN else 409
    return Declined(status, error.message, hint=error.hint, reason=error.reason)


def _field_error(error: Mapping[str, Any]) -> FieldError:
    """What was sent is not repeated: it may be long, or no text at all."""
    place, *path = [str(part) for part in error["loc"]] or ["body"]
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return FieldError(field="", place=place, message=f"this is no JSON: {error['ctx']['error']} at {path[0]}")
    shown = ".".join(path).encode("utf-8", "replace").decode()
    return FieldError(field=shown[:200], place=place, message=message[:500])


# -- in the description of the API -----------------------------------------------------------------------------------
MEANINGS: Mapping[int, tuple[str, str]] = {
    400: ("Unreadable", "The body can't be read."),
    401: ("TokenNeeded", "A token is needed, or it is nobody's, or the session is over."),
    403: ("Forbidden", "The token may not do this, or the request comes from a page of another site."),
    404: ("Unknown", "There is none of this name or id."),
    409: ("Refused", "It is not done, for the reason that `detail` gives; `hint` says what to do instead."),
    413: ("TooLarge", "The body is too large."),
    415: ("OtherType", "A session asks for a change by JSON only."),
    421: ("OtherName", "This port is not known under the name in the Host header: see http.allowed_hosts."),
    422: ("Invalid", "What was sent is invalid; `errors` has each field."),
    429: ("TooManyWrongTokens", "Too many wrong tokens from this address: see Retry-After."),
    500: ("Bug", "A bug."),
    503: ("Away", "The database, or a source, is away, or too much is asked at once: see Retry-After."),
}
"""Of each status: the name of the answer, and what it means."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Answers with a problem, for the description of an operation."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": MEANINGS[status][1], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }
