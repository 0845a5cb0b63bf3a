"""A fleet with batches in every state, as people would see them one busy noon: in a store, by the steps that lead there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha1
from typing import Any

from reconciler.core.facts import Cause, CauseKind, ChildStatus, Commit, JobKey, Revision, RunStatus
from reconciler.core.folding import conclude
from reconciler.core.hosts import Host
from reconciler.core.manifest import BatchJobSpec
from reconciler.core.planning import plan
from reconciler.core.plans import Desired, Limits
from reconciler.core.playbook import PlaybookFacts
from reconciler.core.report import report
from reconciler.core.status import SourceStatus
from reconciler.ports import PlaybookResult, SourceOffer, SpooledLine
from tests.adapters.test_statusfile import source_status
from tests.builders import PLAYBOOK_DIGEST, make_host, make_new_run, make_spec, manifest_record, new_cause, outcome
from tests.contracts.stores import World
from tests.web.filled import Desk

SOURCE = "fleet"
INVENTORY = "inventory/hosts.yml"

EVIL = "web\u202e<script>alert(\"x\")</script>'\" onmouseover='alert(1)'"
"""A name that would do something, were it taken for anything but text."""

AUTHOR = "Ada Lovelace <ada@example.org>"
FAILED = ChildStatus.FAILED
MANY = 240
"""Hosts of a batch that is too large to be drawn by hosts."""


@dataclass
class Fleet:
    """What is told to a store; `runs` is the latest run of each batch."""

    world: World
    runs: dict[str, str] = field(default_factory=dict)
    _commits: int = 0

    # -- steps -------------------------------------------------------------------------------------------------------
    def commit(self, subject: str, author: str = AUTHOR) -> Commit:
        self._commits += 1
        digest = sha1(f"{self._commits} {subject}".encode()).hexdigest()
        return Commit(digest, author, self.world.clock.now() - timedelta(minutes=3), subject)

    def run(
        self,
        name: str,
        hosts: Sequence[Host],
        ends: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        spec: BatchJobSpec,
        commit: Commit,
        seconds: float = 20,
        waves: int | None = None,
        leaves_open: bool = False,
        kind: CauseKind = CauseKind.SPEC_CHANGED,
    ) -> str:
        """Run it in waves of its limit, `waves` of them at most; hosts end as `ends` says, else well. Then the status is
        written. `leaves_open`: the wave after these has begun."""
        store, clock = self.world.store, self.world.clock
        key = JobKey(SOURCE, name)
        store.save_manifests((manifest_record(key, spec, labels={"team": "platform"}),), ())
        number = str(len(self.runs) + 1)
        store.add_causes((new_cause(number, key=key, kind=kind, message="the manifest is new (generation 1)"),))
        cause = next(cause for cause in store.observe(key).causes if cause.key == number)
        revision = Revision(f"main@sha1:{commit.id}")
        run = self._open(key, cause, hosts, spec, commit, revision)
        size = 1 if spec.strategy.value == "sequential" else spec.limit
        names_of_all = [host.name for host in hosts]
        cut = [names_of_all[at : at + size] for at in range(0, len(hosts), size)]
        done = cut[: len(cut) if waves is None else waves]
        for number_of, names in enumerate(done, start=1):
            part = self.world.start(run, *names, number=number_of)
            began = clock.now()
            clock.advance(timedelta(seconds=seconds))
            self._log(part, names, ends or {})
            results = [self._outcome(host, ends or {}, began, index) for index, host in enumerate(names)]
            assert store.finish(part, 1, PlaybookResult(tuple(results)))
        if leaves_open:
            self.world.start(run, *cut[len(done)], number=len(done) + 1)
        else:
            self._finish(key, run)
        self.say(key, hosts, commit, revision)
        self.runs[name] = run
        return run

    def _open(
        self, key: JobKey, cause: Cause, hosts: Sequence[Host], spec: BatchJobSpec, commit: Commit, revision: Revision
    ) -> str:
        moment = self.world.clock.now()
        job_id = f"batch-{moment:%Y%m%d-%H%M%S}-{key.name.replace('-', '')[:8]:x<8}00"
        new = make_new_run(
            cause, hosts, key=key, job_id=job_id, spec=spec, commit=commit, revision=revision, inventory=INVENTORY
        )
        assert self.world.store.open_run(new)
        return new.job_id

    def _outcome(self, host: str, ends: Mapping[str, Mapping[str, Any]], began: Any, index: int) -> Any:
        said = {"status": ChildStatus.SUCCESS, **ends.get(host, {})}
        status = said.pop("status")
        said.pop("log", None)
        took = (self.world.clock.now() - began) * (0.55 + 0.45 * ((index * 37) % 10) / 10)
        return outcome(host, status, started_at=began, finished_at=began + took, **said)

    def _log(self, part: Any, names: Sequence[str], ends: Mapping[str, Mapping[str, Any]]) -> None:
        lines: list[SpooledLine] = []

        def say(host: str | None, text: str) -> None:
            lines.append(SpooledLine(len(lines) + 1, host, text))

        say(None, "PLAY [Patch the web servers]")
        for host in names:
            end = ends.get(host, {})
            say(host, "PLAY [Patch the web servers]")
            say(host, "TASK [Refresh the package cache]")
            say(host, "ok")
            say(host, "TASK [Install nginx]")
            for extra in end.get("log", ()):
                say(host, extra)
            if end.get("status") is FAILED:
                say(host, "failed")
                say(host, f"  {end['message']}")
                say(host, "RECAP failed (TaskFailed): ok=1 failed=1")
            else:
                say(host, "changed")
                say(host, "RECAP success: ok=2 changed=1")
        assert self.world.store.append_logs(part, 1, lines)

    def _finish(self, key: JobKey, run: str) -> None:
        store = self.world.store
        left = [child.host for child in store.children(run) if not child.status.finished]
        if left:
            from reconciler.core.reasons import Reason

            store.skip(run, left, Reason.STOPPED_ON_FAILURE, "not started: an earlier wave had a failure")
        ended = conclude(store.children(run), None, None)
        assert store.finish_run(run, RunStatus(ended.status), ended.reason, ended.message)

    def say(self, key: JobKey, hosts: Sequence[Host], commit: Commit, revision: Revision) -> None:
        """Write the status, as the daemon would."""
        store, now = self.world.store, self.world.clock.now()
        record = store.manifest(key)
        assert record is not None
        desired = Desired(record, revision, tuple(hosts), PlaybookFacts(), PLAYBOOK_DIGEST, Limits(50), commit)
        observed = store.observe(key)
        store.save_status(key, report(desired, observed, plan(desired, observed, now), None, now))


def hosts(prefix: str, count: int, *tags: str, first: int = 1) -> tuple[Host, ...]:
    return tuple(
        make_host(
            f"{prefix}-{number}",
            address=f"10.20.{len(prefix)}.{number}" if number < 256 else f"10.21.{number // 256}.{number % 256}",
            tags=frozenset({*tags, "production" if number % 3 else "canary"}),
            groups=tuple(sorted({prefix, "all_linux"})),
        )
        for number in range(first, first + count)
    )


WEB, DB, APP = hosts("web", 5, "web"), hosts("db", 4, "db"), hosts("app", 12, "app")
NODES = hosts("node", MANY, "node")


def fill(world: World) -> Fleet:
    """All of it, the busiest last."""
    fleet, clock = Fleet(world), world.clock
    for each in (*WEB, *DB, *APP):
        assert each.name
    world.store.save_servers(SOURCE, INVENTORY, (*WEB, *DB, *APP, *NODES, make_host(EVIL, tags=frozenset({EVIL}))))
    world.store.save_source_status(source_named(SOURCE))
    bad = {f"node-{number}": {"status": ChildStatus.UNREACHABLE} for number in (17, 101)}
    fleet.run(
        "fleet-inventory",
        NODES,
        bad,
        spec=make_spec(limit=20, playbook="playbooks/facts.yml"),
        commit=fleet.commit("Gather facts of all nodes"),
        seconds=45,
    )
    clock.advance(timedelta(minutes=50))
    fleet.run(
        "upgrade-kernel",
        APP,
        spec=make_spec(limit=4, playbook="playbooks/kernel.yml"),
        commit=fleet.commit("Kernel 6.12.9 for the app servers"),
        seconds=95,
    )
    clock.advance(timedelta(minutes=12))
    missing = {
        "status": FAILED,
        "task": "Check free disk space",
        "message": "only 3 % of the disk is free",
    }
    fleet.run(
        "deploy-app",
        APP[:6],
        {"app-3": missing},
        spec=make_spec(limit=2, stopOnFailure=True, playbook="playbooks/deploy.yml"),
        commit=fleet.commit("Deploy 2.1", "Grace Hopper <grace@example.org>"),
        waves=2,
    )
    clock.advance(timedelta(minutes=4))
    fleet.run(
        "restart-database",
        DB,
        spec=make_spec(strategy="sequential", limit=1, playbook="playbooks/restart.yml"),
        commit=fleet.commit("Restart after the change of shared_buffers"),
        seconds=8,
    )
    clock.advance(timedelta(minutes=2))
    _hostile(fleet)
    clock.advance(timedelta(minutes=2))
    wrong = {"status": FAILED, "task": "Install nginx", "message": "No package matching 'ngnix' found available"}
    fleet.run(
        "patch-web",
        WEB,
        {"web-3": wrong},
        spec=make_spec(limit=3),
        commit=fleet.commit("Restart nginx after its configuration changed"),
        waves=1,
        leaves_open=True,
    )
    clock.advance(timedelta(seconds=14))
    _waiting(fleet)
    return fleet


class FleetDesk(Desk):
    """Composing for its source, which takes no manifests."""

    def offers(self) -> Sequence[SourceOffer]:
        return (SourceOffer(SOURCE, False, ("playbooks/patch.yml", EVIL), None),)

    def _check(self, source: str) -> None:
        assert source == SOURCE


def _hostile(fleet: Fleet) -> None:
    """Everything that comes from outside says something that it must not do."""
    host = make_host(EVIL, address="203.0.113.9", tags=frozenset({EVIL}))
    said = {"status": FAILED, "task": EVIL, "message": f"{EVIL}\n</pre><img src=x onerror=alert(1)>", "log": [EVIL]}
    fleet.run(
        "evil",
        (host, *hosts("good", 1)),
        {EVIL: said},
        spec=make_spec(limit=2, playbook="playbooks/evil.yml"),
        commit=fleet.commit(EVIL, f"{EVIL} <evil@example.org>"),
    )


def _waiting(fleet: Fleet) -> None:
    """A batch that has never run."""
    key = JobKey(SOURCE, "rotate-keys")
    commit = fleet.commit("Rotate the ssh keys")
    fleet.world.accept(key, make_spec(playbook="playbooks/keys.yml"))
    fleet.world.store.add_causes((new_cause("1", key=key),))
    fleet.say(key, APP[:3], commit, Revision(f"main@sha1:{commit.id}"))


def source_named(name: str) -> SourceStatus:
    status = source_status()
    return status.model_copy(update={"metadata": status.metadata.model_copy(update={"name": name})})
