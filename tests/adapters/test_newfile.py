"""A new file is whole or not there, and never written through or over anything."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.adapters.newfile import put_new, take_away, why_not_new
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.reasons import Reason


def tree(root: Path) -> dict[str, str]:
    """Everything below, folders with an empty content and links with where they lead."""
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else ""
    return found


def refused(root: Path, path: str) -> ReconcilerError:
    before = tree(root)
    with pytest.raises((Refused, Unavailable)) as caught:
        put_new(root, path, b"new")
    assert tree(root) == before
    assert isinstance(caught.value, Refused | Unavailable)
    return caught.value


def test_it_is_there_with_the_folders_that_it_needs(tmp_path: Path) -> None:
    assert why_not_new(tmp_path, "jobs/deep/new.yaml") is None
    put_new(tmp_path, "jobs/deep/new.yaml", b"new\n")
    put_new(tmp_path, "top.yaml", b"top\n")
    assert tree(tmp_path) == {"jobs": "", "jobs/deep": "", "jobs/deep/new.yaml": "new\n", "top.yaml": "top\n"}
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "top.yaml").stat().st_mode) == 0o666 & ~umask
    take_away(tmp_path, "jobs/deep/new.yaml")
    take_away(tmp_path, "jobs/deep/new.yaml")
    assert tree(tmp_path) == {"jobs": "", "jobs/deep": "", "top.yaml": "top\n"}


def _a_file(root: Path) -> None:
    (root / "jobs").mkdir()
    (root / "jobs" / "new.yaml").write_text("theirs")


def _a_folder(root: Path) -> None:
    (root / "jobs" / "new.yaml").mkdir(parents=True)


def _a_link_to_nowhere(root: Path) -> None:
    (root / "jobs").mkdir()
    (root / "jobs" / "new.yaml").symlink_to("../outside")


def _a_link_on_the_way(root: Path) -> None:
    (root / "real").mkdir()
    (root / "jobs").symlink_to("real")


def _a_link_out(root: Path) -> None:
    (root / "jobs").symlink_to(root.parent)


def _a_file_on_the_way(root: Path) -> None:
    (root / "jobs").write_text("a file")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_a_file, Reason.NAME_TAKEN),
        (_a_folder, Reason.NAME_TAKEN),
        (_a_link_to_nowhere, Reason.NAME_TAKEN),
        (_a_link_on_the_way, Reason.PATH_OUTSIDE_SOURCE),
        (_a_link_out, Reason.PATH_OUTSIDE_SOURCE),
        (_a_file_on_the_way, Reason.PATH_OUTSIDE_SOURCE),
    ],
)
def test_what_is_in_its_way_stays(tmp_path: Path, spoil: Callable[[Path], None], reason: Reason) -> None:
    root = tmp_path / "source"
    root.mkdir()
    spoil(root)
    error = refused(root, "jobs/new.yaml")
    assert (type(error), error.reason, bool(error.hint)) == (Refused, reason, True)
    beforehand = why_not_new(root, "jobs/new.yaml")
    assert beforehand is not None
    assert (beforehand.reason, beforehand.message) == (error.reason, error.message)


def test_a_root_may_be_a_link_and_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    (tmp_path / "current").symlink_to("releases")
    put_new(tmp_path / "current", "jobs/new.yaml", b"new")
    assert (tmp_path / "releases" / "jobs" / "new.yaml").read_bytes() == b"new"
    with pytest.raises(Unavailable):
        put_new(tmp_path / "nowhere", "jobs/new.yaml", b"new")
    assert isinstance(why_not_new(tmp_path / "nowhere", "jobs/new.yaml"), Unavailable)


def test_of_many_who_write_the_same_one_is_there_whole(tmp_path: Path) -> None:
    def put(number: int) -> Reason | None:
        try:
            put_new(tmp_path, "jobs/new.yaml", bytes([number + 65]) * 100_000)
        except Refused as error:
            return error.reason
        return None

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(put, range(8)), key=str) == [Reason.NAME_TAKEN] * 7 + [None]
    content = (tmp_path / "jobs" / "new.yaml").read_bytes()
    assert (len(content), len(set(content))) == (100_000, 1)
    assert list(tree(tmp_path)) == ["jobs", "jobs/new.yaml"]


def test_a_full_disk_leaves_nothing_not_even_a_folder(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        error = refused(tmp_path, "jobs/deep/new.yaml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (type(error), bool(error.hint)) == (Unavailable, True)


def test_who_may_not_write_there_is_told_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    as_somebody = os.geteuid() == 0  # whom permissions do not stop
    if as_somebody:
        os.seteuid(65534)
    try:
        with pytest.raises(Unavailable) as caught:
            put_new(tmp_path, "jobs/new.yaml", b"new")
    finally:
        if as_somebody:
            os.seteuid(0)
        tmp_path.chmod(0o755)
    assert (caught.value.reason, bool(caught.value.hint)) == (Reason.NOT_WRITTEN, True)
    assert tree(tmp_path) == {}
