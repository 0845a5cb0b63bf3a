"""What people look up a page at a time, on every store: pages that hold together while rows come and go, and filters that
find what is meant, whatever it is called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.core.facts import Child, ChildStatus, JobKey, RunStatus
from reconciler.core.folding import run_of
from reconciler.core.manifest import Problem
from reconciler.core.reasons import Reason
from reconciler.core.status import Phase
from reconciler.ports import BatchesWanted, BatchMark, BatchRow, PlaybookResult, RunsWanted
from tests.builders import (
    COMMIT,
    COMMIT_REVISION,
    JOB,
    NOON,
    hosts,
    make_new_run,
    make_spec,
    make_status,
    manifest_record,
    numbered_hosts,
    outcome,
)
from tests.contracts.stores import World, line

ALL = BatchesWanted()
EVERY_RUN = RunsWanted()
MINUTE = timedelta(minutes=1)
ODD = ("100%", "a_b", "a\\b", "it's", 'say "x"', "ünïcödé", "🎉", "a,b", "a b", "[x]", "{x}", "$x", "%s", "a/b", "^x")
"""Texts that some query language takes for more than they are."""
WEB_1, WEB_2, WEB_3 = "web-1", "web-2", "web-3"


# -- telling ---------------------------------------------------------------------------------------------------------
def accept(world: World, *names: str, source: str = "default", phase: Phase = Phase.SUCCEEDED, **body: Any) -> None:
    """Jobs of these names, one seen a minute after the other, each with a status."""
    for name in names:
        world.clock.advance(MINUTE)
        key = JobKey(source, name)
        world.store.save_manifests([manifest_record(key, seen_at=world.clock.now())], ())
        world.store.save_status(key, make_status(key, phase, **body))


def names_of(rows: Sequence[BatchRow]) -> list[str]:
    return [row.status.metadata.name for row in rows]


def listed(world: World, wanted: BatchesWanted = ALL) -> list[str]:
    return names_of(world.store.batches(wanted, None, 100))


def pages(world: World, wanted: BatchesWanted = ALL, size: int = 2) -> Iterator[list[str]]:
    """Each is read when it is asked for."""
    after: BatchMark | None = None
    while rows := world.store.batches(wanted, after, size):
        after = rows[-1].mark
        yield names_of(rows)


# -- batches: which, and in what order -------------------------------------------------------------------------------
def test_without_batches_there_is_nothing_to_list(world: World) -> None:
    assert world.store.batches(ALL, None, 10) == ()
    assert world.store.batches_of([JOB]) == ()
    assert world.store.batches_of([]) == ()
    assert world.store.phase_counts(ALL) == {}


def test_a_batch_is_listed_once_something_is_said_of_it(world: World) -> None:
    world.accept()
    assert listed(world) == []

    world.store.save_status(JOB, make_status(JOB, Phase.PENDING, message="a run is about to start"))

    (row,) = world.store.batches(ALL, None, 10)
    assert (row.active_at, row.mark) == (NOON, BatchMark(NOON, JOB))
    assert row.status.status.message == "a run is about to start"


def test_those_that_were_active_last_come_first_and_then_it_goes_by_name(world: World) -> None:
    accept(world, "old", "new")
    for key in (JobKey("lab", "b"), JobKey("default", "b"), JobKey("default", "a-1"), JobKey("default", "a1")):
        world.store.save_manifests([manifest_record(key, seen_at=NOON)], ())
        world.store.save_status(key, make_status(key))

    assert [str(row.mark.key) for row in world.store.batches(ALL, None, 10)] == [
        "default/new",
        "default/old",
        "default/a-1",
        "default/a1",
        "default/b",
        "lab/b",
    ]


def test_a_run_that_is_opened_makes_its_batch_the_first(world: World) -> None:
    accept(world, JOB.name, "other")
    assert listed(world) == ["other", JOB.name]
    world.clock.advance(MINUTE)

    run = world.open_run(hosts(WEB_1))
    opened = world.clock.now()
    assert listed(world) == [JOB.name, "other"]

    world.clock.advance(MINUTE)
    world.store.finish_run(run, RunStatus.FAILED, Reason.HOSTS_FAILED, "")
    world.store.save_status(JOB, make_status(JOB, Phase.FAILED))
    (row,) = world.store.batches_of([JOB])
    assert row.active_at == opened, "its end moves nothing"


def test_microseconds_tell_two_batches_apart(world: World) -> None:
    for number in (3, 1, 2):
        key = JobKey("default", f"job-{number}")
        world.store.save_manifests([manifest_record(key, seen_at=NOON + timedelta(microseconds=number))], ())
        world.store.save_status(key, make_status(key))

    assert list(pages(world, size=1)) == [["job-3"], ["job-2"], ["job-1"]]


def test_in_a_list_a_status_has_no_more_than_lists_show(world: World) -> None:
    world.accept()
    whole = make_status(JOB, Phase.FAILED, children=3, waves=2, past_runs=2, labels={"team": "web"})
    world.store.save_status(JOB, whole)

    (row,) = world.store.batches(ALL, None, 10)

    shown, body = row.status, row.status.status
    assert (body.children, body.failures, body.warnings) == ((), (), ())
    assert body.waves == whole.status.waves[-1:]
    assert [run.finished_at for run in body.history] == [max(run.finished_at for run in whole.status.history)]  # type: ignore[type-var]
    assert shown.metadata == whole.metadata
    kept = {"children": (), "failures": (), "warnings": (), "waves": body.waves, "history": body.history}
    assert body == whole.status.model_copy(update=kept)
    assert world.store.status(JOB) == whole, "and by itself it has all"


# -- batches: pages --------------------------------------------------------------------------------------------------
def test_pages_have_every_batch_once(world: World) -> None:
    accept(world, "a", "b", "c", "d", "e")

    assert list(pages(world)) == [["e", "d"], ["c", "b"], ["a"]]
    assert list(pages(world, size=5)) == [["e", "d", "c", "b", "a"]]


def test_batches_of_one_moment_are_on_one_page_each_too(world: World) -> None:
    names = [f"job-{number}" for number in range(7)]
    for name in names:
        key = JobKey("default", name)
        world.store.save_manifests([manifest_record(key)], ())
        world.store.save_status(key, make_status(key))

    assert [name for page in pages(world, size=3) for name in page] == names


def test_what_comes_becomes_active_and_goes_meanwhile_moves_no_page(world: World) -> None:
    accept(world, "a", "b", "c", "d", "e", "f")
    reading = pages(world)
    assert next(reading) == ["f", "e"]

    accept(world, "new")
    world.clock.advance(MINUTE)
    world.open_run(hosts(WEB_1), key=JobKey("default", "b"))
    world.store.save_status(JobKey("default", "c"), make_status(JobKey("default", "c"), Phase.REMOVED))
    world.store.save_status(JobKey("default", "e"), make_status(JobKey("default", "e"), Phase.REMOVED))

    assert list(reading) == [["d", "a"]], "b is at the top by now, c is gone; e, where it went on, too"


def test_a_mark_is_nothing_that_must_be_there(world: World) -> None:
    accept(world, "a", "b")

    after = BatchMark(NOON + MINUTE, JobKey("", ""))
    assert names_of(world.store.batches(ALL, after, 10)) == ["a"]
    assert world.store.batches(ALL, replace(after, active_at=NOON), 10) == ()


# -- batches: filters ------------------------------------------------------------------------------------------------
def test_filters_bound_batches_and_what_is_left_out_does_not(world: World) -> None:
    accept(world, "patch-web", "patch-db", phase=Phase.FAILED)
    accept(world, "reboot", source="lab", phase=Phase.RUNNING)

    assert listed(world, BatchesWanted(source="lab")) == ["reboot"]
    assert listed(world, BatchesWanted(source="nowhere")) == []
    assert listed(world, BatchesWanted(phases=frozenset({Phase.FAILED}))) == ["patch-db", "patch-web"]
    assert listed(world, BatchesWanted(phases=frozenset({Phase.FAILED, Phase.RUNNING}))) == [
        "reboot",
        "patch-db",
        "patch-web",
    ]
    assert listed(world, BatchesWanted(text="WEB")) == ["patch-web"]
    assert listed(world, BatchesWanted(source="default", phases=frozenset({Phase.RUNNING}))) == []
    assert list(pages(world, BatchesWanted(text="patch-"), size=1)) == [["patch-db"], ["patch-web"]]


@pytest.mark.parametrize("text", ["patch", "PATCH", "lab/pa", "lab", "site.yml", "Playbooks/SITE", "pätch", "PÄTCH-ß"])
def test_text_is_looked_for_in_source_name_and_playbook_whatever_its_case(world: World, text: str) -> None:
    accept(world, "other", playbook="playbooks/reboot.yml")
    accept(world, "patch-it", source="lab", playbook="playbooks/site.yml")
    accept(world, "third", source="lab", playbook="Pätch-ẞ/x.yml")

    found = set(listed(world, BatchesWanted(text=text)))

    assert found == {"lab": {"patch-it", "third"}, "pätch": {"third"}, "PÄTCH-ß": {"third"}}.get(text, {"patch-it"})


@pytest.mark.parametrize("text", ODD)
def test_text_is_looked_for_as_it_is(world: World, text: str) -> None:
    accept(world, "plain", playbook="playbooks/aXb1000s.yml")
    accept(world, "odd", playbook=f"playbooks/{text}.yml")

    assert listed(world, BatchesWanted(text=text)) == ["odd"]
    assert listed(world, BatchesWanted(text=text + "!")) == []
    assert world.store.phase_counts(BatchesWanted(text=text)) == {Phase.SUCCEEDED: 1}


def test_what_no_database_takes_for_text_finds_nothing_and_breaks_nothing(world: World) -> None:
    accept(world, "a")
    odd = "\ud800"

    assert listed(world, BatchesWanted(text=odd)) == []
    assert listed(world, BatchesWanted(source=odd)) == []
    assert world.store.batches_of([JobKey(odd, "\x00a")]) == ()
    assert world.store.run_rows(RunsWanted(source=odd, name=odd), odd, 10) == ()


def test_removed_batches_are_shown_to_those_who_ask_for_them_only(world: World) -> None:
    accept(world, "here")
    accept(world, "gone", phase=Phase.REMOVED)

    assert listed(world) == ["here"]
    assert listed(world, BatchesWanted(text="gone")) == []
    assert listed(world, BatchesWanted(phases=frozenset({Phase.REMOVED}))) == ["gone"]
    assert listed(world, BatchesWanted(phases=frozenset(Phase))) == ["gone", "here"]
    assert names_of(world.store.batches_of([JobKey("default", "gone")])) == ["gone"]
    assert world.store.phase_counts(ALL) == {Phase.SUCCEEDED: 1, Phase.REMOVED: 1}


def test_names_that_never_were_accepted_are_listed_until_they_are_mended_or_gone(world: World) -> None:
    accept(world, "fine")
    broken, hopeless = JobKey("default", "broken"), JobKey("default", "hopeless")
    invalid = [make_status(key, Phase.INVALID, changed_at=NOON + MINUTE * 5) for key in (broken, hopeless)]
    world.store.save_invalid("default", invalid)

    assert listed(world) == ["broken", "hopeless", "fine"]
    assert [row.active_at for row in world.store.batches_of([broken])] == [NOON + MINUTE * 5]
    assert listed(world, BatchesWanted(phases=frozenset({Phase.INVALID}), text="OPE")) == ["hopeless"]
    assert world.store.phase_counts(ALL) == {Phase.SUCCEEDED: 1, Phase.INVALID: 2}

    world.store.save_invalid("lab", ())
    world.store.save_invalid("default", invalid[:1])
    assert listed(world) == ["broken", "fine"]

    accept(world, "broken")
    world.store.save_invalid("default", invalid[:1])
    assert world.store.phase_counts(ALL) == {Phase.SUCCEEDED: 2}, "its own status counts"
    world.store.save_invalid("default", ())
    assert listed(world) == ["broken", "fine"]


def test_one_whose_file_became_invalid_is_listed_as_it_stands(world: World) -> None:
    accept(world, "a")
    problem = Problem("jobs/a.yaml", 1, 1, 1, "not YAML")
    key = JobKey("default", "a")
    world.store.save_manifests([manifest_record(key, rejected=problem, removed_at=NOON)], ())
    world.store.save_status(key, make_status(key, Phase.INVALID))

    assert listed(world) == ["a"]
    assert world.store.phase_counts(ALL) == {Phase.INVALID: 1}


def test_counts_of_phases_are_of_all_that_is_wanted_whatever_the_phase(world: World) -> None:
    accept(world, "a", "b", phase=Phase.FAILED)
    accept(world, "c", phase=Phase.RUNNING)
    accept(world, "d", source="lab", phase=Phase.STALLED)

    assert world.store.phase_counts(ALL) == {Phase.FAILED: 2, Phase.RUNNING: 1, Phase.STALLED: 1}
    failed = frozenset({Phase.FAILED})
    assert world.store.phase_counts(BatchesWanted(source="default", phases=failed)) == {
        Phase.FAILED: 2,
        Phase.RUNNING: 1,
    }
    world.store.save_status(JobKey("default", "a"), make_status(JobKey("default", "a"), Phase.SUCCEEDED))
    assert world.store.phase_counts(BatchesWanted(text="/a")) == {Phase.SUCCEEDED: 1}


def test_batches_are_looked_up_by_their_keys(world: World) -> None:
    accept(world, "a", "b", "c")
    accept(world, "a", source="lab")
    keys = [JobKey("lab", "a"), JobKey("default", "b"), JobKey("default", "b"), JobKey("lab", "b")]

    assert {str(row.mark.key) for row in world.store.batches_of(keys)} == {"lab/a", "default/b"}
    assert len(world.store.batches_of(keys)) == 2


def test_a_status_is_another_text_when_it_is_another(world: World) -> None:
    accept(world, "a", "b")
    a, b, unknown = (JobKey("default", name) for name in ("a", "b", "unknown"))
    world.store.save_status(a, make_status(a, Phase.RUNNING))
    world.store.save_status(b, make_status(b, Phase.RUNNING))

    before = world.store.status_texts([a, b, b, unknown])
    world.store.save_status(a, make_status(a, Phase.SUCCEEDED))
    world.store.save_status(b, make_status(b, Phase.RUNNING))
    after = world.store.status_texts([a, b])

    assert before.keys() == after.keys() == {a, b}
    assert before[a] != after[a]
    assert before[b] == after[b]
    assert world.store.status_texts([]) == {}


# -- runs ------------------------------------------------------------------------------------------------------------
def runs_of(world: World, wanted: RunsWanted = EVERY_RUN, before: str | None = None, limit: int = 10) -> list[str]:
    return [row.summary.job_id for row in world.store.run_rows(wanted, before, limit)]


def test_runs_come_newest_first_a_page_at_a_time(world: World) -> None:
    other = replace(JOB, source="lab")
    ran = [world.run_to_success(str(number), key) for number, key in enumerate((JOB, other, JOB, JOB, other))][::-1]

    assert runs_of(world) == ran
    assert runs_of(world, limit=2) == ran[:2]
    assert runs_of(world, before=ran[1], limit=2) == ran[2:4]
    assert runs_of(world, before=ran[4]) == []
    assert runs_of(world, RunsWanted(source="lab")) == [ran[0], ran[3]]
    assert runs_of(world, RunsWanted(name=JOB.name), before=ran[0], limit=1) == [ran[1]]
    assert runs_of(world, RunsWanted("default", JOB.name)) == [ran[1], ran[2], ran[4]]
    assert runs_of(world, RunsWanted("default", "nobody")) == []


def test_the_latest_run_of_a_batch_is_the_one_that_was_opened_last(world: World) -> None:
    other = replace(JOB, source="lab")
    assert world.store.latest_run(JOB) is None
    first, elsewhere, second = (world.run_to_success(name, key) for name, key in (("1", JOB), ("2", other), ("3", JOB)))
    world.accept()
    (record,) = world.store.manifests(JOB.source).values()
    world.store.save_manifests([replace(record, removed_at=world.clock.now())], ())
    assert first != second
    assert (world.store.latest_run(JOB), world.store.latest_run(other)) == (second, elsewhere)


def test_runs_are_found_by_how_they_stand(world: World) -> None:
    done = world.run_to_success("1")
    running = world.open_run(cause="2")
    world.start(running, WEB_1)

    assert runs_of(world, RunsWanted(statuses=frozenset({RunStatus.RUNNING}))) == [running]
    assert runs_of(world, RunsWanted(statuses=frozenset({RunStatus.RUNNING, RunStatus.SUCCESS}))) == [running, done]
    assert runs_of(world, RunsWanted(statuses=frozenset({RunStatus.FAILED}))) == []


def test_a_run_is_shown_with_its_playbook_its_commit_and_the_counts_of_its_own_children(world: World) -> None:
    world.accept()
    spec = make_spec(playbook="playbooks/other.yml")
    new = make_new_run(world.cause(), numbered_hosts(3), commit=COMMIT, revision=COMMIT_REVISION, spec=spec)
    assert world.store.open_run(new)
    world.run_wave(new.job_id, WEB_1, WEB_2)

    row = world.store.run_row(new.job_id)

    assert row is not None
    assert (row.key, row.playbook, row.summary.commit, row.summary.status) == (
        JOB,
        "playbooks/other.yml",
        COMMIT,
        RunStatus.RUNNING,
    )
    assert row.summary.hosts == {ChildStatus.SUCCESS: 2, ChildStatus.PENDING: 1}
    assert world.store.run_rows(RunsWanted(), None, 10) == (row,)
    assert row.summary == world.store.observe(JOB).history[0]


def test_a_run_and_a_child_are_not_taken_for_each_other(world: World) -> None:
    run = world.open_run(hosts(WEB_1))
    child = world.child(WEB_1)

    assert world.store.run_row(child.job_id) is None
    assert world.store.run_row("nobody") is None
    assert world.store.child(child.job_id) == (JOB, child)
    assert run_of(child) == run
    assert world.store.child(run) is None
    assert world.store.child("nobody") is None


def test_pages_of_runs_go_on_when_the_run_where_one_ended_was_removed(world: World) -> None:
    def ran_at(hour: int) -> str:
        world.clock.advance(timedelta(hours=1))
        world.accept()
        name = f"batch-20261123-{hour}0000-0123456789"
        new = make_new_run(world.cause(str(hour)), hosts(WEB_1), job_id=name)
        assert world.store.open_run(new)
        world.run_wave(name, WEB_1)
        assert world.store.finish_run(name, RunStatus.FAILED, Reason.HOSTS_FAILED, "")
        return name

    first, second, third = (ran_at(hour) for hour in (13, 14, 15))
    assert runs_of(world, limit=2) == [third, second]

    assert world.store.purge(world.clock.now()) > 0
    assert runs_of(world) == [third]
    assert runs_of(world, before=second) == []
    assert runs_of(world, before="batch-20261123-170000-0123456789") == [third]
    assert runs_of(world, before=first) == []


# -- children --------------------------------------------------------------------------------------------------------
def ends(**statuses: ChildStatus) -> PlaybookResult:
    """`ends(web_1=FAILED)`"""
    return PlaybookResult(tuple(outcome(host.replace("_", "-"), status) for host, status in statuses.items()))


def ordinals(children: Sequence[Child]) -> list[int]:
    return [child.ordinal for child in children]


def test_children_come_in_the_order_of_selection_a_page_at_a_time(world: World) -> None:
    chosen = hosts("web-9", "web-10", "a", "web-1", "b")
    run = world.open_run(chosen)
    none: frozenset[ChildStatus] = frozenset()

    first = world.store.child_page(run, none, 0, 2)

    assert [child.host for child in first] == ["web-9", "web-10"]
    assert ordinals(world.store.child_page(run, none, first[-1].ordinal, 2)) == [3, 4]
    assert ordinals(world.store.child_page(run, none, 4, 2)) == [5]
    assert world.store.child_page(run, none, 5, 2) == ()
    assert world.store.child_page(run, none, 0, 10) == world.store.children(run)
    assert world.store.child_page("nobody", none, 0, 10) == ()


def test_children_are_found_by_how_they_stand(world: World) -> None:
    run = world.open_run(numbered_hosts(5))
    failed, success = ChildStatus.FAILED, ChildStatus.SUCCESS
    world.run_wave(run, WEB_1, WEB_2, WEB_3, result=ends(web_1=failed, web_2=success, web_3=failed))

    assert ordinals(world.store.child_page(run, frozenset({failed}), 0, 10)) == [1, 3]
    assert ordinals(world.store.child_page(run, frozenset({failed}), 1, 10)) == [3]
    assert ordinals(world.store.child_page(run, frozenset({failed, ChildStatus.PENDING}), 0, 2)) == [1, 3]
    assert world.store.child_page(run, frozenset({ChildStatus.RUNNING}), 0, 10) == ()


def test_children_have_the_commit_of_their_run(world: World) -> None:
    world.accept()
    new = make_new_run(world.cause(), hosts(WEB_1), commit=COMMIT, revision=COMMIT_REVISION)
    assert world.store.open_run(new)

    (child,) = world.store.child_page(new.job_id, frozenset(), 0, 10)

    assert child.commit == COMMIT
    assert world.store.child(child.job_id) == (JOB, child)


def test_attempts_tell_how_each_try_ended(world: World) -> None:
    spec = make_spec(retry={"limit": 1, "backoff": "1m"})
    run = world.open_run(hosts(WEB_1), spec=spec)
    child = world.child(WEB_1).job_id
    assert world.store.attempts(child) == ()

    part = world.admit_one(run, WEB_1)
    (tried,) = world.store.attempts(child)
    assert (tried.number, tried.status, tried.started_at, tried.counts.ok) == (1, ChildStatus.PENDING, None, 0)
    assert world.claim(part) is not None
    assert world.store.mark_started(part, 1)
    (tried,) = world.store.attempts(child)
    assert (tried.status, tried.started_at, tried.finished_at) == (ChildStatus.RUNNING, NOON, None)

    world.clock.advance(MINUTE)
    assert world.store.finish(part, 1, ends(web_1=ChildStatus.FAILED))
    world.clock.advance(MINUTE)
    world.run_wave(run, WEB_1, attempt=2)

    failed, succeeded = world.store.attempts(child)
    assert (failed.number, failed.status, failed.reason, failed.task) == (
        1,
        ChildStatus.FAILED,
        Reason.TASK_FAILED,
        "Install nginx",
    )
    assert (failed.message, failed.counts.ok, failed.finished_at) == ("no such package", 3, NOON + MINUTE)
    assert (succeeded.number, succeeded.status, succeeded.reason) == (2, ChildStatus.SUCCESS, None)
    assert world.store.attempts("nobody") == ()
    assert world.store.attempts(run) == ()


def test_attempts_go_with_the_logs(world: World) -> None:
    run = world.run_to_success("1")
    child = world.child(WEB_1).job_id
    assert len(world.store.attempts(child)) == 1

    world.store.trim(JOB, 0, world.clock.now())

    assert world.store.attempts(child) == ()
    assert world.store.log_page(run, WEB_1, None, 0, 10) == ()
    assert world.store.child(child) is not None


# -- logs ------------------------------------------------------------------------------------------------------------
def test_a_log_is_read_on_from_where_a_page_ended(world: World) -> None:
    run = world.open_run(hosts(WEB_1, WEB_2))
    part = world.start(run, WEB_1, WEB_2)
    lines = [line(number, f"line {number}", (WEB_1, WEB_2, None)[number % 3]) for number in range(1, 13)]
    world.store.append_logs(part, 1, lines)

    first = world.store.log_page(run, WEB_1, None, 0, 3)

    assert [found.text for found in first] == ["line 3", "line 6", "line 9"]
    assert [found.host for found in first] == [WEB_1] * 3
    second = world.store.log_page(run, WEB_1, None, first[-1].sequence, 3)
    assert [found.text for found in second] == ["line 12"]
    assert world.store.log_page(run, WEB_1, None, second[-1].sequence, 3) == ()
    world.store.append_logs(part, 1, [line(13, "more", WEB_1)])
    assert [found.text for found in world.store.log_page(run, WEB_1, None, second[-1].sequence, 3)] == ["more"]
    assert [found.text for found in world.store.log_page(run, None, None, 0, 2)] == ["line 2", "line 5"]
    assert world.store.log_page(run, "nobody", None, 0, 3) == ()
    assert world.store.log_page("nobody", WEB_1, None, 0, 3) == ()
    assert (*first, *second) == tuple(world.store.log(run, WEB_1, 1, 0))[:4]


def test_a_log_may_be_of_one_attempt(world: World) -> None:
    run = world.open_run(hosts(WEB_1), spec=make_spec(retry={"limit": 1, "backoff": "1m"}))
    for attempt, status in ((1, ChildStatus.FAILED), (2, ChildStatus.SUCCESS)):
        part = world.start(run, WEB_1, attempt=attempt)
        world.store.append_logs(part, 1, [line(1, f"attempt {attempt}", WEB_1)])
        world.store.finish(part, 1, ends(web_1=status))
        world.clock.advance(MINUTE)

    assert [found.text for found in world.store.log_page(run, WEB_1, 2, 0, 10)] == ["attempt 2"]
    assert [found.text for found in world.store.log_page(run, WEB_1, None, 0, 10)] == ["attempt 1", "attempt 2"]
    assert world.store.log_page(run, WEB_1, 3, 0, 10) == ()
