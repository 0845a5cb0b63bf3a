"""What people asked for outside a manifest. Written here it counts, with or without a daemon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reconciler.adapters.store.rows import NAME_MOST, storable
from reconciler.core.facts import JobKey, Stop
from reconciler.ports import NewCause, Request
from tests.fakes.store.manifests import Manifests
from tests.fakes.store.memory import one_at_a_time


class Requests(Manifests):
    @one_at_a_time
    def add_request(self, request: Request) -> bool:
        if request.id in self._requests:
            return False
        by, reason = storable(request.by, NAME_MOST), storable(request.reason)
        result = None if request.result is None else storable(request.result)
        answered_at = None if result is None else request.answered_at or request.at
        self._requests[request.id] = replace(request, by=by, reason=reason, result=result, answered_at=answered_at)
        self._tell(request.key, "RequestAdded", request.run, request.kind, request.reason)
        return True

    @one_at_a_time
    def request(self, request_id: str) -> Request | None:
        return self._requests.get(request_id)

    @one_at_a_time
    def pending_requests(self, key: JobKey) -> Sequence[Request]:
        mine = [request for request in self._requests.values() if request.key == key and request.result is None]
        return tuple(sorted(mine, key=lambda request: (request.at, request.id)))

    @one_at_a_time
    def accept_cause(self, request: Request, cause: NewCause) -> None:
        if self._answer(request, "accepted"):
            self._add_causes((cause,))

    @one_at_a_time
    def accept_cancel(self, request: Request, stop: Stop) -> None:
        if self._answer(request, "accepted"):
            state = self._runs.get(request.run or "")
            if state is not None and state.run.open and state.run.stop is None:
                state.run = replace(state.run, stop=stop)

    @one_at_a_time
    def refuse_request(self, request: Request, result: str) -> None:
        self._answer(request, result)

    def _answer(self, request: Request, result: str) -> bool:
        known, result = self._requests[request.id], storable(result)
        if known.result is not None:
            return False
        self._requests[request.id] = replace(known, result=result, answered_at=self.clock.now())
        self._tell(request.key, "RequestAnswered", request.run, request.kind, result)
        return True
