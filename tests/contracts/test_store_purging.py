"""No purge makes a job run again: the whole engine on every store, with each kind of cause as the last that counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, cast

import pytest
import yaml

from reconciler.core.facts import CauseKind, ChildStatus
from reconciler.engine.sources import KnownSources
from reconciler.ports import Request, RequestKind
from tests.builders import JOB
from tests.contracts.stores import World as Kept
from tests.engine.worlds import World, fails
from tests.fakes.hosts import an_inventory
from tests.fakes.store import FakeStore

JOINING = {"onHostsJoined": "Run"}
Story = Callable[[World], None]


@pytest.fixture
def here(world: Kept) -> World:
    """The engine on this store, after a job's first run."""
    here = World(clock=world.clock)
    here.store = cast(FakeStore, world.store)
    here.known = KnownSources(here.store, here.sources, here.sink)
    here.restart()
    here.commit(**JOINING)
    here.run_all()
    return here


def later(here: World) -> None:
    here.pass_time(60)


def ask_in_manifest(here: World, value: str | None, **spec: Any) -> None:
    here.write(**JOINING, **spec)
    path = f"jobs/{JOB.name}.yaml"
    document = yaml.safe_load(here.source.files[path])
    if value is not None:
        document["metadata"]["annotations"] = {"reconciler/requestedAt": value}
    here.source.write(path, yaml.safe_dump(document))
    here.keeper.sync()
    here.run_all()


# -- what happened last ----------------------------------------------------------------------------------------------
def the_first_run(here: World) -> None:
    pass


def a_change_of_the_spec(here: World) -> None:
    here.commit(**JOINING, extraVars={"again": 1})
    here.run_all()


def a_change_of_the_playbook_that_mends_a_failure(here: World) -> None:
    here.commit(**JOINING, extraVars={"again": 1})
    here.run_all(fails("web-1"))
    here.change_playbook()
    here.run_all()


def a_failure(here: World) -> None:
    here.commit(**JOINING, extraVars={"again": 1})
    here.run_all(fails("web-1"))


def an_annotation(here: World) -> None:
    ask_in_manifest(here, "2026-11-23")


def an_annotation_that_was_taken_back(here: World) -> None:
    ask_in_manifest(here, "2026-11-23")
    ask_in_manifest(here, None)


def a_trigger(here: World) -> None:
    here.trigger()
    here.run_all()


def a_cancel(here: World) -> None:
    here.trigger()
    here.look()
    here.begin_all()
    here.cancel("request-2")
    here.run_all()


def hosts_that_joined(here: World) -> None:
    here.inventory.answer = an_inventory((*here.names, "web-9"))
    here.run_all()


def hosts_that_joined_and_left(here: World) -> None:
    hosts_that_joined(here)
    here.inventory.answer = an_inventory(here.names)
    here.run_all()


def a_removal_in_the_middle_of_a_run_and_a_return(here: World) -> None:
    here.commit(**JOINING, extraVars={"again": 1}, limit=1)
    here.look()
    here.work()
    here.remove()
    here.run_all()
    later(here)
    here.commit(**JOINING, extraVars={"again": 1}, limit=1)
    here.run_all()


def a_removal(here: World) -> None:
    here.remove()
    here.run_all()


def one_that_superseded_another(here: World) -> None:
    here.commit(**JOINING, extraVars={"again": 1}, limit=1)
    here.look()
    here.work()
    here.commit(**JOINING, extraVars={"again": 2}, limit=1)
    here.run_all()


def a_retry(here: World) -> None:
    here.commit(**JOINING, extraVars={"again": 1})
    here.run_all(fails("web-1"))
    arguments: dict[str, Any] = {"hosts": [], "which": "failed", "revision": None}
    run = here.run().job_id
    asked = Request("retry", RequestKind.RETRY, JOB, run, "kim", "", here.clock.now(), arguments=arguments)
    here.store.add_request(asked)
    here.run_all()


STORIES: Mapping[Story, CauseKind] = {
    the_first_run: CauseKind.SPEC_CHANGED,
    a_change_of_the_spec: CauseKind.SPEC_CHANGED,
    a_change_of_the_playbook_that_mends_a_failure: CauseKind.PLAYBOOK_CHANGED,
    a_failure: CauseKind.SPEC_CHANGED,
    an_annotation: CauseKind.REQUESTED,
    an_annotation_that_was_taken_back: CauseKind.REQUESTED,
    a_trigger: CauseKind.REQUESTED,
    a_cancel: CauseKind.REQUESTED,
    hosts_that_joined: CauseKind.HOSTS_JOINED,
    hosts_that_joined_and_left: CauseKind.HOSTS_JOINED,
    a_removal_in_the_middle_of_a_run_and_a_return: CauseKind.SPEC_CHANGED,
    a_removal: CauseKind.SPEC_CHANGED,
    one_that_superseded_another: CauseKind.SPEC_CHANGED,
    a_retry: CauseKind.RETRIED,
}
"""With the cause of the run that is the last then."""


def purge_everything(here: World) -> None:
    here.pass_time(timedelta(days=1000).total_seconds())
    while here.store.purge(here.clock.now()):
        pass


def look_at_all(here: World) -> None:
    """What a daemon does that has just been started."""
    here.restart()
    for key in sorted({*here.keeper.sync(), JOB}):
        here.run_all(key=key)


@pytest.mark.parametrize("happens", STORIES, ids=lambda story: story.__name__)
def test_what_ended_does_not_begin_again_when_all_of_it_is_forgotten(here: World, happens: Story) -> None:
    later(here)
    happens(here)
    later(here)
    touched, run = dict(here.touched), here.run().job_id
    assert here.run().cause is STORIES[happens]

    purge_everything(here)
    look_at_all(here)

    assert here.runs() <= 2, "the latest, and the last success or one that it tries again"
    assert (here.touched, here.run().job_id) == (touched, run)
    assert here.store.observe(JOB).causes == ()


def test_an_annotation_that_comes_back_after_years_asks_for_nothing(here: World) -> None:
    ask_in_manifest(here, "2026-11-23")
    ask_in_manifest(here, "2026-11-24")
    touched = dict(here.touched)

    purge_everything(here)
    ask_in_manifest(here, "2026-11-23")
    look_at_all(here)

    assert here.touched == touched


def test_a_manifest_that_comes_back_after_years_is_the_one_that_ran(here: World) -> None:
    a_removal(here)
    touched = dict(here.touched)

    purge_everything(here)
    here.commit(**JOINING)
    look_at_all(here)

    assert here.touched == touched


def test_what_is_new_runs_as_ever_after_a_purge(here: World) -> None:
    a_trigger(here)
    purge_everything(here)

    here.trigger("request-2")
    here.run_all()
    here.commit(**JOINING, extraVars={"again": 1})
    here.run_all()

    assert here.begun == [*here.names] * 4
    assert {child.status for child in here.run().children} == {ChildStatus.SUCCESS}
