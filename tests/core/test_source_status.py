"""What is said of a source: what was read of it, who made that, and whether they may."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.core.facts import Commit, JobKey
from reconciler.core.plans import Blocked
from reconciler.core.reasons import Reason
from reconciler.core.report import report_source, report_unread_source
from reconciler.core.status import Condition, ConditionType, SourceStatus
from reconciler.core.views import commit_view
from tests import status_linter
from tests.builders import COMMIT, COMMIT_REVISION, JOB, NOON, OTHER_JOB, REVISION, manifest_record

MINUTE = timedelta(minutes=1)
SIGNED = replace(COMMIT, signer="ada@example.org")
UNSIGNED = Blocked(Reason.SOURCE_UNVERIFIED, "2b7d0c is not signed", "sign it, or see `verify`")
AWAY = Blocked(Reason.SOURCE_UNREACHABLE, "no route to host", permanent=False)


def read(
    commit: Commit | None = COMMIT, previous: SourceStatus | None = None, later: timedelta = timedelta(), **fields: Any
) -> SourceStatus:
    revision = REVISION if commit is None else COMMIT_REVISION
    facts = {"staying": (), "empty": False, "notes": (), "records": [manifest_record()], **fields}
    staying, records, now = facts.pop("staying"), facts.pop("records"), NOON + later
    said = report_source("default", revision, commit, records, (), staying, previous, now, **facts)
    status_linter.check(said, now)
    return said


def unread(why: Blocked, previous: SourceStatus | None, later: timedelta = MINUTE) -> SourceStatus:
    said = report_unread_source("default", why, previous, NOON + later)
    status_linter.check(said, NOON + later)
    return said


def condition(said: SourceStatus, kind: ConditionType) -> Condition | None:
    return next((found for found in said.status.conditions if found.type is kind), None)


def verified(said: SourceStatus) -> tuple[str, str, str, timedelta] | None:
    found = condition(said, ConditionType.SOURCE_VERIFIED)
    if found is None:
        return None
    return found.status, found.reason, found.message, found.last_transition_time - NOON


def message(said: SourceStatus) -> str:
    found = condition(said, ConditionType.READY)
    assert found is not None
    return found.message


def test_what_was_read_names_its_revision_and_its_commit() -> None:
    said = read()
    assert (said.status.observed_revision, said.status.commit) == (COMMIT_REVISION, commit_view(COMMIT))
    assert message(said) == "read completely"
    assert SourceStatus.model_validate_json(said.model_dump_json(by_alias=True)) == said


def test_a_directory_has_a_revision_and_no_commit() -> None:
    said = read(None)
    assert (said.status.observed_revision, said.status.commit) == (REVISION, None)


def test_what_a_person_should_know_of_a_reading_is_told_after_how_it_went() -> None:
    notes = ("history was rewritten: 1a2b3c is no part of main any more", "the submodule lib is left out")
    after = "; ".join(notes)
    assert message(read(notes=notes)) == f"read completely; {after}"
    assert message(read(notes=notes, staying=("web",))) == (
        f"read completely; web not removed: a new file that is invalid may be theirs; {after}"
    )
    assert message(read(notes=notes, staying=("web",), empty=True)) == (
        f"no manifest matches; 1 jobs are held and none is removed; {after}"
    )


def test_who_signed_is_told_and_nothing_where_nobody_was_asked() -> None:
    assert verified(read(SIGNED)) == ("True", "Verified", "signed by ada@example.org", timedelta())
    assert verified(read(COMMIT)) is None
    assert verified(read(None)) is None


def test_a_commit_that_nobody_listed_signed_is_not_read_and_what_was_read_before_stays() -> None:
    said = unread(UNSIGNED, read(SIGNED))
    text = "2b7d0c is not signed (sign it, or see `verify`)"
    assert verified(said) == ("False", "SourceUnverified", text, MINUTE)
    assert [found.type for found in said.status.conditions][:2] == [ConditionType.READY, ConditionType.STALLED]
    assert (said.status.observed_revision, said.status.commit) == (COMMIT_REVISION, commit_view(SIGNED))


def test_a_source_that_was_never_read_may_be_unverified_too() -> None:
    said = unread(UNSIGNED, None)
    assert (said.status.observed_revision, said.status.commit) == (None, None)
    assert verified(said) is not None


def test_while_a_source_is_away_it_is_as_verified_as_it_was() -> None:
    good = read(SIGNED)
    assert verified(unread(AWAY, good, 2 * MINUTE)) == verified(good)
    refused = unread(UNSIGNED, good)
    assert verified(unread(AWAY, refused, 2 * MINUTE)) == verified(refused)
    assert verified(unread(AWAY, read(COMMIT))) is None


def test_a_signed_commit_after_one_that_was_not_is_verified_again() -> None:
    again = read(SIGNED, unread(UNSIGNED, read(SIGNED)), 2 * MINUTE)
    assert verified(again) == ("True", "Verified", "signed by ada@example.org", 2 * MINUTE)


def test_where_signatures_are_no_longer_asked_for_none_is_told_of() -> None:
    assert verified(read(COMMIT, read(SIGNED), MINUTE)) is None


def test_a_document_of_an_earlier_version_is_still_read() -> None:
    document = read(None).model_dump(mode="json", by_alias=True)
    del document["status"]["commit"]
    assert SourceStatus.model_validate(document) == read(None)


# -- held until somebody says what to make of it ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("why", "because"),
    [
        (Reason.STATE_LOST, "there are status files of it, and the database knows nothing of it"),
        (Reason.AWAITING_ADOPTION, "the database has never seen this source, and knows others"),
    ],
)
def test_a_source_that_is_held_is_stalled_and_says_what_to_do(why: Reason, because: str) -> None:
    waiting = [manifest_record(JOB, held=why), manifest_record(OTHER_JOB, held=why)]

    said = read(records=waiting, held=why, notes=("history was rewritten",))

    ready, stalled = (condition(said, kind) for kind in (ConditionType.READY, ConditionType.STALLED))
    assert ready is not None
    assert stalled is not None
    assert (ready.status, ready.reason, stalled.reason) == ("False", why, why)
    assert because in stalled.message
    assert "2 jobs wait (reconciler adopt default --as-done" in stalled.message
    assert stalled.message.endswith("history was rewritten")


def test_only_what_lives_and_is_held_is_counted_as_waiting() -> None:
    why = Reason.STATE_LOST
    records = [manifest_record(JOB, held=why), manifest_record(OTHER_JOB)]
    records += [manifest_record(JobKey("default", "gone"), held=why, removed_at=NOON)]

    stalled = condition(read(records=records, held=why), ConditionType.STALLED)

    assert stalled is not None
    assert "1 job waits" in stalled.message


def test_a_source_that_was_adopted_is_in_order() -> None:
    before = read(held=Reason.STATE_LOST)

    after = read(previous=before, later=MINUTE)

    assert condition(after, ConditionType.STALLED) is None
    ready = condition(after, ConditionType.READY)
    assert ready is not None
    assert (ready.status, ready.last_transition_time) == ("True", NOON + MINUTE)
