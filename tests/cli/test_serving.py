"""The process of a daemon, as its signals and its service manager see it; what whole processes show is in tests/acceptance."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from structlog.testing import capture_logs

from reconciler import app as parts
from reconciler.adapters.servicemanager import ServiceManager
from reconciler.cli import serving
from reconciler.cli.serving import Asked, Serving
from reconciler.cli.signals import Signals
from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason
from reconciler.engine.daemon import Daemon
from reconciler.engine.leading import TERM
from reconciler.ports import LEADER
from reconciler.settings import Settings
from tests.acceptance.workspace import wait_for


class Manager:
    """What a service manager hears."""

    def __init__(self, address: Path) -> None:
        self.heard: list[str] = []
        self.heard_at = time.monotonic()
        self._seen = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        self._thread = Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while (message := self._socket.recv(4096).decode()) != "END":
            self.heard.append(message)
            self.heard_at = time.monotonic()

    def hears(self, wanted: str) -> None:
        """After what it was last seen to hear."""

        def found() -> bool:
            for number, message in enumerate(self.heard[self._seen :], start=self._seen + 1):
                if wanted in message:
                    self._seen = number
                    return True
            return False

        wait_for(found, wanted)

    def forget(self) -> None:
        """What it has heard so far."""
        self._seen = len(self.heard)

    def is_silent(self) -> bool:
        """Whether nothing was told for longer than the watchdog here would wait."""
        return time.monotonic() - self.heard_at > 0.5

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"END", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


class Process:
    """One that serves in a thread, on a source with nothing in it."""

    def __init__(self, folder: Path, process: parts.DaemonProcess, asked: Asked, settings: Settings) -> None:
        self.process = process
        self.signals = Signals()
        self.manager = Manager(folder / "notify")
        environment = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "20000"}
        self.serving = Serving(asked, settings, process, self.signals, ServiceManager(environment))
        self.thread = Thread(target=self.serving.run)

    def fence(self) -> int:
        lease = self.process.store.lease(LEADER)
        return 0 if lease is None else lease.fence


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    monkeypatch.setattr(serving, "POLL", 0.01)
    monkeypatch.setattr(serving, "TOLD", 0.05)
    (tmp_path / "source").mkdir()
    state = tmp_path / "state"
    flags = (("state_dir", state), ("http", {"enabled": False}))
    asked = Asked(tmp_path / "source", working_tree=False, config=None, flags=flags, http=True)
    settings = asked.settings()
    store = parts.create_store(settings)
    with parts.daemon_of(settings, store, None) as own:
        made = Process(tmp_path, own, asked, settings)
        yield made
        made.signals.terminations += 1
        if made.thread.ident is not None:
            made.thread.join(timeout=60)
        assert not made.thread.is_alive()
        made.manager.close()
    store.close()


def test_it_is_ready_leads_and_lives(process: Process) -> None:
    process.thread.start()
    process.manager.hears("READY=1")
    process.manager.hears("STATUS=leading, 0 runs in progress")
    process.manager.hears("WATCHDOG=1")
    process.signals.terminations = 1
    process.manager.hears("STOPPING=1")


def test_one_that_can_not_begin_steps_back_and_tries_again(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise Refused(Reason.SETTINGS_INVALID, "its folder is in another state")

    monkeypatch.setattr(serving, "BEGINS_AGAIN", 0.1)
    with monkeypatch.context() as broken, capture_logs() as told:
        broken.setattr(parts.DaemonProcess, "build", refuses)
        process.thread.start()
        wait_for(lambda: process.fence() > 2, "it to try again")
    assert {"not_begun", "stepped_back"} <= {entry["event"] for entry in told}
    process.manager.hears("STATUS=leading")


def test_a_daemon_that_hangs_is_not_alive(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    process.thread.start()
    process.manager.hears("WATCHDOG=1")
    with monkeypatch.context() as hanging:
        hanging.setattr(Daemon, "idle", lambda _: serving.HANGS + 1)
        wait_for(process.manager.is_silent, "it to be told no more")
        process.manager.forget()
    process.manager.hears("WATCHDOG=1")


def test_a_leader_whose_lease_was_taken_waits_and_begins_anew_when_it_is_given_back(process: Process) -> None:
    process.thread.start()
    process.manager.hears("STATUS=leading")
    store = process.process.store
    other = store.take_lease(LEADER, "other:1", store.lease(LEADER), TERM)
    assert other == 2
    process.manager.hears("STATUS=standby: other:1 leads")
    store.release_lease(LEADER, other)
    process.manager.hears("STATUS=leading")
    assert process.fence() == 3
