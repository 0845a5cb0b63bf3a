"""One daemon for each state directory, and how others see it."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from reconciler import app
from reconciler.core.errors import Refused
from reconciler.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path)


def shared(settings: Settings) -> int:
    """What a probe holds for a moment."""
    lock = os.open(settings.state_dir / "daemon.lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def test_a_daemon_is_seen_by_whoever_asks_and_refuses_a_second(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PROBES_END", 0.0)
    with app.only_daemon(settings):
        assert app.daemon_runs(settings)
        with pytest.raises(Refused, match=f"process {os.getpid()}"), app.only_daemon(settings):
            pass
    assert not app.daemon_runs(settings)


def test_asking_whether_one_runs_leaves_no_trace(settings: Settings, tmp_path: Path) -> None:
    assert not app.daemon_runs(settings)
    assert list(tmp_path.iterdir()) == []
    lock = tmp_path / "daemon.lock"
    lock.write_text("17")
    lock.chmod(0o444)
    before = lock.stat()
    assert not app.daemon_runs(settings)
    assert (lock.read_text(), lock.stat().st_mtime_ns) == ("17", before.st_mtime_ns)


def test_two_who_ask_at_once_do_not_take_each_other_for_a_daemon(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "daemon.lock").touch()
    other = shared(settings)
    assert not app.daemon_runs(settings)
    os.close(other)


def test_a_daemon_starts_while_somebody_asks_whether_one_runs(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PROBES_END", 60.0)
    (tmp_path / "daemon.lock").write_text("1234567890")
    threading.Timer(0.2, os.close, [shared(settings)]).start()
    with app.only_daemon(settings):
        assert (tmp_path / "daemon.lock").read_text() == str(os.getpid())
        assert app.daemon_runs(settings)


def test_a_lock_that_may_not_be_read_may_be_a_daemons(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    assert app.daemon_runs(settings)
