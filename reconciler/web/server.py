"""The pages of the daemon's port, and the thread that serves them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import uvicorn
from fastapi import FastAPI, Response

from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason
from reconciler.web.hooks import Hook, hooks_of
from reconciler.web.problems import answer_with_problems

MOST_CONNECTIONS = 200
"""At a time; more are told to come again (503): a flood must leave the daemon descriptors for its work."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the daemon can do its work; `problems` say why not, a line each. Else `state` says what it does, and
    `notes` what people should know of it."""

    problems: tuple[str, ...] = ()
    state: str = "ready"
    notes: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return not self.problems


def build_web(
    metrics: Callable[[], bytes], health: Callable[[], Health], hooks: Mapping[str, Hook] = MappingProxyType({})
) -> FastAPI:
    """The application. `metrics` is the exposition, ready to be sent; `health` asks database and sources; `hooks` has
    the sources that a webhook may poke, by name."""
    web = FastAPI(title="reconciler", docs_url=None, redoc_url=None, openapi_url=None)
    answer_with_problems(web)
    web.include_router(hooks_of(hooks))

    @web.get("/metrics")
    def get_metrics() -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @web.get("/healthz")
    def get_healthz() -> Response:
        """The process is alive: not tied to anything else, so that a busy daemon is not restarted."""
        return Response("ok\n", media_type="text/plain")

    @web.get("/readyz")
    def get_readyz() -> Response:
        found = health()
        lines = (found.state, *found.notes) if found.ready else (*found.problems, *found.notes)
        text = "".join(f"{line}\n" for line in lines)
        return Response(text, status_code=200 if found.ready else 503, media_type="text/plain")

    return web


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

    def __init__(self, web: FastAPI, listen: str) -> None:
        try:
            host, port = _address(listen)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, ValueError) as error:
            raise Refused(
                Reason.SETTINGS_INVALID,
                f"http.listen is {listen}, where nothing can listen: {error}",
                "give another HOST:PORT with --listen, or --no-http",
            ) from error
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            web, log_config=None, access_log=False, lifespan="off", ws="none", limit_concurrency=MOST_CONNECTIONS
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()
