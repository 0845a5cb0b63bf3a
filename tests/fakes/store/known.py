"""Sources that are known, and those that are held until they are adopted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from reconciler.core.facts import BY_HAND
from reconciler.core.reasons import Reason
from reconciler.ports import Request
from tests.fakes.store.memory import one_at_a_time
from tests.fakes.store.requests import Requests


class Adoption(Requests):
    @one_at_a_time
    def sources(self) -> Mapping[str, Reason | None]:
        return dict(self._known)

    @one_at_a_time
    def add_sources(self, held: Mapping[str, Reason | None]) -> None:
        self._known = {**held, **self._known}

    @one_at_a_time
    def adopt(self, request: Request, names: Sequence[str], *, as_done: bool) -> Sequence[str]:
        if not self.add_request(request):
            return ()
        source = request.key.source
        held = [key for key, record in self._manifests.items() if key.source == source and record.held is not None]
        adopted = sorted(key for key in held if not names or key.name in names)
        for key in adopted:
            self._manifests[key] = replace(self._manifests[key], held=None)
        for each in self._causes.values():
            if as_done and each.key in adopted and not each.cause.key.startswith(BY_HAND):
                each.handle(None, self.clock.now())
        if not names and source in self._known:
            self._known[source] = None
        self._answer(request, f"accepted: {len(adopted)} job{'s' * (len(adopted) != 1)}")
        for key in adopted:
            self._tell(key, "JobAdopted", text=request.reason)
        self._tell(request.key, "SourceAdopted", text=request.reason)
        return tuple(key.name for key in adopted)
