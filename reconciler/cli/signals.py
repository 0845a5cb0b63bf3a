"""What a person at the keyboard, or a service manager, wants of this process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


class Signals:
    """INT: nothing more is started, and what runs is waited for; again: that is cancelled; a third time: leave at once.
    USR1: as the first INT. TERM: leave; again: cancel what runs, too. HUP: read the settings again, or leave, if what went
    away is the terminal.

    A signal interrupts the main thread in the middle of anything: its handler only counts, and calls `at_once`, which
    must take no lock.
    """

    def __init__(self) -> None:
        self.interrupts = 0
        self.terminations = 0
        self.drain = False
        self.reload = False
        self.at_once: Callable[[], None] = lambda: None
        """What a signal that ends the process does before anybody gets round to heeding it."""
        self._on_terminal = False

    def catch(self) -> None:
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGUSR1, self._drain)

    def catch_hangups(self) -> None:
        """Only a daemon has settings to read again."""
        self._on_terminal = sys.stderr.isatty()
        signal.signal(signal.SIGHUP, self._hang_up)

    @property
    def any(self) -> bool:
        """Whether it is to end, sooner or later."""
        return self.terminations > 0 or self.interrupts > 0 or self.drain

    @property
    def leave(self) -> bool:
        """Whether it is to end now."""
        return self.terminations > 0 or self.interrupts > 2

    def _interrupt(self, *_: object) -> None:
        self.interrupts += 1
        self.at_once()

    def _terminate(self, *_: object) -> None:
        self.terminations += 1
        self.at_once()

    def _drain(self, *_: object) -> None:
        self.drain = True
        self.at_once()

    def _hang_up(self, *_: object) -> None:
        if self._on_terminal and not sys.stderr.isatty():
            nowhere = os.open(os.devnull, os.O_RDWR)  # whoever speaks to a terminal that is gone gets an error
            for stream in range(3):
                os.dup2(nowhere, stream)
            self._terminate()
        else:
            self.reload = True
