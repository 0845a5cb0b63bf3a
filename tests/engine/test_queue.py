"""The work queue, with a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from random import Random

import pytest

from reconciler.core.facts import JobKey
from reconciler.engine.queue import BACKOFF_FIRST, BACKOFF_MOST, WorkQueue
from tests.fakes.clock import FakeClock

WEB, DB, CACHE = (JobKey("default", name) for name in ("web", "db", "cache"))


class Work:
    """A queue, its clock, and what comes out of it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.queue = WorkQueue(self.clock, Random(7))

    def take(self) -> JobKey | None:
        return self.queue.take(wait=0)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    def drain(self) -> Iterator[JobKey]:
        while (key := self.take()) is not None:
            self.queue.done(key)
            yield key


@pytest.fixture
def work() -> Work:
    return Work()


def test_a_key_added_thrice_comes_once(work: Work) -> None:
    for _ in range(3):
        work.queue.add(WEB)
    assert list(work.drain()) == [WEB]


def test_keys_come_in_the_order_in_which_they_became_due(work: Work) -> None:
    for key in (DB, WEB, CACHE, DB):
        work.queue.add(key)
    assert list(work.drain()) == [DB, WEB, CACHE]


def test_a_key_is_never_worked_on_twice_at_once(work: Work) -> None:
    work.queue.add(WEB)
    assert work.take() == WEB
    work.queue.add(WEB)
    work.queue.add(WEB)
    assert work.take() is None
    work.queue.done(WEB)
    assert list(work.drain()) == [WEB], "what came meanwhile is looked at once, afterwards"


def test_an_alarm_for_a_key_that_is_worked_on_waits_for_its_end(work: Work) -> None:
    work.queue.add(WEB)
    assert work.take() == WEB
    work.queue.add_after(WEB, 5)
    work.pass_time(5)
    assert work.take() is None
    work.queue.done(WEB)
    assert work.take() == WEB


def test_a_busy_key_does_not_starve_the_others(work: Work) -> None:
    for key in (WEB, DB, CACHE):
        work.queue.add(key)
    seen = []
    for _ in range(9):
        taken = work.take()
        assert taken is not None
        seen.append(taken)
        work.queue.add(taken)
        work.queue.done(taken)
    assert seen == [WEB, DB, CACHE] * 3


def test_a_delayed_key_comes_when_its_time_has_come(work: Work) -> None:
    work.queue.add_after(WEB, 10)
    work.pass_time(9.9)
    assert work.take() is None
    work.pass_time(0.1)
    assert work.take() == WEB


@pytest.mark.parametrize("delays", [(10, 3), (3, 10)])
def test_the_earlier_of_two_times_wins_and_the_later_is_forgotten(work: Work, delays: tuple[float, float]) -> None:
    for delay in delays:
        work.queue.add_after(WEB, delay)
    work.pass_time(3)
    assert list(work.drain()) == [WEB]
    work.pass_time(60)
    assert list(work.drain()) == []


def test_adding_a_delayed_key_makes_it_due_now_and_only_now(work: Work) -> None:
    work.queue.add_after(WEB, 10)
    work.queue.add(WEB)
    assert list(work.drain()) == [WEB]
    work.pass_time(10)
    assert list(work.drain()) == []


def test_alarms_that_ring_together_come_in_the_order_of_their_times(work: Work) -> None:
    work.queue.add_after(DB, 2)
    work.queue.add_after(WEB, 1)
    work.queue.add_after(CACHE, 3)
    work.pass_time(60)
    assert list(work.drain()) == [WEB, DB, CACHE]


def test_a_failing_key_comes_back_later_each_time_up_to_a_limit(work: Work) -> None:
    for failures in range(14):
        expected = min(BACKOFF_MOST, BACKOFF_FIRST * 2**failures)
        pause = work.queue.retry(WEB)
        assert expected * 0.8 <= pause <= expected * 1.2
        work.pass_time(pause * 0.99)
        assert work.take() is None
        work.pass_time(pause * 0.02)
        assert work.take() == WEB
        work.queue.done(WEB)


def test_success_starts_the_pauses_from_the_shortest_again(work: Work) -> None:
    for _ in range(6):
        work.queue.retry(WEB)
    work.queue.forget(WEB)
    assert work.queue.retry(WEB) <= BACKOFF_FIRST * 1.2


def test_the_failures_of_one_key_do_not_slow_another(work: Work) -> None:
    for _ in range(6):
        work.queue.retry(WEB)
    assert work.queue.retry(DB) <= BACKOFF_FIRST * 1.2


def test_a_change_overtakes_a_long_pause(work: Work) -> None:
    for _ in range(9):
        work.queue.retry(WEB)
    work.queue.add(WEB)
    assert work.take() == WEB


def test_a_closed_queue_gives_nothing_even_if_something_is_due(work: Work) -> None:
    work.queue.add(WEB)
    work.queue.close()
    assert work.queue.take() is None


def test_what_is_due_next_is_known(work: Work) -> None:
    assert work.queue.next_due() is None
    work.queue.add_after(WEB, 10)
    work.pass_time(4)
    assert work.queue.next_due() == pytest.approx(6)
    work.queue.add(DB)
    assert work.queue.next_due() == 0
    assert not work.queue.wait_idle(0)
    assert list(work.drain()) == [DB]
    assert work.queue.wait_idle(0), "a key that is due later does not keep it busy"


def test_the_facts_count_what_waits_and_how_long_somebody_works(work: Work) -> None:
    work.queue.add(WEB)
    work.queue.add(DB)
    work.queue.add_after(CACHE, 30)
    assert work.take() == WEB
    work.pass_time(12)
    facts = work.queue.facts()
    assert (facts.depth, facts.adds, facts.retries) == (2, 2, 0)
    assert facts.longest_running == pytest.approx(12)
