"""A port for tests: an application on a store in memory, and a real server for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from reconciler.web import Access, Doors, Health, Scope, Token, WebServer, build_web, digest_of
from tests.contracts.stores import Store
from tests.fakes.clock import RunningClock
from tests.fakes.store import FakeStore

LOOKS, OPERATES, WRITES = "token-that-looks", "token-that-operates", "token-that-writes"

TOKENS = (
    Token("grafana", digest_of(LOOKS)),
    Token("kim", digest_of(OPERATES), frozenset({Scope.READ, Scope.OPERATE})),
    Token("robot", digest_of(WRITES), frozenset({Scope.READ, Scope.WRITE})),
)


def make_doors(store: Store | None = None, **given: Any) -> Doors:
    """Doors to a store in memory, everything else as it is usually."""
    store = store or FakeStore(RunningClock())
    usual: dict[str, Any] = {
        "metrics": lambda gzipped: b"",
        "health": Health,
        "browser": store,
        "requests": store,
        "clock": RunningClock(),
        "access": Access(TOKENS),
    }
    return Doors(**{**usual, **given})


@contextmanager
def served(doors: Doors) -> Iterator[WebServer]:
    server = WebServer(build_web(doors), "127.0.0.1:0")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def connected(server: WebServer, **options: Any) -> Iterator[httpx.Client]:
    """A client of it. (Without TLS: to make ready for it takes longer than all the rest.)"""
    base = f"http://127.0.0.1:{server.port}"
    with httpx.Client(base_url=base, timeout=30, trust_env=False, verify=False, **options) as client:
        yield client


def bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"}
