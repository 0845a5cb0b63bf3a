"""The daemon with all its threads: it notices what happened, whoever did it, and no error is its end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from threading import Event
from threading import enumerate as living_threads

import pytest
from structlog.testing import capture_logs

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import ChildStatus, ManifestRecord, Revision, RunStatus, SliceId
from reconciler.core.plans import Desired
from reconciler.core.reasons import Reason
from reconciler.core.status import JobStatus, Phase
from reconciler.engine import daemon, queue, settling
from reconciler.engine.resolve import Resolver
from reconciler.ports import ServersWanted, Snapshot, Spool, StoredEvent
from tests.acceptance.workspace import wait_for
from tests.builders import JOB, OTHER_JOB
from tests.engine.houses import QUICK, House
from tests.fakes.source import FakeSnapshot


# -- once ------------------------------------------------------------------------------------------------------------
def test_once_runs_what_is_there_to_its_end_and_rests(house: House) -> None:
    house.world.write(limit=2)
    house.world.write(OTHER_JOB.name, limit=3)
    house.daemon.start(once=True)
    house.to_rest()
    assert house.phase() is house.phase(OTHER_JOB) is Phase.SUCCEEDED
    assert sorted(house.world.begun) == sorted(house.world.names * 2)
    assert house.meter.syncs == {("default", "success"): 1}
    assert house.meter.looks["success"] > 0
    assert house.meter.waits > 0


def test_a_source_without_manifests_has_hosts_to_choose_from(house: House) -> None:
    house.daemon.start()
    wanted = ServersWanted()
    assert [row.name for row in house.world.store.servers(wanted, None, 10)] == list(house.world.names)


def test_without_an_inventory_there_is_nobody_to_choose_and_nothing_is_wrong(house: House) -> None:
    house.world.inventory.answer = Refused(Reason.INVENTORY_MISSING, "there is none")
    with capture_logs() as logs:
        house.daemon.start()
    assert house.world.store.servers(ServersWanted(), None, 10) == ()
    assert [line for line in logs if line["log_level"] != "info"] == []


def test_once_more_has_nothing_to_do(house: House) -> None:
    house.world.write()
    house.daemon.start(once=True)
    house.to_rest()
    house.daemon.stop()
    before = house.world.store.last_event()
    house.world.restart()
    house.build().start(once=True)
    house.to_rest()
    assert house.world.store.last_event() == before


def test_once_does_not_wait_for_what_is_outside(house: House) -> None:
    house.world.inventory.answer = Unavailable(Reason.INVENTORY_UNREADABLE, "the script failed")
    house.world.write()
    house.daemon.start(once=True)
    house.to_rest()
    assert (house.phase(), house.world.runs()) == (Phase.PENDING, 0)


def test_once_waits_for_a_slice_that_could_not_be_started(house: House) -> None:
    house.world.executor.refuses = True
    house.world.write()
    house.daemon.start(once=True)
    wait_for(lambda: "SliceGivenBack" in house.world.events(), "the refusal")
    assert not house.daemon.rested(0.05)


def test_once_gives_up_on_a_slice_that_never_starts_and_leaves_it_to_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "RESTART_FIRST", timedelta(milliseconds=20))
    house.world.executor.refuses = True
    house.world.write()
    house.daemon.start(once=True)
    wait_for(lambda: house.daemon.rested(0.01), "the daemon to give up")
    assert house.world.events().count("SliceGivenBack") >= 4
    assert not house.world.begun
    assert house.world.run().open


def test_once_does_not_wait_for_what_somebody_has_paused_though_a_part_of_it_is_admitted(house: House) -> None:
    world = house.world
    world.executor.refuses = True
    world.write()
    world.write(OTHER_JOB.name)  # on the same hosts
    house.daemon.start(once=True)
    wait_for(lambda: "SliceGivenBack" in world.events(), "the refusal")
    world.pause()
    world.executor.refuses = False

    house.to_rest()

    assert not world.begun
    assert Phase.PENDING in (house.phase(), house.phase(OTHER_JOB))


def test_who_sees_to_one_job_starts_nothing_of_another_nor_of_it(house: House) -> None:
    """As `reconciler cancel` does, where no daemon runs."""
    world = house.world
    world.executor.refuses = True
    world.write(selector={"hosts": world.names[:2]})
    world.write(OTHER_JOB.name, selector={"hosts": world.names[2:]})
    house.daemon.start()
    wait_for(lambda: world.events().count("SliceGivenBack") >= 2, "the refusals")
    house.daemon.stop()
    world.restart()
    world.executor.refuses = False
    world.cancel()

    house.build_on_nothing().see_to([JOB], lambda: not world.run().open, patience=30.0)

    assert world.run().status is RunStatus.CANCELLED
    assert world.run(OTHER_JOB).open
    assert not world.executor.alive
    assert not world.begun


def test_once_gives_up_when_what_became_of_a_slice_can_not_be_recorded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk: everything can be read and nothing be written."""

    def full(*_: object) -> bool:
        raise Unavailable(Reason.STORE_UNAVAILABLE, "database or disk is full")

    monkeypatch.setattr(queue, "BACKOFF_FIRST", 0.01)
    house.world.write()
    house.build(supervise=QUICK).start(once=True)
    wait_for(lambda: bool(house.world.executor.alive), "a process")
    monkeypatch.setattr(house.world.store, "requeue", full)
    slice_id, _ = house.world.the_process()
    house.world.executor.end(slice_id)
    wait_for(lambda: house.daemon.rested(0.01), "the daemon to give up")
    (failed,) = house.daemon.failures().values()
    assert failed.message == "database or disk is full"
    assert failed.times < 10, "looks are no more frequent than their backoff says"


def test_once_that_can_not_record_what_it_read_says_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise Unavailable(Reason.STORE_UNAVAILABLE, "database or disk is full")

    monkeypatch.setattr(house.world.store, "save_manifests", full)
    house.world.write()
    house.daemon.start(once=True)
    house.to_rest()
    assert house.daemon.problems() == ("source default: database or disk is full",)
    assert house.daemon.unsynced()["default"].reason is Reason.STORE_UNAVAILABLE


def test_the_next_once_tries_at_once_what_could_not_start_before(house: House) -> None:
    house.world.executor.refuses = True
    house.world.write()
    house.daemon.start(once=True)
    wait_for(lambda: house.world.events().count("SliceGivenBack") == 1, "a failure")
    house.daemon.stop()
    house.world.executor.refuses = False
    (part,) = house.world.store.open_slices()
    house.world.store.requeue(part.id, part.fence, house.world.clock.now() + timedelta(minutes=5), "far from now")
    house.world.restart()
    house.build().start(once=True)
    house.to_rest()
    assert house.phase() is Phase.SUCCEEDED


def test_once_does_not_wait_for_a_job_that_waited_and_whose_status_can_not_be_written_since(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "BACKOFF_FIRST", 0.001)
    monkeypatch.setattr(queue, "BACKOFF_MOST", 0.01)
    house.world.write(limit=4)
    house.world.write(OTHER_JOB.name, limit=4)
    house.daemon.start(once=True)
    wait_for(lambda: house.meter.looks["waiting"] > 0, "one to wait for the other")
    house.world.sink.broken = True
    house.to_rest()
    assert {run.status for key in (JOB, OTHER_JOB) for run in house.world.store.runs(key, 1)} == {RunStatus.SUCCESS}
    assert house.daemon.failures()


# -- noticing --------------------------------------------------------------------------------------------------------
def test_a_manifest_written_while_it_watches_runs(house: House) -> None:
    house.world.write(OTHER_JOB.name, suspend=True)
    house.daemon.start()
    house.world.write()
    wait_for(house.ended(), "the run")
    wait_for(lambda: house.phase() is Phase.SUCCEEDED, "its status")


def test_what_the_watcher_missed_is_found_by_the_resync(house: House) -> None:
    house.world.write()
    text = house.world.source.files.pop(f"jobs/{JOB.name}.yaml")
    house.build(resync=QUICK).start()
    house.world.source.files[f"jobs/{JOB.name}.yaml"] = text  # and nobody is told
    wait_for(house.ended(), "the run")


def test_a_request_of_another_process_wakes_the_job(house: House) -> None:
    house.world.write()
    house.daemon.start()
    wait_for(house.ended(), "the first run")
    house.world.trigger()
    wait_for(house.ended(runs=2), "the second")


def test_a_job_that_waits_for_hosts_goes_on_as_soon_as_they_are_free(house: House) -> None:
    house.world.write()
    house.daemon.start()
    wait_for(lambda: bool(house.world.executor.alive), "the first to have the hosts")
    house.world.write(OTHER_JOB.name)
    wait_for(lambda: house.meter.looks["waiting"] > 0, "the second to wait")
    wait_for(house.ended(OTHER_JOB), "its turn, long before its alarm of 30 s")
    assert house.world.begun == list(house.world.names) * 2


def test_a_process_whose_end_nobody_was_told_is_noticed(house: House) -> None:
    """As after a restart: the processes are another daemon's children."""
    house.world.write()
    house.build(supervise=QUICK).start()
    house.world.executor.ended = lambda _: None
    wait_for(lambda: bool(house.world.begin_all()), "a process")
    house.world.executor.end(house.world.the_process()[0])
    wait_for(house.ended(), "the end of the run")
    assert set(house.world.statuses().values()) == {ChildStatus.UNKNOWN}


def test_what_a_daemon_elsewhere_opened_goes_on_from_a_copy_that_is_made_here(house: House) -> None:
    house.world.commit(limit=2)
    house.world.look()
    house.world.work()
    revision = house.world.run().revision
    house.world.source.release(())
    house.world.restart()
    house.build().start()
    wait_for(house.ended(), "the end of the run")
    assert house.world.source.has_copy(revision)


def test_a_copy_that_can_not_be_made_is_tried_again_at_each_reading(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = house.world.source.keep
    asked: list[Revision] = []

    def lost(revision: Revision) -> FakeSnapshot:
        asked.append(revision)
        if len(asked) < 3:
            raise Unavailable(Reason.SOURCE_MOVED, "the source has no such commit any more")
        return keep(revision)

    house.world.commit(limit=2)
    house.world.look()
    house.world.source.release(())
    monkeypatch.setattr(house.world.source, "keep", lost)
    house.world.restart()
    house.build(resync=QUICK).start()
    wait_for(lambda: len(asked) == 3, "the copy")
    readings = house.meter.syncs["default", "success"]
    wait_for(lambda: house.meter.syncs["default", "success"] > readings + 3, "more readings")
    assert asked == [house.world.run().revision] * 3


# -- errors ----------------------------------------------------------------------------------------------------------
def test_a_bug_in_one_job_does_not_stop_the_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    write = house.world.sink.write

    def buggy(status: JobStatus) -> None:
        if status.metadata.name == JOB.name:
            raise ZeroDivisionError
        write(status)

    monkeypatch.setattr(house.world.sink, "write", buggy)
    house.world.write(selector={"hosts": ["web-1"]})
    house.world.write(OTHER_JOB.name, selector={"hosts": ["web-2"]})
    house.daemon.start()
    wait_for(house.ended(OTHER_JOB), "the other job")
    wait_for(lambda: JOB in house.daemon.failures(), "the failure to be told")
    assert "bug" in house.daemon.failures()[JOB].message
    monkeypatch.setattr(house.world.sink, "write", write)
    wait_for(lambda: JOB not in house.daemon.failures(), "the next try")
    wait_for(house.ended(), "its run")


def test_a_store_that_goes_away_and_comes_back_ends_no_thread(house: House) -> None:
    house.world.write(OTHER_JOB.name, suspend=True)
    house.build(resync=QUICK, supervise=QUICK).start()
    threads = {thread.name for thread in living_threads()}
    house.world.store.away = True
    house.world.write()
    wait_for(lambda: house.meter.syncs["default", "error"] > 2, "the outage to be noticed")
    house.daemon.slice_ended()
    house.world.store.away = False
    wait_for(house.ended(), "the run")
    assert threads <= {thread.name for thread in living_threads()}


def test_a_source_that_can_not_be_read_is_a_problem_and_what_runs_goes_on(house: House) -> None:
    house.world.write(limit=2)
    house.build(resync=QUICK).start()
    wait_for(lambda: bool(house.world.executor.alive), "the first wave")
    house.world.source.error = Unavailable(Reason.SOURCE_UNAVAILABLE, "the disk is gone")
    wait_for(lambda: bool(house.daemon.problems()), "the problem to be told")
    assert house.daemon.problems() == ("source default: the disk is gone",)
    wait_for(house.ended(), "the end of the run")
    assert house.world.run().status is RunStatus.SUCCESS
    house.world.source.error = None
    wait_for(lambda: not house.daemon.problems(), "the source to be read again")


def test_a_run_between_two_waves_goes_on_in_a_new_daemon_though_the_source_is_away(house: House) -> None:
    house.world.commit(limit=2)
    house.world.look()
    house.world.work()
    house.world.source.error = Unavailable(Reason.SOURCE_UNAVAILABLE, "the disk is gone")
    house.world.restart()
    house.build().start()
    wait_for(house.ended(), "the end of the run")
    assert sorted(house.world.begun) == list(house.world.names)


def test_a_job_whose_looks_fail_says_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Resolver, record: ManifestRecord, snapshot: Snapshot, *, fresh: bool = False) -> Desired:
        if fresh:
            raise ZeroDivisionError("a bug")
        return resolve(self, record, snapshot)

    resolve = Resolver.resolve
    monkeypatch.setattr(Resolver, "resolve", broken)
    house.world.write()
    house.daemon.start()
    wait_for(lambda: house.phase() is Phase.PENDING, "the status")
    assert house.world.said().message == "a bug of reconciler; see its log"
    monkeypatch.setattr(Resolver, "resolve", resolve)
    wait_for(house.ended(), "the run")


def test_one_that_hangs_is_told_from_one_that_has_nothing_to_do(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.daemon.start()
    wait_for(lambda: house.daemon.idle() < 0.5, "a turn")
    answers, asked = Event(), Event()
    events_after = house.world.store.events_after

    def hangs(sequence: int) -> Sequence[StoredEvent]:
        asked.set()
        answers.wait()
        return events_after(sequence)

    monkeypatch.setattr(house.world.store, "events_after", hangs)
    assert asked.wait(60)
    wait_for(lambda: house.daemon.idle() > 0.5, "it to be noticed")
    house.world.store.away = True
    answers.set()
    wait_for(lambda: house.daemon.idle() < 0.5, "the next turn, though it fails")


# -- tidying up ------------------------------------------------------------------------------------------------------
def test_what_is_left_of_slices_that_are_over_is_removed_and_nothing_else(house: House) -> None:
    house.world.write()
    house.daemon.start()
    wait_for(lambda: bool(house.world.executor.alive), "a process")
    gone = SliceId("batch-1.w1.a1.cafe")
    running, _ = house.world.the_process()
    house.world.executor.spools = {gone: Spool((), None), running: Spool((), None)}
    house.daemon.resync()
    assert house.world.executor.forgotten == [gone]


# -- the end ---------------------------------------------------------------------------------------------------------
def test_drained_it_finishes_the_wave_and_rests(house: House) -> None:
    house.world.write(limit=2)
    house.daemon.start(once=True)
    wait_for(lambda: bool(house.world.executor.alive), "the first wave")
    house.daemon.drain()
    house.to_rest()
    assert house.world.begun == ["web-1", "web-2"]
    assert house.world.run().open, "and goes on where it was, next time"


def test_cancelling_everything_ends_a_run_that_waits_too(house: House) -> None:
    house.world.write(limit=4)
    house.world.write(OTHER_JOB.name, limit=4)
    house.daemon.start(once=True)
    wait_for(lambda: house.meter.looks["waiting"] > 0, "one to wait for the other")
    house.daemon.cancel_everything("kim", "interrupted")
    house.to_rest()
    assert house.phase() is house.phase(OTHER_JOB) is Phase.CANCELLED
    assert len(house.world.begun) <= 4


def test_cancelling_everything_ends_every_run_that_has_something_running(house: House) -> None:
    house.world.write(limit=2, selector={"hosts": ["web-1", "web-2"]})
    house.world.write(OTHER_JOB.name, limit=2, selector={"hosts": ["web-3", "web-4"]})
    house.daemon.start(once=True)
    wait_for(lambda: len(house.world.executor.alive) == 2, "both")
    works = house.world.begin_all()
    house.daemon.cancel_everything("kim", "interrupted")
    for work in works:
        assert house.world.store.stop_requested(work.slice_id)
        house.world.finish(work)
    house.to_rest()
    assert house.phase() is house.phase(OTHER_JOB) is Phase.CANCELLED


def test_stopped_no_thread_of_it_is_left_and_what_runs_is_left_alone(house: House) -> None:
    house.world.write()
    before = set(living_threads())
    house.daemon.start()
    wait_for(lambda: bool(house.world.executor.alive), "a process")
    assert set(living_threads()) - before
    house.daemon.stop()
    assert set(living_threads()) - before == set()
    assert len(house.world.executor.alive) == 1
    assert house.world.executor.killed == []


def test_stopping_ends_a_reading_that_hangs_and_tells_nothing_of_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "FIRST_READING", QUICK)
    source = house.slow()
    before = set(living_threads())
    house.build().start()
    wait_for(lambda: source.asked == 1, "the reading")
    with capture_logs() as told:
        house.daemon.stop()
    assert set(living_threads()) - before == set()
    assert told == []
    assert house.daemon.unsynced() == {}
    assert house.meter.syncs == {}
    assert house.world.sink.sources == {}


def test_who_drains_while_the_sources_are_read_for_the_first_time_waits_for_none(house: House) -> None:
    house.slow()
    house.build()
    house.daemon.drain()
    house.daemon.start(once=True)
    assert house.daemon.rested(0.01)
