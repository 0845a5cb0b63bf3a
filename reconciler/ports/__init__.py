"""Every door to the world, with the promises each keeps.

The engine knows these and nothing behind them. Each has one conformance suite in tests/contracts, which the real
adapters and the fakes of the engine tests pass alike.

    world     clock, sources, inventories, what is counted, where a status is written
    running   playbooks, and the processes that run slices
    store     the database
"""

from reconciler.ports.running import (
    Executor,
    Liveness,
    LogLine,
    PlaybookResult,
    PlaybookWork,
    PreparedPlaybook,
    Runner,
    Spool,
    SpooledLine,
    StopKind,
)
from reconciler.ports.store import (
    LEADER,
    VANISHED,
    Admitted,
    Beat,
    Busy,
    History,
    JobStore,
    Lease,
    Leases,
    NewCause,
    NewRun,
    NewSlice,
    NewWave,
    Outdated,
    Request,
    RequestKind,
    SliceStore,
    SliceWork,
    StoredEvent,
    StoredMetrics,
)
from reconciler.ports.world import (
    Clock,
    Hosts,
    Meter,
    Shown,
    Sink,
    Snapshot,
    Source,
)

__all__ = [
    "LEADER",
    "VANISHED",
    "Admitted",
    "Beat",
    "Busy",
    "Clock",
    "Executor",
    "History",
    "Hosts",
    "JobStore",
    "Lease",
    "Leases",
    "Liveness",
    "LogLine",
    "Meter",
    "NewCause",
    "NewRun",
    "NewSlice",
    "NewWave",
    "Outdated",
    "PlaybookResult",
    "PlaybookWork",
    "PreparedPlaybook",
    "Request",
    "RequestKind",
    "Runner",
    "Shown",
    "Sink",
    "SliceStore",
    "SliceWork",
    "Snapshot",
    "Source",
    "Spool",
    "SpooledLine",
    "StopKind",
    "StoredEvent",
    "StoredMetrics",
]
