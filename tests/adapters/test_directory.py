"""A directory as a source: a folder that others edit while it is read."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.adapters import directory
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.directory import UNREADABLE, DirectorySource
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.reasons import Reason
from tests.fakes.clock import FakeClock

SOON = 30.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    write(folder / "jobs/a.yaml", "one")
    return folder


def write(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def source_of(
    root: Path, *, state: Path | None = None, max_files: int = 1000, max_bytes: int = 1_000_000, clock: object = None
) -> DirectorySource:
    state = state or root.parent / "state"
    return DirectorySource(
        "default",
        root,
        state_dir=state,
        snapshots_dir=state / "snapshots",
        max_files=max_files,
        max_bytes=max_bytes,
        clock=clock if isinstance(clock, FakeClock) else SystemClock(),
    )


def files(root: Path) -> list[str]:
    return list(source_of(root).sync().files)


# -- what is in it -----------------------------------------------------------------------------------------------------
def test_git_and_our_own_state_are_not_part_of_the_source(root: Path) -> None:
    write(root / ".git/config")
    write(root / "roles/x/.git")
    write(root / ".gitignore")
    write(root / ".reconciler/reconciler.db")
    write(root / ".reconciler/snapshots/x/tree/jobs/a.yaml")
    found = source_of(root, state=root / ".reconciler").sync().files
    assert list(found) == [".gitignore", "jobs/a.yaml"]


def test_what_the_ignore_file_names_is_not_part_of_the_source(root: Path) -> None:
    write(root / ".reconcilerignore", "*.log\nbig/\n!keep.log\n")
    write(root / "jobs/run.log")
    write(root / "jobs/keep.log")
    write(root / "big/data")
    assert files(root) == [".reconcilerignore", "jobs/a.yaml", "jobs/keep.log"]


def test_links_inside_are_followed_and_those_that_leave_are_not(root: Path) -> None:
    outside = write(root.parent / "outside/secret", "hidden").parent
    write(root / "shared/tasks/main.yml", "tasks")
    (root / "jobs/b.yaml").symlink_to("a.yaml")
    (root / "roles").symlink_to("shared")
    (root / "absolute").symlink_to(root / "jobs/a.yaml")
    (root / "loop").symlink_to(".")
    (root / "dangling").symlink_to("nothing")
    (root / "stolen").symlink_to(outside / "secret")
    (root / "stolen_folder").symlink_to(outside)
    snapshot = source_of(root).sync()
    assert list(snapshot.files) == [
        "absolute",
        "jobs/a.yaml",
        "jobs/b.yaml",
        "roles/tasks/main.yml",
        "shared/tasks/main.yml",
    ]
    assert snapshot.read("roles/tasks/main.yml") == b"tasks"
    for path in ("stolen", "stolen_folder/secret"):
        with pytest.raises(Refused) as refused:
            snapshot.read(path)
        assert refused.value.reason is Reason.PATH_OUTSIDE_SOURCE


def test_a_link_into_git_is_not_followed(root: Path) -> None:
    write(root / ".git/config", "token")
    (root / "config").symlink_to(".git/config")
    assert files(root) == ["jobs/a.yaml"]


def test_pipes_and_names_that_are_not_utf8_are_passed_over(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))).touch()
    assert files(root) == ["jobs/a.yaml"]


def test_the_revision_knows_what_may_be_executed(root: Path) -> None:
    source = source_of(root)
    before = source.sync().revision
    (root / "jobs/a.yaml").chmod(0o755)
    assert source.sync().revision != before


def test_a_touched_file_is_no_change(root: Path) -> None:
    source = source_of(root)
    before = source.sync()
    os.utime(root / "jobs/a.yaml")
    assert source.sync() is before


# -- what can't be read ------------------------------------------------------------------------------------------------
@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A source that another user may look into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        write(Path(folder) / "source/jobs/a.yaml", "one")
        yield Path(folder) / "source"


def test_a_file_without_permission_is_there_and_refused_when_read(open_root: Path) -> None:
    secret = write(open_root / "jobs/secret.yaml", "content")
    secret.chmod(0)
    with as_nobody():
        source = source_of(open_root)
        snapshot = source.sync()
        assert snapshot.files["jobs/secret.yaml"] == UNREADABLE
        assert source.sync().revision == snapshot.revision
        with pytest.raises(Refused) as refused:
            snapshot.read("jobs/secret.yaml")
    assert refused.value.reason is Reason.PATH_UNREADABLE
    assert "jobs/secret.yaml" in refused.value.message


def test_permission_given_later_is_noticed(open_root: Path) -> None:
    secret = write(open_root / "jobs/secret.yaml", "content")
    secret.chmod(0)
    source = source_of(open_root)
    with as_nobody():
        source.sync()
    secret.chmod(0o644)
    with as_nobody():
        assert source.sync().read("jobs/secret.yaml") == b"content"


def test_a_folder_that_can_not_be_read_is_half_a_source(open_root: Path) -> None:
    (open_root / "jobs").chmod(0)
    with as_nobody(), pytest.raises(Unavailable) as unavailable:
        source_of(open_root).sync()
    assert unavailable.value.reason is Reason.SOURCE_UNAVAILABLE
    assert ".reconcilerignore" in unavailable.value.hint


@pytest.mark.parametrize("make", [lambda root: None, lambda root: root.write_text("a file")])
def test_a_root_that_is_no_folder_is_unavailable(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "source")
    with pytest.raises(Unavailable) as unavailable:
        source_of(tmp_path / "source").sync()
    assert unavailable.value.reason is Reason.SOURCE_UNAVAILABLE


# -- what it costs, and what moves -------------------------------------------------------------------------------------
def test_files_that_did_not_change_are_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    clock.advance(timedelta(days=36500))  # every file is older than the time it takes to trust it
    source = source_of(root, clock=clock)
    write(root / "jobs/b.yaml", "two")
    source.sync()
    read: list[str] = []
    hash_file = directory._hash_file
    monkeypatch.setattr(directory, "_hash_file", lambda root, path: read.append(path) or hash_file(root, path))  # type: ignore[func-returns-value]
    source.sync()
    assert read == []
    write(root / "jobs/b.yaml", "TWO")
    source.sync()
    assert read == ["jobs/b.yaml"]


def test_a_change_that_leaves_size_and_times_alone_is_found_while_the_file_is_young(root: Path) -> None:
    source = source_of(root)
    for number in range(200):
        write(root / "jobs/a.yaml", f"{number:04}")
        assert source.sync().read("jobs/a.yaml") == f"{number:04}".encode()


def test_a_file_that_is_written_all_the_time_is_never_taken_by_half(root: Path) -> None:
    """A writer that truncates and writes: what is taken is one of its states, and the digest that of the content."""
    source, stop = source_of(root), threading.Event()
    states = {b"", b"a" * 200_000, b"b" * 200_000}

    def keep_writing() -> None:
        while not stop.is_set():
            for state in states:
                (root / "jobs/a.yaml").write_bytes(state)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    taken = 0
    try:
        limit = time.monotonic() + SOON
        while taken < 20 and time.monotonic() < limit:
            try:
                content = source.sync().read("jobs/a.yaml")
            except Unavailable as error:
                assert error.reason is Reason.SOURCE_MOVED  # noqa: PT017
                continue
            assert content in states
            taken += 1
    finally:
        stop.set()
        writer.join()
    assert taken


def test_saving_by_renaming_away_is_not_a_removal(root: Path) -> None:
    """Many editors save so: the file is renamed, and a new one written a moment later."""
    source = source_of(root)
    source.sync()
    (root / "jobs/a.yaml").rename(root / "jobs/a.yaml~")
    editor = threading.Timer(directory.SETTLING / 4, lambda: write(root / "jobs/a.yaml", "saved"))
    editor.start()
    try:
        assert source.sync().read("jobs/a.yaml") == b"saved"
    finally:
        editor.join()


# -- copies ------------------------------------------------------------------------------------------------------------
def test_a_copy_keeps_modes_and_links_and_nobody_else_may_write_it(root: Path) -> None:
    write(root / "inventory/hosts.sh", "#!/bin/sh\n").chmod(0o777)
    write(root / "keys/id", "key").chmod(0o600)
    (root / "here.yaml").symlink_to(root / "jobs/a.yaml")
    (root / "linked").symlink_to("jobs")
    source = source_of(root)
    copy = source.keep(source.sync().revision)
    assert stat.S_IMODE((copy.root / "inventory/hosts.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((copy.root / "keys/id").stat().st_mode) == 0o600
    assert (copy.root / "here.yaml").readlink() == Path("jobs/a.yaml")
    assert (copy.root / "linked/a.yaml").resolve() == copy.root.resolve() / "jobs/a.yaml"
    shutil.rmtree(root)
    assert copy.read("linked/a.yaml") == copy.read("here.yaml") == b"one"
    assert source_of(copy.root).sync().revision != copy.revision  # fewer may write and execute: said, not hidden


def test_a_copy_of_a_copy_is_the_same_revision(root: Path) -> None:
    write(root / "run.sh", "#!/bin/sh\n").chmod(0o755)
    (root / "linked").symlink_to("jobs")
    source = source_of(root)
    copy = source.keep(source.sync().revision)
    assert source_of(copy.root).sync().revision == copy.revision


@pytest.mark.parametrize(
    ("bounds", "says"),
    [({"max_files": 2}, "3 files, more than the 2"), ({"max_bytes": 1000}, "2,003 bytes, more than the 1,000")],
)
def test_a_directory_that_is_too_large_is_refused(root: Path, bounds: dict[str, int], says: str) -> None:
    write(root / "b", "x" * 1000)
    write(root / "c", "x" * 1000)
    source = source_of(root, **bounds)
    with pytest.raises(Refused, match=says) as refused:
        source.keep(source.sync().revision)
    assert refused.value.reason is Reason.SOURCE_TOO_LARGE
    assert ".reconcilerignore" in refused.value.hint


def test_a_change_during_the_copy_leaves_nothing_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(root)
    revision = source.sync().revision
    copy_file = directory._copy_file

    def change_first(tree: Path, copy: Path, path: str, digest: str) -> None:
        write(root / "jobs/a.yaml", "changed")
        copy_file(tree, copy, path, digest)

    monkeypatch.setattr(directory, "_copy_file", change_first)
    with pytest.raises(Unavailable) as moved:
        source.keep(revision)
    assert moved.value.reason is Reason.SOURCE_MOVED
    assert source.kept(revision) is None
    assert list((root.parent / "state/snapshots").iterdir()) == []


def test_a_copy_just_made_is_left_alone_and_so_is_one_being_made(root: Path) -> None:
    clock = FakeClock(SystemClock().now())
    source = source_of(root, clock=clock)
    copy = source.keep(source.sync().revision)
    being_made = root.parent / "state/snapshots/x.tmp-y"
    being_made.mkdir()
    source.release([])
    assert copy.root.is_dir()
    assert being_made.is_dir()
    clock.advance(timedelta(hours=1))
    source.release([])
    assert list((root.parent / "state/snapshots").iterdir()) == []


def test_a_copy_that_can_not_be_written_is_no_crash(root: Path) -> None:
    write(root.parent / "state", "a file where the folder should be")
    source = source_of(root)
    with pytest.raises(Unavailable) as unavailable:
        source.keep(source.sync().revision)
    assert unavailable.value.reason is Reason.SOURCE_UNAVAILABLE


# -- watching ----------------------------------------------------------------------------------------------------------
class Watcher(threading.Thread):
    def __init__(self, source: DirectorySource) -> None:
        super().__init__()
        self._source = source
        self.stop = threading.Event()
        self.seen = threading.Semaphore(0)
        self.error: Unavailable | None = None

    def run(self) -> None:
        try:
            self._source.watch(self.seen.release, self.stop)
        except Unavailable as error:
            self.error = error

    def __enter__(self) -> Watcher:
        self.start()
        assert self.seen.acquire(timeout=SOON), "watching has not begun"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join(SOON)
        assert not self.is_alive()


def test_our_own_state_and_what_is_ignored_wake_nobody(root: Path) -> None:
    write(root / ".reconcilerignore", "*.log\n")
    (root / ".git").mkdir()
    source = source_of(root, state=root / ".reconciler")
    (root / ".reconciler").mkdir()
    source.sync()
    with Watcher(source) as watcher:
        write(root / ".reconciler/reconciler.db", "busy")
        write(root / ".git/index", "busy")
        write(root / "jobs/run.log", "busy")
        assert not watcher.seen.acquire(timeout=1.5)
        write(root / "jobs/a.yaml", "edited")
        assert watcher.seen.acquire(timeout=SOON)


def test_a_folder_made_later_is_watched_too(root: Path) -> None:
    with Watcher(source_of(root)) as watcher:
        write(root / "jobs/new/b.yaml", "one")
        assert watcher.seen.acquire(timeout=SOON)
        for number in range(100):
            write(root / "jobs/new/b.yaml", f"edit {number}")
            if watcher.seen.acquire(timeout=SOON / 100):
                return
    pytest.fail("changes in the new folder were not noticed")


def test_a_root_that_vanishes_is_said(root: Path) -> None:
    watcher = Watcher(source_of(root))
    with watcher:
        shutil.rmtree(root)
        watcher.join(SOON)
    assert watcher.error is not None
    assert watcher.error.reason is Reason.SOURCE_UNAVAILABLE


def test_a_root_that_is_not_there_can_not_be_watched(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        source_of(tmp_path / "nowhere").watch(lambda: None, threading.Event())
