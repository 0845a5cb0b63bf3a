"""What every store does with sources: those it knows, and those that are held until somebody adopts them."""

from __future__ import annotations

from dataclasses import replace

from reconciler.core.facts import BY_HAND, CauseKind, JobKey
from reconciler.core.reasons import Reason
from reconciler.ports import RequestKind
from tests.builders import JOB, OTHER_JOB, hosts, make_new_run, make_request, manifest_record, new_cause
from tests.contracts.stores import World

SOURCE = JobKey("default", "")


def accept(world: World, *keys: JobKey) -> None:
    """Manifests that were never seen before, each with a cause."""
    world.store.save_manifests([manifest_record(key) for key in keys], [new_cause(key=key) for key in keys])


def hold(world: World, reason: Reason = Reason.STATE_LOST) -> None:
    """A source that is held, with two jobs."""
    world.store.add_sources({"default": reason})
    accept(world, JOB, OTHER_JOB)


def adopt(world: World, *names: str, as_done: bool, request_id: str = "request-1") -> list[str]:
    request = make_request(request_id, RequestKind.ADOPT, key=SOURCE, reason="seen in the logs")
    return list(world.store.adopt(request, names, as_done=as_done))


def held(world: World, *keys: JobKey) -> list[Reason | None]:
    records = [world.store.manifest(key) for key in keys]
    return [record.held for record in records if record is not None]


def pending(world: World, key: JobKey) -> int:
    return len(world.store.observe(key).causes)


def test_a_new_database_knows_no_source(world: World) -> None:
    assert world.store.sources() == {}


def test_sources_are_remembered_with_why_they_are_held(world: World) -> None:
    world.store.add_sources({"default": None, "lab": Reason.AWAITING_ADOPTION})

    assert world.store.sources() == {"default": None, "lab": Reason.AWAITING_ADOPTION}


def test_what_is_known_of_a_source_is_not_written_over(world: World) -> None:
    world.store.add_sources({"default": None, "lab": Reason.STATE_LOST})

    world.store.add_sources({"default": Reason.STATE_LOST, "lab": None, "new": Reason.AWAITING_ADOPTION})

    known = {"default": None, "lab": Reason.STATE_LOST, "new": Reason.AWAITING_ADOPTION}
    assert world.store.sources() == known


def test_what_is_new_in_a_held_source_is_held_and_in_others_not(world: World) -> None:
    world.store.add_sources({"default": Reason.STATE_LOST, "lab": None})
    elsewhere = JobKey("lab", "patch-web")

    accept(world, JOB, elsewhere)

    assert held(world, JOB, elsewhere) == [Reason.STATE_LOST, None]
    assert pending(world, JOB) == 1, "it has its causes as ever"


def test_a_held_job_stays_so_whatever_its_manifest_becomes(world: World) -> None:
    hold(world)

    world.store.save_manifests([manifest_record(JOB, generation=2)], ())

    assert held(world, JOB) == [Reason.STATE_LOST]


def test_to_adopt_a_source_is_to_adopt_all_of_it_and_what_comes_later(world: World) -> None:
    hold(world)

    assert adopt(world, as_done=False) == ["patch-db", "patch-web"]

    assert world.store.sources() == {"default": None}
    assert held(world, JOB, OTHER_JOB) == [None, None]
    later = JobKey("default", "later")
    accept(world, later)
    assert held(world, later) == [None]


def test_what_was_adopted_to_run_has_its_causes_still(world: World) -> None:
    hold(world)

    adopt(world, as_done=False)

    assert (pending(world, JOB), pending(world, OTHER_JOB)) == (1, 1)
    assert world.store.at_rest("default") == set()


def test_what_was_adopted_as_done_rests_and_never_runs_for_that_again(world: World) -> None:
    hold(world)
    cause = world.store.observe(JOB).causes[0]

    adopt(world, as_done=True)

    assert (pending(world, JOB), pending(world, OTHER_JOB)) == (0, 0)
    assert world.store.at_rest("default") == {"patch-web", "patch-db"}
    world.store.add_causes([new_cause()])
    assert pending(world, JOB) == 0
    assert not world.store.open_run(make_new_run(cause, hosts("web-1")))


def test_what_somebody_asked_for_meanwhile_runs_though_the_rest_counts_as_done(world: World) -> None:
    hold(world)
    world.store.add_causes([new_cause(f"{BY_HAND}1", kind=CauseKind.REQUESTED)])

    adopt(world, as_done=True)

    assert [cause.kind for cause in world.store.observe(JOB).causes] == [CauseKind.REQUESTED]


def test_some_are_adopted_by_name_and_the_source_stays_held(world: World) -> None:
    hold(world)

    assert adopt(world, "patch-web", as_done=True) == ["patch-web"]

    assert held(world, JOB, OTHER_JOB) == [None, Reason.STATE_LOST]
    assert (pending(world, JOB), pending(world, OTHER_JOB)) == (0, 1)
    assert world.store.sources() == {"default": Reason.STATE_LOST}
    later = JobKey("default", "later")
    accept(world, later)
    assert held(world, later) == [Reason.STATE_LOST]
    assert adopt(world, as_done=False, request_id="request-2") == ["later", "patch-db"]


def test_a_daemon_that_read_before_the_adoption_does_not_hold_it_again(world: World) -> None:
    """It decided over what it saw, and writes now."""
    hold(world)
    seen = world.store.manifest(JOB)
    assert seen is not None
    adopt(world, as_done=False)

    world.store.save_manifests([replace(seen, generation=2)], ())

    assert held(world, JOB) == [None]


def test_what_was_decided_to_be_held_is_held_whatever_its_source(world: World) -> None:
    """Such as one of an older database that is back; and then it can be adopted, too."""
    world.store.add_sources({"default": None})

    world.store.save_manifests([manifest_record(held=Reason.STATE_LOST), manifest_record(OTHER_JOB)], ())

    assert held(world, JOB, OTHER_JOB) == [Reason.STATE_LOST, None]
    assert adopt(world, as_done=False) == ["patch-web"]
    assert held(world, JOB) == [None]


def test_names_that_are_not_held_are_left_alone(world: World) -> None:
    hold(world)
    adopt(world, "patch-web", as_done=False)

    assert adopt(world, "patch-web", "nobody", as_done=True, request_id="request-2") == []

    assert pending(world, JOB) == 1


def test_other_sources_are_left_alone(world: World) -> None:
    hold(world)
    world.store.add_sources({"lab": Reason.AWAITING_ADOPTION})
    elsewhere = JobKey("lab", "patch-web")
    accept(world, elsewhere)

    adopt(world, as_done=True)

    assert held(world, elsewhere) == [Reason.AWAITING_ADOPTION]
    assert pending(world, elsewhere) == 1
    assert world.store.sources()["lab"] is Reason.AWAITING_ADOPTION


def test_an_adoption_is_on_record_and_counts_once(world: World) -> None:
    hold(world)
    adopt(world, as_done=False)

    assert adopt(world, as_done=True) == [], "the same request again"

    assert pending(world, JOB) == 1
    kept = world.store.request("request-1")
    assert kept is not None
    assert (kept.by, kept.reason, kept.result) == ("kim", "seen in the logs", "accepted: 2 jobs")


def test_each_job_and_the_source_are_told_of(world: World) -> None:
    hold(world)
    before = world.store.last_event()

    adopt(world, as_done=False)

    told = [(event.type, event.key) for event in world.store.events_after(before)]
    assert told[-3:] == [("JobAdopted", OTHER_JOB), ("JobAdopted", JOB), ("SourceAdopted", SOURCE)]
