"""A directory as a source: links, odd files, copies, and what those who watch it are told of."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import watchfiles

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.directory import DirectorySource
from reconciler.adapters.snapshots import snapshot_tree
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.reasons import Reason
from reconciler.ports import Clock, Snapshot
from tests.fakes.clock import FakeClock

PATIENCE = 60.0
"""Seconds that a test waits for a condition: far more than it takes, for the machine may be busy."""


class Folder:
    """A folder with one manifest and one playbook; `state` is beside it, and `outside` is no part of it."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "source"
        self.state = tmp_path / "state"
        self.outside = tmp_path / "outside"
        self.outside.mkdir()
        (self.outside / "secret.yml").write_text("secret")
        self.write("jobs/a.yaml", "one")
        self.write("playbooks/p.yml", "two")

    def write(self, path: str, content: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    def link(self, path: str, target: str | Path) -> None:
        link = self.root / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)

    @property
    def snapshots(self) -> Path:
        return self.state / "snapshots"

    def source(
        self,
        *,
        state: Path | None = None,
        max_files: int = 1000,
        max_bytes: int = 1_000_000,
        clock: Clock | None = None,
    ) -> DirectorySource:
        state = state or self.state
        return DirectorySource(
            "default",
            self.root,
            state_dir=state,
            snapshots_dir=state / "snapshots",
            max_files=max_files,
            max_bytes=max_bytes,
            clock=clock or SystemClock(),
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def both(source: DirectorySource) -> Iterator[Snapshot]:
    """The directory as it is, and the copy of it."""
    now = source.sync()
    yield now
    yield source.keep(now.revision)


def refusal(snapshot: Snapshot, path: str) -> Reason:
    with pytest.raises(Refused) as refused:
        snapshot.read(path)
    return refused.value.reason


def at_once(step: Callable[[], object]) -> None:
    """Do it, and fail if it does not return."""
    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for something that never comes"


# -- what is in it -----------------------------------------------------------------------------------------------------
def test_links_that_stay_inside_are_what_they_lead_to(folder: Folder) -> None:
    folder.link("jobs/again.yaml", "a.yaml")
    folder.link("playbooks/absolute.yml", folder.root / "playbooks/p.yml")
    folder.link("books", "playbooks")
    for snapshot in both(folder.source()):
        assert list(snapshot.files) == [
            "books/p.yml",
            "jobs/a.yaml",
            "jobs/again.yaml",
            "playbooks/absolute.yml",
            "playbooks/p.yml",
        ]
        assert snapshot.read("jobs/again.yaml") == b"one"
        assert snapshot.read("books/p.yml") == snapshot.read("playbooks/absolute.yml") == b"two"
        assert (snapshot.root / "books" / "p.yml").read_text() == "two"


def test_a_link_that_leaves_is_told_and_never_followed(folder: Folder) -> None:
    folder.link("playbooks/stolen.yml", folder.outside / "secret.yml")
    folder.link("playbooks/up.yml", "../../outside/secret.yml")
    folder.link("roles", folder.outside)
    folder.link("vars", folder.outside / "not-there")
    for snapshot in both(folder.source()):
        for path in ("playbooks/stolen.yml", "playbooks/up.yml", "roles", "roles/secret.yml", "vars", "vars/x.yml"):
            assert refusal(snapshot, path) is Reason.PATH_OUTSIDE_SOURCE
        assert "roles/secret.yml" not in snapshot.files
    assert not (snapshot.root / "roles").is_symlink()
    assert not (snapshot.root / "playbooks" / "stolen.yml").is_symlink()


def test_a_link_that_begins_to_leave_is_another_revision(folder: Folder) -> None:
    source = folder.source()
    before = source.keep(source.sync().revision)
    folder.link("playbooks/stolen.yml", folder.outside / "secret.yml")
    after = source.sync()
    assert after.revision != before.revision
    assert refusal(before, "playbooks/stolen.yml") is Reason.PATH_MISSING
    assert refusal(after, "playbooks/stolen.yml") is Reason.PATH_OUTSIDE_SOURCE


def test_links_that_lead_nowhere_or_in_circles_are_not_there(folder: Folder) -> None:
    folder.link("playbooks/nowhere.yml", "none.yml")
    folder.link("playbooks/self.yml", "self.yml")
    folder.link("playbooks/up", "..")
    folder.link("playbooks/here", ".")
    folder.link("one/two", "../two/one")
    folder.link("two/one", "../one/two")
    for snapshot in both(folder.source()):
        assert list(snapshot.files) == ["jobs/a.yaml", "playbooks/p.yml"]
        assert refusal(snapshot, "playbooks/nowhere.yml") is Reason.PATH_MISSING


def test_what_the_ignore_file_names_is_neither_read_nor_copied(folder: Folder) -> None:
    folder.write("big/deep/blob.bin", "x")
    folder.write("playbooks/p.log", "x")
    folder.write("playbooks/keep.log", "x")
    folder.link("blobs", "big")
    folder.write(".reconcilerignore", "/big/\n*.log\n!keep.log\n")
    for snapshot in both(folder.source()):
        assert list(snapshot.files) == [".reconcilerignore", "jobs/a.yaml", "playbooks/keep.log", "playbooks/p.yml"]
    assert sorted(path.name for path in snapshot.root.iterdir()) == [".reconcilerignore", "jobs", "playbooks"]


def test_a_changed_ignore_file_holds_at_once(folder: Folder) -> None:
    source = folder.source()
    source.sync()
    folder.write(".reconcilerignore", "playbooks/\n")
    assert list(source.sync().files) == [".reconcilerignore", "jobs/a.yaml"]
    (folder.root / ".reconcilerignore").unlink()
    assert list(source.sync().files) == ["jobs/a.yaml", "playbooks/p.yml"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_an_ignore_file_that_is_none_is_told(folder: Folder, make: Callable[[Path], None]) -> None:
    make(folder.root / ".reconcilerignore")

    def sync() -> None:
        with pytest.raises(Unavailable) as unavailable:
            folder.source().sync()
        told.append(unavailable.value.message)

    told: list[str] = []
    at_once(sync)
    assert ".reconcilerignore" in told[0]


def test_git_and_our_own_state_are_no_part_of_it(folder: Folder) -> None:
    state = folder.root / ".reconciler"
    source = folder.source(state=state)
    folder.write(".git/config", "x")
    folder.write("roles/module/.git", "gitdir: elsewhere")
    before = source.sync()
    assert list(before.files) == ["jobs/a.yaml", "playbooks/p.yml"]
    source.keep(before.revision)
    folder.write(".reconciler/status/default/a.yaml", "x")
    assert source.sync().revision == before.revision


def test_a_state_directory_that_is_the_source_itself_is_refused(folder: Folder) -> None:
    with pytest.raises(Refused) as refused:
        folder.source(state=folder.root).sync()
    assert refused.value.reason is Reason.SETTINGS_INVALID


def test_pipes_and_sockets_are_not_waited_for(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder.root / "jobs" / "pipe.yaml")
    monkeypatch.chdir(folder.root)  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("jobs/socket.yaml")
        snapshots: list[Snapshot] = []
        at_once(lambda: snapshots.extend(both(folder.source())))
    for snapshot in snapshots:
        assert list(snapshot.files) == ["jobs/a.yaml", "playbooks/p.yml"]
        assert refusal(snapshot, "jobs/pipe.yaml") is Reason.PATH_MISSING


def test_a_file_that_became_a_pipe_is_not_waited_for(folder: Folder) -> None:
    source = folder.source()
    before = source.sync()
    (folder.root / "jobs" / "a.yaml").unlink()
    os.mkfifo(folder.root / "jobs" / "a.yaml")

    def read() -> None:
        with pytest.raises(Unavailable) as moved:
            before.read("jobs/a.yaml")
        told.append(moved.value.reason)
        told.extend(source.sync().files)

    told: list[str] = []
    at_once(read)
    assert told == [Reason.SOURCE_MOVED, "playbooks/p.yml"]


def test_names_that_are_not_utf_8_are_left_out_and_odd_ones_are_not(folder: Folder) -> None:
    odd = ["jobs/two\nlines.yaml", "jobs/Zürich.yaml", "jobs/ spaces .yaml"]
    for name in odd:
        folder.write(name, "odd")
    root = os.fsencode(folder.root)
    os.close(os.open(root + b"/jobs/\xff.yaml", os.O_CREAT))
    os.mkdir(root + b"/\xfe")  # noqa: PTH102 - Path knows no bytes
    os.close(os.open(root + b"/\xfe/b.yaml", os.O_CREAT))
    for snapshot in both(folder.source()):
        assert list(snapshot.files) == sorted(["jobs/a.yaml", "playbooks/p.yml", *odd])
        assert snapshot.read(odd[0]) == b"odd"


def test_what_may_be_executed_counts_and_is_kept(folder: Folder) -> None:
    script = folder.write("inventory/hosts.sh", "#!/bin/sh\n")
    source = folder.source()
    plain = source.sync()
    script.chmod(0o777)
    executable = source.sync()
    assert executable.revision != plain.revision
    copy = source.keep(executable.revision)
    assert stat.S_IMODE((copy.root / "inventory" / "hosts.sh").stat().st_mode) == 0o755, "only its owner may write"


# -- the folder itself -------------------------------------------------------------------------------------------------
def test_a_folder_that_is_not_there_is_unavailable_until_it_is(folder: Folder) -> None:
    source = folder.source()
    before = source.sync()
    folder.root.rename(folder.root.with_name("away"))
    with pytest.raises(Unavailable) as unavailable:
        source.sync()
    assert unavailable.value.reason is Reason.SOURCE_UNAVAILABLE
    assert str(folder.root) in unavailable.value.message
    folder.root.with_name("away").rename(folder.root)
    assert source.sync().revision == before.revision


def test_a_folder_reached_through_a_link_may_be_exchanged(folder: Folder, tmp_path: Path) -> None:
    releases = folder.root.rename(tmp_path / "release-1")
    folder.root.symlink_to(releases)
    source = folder.source()
    first = source.sync()
    (tmp_path / "release-2" / "jobs").mkdir(parents=True)
    (tmp_path / "release-2" / "jobs" / "a.yaml").write_text("newer")
    folder.root.unlink()
    folder.root.symlink_to(tmp_path / "release-2")
    assert source.sync().read("jobs/a.yaml") == b"newer"
    assert first.read("jobs/a.yaml") == b"one"


# -- copies ------------------------------------------------------------------------------------------------------------
def test_a_copy_keeps_when_its_files_were_changed(folder: Folder) -> None:
    os.utime(folder.root / "jobs" / "a.yaml", ns=(0, 1_500_000_000_123_456_789))
    source = folder.source()
    copy = source.keep(source.sync().revision)
    assert (copy.root / "jobs" / "a.yaml").stat().st_mtime_ns == 1_500_000_000_123_456_789


def test_keeping_twice_makes_one_copy(folder: Folder) -> None:
    source = folder.source()
    revision = source.sync().revision
    first = source.keep(revision)
    made = (first.root / "jobs" / "a.yaml").stat()
    second = folder.source().keep(revision)
    assert second.root == first.root == snapshot_tree(folder.snapshots, revision)
    assert (second.root / "jobs" / "a.yaml").stat() == made
    assert len(list(folder.snapshots.iterdir())) == 1


def test_a_copy_that_was_cut_short_is_made_anew(folder: Folder) -> None:
    source = folder.source()
    revision = source.sync().revision
    copy = source.keep(revision)
    (copy.root / "jobs" / "a.yaml").write_text("")
    (copy.root.parent / "files.json").write_text("")
    assert source.keep(revision).read("jobs/a.yaml") == b"one"
    assert len(list(folder.snapshots.iterdir())) == 1


def test_what_a_playbook_changed_in_its_copy_is_put_right_for_the_next_run(folder: Folder) -> None:
    source = folder.source()
    revision = source.sync().revision
    copy = source.keep(revision)
    (copy.root / "playbooks" / "p.yml").write_text("two, touched")
    (copy.root / "jobs" / "a.yaml").unlink()
    again = source.keep(revision)
    assert (again.root, again.read("playbooks/p.yml"), again.read("jobs/a.yaml")) == (copy.root, b"two", b"one")


def test_a_copy_holds_what_it_says_though_files_change_while_it_is_made(folder: Folder) -> None:
    """Somebody goes on writing. Each copy that is made is whole, and nothing is left of those that were not."""
    for number in range(20):
        folder.write(f"files/{number}.bin", "x" * 1_000_000)  # so that making a copy takes its time
    source = folder.source(max_bytes=100_000_000)
    names = [f"files/{number}.yaml" for number in range(5)]
    draw = random.Random(7)
    stop = threading.Event()

    def edit() -> None:
        while not stop.wait(draw.random() / 5):
            folder.write(draw.choice(names), str(draw.random()) * draw.randrange(1, 2000))

    writer = threading.Thread(target=edit)
    writer.start()
    made: list[Snapshot] = []
    told: set[Reason] = set()
    changed_meanwhile = False
    deadline = time.monotonic() + PATIENCE
    try:
        while not (made and changed_meanwhile) and time.monotonic() < deadline:
            try:
                made.append(source.keep(source.sync().revision))
            except Unavailable as error:
                told.add(error.reason)
                changed_meanwhile |= "changed while the source was read" in error.message
    finally:
        stop.set()
        writer.join()
    assert changed_meanwhile
    assert told == {Reason.SOURCE_MOVED}
    assert made
    for copy in made:
        for path, digest in copy.files.items():
            assert hashlib.sha256((copy.root / path).read_bytes()).hexdigest() == digest
    assert not [path for path in folder.snapshots.iterdir() if ".tmp-" in path.name]


def test_a_file_that_is_written_all_the_time_is_named(folder: Folder) -> None:
    source = folder.source()
    stop = threading.Event()

    def write() -> None:
        with (folder.root / "server.log").open("a") as log:
            while not stop.is_set():
                log.write("line\n")
                log.flush()

    writer = threading.Thread(target=write)
    writer.start()
    told = None
    deadline = time.monotonic() + PATIENCE
    try:
        while told is None and time.monotonic() < deadline:
            try:
                source.sync()
            except Unavailable as error:
                told = error
    finally:
        stop.set()
        writer.join()
    assert told is not None
    assert (told.reason, "server.log" in told.message) == (Reason.SOURCE_MOVED, True)
    assert ".reconcilerignore" in told.hint


def test_release_leaves_what_is_used_what_is_new_and_what_is_being_made(folder: Folder) -> None:
    clock = FakeClock()
    source = folder.source(clock=clock)
    used = source.keep(source.sync().revision)
    folder.write("jobs/a.yaml", "older")
    source.keep(source.sync().revision)
    being_made, left_behind = folder.snapshots / "0.tmp-new", folder.snapshots / "0.tmp-old"
    clock.advance(timedelta(hours=1))
    folder.write("jobs/a.yaml", "newer")
    newer = source.keep(source.sync().revision)
    for path, age in ((being_made, 0), (left_behind, 3600)):
        path.mkdir()
        when = clock.now().timestamp() - age
        os.utime(path, (when, when))
    (folder.snapshots / "stray").write_text("not ours")

    source.release([used.revision])

    assert {path.name for path in folder.snapshots.iterdir()} == {
        used.root.parent.name,
        newer.root.parent.name,
        being_made.name,
    }
    clock.advance(timedelta(hours=1))
    source.release([])
    assert list(folder.snapshots.iterdir()) == []


def test_releasing_before_anything_was_copied_is_no_matter(folder: Folder) -> None:
    folder.source().release([])
    assert not folder.snapshots.exists()


# -- watching ----------------------------------------------------------------------------------------------------------
class Watch:
    """`calls` counts how often the source said that something changed; `error` is what ended the watching."""

    def __init__(self, source: DirectorySource) -> None:
        self.calls = 0
        self.error: Unavailable | None = None
        self.stop = threading.Event()
        self._source = source
        self._called = threading.Condition()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self) -> None:
        try:
            self._source.watch(self._count, self.stop)
        except Unavailable as error:
            self.error = error

    def _count(self) -> None:
        with self._called:
            self.calls += 1
            self._called.notify_all()

    def wait_for_call(self, number: int) -> None:
        with self._called:
            assert self._called.wait_for(lambda: self.calls >= number, PATIENCE), f"only {self.calls} calls"

    def ended(self) -> bool:
        self.thread.join(PATIENCE)
        return not self.thread.is_alive()


@contextmanager
def watching(source: DirectorySource) -> Iterator[Watch]:
    """From the moment on that it has begun."""
    watch = Watch(source)
    try:
        watch.wait_for_call(1)
        yield watch
    finally:
        watch.stop.set()
        assert watch.ended()


def test_watching_calls_once_when_it_has_begun_and_stops_when_told_to(folder: Folder) -> None:
    with watching(folder.source()) as watch:
        watch.stop.set()
        assert watch.ended()
        assert (watch.calls, watch.error) == (1, None)


def test_watching_a_folder_that_is_not_there_is_told(folder: Folder) -> None:
    folder.root.rename(folder.root.with_name("away"))
    watch = Watch(folder.source())
    assert watch.ended()
    assert watch.error is not None
    assert watch.error.reason is Reason.SOURCE_UNAVAILABLE
    assert watch.calls == 0


def test_a_folder_that_vanishes_ends_the_watching_and_can_be_watched_again_when_it_is_back(folder: Folder) -> None:
    source = folder.source()
    with watching(source) as watch:
        folder.root.rename(folder.root.with_name("away"))
        assert watch.ended()
        assert watch.error is not None
        assert watch.error.reason is Reason.SOURCE_UNAVAILABLE
    folder.root.with_name("away").rename(folder.root)
    with watching(source) as watch:
        folder.write("jobs/a.yaml", "back again")
        watch.wait_for_call(2)


def test_a_folder_that_is_exchanged_goes_on_being_watched(folder: Folder, tmp_path: Path) -> None:
    for release in ("release-1", "release-2"):
        (tmp_path / release / "jobs").mkdir(parents=True)
    current = tmp_path / "current"
    current.symlink_to("release-1")
    folder.root = current
    with watching(folder.source()) as watch:
        (tmp_path / "next").symlink_to("release-2")
        (tmp_path / "next").rename(current)
        watch.wait_for_call(2)
        (tmp_path / "release-2" / "jobs" / "b.yaml").touch()
        watch.wait_for_call(3)
        assert watch.error is None


def edits_are_told(watch: Watch, file: Path) -> None:
    """More edits than there can be calls for other reasons, each told after it was made."""
    for number in range(6):
        before = watch.calls
        file.write_text(f"edit {number}")
        watch.wait_for_call(before + 1)


def test_folders_that_come_while_it_is_watched_are_watched_too(folder: Folder) -> None:
    with watching(folder.source()) as watch:
        for path in ("roles/web/tasks/main.yml", "roles/web/handlers/main.yml", "deep/down/below/all/of/it.yml"):
            edits_are_told(watch, folder.write(path, "first"))


def test_a_folder_that_is_made_again_goes_on_being_watched(folder: Folder) -> None:
    with watching(folder.source()) as watch:
        for _ in range(3):
            (folder.root / "jobs" / "a.yaml").unlink()
            (folder.root / "jobs").rmdir()
            edits_are_told(watch, folder.write("jobs/a.yaml", "made again"))


def test_a_folder_that_is_no_longer_ignored_is_watched(folder: Folder) -> None:
    folder.write(".reconcilerignore", "/later/\n")
    late = folder.write("later/jobs/b.yaml", "b")
    with watching(folder.source()) as watch:
        folder.write(".reconcilerignore", "# nothing\n")
        watch.wait_for_call(2)
        edits_are_told(watch, late)


def test_a_name_that_is_not_utf_8_does_not_end_the_watching(folder: Folder) -> None:
    with watching(folder.source()) as watch:
        for number in range(3):
            name = os.fsencode(folder.root / "jobs") + b"/\xff%d" % number
            os.close(os.open(name, os.O_CREAT))
            edits_are_told(watch, folder.root / "jobs" / "a.yaml")
        assert watch.error is None


@pytest.mark.parametrize("where", ["ignored", "state", "git", "outside", "file"])
def test_what_is_no_part_of_it_is_not_told(folder: Folder, where: str) -> None:
    """Proven with a second watcher: after it has seen many such changes, one by one, a real one is the first call."""
    folder.write(".reconcilerignore", "/ignored/\n*.log\n")
    folder.link("linked", folder.outside)
    place = {
        "ignored": folder.root / "ignored" / "deep",
        "state": folder.root / ".reconciler" / "status",
        "git": folder.root / ".git" / "objects",
        "outside": folder.outside,
        "file": folder.root / "jobs",
    }[where]
    place.mkdir(parents=True, exist_ok=True)
    noise, real = place / ("noise.log" if where == "file" else "noise.yml"), folder.root / "playbooks" / "p.yml"
    noise.touch()
    seen = watchfiles.watch(place, debounce=100, step=30, watch_filter=None, rust_timeout=100, yield_on_timeout=True)
    next(seen)
    with watching(folder.source(state=folder.root / ".reconciler")) as watch:
        for number in range(20):
            noise.chmod(0o600 + number)
            wait_until(lambda: next(seen))
        real.chmod(0o600)  # one event: what is written in several steps may be told in several calls
        watch.wait_for_call(2)
        assert watch.calls == 2
    seen.close()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
