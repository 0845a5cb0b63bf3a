"""A manifest put into a repository by a commit: on top of what is there, whoever else works there, or not at all."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.adapters.git import Access, Followed, Git, writing
from reconciler.adapters.git.origins import RemoteOrigin
from reconciler.adapters.git.repository import Repository
from reconciler.adapters.git.writing import Landed, LocalWriter, NewFile, RemoteWriter
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.reasons import Reason
from reconciler.core.repository import parse_address
from tests.acceptance.workspace import PATIENCE
from tests.gitrepo import WorkingCopy, git, make_remote, make_repository
from tests.gitservers import GitDaemon, HttpServer, free_port, silent_server

NEW = NewFile("jobs/new.yaml", b"new\n", "ada", "Add batch new\n")


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "AGAIN", (0.0, 0.05))


def anything(_: Repository, __: str) -> None:
    """Nothing speaks against it."""


def refused(add: Callable[[], Landed]) -> ReconcilerError:
    with pytest.raises((Refused, Unavailable)) as caught:
        add()
    assert isinstance(caught.value, Refused | Unavailable)
    return caught.value


def log_of(place: Path, ref: str = "main") -> list[str]:
    return git(place, "log", "--format=%s", ref).splitlines()


def files_of(place: Path, ref: str = "main") -> list[str]:
    return git(place, "ls-tree", "-r", "--name-only", ref).splitlines()


# == A remote ========================================================================================================
class Remote:
    """A bare repository served by a git daemon, hooks and all; a person's clone of it, and a daemon's writers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bare, self.copy = make_remote(folder)
        self.copy.commit("first", **{"jobs/old.yaml": "old\n", "playbooks/run.sh": "echo\n", "inventory/hosts": "h1\n"})
        self.copy.push()
        self.server = GitDaemon(folder)
        self.writers: list[RemoteWriter] = []

    def git(self, url: str, seconds: float = 30.0, **access: Path) -> Git:
        scratch = self.folder / f"state-{len(self.writers)}"
        return Git(scratch, timedelta(seconds=seconds), Access(parse_address(url), **access))  # type: ignore[arg-type]

    def writer(self, url: str | None = None, branch: str | None = "main", seconds: float = 30.0) -> RemoteWriter:
        made = self.git(url or self.server.url(self.bare), seconds)
        place = self.folder / f"state-{len(self.writers)}"
        self.writers.append(RemoteWriter(made, place / "write.git", place / "mirror.git", Followed(branch)))
        return self.writers[-1]

    def hook(self, name: str, text: str) -> None:
        hook = self.bare / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n{text}\n")
        hook.chmod(0o755)

    def push(self, subject: str) -> None:
        git(self.copy.place, "fetch", "--quiet", "origin", "main")
        git(self.copy.place, "reset", "--quiet", "--hard", "FETCH_HEAD")
        self.copy.commit(subject, **{f"jobs/{subject}.yaml": subject})
        self.copy.push()


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    found = Remote(tmp_path)
    with found.server:
        yield found
    for writer in found.writers:
        writer.close()


def test_it_is_one_commit_more_with_one_file_more(remote: Remote) -> None:
    before = git(remote.bare, "rev-parse", "main")
    landed = remote.writer().add(NEW, anything)

    assert git(remote.bare, "rev-parse", "main") == landed.commit.id
    assert git(remote.bare, "rev-parse", "main^") == before
    assert git(remote.bare, "diff", "--raw", "--no-abbrev", "main^", "main").split("\t")[1:] == ["jobs/new.yaml"]
    assert git(remote.bare, "show", "main:jobs/new.yaml") == "new"
    assert git(remote.bare, "log", "-1", "--format=%an <%ae>, %cn <%ce>: %B", "main") == (
        "ada via reconciler <reconciler@localhost>, ada via reconciler <reconciler@localhost>: Add batch new"
    )
    assert (landed.branch, landed.commit.author) == ("main", "ada via reconciler <reconciler@localhost>")
    assert landed.revision == f"main@sha1:{landed.commit.id}"
    assert not (remote.folder / "state-0" / "write.git").exists()
    git(remote.bare, "fsck", "--strict")


def test_a_source_that_names_no_branch_is_written_to_where_its_head_is(remote: Remote) -> None:
    git(remote.copy.place, "push", "--quiet", "origin", "HEAD:trunk")
    git(remote.bare, "symbolic-ref", "HEAD", "refs/heads/trunk")
    assert remote.writer(branch=None).add(NEW, anything).branch == "trunk"
    assert log_of(remote.bare, "trunk") == ["Add batch new", "first"]
    assert log_of(remote.bare) == ["first"]


def test_what_else_is_in_the_tree_stays_as_it_is(remote: Remote) -> None:
    (remote.copy.place / "playbooks" / "run.sh").chmod(0o755)
    (remote.copy.place / "link").symlink_to("jobs")
    remote.copy.commit("odd ones", **{"jobs/a/ä \t.yaml": "x"})
    git(remote.copy.place, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendor/module")
    git(remote.copy.place, "commit", "--quiet", "--message", "a submodule")
    remote.copy.push()

    remote.writer().add(NewFile("deep/er/new.yaml", b"new\n", "ada", "Add it\n"), anything)

    changed = git(remote.bare, "diff", "--name-status", "main^", "main")
    assert changed == "A\tdeep/er/new.yaml"


def test_nothing_is_written_over(remote: Remote) -> None:
    error = refused(lambda: remote.writer().add(NewFile("jobs/old.yaml", b"x", "ada", "Add it\n"), anything))
    assert (type(error), error.reason) == (Refused, Reason.NAME_TAKEN)
    error = refused(lambda: remote.writer().add(NewFile("jobs", b"x", "ada", "Add it\n"), anything))
    assert error.reason is Reason.NAME_TAKEN
    assert log_of(remote.bare) == ["first"]


def test_nothing_is_written_through_a_link_a_file_or_a_submodule(remote: Remote) -> None:
    (remote.copy.place / "link").symlink_to("jobs")
    remote.copy.commit("a link")
    git(remote.copy.place, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    git(remote.copy.place, "commit", "--quiet", "--message", "a submodule")
    remote.copy.push()
    for folder in ("link", "jobs/old.yaml", "module"):
        error = refused(lambda at=folder: remote.writer().add(NewFile(f"{at}/new.yaml", b"x", "a", "b\n"), anything))  # type: ignore[misc]
        assert (type(error), error.reason) == (Refused, Reason.PATH_OUTSIDE_SOURCE)
    assert len(log_of(remote.bare)) == 3


def test_who_looks_may_refuse_what_is_there(remote: Remote) -> None:
    def look(repository: Repository, commit: str) -> None:
        assert repository.tree(commit, "jobs", 10).files.keys() == {"old.yaml"}
        raise Refused(Reason.NAME_TAKEN, "old.yaml has it")

    assert refused(lambda: remote.writer().add(NEW, look)).message == "old.yaml has it"
    assert log_of(remote.bare) == ["first"]


@pytest.mark.parametrize("hook", ["pre-receive", "update"])
def test_a_server_that_refuses_says_why_and_nothing_is_there(remote: Remote, hook: str) -> None:
    remote.hook(hook, "echo 'no batches on fridays' >&2; exit 1")
    error = refused(lambda: remote.writer().add(NEW, anything))
    assert (type(error), error.reason) == (Refused, Reason.NOT_WRITTEN)
    assert "no batches on fridays" in error.message
    assert "main" in error.hint
    assert log_of(remote.bare) == ["first"]


def test_whoever_was_first_stays_and_it_comes_on_top(remote: Remote) -> None:
    looks: list[str] = []

    def look(repository: Repository, commit: str) -> None:
        looks.append(commit)
        if len(looks) < 4:
            remote.push(f"other-{len(looks)}")

    remote.writer().add(NEW, look)

    assert log_of(remote.bare) == ["Add batch new", "other-3", "other-2", "other-1", "first"]
    assert len(set(looks)) == 4  # each commit that it was to stand on was looked at
    assert set(files_of(remote.bare)) >= {"jobs/new.yaml", "jobs/other-3.yaml"}


def test_where_somebody_else_was_first_with_the_same_name_theirs_stays(remote: Remote) -> None:
    pushed: list[str] = []

    def look(repository: Repository, commit: str) -> None:
        if not pushed:
            pushed.append("new")
            remote.push("new")

    assert refused(lambda: remote.writer().add(NEW, look)).reason is Reason.NAME_TAKEN
    assert git(remote.bare, "show", "main:jobs/new.yaml") == "new"
    assert log_of(remote.bare) == ["new", "first"]


def test_it_does_not_try_for_ever(remote: Remote) -> None:
    looks: list[int] = []

    def look(repository: Repository, commit: str) -> None:
        looks.append(1)
        remote.push(f"other-{len(looks)}")

    error = refused(lambda: remote.writer().add(NEW, look))
    assert (type(error), error.reason) == (Unavailable, Reason.NOT_WRITTEN)
    assert len(looks) == writing.TRIES
    assert "jobs/new.yaml" not in files_of(remote.bare)


def test_many_who_write_at_once_all_get_there(remote: Remote) -> None:
    """Six daemons, each with its own writer; within one they wait for each other."""
    writers = [remote.writer() for _ in range(3)]
    names = [f"many-{number}" for number in range(6)]

    def add(number: int) -> Landed:
        file = NewFile(f"jobs/{names[number]}.yaml", b"x\n", "ada", f"Add {names[number]}\n")
        return writers[number % 3].add(file, anything)

    with ThreadPoolExecutor(6) as pool:
        landed = list(pool.map(add, range(6)))

    assert len({each.commit.id for each in landed}) == 6
    assert {f"jobs/{name}.yaml" for name in names} <= set(files_of(remote.bare))
    assert git(remote.bare, "rev-list", "--merges", "main") == ""
    assert len(log_of(remote.bare)) == 7


def test_an_answer_that_got_lost_is_no_second_commit(remote: Remote) -> None:
    """The branch has moved, and the connection breaks before that is said."""
    remote.hook("post-update", f"test -e {remote.folder}/lost || {{ touch {remote.folder}/lost; kill -9 $PPID; }}")
    landed = remote.writer().add(NEW, anything)
    assert (remote.folder / "lost").exists()
    assert log_of(remote.bare) == ["Add batch new", "first"]
    assert git(remote.bare, "rev-parse", "main") == landed.commit.id


def test_an_answer_that_comes_too_late_is_no_failure(remote: Remote) -> None:
    """The branch has moved, and what the server does after that takes longer than anybody waits."""
    os.mkfifo(remote.folder / "fifo")
    remote.hook("post-receive", f"read never < {remote.folder}/fifo")
    landed = remote.writer(seconds=3).add(NEW, anything)
    assert git(remote.bare, "rev-parse", "main") == landed.commit.id
    assert log_of(remote.bare) == ["Add batch new", "first"]
    _let_go(remote)


def test_where_nobody_can_tell_whether_it_is_there_that_is_said(remote: Remote) -> None:
    os.mkfifo(remote.folder / "fifo")
    remote.hook("post-receive", f"mv {remote.bare} {remote.bare}.away; read never < {remote.folder}/fifo")
    error = refused(lambda: remote.writer(seconds=3).add(NEW, anything))
    assert (type(error), error.reason) == (Unavailable, Reason.SOURCE_TIMEOUT)
    assert "whether the commit is on main is not known" in error.message
    assert "may be there twice" in error.hint
    _let_go(remote)


def _let_go(remote: Remote) -> None:
    """A hook that waits, if it still does."""
    with suppress(OSError):
        os.close(os.open(remote.folder / "fifo", os.O_WRONLY | os.O_NONBLOCK))


def test_the_objects_of_the_mirror_are_used_and_a_damaged_one_does_not_matter(remote: Remote) -> None:
    writer = remote.writer()
    mirror = remote.folder / "state-0" / "mirror.git"
    RemoteOrigin(remote.git(remote.server.url(remote.bare)), mirror, Followed("main")).newest()
    objects = sorted(path.name for path in (mirror / "objects").rglob("*"))

    writer.add(NEW, anything)

    assert sorted(path.name for path in (mirror / "objects").rglob("*")) == objects  # nothing is written there
    for found in [path for path in (mirror / "objects").rglob("*") if path.is_file()]:
        found.chmod(0o600)
        found.write_bytes(b"")
    writer.add(NewFile("jobs/another.yaml", b"x\n", "ada", "Another\n"), anything)
    assert log_of(remote.bare) == ["Another", "Add batch new", "first"]
    git(remote.bare, "fsck", "--strict")


def test_a_mirror_that_is_damaged_where_it_is_looked_into_does_not_matter(remote: Remote) -> None:
    writer = remote.writer()
    mirror = remote.folder / "state-0" / "mirror.git"
    RemoteOrigin(remote.git(remote.server.url(remote.bare)), mirror, Followed("main")).newest()
    blob = git(remote.bare, "rev-parse", "main:jobs/old.yaml")
    damaged = mirror / "objects" / blob[:2] / blob[2:]
    damaged.chmod(0o600)
    damaged.write_bytes(b"")
    seen: list[bytes] = []

    def look(repository: Repository, commit: str) -> None:
        seen.append(repository.content(repository.tree(commit, "jobs", 10).files["old.yaml"], 1000))

    writer.add(NEW, look)
    assert (seen, log_of(remote.bare)) == ([b"old\n"], ["Add batch new", "first"])


def test_what_a_killed_daemon_left_does_not_matter(remote: Remote) -> None:
    left = remote.folder / "state-0" / "write.git" / "objects"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    remote.writer().add(NEW, anything)
    assert log_of(remote.bare) == ["Add batch new", "first"]


def test_a_repository_with_long_ids(tmp_path: Path) -> None:
    place = make_bare(tmp_path, "--object-format=sha256")
    made = Git(tmp_path / "state", timedelta(seconds=30), Access(parse_address(f"file://{place}")))
    landed = RemoteWriter(made, tmp_path / "w.git", tmp_path / "m.git", Followed("main")).add(NEW, anything)
    assert landed.revision == f"main@sha256:{git(place, 'rev-parse', 'main')}"


@contextmanager
def full_disk() -> Iterator[None]:
    """Nothing can be written to any file, by this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def make_bare(folder: Path, *options: str) -> Path:
    place, copy = folder / "bare.git", folder / "copy"
    for at, more in ((place, ("--bare",)), (copy, ())):
        at.mkdir()
        git(at, "init", "--quiet", "--initial-branch=main", *options, *more)
    WorkingCopy(copy).commit("first", **{"jobs/old.yaml": "old\n"})
    git(copy, "push", "--quiet", str(place), "HEAD:main")
    return place


# -- the world -------------------------------------------------------------------------------------------------------
def test_who_may_only_read_is_told_so(remote: Remote, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("wrong")
    with HttpServer(remote.folder, "git", "sesame-open") as server:
        made = remote.git(f"http://127.0.0.1:{server.port}/remote.git", token_file=token)
        writer = RemoteWriter(made, tmp_path / "w.git", tmp_path / "m.git", Followed("main"))
        error = refused(lambda: writer.add(NEW, anything))
        assert (type(error), error.reason) == (Refused, Reason.SOURCE_AUTH_FAILED)

        token.write_text("sesame-open")
        git(remote.bare, "config", "http.receivepack", "false")
        error = refused(lambda: writer.add(NEW, anything))
        assert (type(error), error.reason) == (Refused, Reason.SOURCE_AUTH_FAILED)
        assert "may push to main" in error.hint
        assert log_of(remote.bare) == ["first"]

        git(remote.bare, "config", "http.receivepack", "true")
        writer.add(NEW, anything)
        assert not [line for line in server.during if "sesame-open" in line]
    assert log_of(remote.bare) == ["Add batch new", "first"]


def test_a_server_that_is_away_or_does_not_answer(remote: Remote) -> None:
    error = refused(lambda: remote.writer(f"git://127.0.0.1:{free_port()}/x.git").add(NEW, anything))
    assert (type(error), error.reason) == (Unavailable, Reason.SOURCE_UNREACHABLE)
    with silent_server() as port:
        error = refused(lambda: remote.writer(f"git://127.0.0.1:{port}/x.git", seconds=0.5).add(NEW, anything))
    assert (type(error), error.reason) == (Unavailable, Reason.SOURCE_TIMEOUT)


def test_a_full_disk_here_leaves_nothing_there(remote: Remote) -> None:
    writer = remote.writer()
    with full_disk():
        error = refused(lambda: writer.add(NEW, anything))
    assert (type(error), bool(error.hint)) == (Unavailable, True)
    assert log_of(remote.bare) == ["first"]
    writer.add(NEW, anything)
    assert log_of(remote.bare) == ["Add batch new", "first"]


def test_a_branch_that_is_not_there_is_not_made(remote: Remote) -> None:
    error = refused(lambda: remote.writer(branch="production").add(NEW, anything))
    assert isinstance(error, Refused)
    assert git(remote.bare, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


def test_closing_ends_what_goes_on(remote: Remote) -> None:
    remote.hook("pre-receive", f"touch {remote.folder}/begun; read never < {remote.folder}/fifo")
    os.mkfifo(remote.folder / "fifo")
    writer, errors = remote.writer(seconds=PATIENCE), []

    def add() -> None:
        errors.append(refused(lambda: writer.add(NEW, anything)))

    thread = threading.Thread(target=add)
    thread.start()
    while not (remote.folder / "begun").exists():
        thread.join(0.02)
        assert thread.is_alive()
    writer.close()
    thread.join(PATIENCE)
    _let_go(remote)
    assert [type(error) for error in errors] == [Unavailable]


# == A repository of this machine ====================================================================================
@pytest.fixture
def here(tmp_path: Path) -> WorkingCopy:
    made = make_repository(tmp_path / "work")
    made.commit("first", **{"jobs/old.yaml": "old\n", "other.txt": "other\n"})
    return made


def local(copy: WorkingCopy, branch: str | None = None) -> LocalWriter:
    return LocalWriter(Git(copy.place.parent / "scratch", timedelta(seconds=30)), copy.place, Followed(branch))


def state_of(copy: WorkingCopy) -> str:
    return git(copy.place, "status", "--porcelain", "--branch")


def test_a_bare_repository(tmp_path: Path) -> None:
    place = make_bare(tmp_path)
    landed = local(WorkingCopy(place)).add(NEW, anything)
    assert (landed.branch, log_of(place)) == ("main", ["Add batch new", "first"])
    assert landed.commit.author == "ada via reconciler <reconciler@localhost>"
    git(place, "fsck", "--strict")


def test_the_work_of_whoever_has_the_branch_checked_out_stays_as_it_is(here: WorkingCopy) -> None:
    here.write("staged.txt", "staged")
    git(here.place, "add", "staged.txt")
    here.write("other.txt", "modified")
    here.write("jobs/lies-there.yaml", "not for git")
    before = state_of(here)

    local(here).add(NEW, anything)

    assert state_of(here) == before
    assert (here.place / "jobs" / "new.yaml").read_text() == "new\n"
    assert git(here.place, "diff", "--name-only", "HEAD^", "HEAD") == "jobs/new.yaml"
    git(here.place, "commit", "--quiet", "--all", "--message", "my own")
    assert "jobs/new.yaml" in files_of(here.place)  # the next commit does not take it away again
    assert git(here.place, "reflog", "-1", "--format=%gs", "HEAD@{1}") == "reconciler: Add batch new"


def test_where_another_branch_is_checked_out_nothing_is_touched(here: WorkingCopy) -> None:
    git(here.place, "checkout", "--quiet", "-b", "feature")
    before = state_of(here)
    local(here, "main").add(NEW, anything)
    assert (state_of(here), log_of(here.place)) == (before, ["Add batch new", "first"])
    assert not (here.place / "jobs" / "new.yaml").exists()
    assert log_of(here.place, "feature") == ["first"]


def test_another_working_tree_that_has_the_branch_gets_the_file(here: WorkingCopy) -> None:
    git(here.place, "checkout", "--quiet", "-b", "feature")
    beside = here.place.parent / "beside"
    git(here.place, "worktree", "add", "--quiet", str(beside), "main")
    local(here, "main").add(NEW, anything)
    assert (beside / "jobs" / "new.yaml").read_text() == "new\n"
    assert state_of(WorkingCopy(beside)) == "## main"
    assert state_of(here) == "## feature"
    local(WorkingCopy(beside)).add(NewFile("jobs/more.yaml", b"x\n", "ada", "More\n"), anything)
    assert state_of(WorkingCopy(beside)) == "## main"
    assert log_of(here.place) == ["More", "Add batch new", "first"]


def _untracked(here: WorkingCopy) -> None:
    here.write("jobs/new.yaml", "mine")


def _linked(here: WorkingCopy) -> None:
    (here.place / "elsewhere").mkdir()
    (here.place / "jobs").rename(here.place / "elsewhere" / "jobs")
    (here.place / "jobs").symlink_to("elsewhere/jobs")


def _locked(here: WorkingCopy) -> None:
    (here.place / ".git" / "index.lock").touch()


def _ref_locked(here: WorkingCopy) -> None:
    (here.place / ".git" / "refs" / "heads" / "main.lock").touch()


def _detached(here: WorkingCopy) -> None:
    git(here.place, "checkout", "--quiet", "--detach")


def _rebasing(here: WorkingCopy) -> None:
    here.commit("second", **{"other.txt": "second"})
    git(here.place, "branch", "side", "HEAD^")
    git(here.place, "checkout", "--quiet", "side")
    here.commit("third", **{"other.txt": "third"})
    git(here.place, "checkout", "--quiet", "main")
    with pytest.raises(AssertionError, match="rebase"):
        git(here.place, "rebase", "side")  # it stops at a conflict


@pytest.mark.parametrize(
    ("spoil", "branch", "reason", "kind"),
    [
        (_untracked, None, Reason.NAME_TAKEN, Refused),
        (_linked, None, Reason.PATH_OUTSIDE_SOURCE, Refused),
        (_locked, None, Reason.NOT_WRITTEN, Unavailable),
        (_ref_locked, None, Reason.NOT_WRITTEN, Unavailable),
        (_detached, None, Reason.NOT_WRITABLE, Refused),
        (_rebasing, "main", Reason.NOT_WRITTEN, Unavailable),
    ],
)
def test_what_is_not_safe_is_not_done(
    here: WorkingCopy,
    spoil: Callable[[WorkingCopy], None],
    branch: str | None,
    reason: Reason,
    kind: type[ReconcilerError],
) -> None:
    spoil(here)
    before, head = state_of(here), git(here.place, "rev-parse", "main")
    error = refused(lambda: local(here, branch).add(NEW, anything))
    assert (type(error), error.reason) == (kind, reason), error
    assert error.hint
    assert (state_of(here), git(here.place, "rev-parse", "main")) == (before, head)
    assert not (here.place / "jobs" / "new.yaml").exists() or spoil is _untracked


def test_a_commit_made_meanwhile_stays_and_it_comes_on_top(here: WorkingCopy) -> None:
    looks: list[str] = []

    def look(repository: Repository, commit: str) -> None:
        looks.append(commit)
        if len(looks) < 3:
            here.commit(f"other-{len(looks)}", **{f"jobs/{len(looks)}.yaml": "x"})

    local(here).add(NEW, look)

    assert log_of(here.place) == ["Add batch new", "other-2", "other-1", "first"]
    assert state_of(here) == "## main"


def test_a_git_that_is_at_work_there_is_waited_for(here: WorkingCopy) -> None:
    """Such as that of an editor, which looks at the index again and again."""
    looks: list[int] = []
    lock = here.place / ".git" / "index.lock"

    def look(repository: Repository, commit: str) -> None:
        looks.append(1)
        if len(looks) == 1:
            lock.touch()
        elif len(looks) == 3:
            lock.unlink()

    local(here).add(NEW, look)

    assert (state_of(here), log_of(here.place), len(looks)) == ("## main", ["Add batch new", "first"], 3)


def test_a_full_disk_leaves_a_repository_of_this_machine_as_it_was(here: WorkingCopy) -> None:
    before = state_of(here)
    with full_disk():
        error = refused(lambda: local(here).add(NEW, anything))
    assert (type(error), bool(error.hint)) == (Unavailable, True)
    assert (state_of(here), log_of(here.place)) == (before, ["first"])
    local(here).add(NEW, anything)
    assert state_of(here) == before


def test_one_without_a_commit_is_left_to_its_owner(tmp_path: Path) -> None:
    error = refused(lambda: local(make_repository(tmp_path / "empty")).add(NEW, anything))
    assert (type(error), error.reason) == (Refused, Reason.SOURCE_BRANCH_MISSING)


def test_no_hook_of_the_repository_runs(here: WorkingCopy) -> None:
    for name in ("pre-commit", "commit-msg", "post-commit", "reference-transaction"):
        hook = here.place / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {here.place.parent}/ran\nexit 1\n")
        hook.chmod(0o755)
    local(here).add(NEW, anything)
    assert not (here.place.parent / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository away")
def test_root_leaves_the_repository_of_somebody_else_alone(here: WorkingCopy) -> None:
    os.chown(here.place / ".git", 65534, 65534)
    error = refused(lambda: local(here).add(NEW, anything))
    os.chown(here.place / ".git", 0, 0)
    assert (type(error), error.reason) == (Refused, Reason.NOT_WRITABLE)
    assert log_of(here.place) == ["first"]


# == Who it was ======================================================================================================
@pytest.mark.parametrize("author", ["", "<>", "a\nb <evil@example.org>", "\x1b[31m", "ü"])
def test_an_author_is_only_a_name(here: WorkingCopy, author: str) -> None:
    local(here).add(NewFile("jobs/new.yaml", b"x", author, "Add\n"), anything)
    name, mail = git(here.place, "log", "-1", "--format=%an%n%ae").split("\n")
    assert name.endswith(" via reconciler")
    assert not {"<", ">", "\x1b"} & set(name)
    assert mail == "reconciler@localhost"
