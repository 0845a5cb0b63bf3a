"""The connections of the port: how many there are, and how long one may take for what it does.

uvicorn has no end for a client who says half of a request, or does not take its answer. Here each has one, so that
nobody can hold a connection for ever by being slow; and where all are taken, one that asks for nothing makes room.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MOST_CONNECTIONS = 600
"""At a time, streams of events included. A flood must leave the daemon descriptors for its work."""

SAYING = 30.0
"""Seconds for a request, from its connection or the answer before it, to its last byte."""

SAYING_MUCH = 300.0
"""Seconds for one with a body that is large: what a webhook may send, by a slow line."""

TAKING = 30.0
"""Seconds in which a client has to take something of what is sent to it."""


class Connection(H11Protocol):
    """One connection, with its deadlines."""

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    since = 0.0

    def connection_made(
        self,
        transport: asyncio.Transport,  # type: ignore[override] # as uvicorn's own: of TCP, it is never a plainer one
    ) -> None:
        if len(self.connections) >= MOST_CONNECTIONS and not self._make_room():
            transport.abort()
            return
        super().connection_made(transport)
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
        elif self.cycle.more_body:
            left = self.since + SAYING_MUCH - self.loop.time()
            if left <= 0:
                self.transport.abort()
            else:
                self._deadline = self.loop.call_later(left, self._is_late)

    @property
    def asks_for_nothing(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _make_room(self) -> bool:
        """Of those that ask for nothing, the one that has done so longest ends."""
        idle = [each for each in self.connections if isinstance(each, Connection) and each.asks_for_nothing]
        if not idle:
            return False
        oldest = min(idle, key=lambda each: each.since)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    # -- what it takes -----------------------------------------------------------------------------------------------
    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(TAKING, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
