"""One daemon for each state directory, how others see it, and how they reach it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.adapters import statelock
from reconciler.core.errors import Refused
from tests.acceptance.workspace import wait_for

HOLDER = """\
import signal, sys
from pathlib import Path
from reconciler.adapters import statelock

signal.signal(signal.SIGUSR1, lambda *_: sys.exit(17))
with statelock.hold(Path(sys.argv[1])) as lock:
    lock.note(3, "here:1")
    print("held", flush=True)
    signal.pause()
"""


def shared(folder: Path) -> int:
    """What a probe holds for a moment."""
    lock = os.open(folder / "daemon.lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has it."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


# -- one has it ------------------------------------------------------------------------------------------------------
def test_a_daemon_is_seen_by_whoever_asks_and_refuses_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statelock, "PROBES_END", 0.0)
    with statelock.hold(tmp_path) as lock:
        lock.note(7, "server-1:4711")
        assert statelock.is_held(tmp_path)
        with pytest.raises(Refused, match=rf"process {os.getpid()}\)"), statelock.hold(tmp_path):
            pass
    assert not statelock.is_held(tmp_path)


def test_asking_whether_one_runs_leaves_no_trace(tmp_path: Path) -> None:
    assert not statelock.is_held(tmp_path)
    assert statelock.process_of(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    lock = tmp_path / "daemon.lock"
    lock.write_text("17")
    lock.chmod(0o444)
    before = lock.stat()
    assert not statelock.is_held(tmp_path)
    assert statelock.process_of(tmp_path) is None
    assert (lock.read_text(), lock.stat().st_mtime_ns) == ("17", before.st_mtime_ns)


def test_two_who_ask_at_once_do_not_take_each_other_for_a_daemon(tmp_path: Path) -> None:
    (tmp_path / "daemon.lock").touch()
    other = shared(tmp_path)
    assert not statelock.is_held(tmp_path)
    os.close(other)


def test_a_daemon_starts_while_somebody_asks_whether_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statelock, "PROBES_END", 60.0)
    (tmp_path / "daemon.lock").write_text("1234567890\n1 somebody:1234567890")
    threading.Timer(0.2, os.close, [shared(tmp_path)]).start()
    with statelock.hold(tmp_path):
        assert (tmp_path / "daemon.lock").read_text() == str(os.getpid())
        assert statelock.is_held(tmp_path)


def test_a_lock_that_may_not_be_read_may_be_a_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    assert statelock.is_held(tmp_path)
    with pytest.raises(Refused, match="another user's"):
        statelock.process_of(tmp_path)


def test_a_directory_that_is_not_there_has_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no state directory"), statelock.hold(tmp_path / "none"):
        pass
    assert list(tmp_path.iterdir()) == []


# -- what it leaves to the next --------------------------------------------------------------------------------------
def test_whoever_has_it_next_knows_the_lease_of_the_one_before(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with statelock.hold(tmp_path) as lock:
        assert lock.former == (3, "here:1")
    with statelock.hold(tmp_path) as lock:
        assert lock.former is None, "that one never had a lease"


@pytest.mark.parametrize("text", ["", "17", "17\n", "17\nthree here:1", "17\n3", "\0\xff\n\n"])
def test_a_note_that_is_none_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "daemon.lock").write_text(text, encoding="latin-1")
    with statelock.hold(tmp_path) as lock:
        assert lock.former in (None, (3, ""))


# -- reaching it -----------------------------------------------------------------------------------------------------
def test_a_signal_reaches_the_daemon_and_nobody_else(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert statelock.process_of(tmp_path) == holder.pid
    assert statelock.send(tmp_path, signal.SIGUSR1) == holder.pid
    assert holder.wait(timeout=60) == 17
    wait_for(lambda: not statelock.is_held(tmp_path), "its end")
    assert (tmp_path / "daemon.lock").read_text().startswith(str(holder.pid))
    assert statelock.send(tmp_path, signal.SIGUSR1) is None, "its number may be somebody else's by now"


def test_a_number_that_is_another_process_here_gets_no_signal(tmp_path: Path) -> None:
    """As of a daemon in a container that shares the folder."""
    other = subprocess.Popen(["sleep", "600"])
    try:
        with statelock.hold(tmp_path):
            (tmp_path / "daemon.lock").write_text(str(other.pid))
            with pytest.raises(Refused, match="another container"):
                statelock.send(tmp_path, signal.SIGUSR1)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
