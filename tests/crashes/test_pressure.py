"""Batches that want more than there is: `max_running` holds, everybody gets through, and nobody waits for ever."""

from __future__ import annotations

from pathlib import Path

from reconciler.core.facts import RunStatus
from tests.pressure import press


def test_twelve_batches_on_eight_slots(tmp_path: Path) -> None:
    pressed = press(tmp_path, batches=12, hosts=8, limit=4, max_running=8)

    assert pressed.children == 96
    assert {run.status for run in pressed.runs} == {RunStatus.SUCCESS}
    assert pressed.most_at_once <= 8
    assert pressed.spread <= 1, "somebody had a third wave before another had its first"
