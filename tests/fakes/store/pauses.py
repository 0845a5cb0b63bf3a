"""Pauses."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.core.facts import Pause
from reconciler.ports import Request
from tests.fakes.store.memory import one_at_a_time
from tests.fakes.store.requests import Requests


class Pauses(Requests):
    @one_at_a_time
    def pause(self, request: Request) -> bool:
        source = request.key.source or None
        if not self.add_request(request):
            return False
        if source in self._pauses:
            self._answer(request, "refused: it was paused already")
            return False
        kept = self._requests[request.id]
        self._pauses[source] = Pause(source, kept.by, kept.reason, request.at)
        self._answer(request, "accepted")
        self._tell(request.key, "Paused", text=request.reason)
        return True

    @one_at_a_time
    def resume(self, request: Request) -> bool:
        if not self.add_request(request):
            return False
        if self._pauses.pop(request.key.source or None, None) is None:
            self._answer(request, "refused: it was not paused")
            return False
        self._answer(request, "accepted")
        self._tell(request.key, "Resumed", text=request.reason)
        return True

    @one_at_a_time
    def pauses(self) -> Sequence[Pause]:
        return tuple(sorted(self._pauses.values(), key=lambda pause: pause.source or ""))
