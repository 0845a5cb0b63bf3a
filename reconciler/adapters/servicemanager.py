"""What the service manager is told of this process (systemd's sd_notify protocol); nothing, where none has started it.

Datagrams to the socket that the environment names. A manager that can't be told is no reason to do anything else: the
log says so once.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import MutableMapping

import structlog

log = structlog.get_logger()

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

LONGEST = 200
"""Characters of a status."""


class ServiceManager:
    """For one thread. Takes its variables out of the environment, so that no process that is started later speaks in this
    one's name."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address, within, pid = (environment.pop(name, "") for name in VARIABLES)
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.there = bool(address)
        watched = within.isdecimal() and pid in ("", str(os.getpid()))
        self.alive_every = int(within) / 1_000_000 / 2 if watched and int(within) else None
        """Seconds between two calls of `alive`, half of what the manager allows; None: it does not watch."""
        self._status = ""
        self._alive_at = -math.inf
        self._silent = False

    def ready(self) -> None:
        """It serves, for the first time or again."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """It reads its settings again; `ready` when that is done."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """A short line for people; told only when it changes."""
        line = " ".join(text.split())[:LONGEST]
        if line != self._status and self._tell(f"STATUS={line}"):
            self._status = line

    def alive(self) -> None:
        """It makes progress. May be called as often as one likes."""
        now = time.monotonic()
        if self.alive_every is not None and now - self._alive_at >= self.alive_every:
            self._alive_at = now
            self._tell("WATCHDOG=1")

    def _tell(self, message: str) -> bool:
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as there:
                there.settimeout(1.0)
                there.sendto(message.encode(), self._address)
        except OSError as error:
            if not self._silent:
                log.warning("service_manager_not_told", why=str(error))
            self._silent = True
        else:
            self._silent = False
        return not self._silent
