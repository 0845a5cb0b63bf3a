"""The application of the daemon's port, and the thread that serves it."""

from __future__ import annotations

import re
import socket
import threading

import uvicorn
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Asgi

from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason
from reconciler.web.access import Gate
from reconciler.web.connections import Connection
from reconciler.web.doors import Doors
from reconciler.web.events import Fanout
from reconciler.web.guard import Guard
from reconciler.web.hooks import hooks_of
from reconciler.web.manifests import Turns
from reconciler.web.openapi import describe, operations
from reconciler.web.pages import answer_nowhere_with_a_page, pages_of
from reconciler.web.problems import answer_with_problems

CLOSING = 5
"""Seconds that whoever still gets an answer has for it when the server stops."""


class WebApplication:
    """What the port serves. `end`: streams end, and no new ones begin; from any thread."""

    def __init__(self, served: ASGIApp, fanout: Fanout) -> None:
        self._served = served
        self.fanout = fanout

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        await self._served(scope, receive, send)

    def end(self) -> None:
        self.fanout.end()


def build_web(doors: Doors) -> WebApplication:
    """The application on these doors: metrics, health and webhooks, the API and the pages, behind one gate."""
    web = FastAPI(title="reconciler", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    answer_with_problems(web)
    web.state.doors = doors
    web.state.gate = gate = Gate(doors.access, doors.clock.monotonic)
    web.state.fanout = fanout = Fanout(doors.requests, doors.browser)
    web.state.turns = Turns()
    web.include_router(hooks_of(doors.hooks), include_in_schema=False)
    _watching(web, doors)
    for router in operations():
        web.include_router(router)
    describe(web)
    web.include_router(pages_of())
    answer_nowhere_with_a_page(web)
    return WebApplication(Guard(web, gate), fanout)


def _watching(web: FastAPI, doors: Doors) -> None:
    """What a daemon is watched by. It takes none of the threads that answer other requests: there may be none left."""
    apart = CapacityLimiter(4)

    @web.get("/metrics", include_in_schema=False)
    async def get_metrics(request: Request) -> Response:
        gzipped = _takes_gzip(request.headers.get("accept-encoding", ""))
        exposition = await run_sync(doors.metrics, gzipped, limiter=apart)
        headers = {"Vary": "Accept-Encoding", **({"Content-Encoding": "gzip"} if gzipped else {})}
        return Response(exposition, headers=headers, media_type="text/plain; version=0.0.4; charset=utf-8")

    @web.get("/healthz", include_in_schema=False)
    async def get_healthz() -> Response:
        """The process is alive: not tied to anything else, so that a busy daemon is not restarted."""
        return Response("ok\n", media_type="text/plain")

    @web.get("/readyz", include_in_schema=False)
    async def get_readyz() -> Response:
        found = await run_sync(doors.health, limiter=apart)
        lines = (found.state, *found.notes) if found.ready else (*found.problems, *found.notes)
        text = "".join(f"{line}\n" for line in lines)
        return Response(text, status_code=200 if found.ready else 503, media_type="text/plain")


def _takes_gzip(accepted: str) -> bool:
    """By an Accept-Encoding header, which names encodings with a weight; 0 is not at all."""
    for each in accepted.lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        if name == "gzip":
            return not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters)
    return False


def _address(listen: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[HOST]:PORT`. Raises ValueError."""
    host, _, port = listen.rpartition(":")
    if not host:
        # The socket would take an empty host for every address of this machine.
        raise ValueError("the host is missing")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{port!r} is not a port")
    return host.removeprefix("[").removesuffix("]"), int(port)


class WebServer:
    """Serves an application from a thread of its own. Port 0 takes a free one; `port` is the one it has."""

    def __init__(self, web: WebApplication, listen: str) -> None:
        try:
            host, port = _address(listen)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family)
            # Inherited by each connection: without it an answer waits for the client's acknowledgement, 40 ms and more.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, ValueError) as error:
            raise Refused(
                Reason.SETTINGS_INVALID,
                f"http.listen is {listen}, where nothing can listen: {error}",
                "give another HOST:PORT with --listen, or --no-http",
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self._web = web
        config = uvicorn.Config(
            web,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # What a client says of its address is not believed: wrong tokens are counted by it.
            proxy_headers=False,
            timeout_graceful_shutdown=CLOSING,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._web.end()
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()
