"""A directory is only as large as a run can copy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason
from tests.adapters.test_directory import Folder, at_once


@pytest.mark.parametrize(
    ("max_files", "max_bytes", "said"),
    [(2, 6, None), (1, 6, "more than the 1 files"), (2, 5, "more than the 5 bytes that a run may copy; it has 6")],
)
def test_a_source_is_bounded(tmp_path: Path, max_files: int, max_bytes: int, said: str | None) -> None:
    folder = Folder(tmp_path)
    source = folder.source(max_files=max_files, max_bytes=max_bytes)
    if said is None:
        revision = source.sync().revision
        assert source.keep(revision).revision == revision
        return
    with pytest.raises(Refused) as refused:
        source.sync()
    assert refused.value.reason is Reason.SOURCE_TOO_LARGE
    assert said in refused.value.message
    assert ".reconcilerignore" in refused.value.hint


def test_a_source_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    os.truncate(folder.write("backup.img", ""), 1 << 40)
    source = folder.source()

    def refused() -> None:
        with pytest.raises(Refused, match="more than the 1,000,000 bytes"):
            source.sync()

    at_once(refused)
    folder.write(".reconcilerignore", "backup.img\n")
    assert "backup.img" not in source.sync().files


def test_a_copy_that_was_made_stays_though_the_source_has_grown_too_large(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    source = folder.source(max_bytes=10)
    revision = source.sync().revision
    source.keep(revision)
    folder.write("more", "x" * 10)
    assert source.keep(revision).read("jobs/a.yaml") == b"one"


def test_what_is_ignored_does_not_count_for_the_bounds(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("big/blob.bin", "x" * 1000)
    folder.write(".reconcilerignore", "big/\n")
    source = folder.source(max_files=3, max_bytes=100)
    assert source.keep(source.sync().revision).read("jobs/a.yaml") == b"one"
