"""The description of the API: OpenAPI 3.1, as it is served and published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from reconciler.web import batches, events, jobs, manifests, servers, session
from reconciler.web.access import COOKIE
from reconciler.web.examples import examples
from reconciler.web.problems import MEANINGS, Problem, problems
from reconciler.web.routing import etag_answers, reading
from reconciler.web.tokens import Scope

DESCRIPTION = """\
What reconciler knows and does, as JSON. Reading needs no token where the daemon listens on loopback; everything else needs
one: `Authorization: Bearer TOKEN`. Lists come in pages: `next` is the `cursor` of the page that follows. What is got has an
`ETag`, for `If-None-Match`. Errors are problem documents (RFC 9457).
"""

TAGS = (
    ("batches", "Batches: how they stand, and what may be asked of them."),
    ("jobs", "Runs and child jobs, and their logs."),
    ("servers", "The hosts of the inventories."),
    ("sources", "Where manifests come from."),
    ("manifests", "Composing manifests, and putting them into a source."),
    ("events", "Live changes."),
    ("session", "Who somebody is."),
    ("description", "This description."),
)

description = reading()


@description.get(
    "/openapi.json",
    operation_id="getDescription",
    tags=["description"],
    response_model=dict[str, Any],
    responses=etag_answers("OpenAPI 3.1."),
)
def get_description(request: Request) -> Response:
    """This description."""
    return JSONResponse(request.app.openapi())


def operations() -> Sequence[APIRouter]:
    """All routers of the API."""
    return (
        batches.look,
        batches.ask,
        jobs.look,
        servers.look,
        manifests.look,
        manifests.write,
        events.listen,
        session.session,
        description,
    )


def describe(web: FastAPI) -> None:
    """From now on the application describes its API as `openapi_document` does."""
    document: list[dict[str, Any]] = []

    def openapi() -> dict[str, Any]:
        if not document:
            document.append(openapi_document())
        return document[0]

    web.openapi = openapi  # type: ignore[method-assign] # how FastAPI says to replace it


def openapi_document() -> dict[str, Any]:
    """OpenAPI 3.1, of all operations."""
    # A version of its own: that of the program would make it another document with each release.
    web = FastAPI(title="reconciler", version="1", description=DESCRIPTION)
    for router in operations():
        web.include_router(router)
    web.openapi_tags = [{"name": name, "description": said} for name, said in TAGS]
    document = web.openapi()
    parts = document["components"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    parts["schemas"].update(problem.pop("$defs"))
    parts["schemas"]["Problem"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        parts["schemas"].pop(unused, None)
    parts["responses"] = {MEANINGS[status][0]: problems(status)[status] for status in MEANINGS}
    parts["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "`reconciler token NAME` makes one."},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Of somebody who has logged in."},
    }
    document["servers"] = [{"url": "/", "description": "The daemon's port."}]
    shown = examples()
    for route in (route for router in operations() for route in router.routes):
        if isinstance(route, APIRoute):
            _complete(document["paths"][route.path], route, shown)
    return document


def _complete(path: dict[str, Any], route: APIRoute, shown: Mapping[str, Any]) -> None:
    """What FastAPI does not know: who may, how errors look, and an answer as it is."""
    scope: Scope | None = getattr(route, "needs", None)
    for method in route.methods or ():
        operation = path[method.lower()]
        if (example := shown.get(operation["operationId"])) is not None:
            operation["responses"][str(route.status_code or 200)]["content"]["application/json"]["example"] = example
        for status, (name, _) in MEANINGS.items():
            if str(status) in operation["responses"]:
                operation["responses"][str(status)] = {"$ref": f"#/components/responses/{name}"}
        operation["responses"] = dict(sorted(operation["responses"].items()))
        operation["security"] = [{"token": []}, {"session": []}]
        if scope in (None, Scope.READ):
            operation["security"].insert(0, {})
        if scope is not None:
            operation["x-scope"] = scope.value
            who = "Free on loopback, else the" if scope is Scope.READ else "The"
            operation["description"] = f"{operation['description']}\n\n{who} scope `{scope.value}` is needed."
