"""Status files: whole at every moment, touched only when they say something new, and readable by anything."""

from __future__ import annotations

import errno
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from reconciler.adapters import statusfile
from reconciler.adapters.statusfile import StatusFiles
from reconciler.core.errors import Unavailable
from reconciler.core.facts import ChildStatus, JobKey
from reconciler.core.manifest import Strategy
from reconciler.core.status import (
    ChildView,
    Condition,
    ConditionType,
    JobMetadata,
    JobStatus,
    JobStatusBody,
    ManifestCounts,
    Phase,
    RejectedView,
    SourceMetadata,
    SourceStatus,
    SourceStatusBody,
)

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
KEY = JobKey("default", "patch-web")


def job_status(message: str = "wave 1 of 2 is running", **children: str) -> JobStatus:
    ready = Condition(
        type=ConditionType.READY,
        status="False",
        reason="Progressing",
        message=message,
        last_transition_time=NOON,
        observed_generation=3,
    )
    return JobStatus(
        metadata=JobMetadata(name=KEY.name, source=KEY.source, path="jobs/patch-web.yaml", generation=3),
        status=JobStatusBody(
            observed_generation=3,
            phase=Phase.RUNNING,
            message=message,
            progress="0/5 completed, 0 failed",
            revision="main@sha1:" + "8f2c" * 10,
            strategy=Strategy.PARALLEL,
            playbook="playbooks/patch.yml",
            conditions=(ready,),
            children=tuple(
                ChildView(host=host, job_id=f"job-{host}", wave=1, status=ChildStatus.FAILED, attempt=1, message=text)
                for host, text in children.items()
            ),
        ),
    )


def source_status() -> SourceStatus:
    rejected = RejectedView(
        path="jobs/bad.yaml", document=1, name=None, line=3, column=7, message="unknown field `limt`", hint="limit?"
    )
    return SourceStatus(
        metadata=SourceMetadata(name="default"),
        status=SourceStatusBody(
            observed_revision=None,
            last_sync=NOON,
            manifests=ManifestCounts(accepted=1, rejected=1),
            conditions=(),
            rejected=(rejected,),
        ),
    )


def test_a_job_and_its_source_lie_side_by_side(tmp_path: Path) -> None:
    files = StatusFiles(tmp_path)
    files.write(job_status())
    files.write_source(source_status())

    folder = tmp_path / "status" / "default"
    assert sorted(path.name for path in folder.iterdir()) == ["_source.yaml", "patch-web.yaml"]
    job = yaml.safe_load((folder / "patch-web.yaml").read_text())
    assert job == job_status().model_dump(mode="json", by_alias=True)
    assert list(job) == ["apiVersion", "kind", "metadata", "status"]
    assert job["status"]["conditions"][0]["lastTransitionTime"] == "2026-11-23T12:00:00Z"
    assert job["status"]["run"] is None
    assert yaml.safe_load((folder / "_source.yaml").read_text())["status"]["rejected"][0]["line"] == 3


def test_a_document_comes_back_as_it_was_whatever_a_host_says(tmp_path: Path) -> None:
    status = job_status(
        umlaut="Paket „größer“ fehlt ✓",
        lines="first\n  second: indented\n\nlast\n",
        trailing="ends in a space \nand goes on",
        looks="no",
        number="0644",
        control="bell \x07, tab \t, return \r",
        long="word " * 200,
        empty="",
    )
    StatusFiles(tmp_path).write(status)
    text = (tmp_path / "status/default/patch-web.yaml").read_text(encoding="utf-8")
    assert JobStatus.model_validate(yaml.safe_load(text)) == status
    assert "„größer“" in text
    assert "&id" not in text
    assert "{host" not in text


def test_the_same_status_again_leaves_the_file_alone(tmp_path: Path) -> None:
    files = StatusFiles(tmp_path)
    files.write(job_status())
    path = files.path_of(KEY)
    before = path.stat()
    files.write(job_status())
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    files.write(job_status("wave 2 of 2 is running"))
    assert path.stat().st_ino != before.st_ino


def test_a_file_that_somebody_edited_is_put_right_again(tmp_path: Path) -> None:
    files = StatusFiles(tmp_path)
    files.write(job_status())
    good = files.path_of(KEY).read_bytes()
    files.path_of(KEY).write_text("phase: whatever")
    files.write(job_status())
    assert files.path_of(KEY).read_bytes() == good


def test_a_file_that_somebody_removed_is_there_again(tmp_path: Path) -> None:
    files = StatusFiles(tmp_path)
    path = tmp_path / "status/default/patch-web.yaml"
    for _ in range(3):
        files.write(job_status())
        path.unlink()
    files.write(job_status())
    assert JobStatus.model_validate(yaml.safe_load(path.read_text())) == job_status()


def test_what_has_nothing_new_to_say_is_not_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = StatusFiles(tmp_path)
    files.write(job_status())
    files.write_source(source_status())
    monkeypatch.setattr(statusfile, "render", lambda _: pytest.fail("rendered once more"))
    files.write(job_status())
    files.write_source(source_status())


def test_a_reader_never_sees_half_a_document(tmp_path: Path) -> None:
    files = StatusFiles(tmp_path)
    small, large = job_status(), job_status(**{f"host-{number}": "it went wrong" for number in range(100)})
    files.write(small)
    path = files.path_of(KEY)
    whole = {path.read_bytes()}
    files.write(large)
    whole.add(path.read_bytes())
    done = threading.Event()

    def write() -> None:
        try:
            for number in range(100):
                files.write(small if number % 2 else large)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_bytes())
    writer.join()
    assert seen <= whole


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        StatusFiles(tmp_path).write(job_status())
    finally:
        os.umask(before)
    assert (tmp_path / "status/default/patch-web.yaml").stat().st_mode & 0o777 == 0o640


def test_a_write_that_fails_is_told_and_counted(tmp_path: Path) -> None:
    files = StatusFiles(tmp_path)
    (tmp_path / "status").write_text("in the way")
    with pytest.raises(OSError, match="status"):
        files.write(job_status())
    with pytest.raises(OSError, match="status"):
        files.write_source(source_status())
    assert files.write_errors == 2


def test_a_full_disk_leaves_the_old_document_and_no_scraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = StatusFiles(tmp_path)
    files.write(job_status())
    before = files.path_of(KEY).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(job_status("wave 2 of 2 is running"))
    assert files.path_of(KEY).read_bytes() == before
    assert [path.name for path in files.path_of(KEY).parent.iterdir()] == ["patch-web.yaml"]
    assert files.write_errors == 1


def test_removing_twice_is_no_harm(tmp_path: Path) -> None:
    files = StatusFiles(tmp_path)
    files.write(job_status())
    files.remove(KEY)
    files.remove(KEY)
    assert not files.path_of(KEY).exists()
    assert files.write_errors == 0


# -- what is there already -------------------------------------------------------------------------------------------
def test_jobs_that_were_written_are_there_and_others_not(tmp_path: Path) -> None:
    files = StatusFiles(tmp_path)
    assert not files.has_jobs("default")
    assert not files.has_job(KEY)

    files.write(job_status())

    assert files.has_job(KEY)
    assert files.has_jobs("default")
    assert not files.has_jobs("lab")
    assert not files.has_job(JobKey("default", "nobody"))
    assert StatusFiles(tmp_path).has_job(KEY), "whoever wrote it"


def test_one_that_leads_nowhere_hides_no_other(tmp_path: Path) -> None:
    files = StatusFiles(tmp_path)
    files.write(job_status())
    for name in ("a", "z"):
        files.path_of(JobKey("default", name)).symlink_to("nowhere")

    assert files.has_jobs("default")


def test_a_source_of_which_no_job_is_there_has_none(tmp_path: Path) -> None:
    files = StatusFiles(tmp_path)
    files.write_source(source_status())
    never_valid = job_status().metadata.model_copy(update={"name": "never-valid", "generation": 0})
    files.write(job_status().model_copy(update={"metadata": never_valid}))
    (tmp_path / "status/default/.patch-web.yaml.1a2b3c4d").write_text("the half of a document")

    assert not files.has_jobs("default")
    assert not files.has_job(JobKey("default", "never-valid"))


@pytest.mark.parametrize("content", ["", "[]", "{", "metadata: {}", "metadata: {generation: {}}", "\x00", "- - -"])
def test_a_document_that_nobody_can_read_may_be_one_of_a_job(tmp_path: Path, content: str) -> None:
    files = StatusFiles(tmp_path)
    files.write(job_status())
    files.path_of(KEY).write_text(content)

    assert files.has_job(KEY)
    assert files.has_jobs("default")


def test_what_can_not_be_looked_at_is_not_taken_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    (tmp_path / "status" / "default").symlink_to("default")

    with pytest.raises(Unavailable, match="whether there are status files can't be told"):
        StatusFiles(tmp_path).has_jobs("default")
    with pytest.raises(Unavailable, match="whether there are status files can't be told"):
        StatusFiles(tmp_path).has_job(KEY)


def test_where_there_is_no_folder_there_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("no folder")

    assert not StatusFiles(tmp_path).has_jobs("default")
    assert not StatusFiles(tmp_path).has_job(KEY)
