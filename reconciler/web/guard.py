"""What every request goes through before the application, and every answer after it.

The order is the promise: whoever may not come in has no body read, no question asked of the database, and learns nothing
but that. Health and webhooks are always answered: they have their own rules, and tell nothing of batches.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Asgi

from reconciler.web.access import Gate, needs_token
from reconciler.web.problems import Declined, problem
from reconciler.web.tokens import Caller

MOST_REQUESTS = 200
"""At a time, streams of events aside: more are told to come again (503). Health and metrics get through. One counts from its
last byte on: else whoever says half of some bodies would shut everybody out."""

MOST_BODY = 4 * 1024 * 1024
"""Bytes: a manifest of the largest size fits, written as JSON. Webhooks have a bound of their own."""

MOST_OF_LOGIN = 16 * 1024
"""Bytes of what anybody may send, who has no token yet."""

METRICS, EVENTS, HOOKS, STATIC = "/metrics", "/api/v1/events", "/hooks/", "/static/"
SESSION = "/api/v1/session"
HEALTH = frozenset({"/healthz", "/readyz"})

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """An application behind its gate."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate
        self.under_way = 0

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        protected = _with_headers(send)
        try:
            await self._let_in(scope, receive, protected)
        except HTTPException as error:
            await problem(error)(scope, receive, protected)

    async def _let_in(self, scope: Asgi, receive: Receive, send: Send) -> None:
        path = scope["path"]
        state = scope.setdefault("state", {})
        state["caller"] = Caller()
        if path in HEALTH or path.startswith((HOOKS, STATIC)):
            await self._app(scope, receive, send)
            return
        state["caller"] = caller = self._gate.caller(scope)
        if path == METRICS:
            if self._gate.access.metrics_auth and caller.name is None:
                raise needs_token()
            await self._app(scope, receive, send)
            return
        self._gate.check_origin(scope, caller)
        if path == EVENTS:  # which counts its listeners itself
            await self._app(scope, _bounded(scope, receive, lambda: None), send)
            return
        place = _Place(self)
        try:
            if scope["method"] != "POST":  # no other has a body that is waited for
                place.take()
            await self._app(scope, _bounded(scope, receive, place.take), send)
        finally:
            place.leave()


class _Place:
    """That of one request among those that are under way."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._taken = False

    def take(self) -> None:
        """If it has none yet. Raises Declined (503) where all are taken."""
        if self._taken:
            return
        if self._guard.under_way >= MOST_REQUESTS:
            raise Declined(503, "too much is asked at once", headers={"Retry-After": "1"})
        self._guard.under_way += 1
        self._taken = True

    def leave(self) -> None:
        if self._taken:
            self._guard.under_way -= 1


def _bounded(scope: Asgi, receive: Receive, whole: Callable[[], None]) -> Receive:
    """Calls `whole` once all of the body is there. Raises Declined (413) for one that is too large: at once where it says so,
    else as soon as it is seen."""
    most = MOST_OF_LOGIN if scope["path"] == SESSION else MOST_BODY
    too_large = Declined(413, f"the body is larger than {most} bytes", headers={"Connection": "close"})
    said = Headers(scope=scope).get("content-length", "0")
    if said.isdecimal() and int(said) > most:
        raise too_large
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise too_large
        if message["type"] == "http.request" and not message.get("more_body", False):
            whole()
        return message

    return bounded


def _with_headers(send: Send) -> Send:
    async def protected(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY.items():
                headers.setdefault(name, value)
        await send(message)

    return protected
