"""Who leads: of all daemons on a database the one that has the lease LEADER; the others are standbys.

The database only compares and writes. Time is judged by each daemon's own monotonic clock, and nobody's wall clock:

- who leads renews, and counts from the start of the last renewal that succeeded. Past the term it begins nothing until
  one succeeds again; one that finds the lease taken is its end;
- who watches takes the lease when it was given back, or when it has not changed for a whole term. Only time in which it
  was watched counts: after an outage of the database, or of the watcher, the holder gets a whole term.

So the one ends before the other begins. Whoever is late all the same, stopped between asking and doing, meets the fence:
nothing that it writes holds once another has the lease.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from reconciler.core.errors import ReconcilerError, Unavailable
from reconciler.core.facts import SliceId
from reconciler.core.reasons import Reason
from reconciler.ports import LEADER, Clock, Executor, Lease, Leases, Liveness, Spool

log = structlog.get_logger()

TERM = timedelta(seconds=10)

RENEWS, WATCHES = 2.5, 0.5
"""Seconds between two turns of who leads, and of who watches or has not been able to renew."""

SETTLES = 3.0
"""Seconds between two turns in which a standby settles what is its own."""

LATE = 5.0
"""Seconds: a turn of who watches that comes so late was no watching."""

LEFT = 5.0
"""Seconds that are left to a turn in progress at the end."""


@dataclass(frozen=True, slots=True)
class Former:
    """A lease whose holder is known to be no more, by what it left behind: nobody has to wait for its end."""

    fence: int
    holder: str


@dataclass(frozen=True, slots=True)
class Lead:
    """That this process leads, by one fence. `holds` is cheap: whether it may begin anything now."""

    fence: int
    holds: Callable[[], bool]

    def check(self) -> None:
        """Raises Unavailable (NotLeading)."""
        if not self.holds():
            raise Unavailable(
                Reason.NOT_LEADING, "this daemon could not renew its lease", "it goes on, or waits as a standby"
            )


@dataclass(frozen=True, slots=True)
class _Held:
    fence: int
    since: float
    """The start of the last renewal that succeeded."""


@dataclass(frozen=True, slots=True)
class _Watched:
    lease: Lease
    since: float
    """When it was first seen so."""
    last: float
    """When it was last seen so."""


class Leadership:
    """One daemon's part in it. `turn` is for one thread; all else may be asked from any."""

    def __init__(self, leases: Leases, holder: str, clock: Clock, former: Former | None = None) -> None:
        """`holder`: what this daemon is called, for people."""
        self.holder = holder
        self._leases = leases
        self._clock = clock
        self._former = former
        self._held: _Held | None = None
        self._watched: _Watched | None = None
        self._rival = ""
        self._away = False
        self._rests_until = clock.monotonic()
        self._turned = clock.monotonic()
        self._turning = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_turning, name="lease", daemon=True)

    # -- what is asked -----------------------------------------------------------------------------------------------
    @property
    def lead(self) -> Lead | None:
        """None: this is a standby."""
        held = self._held
        return None if held is None else Lead(held.fence, partial(self._holds, held.fence))

    @property
    def leads(self) -> bool:
        """Whether this daemon may begin anything now."""
        held = self._held
        return held is not None and self._holds(held.fence)

    @property
    def leader(self) -> str:
        """Who leads, as far as is known here; empty: nobody, or nobody knows."""
        watched = self._watched
        if self._held is not None:
            return self.holder
        return "" if watched is None else watched.lease.holder

    @property
    def rival(self) -> str:
        """Another daemon, once it was seen to renew its lease, for as long as it has it; else empty."""
        return self._rival

    def idle(self) -> float:
        """Seconds since the last turn ended."""
        return self._clock.monotonic() - self._turned

    def _holds(self, fence: int) -> bool:
        held = self._held
        return held is not None and held.fence == fence and self._clock.monotonic() - held.since < TERM.total_seconds()

    # -- life --------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """The first turn is over when this returns."""
        self._attempt()
        self._thread.start()

    def stop(self) -> None:
        """Take part no more: what is held is given back, so that a standby takes it at once."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(LEFT)
        held, self._held = self._held, None
        if held is None:
            return
        try:
            self._leases.release_lease(LEADER, held.fence)
        except ReconcilerError as error:
            log.warning("lease_not_given_back", fence=held.fence, why=str(error))

    def step_back(self, pause: float) -> None:
        """Leave it to others: what is held is given back, and taken again no sooner than in so many seconds. Raises
        Unavailable."""
        with self._turning:
            held, self._held = self._held, None
            self._rests_until = self._clock.monotonic() + pause
            if held is not None:
                log.warning("stepped_back", fence=held.fence)
                self._leases.release_lease(LEADER, held.fence)

    def _keep_turning(self) -> None:
        while not self._stop.wait(RENEWS if self._held is not None and not self._away else WATCHES):
            self._attempt()

    def _attempt(self) -> None:
        try:
            with self._turning:
                self.turn()
        except Exception:
            # A thread that ends here would leave a daemon that neither leads nor waits.
            log.exception("lease_not_looked_at_by_a_bug")
        self._turned = self._clock.monotonic()

    # -- one turn ----------------------------------------------------------------------------------------------------
    def turn(self) -> None:
        """Renew, or see whether there is a lease to take."""
        held = self._held
        try:
            if held is not None:
                self._renew(held)
            else:
                self._watch()
        except ReconcilerError as error:
            self._watched = None
            if not self._away:
                log.warning("lease_not_looked_at", leads=held is not None, why=str(error))
            self._away = True
        else:
            if self._away:
                log.info("lease_looked_at_again", leads=self._held is not None)
            self._away = False

    def _renew(self, held: _Held) -> None:
        begun = self._clock.monotonic()
        if not self._leases.renew_lease(LEADER, held.fence, TERM):
            self._held = None
            log.warning("stepped_down", fence=held.fence)
            self._watch()
        elif not self._stop.is_set():
            self._held = _Held(held.fence, begun)

    def _watch(self) -> None:
        lease = self._leases.lease(LEADER)
        now = self._clock.monotonic()  # a slow answer may tell of a renewal that was done just before it came
        before, self._watched = self._watched, None
        if lease is None or not lease.holder or self._is_former(lease):
            self._rival = ""
            self._take(lease)
            return
        if before is None or before.lease.fence != lease.fence:
            self._rival = ""
            log.info("standby", leader=lease.holder, fence=lease.fence)
        elif before.lease != lease:
            self._rival = lease.holder
        unchanged = before is not None and before.lease == lease and now - before.last < LATE
        since = before.since if before is not None and unchanged else now
        self._watched = _Watched(lease, since, now)
        if now - since >= TERM.total_seconds():
            self._rival = ""
            self._take(lease)

    def _is_former(self, lease: Lease) -> bool:
        return self._former is not None and (lease.fence, lease.holder) == (self._former.fence, self._former.holder)

    def _take(self, seen: Lease | None) -> None:
        begun = self._clock.monotonic()
        if begun < self._rests_until:
            return
        fence = self._leases.take_lease(LEADER, self.holder, seen, TERM)
        if fence is None:
            return
        if self._stop.is_set():
            self._leases.release_lease(LEADER, fence)
            return
        self._watched, self._held = None, _Held(fence, begun)
        log.info("leading", fence=fence, after="" if seen is None else seen.holder)


class LeadersExecutor:
    """The processes of slices, for whoever leads: nothing is started or killed by one that does so no more. Raises
    Unavailable (NotLeading) instead."""

    def __init__(self, executor: Executor, lead: Lead) -> None:
        self._executor = executor
        self._lead = lead

    def start(self, slice_id: SliceId, fence: int) -> None:
        self._lead.check()
        self._executor.start(slice_id, fence)

    def kill(self, slice_id: SliceId, fence: int, place: str | None = None) -> Liveness:
        self._lead.check()
        return self._executor.kill(slice_id, fence, place)

    def liveness(self, slice_id: SliceId, fence: int, place: str | None = None) -> Liveness:
        return self._executor.liveness(slice_id, fence, place)

    def recover(self, slice_id: SliceId, place: str | None = None) -> Spool | None:
        return self._executor.recover(slice_id, place)

    def last_words(self, slice_id: SliceId, place: str | None = None) -> str:
        return self._executor.last_words(slice_id, place)

    def kept(self) -> frozenset[SliceId]:
        return self._executor.kept()

    def forget(self, slice_id: SliceId) -> None:
        self._executor.forget(slice_id)


class Standby:
    """What a daemon does while another leads: it settles the slices of its own machine, which nobody else can ask."""

    def __init__(self, settle: Callable[[], object]) -> None:
        """`settle` raises Unavailable when the store is away."""
        self._settle = settle
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_settling, name="standby", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns at once. What it is about to decide, the store decides whether it still holds."""
        self._stop.set()

    def _keep_settling(self) -> None:
        told = False
        while not self._stop.wait(SETTLES):
            try:
                self._settle()
            except ReconcilerError as error:
                if not told:
                    log.warning("slices_not_settled", why=str(error))
                told = True
            except Exception:
                log.exception("slices_not_settled_by_a_bug")
            else:
                told = False
