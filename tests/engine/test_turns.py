"""When a source is read. Time stands still."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import Random
from threading import Thread

import pytest

from reconciler.engine.turns import APART, Turns, pause_after
from tests.fakes.clock import FakeClock

MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def turns(clock: FakeClock) -> Turns:
    return Turns(clock)


def in_a_thread(take: Callable[[], bool], answers: list[bool]) -> Thread:
    thread = Thread(target=lambda: answers.append(take()), daemon=True)
    thread.start()
    return thread


# -- by itself -------------------------------------------------------------------------------------------------------
def test_the_first_is_due_at_once_and_the_next_after_the_pause(turns: Turns, clock: FakeClock) -> None:
    assert turns.take()
    assert not turns.first_over.is_set()
    clock.advance(timedelta(seconds=7))
    turns.over(60)
    assert turns.first_over.is_set()
    assert turns._due_in() == 60
    clock.advance(MINUTE)
    assert turns._due_in() == 0
    assert turns.take()


def test_pauses_grow_with_failures_up_to_five_minutes_and_a_success_ends_that() -> None:
    pauses = [pause_after(failures, MINUTE, Random(7)) for failures in (1, 2, 3, 4, 5, 6, 7, 8, 1000, 0)]
    for pause, about in zip(pauses, (5, 10, 20, 40, 80, 160, 300, 300, 300, 60), strict=True):
        assert 0.9 * about <= pause <= min(1.1 * about, 300)


def test_an_interval_is_kept_by_and_large_and_never_to_the_second() -> None:
    random = Random(7)
    pauses = {pause_after(0, MINUTE, random) for _ in range(100)}
    assert len(pauses) == 100
    assert 54 <= min(pauses) < max(pauses) <= 66


@pytest.mark.parametrize(
    ("interval", "first", "most"),
    [(timedelta(seconds=2), 2, 300), (timedelta(hours=1), 5, 3600)],
    ids=["shorter than the first pause", "longer than the longest"],
)
def test_the_backoff_of_an_unusual_interval(interval: timedelta, first: float, most: float) -> None:
    assert 0.9 * first <= pause_after(1, interval, Random(7)) <= 1.1 * first
    assert 0.9 * most <= pause_after(50, interval, Random(7)) <= most


# -- poked -----------------------------------------------------------------------------------------------------------
def test_a_poke_makes_the_next_due_and_any_number_are_one(turns: Turns, clock: FakeClock) -> None:
    turns.take()
    turns.over(60)
    clock.advance(timedelta(seconds=5))
    for _ in range(100):
        turns.poke()
    assert turns._due_in() == 0
    assert turns.take()
    turns.over(60)
    assert turns._due_in() == 60


def test_a_poke_during_a_turn_is_one_more_after_it(turns: Turns, clock: FakeClock) -> None:
    turns.take()
    turns.poke()
    clock.advance(timedelta(seconds=30))
    turns.over(60)
    assert turns._due_in() == 0


def test_pokes_come_to_no_more_than_a_turn_a_second(turns: Turns, clock: FakeClock) -> None:
    turns.take()
    clock.advance(timedelta(seconds=0.25))
    turns.over(60)
    turns.poke()
    assert turns._due_in() == APART - 0.25
    clock.advance(timedelta(seconds=0.5))
    turns.poke()
    assert turns._due_in() == APART - 0.75


def test_a_poke_delays_nothing(turns: Turns) -> None:
    turns.take()
    turns.over(0.25)
    turns.poke()
    assert turns._due_in() == 0.25


def test_a_poke_wakes_who_waits(turns: Turns, clock: FakeClock) -> None:
    turns.take()
    turns.over(float("inf"))
    clock.advance(MINUTE)
    answers: list[bool] = []
    thread = in_a_thread(turns.take, answers)
    turns.poke()
    thread.join(30)
    assert answers == [True]


def test_busy_from_the_poke_to_the_end_of_its_turn(turns: Turns, clock: FakeClock) -> None:
    turns.take()
    turns.over(float("inf"))
    assert not turns.busy()
    clock.advance(MINUTE)
    turns.poke()
    assert turns.busy()
    turns.take()
    assert turns.busy()
    turns.over(float("inf"))
    assert not turns.busy()


# -- the end ---------------------------------------------------------------------------------------------------------
def test_closed_who_waits_and_who_comes_later_gets_none(turns: Turns) -> None:
    turns.take()
    turns.over(float("inf"))
    answers: list[bool] = []
    thread = in_a_thread(turns.take, answers)
    turns.close()
    thread.join(30)
    assert answers == [False]
    turns.poke()
    assert not turns.take()
