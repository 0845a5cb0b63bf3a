"""Every story about a store is told to each of them: on every kind of database, and to the fake that engine tests stand
on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.adapters.store import SqlStore
from tests import databases
from tests.contracts.stores import World
from tests.fakes.clock import FakeClock
from tests.fakes.store import FakeStore

MEMORY = "memory"


@pytest.fixture(scope="session", params=[MEMORY, *databases.KINDS])
def stored_in(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database for all stories of this process, or `memory`."""
    kind = request.param
    if kind == MEMORY:
        yield MEMORY
        return
    if reason := databases.why_no(kind):
        pytest.skip(reason)
    with databases.migrated_database(kind, tmp_path_factory.mktemp("contracts")) as url:
        yield url


@pytest.fixture
def world(stored_in: str) -> Iterator[World]:
    clock = FakeClock()
    if stored_in == MEMORY:
        yield World(FakeStore(clock), clock)
        return
    databases.empty(stored_in)
    store = SqlStore(stored_in, clock)
    yield World(store, clock)
    store.close()
