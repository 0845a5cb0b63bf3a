"""A remote repository as a source: what becomes of it over its life, on real servers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from reconciler.adapters.git import Access, Followed, Git, GitSource, RemoteOrigin
from reconciler.adapters.git.command import GitFailed
from reconciler.adapters.snapshots import Copies
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.reasons import Reason
from reconciler.core.repository import parse_address
from tests.conftest import MakeFleet
from tests.fakes.clock import FakeClock
from tests.gitrepo import git, make_remote
from tests.gitservers import GitDaemon, HttpServer, free_port, redirecting_to, silent_server, silent_server_at

MAIN = Followed("main")


class House:
    """A bare repository behind a git daemon, a person's clone of it, and the source that follows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bare, self.copy = make_remote(folder)
        self.server = GitDaemon(folder)
        self.state = folder / "state"
        self.mirror_name = "mirror"
        self._open: list[GitSource] = []
        self.copy.commit("first", **{"jobs/a.yaml": "one", "playbooks/p.yml": "two"})
        self.copy.push()

    @property
    def mirror(self) -> Path:
        return self.state / f"{self.mirror_name}.git"

    def source(self, url: str | None = None, followed: Followed = MAIN, **access: Path) -> GitSource:
        """The source as a new process has it."""
        address = parse_address(url or self.server.url(self.bare))
        git = Git(self.state, timedelta(seconds=20), Access(address, **access))  # type: ignore[arg-type] # files by the names of the settings
        source = GitSource(
            "fleet",
            git,
            RemoteOrigin(git, self.mirror, followed),
            Copies(self.state / "snapshots", FakeClock()),
            scratch=self.state,
            max_files=100_000,
            max_bytes=10_000_000,
        )
        self._open.append(source)
        return source

    def close(self) -> None:
        for source in self._open:
            source.close()
        self.server.stop()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    made.server.start()
    yield made
    made.close()


def reason_of(source: GitSource) -> tuple[Reason, str]:
    with pytest.raises(ReconcilerError) as failed:
        source.sync()
    assert failed.value.hint
    return failed.value.reason, failed.value.message


def test_a_commit_is_known_by_who_made_it_when_and_why(house: House) -> None:
    house.copy.commit("Patch the web servers ✓\n\nlong story", **{"jobs/b.yaml": "three"})
    house.copy.push()
    snapshot = house.source().sync()
    assert snapshot.revision == f"main@sha1:{house.copy.head}"
    assert snapshot.commit.id == house.copy.head
    assert snapshot.commit.author == "Ada Lovelace <ada@example.org>"
    assert snapshot.commit.subject == "Patch the web servers ✓"
    assert abs(snapshot.commit.date.timestamp() - time.time()) < 600
    assert snapshot.notes == ()


def test_pushes_are_fetched_and_a_run_keeps_what_it_began_with(house: House) -> None:
    source = house.source()
    first = source.sync()
    copy = source.keep(first.revision)
    house.copy.commit("second", **{"jobs/a.yaml": "changed", "jobs/b.yaml": "new"})
    house.copy.push()
    second = source.sync()
    assert list(second.files) == ["jobs/a.yaml", "jobs/b.yaml", "playbooks/p.yml"]
    assert second.files["playbooks/p.yml"] == first.files["playbooks/p.yml"]
    assert (copy.root / "jobs/a.yaml").read_text() == "one"
    assert (source.keep(second.revision).root / "jobs/a.yaml").read_text() == "changed"


def test_the_branch_of_head_is_followed_where_none_is_named(house: House) -> None:
    git(house.bare, "symbolic-ref", "HEAD", "refs/heads/trunk")
    git(house.copy.place, "push", "--quiet", "origin", "HEAD:trunk")
    assert house.source(followed=Followed()).sync().revision == f"trunk@sha1:{house.copy.head}"


@pytest.mark.parametrize("annotated", [True, False])
def test_a_tag_is_followed_to_its_commit_wherever_it_is_moved(house: House, annotated: bool) -> None:
    more = ("--annotate", "--message=release") if annotated else ()
    git(house.copy.place, "tag", *more, "production")
    git(house.copy.place, "push", "--quiet", "origin", "production")
    source = house.source(followed=Followed(tag="production"))
    assert source.sync().revision == f"production@sha1:{house.copy.head}"
    house.copy.commit("later", **{"jobs/a.yaml": "later"})
    git(house.copy.place, "tag", "--force", *more, "production")
    git(house.copy.place, "push", "--quiet", "--force", "origin", "production")
    assert source.sync().revision == f"production@sha1:{house.copy.head}"


def test_history_that_is_rewritten_is_told_and_what_was_kept_stays(house: House) -> None:
    source = house.source()
    house.copy.commit("second", **{"jobs/a.yaml": "to be lost"})
    house.copy.push()
    lost = source.sync()
    copy = source.keep(lost.revision)
    git(house.copy.place, "reset", "--quiet", "--hard", "HEAD~1")
    house.copy.commit("other", **{"jobs/a.yaml": "other"})
    house.copy.push("--force")
    for now in (source.sync(), source.sync()):
        assert now.read("jobs/a.yaml") == b"other"
        assert now.notes == (f"history was rewritten: {lost.commit.id[:12]} is no part of main any more",)
    assert copy.read("jobs/a.yaml") == b"to be lost"
    house.copy.commit("on top", **{"jobs/a.yaml": "on top"})
    house.copy.push()
    assert source.sync().notes == ()


def test_a_rewriting_that_happened_while_nobody_looked_is_told_too(house: House) -> None:
    house.copy.commit("second", **{"jobs/a.yaml": "to be lost"})
    house.copy.push()
    house.source().sync()
    git(house.copy.place, "commit", "--quiet", "--amend", "--message=amended")
    house.copy.push("--force")
    assert "rewritten" in house.source().sync().notes[0]


def test_a_branch_that_is_deleted_is_no_removal_and_comes_back(house: House) -> None:
    source = house.source()
    before = source.sync()
    git(house.bare, "update-ref", "-d", "refs/heads/main")
    reason, message = reason_of(source)
    assert reason is Reason.SOURCE_BRANCH_MISSING
    assert "has no branch main" in message
    house.copy.push()
    assert source.sync().revision == before.revision


def test_an_empty_remote_is_told_from_one_without_the_branch(house: House) -> None:
    git(house.bare, "update-ref", "-d", "refs/heads/main")
    reason, message = reason_of(house.source(followed=Followed()))
    assert (reason, "no commit yet" in message) == (Reason.SOURCE_BRANCH_MISSING, True)


# == A mirror that is damaged ========================================================================================
def cut_packs(mirror: Path) -> None:
    for pack in [*mirror.glob("objects/pack/*.pack"), *mirror.glob("objects/??/*")]:
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes()[: pack.stat().st_size // 2])


def lose_objects(mirror: Path) -> None:
    for file in [*mirror.glob("objects/pack/*"), *mirror.glob("objects/??/*")]:
        file.unlink()


def lose_head(mirror: Path) -> None:
    (mirror / "HEAD").unlink()


def spoil_the_ref(mirror: Path) -> None:
    (mirror / "refs/reconciler/tip").write_text("nonsense\n")


def spoil_config(mirror: Path) -> None:
    (mirror / "config").write_text("[core\n")


def become_a_file(mirror: Path) -> None:
    mirror.rename(mirror.with_name("gone"))
    mirror.write_text("no folder")


DAMAGES = [cut_packs, lose_objects, lose_head, spoil_the_ref, spoil_config, become_a_file]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_damaged_mirror_is_cloned_again(house: House, damage: Callable[[Path], None], restarted: bool) -> None:
    source = house.source()
    copy = source.keep(source.sync().revision)
    damage(house.mirror)
    house.copy.commit("second", **{"jobs/a.yaml": "second"})
    house.copy.push()
    if restarted:
        source = house.source()
    assert source.sync().read("jobs/a.yaml") == b"second"
    assert copy.read("jobs/a.yaml") == b"one"
    assert not [left for left in house.state.iterdir() if left.suffix in (".new", ".old")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_mirror_that_is_damaged_between_two_readings_of_one_commit_is_cloned_again(
    house: House, damage: Callable[[Path], None]
) -> None:
    source = house.source()
    snapshot = source.sync()
    damage(house.mirror)
    assert snapshot.read("jobs/a.yaml") == b"one"
    assert (source.keep(snapshot.revision).root / "playbooks/p.yml").read_text() == "two"


def test_a_damaged_mirror_of_a_remote_that_is_away_harms_no_run(house: House) -> None:
    source = house.source()
    snapshot = source.sync()
    copy = source.keep(snapshot.revision)
    lose_objects(house.mirror)
    house.server.stop()
    with pytest.raises(Unavailable) as away:
        snapshot.read("playbooks/p.yml")
    assert away.value.reason is Reason.SOURCE_UNREACHABLE
    assert source.keep(snapshot.revision).read("playbooks/p.yml") == copy.read("playbooks/p.yml") == b"two"
    house.server.start()
    assert snapshot.read("playbooks/p.yml") == b"two"


def test_what_a_killed_fetch_left_is_cleared_away(house: House) -> None:
    house.source().sync()
    (house.mirror / "refs/reconciler/tip.lock").touch()
    (house.mirror / "packed-refs.lock").touch()
    (house.mirror / "objects/pack/tmp_pack_x1").write_bytes(b"half")
    house.copy.commit("second", **{"jobs/a.yaml": "second"})
    house.copy.push()
    before = house.mirror.stat().st_ino
    assert house.source().sync().read("jobs/a.yaml") == b"second"
    assert house.mirror.stat().st_ino == before, "there was no need to clone again"
    assert not list(house.mirror.glob("**/tmp_pack*"))


# == A server that is not well =======================================================================================
def test_a_remote_that_is_down_is_unreachable_and_comes_back(house: House) -> None:
    source = house.source()
    before = source.sync()
    house.server.stop()
    reason, message = reason_of(source)
    assert reason is Reason.SOURCE_UNREACHABLE
    assert house.server.url(house.bare) in message
    house.copy.commit("meanwhile", **{"jobs/a.yaml": "meanwhile"})
    git(house.copy.place, "push", "--quiet", str(house.bare), "HEAD:main")
    house.server.start()
    assert source.sync().revision != before.revision


@pytest.mark.parametrize("protocol", ["git", "http", "ssh"])
def test_a_server_that_never_answers_is_given_up_in_time(house: House, protocol: str) -> None:
    with silent_server() as port:
        address = parse_address(f"{protocol}://127.0.0.1:{port}/fleet.git")
        quick = Git(house.state, timedelta(seconds=1), Access(address))
        origin = RemoteOrigin(quick, house.mirror, Followed("main"))
        begun = time.monotonic()
        with pytest.raises(Unavailable) as late:
            origin.newest()
        assert time.monotonic() - begun < 20
        assert late.value.reason is Reason.SOURCE_TIMEOUT
        assert "did not answer within 1 s" in late.value.message
    assert not children_of_git()


def children_of_git() -> list[str]:
    mine = psutil.Process().children(recursive=True)
    return [
        child.name()
        for child in mine
        if child.status() != psutil.STATUS_ZOMBIE
        and child.name() != "git-daemon"
        and "daemon" not in " ".join(child.cmdline())
    ]


def test_who_stops_waits_for_no_server(house: House) -> None:
    with silent_server() as port:
        source = house.source(f"git://127.0.0.1:{port}/fleet.git")
        ended: list[ReconcilerError] = []

        def sync() -> None:
            try:
                source.sync()
            except ReconcilerError as error:
                ended.append(error)

        thread = threading.Thread(target=sync)
        thread.start()
        while not children_of_git():
            assert thread.is_alive()
            time.sleep(0.01)
        source.close()
        thread.join(15)
        assert not thread.is_alive()
        assert ended[0].reason is Reason.SOURCE_UNAVAILABLE


def test_nothing_listens_there(house: House) -> None:
    reason, _ = reason_of(house.source(f"http://127.0.0.1:{free_port()}/fleet.git"))
    assert reason is Reason.SOURCE_UNREACHABLE


def test_a_repository_that_is_not_there(house: House) -> None:
    for url in (f"git://127.0.0.1:{house.server.port}/other.git", f"file://{house.folder}/other.git"):
        assert reason_of(house.source(url))[0] is Reason.SOURCE_AUTH_FAILED


# == Credentials =====================================================================================================
TOKEN = "s3cr3t-t0ken"


def test_a_token_opens_https_and_shows_nowhere(house: House) -> None:
    file = house.folder / "token"
    file.write_text(f"{TOKEN}\n")
    with HttpServer(house.folder, "git", TOKEN) as server:
        url = f"http://127.0.0.1:{server.port}/remote.git"
        source = house.source(url, token_file=file)
        assert source.sync().read("jobs/a.yaml") == b"one"
        asked = len(server.asked)
        source.sync()
        assert len(server.asked) - asked <= 3, "nothing changed: one question, with its login"
        seen = "\n".join(server.during)
        assert "ls-remote" in seen
        assert TOKEN not in seen
    left = [path for path in house.state.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert left == []


def test_a_wrong_token_is_refused_and_not_told(house: House) -> None:
    file = house.folder / "token"
    file.write_text("wr0ng-t0ken")
    with HttpServer(house.folder, "git", TOKEN) as server:
        accesses: tuple[dict[str, Path], ...] = ({"token_file": file}, {})
        for access in accesses:
            reason, message = reason_of(house.source(f"http://127.0.0.1:{server.port}/remote.git", MAIN, **access))
            assert reason is Reason.SOURCE_AUTH_FAILED
            assert "wr0ng" not in message
        token_right = house.folder / "right"
        token_right.write_text(TOKEN)
        missing = house.source(f"http://127.0.0.1:{server.port}/other.git", token_file=token_right)
        assert reason_of(missing)[0] is Reason.SOURCE_AUTH_FAILED


def test_ssh_with_the_right_key_a_wrong_one_and_a_server_nobody_knows(house: House, ssh_fleet: MakeFleet) -> None:
    fleet = ssh_fleet(["git-1"])
    url = f"ssh://{fleet.user}@127.0.1.1:{fleet.port}{house.bare}"
    good = {"ssh_key_file": fleet.private_key, "known_hosts_file": fleet.known_hosts}
    assert house.source(url, MAIN, **good).sync().read("jobs/a.yaml") == b"one"
    stranger = house.source(url, MAIN, **{**good, "ssh_key_file": fleet.stranger_key})
    assert reason_of(stranger)[0] is Reason.SOURCE_AUTH_FAILED
    unknown = house.source(url, MAIN, **{**good, "known_hosts_file": fleet.empty_known_hosts})
    assert reason_of(unknown)[0] is Reason.SOURCE_HOST_KEY_UNKNOWN
    nowhere = house.source(url.replace(str(house.bare), "/nowhere.git"), MAIN, **good)
    assert reason_of(nowhere)[0] is Reason.SOURCE_AUTH_FAILED


def test_a_transport_that_is_not_allowed_is_not_used(house: House) -> None:
    elsewhere = Git(house.state, timedelta(seconds=20), Access(parse_address(f"file://{house.bare}")))
    with pytest.raises(GitFailed, match="not allowed"):
        elsewhere.run("ls-remote", f"git://127.0.0.1:{house.server.port}/remote.git", remote=True)
    with pytest.raises(GitFailed, match="not allowed"):
        elsewhere.run("ls-remote", f"ext::touch {house.folder}/evil", remote=True)
    assert not (house.folder / "evil").exists()


def test_a_folder_that_the_commit_lacks_is_refused(house: House) -> None:
    git_of = Git(house.state, timedelta(seconds=20), Access(parse_address(house.server.url(house.bare))))
    source = GitSource(
        "fleet",
        git_of,
        RemoteOrigin(git_of, house.mirror, Followed("main")),
        Copies(house.state / "snapshots", FakeClock()),
        folder="ansible/fleet",
        scratch=house.state,
        max_files=100,
        max_bytes=1000,
    )
    with pytest.raises(Refused) as missing:
        source.sync()
    assert missing.value.reason is Reason.PATH_MISSING
    house.copy.commit("there it is", **{"ansible/fleet/jobs/a.yaml": "deep"})
    house.copy.push()
    assert dict(source.sync().files).keys() == {"jobs/a.yaml"}
    source.close()


def test_a_token_is_not_sent_to_where_the_server_redirects(house: House) -> None:
    file = house.folder / "token"
    file.write_text(TOKEN)
    with HttpServer(house.folder, "git", TOKEN) as other, redirecting_to(f"http://127.0.0.1:{other.port}") as port:
        reason, message = reason_of(house.source(f"http://127.0.0.1:{port}/remote.git", MAIN, token_file=file))
        assert other.asked == []
    assert reason is Reason.SETTINGS_INVALID
    assert "302" in message


# == Who waits for whom ==============================================================================================
def test_with_a_damaged_mirror_only_its_reader_waits_for_the_network(house: House) -> None:
    source = house.source()
    snapshot = source.sync()
    lose_objects(house.mirror)
    house.server.stop()
    told: list[Reason] = []

    def look() -> None:
        for ask in (lambda: snapshot.read("jobs/a.yaml"), lambda: source.keep(snapshot.revision)):
            with pytest.raises(Unavailable) as away:
                ask()
            told.append(away.value.reason)

    with silent_server_at(house.server.port):
        looks = [threading.Thread(target=look) for _ in range(4)]
        for thread in looks:
            thread.start()
        for thread in looks:
            thread.join(15)  # seconds; git itself would be given twenty
            assert not thread.is_alive()
    assert set(told) == {Reason.SOURCE_MOVED}
    house.server.start()
    assert source.sync().read("jobs/a.yaml") == b"one"


def test_a_look_touches_no_file_of_a_checkout(house: House) -> None:
    source = house.source()
    snapshot = source.sync()
    root = snapshot.root
    (root / "playbooks/p.yml").write_text("what a playbook wrote while it runs")
    assert snapshot.root == root
    assert (root / "playbooks/p.yml").read_text() == "what a playbook wrote while it runs"


def test_whatever_a_playbook_did_to_a_checkout_the_next_run_has_what_was_committed(house: House) -> None:
    (house.copy.place / "group_vars").mkdir()
    (house.copy.place / "group_vars/all.yml").symlink_to("../jobs/a.yaml")
    house.copy.write("inventory.sh", "#!/bin/sh\n")
    (house.copy.place / "inventory.sh").chmod(0o755)
    house.copy.commit("links and programs")
    house.copy.push()
    outside = house.folder / "outside"
    outside.mkdir()
    source = house.source()
    revision = source.sync().revision
    root = source.keep(revision).root
    times = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    for restarted in (False, True):
        (root / "jobs/a.yaml").write_text("spoilt")
        (root / "group_vars/all.yml").unlink()
        (root / "group_vars/all.yml").write_text("spoilt")
        (root / "inventory.sh").chmod(0o644)
        (root / "playbooks/p.yml").unlink()
        (root / "playbooks").rmdir()
        (root / "playbooks").symlink_to(outside)
        if restarted:
            source = house.source()
            source.sync()
        copy = source.keep(revision)
        assert copy.read("jobs/a.yaml") == b"one"
        assert str((root / "group_vars/all.yml").readlink()) == "../jobs/a.yaml"
        assert (root / "inventory.sh").stat().st_mode & 0o777 == 0o755
        assert (root / "playbooks/p.yml").read_text() == "two"
        assert list(outside.iterdir()) == []
    assert (root / "jobs/a.yaml").lstat().st_mtime_ns == times[root / "jobs/a.yaml"]


def test_files_that_stay_the_same_keep_their_times_from_one_checkout_to_the_next(house: House) -> None:
    source = house.source()
    first = source.keep(source.sync().revision).root
    os.utime(first / "playbooks/p.yml", (1_700_000_000, 1_700_000_000))
    house.copy.commit("second", **{"jobs/a.yaml": "changed"})
    house.copy.push()
    second = source.keep(source.sync().revision).root
    assert (second / "playbooks/p.yml").stat().st_mtime == 1_700_000_000
    assert (second / "jobs/a.yaml").stat().st_mtime > 1_700_000_000


# == Time for the first clone ========================================================================================
def test_a_first_clone_that_was_cut_off_has_its_time_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[timedelta | None] = []
    run = Git.run

    def noticed(self: Git, *arguments: str, **options: Any) -> bytes:
        if arguments[0] == "fetch":
            limits.append(options.get("timeout"))
            if len(limits) == 1:
                raise Unavailable(Reason.SOURCE_TIMEOUT, "cut off")
        return run(self, *arguments, **options)

    monkeypatch.setattr(Git, "run", noticed)
    source = house.source()
    with pytest.raises(Unavailable):
        source.sync()
    source.sync()
    house.copy.commit("second", **{"jobs/a.yaml": "second"})
    house.copy.push()
    source.sync()
    once = timedelta(seconds=20)
    assert limits == [once * 10, once * 10, once]


def test_a_name_that_looks_like_a_complaint_is_none(house: House) -> None:
    house.mirror_name = "openssl-connection-refused"
    house.source().sync()
    house.copy.commit("second", **{"jobs/a.yaml": "second"})
    house.copy.push()
    source = house.source()
    source.sync()
    cut_packs(house.mirror)
    lose_objects(house.mirror)
    house.copy.commit("third", **{"jobs/a.yaml": "third"})
    house.copy.push()
    assert source.sync().read("jobs/a.yaml") == b"third"
