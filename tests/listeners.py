"""Many that listen to a daemon's live changes: `python -m tests.listeners PORT COUNT`, a process of its own.

It says `ready` once all of them are told hello, and when it is terminated how many changes each of them was told: fewest
and most.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.crashes.fleet import PATIENCE, REPOSITORY

REQUEST = b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"


@dataclass
class Heard:
    """How many changes each of them was told: fewest and most."""

    least: int = 0
    most: int = 0


@contextmanager
def listening(port: int, count: int) -> Iterator[Heard]:
    """So many listen meanwhile; what they heard is known afterwards."""
    command = [sys.executable, "-m", "tests.listeners", str(port), str(count)]
    heard = Heard()
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "they could not listen"
            yield heard
        finally:
            process.terminate()
        said, _ = process.communicate(timeout=PATIENCE)
    heard.least, heard.most = map(int, said.split())


async def _listen(port: int, count: int) -> None:
    heard = [0] * count
    greeted = asyncio.Semaphore(0)

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        async for line in reader:
            if line == b"event: hello\n":
                greeted.release()
            elif line == b"event: change\n":
                heard[number] += 1

    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
    listeners = [asyncio.create_task(one(number)) for number in range(count)]
    for _ in range(count):
        await greeted.acquire()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await done.wait()
    for each in listeners:
        each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await each
    sys.stdout.write(f"{min(heard)} {max(heard)}\n")


if __name__ == "__main__":
    asyncio.run(_listen(int(sys.argv[1]), int(sys.argv[2])))
