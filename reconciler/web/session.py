"""The API of sessions: who somebody is, logging in with a token, and out."""

from __future__ import annotations

from fastapi import Request, Response

from reconciler.web.access import COOKIE, SESSION, CallerHere, gate_of, session_of
from reconciler.web.documents import LoginBody, SessionDocument
from reconciler.web.routing import etag_answers, open_to_all
from reconciler.web.tokens import Scope

session = open_to_all()


@session.get("/session", operation_id="getSession", tags=["session"], responses=etag_answers("Who asks."))
def get_session(caller: CallerHere) -> SessionDocument:
    """Who asks, by token or session, and what they may do. `name` null: nobody who has said so."""
    return SessionDocument(name=caller.name, scopes=tuple(scope for scope in Scope if scope in caller.scopes))


@session.post("/session", operation_id="beginSession", status_code=204, tags=["session"])
def begin_session(request: Request, body: LoginBody) -> Response:
    """Log in: the answer sets a cookie that stands for the token for 12 hours. Scripts need none: they send the token."""
    gate = gate_of(request)
    token = gate.owner(body.token.strip(), request.scope)
    gate.sessions.end(session_of(request.headers))
    response = Response(status_code=204, headers={"Cache-Control": "no-store"})
    response.set_cookie(
        COOKIE,
        gate.sessions.begin(token),
        max_age=int(SESSION.total_seconds()),
        path="/",
        httponly=True,
        samesite="strict",
        # Whoever sees https before the port is a proxy; the browser says by its origin that there is one.
        secure=request.headers.get("origin", "").startswith("https://"),
    )
    return response


@session.delete("/session", operation_id="endSession", status_code=204, tags=["session"])
def end_session(request: Request) -> Response:
    """Log out."""
    gate_of(request).sessions.end(session_of(request.headers))
    response = Response(status_code=204, headers={"Cache-Control": "no-store"})
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response
