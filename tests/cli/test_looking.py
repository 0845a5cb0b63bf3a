"""What the commands that look print."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.cli import looking, show
from reconciler.core.facts import Commit, JobKey, Observed, Revision, RunStatus
from reconciler.core.planning import plan
from reconciler.core.reasons import Reason
from reconciler.core.report import report, report_source
from reconciler.ports import RequestKind
from tests.builders import (
    COMMIT,
    COMMIT_REVISION,
    JOB,
    NOON,
    REVISION,
    hosts,
    make_new_run,
    make_request,
    manifest_record,
    new_cause,
)
from tests.cli.commands import Call, Fail, rows, titles
from tests.contracts.stores import World
from tests.core.test_status import make_desired

NEWER = replace(COMMIT, id="f" * 40, author="release <release@example.org>", subject="[bold]Renew[/] all :100:")
NEWER_REVISION = Revision(f"main@sha1:{NEWER.id}")


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


def test_a_history_begins_where_it_is_asked_to(world: World, call: Call, fail: Fail) -> None:
    ran(world, "old", REVISION, None)
    world.clock.advance(timedelta(days=10))
    ran(world, "new", REVISION, None)

    def runs(*arguments: str) -> list[str]:
        return [row.get("run") or row["job"] for row in rows(call("history", *arguments, "-o", "json"))]

    assert runs(JOB.name, "--since", "2026-11-30") == ["batch-new"]
    assert runs(JOB.name, "--since", "2026-11-23T12:00Z") == ["batch-new", "batch-old"]
    assert runs(JOB.name, "--since", "2026-11-23T14:00+02:00") == ["batch-new", "batch-old"], "as zones say"
    assert len(runs("--host", "web-1", "--since", "2026-11-30")) == 1
    assert len(runs(JOB.name, "--host", "web-1", "--since", "3650d")) == 2
    assert "nothing has run there yet since 2100-01-01" in fail(0, "history", JOB.name, "--since", "2100-01-01")
    assert "no run had web-1 since 2100" in fail(0, "history", "--host", "web-1", "--since", "2100-01-01")


@pytest.mark.parametrize("since", ["yesterday", "7", "2026-13-01", "-1d", "", "7d 3h"])
def test_a_time_that_is_none_is_refused(world: World, fail: Fail, since: str) -> None:
    ran(world, "1", REVISION, None)

    for command in (("history", JOB.name), ("history", "--host", "web-1"), ("audit",)):
        told = fail(2, *command, f"--since={since}")
        assert "is no time" in told
        assert "12h, 7d, or a date" in told


def test_more_than_is_shown_is_said_to_be_there(world: World, fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "NEWEST", 2)
    for number in range(3):
        ran(world, str(number), REVISION, None)

    assert "the newest 2; there may be more (--since)" in fail(0, "history", JOB.name)
    assert "there may be more" not in fail(0, "history", JOB.name, "--since", "3650d")


# -- audit -----------------------------------------------------------------------------------------------------------
def asked(world: World) -> None:
    """A trigger, which was answered after a minute, an adoption, a pause, and a cancel that nobody has answered yet."""
    ran(world, "1", REVISION, None)
    trigger = make_request("1", RequestKind.TRIGGER, reason="the fix for [CVE-1]", at=NOON)
    world.store.add_request(trigger)
    world.clock.advance(timedelta(minutes=1))
    world.store.accept_cause(trigger, new_cause("request:1"))
    adoption = make_request("2", RequestKind.ADOPT, key=JobKey("default", ""), at=NOON + timedelta(days=1))
    world.store.adopt(replace(adoption, arguments={"names": ["a", "b"], "as": "done"}), ["a", "b"], as_done=True)
    world.store.pause(make_request("3", RequestKind.PAUSE, key=JobKey("", ""), at=NOON + timedelta(days=2)))
    cancel = make_request("4", RequestKind.CANCEL, run="batch-1", by="ada", at=NOON + timedelta(days=3))
    world.store.add_request(cancel)


def test_an_audit_tells_who_asked_for_what_and_why(world: World, call: Call) -> None:
    asked(world)

    table = call("audit")

    assert titles(table) == ["WHEN", "WHO", "WHAT", "ON", "RUN", "ARGUMENTS", "WHY", "RESULT"]
    found = [re.split(r" {2,}", line.strip()) for line in table.splitlines()[1:]]
    assert found == [
        ["2026-11-26T12:00:00Z", "ada", "cancel", "default/patch-web", "batch-1", "not answered yet"],
        ["2026-11-25T12:00:00Z", "kim", "pause", "everything", "accepted"],
        ["2026-11-24T12:00:00Z", "kim", "adopt", "default", "names=a,b as=done", "accepted: 0 jobs"],
        ["2026-11-23T12:00:00Z", "kim", "trigger", "default/patch-web", "the fix for [CVE-1]", "accepted"],
    ]


def test_an_audit_of_one_job_has_no_other_requests(world: World, call: Call, fail: Fail) -> None:
    asked(world)

    assert [row["what"] for row in rows(call("audit", JOB.name, "-o", "json"))] == ["cancel", "trigger"]
    assert [row["what"] for row in rows(call("audit", JOB.name, "--since", "2026-11-24", "-o", "json"))] == ["cancel"]
    assert "there is no batch nobody" in fail(2, "audit", "nobody")


def test_an_audit_as_data_is_whole(world: World, call: Call) -> None:
    asked(world)

    trigger = rows(call("audit", "-o", "json"))[-1]

    assert trigger == {
        "when": "2026-11-23T12:00:00Z",
        "who": "kim",
        "what": "trigger",
        "source": "default",
        "name": "patch-web",
        "run": None,
        "arguments": {},
        "why": "the fix for [CVE-1]",
        "result": "accepted",
        "answered": "2026-11-23T12:01:00Z",
    }


def test_an_audit_of_nothing_says_so(world: World, fail: Fail) -> None:
    assert "nobody has asked for anything" in fail(0, "audit")


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
