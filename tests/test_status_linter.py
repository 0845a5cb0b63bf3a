"""The linter finds what can't be true, and has nothing to say of what can."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests import status_linter
from tests.builders import JOB
from tests.engine.worlds import World, fails

Document = dict[str, Any]


def documents() -> Iterator[tuple[str, Document]]:
    """What the engine says of a job in the middle of a run, after a failure, and after a success."""
    world = World(hosts=5)
    world.commit(limit=2)
    world.look()
    world.begin_all()
    world.look()
    yield "running", world.sink.statuses[JOB].model_dump(mode="json", by_alias=True)
    failed = World(hosts=5)
    failed.commit(limit=2)
    failed.run_all(fails("web-1", "web-2"))
    yield "failed", failed.sink.statuses[JOB].model_dump(mode="json", by_alias=True)
    done = World(hosts=5)
    done.commit()
    done.run_all()
    yield "done", done.sink.statuses[JOB].model_dump(mode="json", by_alias=True)
    done.source.write("jobs/broken.yaml", "kind: [BatchJob\n")
    done.keeper.sync()
    yield "source", done.sink.sources["default"].model_dump(mode="json", by_alias=True)


TRUE = dict(documents())
NOW = World().clock.now()


def of(status: Document, kind: str) -> Document:
    found: Document = next(condition for condition in status["conditions"] if condition["type"] == kind)
    return found


def put(*path: Any) -> Callable[[Document], None]:
    """`put("hosts", "failed", 3)`: set what is there."""

    def change(status: Document) -> None:
        *way, last, value = path
        for step in way:
            status = status[step]
        status[last] = value

    return change


def stalled(status: Document) -> None:
    status["conditions"].append({**of(status, "Ready"), "type": "Stalled", "status": "True"})


def ready_twice(status: Document) -> None:
    status["conditions"].append(of(status, "Ready"))


def not_even_ready(status: Document) -> None:
    status["conditions"].remove(of(status, "Ready"))


LIES: list[tuple[str, Callable[[Document], None], str]] = [
    ("running", stalled, "Reconciling and Stalled are there together"),
    ("done", stalled, "Ready and Stalled together"),
    ("done", ready_twice, "there twice"),
    ("done", not_even_ready, "Ready is not there"),
    ("running", lambda status: of(status, "Reconciling").update(status="False"), "Reconciling is there and False"),
    ("running", lambda status: of(status, "Ready").update(status="True"), "Ready in phase Running"),
    ("failed", lambda status: of(status, "Ready").update(reason="BadLuck"), "unknown reason BadLuck"),
    ("done", lambda status: of(status, "Ready").update(lastTransitionTime="2030-01-01T00:00:00Z"), "in the future"),
    ("done", lambda status: of(status, "Ready").update(message="\x1b[31mred"), "colours"),
    ("done", put("observedGeneration", 2), "observedGeneration is 2"),
    ("done", put("phase", "Running"), "the phase is Running and the run success"),
    ("running", put("phase", "Succeeded"), "the phase is Succeeded while a run is running"),
    ("done", put("suspended", True), "suspended is True"),
    ("failed", put("hosts", "failed", 1), "do not add up"),
    ("failed", put("progress", "5/5 completed, 1 failed"), "the counts say '5/5 completed, 2 failed'"),
    ("done", put("coverage", "never", 1), "coverage does not add up"),
    ("done", put("run", "finishedAt", None), "ended at None"),
    ("done", put("run", "reason", "Fine"), "unknown reason Fine"),
    ("running", put("run", "status", "success"), "have not"),
    ("failed", put("run", "status", "success"), "the run succeeded, and hosts did not"),
    ("failed", put("run", "waves", 1), "3 were started"),
    ("failed", put("waves", 0, "number", 2), "numbered"),
    ("failed", put("waves", 0, "hosts", 9), "more hosts than the run"),
    ("failed", put("children", 0, "status", "success"), "do not match the counts"),
    ("failed", lambda status: status["children"].reverse(), "unfinished and unsuccessful first"),
    ("failed", put("children", 0, "host", "web-2"), "listed twice"),
    ("failed", put("failures", 0, "hosts", 1), "the failures have 1 hosts"),
    ("failed", put("failures", 0, "examples", []), "0 examples"),
    ("done", put("lastSuccess", "generation", 7), "generation 7"),
    ("source", put("manifests", "rejected", 5), "5 counted"),
]


@pytest.mark.parametrize("name", TRUE)
def test_what_is_true_passes(name: str) -> None:
    status_linter.check(TRUE[name], NOW)


@pytest.mark.parametrize(("name", "lie", "told"), LIES)
def test_what_can_not_be_true_is_found(name: str, lie: Callable[[Document], None], told: str) -> None:
    document = copy.deepcopy(TRUE[name])
    lie(document["status"])
    assert any(told in rule for rule in status_linter.lint(document, NOW)), status_linter.lint(document, NOW)


def test_a_document_from_the_future_is_found() -> None:
    assert status_linter.lint(TRUE["done"], NOW - timedelta(hours=1))


def test_every_broken_rule_is_told_at_once() -> None:
    document = copy.deepcopy(TRUE["failed"])
    document["status"]["progress"] = "all is well"
    document["status"]["phase"] = "Succeeded"
    with pytest.raises(AssertionError, match=r"(?s)the phase is Succeeded.*progress is 'all is well'"):
        status_linter.check(document, NOW)
