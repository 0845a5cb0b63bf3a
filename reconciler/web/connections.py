"""The connections of the port: how many there are, and how long one may take for what it does.

uvicorn has no end for a client who says half of a request, or does not take its answer. Here each has one, so that
nobody can hold a connection for ever by being slow; and where all are taken, one that has not said what it wants makes
room. Whoever begins many of them ends their own: it is the oldest of the address that has most.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from reconciler.web.access import address_of
from reconciler.web.guard import HOOKS

MOST_CONNECTIONS = 600
"""At a time, streams of events included. A flood must leave the daemon descriptors for its work."""

SAYING = 30.0
"""Seconds for a request, from its connection or the answer before it, to its last byte."""

SAYING_MUCH = 300.0
"""Seconds for a webhook, whose body may be large and come by a slow line."""

MOST_BODIES = 200
"""Requests at a time whose body is on its way, and kept until it is there. One more makes one end. So many scripts that ask
at the same moment, each sending head and body apart, are no flood."""

TAKING = 30.0
"""Seconds in which a client has to take something of what is sent to it."""


class Connection(H11Protocol):
    """One connection, with its deadlines."""

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _left = 0
    """Bytes that it has not taken yet, at the last look."""
    since = 0.0
    address = ""

    def connection_made(
        self,
        transport: asyncio.Transport,  # type: ignore[override] # as uvicorn's own: of TCP, it is never a plainer one
    ) -> None:
        if len(self.connections) >= MOST_CONNECTIONS and not self._make_room():
            transport.abort()
            return
        super().connection_made(transport)
        self.address = address_of(self.client)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._stalled is not None:
            self._stalled.cancel()
        if self.transport is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self.asks_for_nothing:
            self._await_request()
        super().data_received(data)
        if self.says_its_body:
            self._bound_bodies()

    def on_response_complete(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self.since = self.loop.time()
        super().on_response_complete()  # which gives an idle connection a few seconds, until something is said

    # -- what it says ------------------------------------------------------------------------------------------------
    def _await_request(self) -> None:
        self.since = self.loop.time()
        self._deadline = self.loop.call_later(SAYING, self._is_late)

    def _is_late(self) -> None:
        """Unless all of its request is there."""
        self._deadline = None
        if self.asks_for_nothing:
            self.transport.abort()
        elif self.says_its_body:
            long = SAYING_MUCH if self.scope["path"].startswith(HOOKS) else SAYING
            left = self.since + long - self.loop.time()
            if left <= 0:
                self.transport.abort()
            else:
                self._deadline = self.loop.call_later(left, self._is_late)

    @property
    def asks_for_nothing(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    @property
    def says_its_body(self) -> bool:
        return not self.asks_for_nothing and self.cycle.more_body

    def _make_room(self) -> bool:
        """Of those that have not said all of a request, one ends."""
        return _end_one([each for each in self._all() if each.asks_for_nothing or each.says_its_body])

    def _bound_bodies(self) -> None:
        saying = [each for each in self._all() if each.says_its_body]
        if len(saying) > MOST_BODIES:
            _end_one(saying)

    def _all(self) -> Sequence[Connection]:
        return [each for each in self.connections if isinstance(each, Connection)]

    # -- what it takes -----------------------------------------------------------------------------------------------
    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._await_its_taking()

    def _await_its_taking(self) -> None:
        self._left = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(TAKING, self._see_what_it_took)

    def _see_what_it_took(self) -> None:
        """Whoever takes a little each time gets all of it, however much there is."""
        if self.transport.get_write_buffer_size() < self._left:
            self._await_its_taking()
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def _end_one(slow: Sequence[Connection]) -> bool:
    """Of these, the oldest of the address that has most of them. False: there are none."""
    if not slow:
        return False
    of_address = Counter(each.address for each in slow)
    ended = min(slow, key=lambda each: (-of_address[each.address], each.since))
    ended.connections.discard(ended)
    ended.transport.abort()
    return True
