"""How much time and memory an input may cost."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 10
"""Of the processor, so that a busy machine changes nothing. No input that is kept takes a tenth of it; one that hangs
takes for ever."""

MEGABYTES = 512
"""More than what the process has already."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raises TimeoutError or MemoryError inside for what costs more. For the main thread only."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"it took more than {SECONDS} s of the processor")

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEGABYTES * 2**20, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)
