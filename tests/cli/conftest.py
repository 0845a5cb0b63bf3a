"""A database, and the command line on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reconciler.adapters.store import SqlStore, migrate
from reconciler.cli import app
from tests.cli.commands import Call, Fail
from tests.contracts.stores import World
from tests.fakes.clock import FakeClock


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    clock, url = FakeClock(), f"sqlite:///{tmp_path / 'reconciler.db'}"
    migrate.upgrade(url)
    store = SqlStore(url, clock)
    yield World(store, clock)
    store.close()


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Call a command that succeeds; what it prints."""

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--state-dir", str(tmp_path)])
        assert done.exit_code == 0, done.output
        return done.stdout

    return call


@pytest.fixture
def fail(tmp_path: Path) -> Fail:
    """Call a command that ends with this code; what it prints on stderr."""

    def fail(code: int, *arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--state-dir", str(tmp_path)])
        assert done.exit_code == code, done.output
        return done.stderr

    return fail
