"""What every store does with manifests, causes, requests, statuses and events."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from reconciler.core.facts import CauseKind, JobKey, RunStatus, Stop
from reconciler.core.manifest import Problem
from reconciler.core.reasons import Reason
from reconciler.ports import RequestKind
from tests.adapters.test_statusfile import job_status, source_status
from tests.builders import JOB, NOON, OTHER_JOB, make_request, make_spec, manifest_record, new_cause
from tests.contracts.stores import World

ELSEWHERE = JobKey("lab", "patch-web")


# -- manifests -------------------------------------------------------------------------------------------------------
def test_a_record_comes_back_as_it_was_given(world: World) -> None:
    spec = make_spec(
        selector={"hosts": ["web-2", "web-1"], "tags": ["web"]},
        extraVars={"package": "nginx", "nested": {"list": [1, 2.5, None, True, "ü"]}},
        timeouts={"task": "90s"},
        runOn=[],
        limit=3,
    )
    record = manifest_record(
        spec=spec,
        generation=7,
        labels={"team": "platform"},
        requested_at="2026-11-23T10:00:00Z",
        seen_at=NOON + timedelta(microseconds=123456),
        rejected=Problem("jobs/patch-web.yaml", 1, 3, 5, "limit must be at least 1", "choose 1 to 20"),
    )

    world.store.save_manifests([record], ())

    assert world.store.manifest(JOB) == record
    assert world.store.manifests("default") == {"patch-web": record}


def test_a_later_record_replaces_the_earlier_and_keeps_the_status(world: World) -> None:
    world.accept()
    world.store.save_status(JOB, job_status())
    removed = manifest_record(generation=2, removed_at=NOON)

    world.store.save_manifests([removed], ())

    assert world.store.manifest(JOB) == removed
    assert world.store.status(JOB) == job_status()


def test_a_source_has_its_own_records_only(world: World) -> None:
    world.accept(JOB)
    world.accept(OTHER_JOB)
    world.accept(ELSEWHERE)

    assert set(world.store.manifests("default")) == {"patch-web", "patch-db"}
    assert set(world.store.manifests("lab")) == {"patch-web"}
    assert world.store.manifests("nowhere") == {}
    assert world.store.manifest(JobKey("default", "nobody")) is None


def test_what_becomes_of_a_manifest_is_told(world: World) -> None:
    problem = Problem("jobs/patch-web.yaml", 1, 1, 1, "not YAML")
    world.store.save_manifests([manifest_record()], [new_cause()])
    world.store.save_manifests([manifest_record(rejected=problem)], ())
    world.store.save_manifests([manifest_record(removed_at=NOON)], ())

    assert world.events() == ["ManifestAccepted", "CauseAdded", "ManifestRejected", "ManifestRemoved"]


# -- causes ----------------------------------------------------------------------------------------------------------
def test_causes_are_pending_oldest_first_until_they_are_handled(world: World) -> None:
    world.accept()
    for name in ("c", "a", "b"):
        world.store.add_causes([new_cause(name, hosts=("web-1", "web-2"))])
        world.clock.advance(timedelta(seconds=1))

    causes = world.store.observe(JOB).causes

    assert [cause.key for cause in causes] == ["c", "a", "b"]
    assert causes[0].kind is CauseKind.SPEC_CHANGED
    assert causes[0].hosts == ("web-1", "web-2")
    assert [cause.at for cause in causes] == [NOON + timedelta(seconds=n) for n in range(3)]


def test_a_cause_that_is_found_again_changes_nothing_and_wakes_nobody(world: World) -> None:
    world.accept()
    first = world.cause()
    told = world.store.last_event()
    world.clock.advance(timedelta(minutes=1))

    world.store.add_causes([new_cause(message="said otherwise")])

    assert world.store.observe(JOB).causes == (first,)
    assert world.store.last_event() == told


def test_a_handled_cause_is_never_pending_again(world: World) -> None:
    world.run_to_success("1")

    world.store.add_causes([new_cause("1")])

    assert world.store.observe(JOB).causes == ()
    assert world.store.job_at_rest(JOB)


def test_a_dropped_cause_is_forgotten_and_counts_when_it_happens_again(world: World) -> None:
    world.accept()
    cause = world.cause()

    world.store.drop_causes(JOB, [cause])

    assert world.store.observe(JOB).causes == ()
    assert world.store.observe(JOB).run is None
    assert "CauseDropped" in world.events()
    world.store.add_causes([new_cause()])
    assert [again.key for again in world.store.observe(JOB).causes] == [cause.key]


def test_a_cause_that_had_its_run_can_not_be_dropped(world: World) -> None:
    world.accept()
    cause = world.cause()
    world.open_run()

    world.store.drop_causes(JOB, [cause])
    world.store.add_causes([new_cause()])

    assert world.store.observe(JOB).causes == ()


def test_two_kinds_of_one_key_and_two_jobs_with_one_cause_are_different(world: World) -> None:
    world.store.add_causes(
        [new_cause("1"), new_cause("1", kind=CauseKind.PLAYBOOK_CHANGED), new_cause("1", key=OTHER_JOB)]
    )

    assert len(world.store.observe(JOB).causes) == 2
    assert len(world.store.observe(OTHER_JOB).causes) == 1


# -- rest ------------------------------------------------------------------------------------------------------------
def test_a_job_rests_without_causes_runs_and_requests(world: World) -> None:
    world.accept()

    assert world.store.at_rest("default") == {"patch-web"}
    assert world.store.job_at_rest(JOB)


def test_a_pending_cause_keeps_a_job_from_rest_and_no_other(world: World) -> None:
    world.accept(OTHER_JOB)
    world.accept()
    world.cause()

    assert world.store.at_rest("default") == {"patch-db"}
    assert not world.store.job_at_rest(JOB)


def test_an_open_run_keeps_a_job_from_rest_until_it_has_ended(world: World) -> None:
    run = world.open_run()
    assert not world.store.job_at_rest(JOB)
    assert world.store.at_rest("default") == set()

    world.store.finish_run(run, RunStatus.CANCELLED, Reason.SUPERSEDED, "")

    assert world.store.job_at_rest(JOB)
    assert world.store.at_rest("default") == {"patch-web"}


def test_an_unanswered_request_keeps_a_job_from_rest(world: World) -> None:
    world.accept()
    request = make_request(kind=RequestKind.TRIGGER)
    world.store.add_request(request)
    assert not world.store.job_at_rest(JOB)

    world.store.refuse_request(request, "refused: not now")

    assert world.store.job_at_rest(JOB)


def test_a_job_that_nobody_knows_does_not_rest(world: World) -> None:
    assert not world.store.job_at_rest(JOB)


# -- requests --------------------------------------------------------------------------------------------------------
def test_asking_twice_is_asking_once(world: World) -> None:
    request = make_request(kind=RequestKind.TRIGGER, reason="please")

    assert world.store.add_request(request)
    assert not world.store.add_request(replace(request, reason="again"))
    assert world.store.pending_requests(JOB) == (request,)
    assert world.events() == ["RequestAdded"]


def test_what_was_done_already_is_written_down_with_what_came_of_it(world: World) -> None:
    world.accept()
    done = replace(make_request(kind=RequestKind.WRITE), result="written to jobs/patch-web.yaml", answered_at=NOON)

    assert world.store.add_request(done)

    assert world.store.request(done.id) == done
    assert world.store.pending_requests(JOB) == ()
    assert world.store.job_at_rest(JOB)


def test_requests_are_answered_in_the_order_they_were_made(world: World) -> None:
    late = make_request("a", at=NOON + timedelta(minutes=1), run="batch-1")
    early = make_request("b", kind=RequestKind.TRIGGER)
    world.store.add_request(late)
    world.store.add_request(early)
    world.store.add_request(make_request("c", key=OTHER_JOB))

    assert world.store.pending_requests(JOB) == (early, late)


def test_a_trigger_becomes_a_cause_once(world: World) -> None:
    request = make_request(kind=RequestKind.TRIGGER)
    cause = new_cause("request:request-1", kind=CauseKind.REQUESTED)
    world.store.add_request(request)

    world.store.accept_cause(request, cause)
    world.store.accept_cause(request, cause)

    assert [cause.kind for cause in world.store.observe(JOB).causes] == [CauseKind.REQUESTED]
    assert world.store.pending_requests(JOB) == ()
    assert world.store.request("request-1") == replace(request, result="accepted", answered_at=NOON)
    assert world.events().count("RequestAnswered") == 1


def test_a_cancel_stops_the_run_that_was_meant(world: World) -> None:
    run = world.open_run()
    request = make_request(run=run)
    stop = Stop(Reason.CANCELLED, "cancelled by kim")
    world.store.add_request(request)

    world.store.accept_cancel(request, stop)

    assert world.run().stop == stop
    assert world.store.request("request-1") == replace(request, result="accepted", answered_at=NOON)


def test_a_cancel_that_comes_late_changes_no_run(world: World) -> None:
    ended = world.run_to_success("1")
    running = world.open_run(cause="2")
    request = make_request(run=ended)
    world.store.add_request(request)

    world.store.accept_cancel(request, Stop(Reason.CANCELLED))

    assert world.run().job_id == running
    assert world.run().stop is None
    assert world.store.runs(JOB, 5)[1].stop is None


def test_the_first_cancel_of_a_run_is_the_one_that_is_named(world: World) -> None:
    run = world.open_run()
    for name in ("kim", "lou"):
        request = make_request(f"by-{name}", run=run, by=name)
        world.store.add_request(request)
        world.store.accept_cancel(request, Stop(Reason.CANCELLED, f"cancelled by {name}"))

    assert world.run().stop == Stop(Reason.CANCELLED, "cancelled by kim")


def test_a_refused_request_says_why(world: World) -> None:
    request = make_request(run="batch-gone")
    world.store.add_request(request)

    world.store.refuse_request(request, "refused: that run has ended")

    answered = world.store.request("request-1")
    assert answered is not None
    assert answered.result == "refused: that run has ended"
    assert world.store.request("nobody") is None


# -- statuses --------------------------------------------------------------------------------------------------------
def test_a_status_comes_back_as_it_was_saved(world: World) -> None:
    world.accept()
    assert world.store.status(JOB) is None

    world.store.save_status(JOB, job_status())

    assert world.store.status(JOB) == job_status()
    assert world.store.statuses() == (job_status(),)
    assert world.store.statuses("default") == (job_status(),)
    assert world.store.statuses("lab") == ()


def test_a_name_that_nobody_accepted_has_a_status_until_its_file_is_mended_or_gone(world: World) -> None:
    invalid = job_status()

    assert world.store.save_invalid("default", [invalid]) == frozenset()
    assert world.store.status(JOB) == invalid
    assert world.store.statuses("default") == (invalid,)
    assert tuple(world.store.metrics().statuses) == (invalid,)
    assert world.store.manifest(JOB) is None

    assert world.store.save_invalid("lab", ()) == frozenset()
    assert world.store.save_invalid("default", [invalid]) == frozenset()
    assert world.store.save_invalid("default", ()) == {"patch-web"}
    assert world.store.status(JOB) is None


def test_once_a_name_is_accepted_its_own_status_counts(world: World) -> None:
    world.store.save_invalid("default", [job_status("jobs/web.yaml:7:10: limit is 0")])
    world.accept()
    world.store.save_status(JOB, job_status())

    assert world.store.status(JOB) == job_status()
    assert world.store.statuses() == (job_status(),)


def test_saving_a_status_tells_nobody(world: World) -> None:
    world.accept()
    told = world.store.last_event()

    world.store.save_status(JOB, job_status())
    world.store.save_source_status(source_status())

    assert world.store.last_event() == told


def test_a_source_has_one_status(world: World) -> None:
    world.store.save_source_status(source_status())
    world.store.save_source_status(source_status())

    assert world.store.source_statuses() == (source_status(),)


# -- events ----------------------------------------------------------------------------------------------------------
def test_events_are_read_on_from_the_last_one_seen(world: World) -> None:
    assert world.store.last_event() == 0
    world.accept(JOB)
    seen = world.store.last_event()
    world.accept(OTHER_JOB)
    world.cause(key=OTHER_JOB)

    later = world.store.events_after(seen)

    assert [event.type for event in later] == ["ManifestAccepted", "CauseAdded"]
    assert {event.key for event in later} == {OTHER_JOB}
    assert later[-1].sequence == world.store.last_event()
    assert [event.type for event in world.store.events_after(0, limit=1)] == ["ManifestAccepted"]
    assert world.store.events_after(world.store.last_event()) == ()


def test_old_events_go_but_the_last_one_says_where_to_read_on(world: World) -> None:
    world.accept(JOB)
    world.accept(OTHER_JOB)
    world.clock.advance(timedelta(days=8))

    assert world.store.trim_events(keep=100, older_than=world.clock.now() - timedelta(days=7)) == 1
    assert [event.sequence for event in world.store.events_after(0)] == [2]
    assert world.store.last_event() == 2


def test_more_events_than_are_kept_go_oldest_first(world: World) -> None:
    for _ in range(5):
        world.accept()

    assert world.store.trim_events(keep=2, older_than=NOON - timedelta(days=7)) == 3
    assert [event.sequence for event in world.store.events_after(0)] == [4, 5]


def test_a_store_that_is_there_answers(world: World) -> None:
    world.store.ping()
