"""The process of a slice as whoever started it sees it: its exit code, and what it says last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.adapters.local import SliceFolder, place_of
from reconciler.adapters.store import migrate
from reconciler.core.facts import SliceId

NOTHING_TO_RUN = 3


def work(state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "reconciler.worker",
        "batch-1.w1.a1.beef",
        "1",
        "--state-dir",
        str(state),
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    migrate.upgrade(f"sqlite:///{tmp_path / 'reconciler.db'}")
    return tmp_path


def test_a_slice_that_nobody_planned_is_left_alone(state: Path) -> None:
    done = work(state)
    assert (done.returncode, done.stderr) == (NOTHING_TO_RUN, "")


def test_who_has_it_says_where_it_is(state: Path) -> None:
    """Before it is claimed, so that whoever has to ask for it later knows whose it was."""
    work(state)
    assert SliceFolder(state / "slices", SliceId("batch-1.w1.a1.beef")).place() == place_of(state / "slices")


def test_one_that_another_process_has_is_left_to_it(state: Path) -> None:
    held = SliceFolder(state / "slices", SliceId("batch-1.w1.a1.beef")).hold()
    assert held is not None
    with held:
        done = work(state)
    assert done.returncode == NOTHING_TO_RUN
    assert done.stderr.endswith("another process has it\n")


def test_without_a_database_it_says_so_in_its_last_line(tmp_path: Path) -> None:
    done = work(tmp_path)
    assert done.returncode == NOTHING_TO_RUN
    (said,) = done.stderr.splitlines()
    assert f"it can't begin: there is no database at {tmp_path / 'reconciler.db'}" in said


def test_with_settings_that_are_wrong_too(state: Path) -> None:
    settings = state / "reconciler.toml"
    settings.write_text("max_runing = 5\n")
    done = work(state, "--config", str(settings))
    assert done.returncode == NOTHING_TO_RUN
    assert "it can't begin: setting max_runing" in done.stderr
