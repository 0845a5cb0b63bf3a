"""How something is measured, and how the result is told."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds. `cpu` is of the process and of every descendant that was waited for."""

    wall: float
    cpu: float


def spent(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Spent:
    """Run a command to its end; it must end well."""
    with (folder / "output").open("wb") as output:
        begin = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command} ended with {process.returncode}:\n{(folder / 'output').read_text()}")
    return Spent(wall, usage.ru_utime + usage.ru_stime)


@dataclass(frozen=True, slots=True)
class Number:
    """One line of the table: what was measured, and what it must not pass; `least`: must not fall below."""

    what: str
    value: float
    unit: str
    bound: float | None = None
    least: bool = False

    @property
    def kept(self) -> bool:
        if self.bound is None:
            return True
        return self.value >= self.bound if self.least else self.value <= self.bound

    def __str__(self) -> str:
        said = "" if self.bound is None else f"{'at least' if self.least else 'at most'} {self.bound:g} {self.unit}"
        verdict = "" if self.bound is None else "kept" if self.kept else "BROKEN"
        return f"{self.what:<62} {self.value:>10.2f} {self.unit:<6} {said:<22} {verdict}".rstrip()


def middle(of: Sequence[Spent], what: Callable[[Spent], float]) -> float:
    return median(what(each) for each in of)
