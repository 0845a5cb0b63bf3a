"""A source of commits: whatever is said of a run, a job or the source names who made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import Commit, JobKey, ManifestRecord
from reconciler.core.reasons import Reason
from reconciler.core.status import CommitView, ConditionType, SourceStatus
from reconciler.engine.sources import DECIDED_AGAIN
from tests.builders import COMMIT
from tests.engine.worlds import World


def by(commit: Commit, hosts: int = 2) -> World:
    world = World(hosts)
    world.source.commit = commit
    return world


def subjects(*views: CommitView | None) -> list[str | None]:
    return [None if view is None else view.subject for view in views]


def source_said(world: World) -> SourceStatus:
    (said,) = world.store.source_statuses()
    return said


def test_a_run_its_hosts_and_every_status_name_the_commit() -> None:
    world = by(COMMIT)
    world.commit()
    world.run_all()
    run, said = world.run(), world.said()
    assert run.commit is not None
    assert run.revision == f"main@sha1:{run.commit.id}"
    assert {child.commit for child in run.children} == {run.commit}
    assert said.run is not None
    assert said.last_success is not None
    told = subjects(said.commit, said.run.commit, said.last_success.commit, said.history[0].commit)
    assert told == [COMMIT.subject] * 4
    assert source_said(world).status.commit == said.commit


def test_a_run_keeps_its_commit_while_the_source_goes_on() -> None:
    world = by(COMMIT)
    world.commit()
    world.look()
    world.source.commit = replace(COMMIT, subject="Write down what it is for")
    world.source.write("README.md", "Patches.\n")
    world.keeper.sync()
    world.run_all()
    said = world.said()
    assert said.run is not None
    assert subjects(said.commit, said.run.commit) == ["Write down what it is for", COMMIT.subject]


def test_with_the_source_away_the_commit_of_the_run_is_all_that_is_known() -> None:
    world = by(COMMIT)
    world.commit()
    world.look()
    world.restart()  # and the source was not read yet
    world.look()
    assert subjects(world.said().commit) == [COMMIT.subject]


def test_a_name_that_was_never_valid_has_the_commit_that_wrote_it() -> None:
    world = by(COMMIT)
    world.commit("web", limit=0)
    said = world.store.status(JobKey("default", "web"))
    assert said is not None
    assert subjects(said.status.commit) == [COMMIT.subject]


def test_what_is_to_be_known_of_a_reading_stands_in_the_source_status() -> None:
    world = by(replace(COMMIT, signer="ada@example.org"))
    world.source.notes = ("history was rewritten",)
    world.commit()
    ready, verified = source_said(world).status.conditions
    assert ready.message == "read completely; history was rewritten"
    assert (verified.type, verified.message) == (ConditionType.SOURCE_VERIFIED, "signed by ada@example.org")


def test_an_unverified_commit_runs_nothing_and_the_last_good_one_is_still_named() -> None:
    world = by(replace(COMMIT, signer="ada@example.org"))
    world.commit()
    world.run_all()
    good = source_said(world).status
    world.source.error = Refused(Reason.SOURCE_UNVERIFIED, "2b7d0c is not signed", "sign it")
    with pytest.raises(Refused):
        world.change_playbook()
    world.run_all()
    said = source_said(world).status
    assert (said.observed_revision, said.commit, world.runs()) == (good.observed_revision, good.commit, 1)
    assert [(found.type, found.status) for found in said.conditions] == [
        (ConditionType.READY, "False"),
        (ConditionType.STALLED, "True"),
        (ConditionType.SOURCE_VERIFIED, "False"),
    ]


def test_where_nothing_changed_it_is_only_said_that_it_was_read_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.keeper.sync()
    asked: list[str] = []
    manifests = world.store.manifests

    def counted(source: str) -> Mapping[str, ManifestRecord]:
        asked.append(source)
        return manifests(source)

    monkeypatch.setattr(world.store, "manifests", counted)
    world.clock.advance(timedelta(seconds=30))
    assert world.keeper.sync() == frozenset()
    status = world.keeper.status
    assert status is not None
    assert status.status.last_sync == world.clock.now()
    assert source_said(world) == status
    assert asked == []

    world.source.error = Unavailable(Reason.SOURCE_UNREACHABLE, "down")
    with pytest.raises(Unavailable):
        world.keeper.sync()
    world.source.error = None
    world.keeper.sync()
    assert asked == ["default"], "after a failure it has to be said that all is well"

    world.clock.advance(DECIDED_AGAIN)
    world.keeper.sync()
    assert asked == ["default", "default"], "somebody may have changed what was written"
