"""Random histories: commits, crashes, slow and vanished processes, lost leases, clock jumps, a store that is away, two daemons
that both believe that they lead. Whatever happens: no host is done twice at once or twice by one attempt, limits hold,
nothing runs without a row or a cause, every outcome that is told is true, and in the end everything rests.

SIMULATIONS says how many, SIMULATION_SEED where to begin; `make soak` lives through thousands. A history that breaks names
its seed: `SIMULATION_SEED=71 SIMULATIONS=1` is that one again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog

from tests.simulation.history import live_through

HISTORIES = int(os.environ.get("SIMULATIONS", "240"))
FIRST = int(os.environ.get("SIMULATION_SEED", "1"))
PARTS = min(12, HISTORIES)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(processors=[_nothing])
    yield
    structlog.configure(**before)


def _nothing(*_: object) -> str:
    raise structlog.DropEvent


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_done_twice_nothing_is_lost_and_all_comes_to_rest(part: int) -> None:
    seeds = range(FIRST + part, FIRST + HISTORIES, PARTS)
    for seed in seeds:
        live_through(seed)
    print(f"seeds {seeds}")


def test_a_seed_gives_the_same_history_again() -> None:
    first, second = live_through(7), live_through(7)

    assert first.told == second.told
    assert first.store.events_after(0, 10**6) == second.store.events_after(0, 10**6)
