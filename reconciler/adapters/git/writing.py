"""One new file put into a repository by a commit: pushed to a remote, or made in a repository of this machine.

Nothing is ever written over, and a branch only ever goes forward: the commit stands on the newest one of the branch, and
if somebody else was first, it is made anew on theirs.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reconciler.adapters.git.command import Git, GitFailed, at_the_other_end, meaning
from reconciler.adapters.git.origins import Followed, LocalOrigin, Tip, short_name
from reconciler.adapters.git.repository import Repository
from reconciler.adapters.git.source import revision_of
from reconciler.adapters.newfile import put_new, take_away, why_not_new
from reconciler.adapters.snapshots import remove
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.facts import Commit, Revision
from reconciler.core.reasons import Reason
from reconciler.core.repository import plain_text

TRIES = 8
"""How often one commit is built anew because somebody else was first."""

AGAIN = (0.05, 0.5)
"""Seconds, at least and at most, before it is: by chance, so that two who met do not meet again."""

NEWEST = "refs/reconciler/newest"
"""What the repository that is made for one push calls the newest commit of the branch."""

MAIL = "reconciler@localhost"

_FOLDER, _FILE = "040000", "100644"

_FORBIDDEN = re.compile(
    r"hook declined|protected branch|\bGH\d{3}\b|not allowed to push|prohibited|denying|pre-receive|update hook|refusing to"
)
_STUCK = re.compile(r"unpacker error|unable to migrate|insufficient permission|read-only|unable to (?:write|create)")
_LOCKED = re.compile(r"index\.lock|cannot lock ref|\.lock': File exists")
_MEANWHILE = re.compile(
    r"non-fast-forward|fetch first|stale info|cannot lock ref|failed to (?:lock|update ref)|incorrect old value|reference already"
)


@dataclass(frozen=True, slots=True)
class NewFile:
    """What is to be committed, and who asked for it. `path` is relative to the root of the repository."""

    path: str
    content: bytes
    author: str
    message: str

    @property
    def identity(self) -> Mapping[str, str]:
        name = re.sub(r"[<>]", "", plain_text(self.author)).strip() or "somebody"
        said = {"NAME": f"{name} via reconciler", "EMAIL": MAIL}
        return {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in said.items()}


Look = Callable[[Repository, str], None]
"""Looks at the commit that a new one is to stand on. Raises Refused if nothing is to be added to it."""


@dataclass(frozen=True, slots=True)
class Landed:
    """The commit, and the branch that it is on."""

    branch: str
    commit: Commit

    @property
    def revision(self) -> Revision:
        return revision_of(Tip(self.branch, self.commit.id))


class Writer(Protocol):
    def add(self, file: NewFile, look: Look) -> Landed:
        """Raises Refused where it may not be, Unavailable where it can't be now; nothing of it is there then, unless the
        message says that this is not known."""

    def close(self) -> None:
        """End what goes on; it raises Unavailable."""


# -- a remote --------------------------------------------------------------------------------------------------------
class RemoteWriter:
    """Pushes to a repository reached by a URL, out of one that is made for each commit and gone afterwards. Its objects
    are those of the mirror as far as that has them. Safe from several threads."""

    def __init__(
        self, git: Git, scratch: Path, mirror: Path, followed: Followed, signing_key: Path | None = None
    ) -> None:
        """`git` has the credentials; `scratch` is made here; `signing_key` None: commits are not signed."""
        assert git.access is not None  # without one there is no remote
        self._git = git
        self._address = git.access.address
        self._scratch = scratch
        self._mirror = mirror
        self._followed = followed
        self._signing_key = signing_key
        self._lock = threading.Lock()
        self._here = Repository(git, scratch)

    def add(self, file: NewFile, look: Look) -> Landed:
        with self._lock:
            try:
                branch, head = self._announced()
                if self._mirror.is_dir():
                    try:
                        self._make(head, self._mirror / "objects")
                        self._fetch(branch)
                        return self._push_onto(branch, file, look)
                    except (GitFailed, Unavailable) as error:
                        if not self._is_of_mirror(error):
                            raise
                self._make(head, None)
                self._fetch(branch, "--depth=1")
                return self._push_onto(branch, file, look)
            except GitFailed as failure:
                raise self._meaning(failure, self._followed.branch or "the branch") from failure
            except OSError as error:
                raise Unavailable(
                    Reason.NOT_WRITTEN, f"{self._scratch} can't be written: {error.strerror}", "see `df` and its owner"
                ) from error
            finally:
                self._here.rest()
                with suppress(OSError):
                    remove(self._scratch)

    def close(self) -> None:
        self._git.close()

    def _push_onto(self, branch: str, file: NewFile, look: Look) -> Landed:
        ref, made = f"refs/heads/{branch}", list[str]()
        for _ in range(TRIES):
            tip = self._here.resolve(NEWEST)
            assert tip is not None  # it has just been fetched
            landed = next((commit for commit in made if not self._here.rewritten(commit, tip)), None)
            if landed is not None:  # only the answer to the push got lost
                return Landed(branch, self._here.commit(landed))
            look(self._here, tip)
            commit = commit_of(self._git, self._here.directory, tip, file, self._signing_key)
            try:
                self._remote("push", "--quiet", "--end-of-options", self._address.text, f"{commit}:{ref}")
            except GitFailed as failure:
                time.sleep(random.uniform(*AGAIN))
                self._fetch(branch)
                if self._here.resolve(NEWEST) == tip and not _MEANWHILE.search(failure.said):
                    raise self._meaning(failure, branch) from failure
                made.append(commit)
                continue
            except Unavailable as late:
                self._see_that_it_is_there(branch, commit, late)
            return Landed(branch, self._here.commit(commit))
        raise others_are_first(str(self._address), branch)

    def _see_that_it_is_there(self, branch: str, commit: str, late: Unavailable) -> None:
        """The server was given the commit, and has not said in time what became of it. Raises Unavailable if it is not
        there so far, or can't be asked."""
        try:
            self._fetch(branch)
            tip = self._here.resolve(NEWEST)
            there = tip is not None and not self._here.rewritten(commit, tip)
        except (GitFailed, Unavailable):
            there = False
        if not there:
            raise Unavailable(
                late.reason,
                f"{late.message}; whether the commit is on {branch} is not known",
                f"look at {branch} before it is tried again, or it may be there twice",
            ) from late

    def _announced(self) -> tuple[str, str]:
        """The branch that is followed, and the commit that it is at, there. Raises Refused for none."""
        ref = self._followed.ref
        said = self._remote("ls-remote", "--symref", "--end-of-options", self._address.text, ref)
        listed = [line.split("\t") for line in said.decode(errors="replace").splitlines()]
        named = [value for value, name, *_ in listed if name == ref]
        head = next((value for value in named if not value.startswith("ref: ")), None)
        target = next((value.removeprefix("ref: ") for value in named if value.startswith("ref: ")), ref)
        if head is None or not target.startswith("refs/heads/"):
            raise Refused(
                Reason.NOT_WRITABLE,
                f"{self._address} does not say which branch {self._followed} is",
                "give the source a branch that is there",
            )
        return short_name(target), head

    def _is_of_mirror(self, error: GitFailed | Unavailable) -> bool:
        """Whether it may be for the mirror, which is damaged, or being replaced. It is done without, then."""
        if isinstance(error, GitFailed):
            return meaning(error, self._address) is None
        return error.reason is Reason.SOURCE_CORRUPT

    def _make(self, head: str, borrowed: Path | None) -> None:
        self._here.rest()
        remove(self._scratch)
        self._scratch.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        layout = "sha256" if len(head) == 64 else "sha1"
        self._git.run("init", "--quiet", "--bare", "--template=", f"--object-format={layout}", str(self._scratch))
        if borrowed is not None:
            (self._scratch / "objects" / "info").mkdir(exist_ok=True)
            (self._scratch / "objects" / "info" / "alternates").write_text(f"{borrowed.absolute()}\n")

    def _fetch(self, branch: str, *more: str) -> None:
        refs = f"+refs/heads/{branch}:{NEWEST}"
        quietly = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        self._remote("fetch", *quietly, *more, "--end-of-options", self._address.text, refs)

    def _remote(self, command: str, *arguments: str) -> bytes:
        other_end = at_the_other_end(self._address, "receive-pack" if command == "push" else "upload-pack")
        here = None if command == "ls-remote" else self._scratch
        return self._git.run(command, *other_end, *arguments, repository=here, remote=True)

    def _meaning(self, failure: GitFailed, branch: str) -> ReconcilerError:
        """What the server's complaint about a push means for people."""
        message = f"{self._address}: {failure.said}"
        known = meaning(failure, self._address)
        if known is not None and known.reason is Reason.NO_SPACE:
            return Unavailable(Reason.NO_SPACE, message, "make room, here or where the repository is")
        if _STUCK.search(failure.said):
            return Unavailable(Reason.NOT_WRITTEN, message, "see whether the server is well, and its disk")
        if _FORBIDDEN.search(failure.said):
            return Refused(
                Reason.NOT_WRITTEN,
                message,
                f"the server does not take this commit: see what it asks of pushes to {branch}",
            )
        if known is not None and known.reason is Reason.SOURCE_AUTH_FAILED:
            return Refused(
                known.reason,
                message,
                f"see ssh_key_file and token_file of the source, and that they may push to {branch}",
            )
        return known or Unavailable(Reason.NOT_WRITTEN, message, "see what the server says; nothing of it is there")


# -- a repository of this machine ------------------------------------------------------------------------------------
class _AtWork(Exception):
    """Somebody else commits there at the moment; `said` is git's complaint, if it had one."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


@dataclass(frozen=True, slots=True)
class _WorkingTree:
    """Where somebody has the branch checked out: its files, and its own git directory with the index."""

    root: Path
    directory: Path


class LocalWriter:
    """Commits in a repository of this machine, bare or not. Where the branch is checked out, the new file is put there
    and into the index too: the next commit made there would else remove it again. Nothing else of them changes."""

    def __init__(self, git: Git, place: Path, followed: Followed, signing_key: Path | None = None) -> None:
        self._git = git
        self._place = place
        self._followed = followed
        self._signing_key = signing_key
        self._origin = LocalOrigin(git, place, followed)
        self._lock = threading.Lock()

    def add(self, file: NewFile, look: Look) -> Landed:
        with self._lock:
            repository = self._origin.repository
            try:
                ref = self._branch(repository)
                self._check_owner(repository)
                for _ in range(TRIES - 1):
                    with suppress(_AtWork):
                        return self._landed(repository, ref, file, look)
                    time.sleep(random.uniform(*AGAIN))
                return self._landed(repository, ref, file, look)
            except _AtWork as error:
                raise Unavailable(
                    Reason.NOT_WRITTEN,
                    f"{self._place}: another git is at work there{error.said and f': {error.said}'}",
                    "try again in a moment; if none is running, remove the lock that it left",
                ) from error
            except GitFailed as failure:
                raise self._meaning(failure) from failure
            finally:
                repository.rest()

    def close(self) -> None:
        self._git.close()

    def _landed(self, repository: Repository, ref: str, file: NewFile, look: Look) -> Landed:
        try:
            return Landed(short_name(ref), repository.commit(self._try(repository, ref, file, look)))
        except GitFailed as failure:
            if _LOCKED.search(failure.said):
                raise _AtWork(failure.said) from failure
            raise

    def _try(self, repository: Repository, ref: str, file: NewFile, look: Look) -> str:
        """The commit. Raises _AtWork if somebody else was first."""
        tip = repository.resolve(ref)
        if tip is None:
            raise Refused(
                Reason.SOURCE_BRANCH_MISSING,
                f"{self._place} has no commit on {short_name(ref)} yet",
                "make the first one",
            )
        look(repository, tip)
        trees = list(self._working_trees(repository, ref))
        for tree in trees:
            if (wrong := why_not_new(tree.root, file.path)) is not None:
                raise wrong
        commit = commit_of(self._git, repository.directory, tip, file, self._signing_key)
        with self._staged(trees, commit, file) as keep:
            try:
                told = ("-m", f"reconciler: {file.message.splitlines()[0]}", "--end-of-options", ref, commit, tip)
                self._git.run("update-ref", *told, repository=repository.directory, more=file.identity)
            except GitFailed:
                now = repository.resolve(ref)
                if now == tip:
                    raise
                if now is None or self._blob(repository, now, file) != self._blob(repository, commit, file):
                    raise _AtWork("") from None
                commit = now  # whoever was first has committed what was staged, and it stays
            keep()
        return commit

    def _blob(self, repository: Repository, commit: str, file: NewFile) -> bytes:
        return self._git.run("ls-tree", "-z", commit, "--", file.path, repository=repository.directory)

    @contextmanager
    def _staged(self, trees: Sequence[_WorkingTree], commit: str, file: NewFile) -> Iterator[Callable[[], None]]:
        """The file in these working trees and in their indexes; all of it is undone unless it is to be kept."""
        staged: list[_WorkingTree] = []
        put: list[_WorkingTree] = []
        kept: list[bool] = []
        try:
            for tree in trees:
                blob = (
                    self._blob(Repository(self._git, tree.directory), commit, file)
                    .split(b" ")[2]
                    .split(b"\t")[0]
                    .decode()
                )
                entry = f"{_FILE},{blob},{file.path}"
                put_new(tree.root, file.path, file.content)
                put.append(tree)
                self._git.run("update-index", "--add", "--cacheinfo", entry, repository=tree.directory)
                staged.append(tree)
            yield lambda: kept.append(True)
        finally:
            for tree in () if kept else staged:
                with suppress(GitFailed, ReconcilerError):
                    self._git.run("update-index", "--force-remove", "--", file.path, repository=tree.directory)
            for tree in () if kept else put:
                take_away(tree.root, file.path)

    def _branch(self, repository: Repository) -> str:
        """The branch that is followed, by its full name."""
        if self._followed.ref != "HEAD":
            return self._followed.ref
        try:
            said = self._git.run("symbolic-ref", "--quiet", "HEAD", repository=repository.directory)
        except GitFailed as failure:
            raise Refused(
                Reason.NOT_WRITABLE,
                f"{self._place} has no branch checked out: HEAD is at a commit",
                "check out a branch there, or name one",
            ) from failure
        return said.decode(errors="surrogateescape").strip()

    def _check_owner(self, repository: Repository) -> None:
        """Objects that root writes into a repository of somebody else keep its owner from committing there."""
        owner = repository.directory.stat().st_uid
        if os.geteuid() == 0 and owner != 0:
            raise Refused(
                Reason.NOT_WRITABLE,
                f"{self._place} belongs to user {owner}, and reconciler runs as root: its owner could not commit any more",
                "run reconciler as the owner of the repository, or let it push to a remote",
            )

    def _working_trees(self, repository: Repository, ref: str) -> Iterator[_WorkingTree]:
        """Those that have the branch checked out. Raises Unavailable if somebody is in the middle of a rebase of it."""
        listed = self._git.run("worktree", "list", "--porcelain", repository=repository.directory)
        for about in filter(None, listed.decode(errors="surrogateescape").split("\n\n")):
            lines = about.split("\n")
            root = Path(lines[0].removeprefix("worktree "))
            if "bare" in lines or not root.is_dir():
                continue
            found = self._git.run("-C", str(root), "rev-parse", "--absolute-git-dir")
            directory = Path(found.decode(errors="surrogateescape").rstrip("\n"))
            if any(_says(directory / kind / "head-name", ref) for kind in ("rebase-merge", "rebase-apply")):
                raise Unavailable(
                    Reason.NOT_WRITTEN,
                    f"{short_name(ref)} is being rebased in {root}",
                    "end that (git rebase --continue or --abort), and try again",
                )
            if f"branch {ref}" in lines:
                yield _WorkingTree(root, directory)

    def _meaning(self, failure: GitFailed) -> ReconcilerError:
        full = re.search(r"no space left|quota exceeded", failure.said, re.IGNORECASE)
        if full:
            return Unavailable(Reason.NO_SPACE, f"{self._place}: {failure.said}", "make room on its disk")
        hint = "give the user that runs reconciler permission to write there"
        return Unavailable(Reason.NOT_WRITTEN, f"{self._place}: {failure.said}", hint)


def _says(file: Path, what: str) -> bool:
    try:
        return file.read_text(errors="surrogateescape").strip() == what
    except OSError:
        return False


# -- the commit ------------------------------------------------------------------------------------------------------
def commit_of(git: Git, repository: Path, tip: str, file: NewFile, signing_key: Path | None = None) -> str:
    """A commit on top of `tip` that has the file too. Raises Refused (NameTaken, PathOutsideSource) for what is in its
    way there, (SettingsInvalid) for a key that does not sign, and GitFailed."""

    def run(*arguments: str, given: bytes = b"") -> str:
        return git.run(*arguments, given=given, repository=repository, more=file.identity).decode().strip()

    blob = run("hash-object", "-w", "--no-filters", "--stdin", given=file.content)
    tree = _with_file(git, repository, f"{tip}^{{tree}}", file.path.split("/"), blob, "")
    if signing_key is None:
        return run("commit-tree", tree, "-p", tip, given=file.message.encode())
    settings = ("gpg.format=ssh", "gpg.ssh.program=ssh-keygen", f"user.signingKey={signing_key}")
    try:
        signed = git.run(
            "commit-tree",
            *("-S", tree, "-p", tip),
            given=file.message.encode(),
            settings=settings,
            repository=repository,
            more=file.identity,
        )
    except GitFailed as failure:
        raise Refused(
            Reason.SETTINGS_INVALID,
            f"the commit can't be signed with {signing_key}: {failure.said}",
            "signing_key_file of the source must be an ssh key without a passphrase that reconciler may read",
        ) from failure
    return signed.decode().strip()


def _with_file(git: Git, repository: Path, tree: str | None, parts: Sequence[str], blob: str, above: str) -> str:
    """A tree as it is, and the file below it; `tree` None: there is none yet."""
    name, *rest = parts
    path = f"{above}{name}"
    listed = b"" if tree is None else git.run("ls-tree", "-z", "--full-tree", tree, repository=repository)
    entries = dict(_named(listed))
    found = entries.get(os.fsencode(name))
    if not rest:
        if found is not None:
            raise Refused(Reason.NAME_TAKEN, f"{path} is there already", "choose another name: nothing is written over")
        entry = f"{_FILE} blob {blob}"
    else:
        mode, _, identity = (found or "").split(" ") if found else (_FOLDER, "", None)
        if mode != _FOLDER:
            raise Refused(
                Reason.PATH_OUTSIDE_SOURCE,
                f"{path} is no folder of its own, but a file, a symbolic link or a submodule",
                "nothing is written through it: set write_to to a real folder",
            )
        entry = f"{_FOLDER} tree {_with_file(git, repository, identity, rest, blob, f'{path}/')}"
    entries[os.fsencode(name)] = entry
    lines = b"".join(about.encode() + b"\t" + key + b"\0" for key, about in entries.items())
    return git.run("mktree", "-z", "--missing", given=lines, repository=repository).decode().strip()


def _named(listed: bytes) -> Iterator[tuple[bytes, str]]:
    for line in listed.split(b"\0"):
        if line:
            about, _, name = line.partition(b"\t")
            yield name, about.decode()


def others_are_first(where: str, branch: str) -> Unavailable:
    return Unavailable(Reason.NOT_WRITTEN, f"{where}: others push to {branch} all the time", "try again in a moment")
