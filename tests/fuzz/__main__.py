"""`python -m tests.fuzz [TARGET...]`: fuzz all targets, or these, for so many minutes in all.

Says how often each was executed. Ends with 1 if something was found; the input is kept, and its place is said: `python
-m tests.fuzz TARGET --input FILE` executes it once more. What is worth it goes to tests/fuzz/corpus.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import CORPUS, TARGETS

KEPT = Path(".fuzz")
"""Of earlier runs, so that the next goes on from there: what libFuzzer found worth keeping, and its output."""

SECONDS = 30
"""One input that takes longer hangs: by the clock, on a machine that may be busy."""

MEGABYTES = 1024
"""So much memory is enough for any input of LONGEST bytes, and all that went before it."""

LONGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """What came of one target. `found`: inputs that broke a promise, or more words if it did not even run."""

    name: str
    executions: int
    found: tuple[str, ...]
    output: Path

    def __str__(self) -> str:
        said = "".join(f"\n    found: {found}" for found in self.found)
        return f"{self.name:12} {self.executions:12,} executions{said and f', see {self.output}'}{said}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; none: all")
    parser.add_argument("--minutes", type=float, default=10, help="for all targets together")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--input", type=Path, help="execute the target once, on the content of this file")
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    if unknown := sorted(set(names) - set(TARGETS)):
        parser.error(f"there is no {', '.join(unknown)}")
    if given.input is not None:
        for name in names:
            TARGETS[name](given.input.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        sys.stdout.write("skipped: atheris has no wheel for this Python on this machine (Linux on x86_64 has)\n")
        return 0
    share = max(1, round(given.minutes * 60 / math.ceil(len(names) / given.jobs)))
    sys.stdout.write(f"{len(names)} targets, {share} s each, {given.jobs} at a time\n")
    sys.stdout.flush()
    found = False
    with ThreadPoolExecutor(given.jobs) as pool:
        for fuzzed in pool.map(lambda name: fuzz(name, share), names):
            sys.stdout.write(f"{fuzzed}\n")
            sys.stdout.flush()
            found = found or bool(fuzzed.found)
    return 1 if found else 0


def fuzz(name: str, seconds: int) -> Fuzzed:
    """One target, in a process of its own."""
    corpus, finds, output = KEPT / "corpus" / name, KEPT / "found" / name, KEPT / f"{name}.log"
    corpus.mkdir(parents=True, exist_ok=True)
    finds.mkdir(parents=True, exist_ok=True)
    words = KEPT / f"{name}.dict"
    words.write_text(dictionary(TARGETS[name].words or (" ",)), encoding="ascii")
    arguments = [
        *(f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", f"-max_len={LONGEST}"),
        *(f"-dict={words}", "-print_final_stats=1"),
        *map(str, (corpus, CORPUS / name)),
    ]
    began = time.time()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RECONCILER_")}
    with output.open("wb") as written:
        command = [sys.executable, "-m", "tests.fuzz.one", name, str(finds), *arguments]
        returned = subprocess.run(command, stdout=written, stderr=written, env=environment).returncode
    said = output.read_text(encoding="utf-8", errors="replace")
    executed = re.findall(r"^stat::number_of_executed_units:\s+(\d+)", said, re.MULTILINE)
    found = tuple(str(path) for path in sorted(finds.iterdir()) if path.stat().st_mtime >= began)
    if returned != 0 and not found:
        found = (f"it ended with {returned}",)
    return Fuzzed(name, int(executed[-1]) if executed else 0, found, output)


def dictionary(words: Sequence[str]) -> str:
    """As libFuzzer reads it: a text in quotes on each line, its odd bytes in hex."""
    return "".join('"{}"\n'.format("".join(f"\\x{byte:02x}" for byte in word.encode())) for word in words)


if __name__ == "__main__":
    sys.exit(main())
