"""Who leads: never two, and soon again one, whatever the clocks, the database and the scheduler do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import Unavailable
from reconciler.core.facts import SliceId
from reconciler.core.reasons import Reason
from reconciler.engine import leading
from reconciler.engine.leading import LATE, TERM, WATCHES, Former, Lead, LeadersExecutor, Leadership, Standby
from reconciler.ports import LEADER, Lease, Leases, Liveness
from tests.acceptance.workspace import wait_for
from tests.builders import new_cause
from tests.fakes.clock import FakeClock, RunningClock
from tests.fakes.executor import FakeExecutor
from tests.fakes.store import FakeStore

A_TERM = TERM.total_seconds()
SLICE = SliceId("batch-1.w1.a1.cafe")


class Slow:
    """A database that takes its time: so many seconds until it does what it was asked, and so many until its answer
    arrives. `meanwhile` happens in between, once."""

    def __init__(self, leases: Leases, clock: FakeClock) -> None:
        self.before = self.after = 0.0
        self.meanwhile: Callable[[], None] | None = None
        self._leases = leases
        self._clock = clock

    def lease(self, name: str) -> Lease | None:
        with self._slowly():
            return self._leases.lease(name)

    def take_lease(self, name: str, holder: str, seen: Lease | None, term: timedelta) -> int | None:
        with self._slowly():
            return self._leases.take_lease(name, holder, seen, term)

    def renew_lease(self, name: str, fence: int, term: timedelta) -> bool:
        with self._slowly():
            return self._leases.renew_lease(name, fence, term)

    def release_lease(self, name: str, fence: int) -> None:
        with self._slowly():
            self._leases.release_lease(name, fence)

    @contextmanager
    def _slowly(self) -> Iterator[None]:
        self._clock.advance(timedelta(seconds=self.before))
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        yield
        self._clock.advance(timedelta(seconds=self.after))


class Pair:
    """Two daemons on one database."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeStore(self.clock)
        self.one = Leadership(self.store, "one:1", self.clock)
        self.two = Leadership(self.store, "two:2", self.clock)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    def turns(self, seconds: float, *who: Leadership) -> None:
        """These take their turns for so long; the other does not."""
        for _ in range(round(seconds / WATCHES)):
            self.pass_time(WATCHES)
            for each in who:
                each.turn()


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.one.turn()
    pair.two.turn()
    return pair


def lead_of(leadership: Leadership) -> Lead:
    lead = leadership.lead
    assert lead is not None
    return lead


def leads(leadership: Leadership) -> bool:
    return leadership.lead is not None and leadership.lead.holds()


# -- one and the other -----------------------------------------------------------------------------------------------
def test_the_first_leads_at_once_and_the_second_knows_who_does(pair: Pair) -> None:
    assert leads(pair.one)
    assert not leads(pair.two)
    assert pair.one.leader == pair.two.leader == "one:1"


def test_as_long_as_it_renews_nobody_else_leads(pair: Pair) -> None:
    pair.turns(10 * A_TERM, pair.one, pair.two)
    assert leads(pair.one)
    assert pair.two.lead is None
    assert pair.two.rival == "one:1"


def test_one_that_was_killed_is_followed_after_a_whole_term_and_no_sooner(pair: Pair) -> None:
    pair.turns(A_TERM - WATCHES, pair.two)
    assert pair.two.lead is None
    pair.turns(2 * WATCHES, pair.two)
    assert leads(pair.two)
    assert lead_of(pair.two).fence == 2


def test_one_that_stops_gives_it_back_and_the_next_look_takes_it(pair: Pair) -> None:
    pair.one.stop()
    assert not leads(pair.one)
    pair.two.turn()
    assert leads(pair.two)


def test_one_that_steps_back_lets_others_lead_and_leads_again_if_there_are_none(pair: Pair) -> None:
    pair.one.step_back(3)
    assert not leads(pair.one)
    pair.turns(2, pair.one)
    assert pair.one.lead is None
    pair.turns(2, pair.one)
    assert leads(pair.one)

    pair.one.step_back(3)
    pair.turns(WATCHES, pair.one, pair.two)
    assert leads(pair.two)
    pair.turns(A_TERM, pair.one, pair.two)
    assert leads(pair.two)
    pair.one.step_back(3)
    assert leads(pair.two), "it has nothing to give"


def test_one_that_stops_as_a_standby_takes_nothing_from_who_leads(pair: Pair) -> None:
    pair.two.stop()
    pair.one.turn()
    assert leads(pair.one)


def test_who_holds_what_a_dead_one_held_takes_it_at_once(pair: Pair) -> None:
    again = Leadership(pair.store, "one:3", pair.clock, Former(1, "one:1"))
    again.turn()
    assert leads(again)


@pytest.mark.parametrize("former", [Former(1, "other:1"), Former(2, "one:1")])
def test_what_a_dead_one_held_is_not_what_somebody_else_has(pair: Pair, former: Former) -> None:
    again = Leadership(pair.store, "one:3", pair.clock, former)
    again.turn()
    assert again.lead is None


def test_a_row_that_is_gone_is_taken_like_one_that_never_was(pair: Pair) -> None:
    """As after a backup was restored under it."""
    pair.store._leases.clear()
    pair.one.turn()
    assert leads(pair.one)
    assert pair.store.lease(LEADER) == Lease("one:1", 1, 0)


# -- stopped, and gone on --------------------------------------------------------------------------------------------
def test_a_leader_that_was_stopped_does_nothing_any_more_when_it_goes_on(pair: Pair) -> None:
    lead = lead_of(pair.one)
    pair.turns(A_TERM + WATCHES, pair.two)
    assert leads(pair.two)
    assert not lead.holds(), "before it has asked anybody"
    with pytest.raises(Unavailable) as refused:
        pair.store.fenced(lead.fence).add_causes((new_cause(),))
    assert refused.value.reason is Reason.NOT_LEADING

    pair.one.turn()
    assert pair.one.lead is None
    assert pair.one.leader == "two:2"
    pair.turns(2 * A_TERM, pair.one, pair.two)
    assert leads(pair.two)


def test_what_one_was_once_it_is_not_again_when_it_leads_again(pair: Pair) -> None:
    first = lead_of(pair.one)
    pair.turns(A_TERM + WATCHES, pair.two)
    pair.one.turn()
    pair.two.stop()
    pair.one.turn()
    assert leads(pair.one)
    assert lead_of(pair.one).fence == 3
    assert not first.holds()


def test_a_watcher_that_was_stopped_has_not_watched(pair: Pair) -> None:
    """Both were: a machine that slept. The one that wakes first must not take it from the other."""
    pair.pass_time(10 * A_TERM)
    pair.two.turn()
    assert pair.two.lead is None
    pair.one.turn()
    assert leads(pair.one)


def test_the_wall_clock_decides_nothing(pair: Pair) -> None:
    for jump in (timedelta(days=300), timedelta(days=-700)):
        pair.clock.jump(jump)
        assert leads(pair.one)
        pair.two.turn()
        pair.one.turn()
        assert leads(pair.one)
        assert pair.two.lead is None


# -- the database is away --------------------------------------------------------------------------------------------
def test_who_can_not_renew_does_nothing_past_its_term_and_goes_on_when_it_can(pair: Pair) -> None:
    lead = lead_of(pair.one)
    pair.store.away = True
    pair.turns(A_TERM - WATCHES, pair.one)
    assert lead.holds()
    pair.turns(WATCHES, pair.one)
    assert not lead.holds()
    pair.turns(5 * A_TERM, pair.one)
    pair.store.away = False
    pair.turns(WATCHES, pair.one)
    assert lead.holds(), "the same lead as before: nothing has to be built anew"


@pytest.mark.parametrize("first", ["one", "two"])
def test_after_an_outage_the_leader_goes_on_whoever_comes_first(pair: Pair, first: str) -> None:
    pair.store.away = True
    pair.turns(6 * A_TERM, pair.one, pair.two)
    pair.store.away = False
    order = (pair.one, pair.two) if first == "one" else (pair.two, pair.one)
    pair.turns(3 * A_TERM, *order)
    assert leads(pair.one)
    assert lead_of(pair.one).fence == 1


def test_a_leader_that_did_not_outlive_the_outage_is_followed_a_term_after_it(pair: Pair) -> None:
    pair.store.away = True
    pair.turns(A_TERM, pair.two)
    pair.store.away = False
    pair.turns(A_TERM, pair.two)
    assert pair.two.lead is None
    pair.turns(WATCHES, pair.two)
    assert leads(pair.two)


def test_a_renewal_counts_from_its_start_however_late_the_answer_comes() -> None:
    pair = Pair()
    slow = Slow(pair.store, pair.clock)
    one = Leadership(slow, "one:1", pair.clock)
    one.turn()
    slow.after = A_TERM - 1
    one.turn()
    assert leads(one)
    pair.pass_time(1)
    assert not leads(one)


def test_a_slow_answer_to_who_watches_is_no_time_of_the_holder() -> None:
    """It was asked long before it was seen, and the holder had renewed just then."""
    pair = Pair()
    pair.one.turn()
    slow = Slow(pair.store, pair.clock)
    two = Leadership(slow, "two:2", pair.clock)
    slow.before, slow.meanwhile = LATE - 1, pair.one.turn
    two.turn()
    slow.before = 0
    while leads(pair.one):
        assert two.lead is None
        pair.pass_time(WATCHES)
        two.turn()


def test_however_short_an_outage_is_a_whole_term_follows_it(pair: Pair) -> None:
    pair.turns(A_TERM - 2 * WATCHES, pair.two)
    pair.store.away = True
    pair.turns(WATCHES, pair.two)
    pair.store.away = False
    pair.turns(A_TERM, pair.two)
    assert pair.two.lead is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["one", "two", "outage", "jump"]),
            st.floats(0, 6),  # seconds that pass first; more than LATE among them
            st.floats(0, 4),  # until the database does it
            st.floats(0, 4),  # until the answer is there
            st.booleans(),  # whether the other one has a turn meanwhile
        ),
        max_size=60,
    )
)
def test_never_do_two_lead_at_once(history: Sequence[tuple[str, float, float, float, bool]]) -> None:
    clock = FakeClock()
    store = FakeStore(clock)
    slow = Slow(store, clock)
    both = {"one": Leadership(slow, "one:1", clock), "two": Leadership(slow, "two:2", clock)}
    other = {"one": both["two"], "two": both["one"]}
    fences: list[int] = []
    for what, seconds, slow.before, slow.after, meanwhile in history:
        clock.advance(timedelta(seconds=seconds))
        if what == "outage":
            store.away = not store.away
        elif what == "jump":
            clock.jump(timedelta(seconds=1000 * (seconds - 3)))
        else:
            slow.meanwhile = other[what].turn if meanwhile else None
            both[what].turn()
        holders = [each for each in both.values() if leads(each)]
        assert len(holders) <= 1
        fences += [lead_of(each).fence for each in holders]
    assert fences == sorted(fences), "a later leader has the higher fence"


@given(st.lists(st.tuples(st.floats(0.1, LATE - 0.1), st.booleans()), max_size=40))
def test_soon_there_is_always_one_again(gaps: Sequence[tuple[float, bool]]) -> None:
    """Whoever has died, and however long the database was away before: the one that is left leads within 15 seconds."""
    pair = Pair()
    for gap, away in gaps:
        pair.store.away = away
        pair.pass_time(gap)
        pair.one.turn()
        pair.two.turn()
    pair.store.away = False
    pair.turns(15, pair.two)
    assert leads(pair.two)


# -- by itself -------------------------------------------------------------------------------------------------------
@pytest.fixture
def running() -> Iterator[list[Leadership]]:
    started: list[Leadership] = []
    yield started
    for each in started:
        each.stop()


def test_by_itself_it_leads_when_it_has_started_and_another_follows_when_it_stops(running: list[Leadership]) -> None:
    clock = RunningClock()
    store = FakeStore(clock)
    one, two = Leadership(store, "one:1", clock), Leadership(store, "two:2", clock)
    running += [one, two]
    one.start()
    assert leads(one)
    two.start()
    assert two.leader == "one:1"
    wait_for(lambda: two.rival == "one:1", "it to be seen to renew")
    one.stop()
    assert one.lead is None
    wait_for(lambda: leads(two), "the other to lead")
    assert not two.rival


def test_no_error_ends_its_thread(running: list[Leadership], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = RunningClock()
    store = FakeStore(clock)
    one = Leadership(store, "one:1", clock)
    running.append(one)
    failed: list[float] = []

    def buggy(*_: object) -> bool:
        failed.append(clock.monotonic())
        raise ZeroDivisionError

    monkeypatch.setattr(leading, "RENEWS", 0.01)
    one.start()
    renew = store.renew_lease
    monkeypatch.setattr(store, "renew_lease", buggy)
    wait_for(lambda: len(failed) > 1, "turns that fail")
    before = store.lease(LEADER)
    monkeypatch.setattr(store, "renew_lease", renew)
    wait_for(lambda: store.lease(LEADER) != before, "one that does not")
    assert leads(one)


def test_a_standby_settles_its_own_again_and_again_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def settle() -> None:
        asked.append(1)
        if len(asked) == 1:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the database does not answer")
        if len(asked) == 2:
            raise ZeroDivisionError

    monkeypatch.setattr(leading, "SETTLES", 0.01)
    standby = Standby(settle)
    standby.start()
    wait_for(lambda: len(asked) > 3, "some turns")
    standby.stop()


# -- what it may do to processes -------------------------------------------------------------------------------------
def test_processes_are_started_and_killed_by_who_leads_and_by_nobody_else(pair: Pair) -> None:
    executor = FakeExecutor()
    led = LeadersExecutor(executor, lead_of(pair.one))
    led.start(SLICE, 1)
    assert led.liveness(SLICE, 1) is Liveness.ALIVE

    pair.pass_time(A_TERM)
    for effect in (lambda: led.start(SLICE, 2), lambda: led.kill(SLICE, 1)):
        with pytest.raises(Unavailable) as refused:
            effect()
        assert refused.value.reason is Reason.NOT_LEADING
    assert led.liveness(SLICE, 1) is Liveness.ALIVE
    assert (executor.started, executor.killed) == ([(SLICE, 1)], [])

    pair.one.turn()
    led.kill(SLICE, 1)
    assert executor.killed == [(SLICE, 1)]
