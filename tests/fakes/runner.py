"""Playbooks without Ansible: they log what they are told to, and end when they are told to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from reconciler.core.errors import ReconcilerError
from reconciler.core.facts import ChildStatus, HostOutcome
from reconciler.ports import LogLine, PlaybookResult, PlaybookWork, StopKind


@dataclass
class FakeRunner:
    """`error` is raised by `prepare`. A playbook logs `lines` and then runs until `end` is set, or it is told to stop;
    `told` says why. `prepared` is called when it is about to start. `proven` is how hosts end whatever it is told;
    `unended`: a process of it can't be ended."""

    lines: tuple[LogLine, ...] = ()
    error: ReconcilerError | None = None
    end: threading.Event = field(default_factory=threading.Event)
    running: threading.Event = field(default_factory=threading.Event)
    told: StopKind | None = None
    proven: tuple[HostOutcome, ...] = ()
    prepared: Callable[[], None] = lambda: None
    unended: bool = False
    works: list[PlaybookWork] = field(default_factory=list)

    def prepare(self, work: PlaybookWork) -> FakePlaybook:
        self.works.append(work)
        if self.error is not None:
            raise self.error
        self.prepared()
        return FakePlaybook(self, work)


@dataclass
class FakePlaybook:
    runner: FakeRunner
    work: PlaybookWork

    def run(self, log: Callable[[LogLine], None], stop: Callable[[], StopKind | None]) -> PlaybookResult:
        for line in self.runner.lines:
            log(line)
        self.runner.running.set()
        while not self.runner.end.wait(0.005):
            self.runner.told = stop()
            if self.runner.told is not None:
                break
        proven = {outcome.host: outcome for outcome in self.runner.proven}
        status = _LEFT_AS[self.runner.told]
        outcomes = tuple(proven.get(host, HostOutcome(host, status)) for host in self.work.hosts)
        return PlaybookResult(outcomes, unended=self.runner.unended)


_LEFT_AS = {
    None: ChildStatus.SUCCESS,
    StopKind.CANCEL: ChildStatus.CANCELLED,
    StopKind.DEADLINE: ChildStatus.FAILED,
    StopKind.LOST: ChildStatus.UNKNOWN,
}
