"""Every story about a store is told to each of them: the real one, and the fake that engine tests stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.adapters.store import SqlStore, migrate
from tests.contracts.stores import World
from tests.fakes.clock import FakeClock
from tests.fakes.store import FakeStore


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    clock = FakeClock()
    if request.param == "memory":
        yield World(FakeStore(clock), clock)
        return
    url = f"sqlite:///{tmp_path / 'reconciler.db'}"
    migrate.upgrade(url)
    store = SqlStore(url, clock)
    yield World(store, clock)
    store.close()
