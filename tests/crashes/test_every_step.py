"""The daemon and the processes of its slices are killed (-9) at every step, just before it and just after, and started
again: no host is done twice, none is forgotten, every status is true, and what had not begun goes on by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.facts import CauseKind, ChildStatus, RunStatus
from reconciler.ports import RequestKind
from tests import stub_playbook
from tests.crashes.fate import Death, Fate, steps_of
from tests.crashes.fleet import Fleet, judge

AFTER_A_DEATH = {"requeue", "lose", "kill"}
"""What the daemon does only when a process has died."""

MAY_COME_ONCE = {"stop_slices"}
"""Taken only if the daemon is quicker than the slice itself, which hears of its end too. To see one there, runs are
cancelled until it is taken; after a first death there, nothing may be left to stop."""

HANGS = "hangs"

STEPS = [(process, step) for process in ("daemon", "slice") for step in sorted(steps_of(process))]

LOSES = {
    ("mark_started", "after"),
    ("run", "before"),
    ("start", "before"),
    ("start", "after"),
    ("line", "before"),
    ("line", "after"),
    ("append_logs", "before"),
    ("append_logs", "after"),
    ("end", "before"),
    ("end", "after"),
    ("result", "before"),
}
"""Deaths of a slice's process by which hosts may become unknown: after it has started, and before its result is in its
spool. No death of the daemon is among them."""


@pytest.fixture
def fate(tmp_path: Path) -> Fate:
    return Fate(tmp_path / "fate")


@pytest.fixture
def fleet(tmp_path: Path, fate: Fate) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, fate=fate.folder)
    yield fleet
    fleet.stop()


def live(fleet: Fleet, fate: Fate) -> None:
    """Two waves; a failure after which the rest is skipped; a host that is tried again; one that was to be, until its
    manifest changed; a run that is cancelled; and another run on request."""

    def work(seconds: float = 0.1, **fail: int) -> str:
        return stub_playbook.playbook(fleet.record, seconds=seconds, fail=fail)

    soon, late = {"limit": 1, "backoff": "1s"}, {"limit": 1, "backoff": "1h"}
    fleet.job("waves", ["a1", "a2", "a3"], limit=2, playbook=work())
    fleet.job("stops", ["b1", "b2"], limit=1, stopOnFailure=True, playbook=work(b1=9))
    fleet.job(HANGS, ["c1"], playbook=work(seconds=600))
    fleet.job("again", ["d1"], playbook=work(d1=1), retry=soon)
    fleet.job("changes", ["e1"], playbook=work(e1=1), retry=late)
    fleet.job("mends", ["f1"], playbook=work(f1=9))
    cancel(fleet, HANGS, "c1")
    fleet.run_until(lambda: fleet.waits_for_retry("changes") or fleet.has_ended("changes"), "one to be tried again")
    # Soon, not late: whoever died with the first run may have done nothing to e1, which then fails in this one.
    fleet.job("changes", ["e1"], playbook=work(e1=1), retry=soon, extraVars={"version": 2})
    fleet.run_until(fleet.at_rest, "all to end")
    fleet.job("mends", ["f1"], playbook=work())
    fleet.ask(RequestKind.TRIGGER, "waves")

    def only_chance_decides() -> bool:
        return all(death.step in MAY_COME_ONCE for death in fate.to_come())

    fleet.run_until(lambda: fleet.at_rest() and only_chance_decides(), f"rest, and {fate.to_come()}")
    for number in range(2, 30):
        if not fate.to_come():
            return
        fleet.job(f"{HANGS}-{number}", [f"c{number}"], playbook=work(seconds=600))
        cancel(fleet, f"{HANGS}-{number}", f"c{number}")
        fleet.run_until(fleet.at_rest, "its end")
    raise AssertionError(f"it never came to {fate.to_come()}")


def cancel(fleet: Fleet, name: str, host: str) -> None:
    """Once something is done to its host."""
    fleet.run_until(lambda: (fleet.record / host).exists() or fleet.has_ended(name), f"{name} to begin")
    fleet.ask(RequestKind.CANCEL, name)


def test_without_a_death_every_step_is_taken(fleet: Fleet, fate: Fate) -> None:
    fate.decide()

    live(fleet, fate)

    runs = judge(fleet)
    assert {name: [run.status for run in each] for name, each in runs.items()} == {
        "waves": [RunStatus.SUCCESS, RunStatus.SUCCESS],
        "stops": [RunStatus.FAILED],
        "hangs": [RunStatus.CANCELLED],
        "again": [RunStatus.SUCCESS],
        "changes": [RunStatus.SUCCESS, RunStatus.FAILED],
        "mends": [RunStatus.SUCCESS, RunStatus.FAILED],
    }
    chance = AFTER_A_DEATH | MAY_COME_ONCE
    assert {step for step in STEPS if step[1] not in chance} == {
        step for step in fate.reached() if step[1] not in chance
    }


@pytest.mark.parametrize(("process", "step"), [s for s in STEPS if s[1] not in AFTER_A_DEATH | MAY_COME_ONCE])
def test_a_death_just_before_a_step_and_one_just_after(fleet: Fleet, fate: Fate, process: str, step: str) -> None:
    deaths = [Death(process, step, "before"), Death(process, step, "after")]
    fate.decide(*deaths)

    live(fleet, fate)

    check(fleet, may_lose=sum((death.step, death.when) in LOSES for death in deaths) if process == "slice" else 0)
    assert fleet.deaths == (2 if process == "daemon" else 0)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", sorted(MAY_COME_ONCE))
def test_a_death_at_a_step_that_may_come_once(fleet: Fleet, fate: Fate, step: str, when: str) -> None:
    fate.decide(Death("daemon", step, when))

    live(fleet, fate)

    check(fleet, may_lose=0)
    assert fleet.deaths == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("first", "step"),
    [
        (Death("slice", "claim", "after"), "requeue"),
        (Death("slice", "start", "after"), "kill"),
        (Death("slice", "start", "after"), "lose"),
    ],
)
def test_the_daemon_dies_over_a_slice_that_died(fleet: Fleet, fate: Fate, first: Death, step: str, when: str) -> None:
    fate.decide(first, Death("daemon", step, when))

    live(fleet, fate)

    check(fleet, may_lose=int(first.step == "start"))
    assert fleet.deaths == 1


def check(fleet: Fleet, *, may_lose: int) -> None:
    """`may_lose`: so many processes may have been lost with what they did; each has two hosts at most."""
    runs = judge(fleet)
    unknown = [
        child.host
        for each in runs.values()
        for run in each
        for child in run.children
        if child.status is ChildStatus.UNKNOWN
    ]
    assert len(unknown) <= 2 * may_lose, f"{unknown} need not be unknown"
    once_more = f"{HANGS}-"  # until a step was taken
    causes = {name: sorted(run.cause for run in each) for name, each in runs.items() if not name.startswith(once_more)}
    assert causes == {
        "waves": [CauseKind.REQUESTED, CauseKind.SPEC_CHANGED],
        "stops": [CauseKind.SPEC_CHANGED],
        "hangs": [CauseKind.SPEC_CHANGED],
        "again": [CauseKind.SPEC_CHANGED],
        "changes": [CauseKind.SPEC_CHANGED, CauseKind.SPEC_CHANGED],
        "mends": [CauseKind.PLAYBOOK_CHANGED, CauseKind.SPEC_CHANGED],
    }
    if not unknown:
        ended = {name: [run.status for run in each] for name, each in runs.items()}
        assert ended["waves"] == [RunStatus.SUCCESS, RunStatus.SUCCESS]
        assert ended["again"] == [RunStatus.SUCCESS]
