"""Leases, and the store as whoever leads has it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Self, cast

from reconciler.core.errors import Unavailable
from reconciler.core.reasons import Reason
from reconciler.ports import LEADER, JobStore, Lease
from tests.fakes.store.memory import Memory, one_at_a_time

WRITES = frozenset(
    name
    for name in dir(JobStore)
    if name.startswith(("save_", "add_", "accept_", "give_", "mark_", "stop_slices", "trim"))
    or name in ("drop_causes", "open_run", "admit", "skip", "hold_run", "release_run", "finish_run", "withdraw_slices")
    or name in ("requeue", "lose")
    or name in ("claim", "heartbeat", "append_logs", "finish", "refuse_request", "pause", "resume", "adopt", "purge")
)


class KeptLeases(Memory):
    def fenced(self, fence: int) -> Self:
        return cast(Self, _Fenced(self, fence))

    @one_at_a_time
    def lease(self, name: str) -> Lease | None:
        return self._leases.get(name)

    @one_at_a_time
    def take_lease(self, name: str, holder: str, seen: Lease | None, term: timedelta) -> int | None:
        if self._leases.get(name) != seen:
            return None
        fence = 1 if seen is None else seen.fence + 1
        self._leases[name] = Lease(holder, fence, 0)
        return fence

    @one_at_a_time
    def renew_lease(self, name: str, fence: int, term: timedelta) -> bool:
        lease = self._leases.get(name)
        if lease is None or lease.fence != fence or not lease.holder:
            return False
        self._leases[name] = replace(lease, renewals=lease.renewals + 1)
        return True

    @one_at_a_time
    def release_lease(self, name: str, fence: int) -> None:
        lease = self._leases.get(name)
        if lease is not None and lease.fence == fence:
            self._leases[name] = Lease("", fence, lease.renewals + 1)


class _Fenced:
    """Everything that it writes it writes only while nobody else has taken the lease."""

    def __init__(self, store: KeptLeases, fence: int) -> None:
        self._store = store
        self._fence = fence

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in WRITES:
            return method

        def write(*given: Any, **named: Any) -> Any:
            with self._store._lock:
                lease = self._store.lease(LEADER)
                if lease is None or lease.fence != self._fence:
                    raise Unavailable(Reason.NOT_LEADING, "another daemon leads now")
                return method(*given, **named)

        return write
