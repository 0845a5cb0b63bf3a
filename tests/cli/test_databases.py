"""What the commands about the database do and say."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.adapters import statelock
from reconciler.adapters.store.database import SCHEMAS
from tests.builders import JOB, OTHER_JOB, make_request, new_cause, numbered_hosts
from tests.cli.commands import Call, Fail
from tests.contracts.stores import World

HEAD = SCHEMAS[-1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "reconciler.backup"


def test_current_and_upgrade_say_the_schema_of_both(call: Call, fail: Fail, tmp_path: Path) -> None:
    assert f"there is no database at {tmp_path}" in fail(4, "db", "current")

    assert call("db", "upgrade") == f"{HEAD} (this version: {HEAD})\n"
    assert call("db", "current") == f"{HEAD} (this version: {HEAD})\n"


def test_a_server_that_is_away_is_said_and_its_password_is_not(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("postgresql://u:secret@127.0.0.1:1/reconciler", "mysql://u:secret@127.0.0.1:1/reconciler"):
        monkeypatch.setenv("RECONCILER_DATABASE_URL", url)
        for command in (("db", "current"), ("db", "upgrade"), ("status",), ("plan", ".")):
            told = fail(4, *command)
            assert "the database does not answer" in told
            assert "secret" not in told


def test_a_backup_says_what_it_has_and_is_restored_paused(world: World, call: Call, file: Path) -> None:
    world.run_to_success("1")
    world.start(world.open_run(numbered_hosts(12), key=OTHER_JOB), "web-1")
    world.store.add_causes([new_cause("2", message="the manifest changed")])
    world.store.add_request(make_request("asked", key=OTHER_JOB, reason="wrong day"))

    told = call("db", "backup", str(file))
    assert told.startswith(f"{file} has ")
    assert f"in {file.stat().st_size} bytes" in told

    told = call("db", "restore", str(file), "--replace")
    lines = told.splitlines()
    assert lines[0].endswith("UTC; everything is paused")
    at = lines.index("once it is resumed, these runs go on:")
    assert "default/patch-db" in lines[at + 1]
    assert "11 to run, 1 at work when it was backed up (web-2, web-3" in lines[at + 1]
    assert lines[at + 1].endswith(", …)")
    assert lines[at + 2 : at + 4] == ["these begin:", "  default/patch-web SpecChanged: the manifest changed"]
    assert lines[at + 4 : at + 6] == ["and these requests are answered:", "  default/patch-db cancel: kim: wrong day"]
    assert "reconciler resume" in lines[-1]
    assert world.store.observe(JOB).pause is not None


def test_with_nothing_open_a_restore_says_that_nothing_would_run(world: World, call: Call, file: Path) -> None:
    world.run_to_success("1")
    call("db", "backup", str(file))

    assert "nothing would run" in call("db", "restore", str(file), "--replace")


def test_jobs_are_given_up_only_with_replace(world: World, call: Call, fail: Fail, file: Path) -> None:
    world.run_to_success("1")
    call("db", "backup", str(file))

    assert "--replace" in fail(2, "db", "restore", str(file))

    assert world.store.pauses() == ()


def test_nothing_is_restored_under_a_daemon(world: World, call: Call, fail: Fail, file: Path, tmp_path: Path) -> None:
    world.run_to_success("1")
    call("db", "backup", str(file))

    with statelock.hold(tmp_path):
        assert "works with the database that is to be replaced" in fail(2, "db", "restore", str(file), "--replace")

    assert world.store.pauses() == ()


def test_a_file_that_is_no_backup_is_named(fail: Fail, file: Path, tmp_path: Path) -> None:
    file.write_text("something else")

    told = fail(2, "db", "restore", str(file))
    assert f"{file} is no backup that can be restored" in told
    assert "nothing was changed" in told
    assert not (tmp_path / "reconciler.db").exists()
