"""What an engine test counts."""

from __future__ import annotations

from collections import Counter


class FakeMeter:
    """How often each thing happened; for how long is no matter."""

    def __init__(self) -> None:
        self.looks: Counter[str] = Counter()
        self.syncs: Counter[tuple[str, str]] = Counter()
        self.waits = 0

    def looked(self, result: str, seconds: float) -> None:
        self.looks[result] += 1

    def waited(self, seconds: float) -> None:
        self.waits += 1

    def synced(self, source: str, result: str, seconds: float) -> None:
        self.syncs[source, result] += 1
