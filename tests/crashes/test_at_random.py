"""Many batches, and somebody who kills (-9) the daemon and the processes of slices at random moments.

SOAK_KILLS and SOAK_SEED say how often and how; `make soak` does it 200 times. A story that fails prints its
seed."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from reconciler.core.facts import ChildStatus
from reconciler.ports import RequestKind
from tests import stub_playbook
from tests.crashes.fleet import Fleet, judge
from tests.databases import POSTGRESQL, SQLITE, new_database, why_no

KILLS = int(os.environ.get("SOAK_KILLS", "20"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
BATCHES, HOSTS = 8, 5


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    if reason := why_no(request.param):
        pytest.skip(reason)
    with new_database(request.param, tmp_path) as url:
        fleet = Fleet(tmp_path, url=url, max_running=12)
        yield fleet
        fleet.stop()


def write_jobs(fleet: Fleet, version: int) -> None:
    """Each shares a host with the next, so that they also wait for each other."""
    for number in range(BATCHES):
        hosts = [f"h{number}-{host}" for host in range(1, HOSTS)] + [f"h{(number + 1) % BATCHES}-1"]
        fleet.job(
            f"batch-{number}",
            hosts,
            limit=random.Random(number).randint(1, 4),
            strategy="sequential" if number == 0 else "parallel",
            hostsPerProcess=1 if number == 1 else None,
            retry={"limit": 1 if number == 2 else 0, "backoff": "1s"},
            extraVars={"version": version},
            playbook=stub_playbook.playbook(fleet.record, seconds=0.3, fail={f"h2-{version % HOSTS or 1}": 1}),
        )


def test_nobody_is_done_twice_and_nobody_is_forgotten(fleet: Fleet) -> None:
    print(f"SOAK_SEED={SEED} SOAK_KILLS={KILLS}")
    chance = random.Random(SEED)
    version = 1
    write_jobs(fleet, version)
    kills = 0
    fleet.run_until(lambda: any(fleet.record.glob("*")), "the first host")
    while kills < KILLS:
        fleet.run_for(chance.uniform(0.1, 1.2))
        slices = [process for process in fleet.marked() if _is_of_a_slice(process)]
        if slices and chance.random() < 0.5:
            _kill(chance.choice(slices))
            kills += 1
        else:
            fleet.kill()
            kills += 1
        if fleet.at_rest() or kills % 7 == 0:
            version += 1
            write_jobs(fleet, version)
            fleet.ask(RequestKind.TRIGGER, f"batch-{chance.randrange(BATCHES)}", version)

    fleet.run_until(fleet.at_rest, f"rest (SOAK_SEED={SEED})")

    runs = judge(fleet)
    ended = [child.status for each in runs.values() for run in each for child in run.children]
    assert ended.count(ChildStatus.SUCCESS) > BATCHES * HOSTS / 2


def _is_of_a_slice(process: psutil.Process) -> bool:
    """Its own process, and not one that it has just forked, which looks like it until it is ansible-playbook."""
    try:
        parent = process.parent()
    except psutil.NoSuchProcess:
        return False
    return "reconciler.worker" in " ".join(_command(process)) and (
        parent is None or "reconciler.worker" not in " ".join(_command(parent))
    )


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
