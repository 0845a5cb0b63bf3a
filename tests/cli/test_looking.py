"""What the commands that look print of revisions and commits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reconciler.adapters.store import SqlStore, migrate
from reconciler.cli import app, show
from reconciler.core.facts import Commit, Observed, Revision, RunStatus
from reconciler.core.planning import plan
from reconciler.core.reasons import Reason
from reconciler.core.report import report, report_source
from tests.builders import COMMIT, COMMIT_REVISION, JOB, NOON, REVISION, hosts, make_new_run, manifest_record
from tests.contracts.stores import World
from tests.core.test_status import make_desired
from tests.fakes.clock import FakeClock

Call = Callable[..., str]
NEWER = replace(COMMIT, id="f" * 40, author="release <release@example.org>", subject="[bold]Renew[/] all :100:")
NEWER_REVISION = Revision(f"main@sha1:{NEWER.id}")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    clock, url = FakeClock(), f"sqlite:///{tmp_path / 'reconciler.db'}"
    migrate.upgrade(url)
    store = SqlStore(url, clock)
    yield World(store, clock)
    store.close()


@pytest.fixture
def call(tmp_path: Path) -> Call:
    def call(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--state-dir", str(tmp_path)])
        assert done.exit_code == 0, done.output
        return done.stdout

    return call


def ran(world: World, cause: str, revision: Revision, commit: Commit | None) -> None:
    """A run on web-1 that succeeded, and what is said of it."""
    world.accept()
    new = make_new_run(world.cause(cause), hosts("web-1"), job_id=f"batch-{cause}", revision=revision, commit=commit)
    assert world.store.open_run(new)
    world.run_wave(new.job_id, "web-1")
    world.store.finish_run(new.job_id, RunStatus.SUCCESS, Reason.SUCCEEDED, "1 success")
    say(world, revision, commit)


def say(world: World, revision: Revision, commit: Commit | None) -> None:
    """The job and its source were seen at this revision."""
    desired = replace(make_desired(hosts=1), revision=revision, commit=commit)
    observed: Observed = world.store.observe(JOB)
    world.store.save_status(JOB, report(desired, observed, plan(desired, observed, NOON), None, NOON))
    records, nothing = [manifest_record()], ()
    said = report_source("default", revision, commit, records, nothing, nothing, None, NOON, empty=False, notes=nothing)
    world.store.save_source_status(said)


def titles(table: str) -> list[str]:
    return table.splitlines()[0].split()


def rows(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)
    return found


# -- history ---------------------------------------------------------------------------------------------------------
def test_history_has_the_author_and_the_subject_of_each_commit(world: World, call: Call) -> None:
    ran(world, "1", REVISION, None)
    ran(world, "2", COMMIT_REVISION, COMMIT)
    ran(world, "3", NEWER_REVISION, NEWER)

    table = call("history", JOB.name)
    expected = ["RUN", "CAUSE", "GENERATION", "REVISION", "AUTHOR", "SUBJECT", "STATUS", "FINISHED", "MESSAGE"]
    assert titles(table) == expected
    newest, older, oldest = table.splitlines()[1:]
    assert "main@sha1:ffffffffffff " in newest
    assert " release       [bold]Renew[/] all :100: " in newest
    assert "main@sha1:1a2b3c4d5e6f " in older
    assert " Ada Lovelace  Restart nginx after its configuration changed " in older
    assert "dir@sha256:aaaaaaaaaaaa " in oldest
    assert "example.org" not in table


def test_history_as_data_has_the_whole_commit(world: World, call: Call) -> None:
    ran(world, "1", REVISION, None)
    ran(world, "2", COMMIT_REVISION, replace(COMMIT, signer="ada@example.org"))

    of_commit, of_directory = rows(call("history", JOB.name, "-o", "json"))
    assert of_directory["commit"] is None
    assert of_commit["revision"] == COMMIT_REVISION
    assert of_commit["commit"] == {
        "id": COMMIT.id,
        "author": COMMIT.author,
        "date": "2026-11-22T10:02:00Z",
        "subject": COMMIT.subject,
        "signer": "ada@example.org",
    }
    of_host, _ = rows(call("history", "--host", "web-1", "-o", "json"))
    assert of_host["commit"] == of_commit["commit"]


def test_a_hosts_history_over_all_batches_has_them_too(world: World, call: Call) -> None:
    ran(world, "1", COMMIT_REVISION, COMMIT)

    table = call("history", "--host", "web-1")
    assert titles(table) == ["BATCH", "JOB", "AUTHOR", "SUBJECT", "STATUS", "FINISHED", "MESSAGE"]
    assert f"Ada Lovelace  {COMMIT.subject}" in table


def test_a_history_of_a_directory_stays_as_it_was(world: World, call: Call) -> None:
    ran(world, "1", REVISION, None)

    expected = ["RUN", "CAUSE", "GENERATION", "REVISION", "STATUS", "FINISHED", "MESSAGE"]
    assert titles(call("history", JOB.name)) == expected
    assert titles(call("history", "--host", "web-1")) == ["BATCH", "JOB", "STATUS", "FINISHED", "MESSAGE"]


# -- status and sources ----------------------------------------------------------------------------------------------
def test_a_status_names_the_commit_that_was_seen_and_that_of_the_run_if_it_is_another(world: World, call: Call) -> None:
    ran(world, "1", COMMIT_REVISION, COMMIT)
    by_ada = f'  commit "{COMMIT.subject}" by Ada Lovelace, 2026-11-22 10:02 UTC'
    by_release = '  commit "[bold]Renew[/] all :100:" by release, 2026-11-22 10:02 UTC'

    _, seen, commit, run, *_ = call("status", JOB.name).splitlines()
    assert seen.endswith("seen at main@sha1:1a2b3c4d5e6f")
    assert commit == by_ada
    assert " of main@sha1:1a2b3c4d5e6f (" in run
    assert call("status", JOB.name).count("commit ") == 1

    say(world, NEWER_REVISION, NEWER)
    _, seen, commit, run, of_run, *_ = call("status", JOB.name).splitlines()
    assert seen.endswith("seen at main@sha1:ffffffffffff")
    assert (commit, of_run) == (by_release, by_ada)
    assert " of main@sha1:1a2b3c4d5e6f (" in run


def test_sources_tell_what_was_read_and_who_made_it(world: World, call: Call) -> None:
    say(world, NEWER_REVISION, NEWER)
    said = '  at main@sha1:ffffffffffff, commit "[bold]Renew[/] all :100:" by release, 2026-11-22 10:02 UTC'
    assert call("sources").splitlines()[1] == said

    say(world, REVISION, None)
    assert call("sources").splitlines()[1] == "  at dir@sha256:aaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("revision", "short"),
    [
        (COMMIT_REVISION, "main@sha1:1a2b3c4d5e6f"),
        ("feature/a-name-of-some-length@sha1:" + "1a2b" * 10, "feature/a-name-of-some-length@sha1:1a2b1a2b1a2b"),
        (REVISION, "dir@sha256:aaaaaaaaaaaa"),
        ("", ""),
    ],
)
def test_a_short_revision_keeps_its_branch(revision: str, short: str) -> None:
    assert show.short_revision(revision) == short


@pytest.mark.parametrize(
    ("author", "name"),
    [("Ada Lovelace <ada@example.org>", "Ada Lovelace"), ("<ada@example.org>", "<ada@example.org>"), ("ada", "ada")],
)
def test_an_author_is_named_without_the_address_if_there_is_a_name(author: str, name: str) -> None:
    assert show.author_name(author) == name
