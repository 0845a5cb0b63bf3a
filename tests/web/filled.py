"""A store with something of everything in it: runs in every state, hosts with odd names, logs, requests, two sources."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from reconciler.core.documents import Problem
from reconciler.core.errors import Refused
from reconciler.core.facts import ChildStatus, JobKey, RunStatus
from reconciler.core.manifest import DEFAULT_MAX_LIMIT
from reconciler.core.reading import Rejected, parse_manifests
from reconciler.core.reasons import Reason
from reconciler.core.status import HostCounts, JobStatus, Phase
from reconciler.ports import Planned, PlannedHost, PlaybookResult, SourceOffer, Written
from tests.adapters.test_statusfile import job_status, source_status
from tests.builders import COMMIT, COMMIT_REVISION, hosts, make_host, make_new_run, make_request, outcome
from tests.contracts.stores import World, line

FAILED = JobKey("default", "patch-web")
RUNNING = JobKey("default", "patch-db")
RETIRED = JobKey("default", "patch-old")
ELSEWHERE = JobKey("network", "patch-web")

HOSTILE = '<script>alert("x")</script>&\u202e%2f..\U0001f98a'
"""Text that would do something, were it taken for anything but text."""

LINES = 450


def fill(world: World) -> str:
    """Returns the run that failed."""
    run = _failed(world)
    _in_progress(world)
    for key, phase in ((RETIRED, Phase.REMOVED), (ELSEWHERE, Phase.PENDING)):
        world.accept(key)
        world.store.save_status(key, status_of(key, phase))
    for source in ("default", "network"):
        status = source_status()
        named = status.metadata.model_copy(update={"name": source})
        world.store.save_source_status(status.model_copy(update={"metadata": named}))
    world.store.save_servers("default", "inventory/hosts.yml", hosts("web-1", "web-2", "web-3", "db-1", "db-2"))
    world.store.save_servers(
        "network", "inventory/hosts.yml", (make_host("switch-1", tags=frozenset({HOSTILE}), groups=("core",)),)
    )
    world.store.add_request(make_request("request-of-kim", key=FAILED, run=run, reason=HOSTILE))
    return run


def _failed(world: World) -> str:
    world.accept(FAILED)
    new = make_new_run(
        world.cause("1", FAILED),
        hosts("web-1", "web-2", HOSTILE),
        key=FAILED,
        job_id="batch-20261123-120000-abcdefghij",
        revision=COMMIT_REVISION,
        commit=COMMIT,
    )
    assert world.store.open_run(new)
    part = world.start(new.job_id, "web-1", "web-2", HOSTILE)
    lines = [line(number, f"line {number} {HOSTILE}", "web-2") for number in range(1, LINES + 1)]
    world.store.append_logs(part, 1, [*lines, line(LINES + 1, "PLAY [all]")])
    ended = (outcome("web-1"), outcome("web-2", ChildStatus.FAILED, message=HOSTILE), outcome(HOSTILE))
    assert world.store.finish(part, 1, PlaybookResult(ended))
    assert world.store.finish_run(new.job_id, RunStatus.FAILED, Reason.HOSTS_FAILED, "1 failed")
    world.store.save_status(FAILED, status_of(FAILED, Phase.FAILED))
    return new.job_id


def _in_progress(world: World) -> None:
    world.clock.advance(timedelta(minutes=1))
    run = world.open_run(hosts("db-1", "db-2"), key=RUNNING)
    world.start(run, "db-1")
    world.store.save_status(RUNNING, status_of(RUNNING, Phase.RUNNING))


def status_of(key: JobKey, phase: Phase) -> JobStatus:
    usual = job_status(HOSTILE, **{"web-2": HOSTILE})
    about = usual.metadata.model_copy(update={"name": key.name, "source": key.source, "labels": {"team": HOSTILE}})
    counts = HostCounts(selected=3, success=2, failed=1)
    body = usual.status.model_copy(update={"phase": phase, "hosts": counts})
    return JobStatus(metadata=about, status=body)


class Desk:
    """Composing in memory: a source that takes manifests, and one that does not. What it takes is in `written`."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str, str, str]] = []

    def offers(self) -> Sequence[SourceOffer]:
        return (
            SourceOffer("default", True, ("playbooks/patch.yml",), COMMIT_REVISION),
            SourceOffer("network", False, (), None),
        )

    def plan(self, source: str, text: str) -> Planned:
        self._check(source)
        entries = parse_manifests(text.encode("utf-8", "replace"), "manifest", DEFAULT_MAX_LIMIT)
        if len(entries) != 1:
            return Planned(problems=(Problem("manifest", 1, 1, 1, f"one manifest is expected, not {len(entries)}"),))
        entry = entries[0]
        if isinstance(entry, Rejected):
            return Planned(problems=tuple(entry.problems))
        name = entry.job.metadata.name
        return Planned(
            name=name,
            waves=((PlannedHost("web-1", "10.0.0.1"),),),
            revision=COMMIT_REVISION,
            exists=name == FAILED.name,
        )

    def write(self, source: str, text: str, by: str, message: str) -> Written:
        planned = self.plan(source, text)
        if source != "default":
            raise Refused(Reason.NOT_WRITABLE, f"manifests can't be put into {source}", "see the setting `write`")
        there = {self.plan(source, text).name for _, text, _, _ in self.written}
        if planned.name is None or planned.exists or planned.name in there:
            raise Refused(Reason.NAME_TAKEN, f"{planned.name} is there already")
        self.written.append((source, text, by, message))
        return Written(source, planned.name, f"jobs/{planned.name}.yaml", text, COMMIT, COMMIT_REVISION)

    def _check(self, source: str) -> None:
        if source not in ("default", "network"):
            raise Refused(Reason.SOURCE_UNKNOWN, f"there is no source {source}", "reconciler sources lists them")
