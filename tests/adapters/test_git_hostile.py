"""Repositories of people who mean harm: nothing is executed, nothing outside is read, and it is said what is wrong."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.adapters.git import Access, Followed, Git, GitSource, LocalOrigin, RemoteOrigin
from reconciler.adapters.snapshots import Copies
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.reasons import Reason
from reconciler.core.repository import parse_address
from tests.fakes.clock import FakeClock
from tests.gitrepo import WorkingCopy, git, make_repository


class House:
    """A repository, read as it lies there and through a mirror."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = make_repository(folder / "repository")
        self.evil = folder / "evil"
        self._open: list[GitSource] = []

    def sources(self, *, max_files: int = 100, max_bytes: int = 100_000) -> list[GitSource]:
        place = self.repository.place
        state = self.folder / "state"
        own = Git(state / "local", timedelta(seconds=60))
        away = Git(state / "remote", timedelta(seconds=60), Access(parse_address(f"file://{place}")))
        origins: tuple[tuple[Git, LocalOrigin | RemoteOrigin], ...] = (
            (own, LocalOrigin(own, place, Followed())),
            (away, RemoteOrigin(away, state / "m.git", Followed())),
        )
        made = [
            GitSource(
                "fleet",
                each,
                origin,
                Copies(state / str(number), FakeClock()),
                scratch=state,
                max_files=max_files,
                max_bytes=max_bytes,
            )
            for number, (each, origin) in enumerate(origins)
        ]
        self._open += made
        return made

    def program(self) -> Path:
        """One that leaves a trace if anybody runs it."""
        script = self.folder / "program"
        script.write_text(f'#!/bin/sh\ntouch "{self.evil}"\ncat\n')
        script.chmod(0o755)
        return script

    def close(self) -> None:
        for source in self._open:
            source.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()
    assert not made.evil.exists(), "something was executed"


def tree_of(repository: WorkingCopy, *entries: tuple[str, str, str]) -> str:
    """A tree of (mode, id, name), made of bytes: git itself refuses some of these names."""
    content = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(identity) for mode, identity, name in entries)
    return git(repository.place, "hash-object", "-w", "--literally", "-t", "tree", "--stdin", given=content)


def blob_of(repository: WorkingCopy, content: str) -> str:
    return git(repository.place, "hash-object", "-w", "--stdin", given=content.encode())


def commit_tree(repository: WorkingCopy, tree: str) -> None:
    commit = git(repository.place, "commit-tree", tree, "-m", "made by hand")
    git(repository.place, "update-ref", "refs/heads/main", commit)


@pytest.mark.parametrize("name", ["..", ".git", ".GIT", "."])
@pytest.mark.parametrize("below", [False, True])
def test_paths_that_no_checkout_would_have_are_refused(house: House, name: str, below: bool) -> None:
    blob = blob_of(house.repository, "x")
    tree = tree_of(house.repository, ("40000", tree_of(house.repository, ("100644", blob, "config")), name))
    if below:
        tree = tree_of(house.repository, ("40000", tree, "jobs"))
    commit_tree(house.repository, tree)
    for source in house.sources():
        with pytest.raises(Refused, match="as no checkout would have it") as refused:
            source.sync()
        assert refused.value.reason is Reason.SOURCE_UNSAFE


def test_nothing_is_written_through_a_link_that_is_a_folder_too(house: House) -> None:
    outside = house.folder / "outside"
    outside.mkdir()
    link = blob_of(house.repository, str(outside))
    inside = tree_of(house.repository, ("100644", blob_of(house.repository, "x"), "x"))
    commit_tree(house.repository, tree_of(house.repository, ("120000", link, "a"), ("40000", inside, "a")))
    with pytest.raises(Refused, match="both as a file and as a folder") as refused:
        house.sources()[0].sync()
    assert refused.value.reason is Reason.SOURCE_UNSAFE
    assert list(outside.iterdir()) == []


def test_a_path_that_is_there_twice_is_refused(house: House) -> None:
    """As a file and as a link: what is written there first would decide where the second goes."""
    link, file = blob_of(house.repository, "../outside"), blob_of(house.repository, "x")
    commit_tree(house.repository, tree_of(house.repository, ("120000", link, "a"), ("100644", file, "a")))
    for source in house.sources():
        with pytest.raises(Refused, match="twice") as refused:
            source.sync()
        assert refused.value.reason is Reason.SOURCE_UNSAFE


def test_links_are_followed_inside_and_never_out(house: House) -> None:
    secret = house.folder / "secret"
    secret.write_text("outside")
    place = house.repository.place
    house.repository.write("real/a.yml", "inside")
    for name, target in {
        "absolute": str(secret),
        "up": "../secret",
        "roundabout": "real/../../secret",
        "through": "up/x",
        "folder": "real",
        "file": "real/a.yml",
        "chain": "folder/a.yml",
        "loop": "loop",
        "nowhere": "missing",
        "itself": ".",
    }.items():
        (place / name).symlink_to(target)
    house.repository.commit("links")
    for source in house.sources():
        snapshot = source.sync()
        assert sorted(snapshot.files) == [
            "absolute", "chain", "file", "folder/a.yml", "loop", "real/a.yml", "roundabout", "through", "up",
        ]  # fmt: skip
        copy = source.keep(snapshot.revision)
        for reading in (snapshot, copy):
            for name in ("chain", "file", "folder/a.yml"):
                assert reading.read(name) == b"inside"
            for name in ("absolute", "up", "roundabout", "through", "up/x", "loop"):
                with pytest.raises(Refused) as refused:
                    reading.read(name)
                assert refused.value.reason is Reason.PATH_OUTSIDE_SOURCE
                assert "leaves the source by" in refused.value.message
        assert (copy.root / "chain").read_text() == "inside"
        assert not [path for path in copy.root.rglob("*") if not path.resolve().is_relative_to(copy.root)]


def test_a_submodule_is_left_out_and_said_so(house: House) -> None:
    other = make_repository(house.folder / "other")
    other.commit("its own", **{"tasks.yml": "x"})
    git(
        house.repository.place,
        *("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other.place), "roles/shared"),
    )
    house.repository.commit("with a submodule", **{"jobs/a.yaml": "one"})
    for source in house.sources():
        snapshot = source.sync()
        assert snapshot.notes == ("submodule roles/shared is left out",)
        with pytest.raises(Refused, match="is in the submodule roles/shared, which is not fetched"):
            snapshot.read("roles/shared/tasks.yml")
        assert not (source.keep(snapshot.revision).root / "roles/shared").exists()


def test_no_hook_filter_or_program_of_a_repository_runs(house: House) -> None:
    program, place = str(house.program()), house.repository.place
    hooks = place / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change", "fsmonitor-watchman", "pre-receive"):
        (hooks / name).write_text(Path(program).read_text())
        (hooks / name).chmod(0o755)
    attributes = "*.yml filter=evil diff=evil text eol=crlf ident export-subst\n"
    house.repository.commit("attributes", **{".gitattributes": attributes, "a.yml": "$Id$ $Format:%H$ one\n"})
    for setting in (
        "filter.evil.smudge", "filter.evil.process", "diff.evil.textconv", "core.fsmonitor", "core.sshCommand",
        "core.pager", "core.editor", "gpg.program", "gpg.ssh.program", "credential.helper", "uploadpack.packObjectsHook",
        "alias.ls-tree", "core.alternateRefsCommand", "remote.origin.uploadpack", "interactive.diffFilter",
    ):  # fmt: skip
        git(place, "config", setting, program)
    git(place, "config", "core.hooksPath", str(hooks))
    git(place, "config", "log.showSignature", "true")
    house.evil.unlink(missing_ok=True)  # the person's own git ran some of these
    for source in house.sources():
        snapshot = source.sync()
        assert snapshot.read("a.yml") == b"$Id$ $Format:%H$ one\n"
        assert (source.keep(snapshot.revision).root / "a.yml").read_bytes() == b"$Id$ $Format:%H$ one\n"
        assert snapshot.commit.subject == "attributes"
        source.release([])
        assert not house.evil.exists()


def test_an_object_that_is_promised_by_a_remote_is_not_fetched_by_reading(house: House) -> None:
    """A partial clone asks its remote for what it lacks, by a program that its own configuration names."""
    house.repository.commit("one", **{"a.yml": "one"})
    place, program = house.repository.place, house.program()
    blob = git(place, "rev-parse", "HEAD:a.yml")
    git(place, "config", "extensions.partialClone", "origin")
    git(place, "config", "remote.origin.url", f"ext::{program}")
    git(place, "config", "remote.origin.promisor", "true")
    git(place, "config", "protocol.ext.allow", "always")
    (place / f".git/objects/{blob[:2]}/{blob[2:]}").unlink()
    snapshot = house.sources()[0].sync()
    with pytest.raises(Unavailable) as missing:
        snapshot.read("a.yml")
    assert missing.value.reason is Reason.SOURCE_CORRUPT


def test_text_of_a_commit_is_harmless_on_a_terminal(house: House) -> None:
    git(
        house.repository.place,
        *("commit", "--allow-empty", "--quiet", "--message", "evil \x1b[31m\x07 \u202e subject" + "x" * 500),
        GIT_AUTHOR_NAME="A\x1b]0;title\x07 B",
    )
    commit = house.sources()[0].sync().commit
    assert commit.author == "A ]0;title B <ada@example.org>"
    assert commit.subject.startswith("evil [31m subjectxxx")
    assert len(commit.subject) == 200


def test_a_date_that_no_calendar_has_is_no_reason_to_stop(house: House) -> None:
    house.repository.commit("one", **{"a.yml": "one"})
    tree = git(house.repository.place, "rev-parse", "HEAD^{tree}")
    content = f"tree {tree}\nauthor A <a@b> 99999999999999999 +0000\ncommitter A <a@b> 1 +0000\n\nodd\n"
    commit = git(
        house.repository.place, "hash-object", "-w", "--literally", "-t", "commit", "--stdin", given=content.encode()
    )
    git(house.repository.place, "update-ref", "refs/heads/main", commit)
    source = house.sources()[0]
    snapshot = source.sync()
    assert snapshot.read("a.yml") == b"one"
    assert source.keep(snapshot.revision).read("a.yml") == b"one"


def test_names_that_are_no_utf8_are_not_in_it(house: House) -> None:
    (house.repository.place / os.fsdecode(b"odd-\xff.yml")).write_text("x")
    house.repository.commit("odd", **{"ünï\n.yml": "x"})
    for source in house.sources():
        assert list(source.sync().files) == ["ünï\n.yml"]


def test_fifty_thousand_files_are_read_or_refused_in_reasonable_time(house: House) -> None:
    lines = ["blob\nmark :1\ndata 2\nx\n"]
    lines.append("commit refs/heads/main\ncommitter A <a@b> 1700000000 +0000\ndata 4\nmany\n")
    lines += [f"M 100644 :1 files/{number // 500}/{number}.yml\n" for number in range(50_000)]
    git(house.repository.place, "fast-import", "--quiet", given="".join(lines).encode())
    begun = time.monotonic()
    local, remote = house.sources(max_files=50_000)
    assert len(local.sync().files) == 50_000
    snapshot = remote.sync()
    assert len(list(remote.keep(snapshot.revision).root.rglob("*.yml"))) == 50_000
    assert time.monotonic() - begun < 300  # seconds; it is about ten
    for source in house.sources(max_files=49_999):
        with pytest.raises(Refused, match=r"more than the 49,999 files that a run may have; it has 50,000") as refused:
            source.sync()
        assert refused.value.reason is Reason.SOURCE_TOO_LARGE


def test_links_multiply_files_only_up_to_the_bound(house: House) -> None:
    for number in range(60):
        house.repository.write(f"real/{number}.yml", "x")
        (house.repository.place / f"link-{number}").symlink_to("real")
    house.repository.commit("sixty times sixty")
    for source in house.sources(max_files=1_000):
        with pytest.raises(Refused, match="those that its links lead to included"):
            source.sync()


def test_a_file_that_is_too_large_is_refused_before_it_is_read(house: House) -> None:
    house.repository.commit("large", **{"jobs/a.yaml": b"x" * 200_000})
    for source in house.sources():
        with pytest.raises(Refused, match="one of its files has 200,000"):
            source.sync().read("jobs/a.yaml")
        house.repository.write("b", "small")


def test_the_name_of_a_submodule_is_harmless_on_a_terminal(house: House) -> None:
    commit = house.repository.commit("one", **{"a.yml": "one"})
    name = "\x1b]0;owned\x07sub"
    tree = tree_of(house.repository, *((("160000", commit, f"{name}{number}")) for number in range(5)))
    commit_tree(house.repository, tree)
    notes = house.sources()[0].sync().notes
    assert notes[0] == "submodule ]0;owned sub0 is left out"
    assert notes[3] == "2 more submodules are left out"


def test_a_folder_inside_of_a_repository_is_not_taken_for_it(house: House) -> None:
    house.repository.commit("one", **{"ansible/jobs/a.yaml": "one"})
    git_of = Git(house.folder / "state", timedelta(seconds=60))
    with pytest.raises(Refused, match="is a folder of the repository") as refused:
        LocalOrigin(git_of, house.repository.place / "ansible", Followed()).newest()
    assert "path = 'ansible'" in refused.value.hint or "path = 'ansible'" in refused.value.message


def test_more_bytes_than_a_run_may_have_are_refused(house: House) -> None:
    house.repository.commit("large", **{"a.bin": b"x" * 60_000, "b.bin": b"y" * 60_000})
    for source in house.sources():
        snapshot = source.sync()
        with pytest.raises(Refused) as refused:
            source.keep(snapshot.revision)
        assert refused.value.reason is Reason.SOURCE_TOO_LARGE
        assert not list((house.folder / "state").glob("[01]/*"))


def test_a_repository_of_somebody_else_is_read_all_the_same(house: House) -> None:
    """The operator named it; git's own guard is against being led into one."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    house.repository.commit("one", **{"a.yml": "one"})
    subprocess.run(["chown", "-R", "nobody", str(house.repository.place)], check=True)
    for source in house.sources():
        assert source.sync().read("a.yml") == b"one"
