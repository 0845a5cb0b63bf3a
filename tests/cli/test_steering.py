"""What pause, resume and adopt do and say."""

from __future__ import annotations

import pytest

from reconciler.core.facts import JobKey
from reconciler.core.manifest import Problem
from reconciler.core.reading import Rejected
from reconciler.core.reasons import Reason
from reconciler.core.report import report_source
from tests.builders import JOB, NOON, OTHER_JOB, REVISION, manifest_record, new_cause
from tests.cli.commands import Call, Fail
from tests.contracts.stores import World

BOTH = ("patch-db", "patch-web")
REJECTED = Rejected("jobs/new.yaml", 1, None, (Problem("jobs/new.yaml", 1, 1, 1, "this is not YAML"),))


def know(world: World, reason: Reason | None = None) -> None:
    """The source, with two jobs that have something to do."""
    world.store.add_sources({"default": reason})
    keys = (JOB, OTHER_JOB)
    world.store.save_manifests([manifest_record(key) for key in keys], [new_cause(key=key) for key in keys])


def paused(world: World) -> list[str | None]:
    return [pause.source for pause in world.store.pauses()]


def held(world: World) -> list[str]:
    return sorted(name for name, record in world.store.manifests("default").items() if record.held is not None)


# -- pause and resume ------------------------------------------------------------------------------------------------
def test_a_pause_is_in_force_when_the_command_ends_and_over_after_the_other(world: World, call: Call) -> None:
    know(world)

    assert "everything is paused" in call("pause", "--reason", "moving the storage")
    pause = world.store.pauses()[0]
    assert (pause.source, pause.reason) == (None, "moving the storage")
    assert "@" in pause.by

    assert call("resume") == "everything is resumed\n"
    assert paused(world) == []


def test_one_source_is_paused_and_says_what_else_is(world: World, call: Call) -> None:
    know(world)
    world.store.add_sources({"lab": None})

    assert "source lab is paused" in call("pause", "lab")
    call("pause")
    assert paused(world) == [None, "lab"]

    told = call("resume").splitlines()
    assert told[0] == "everything is resumed"
    assert told[1].startswith("still: the source lab is paused by ")


def test_a_source_that_is_not_there_is_not_paused_in_silence(world: World, fail: Fail) -> None:
    know(world)

    told = fail(2, "pause", "patch-web")

    assert "there is no source patch-web" in told
    assert "there are: default" in told
    assert "suspend: true" in told
    assert paused(world) == []


def test_pausing_twice_says_who_was_first(world: World, call: Call) -> None:
    know(world)
    call("pause", "--reason", "first")

    assert ": first" in call("pause", "--reason", "second")

    assert world.store.pauses()[0].reason == "first"


def test_resuming_what_is_not_paused_fails_and_says_what_is(world: World, call: Call, fail: Fail) -> None:
    know(world)
    call("pause", "default")

    assert "everything was not paused" in fail(1, "resume")

    assert paused(world) == ["default"]


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_reason_that_would_be_cut_is_refused(world: World, fail: Fail, command: str) -> None:
    know(world)

    assert "--reason has 4001 characters" in fail(2, command, "--reason", "x" * 4001)

    assert world.store.requests(None, None, 10) == ()


def test_status_and_sources_say_loudly_that_nothing_starts(world: World, call: Call) -> None:
    know(world)
    world.store.add_sources({"lab": None})
    for source in ("default", "lab"):
        call("pause", source, "--reason", f"{source} is moved")

    first, second, *_ = call("status").splitlines()
    assert first.startswith("the source default is paused by ")
    assert first.endswith(": default is moved")
    assert second.endswith(": lab is moved")
    assert call("sources").splitlines()[:2] == [first, second]
    assert call("status", "-o", "json") == "[]\n", "as ever"


# -- adopt -----------------------------------------------------------------------------------------------------------
def test_a_held_source_is_adopted_to_run(world: World, call: Call) -> None:
    know(world, Reason.STATE_LOST)

    told = call("adopt", "default", "--run", "--reason", "a new database")

    assert told.splitlines() == [
        "default: patch-db, patch-web are adopted to run",
        "no daemon runs here; it is done by the next: reconciler run",
    ]
    assert held(world) == []
    assert len(world.store.observe(JOB).causes) == 1
    (request,) = world.store.requests(None, None, 10)
    assert (request.key, request.reason, dict(request.arguments)) == (
        JobKey("default", ""),
        "a new database",
        {"names": [], "as": "run"},
    )


def test_a_held_source_is_adopted_as_done(world: World, call: Call) -> None:
    know(world, Reason.AWAITING_ADOPTION)

    assert "as done: nothing starts before something changes" in call("adopt", "default", "--as-done")

    assert held(world) == []
    assert world.store.at_rest("default") == set(BOTH)


def test_one_job_is_adopted_by_either_name(world: World, call: Call) -> None:
    know(world, Reason.STATE_LOST)

    call("adopt", "default", "patch-web", "--as-done")
    assert held(world) == ["patch-db"]
    call("adopt", "default", "default/patch-db", "--as-done")
    assert held(world) == []


@pytest.mark.parametrize("flags", [[], ["--run", "--as-done"]])
def test_what_to_make_of_it_must_be_said(world: World, fail: Fail, flags: list[str]) -> None:
    know(world, Reason.STATE_LOST)

    assert "--as-done if they have run before, or --run" in fail(2, "adopt", "default", *flags)

    assert held(world) == list(BOTH)


def test_names_that_are_not_held_are_refused_and_none_is_adopted(world: World, call: Call, fail: Fail) -> None:
    know(world, Reason.STATE_LOST)
    call("adopt", "default", "patch-db", "--run")

    told = fail(2, "adopt", "default", "patch-web", "patch-db", "nobody", "--as-done")

    assert "default has no held batch patch-db, nobody" in told
    assert "held are: patch-web" in told
    assert held(world) == ["patch-web"]


def test_a_source_that_is_not_held_is_refused_and_those_that_are_named(world: World, fail: Fail) -> None:
    know(world)
    assert "none is held" in fail(2, "adopt", "default", "--run")

    world.store.add_sources({"lab": Reason.AWAITING_ADOPTION})
    told = fail(2, "adopt", "default", "--run")
    assert "there is no source default that is held" in told
    assert "held are: lab" in told


def test_what_nobody_has_read_can_not_count_as_done(world: World, call: Call, fail: Fail) -> None:
    """Else all of it would look new once it is read, and run."""
    world.store.add_sources({"lab": Reason.STATE_LOST})

    assert "no manifest of lab has been read yet" in fail(2, "adopt", "lab", "--as-done")

    assert world.store.sources()["lab"] is Reason.STATE_LOST
    assert "lab: it is adopted to run" in call("adopt", "lab", "--run")
    assert world.store.sources()["lab"] is None


def test_manifests_that_are_invalid_at_the_moment_are_warned_of(world: World, fail: Fail) -> None:
    know(world, Reason.STATE_LOST)
    records = list(world.store.manifests("default").values())
    said = report_source("default", REVISION, None, records, (REJECTED,), (), None, NOON, empty=False, notes=())
    world.store.save_source_status(said)

    told = fail(0, "adopt", "default", "--as-done")

    assert "1 manifest is invalid now" in told


def test_status_says_loudly_what_is_held_and_what_to_do(world: World, call: Call) -> None:
    know(world, Reason.STATE_LOST)

    first = call("status").splitlines()[0]

    assert first.startswith("source default is held (StateLost): reconciler adopt default")
