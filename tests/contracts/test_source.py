"""What every source promises: one suite, run on each of them and on the fake of the engine's tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.adapters.directory import DirectorySource
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import Revision
from reconciler.core.reasons import Reason
from reconciler.ports import Snapshot, Source
from tests.fakes.clock import FakeClock
from tests.fakes.source import FakeSource

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


def a_fake(_: Path) -> Editable:
    fake = FakeSource()
    return Editable(fake, FakeClock(), fake.write, fake.remove, lambda: fake)


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

    return Editable(build(), clock, write, lambda path: (root / path).unlink(), build)


@pytest.fixture(params=[a_fake, a_directory], ids=["fake", "directory"])
def editable(request: pytest.FixtureRequest, tmp_path: Path) -> Editable:
    make: Callable[[Path], Editable] = request.param
    made = make(tmp_path)
    made.write("jobs/a.yaml", "one")
    made.write("playbooks/p.yml", "two")
    return made


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
    assert editable.source.sync().revision == first.revision


def test_equal_content_has_equal_digests(editable: Editable) -> None:
    editable.write("jobs/b.yaml", "one")
    files = editable.source.sync().files
    assert files["jobs/a.yaml"] == files["jobs/b.yaml"] != files["playbooks/p.yml"]


def test_a_file_that_is_removed_is_gone(editable: Editable) -> None:
    before = editable.source.sync()
    editable.remove("jobs/a.yaml")
    assert list(editable.source.sync().files) == ["playbooks/p.yml"]
    with pytest.raises(Unavailable) as moved:
        before.read("jobs/a.yaml")
    assert moved.value.reason is Reason.SOURCE_MOVED


def test_content_that_changed_since_is_not_passed_off_as_the_old(editable: Editable) -> None:
    before = editable.source.sync()
    editable.write("jobs/a.yaml", "eno")
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
    assert editable.source.kept(revision) is None
    first = editable.source.keep(revision)
    editable.write("jobs/a.yaml", "changed")
    for found in (editable.source.keep(revision), editable.again().kept(revision)):
        assert found is not None
        assert (found.root, found.revision) == (first.root, revision)
        assert found.read("jobs/a.yaml") == b"one"


def test_a_revision_that_passed_without_a_copy_can_not_be_had(editable: Editable) -> None:
    revision = editable.source.sync().revision
    editable.write("jobs/a.yaml", "changed")
    with pytest.raises(Unavailable) as moved:
        editable.source.keep(revision)
    assert moved.value.reason is Reason.SOURCE_MOVED
    assert editable.source.kept(revision) is None


@pytest.mark.parametrize("revision", ["", "dir@sha256:../../etc", f"main@sha1:{'0' * 40}", f"dir@sha256:{'0' * 64}"])
def test_a_revision_that_never_was_can_not_be_had(editable: Editable, revision: str) -> None:
    assert editable.source.kept(Revision(revision)) is None
    with pytest.raises(Unavailable):
        editable.source.keep(Revision(revision))


def test_copies_that_nobody_needs_are_removed(editable: Editable) -> None:
    needed = editable.source.keep(editable.source.sync().revision)
    editable.write("jobs/a.yaml", "changed")
    other = editable.source.keep(editable.source.sync().revision)
    editable.clock.advance(LATER)
    editable.source.release([needed.revision])
    assert editable.source.kept(other.revision) is None
    assert editable.source.kept(needed.revision) is not None
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
    for number in range(100):
        editable.write("jobs/a.yaml", f"edit {number}")
        if watching.seen.acquire(timeout=SOON / 100):
            return
    pytest.fail("nobody was told of a hundred changes")


def test_watching_ends_when_it_is_told_to(watching: Watching) -> None:
    watching.stop.set()
    watching.thread.join(SOON)
    assert not watching.thread.is_alive()
