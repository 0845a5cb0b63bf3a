"""A terminal that a command thinks it runs on: what it would show, at any size, and what was written to it.

It knows what a terminal must know to show what we write, and nothing else: what it does not know is a failure.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress

from tests.acceptance.workspace import PATIENCE

_SEQUENCE = re.compile(r"\x1b(?:\[(?P<arguments>[?0-9;]*)(?P<end>[A-Za-z])|\](?:[^\x07\x1b]*)(?:\x07|\x1b\\)|[78=>])")


class Screen:
    """What is shown: `main` is what stays, and scrolls; the other screen is there while a program has all of it."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.scrolled: list[str] = []
        """Lines that have left the main screen at its top."""
        self.whole = False
        """Whether the other screen is shown."""
        self.cursor_hidden = False
        self.erased = 0
        """How often all of a screen was emptied while it was shown: it flickers then."""
        self._kept: list[list[str]] | None = None
        self._cells = self._empty()
        self._row = self._column = 0
        self._rest = ""

    @property
    def lines(self) -> list[str]:
        return ["".join(cells).rstrip() for cells in self._cells]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip("\n")

    @property
    def everything(self) -> str:
        """With what has scrolled away."""
        return "\n".join((*self.scrolled, *self.lines)).rstrip("\n")

    def resize(self, columns: int, rows: int) -> None:
        """Lines are cut or filled up, as most terminals do with the other screen."""
        self.columns, self.rows = columns, rows
        self._cells = [(cells + [" "] * columns)[:columns] for cells in self._cells][:rows]
        self._cells += [[" "] * columns for _ in range(rows - len(self._cells))]
        self._row, self._column = min(self._row, rows - 1), min(self._column, columns - 1)

    def write(self, text: str) -> None:
        text, self._rest = self._rest + text, ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = _SEQUENCE.match(text, at)
                if found is None:
                    assert len(text) - at < 64, f"a terminal does not know {text[at : at + 20]!r}"
                    self._rest = text[at:]
                    return
                self._obey(found["arguments"] or "", found["end"])
                at = found.end()
            else:
                self._put(text[at])
                at += 1

    def _empty(self) -> list[list[str]]:
        return [[" "] * self.columns for _ in range(self.rows)]

    def _put(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._feed()
        elif char == "\b":
            self._column = max(0, self._column - 1)
        elif char == "\t":
            self._column = min(self.columns - 1, self._column // 8 * 8 + 8)
        elif char != "\x07":
            assert char.isprintable(), f"a terminal is not to be sent {char!r}"
            wide = 2 if unicodedata.east_asian_width(char) in "WF" else 1
            if self._column + wide > self.columns:
                self._column = 0
                self._feed()
            self._cells[self._row][self._column : self._column + wide] = [char, *[""] * (wide - 1)]
            self._column += wide

    def _feed(self) -> None:
        if self._row < self.rows - 1:
            self._row += 1
            return
        gone = self._cells.pop(0)
        self._cells.append([" "] * self.columns)
        if not self.whole:
            self.scrolled.append("".join(gone).rstrip())

    def _obey(self, arguments: str, end: str | None) -> None:
        numbers = [int(part) for part in arguments.lstrip("?").split(";") if part]
        first = numbers[0] if numbers else 0
        match end:
            case "m" | None:
                pass
            case "A":
                self._row = max(0, self._row - max(1, first))
            case "B":
                self._row = min(self.rows - 1, self._row + max(1, first))
            case "G":
                self._column = max(0, first - 1)
            case "H":
                row, column = (*numbers, 1, 1)[:2]
                self._row, self._column = min(self.rows, row) - 1, min(self.columns, column) - 1
            case "K":
                begin = 0 if first else self._column
                self._cells[self._row][begin:] = [" "] * (self.columns - begin)
            case "J":
                self.erased += 1
                self._cells = self._empty()
            case "h" | "l":
                self._switch(first, on=end == "h")
            case _:
                raise AssertionError(f"a terminal does not know ESC [ {arguments} {end}")

    def _switch(self, mode: int, *, on: bool) -> None:
        if mode == 25:
            self.cursor_hidden = not on
        elif mode == 1049 and on != self.whole:
            self.whole = on
            if on:
                self._kept, self._cells = self._cells, self._empty()
            else:
                assert self._kept is not None
                self._cells = self._kept
                self.resize(self.columns, self.rows)


class Terminal:
    """Runs a command on a terminal of this size."""

    def __init__(self, command: Sequence[str], columns: int = 80, rows: int = 24, **environment: str) -> None:
        self.screen = Screen(columns, rows)
        self.written = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ours, theirs = pty.openpty()
        self._set_size(columns, rows)
        unset = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        given: Mapping[str, str] = {name: value for name, value in os.environ.items() if name not in unset}
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**given, "TERM": "xterm-256color", **environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - so Ctrl-C and resizing reach it
        )
        os.close(theirs)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """The kernel tells the program of it."""
        self.read(0)
        self.screen.resize(columns, rows)
        self._set_size(columns, rows)

    def read(self, seconds: float) -> bool:
        """Show what is written within these seconds. False: nothing will be any more."""
        ready, _, _ = select.select([self._ours], [], [], seconds)
        while ready:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:  # the program has ended
                data = b""
            if not data:
                return False
            text = self._decoder.decode(data)
            self.written += text
            self.screen.write(text)
            ready, _, _ = select.select([self._ours], [], [], 0)
        return True

    def shows(self, *words: str, within: float = PATIENCE) -> None:
        """Wait until all of this can be seen."""
        deadline = time.monotonic() + within
        while not all(word in self.screen.text for word in words):
            assert time.monotonic() < deadline, f"{words} not in:\n{self.screen.text}"
            if not self.read(0.1):
                assert all(word in self.screen.text for word in words), f"{words} not in:\n{self.screen.text}"

    def press(self, key: str) -> None:
        os.write(self._ours, key.encode())

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.press("\x03")
        return self.ends()

    def ends(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while self.read(0.1):
            assert time.monotonic() < deadline, "it does not end"
            if self.process.poll() is not None:
                self.read(0.1)
                break
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        os.close(self._ours)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
