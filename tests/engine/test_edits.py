"""An edit that arrives in the middle of a look: it is neither lost nor run twice, wherever it comes in between."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from reconciler.core.errors import Unavailable
from tests.builders import JOB
from tests.engine.worlds import World


class Interruption:
    """Commits another manifest just before or just after the n-th time that the store is asked for something."""

    def __init__(self, world: World, question: str, time: int, *, after: bool) -> None:
        self._world = world
        self._asked = getattr(world.store, question)
        self._left = time
        self._after = after
        setattr(world.store, question, self)

    @property
    def came(self) -> bool:
        return self._left <= 0

    def __call__(self, *arguments: Any) -> Any:
        self._left -= 1
        now = self._left == 0
        if now and not self._after:
            self._world.commit(extraVars={"version": 2})
        answer = self._asked(*arguments)
        if now and self._after:
            self._world.commit(extraVars={"version": 2})
        return answer


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("question", "time"),
    [
        *(("observe", time) for time in range(1, 5)),
        *(("manifest", time) for time in range(1, 5)),
        ("open_run", 1),
        ("admit", 1),
    ],
)
def test_an_edit_in_the_middle_of_a_look_runs_exactly_once(question: str, time: int, after: bool) -> None:
    world = World(hosts=2)
    world.commit(extraVars={"version": 1})
    edit = Interruption(world, question, time, after=after)
    for _ in range(3):  # the edit brings the job to the queue again, and so does a source that moved
        with suppress(Unavailable):
            world.run_all()

    assert edit.came
    runs = world.store.runs(JOB, 10)
    record = world.store.manifest(JOB)
    assert record is not None
    assert world.said().phase == "Succeeded"
    assert runs[0].generation == record.generation == 2
    assert [run.work_digest for run in runs].count(record.work_digest) == 1
    assert not world.store.observe(JOB).causes
