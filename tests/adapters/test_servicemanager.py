"""What systemd hears, by a socket like its own."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from reconciler.adapters.servicemanager import ServiceManager


class Manager:
    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.settimeout(60)

    def hears(self) -> list[str]:
        """The lines of the next message."""
        return self.socket.recv(4096).decode().splitlines()

    def hears_nothing(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(60)
        return False


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify") if request.param == "a path" else f"@reconciler-{os.getpid()}")
    yield manager
    manager.socket.close()


def test_it_hears_of_the_life_of_a_daemon(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "HOME": "/"}
    told = ServiceManager(environment)
    assert environment == {"HOME": "/"}, "a slice must not speak for the daemon"

    told.ready()
    assert manager.hears() == ["READY=1"]
    told.status("leading,\n3 runs in progress")
    assert manager.hears() == ["STATUS=leading, 3 runs in progress"]
    told.status("leading, 3 runs in progress")
    assert manager.hears_nothing()
    told.status("x" * 5000)
    assert manager.hears() == ["STATUS=" + "x" * 200]

    before = time.monotonic_ns() // 1000
    told.reloading()
    (reloading, at) = manager.hears()
    assert reloading == "RELOADING=1"
    assert before <= int(at.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000

    told.alive()
    assert manager.hears_nothing(), "nobody watches"
    told.stopping()
    assert manager.hears() == ["STOPPING=1"]


def test_a_watchdog_is_fed_no_more_often_than_it_has_to_be(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"})
    assert told.alive_every == 0.2
    told.alive()
    told.alive()
    assert manager.hears() == ["WATCHDOG=1"]
    assert manager.hears_nothing()
    deadline = time.monotonic() + 60
    while manager.hears_nothing():
        assert time.monotonic() < deadline
        told.alive()


@pytest.mark.parametrize("usec", ["", "0", "soon", "-3"])
def test_a_watchdog_that_is_none_is_not_fed(usec: str) -> None:
    assert ServiceManager({"WATCHDOG_USEC": usec}).alive_every is None


def test_a_watchdog_of_another_process_is_none(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000", "WATCHDOG_PID": str(os.getpid() + 1)}
    assert ServiceManager(environment).alive_every is None
    environment = {"WATCHDOG_USEC": "400000", "WATCHDOG_PID": str(os.getpid())}
    assert ServiceManager(environment).alive_every == 0.2


def test_without_a_manager_nothing_is_told() -> None:
    with capture_logs() as said:
        told = ServiceManager({})
        told.ready()
        told.alive()
        told.stopping()
    assert said == []


def test_a_manager_that_is_gone_is_told_of_once_and_again_when_it_is_back(tmp_path: Path) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    with capture_logs() as said:
        told.ready()
        told.stopping()
    assert [entry["event"] for entry in said] == ["service_manager_not_told"]

    back = Manager(str(tmp_path / "notify"))
    told.ready()
    assert back.hears() == ["READY=1"]
    back.socket.close()
    with capture_logs() as said:
        told.ready()
    assert len(said) == 1
