"""The branch that shows the status: nothing is lost on it, whoever else publishes there and whatever fails."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from structlog.testing import capture_logs

from reconciler.adapters.git import Access, Git, publisher
from reconciler.adapters.git.publisher import Changes, StatusBranch
from reconciler.adapters.snapshots import remove
from reconciler.adapters.statusfile import StatusFiles
from reconciler.core.facts import JobKey
from reconciler.core.repository import parse_address
from reconciler.core.status import (
    Condition,
    ConditionType,
    JobMetadata,
    JobStatus,
    JobStatusBody,
    ManifestCounts,
    Phase,
    SourceMetadata,
    SourceStatus,
    SourceStatusBody,
)
from tests.acceptance.workspace import PATIENCE, wait_for
from tests.builders import COMMIT_REVISION, NOON
from tests.gitrepo import git, make_remote
from tests.gitservers import GitDaemon, HttpServer, silent_server

BRANCH = "reconciler-status"


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "GATHERING", 0.0)
    monkeypatch.setattr(publisher, "SHORTEST", 0.05)
    monkeypatch.setattr(publisher, "AGAIN", (0.0, 0.1))


# == A repository, and those who publish there =======================================================================
def job(name: str, phase: Phase, message: str = "", source: str = "default") -> JobStatus:
    return JobStatus(
        metadata=JobMetadata(name=name, source=source, path=f"jobs/{name}.yaml", generation=1),
        status=JobStatusBody(
            observed_generation=1,
            phase=phase,
            message=message,
            progress="",
            revision=COMMIT_REVISION,
            conditions=(),
        ),
    )


def source_status(minute: int = 0, reason: str = "Synced", source: str = "default") -> SourceStatus:
    ready = Condition(
        type=ConditionType.READY,
        status="True",
        reason=reason,
        message="",
        last_transition_time=NOON,
        observed_generation=0,
    )
    return SourceStatus(
        metadata=SourceMetadata(name=source),
        status=SourceStatusBody(
            observed_revision=COMMIT_REVISION,
            last_sync=NOON + timedelta(minutes=minute),
            manifests=ManifestCounts(),
            conditions=(ready,),
        ),
    )


class Daemon:
    """What a process has to do with the branch: the status files of one source, and who publishes them."""

    def __init__(self, state: Path, source: str, git: Git, target: str, interval: timedelta) -> None:
        self.source = source
        self.git = git
        self.results: list[str] = []
        self.files = StatusFiles(state)
        folder, repository = state / "status" / source, state / "git" / source / "status.git"
        self.repository = repository
        self.branch = StatusBranch(git, source, folder, repository, target, BRANCH, interval, self.results.append)

    def say(self, name: str, phase: Phase, message: str = "") -> None:
        status = job(name, phase, message, self.source)
        self.files.write(status)
        self.branch.write(status)

    def say_of_source(self, status: SourceStatus) -> None:
        self.files.write_source(status)
        self.branch.write_source(status)

    def forget(self, name: str) -> None:
        self.files.remove(JobKey(self.source, name))
        self.branch.remove(JobKey(self.source, name))

    def tried(self, result: str = "success", times: int = 1) -> None:
        """Wait until there were so many tries with this result since the last call."""
        wait_for(lambda: self.results.count(result) >= times, f"{times} times {result}")
        self.results.clear()

    def close(self, patience: float = PATIENCE) -> None:
        self.branch.close(patience)


class Board:
    """A bare repository with a branch main, a person's clone of it, and the daemons that publish there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bare, self.copy = make_remote(folder)
        self.main = self.copy.commit("first", **{"jobs/patch-web.yaml": "the manifest"})
        self.copy.push()
        self._open: list[Daemon] = []

    def daemon(
        self,
        source: str = "default",
        *,
        target: str | None = None,
        timeout: float = 60,
        interval: float = 0.0,
        state: str = "state",
        kind: Callable[..., Git] = Git,
        **access: Any,
    ) -> Daemon:
        """A new process; not started yet."""
        target = target or str(self.bare)
        used = kind(self.folder / state, timedelta(seconds=timeout), Access(parse_address(target), **access))
        made = Daemon(self.folder / state, source, used, target, timedelta(seconds=interval))
        self._open.append(made)
        return made

    def started(self, source: str = "default", **options: Any) -> Daemon:
        """One that has made its first try."""
        made = self.daemon(source, **options)
        made.branch.start()
        made.tried()
        return made

    def subjects(self) -> list[str]:
        """The newest first."""
        return git(self.bare, "log", "--format=%s", BRANCH).splitlines()

    def files(self) -> list[str]:
        return git(self.bare, "ls-tree", "-r", "--name-only", BRANCH).splitlines()

    def shown(self, path: str) -> dict[str, Any]:
        status: dict[str, Any] = yaml.safe_load(git(self.bare, "show", f"{BRANCH}:{path}"))["status"]
        return status

    def close(self) -> None:
        for each in self._open:
            each.close()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path)
    yield made
    made.close()


# == What is published ===============================================================================================
def test_the_branch_begins_by_itself_and_is_read_where_one_has_cloned(board: Board) -> None:
    daemon = board.started()
    daemon.say("patch-web", Phase.RUNNING)
    daemon.tried()
    clone = board.copy.place
    git(clone, "fetch", "--quiet", "origin")
    shown = git(clone, "show", f"origin/{BRANCH}:default/patch-web.yaml")
    assert shown == daemon.files.path_of(JobKey("default", "patch-web")).read_text().strip()
    told = git(clone, "log", "--format=%P|%an <%ae>|%cn <%ce>|%B", f"origin/{BRANCH}")
    who = "reconciler <reconciler@localhost>"
    assert told == f"|{who}|{who}|default: patch-web Running [skip ci]\n\n{COMMIT_REVISION}"


def test_the_branch_that_is_followed_stays_as_it_is(board: Board) -> None:
    daemon = board.started()
    for phase in (Phase.RUNNING, Phase.SUCCEEDED):
        daemon.say("patch-web", phase)
        daemon.tried()
    refs = git(board.bare, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    assert len(refs) == 2
    assert f"refs/heads/main {board.main}" in refs


def test_each_change_is_a_commit_on_top_and_none_is_no_commit(board: Board) -> None:
    daemon = board.started()
    daemon.say("patch-web", Phase.RUNNING)
    daemon.tried()
    daemon.say("patch-web", Phase.SUCCEEDED)
    daemon.tried()
    daemon.branch.write(job("patch-web", Phase.SUCCEEDED))
    daemon.tried()
    assert board.subjects() == ["default: patch-web Succeeded [skip ci]", "default: patch-web Running [skip ci]"]
    assert board.shown("default/patch-web.yaml")["phase"] == "Succeeded"


def test_what_changes_in_one_interval_is_one_commit(board: Board) -> None:
    daemon = board.started(interval=3600)
    daemon.say_of_source(source_status())
    for phase in (Phase.PENDING, Phase.RUNNING, Phase.SUCCEEDED):
        daemon.say("patch-web", phase)
    daemon.say("patch-db", Phase.FAILED)
    daemon.close()
    assert board.subjects() == ["default: _source Synced, patch-web Succeeded, patch-db Failed [skip ci]"]
    assert board.files() == ["default/_source.yaml", "default/patch-db.yaml", "default/patch-web.yaml"]


def test_a_status_file_that_is_gone_is_gone_there_too(board: Board) -> None:
    before = board.started()
    before.say("patch-web", Phase.RUNNING)
    before.say("patch-db", Phase.RUNNING)
    before.close()
    daemon = board.started()
    daemon.forget("patch-db")
    wait_for(lambda: board.files() == ["default/patch-web.yaml"], "its disappearance")
    daemon.close()
    assert board.subjects()[0] == "default: patch-db Removed [skip ci]"


def test_a_reading_that_finds_nothing_new_is_not_published(board: Board) -> None:
    daemon = board.started()
    daemon.say_of_source(source_status())
    daemon.tried()
    daemon.say_of_source(source_status(minute=1))
    daemon.close()
    assert daemon.results == []
    assert len(board.subjects()) == 1


def test_a_source_whose_state_changes_is_published(board: Board) -> None:
    daemon = board.started()
    daemon.say_of_source(source_status())
    daemon.tried()
    daemon.say_of_source(source_status(reason="SourceUnreachable"))
    daemon.tried()
    assert board.subjects()[0] == "default: _source SourceUnreachable [skip ci]"


def test_statuses_of_other_sources_are_not_its_business(board: Board) -> None:
    daemon = board.started()
    daemon.branch.write(job("patch-web", Phase.RUNNING, source="other"))
    daemon.branch.write_source(source_status(source="other"))
    daemon.branch.remove(JobKey("other", "patch-web"))
    daemon.close()
    assert daemon.results == []


def test_a_state_directory_that_is_new_publishes_nothing(board: Board) -> None:
    daemon = board.started()
    daemon.say("patch-web", Phase.RUNNING)
    daemon.close()
    board.started(state="new").close()
    assert board.files() == ["default/patch-web.yaml"]


def test_a_subject_names_a_few_and_counts_the_rest() -> None:
    many = Changes({f"job-{number}": "Running" for number in range(8)})
    assert many.message("fleet") == (
        "fleet: job-0 Running, job-1 Running, job-2 Running, job-3 Running, job-4 Running, and 3 more [skip ci]\n"
    )
    assert Changes().message("fleet") == "fleet: status [skip ci]\n"
    later = Changes({"job-1": "Failed"}, frozenset({"main@sha1:b"}))
    both = Changes({"job-1": "Running"}, frozenset({"main@sha1:a"})).then(later)
    assert both.message("fleet") == "fleet: job-1 Failed [skip ci]\n\nmain@sha1:a\nmain@sha1:b\n"


# == Beside others ===================================================================================================
class Interrupted(Git):
    """Before each of the first `times` pushes somebody else is faster."""

    times = 1
    meanwhile: Callable[[], None]

    def run(self, *arguments: str, **options: Any) -> bytes:
        if arguments[0] == "push" and self.times > 0:
            self.times -= 1
            self.meanwhile()
        return super().run(*arguments, **options)


def interrupted(board: Board, times: int) -> Daemon:
    """A daemon that is; a person adds a note to the branch each time."""
    daemon = board.daemon(kind=Interrupted)
    assert isinstance(daemon.git, Interrupted)
    daemon.git.times = times
    clone = board.copy

    def add_a_note() -> None:
        git(clone.place, "fetch", "--quiet", "origin")
        if git(clone.place, "ls-remote", "origin", BRANCH):
            git(clone.place, "checkout", "--quiet", "--detach", f"origin/{BRANCH}")
        else:
            git(clone.place, "checkout", "--quiet", "--orphan", "notes")
        notes = len(list(clone.place.glob("notes/*")))
        clone.commit("a note", **{f"notes/größe\t{notes}": "keep me"})
        git(clone.place, "push", "--quiet", "origin", f"HEAD:refs/heads/{BRANCH}")

    daemon.git.meanwhile = add_a_note
    return daemon


def notes_on(board: Board) -> int:
    listed = git(board.bare, "ls-tree", "-r", "-z", "--name-only", BRANCH).split("\0")
    return sum(name.startswith("notes/größe\t") for name in listed)


@pytest.mark.parametrize("times", [1, 3])
def test_what_others_push_in_between_stays(board: Board, times: int) -> None:
    daemon = interrupted(board, times)
    daemon.say("patch-web", Phase.RUNNING)
    daemon.branch.start()
    daemon.tried()
    assert daemon.results.count("error") == 0
    assert notes_on(board) == times
    assert board.shown("default/patch-web.yaml")["phase"] == "Running"
    assert len(board.subjects()) == times + 1


def test_others_who_push_all_the_time_are_waited_for(board: Board) -> None:
    daemon = interrupted(board, publisher.TRIES)
    daemon.say("patch-web", Phase.RUNNING)
    with capture_logs() as told:
        daemon.branch.start()
        wait_for(lambda: daemon.results == ["error", "success"], "the second try")
    assert "others push to reconciler-status all the time" in told[0]["why"]
    assert notes_on(board) == publisher.TRIES
    assert board.shown("default/patch-web.yaml")["phase"] == "Running"


def test_what_else_is_on_the_branch_stays_whatever_it_is(board: Board) -> None:
    clone = board.copy
    git(clone.place, "checkout", "--quiet", "--orphan", "status")
    clone.write("tools/run.sh", "#!/bin/sh\n")
    (clone.place / "tools/run.sh").chmod(0o755)
    (clone.place / "link").symlink_to("tools/run.sh")
    git(clone.place, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    clone.write("default/stale.yaml", "of a job that is gone")
    git(clone.place, "add", "tools", "link", "default")
    git(clone.place, "commit", "--quiet", "--message", "by hand")
    git(clone.place, "push", "--quiet", "origin", f"HEAD:refs/heads/{BRANCH}")

    def others() -> list[str]:
        return [line for line in git(board.bare, "ls-tree", "-r", BRANCH).splitlines() if "default/" not in line]

    before = others()
    daemon = board.started()
    daemon.say("patch-web", Phase.RUNNING)
    daemon.tried()
    assert others() == before
    assert "default/stale.yaml" not in board.files()
    assert len(board.subjects()) == 2


def test_sources_that_publish_at_the_same_time_lose_nothing(board: Board) -> None:
    names, rounds = ("one", "two", "three"), 8
    daemons = [board.started(name, state=f"state-{name}") for name in names]
    for number in range(rounds):
        for daemon in daemons:
            daemon.say("steady", Phase.RUNNING, f"round {number}")
            daemon.say(f"job-{number}", Phase.SUCCEEDED)
        wait_for(lambda: all(daemon.results for daemon in daemons), "a try of each")
        for daemon in daemons:
            daemon.results.clear()
    for daemon in daemons:
        daemon.close()

    assert len(board.files()) == len(names) * (rounds + 1)
    for name in names:
        assert board.shown(f"{name}/steady.yaml")["message"] == f"round {rounds - 1}"
    commits = git(board.bare, "log", "--format=%s|%P", BRANCH).splitlines()
    assert all(len(commit.split("|")[1].split()) == 1 for commit in commits[:-1])
    for number, commit in enumerate(commits[:-1]):
        source = commit.split(":")[0]
        touched = git(board.bare, "diff-tree", "--name-only", f"{BRANCH}~{number + 1}", f"{BRANCH}~{number}")
        assert touched == source


def test_a_branch_that_somebody_deleted_begins_anew(board: Board) -> None:
    daemon = board.started()
    daemon.say("patch-web", Phase.RUNNING)
    daemon.tried()
    git(board.bare, "update-ref", "-d", f"refs/heads/{BRANCH}")
    daemon.say("patch-db", Phase.RUNNING)
    daemon.tried()
    assert board.files() == ["default/patch-db.yaml", "default/patch-web.yaml"]
    assert len(board.subjects()) == 1


# == Over restarts ===================================================================================================
@pytest.mark.parametrize("lost", [False, True])
def test_a_new_process_goes_on_where_the_last_one_ended(board: Board, lost: bool) -> None:
    first = board.started()
    first.say("patch-web", Phase.RUNNING)
    first.close()
    if lost:
        remove(first.repository)
    second = board.started()
    second.say("patch-web", Phase.SUCCEEDED)
    second.tried()
    assert board.subjects() == ["default: patch-web Succeeded [skip ci]", "default: patch-web Running [skip ci]"]


def test_what_an_earlier_process_did_not_publish_is_published_at_the_start(board: Board) -> None:
    first = board.daemon()
    first.say("patch-web", Phase.RUNNING)
    board.started()
    assert board.subjects() == ["default: status [skip ci]"]
    assert board.shown("default/patch-web.yaml")["phase"] == "Running"


def test_the_last_word_is_published_before_the_end(board: Board) -> None:
    daemon = board.started(interval=3600)
    daemon.say("patch-web", Phase.SUCCEEDED)
    daemon.close()
    assert board.shown("default/patch-web.yaml")["phase"] == "Succeeded"
    assert daemon.results == ["success"]
    daemon.close()
    assert daemon.results == ["success"]


def lose_objects(repository: Path) -> None:
    remove(repository / "objects")


def leave_locks(repository: Path) -> None:
    (repository / "shallow.lock").touch()
    (repository / "refs/reconciler/newest.lock").touch()


@pytest.mark.parametrize("harm", [remove, lose_objects, leave_locks])
def test_a_damaged_repository_here_is_made_anew(board: Board, harm: Callable[[Path], None]) -> None:
    daemon = board.started()
    daemon.say("patch-web", Phase.RUNNING)
    daemon.tried()
    harm(daemon.repository)
    daemon.say("patch-web", Phase.SUCCEEDED)
    wait_for(lambda: board.shown("default/patch-web.yaml")["phase"] == "Succeeded", "the publication")
    daemon.say("patch-web", Phase.FAILED)
    wait_for(lambda: board.shown("default/patch-web.yaml")["phase"] == "Failed", "one more")
    assert len(board.subjects()) == 3


def test_the_repository_here_does_not_grow_for_ever(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "LIFE", 2)
    daemon = board.started()
    for number in range(9):
        daemon.say("patch-web", Phase.RUNNING, str(number))
        daemon.tried()
    assert len(board.subjects()) == 9
    assert daemon.results.count("error") == 0
    assert len(list(daemon.repository.glob("objects/??/*"))) <= 4 * 3


# == Where it is published ===========================================================================================
def test_a_repository_of_sha256(board: Board, tmp_path: Path) -> None:
    board.bare = tmp_path / "sha256.git"
    board.bare.mkdir()
    git(board.bare, "init", "--quiet", "--bare", "--object-format=sha256")
    for state in ("one", "two"):  # a branch that is new, and one that is there
        daemon = board.started(state=state)
        daemon.say("patch-web", Phase.RUNNING, state)
        daemon.tried()
    assert len(board.subjects()) == 2


def test_no_hook_of_a_repository_on_this_machine_runs(board: Board, tmp_path: Path) -> None:
    for name in ("pre-receive", "update", "post-receive", "post-update", "reference-transaction"):
        hook = board.bare / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
        hook.chmod(0o755)
    daemon = board.started()
    daemon.say("patch-web", Phase.RUNNING)
    daemon.tried()
    assert len(board.subjects()) == 1
    assert not (tmp_path / "ran").exists()


def test_a_file_url_is_that_repository(board: Board) -> None:
    daemon = board.started(target=f"file://{board.bare}")
    daemon.say("patch-web", Phase.RUNNING)
    daemon.tried()
    assert len(board.subjects()) == 1


def test_a_server_may_have_the_last_word(board: Board) -> None:
    hook = board.bare / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho only people may push >&2\nexit 1\n")
    hook.chmod(0o755)
    with GitDaemon(board.folder) as server, capture_logs() as told:
        daemon = board.started(target=server.url(board.bare))
        daemon.say("patch-web", Phase.RUNNING)
        daemon.tried("error", 2)
        hook.unlink()
        daemon.tried()
    assert [entry["event"] for entry in told] == ["status_not_published", "status_published_again"]
    assert told[0]["reason"] == "StatusNotWritten"
    assert "only people may push" in told[0]["why"]
    assert len(board.subjects()) == 1


def test_credentials_are_used_and_never_told(board: Board, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2\n")
    token.chmod(stat.S_IRUSR)
    with HttpServer(board.folder, "git", "hunter2") as server, capture_logs() as told:
        target = f"http://127.0.0.1:{server.port}/{board.bare.name}"
        daemon = board.started(target=target, token_file=token)
        daemon.say("patch-web", Phase.RUNNING)
        daemon.tried()
        assert len(board.subjects()) == 1
        token.chmod(stat.S_IRUSR | stat.S_IWUSR)
        token.write_text("hunter3\n")
        daemon.say("patch-web", Phase.SUCCEEDED)
        daemon.tried("error")
    assert [entry["reason"] for entry in told][:1] == ["SourceAuthFailed"]
    assert "hunter" not in str(told)
    assert not [words for words in server.during if "hunter" in words]


# == When it can't be published ======================================================================================
def test_a_repository_that_is_away_is_tried_again_and_nothing_is_forgotten(board: Board) -> None:
    daemon = board.started()
    away = board.bare.with_name("away.git")
    board.bare.rename(away)
    with capture_logs() as told:
        daemon.say("patch-web", Phase.RUNNING)
        daemon.tried("error", 3)
        daemon.say("patch-db", Phase.RUNNING)
        away.rename(board.bare)
        daemon.tried()
    assert [entry["event"] for entry in told] == ["status_not_published", "status_published_again"]
    assert (told[0]["source"], told[0]["log_level"]) == ("default", "warning")
    daemon.close()
    assert "patch-web Running" in "".join(board.subjects())
    assert board.files() == ["default/patch-db.yaml", "default/patch-web.yaml"]


def running_gits() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith("git"):
                found.append(process)
    return found


def test_a_server_that_never_answers_is_given_up_and_tried_again(board: Board) -> None:
    with silent_server() as port, capture_logs() as told:
        daemon = board.daemon(target=f"git://127.0.0.1:{port}/fleet.git", timeout=1)
        daemon.branch.start()
        daemon.tried("error", 2)
        daemon.close()
    assert {entry.get("reason") for entry in told} == {"SourceTimeout"}
    assert not running_gits()


def test_a_server_that_never_answers_holds_up_neither_who_writes_nor_the_end(board: Board) -> None:
    with silent_server() as port:
        daemon = board.daemon(target=f"git://127.0.0.1:{port}/fleet.git", timeout=3600)
        daemon.branch.start()
        wait_for(running_gits, "a git that asks")
        for number in range(100):
            daemon.say("patch-web", Phase.RUNNING, str(number))
        assert daemon.results == []
        daemon.close(patience=0.2)
        assert not running_gits()
        assert set(daemon.results) == {"error"}


def test_the_main_branch_of_a_repository_is_never_written_to(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.adapters.test_git_publisher.BRANCH", "main")
    daemon = board.daemon()
    daemon.branch.start()
    with capture_logs() as logs:
        daemon.say("patch-web", Phase.RUNNING)
        daemon.tried("error")
    assert git(board.bare, "rev-parse", "main") == board.main
    assert any("main is the main branch" in entry.get("why", "") for entry in logs)
