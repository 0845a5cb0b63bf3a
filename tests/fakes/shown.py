"""What is shown of jobs, without files."""

from __future__ import annotations

from reconciler.core.facts import JobKey


class FakeShown:
    """Shows these jobs."""

    def __init__(self, *keys: JobKey) -> None:
        self.keys = frozenset(keys)

    def has_jobs(self, source: str) -> bool:
        return any(key.source == source for key in self.keys)

    def has_job(self, key: JobKey) -> bool:
        return key in self.keys
