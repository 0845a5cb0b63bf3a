"""What all pages share: who looks, how a page is answered, how an error looks, and how a list is cut."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment
from starlette.exceptions import HTTPException
from starlette.types import Receive, Send
from starlette.types import Scope as Asgi

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import JobKey
from reconciler.ports import BatchMark, ServerMark
from reconciler.web.access import CallerHere, caller_of, check_scope
from reconciler.web.doors import Doors, DoorsHere
from reconciler.web.pages.rendering import environment, with_query
from reconciler.web.routing import cursor_of, parts_of
from reconciler.web.tokens import Caller, Scope

Row = TypeVar("Row")

PAGE = 50
"""Rows of a list that are shown at first, and added by each "Load more"."""

MOST = 200
"""Rows that a fragment has at most."""

LONGEST = 300
"""Characters of what somebody searches for."""

Text = Annotated[str, Query(max_length=LONGEST)]
Cursor = Annotated[str, Query(max_length=4096)]
Limit = Annotated[int, Query(ge=1, le=MOST)]

HEADERS = {"Cache-Control": "no-store"}
"""Pages say what is now, to who may see it."""


@cache
def templates() -> Environment:
    return environment()


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody who looks, and when."""

    doors: Doors
    caller: Caller
    now: datetime

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A whole page, or a fragment of one."""
        return HTMLResponse(_rendered(template, self.caller, now=self.now, **values), status, HEADERS)


async def _looking(doors: DoorsHere, caller: CallerHere) -> Visit:
    return Visit(doors, caller, doors.clock.now())


Look = Annotated[Visit, Depends(_looking)]


def _rendered(template: str, caller: Caller, **values: Any) -> str:
    may = {scope.value: caller.may(scope) for scope in Scope}
    return templates().get_template(template).render(caller=caller, may=may, **values)


def _route_needing(scope: Scope | None) -> type[APIRoute]:
    class PageRoute(APIRoute):
        """Errors as pages. Who has to say who they are is led to where they can."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()

            async def answer_or_explain(request: Request) -> Response:
                try:
                    if scope is not None:
                        check_scope(caller_of(request), scope)
                    return await answer(request)
                except Unavailable as error:
                    return _problem(request, 503, error.message, error.hint)
                except Refused as error:
                    return _problem(request, 409, error.message, error.hint)
                except RequestValidationError:
                    return _problem(request, 400, "the address holds something that is not understood")
                except HTTPException as error:
                    if error.status_code == 401 and not _is_fragment(request):
                        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                        return RedirectResponse(with_query("/login", next=wanted), 303)
                    return _problem(request, error.status_code, str(error.detail), getattr(error, "hint", ""))

            return answer_or_explain

    return PageRoute


Reading = _route_needing(Scope.READ)
OpenToAll = _route_needing(None)


def _is_fragment(request: Request) -> bool:
    return request.url.path.startswith("/fragments/")


def _problem(request: Request, status: int, detail: str, hint: str = "") -> Response:
    if _is_fragment(request):
        return Response(f"{detail}\n", status, HEADERS, "text/plain")
    now = request.app.state.doors.clock.now()
    values = {"now": now, "status": status, "title": HTTPStatus(status).phrase, "detail": detail, "hint": hint}
    return HTMLResponse(_rendered("problem.html", caller_of(request), **values), status, HEADERS)


def answer_nowhere_with_a_page(web: FastAPI) -> None:
    """From now on a browser that comes to an address where nothing is gets a page that says so."""
    otherwise = web.router.default

    async def nowhere(scope: Asgi, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/"):
            await _problem(request, 404, "there is nothing at this address")(scope, receive, send)
        else:
            await otherwise(scope, receive, send)

    web.router.default = nowhere


# -- lists -----------------------------------------------------------------------------------------------------------
def cursor_of_batch(mark: BatchMark) -> str:
    return cursor_of(mark.active_at, mark.key.source, mark.key.name)


def batch_at(cursor: str) -> BatchMark | None:
    """Raises Declined for what is no cursor."""
    if not cursor:
        return None
    active_at, source, name = parts_of(cursor, datetime, str, str)
    return BatchMark(active_at, JobKey(source, name))


def cursor_of_server(mark: ServerMark) -> str:
    return cursor_of(mark.name, mark.source, mark.inventory)


def server_at(cursor: str) -> ServerMark | None:
    """Raises Declined for what is no cursor."""
    return ServerMark(*parts_of(cursor, str, str, str)) if cursor else None


def cut(rows: Sequence[Row], limit: int) -> tuple[Sequence[Row], Row | None]:
    """A page of what was asked for with one row too many, and its last row if there is more after it."""
    return (rows, None) if len(rows) <= limit else (rows[:limit], rows[limit - 1])


def searchable(text: str) -> str:
    """Without what no database takes in a text."""
    return "".join(character for character in text if character != "\0" and not 0xD800 <= ord(character) <= 0xDFFF)
