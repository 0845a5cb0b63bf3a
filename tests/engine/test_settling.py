"""Slices whose process is gone, hangs, or is somewhere else: what is made of them, by whom, and when."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.facts import ChildStatus, Slice, SliceId, SliceState
from reconciler.core.reasons import Reason
from reconciler.engine.settling import ENDING, LINES_AT_ONCE, OUT_OF_REACH, Settler
from reconciler.ports import Beat, PlaybookResult, Spool, SpooledLine
from tests.builders import JOB, OTHER_JOB, outcome
from tests.engine.worlds import LEASE, World
from tests.fakes.executor import FakeExecutor

UNKNOWN = ChildStatus.UNKNOWN
WAVE = timedelta(minutes=30)
HERE, BESIDE, ELSEWHERE = "here", "another folder of this machine", "another machine"


class House(World):
    """A world whose first wave has been admitted, and whose slice a process at some place may claim and start."""

    def __init__(self, hosts: int = 2) -> None:
        super().__init__(hosts)
        self.commit(timeouts={"wave": "30m"})
        self.look()
        self.slice_id, self.fence = self.the_process()

    def claimed(self, place: str) -> None:
        if place != HERE:
            self.executor.end(self.slice_id)
            self.executor.forget(self.slice_id)
        assert self.store.claim(self.slice_id, self.fence, "worker-1", LEASE, place) is not None

    def started(self, place: str) -> None:
        self.claimed(place)
        assert self.store.mark_started(self.slice_id, self.fence)

    def silence(self, terms: float) -> None:
        """So many terms go by, in which this daemon looks and nobody renews the lease."""
        for _ in range(int(terms * 6)):
            self.pass_time(LEASE.total_seconds() / 6)
            self.look()

    def beats(self, terms: float) -> None:
        """The same, but its process renews it."""
        for _ in range(int(terms * 6)):
            self.pass_time(LEASE.total_seconds() / 6)
            assert self.store.heartbeat(self.slice_id, self.fence, LEASE) is Beat.RENEWED
            self.look()

    def part(self) -> Slice:
        return next(part for part in self.run().slices if part.id == self.slice_id)

    @property
    def lost(self) -> bool:
        return self.part().state is SliceState.LOST


def neighbour(house: House) -> FakeExecutor:
    """The executor of another daemon on the same machine, with a state directory of its own, that started the slice."""
    theirs = FakeExecutor(place=BESIDE)
    theirs.start(house.slice_id, house.fence)
    house.executor.beside.append(theirs)
    return theirs


# -- on another machine ----------------------------------------------------------------------------------------------
def test_what_is_claimed_elsewhere_and_silent_for_two_terms_is_started_again() -> None:
    house = House()
    house.claimed(ELSEWHERE)
    house.silence(1.9)
    assert house.part().state is SliceState.CLAIMED
    house.silence(0.5)
    assert (house.part().state, house.part().fence) == (SliceState.PLANNED, house.fence + 1)
    assert not house.store.mark_started(house.slice_id, house.fence), "it can't begin any more where it was"
    house.pass_time(5)
    house.run_all()
    assert house.begun == ["web-1", "web-2"]


def test_what_is_claimed_elsewhere_is_left_to_whoever_renews_its_lease() -> None:
    house = House()
    house.claimed(ELSEWHERE)
    house.beats(10)
    assert house.part().state is SliceState.CLAIMED


def test_what_has_started_elsewhere_keeps_its_hosts_until_its_time_is_over() -> None:
    house = House()
    house.started(ELSEWHERE)
    house.commit(OTHER_JOB.name)
    house.silence((WAVE + ENDING) / LEASE - 1)
    assert house.part().state is SliceState.STARTED
    assert house.look(OTHER_JOB).waits
    house.silence(2)
    assert house.lost
    assert house.executor.killed == [], "nobody there was asked"
    assert {child.message for child in house.run().children} == {OUT_OF_REACH}
    assert set(house.reasons().values()) == {Reason.SLICE_LOST}
    assert not house.look(OTHER_JOB).waits


def test_one_that_renews_its_lease_elsewhere_may_take_longer_than_its_manifest_says() -> None:
    """Its own process judges that; it is most likely just ending what it runs."""
    house = House()
    house.started(ELSEWHERE)
    house.beats((WAVE + ENDING) / LEASE + 5)
    assert house.part().state is SliceState.STARTED


def test_the_manifest_as_it_is_now_says_how_long_that_is() -> None:
    house = House()
    house.started(ELSEWHERE)
    house.commit(timeouts={"wave": "5m"})
    house.silence(5)
    assert not house.lost
    house.silence(2)
    assert house.lost


def test_a_new_daemon_knows_for_how_long_it_has_run() -> None:
    house = House()
    house.started(ELSEWHERE)
    house.silence((WAVE + ENDING) / LEASE - 4)
    house.restart()
    house.keeper.sync()
    house.silence(3)
    assert not house.lost
    house.silence(2)
    assert house.lost


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_wall_clock_that_jumps_frees_no_host(hours: int) -> None:
    house = House()
    house.started(ELSEWHERE)
    house.settler.settle(JOB, house.run())
    house.clock.jump(timedelta(hours=hours))
    for _ in range(int((WAVE + ENDING) / LEASE)):
        assert not house.settler.settle(JOB, house.run())
        house.pass_time(LEASE.total_seconds())
    assert house.settler.settle(JOB, house.run())
    assert house.lost


def test_what_can_be_asked_again_in_time_is_settled_by_what_is_found() -> None:
    house = House()
    house.started(HERE)
    house.executor.cut_off = True
    house.silence(5)
    assert house.part().state is SliceState.STARTED
    house.executor.cut_off = False
    house.executor.spools[house.slice_id] = Spool((), house.result(house.names, lambda _: ChildStatus.SUCCESS))
    house.executor.end(house.slice_id)
    house.look()
    assert set(house.statuses().values()) == {ChildStatus.SUCCESS}


# -- in another folder of this machine -------------------------------------------------------------------------------
def test_what_another_daemon_of_this_machine_started_lives_as_long_as_it_does_there() -> None:
    house = House()
    house.started(BESIDE)
    neighbour(house)
    house.beats(5)
    assert house.part().state is SliceState.STARTED


def test_what_another_daemon_of_this_machine_left_is_ended_there_and_its_spool_is_read() -> None:
    house = House()
    house.started(BESIDE)
    theirs = neighbour(house)
    lines = (SpooledLine(1, "web-1", "ok: [web-1]"),)
    theirs.spools[house.slice_id] = Spool(lines, PlaybookResult((outcome("web-1"),)))
    theirs.end(house.slice_id)
    house.look()
    assert house.lost
    assert house.executor.killed == [(house.slice_id, house.fence)]
    assert house.statuses() == {"web-1": ChildStatus.SUCCESS, "web-2": UNKNOWN}
    assert [line.text for line in house.store.log(house.run().job_id, "web-1", None, 0)] == ["ok: [web-1]"]


# -- by whoever does not lead ----------------------------------------------------------------------------------------
def standby(house: House, executor: FakeExecutor) -> Settler:
    return Settler(house.store, executor, house.clock, LEASE)


@pytest.mark.parametrize("begun", [False, True], ids=["claimed", "started"])
def test_a_standby_settles_what_was_on_its_machine_and_nobody_else_can_ask(begun: bool) -> None:
    house = House()
    (house.started if begun else house.claimed)(ELSEWHERE)
    theirs = FakeExecutor(place=ELSEWHERE)
    theirs.start(house.slice_id, house.fence)
    other = standby(house, theirs)
    assert not other.settle_own()
    assert house.part().state is (SliceState.STARTED if begun else SliceState.CLAIMED)
    theirs.end(house.slice_id)
    assert other.settle_own()
    assert house.part().state is (SliceState.LOST if begun else SliceState.PLANNED)
    assert theirs.killed == [(house.slice_id, house.fence)]


def test_a_standby_leaves_alone_what_is_elsewhere_or_planned() -> None:
    house = House()
    house.executor.end(house.slice_id)
    other = standby(house, FakeExecutor(place=BESIDE))
    assert not other.settle_own(), "it is planned: whoever leads sees to it"
    house.pass_time(10)
    house.look()
    house.pass_time(10)
    house.look()
    (slice_id, fence) = house.the_process()
    assert house.store.claim(slice_id, fence, "worker-1", LEASE, HERE) is not None
    assert house.store.mark_started(slice_id, fence)
    for _ in range(100):
        house.pass_time(60)
        assert not other.settle_own()
    assert house.part().state is SliceState.STARTED


def test_a_standby_ends_what_hangs_on_its_machine() -> None:
    house = House()
    house.started(ELSEWHERE)
    theirs = FakeExecutor(place=ELSEWHERE)
    theirs.start(house.slice_id, house.fence)
    other = standby(house, theirs)
    assert not other.settle_own()
    house.pass_time(LEASE.total_seconds() * 2.5)
    assert other.settle_own()
    assert (theirs.alive, house.lost) == (frozenset(), True)


def test_a_standby_that_could_not_ask_the_store_gives_every_lease_its_terms() -> None:
    house = House()
    house.started(ELSEWHERE)
    theirs = FakeExecutor(place=ELSEWHERE)
    theirs.start(house.slice_id, house.fence)
    other = standby(house, theirs)
    other.settle_own()
    house.pass_time(LEASE.total_seconds() * 3)
    house.store.away = True
    with pytest.raises(Unavailable):
        other.settle_own()
    house.store.away = False
    assert not other.settle_own()
    house.pass_time(LEASE.total_seconds() * 2.5)
    assert other.settle_own()


# -- on old knowledge ------------------------------------------------------------------------------------------------
def test_a_daemon_that_was_stopped_for_a_while_does_not_kill_what_lived_on() -> None:
    """It looks at what it read before it was stopped, long ago by its clock; the lease was renewed all the time."""
    house = House()
    house.started(HERE)
    house.look()
    before = house.run()
    house.pass_time(LEASE.total_seconds() * 5)
    house.store.heartbeat(house.slice_id, house.fence, LEASE)
    assert not house.settler.settle(JOB, before)
    assert house.executor.killed == []
    house.beats(3)
    assert house.part().state is SliceState.STARTED


def test_nor_does_it_decide_over_one_elsewhere() -> None:
    house = House()
    house.started(ELSEWHERE)
    house.look()
    before = house.run()
    house.pass_time(WAVE.total_seconds() * 2)
    house.store.heartbeat(house.slice_id, house.fence, LEASE)
    assert not house.settler.settle(JOB, before)
    assert house.part().state is SliceState.STARTED


# -- what can't be ended, and what never begins ----------------------------------------------------------------------
def test_what_can_not_be_ended_keeps_its_hosts_until_it_is_gone() -> None:
    house = House()
    house.started(HERE)
    house.executor.unending.add(house.slice_id)
    house.executor.spools[house.slice_id] = Spool((), PlaybookResult((outcome("web-1"), outcome("web-2"))))
    house.executor.end(house.slice_id)
    house.silence(5)
    assert house.part().state is SliceState.STARTED
    house.executor.unending.clear()
    house.look()
    assert set(house.statuses().values()) == {ChildStatus.SUCCESS}


def test_what_can_not_be_ended_keeps_its_hosts_no_longer_than_it_may_run() -> None:
    house = House()
    house.started(HERE)
    house.executor.unending.add(house.slice_id)
    house.executor.spools[house.slice_id] = Spool((), PlaybookResult((outcome("web-1", ChildStatus.FAILED),)))
    house.executor.end(house.slice_id)
    house.silence((WAVE + ENDING) / LEASE + 3)
    assert house.lost
    assert house.statuses() == {"web-1": ChildStatus.FAILED, "web-2": UNKNOWN}
    assert house.child("web-2").message == OUT_OF_REACH


def test_what_can_not_be_ended_and_never_started_is_started_again() -> None:
    house = House()
    house.claimed(HERE)
    house.executor.unending.add(house.slice_id)
    house.executor.end(house.slice_id)
    house.silence(2.5)
    assert house.part().state is SliceState.PLANNED
    assert house.part().fence == house.fence + 1


def test_a_process_that_lives_and_never_claims_its_slice_is_ended_and_another_is_started() -> None:
    house = House()
    house.silence(1.9)
    assert house.the_process() == (house.slice_id, house.fence)
    house.silence(1)
    assert (house.slice_id, house.fence) in house.executor.killed
    assert house.the_process() == (house.slice_id, house.fence + 1)
    house.run_all()
    assert house.begun == ["web-1", "web-2"]


def test_a_slice_that_waits_for_its_next_try_does_not_age_by_waiting() -> None:
    """It may wait longer than two terms for its turn, and its process has only just begun then."""
    house = House()
    for _ in range(12):
        house.executor.end(house.slice_id)
        look = house.look()
        house.pass_time(look.again or 0)
        house.look()
    assert house.executor.killed == []
    slice_id, fence = house.the_process()
    house.silence(1)
    assert house.the_process() == (slice_id, fence)


# -- long logs -------------------------------------------------------------------------------------------------------
def test_a_long_log_of_a_lost_slice_comes_in_parts_and_whole() -> None:
    house = House()
    house.started(HERE)
    count = LINES_AT_ONCE * 2 + 7
    lines = tuple(SpooledLine(number, "web-1", f"line {number}") for number in range(1, count + 1))
    house.executor.spools[house.slice_id] = Spool(lines, None)
    house.executor.end(house.slice_id)
    house.look()
    log = house.store.log(house.run().job_id, "web-1", None, 0)
    assert [line.text for line in log] == [f"line {number}" for number in range(1, count + 1)]
    assert house.lost


def test_a_daemon_that_dies_while_it_brings_a_long_log_loses_none_of_it() -> None:
    house = House()
    house.started(HERE)
    lines = tuple(SpooledLine(number, "web-1", f"line {number}") for number in range(1, LINES_AT_ONCE + 2))
    house.executor.spools[house.slice_id] = Spool(lines, None)
    house.store.append_logs(house.slice_id, house.fence, lines[:LINES_AT_ONCE])
    house.executor.end(SliceId(house.slice_id))
    house.restart()
    house.look()
    assert len(house.store.log(house.run().job_id, "web-1", None, 0)) == len(lines)
