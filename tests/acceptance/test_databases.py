"""A batch on each database server, from the first run to its upgrade by backup and restore: real playbooks, real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases
from tests.acceptance.workspace import Workspace

pytestmark = [pytest.mark.ansible, pytest.mark.slow]


@pytest.fixture(params=databases.SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if reason := databases.why_no(request.param):
        pytest.skip(reason)
    with databases.new_database(request.param, tmp_path) as made:
        yield made


def test_a_batch_runs_on_a_server_that_a_secret_file_names(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Workspace(tmp_path, hosts=3)
    work.job(limit=2)
    secret = tmp_path / "url"
    secret.write_text(f"{url}\n")
    monkeypatch.setenv("RECONCILER_DATABASE_URL_FILE", str(secret))
    assert "has no schema yet" in work.call("status").err

    done = work.once()

    assert done.code == 0, done.err
    assert work.status()["phase"] == "Succeeded"
    assert sorted(work.recorded()) == work.names
    assert "Succeeded" in work.call("status").out
    assert "TASK" in work.call("logs", "work", "h1").out
    assert "this version" in work.call("db", "current").out
    assert not (work.state / "reconciler.db").exists()
    assert work.once().code == 0
    assert len(work.recorded()) == 3, "nothing runs twice"


def test_a_state_moves_from_sqlite_to_a_server_and_goes_on_there(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Workspace(tmp_path, hosts=2)
    work.job()
    assert work.once().code == 0
    backup = tmp_path / "reconciler.backup"
    assert work.call("db", "backup", str(backup)).code == 0

    monkeypatch.setenv("RECONCILER_DATABASE_URL", url)
    restored = work.call("db", "restore", str(backup))
    assert restored.code == 0, restored.err
    work.job(extraVars={"seconds": 0.1})
    work.once()
    assert len(work.recorded()) == 2, "it is paused"

    assert work.call("resume").code == 0
    assert work.once().code == 0
    assert len(work.recorded()) == 4
    assert work.status()["phase"] == "Succeeded"
