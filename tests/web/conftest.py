"""What the stories about the port are told with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from reconciler.adapters.store import SqlStore
from reconciler.web import WebServer
from tests.contracts.stores import World
from tests.databases import SQLITE, migrated_database
from tests.fakes.clock import RunningClock
from tests.web.filled import Desk, fill
from tests.web.ports import connected, make_doors, served


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An empty database."""
    clock = RunningClock()
    with migrated_database(SQLITE, tmp_path) as url:
        store = SqlStore(url, clock)
        yield World(store, clock)
        store.close()


@pytest.fixture
def run(world: World) -> str:
    """The failed run of a database that is filled."""
    return fill(world)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def server(world: World, desk: Desk) -> Iterator[WebServer]:
    with served(make_doors(world.store, authoring=desk)) as server:
        yield server


@pytest.fixture
def client(server: WebServer) -> Iterator[httpx.Client]:
    with connected(server) as client:
        yield client
