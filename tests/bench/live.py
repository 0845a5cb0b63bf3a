"""What 200 that listen to live changes cost those who reconcile: the same batches twice, side by side in each round.

ansible-playbook is a stub that sleeps and writes the events that the real one would. Who listens is a process of its own on
the same machine, whose work is in the numbers too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.bench.measure import Number
from tests.pressure import Pressed, press

ROUNDS, LISTENERS = 3, 200


def measure(folder: Path) -> Iterator[Number]:
    alone, heard = [], []
    for number in range(ROUNDS):
        alone.append(_pressed(folder / f"alone-{number}", 0))
        heard.append(_pressed(folder / f"heard-{number}", LISTENERS))
    yield Number("children finished per second, nobody listens", median(map(_rate, alone)), "/s")
    yield Number(f"… {LISTENERS} listen", median(map(_rate, heard)), "/s")
    ratios = (_rate(with_them) / _rate(without) for with_them, without in zip(heard, alone, strict=True))
    yield Number("… to … nobody listens", median(ratios), "times", 0.8, least=True)
    yield Number("changes that each was told, fewest", min(each.heard.least for each in heard), "")
    yield Number("… most", max(each.heard.most for each in heard), "")


def _pressed(folder: Path, listeners: int) -> Pressed:
    folder.mkdir()
    return press(folder, batches=12, hosts=20, limit=5, max_running=50, listeners=listeners)


def _rate(pressed: Pressed) -> float:
    return pressed.children / pressed.seconds
