"""What every source promises: one suite, run on each of them and on the fake of the engine's tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.adapters.directory import DirectorySource
from reconciler.adapters.git import Access, Followed, Git, GitSource, LocalOrigin, RemoteOrigin
from reconciler.adapters.snapshots import Copies, snapshot_tree
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import Revision
from reconciler.core.reasons import Reason
from reconciler.core.repository import parse_address
from reconciler.ports import Snapshot, Source
from tests.fakes.clock import FakeClock
from tests.fakes.source import FakeSource
from tests.gitrepo import make_remote, make_repository

LATER = timedelta(hours=1)
SOON = 30.0


@dataclass
class Editable:
    """A source, and how to change what is in it. `again` is the same source in a new process."""

    source: Source
    clock: FakeClock
    write: Callable[[str, str], None]
    remove: Callable[[str], None]
    again: Callable[[], Source]
    has_copy: Callable[[Revision], bool]
    remembers: bool = False
    """Whether what it was once can still be read."""
    tells: bool = True
    """Whether it notices changes by itself."""


def a_fake(_: Path) -> Editable:
    fake = FakeSource()
    return Editable(fake, FakeClock(), fake.write, fake.remove, lambda: fake, fake.has_copy)


def copies_in(folder: Path) -> Callable[[Revision], bool]:
    return lambda revision: snapshot_tree(folder, revision) is not None


def a_directory(tmp_path: Path) -> Editable:
    root = tmp_path / "source"
    root.mkdir()
    clock = FakeClock()

    def build() -> DirectorySource:
        return DirectorySource(
            "default",
            root,
            state_dir=tmp_path / "state",
            snapshots_dir=tmp_path / "state" / "snapshots",
            max_files=100,
            max_bytes=100_000,
            clock=clock,
        )

    def write(path: str, content: str) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)

    return Editable(
        build(), clock, write, lambda path: (root / path).unlink(), build, copies_in(tmp_path / "state" / "snapshots")
    )


def a_local_repository(tmp_path: Path) -> Editable:
    copy = make_repository(tmp_path / "repository")
    state, clock = tmp_path / "state", FakeClock()

    def build() -> GitSource:
        git = Git(state, timedelta(seconds=60))
        return GitSource(
            "default",
            git,
            LocalOrigin(git, copy.place, Followed()),
            Copies(state / "snapshots", clock),
            scratch=state,
            max_files=100,
            max_bytes=100_000,
        )

    def write(path: str, content: str) -> None:
        copy.commit(f"write {path}", **{path: content})

    def remove(path: str) -> None:
        (copy.place / path).unlink()
        copy.commit(f"remove {path}")

    return Editable(build(), clock, write, remove, build, copies_in(state / "snapshots"), remembers=True)


def a_remote(tmp_path: Path) -> Editable:
    bare, copy = make_remote(tmp_path)
    state, clock = tmp_path / "state", FakeClock()

    def build() -> GitSource:
        git = Git(state, timedelta(seconds=60), Access(parse_address(f"file://{bare}")))
        return GitSource(
            "default",
            git,
            RemoteOrigin(git, state / "mirror.git", Followed("main")),
            Copies(state / "snapshots", clock),
            scratch=state,
            max_files=100,
            max_bytes=100_000,
        )

    def write(path: str, content: str) -> None:
        copy.commit(f"write {path}", **{path: content})
        copy.push()

    def remove(path: str) -> None:
        (copy.place / path).unlink()
        copy.commit(f"remove {path}")
        copy.push()

    return Editable(build(), clock, write, remove, build, copies_in(state / "snapshots"), remembers=True, tells=False)


@pytest.fixture(
    params=[a_fake, a_directory, a_local_repository, a_remote], ids=["fake", "directory", "local", "remote"]
)
def editable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Editable]:
    make: Callable[[Path], Editable] = request.param
    made = make(tmp_path)
    made.write("jobs/a.yaml", "one")
    made.write("playbooks/p.yml", "two")
    yield made
    made.source.close()


def test_a_snapshot_has_every_file_and_its_content(editable: Editable) -> None:
    snapshot = editable.source.sync()
    assert list(snapshot.files) == ["jobs/a.yaml", "playbooks/p.yml"]
    assert snapshot.read("jobs/a.yaml") == b"one"
    assert snapshot.read("./playbooks/../jobs/a.yaml") == b"one"
    assert snapshot.source == editable.source.name == "default"


def test_the_revision_is_that_of_the_content(editable: Editable) -> None:
    first = editable.source.sync()
    assert editable.source.sync().revision == first.revision
    editable.write("jobs/a.yaml", "other")
    second = editable.source.sync()
    assert second.revision != first.revision
    assert second.files["jobs/a.yaml"] != first.files["jobs/a.yaml"]
    assert second.files["playbooks/p.yml"] == first.files["playbooks/p.yml"]
    editable.write("jobs/a.yaml", "one")
    again = editable.source.sync()
    assert again.files == first.files
    assert editable.remembers or again.revision == first.revision


def test_equal_content_has_equal_digests(editable: Editable) -> None:
    editable.write("jobs/b.yaml", "one")
    files = editable.source.sync().files
    assert files["jobs/a.yaml"] == files["jobs/b.yaml"] != files["playbooks/p.yml"]


def test_a_file_that_is_removed_is_gone(editable: Editable) -> None:
    before = editable.source.sync()
    editable.remove("jobs/a.yaml")
    assert list(editable.source.sync().files) == ["playbooks/p.yml"]
    assert_old_or_nothing(editable, before)


def test_content_that_changed_since_is_not_passed_off_as_the_old(editable: Editable) -> None:
    before = editable.source.sync()
    editable.write("jobs/a.yaml", "eno")
    assert_old_or_nothing(editable, before)


def assert_old_or_nothing(editable: Editable, before: Snapshot) -> None:
    if editable.remembers:
        assert before.read("jobs/a.yaml") == b"one"
        return
    with pytest.raises(Unavailable) as moved:
        before.read("jobs/a.yaml")
    assert moved.value.reason is Reason.SOURCE_MOVED


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("jobs/missing.yaml", Reason.PATH_MISSING),
        ("jobs", Reason.PATH_MISSING),
        ("../secret", Reason.PATH_OUTSIDE_SOURCE),
        ("jobs/../../secret", Reason.PATH_OUTSIDE_SOURCE),
        ("/etc/passwd", Reason.PATH_OUTSIDE_SOURCE),
    ],
)
def test_what_is_not_in_the_source_is_refused(editable: Editable, path: str, reason: Reason) -> None:
    with pytest.raises(Refused) as refused:
        editable.source.sync().read(path)
    assert refused.value.reason is reason


def test_a_copy_stays_as_it_was(editable: Editable) -> None:
    now = editable.source.sync()
    copy = editable.source.keep(now.revision)
    assert (copy.revision, dict(copy.files), copy.source) == (now.revision, dict(now.files), now.source)
    editable.write("jobs/a.yaml", "changed")
    editable.remove("playbooks/p.yml")
    assert copy.read("jobs/a.yaml") == b"one"
    assert copy.read("playbooks/p.yml") == b"two"


def test_a_copy_is_found_again_though_the_source_moved_on(editable: Editable) -> None:
    revision = editable.source.sync().revision
    assert not editable.has_copy(revision)
    first = editable.source.keep(revision)
    editable.write("jobs/a.yaml", "changed")
    again = editable.again()
    for found in (editable.source.keep(revision), again.keep(revision)):
        assert (found.root, found.revision) == (first.root, revision)
        assert found.read("jobs/a.yaml") == b"one"
    again.close()


def test_a_revision_that_passed_without_a_copy_is_had_as_it_was_or_not_at_all(editable: Editable) -> None:
    revision = editable.source.sync().revision
    editable.write("jobs/a.yaml", "changed")
    if editable.remembers:
        assert editable.source.keep(revision).read("jobs/a.yaml") == b"one"
        return
    with pytest.raises(Unavailable) as moved:
        editable.source.keep(revision)
    assert moved.value.reason is Reason.SOURCE_MOVED
    assert not editable.has_copy(revision)


@pytest.mark.parametrize("revision", ["", "dir@sha256:../../etc", f"main@sha1:{'0' * 40}", f"dir@sha256:{'0' * 64}"])
def test_a_revision_that_never_was_can_not_be_had(editable: Editable, revision: str) -> None:
    assert not editable.has_copy(Revision(revision))
    with pytest.raises(Unavailable):
        editable.source.keep(Revision(revision))


def test_copies_that_nobody_needs_are_removed(editable: Editable) -> None:
    needed = editable.source.keep(editable.source.sync().revision)
    editable.write("jobs/a.yaml", "changed")
    other = editable.source.keep(editable.source.sync().revision)
    editable.write("jobs/a.yaml", "changed again")
    editable.source.sync()
    editable.clock.advance(LATER)
    editable.source.release([needed.revision])
    assert not editable.has_copy(other.revision)
    assert editable.has_copy(needed.revision)
    assert needed.read("jobs/a.yaml") == b"one"


def test_copies_are_made_once_though_many_ask(editable: Editable) -> None:
    revision = editable.source.sync().revision
    found: list[Snapshot] = []
    asking = [threading.Thread(target=lambda: found.append(editable.source.keep(revision))) for _ in range(8)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(SOON)
    assert len(found) == 8
    assert len({copy.root for copy in found}) == 1


@dataclass
class Watching:
    stop: threading.Event
    thread: threading.Thread
    seen: threading.Semaphore


@pytest.fixture
def watching(editable: Editable) -> Iterator[Watching]:
    editable.source.sync()
    stop, seen = threading.Event(), threading.Semaphore(0)
    thread = threading.Thread(target=editable.source.watch, args=(seen.release, stop))
    thread.start()
    yield Watching(stop, thread, seen)
    stop.set()
    thread.join(SOON)
    assert not thread.is_alive()


def test_who_watches_is_told_of_a_change(editable: Editable, watching: Watching) -> None:
    if not editable.tells:  # a remote is asked at intervals, by the engine
        assert not watching.seen.acquire(timeout=0.0)
        return
    assert watching.seen.acquire(timeout=SOON), "it says when it has begun"
    editable.write("jobs/a.yaml", "edit")
    assert watching.seen.acquire(timeout=SOON), "nobody was told"


def test_what_is_closed_is_read_no_more(editable: Editable) -> None:
    if isinstance(editable.source, DirectorySource):
        editable.source.close()
        assert editable.source.sync().files  # reading a folder ends by itself
        return
    editable.source.close()
    with pytest.raises(Unavailable) as closed:
        editable.source.sync()
    assert closed.value.reason is Reason.SOURCE_UNAVAILABLE


def test_watching_ends_when_it_is_told_to(watching: Watching) -> None:
    watching.stop.set()
    watching.thread.join(SOON)
    assert not watching.thread.is_alive()
