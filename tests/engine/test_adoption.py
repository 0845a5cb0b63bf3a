"""Sources of which nobody knows whether they have run: they are held until somebody says so."""

from __future__ import annotations

import pytest

from reconciler.core.facts import JobKey
from reconciler.core.reasons import Reason
from reconciler.core.status import Condition, ConditionType, Phase
from reconciler.engine.sources import KnownSources
from reconciler.ports import RequestKind
from tests.acceptance.workspace import wait_for
from tests.builders import JOB, OTHER_JOB, make_request, manifest_record
from tests.engine.houses import House
from tests.engine.worlds import World
from tests.fakes.clock import FakeClock
from tests.fakes.shown import FakeShown
from tests.fakes.source import FakeSource
from tests.fakes.store import FakeStore

OTHERS = JobKey("other", "patch-db")


def lose_the_database(world: World) -> None:
    """The files are still there; nothing else is."""
    world.store = FakeStore(world.clock)
    world.known = KnownSources(world.store, world.sources, world.sink)
    world.restart()


@pytest.fixture
def lost() -> World:
    """Two jobs that had run when the database was lost."""
    world = World()
    world.commit()
    world.commit(OTHER_JOB.name)
    for key in (JOB, OTHER_JOB):
        world.run_all(key=key)
    lose_the_database(world)
    world.begun.clear()
    return world


def adopt(world: World, *names: str, as_done: bool, request_id: str = "adoption") -> None:
    request = make_request(request_id, RequestKind.ADOPT, key=JobKey("default", ""))
    world.store.adopt(request, names, as_done=as_done)
    world.keeper.sync()
    for key in (JOB, OTHER_JOB):
        world.run_all(key=key)


def said_of_source(world: World, kind: ConditionType, source: str = "default") -> Condition | None:
    conditions = world.sink.sources[source].status.conditions
    return next((each for each in conditions if each.type is kind), None)


# -- which are held --------------------------------------------------------------------------------------------------
def known_sources(store: FakeStore, *names: str, shown: tuple[str, ...] = ()) -> KnownSources:
    return KnownSources(store, names, FakeShown(*(JobKey(source, "patch") for source in shown)))


def test_all_sources_of_a_new_database_are_known() -> None:
    store = FakeStore(FakeClock())
    known = known_sources(store, "one", "two")

    assert (known.held("one"), known.held("two")) == (None, None)
    assert store.sources() == {"one": None, "two": None}


def test_whichever_of_them_is_read_first_none_of_the_others_looks_added_later() -> None:
    store = FakeStore(FakeClock())

    known_sources(store, "one", "two").held("two")

    assert store.sources() == {"one": None, "two": None}


def test_a_source_that_is_added_later_waits_to_be_adopted() -> None:
    store = FakeStore(FakeClock())
    known_sources(store, "one").held("one")

    known = known_sources(store, "one", "two")

    assert (known.held("one"), known.held("two")) == (None, Reason.AWAITING_ADOPTION)


def test_a_source_that_was_left_out_for_a_while_is_still_known() -> None:
    store = FakeStore(FakeClock())
    known_sources(store, "one", "two").held("one")
    known_sources(store, "one").held("one")

    assert known_sources(store, "one", "two").held("two") is None


def test_status_files_that_the_database_knows_nothing_of_are_state_that_was_lost() -> None:
    store = FakeStore(FakeClock())
    known = known_sources(store, "one", "two", shown=("one",))

    assert (known.held("one"), known.held("two")) == (Reason.STATE_LOST, None)
    later = known_sources(store, "one", "two", "three", shown=("one", "three"))
    assert later.held("three") is Reason.STATE_LOST


def test_it_stays_held_whatever_becomes_of_the_files() -> None:
    store = FakeStore(FakeClock())
    known_sources(store, "one", shown=("one",)).held("one")

    assert known_sources(store, "one").held("one") is Reason.STATE_LOST


# -- what that means -------------------------------------------------------------------------------------------------
def test_after_the_database_was_lost_nothing_runs_and_everything_says_so(lost: World) -> None:
    lost.keeper.sync()
    for key in (JOB, OTHER_JOB):
        lost.run_all(key=key)
        assert lost.said(key).phase is Phase.STALLED
        assert "reconciler adopt default" in lost.said(key).message
        stalled = lost.condition(ConditionType.STALLED, key)
        assert stalled is not None
        assert stalled.reason == "StateLost"
    assert lost.begun == []
    stalled, ready = (said_of_source(lost, kind) for kind in (ConditionType.STALLED, ConditionType.READY))
    assert stalled is not None
    assert stalled.reason == "StateLost"
    assert "2 jobs wait" in stalled.message
    assert ready is not None
    assert ready.status == "False"


def test_neither_a_change_nor_a_request_nor_a_restart_makes_it_run(lost: World) -> None:
    lost.commit(extraVars={"again": 1})
    lost.trigger()
    lost.run_all()
    lost.restart()
    lost.commit(extraVars={"again": 2})
    lost.run_all()

    assert lost.begun == []
    record = lost.store.manifest(JOB)
    assert record is not None
    assert record.generation == 2, "what changed is on record all the same"


def test_adopted_as_done_it_rests_until_something_changes(lost: World) -> None:
    lost.keeper.sync()

    adopt(lost, as_done=True)

    assert lost.begun == []
    assert lost.said().phase is Phase.PENDING
    assert lost.condition(ConditionType.STALLED) is None
    assert said_of_source(lost, ConditionType.STALLED) is None
    lost.change_playbook()
    lost.run_all()
    assert lost.begun == []
    lost.commit(extraVars={"again": 1})
    lost.run_all()
    assert lost.begun == list(lost.names)


def test_adopted_to_run_it_runs_once(lost: World) -> None:
    lost.keeper.sync()

    adopt(lost, as_done=False)

    assert lost.begun == [*lost.names, *lost.names]
    assert lost.said().phase is Phase.SUCCEEDED
    lost.restart()
    lost.keeper.sync()
    lost.run_all()
    assert len(lost.begun) == 2 * len(lost.names)


def test_one_that_is_adopted_leaves_the_others_and_what_is_new_waiting(lost: World) -> None:
    lost.keeper.sync()

    adopt(lost, JOB.name, as_done=False)
    lost.commit("brand-new")
    lost.run_all(key=JobKey("default", "brand-new"))

    assert lost.begun == list(lost.names)
    assert lost.said(OTHER_JOB).phase is Phase.STALLED
    assert lost.said(JobKey("default", "brand-new")).phase is Phase.STALLED
    assert lost.store.sources() == {"default": Reason.STATE_LOST}


def test_a_held_job_that_is_removed_is_removed(lost: World) -> None:
    lost.keeper.sync()

    lost.remove(OTHER_JOB.name)
    lost.run_all(key=OTHER_JOB)

    assert lost.said(OTHER_JOB).phase is Phase.REMOVED
    lost.commit(OTHER_JOB.name)
    lost.run_all(key=OTHER_JOB)
    assert lost.said(OTHER_JOB).phase is Phase.STALLED


def test_in_an_older_database_what_it_has_no_record_of_is_held_and_nothing_else(lost: World) -> None:
    """One of the two was written after the backup was made."""
    lost.store.add_sources({"default": None})
    lost.store.save_manifests([manifest_record(JOB, generation=7)], ())

    lost.commit("brand-new")
    for name in (JOB.name, OTHER_JOB.name, "brand-new"):
        lost.run_all(key=JobKey("default", name))

    assert lost.said(OTHER_JOB).phase is Phase.STALLED
    assert lost.said(JobKey("default", "brand-new")).phase is Phase.SUCCEEDED
    record = lost.store.manifest(JOB)
    assert record is not None
    assert record.held is None
    assert said_of_source(lost, ConditionType.STALLED) is None, "it is known; one of its jobs is not"
    adopt(lost, OTHER_JOB.name, as_done=True)
    assert lost.said(OTHER_JOB).phase is Phase.PENDING


def test_a_name_that_was_only_ever_invalid_has_not_run_and_is_new_once_it_is_mended() -> None:
    world = World()
    world.commit()
    world.write(OTHER_JOB.name, limit=0)
    world.keeper.sync()
    assert world.said(OTHER_JOB).phase is Phase.INVALID

    world.commit(OTHER_JOB.name)
    world.run_all(key=OTHER_JOB)

    assert world.said(OTHER_JOB).phase is Phase.SUCCEEDED


def test_the_store_being_away_holds_the_reading_and_forgets_nothing(lost: World) -> None:
    lost.store.away = True
    with pytest.raises(Exception, match="does not answer"):
        lost.keeper.sync()
    lost.store.away = False

    lost.keeper.sync()

    assert lost.store.sources() == {"default": Reason.STATE_LOST}


# -- with a daemon ---------------------------------------------------------------------------------------------------
def test_a_source_that_is_added_is_held_and_goes_on_within_a_moment_of_its_adoption(house: House) -> None:
    house.world.store.add_sources({"default": None})
    house.world.write()
    added = FakeSource(name="other")
    for path, content in house.world.source.files.items():
        renamed = (path, content.decode()) if path.startswith("playbooks") else ("jobs/db.yaml", content.decode())
        added.write(renamed[0], renamed[1].replace(JOB.name, OTHER_JOB.name))
    keeper = house.keeper_of(added)
    house.build(keeper).start()
    wait_for(lambda: house.phase(OTHERS) is Phase.STALLED, "the job to be held")
    wait_for(house.ended(), "the run of the other source")
    assert any(line.startswith("source other: held") for line in house.daemon.problems())

    request = make_request("adoption", RequestKind.ADOPT, key=JobKey("other", ""))
    assert house.world.store.adopt(request, (), as_done=False) == (OTHER_JOB.name,)

    wait_for(house.ended(OTHERS), "the run of the adopted one")
    wait_for(lambda: not house.daemon.problems(), "the source to be in order")


def test_a_pause_and_its_end_are_heeded_within_a_moment(house: House) -> None:
    world, everything = house.world, JobKey("", "")
    world.write()
    house.build().start()
    wait_for(house.ended(), "the first run")

    world.store.pause(make_request("pause", RequestKind.PAUSE, key=everything, reason="moving the storage"))
    wait_for(lambda: world.condition(ConditionType.SUSPENDED), "a job at rest to say so")
    world.trigger()
    wait_for(lambda: world.store.observe(JOB).causes, "the request to be answered")
    wait_for(lambda: house.daemon.queue.wait_idle(0.01), "every look to end")
    assert world.runs() == 1

    world.store.resume(make_request("resume", RequestKind.RESUME, key=everything))
    wait_for(house.ended(runs=2), "the run that was asked for")
    wait_for(lambda: world.condition(ConditionType.SUSPENDED) is None, "the status to say so")
