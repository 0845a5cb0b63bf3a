"""The two kinds of error, and who has to act on each.

    ReconcilerError
    ├── Refused       the operator must change something: no retry, the job is Stalled
    └── Unavailable   the world must change: retried with backoff, the job is Reconciling

Anything else that is raised is a bug. A failed host is no exception but an outcome, and a bad manifest is no exception
but a `Rejected`.
"""

from __future__ import annotations

from reconciler.core.reasons import Reason


class ReconcilerError(Exception):
    """Something went wrong that a person can be told about: what (`message`), and what to do next (`hint`). `field`
    leads from a manifest's spec to the field that is at fault, if one is."""

    def __init__(self, reason: Reason, message: str, hint: str = "", field: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Refused(ReconcilerError):
    """The operator must change something before this can go on."""


class Unavailable(ReconcilerError):
    """Something outside is not there at the moment; it is tried again by itself."""
