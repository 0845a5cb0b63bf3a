"""A git repository as a source: committed content only, and each revision in use a checkout of its own."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event as Flag
from typing import TypeVar

from reconciler.adapters.git.command import Git
from reconciler.adapters.git.origins import Origin, Tip
from reconciler.adapters.git.signatures import Signers, signer_of
from reconciler.adapters.git.tree import Blob, Tree
from reconciler.adapters.snapshots import OUTSIDE, SUBMODULE, Copies, Copy, not_written, remove, why_not
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import Commit, Revision
from reconciler.core.reasons import Reason
from reconciler.core.repository import LONGEST_REF, plain_text

T = TypeVar("T")

SUBMODULES_NAMED = 3
"""Submodules that a note names; the others are counted."""

_REVISION = re.compile(r"(?P<name>.+)@sha(?:1|256):(?P<commit>[0-9a-f]{40}|[0-9a-f]{64})")


class _Checkout:
    """Where a revision lies: asked for at every look, so that it is only made sure of once, as long as it is there."""

    def __init__(self, make: Callable[[], Path]) -> None:
        self._make = make
        self._known: Path | None = None

    def root(self) -> Path:
        if self._known is None or not self._known.is_dir():
            self._known = self._make()
        return self._known


@dataclass(frozen=True, slots=True)
class GitSnapshot:
    """A commit. Its files are read out of the repository; `root` is a checkout, made when it is first asked for."""

    source: str
    revision: Revision
    commit: Commit
    notes: tuple[str, ...]
    tree: Tree = field(repr=False)
    _content: Callable[[str], bytes] = field(repr=False)
    _checkout: _Checkout = field(repr=False)

    @property
    def root(self) -> Path:
        return self._checkout.root()

    @property
    def files(self) -> Mapping[str, str]:
        return self.tree.files

    def read(self, path: str) -> bytes:
        """The content of one of `files`. Raises Refused (PathMissing, PathOutsideSource) and Unavailable."""
        return self._content(_digest_of(path, self.files))


@dataclass(frozen=True, slots=True)
class GitCopy:
    """The checkout of a commit."""

    source: str
    revision: Revision
    root: Path
    files: Mapping[str, str]
    commit: Commit | None
    notes: tuple[str, ...] = ()

    def read(self, path: str) -> bytes:
        """As GitSnapshot; Unavailable (SourceMoved) if a playbook has written over it."""
        digest = _digest_of(path, self.files)
        try:
            content = (self.root / posixpath.normpath(path)).read_bytes()
        except OSError as error:
            raise _spoilt(path) from error
        if blob_id(content, digest) != digest:
            raise _spoilt(path)
        return content


class GitSource:
    """One branch or tag of a repository, or a folder of it. `sync` may take as long as the network does; `keep` and
    reading never wait for it."""

    def __init__(
        self,
        name: str,
        git: Git,
        origin: Origin,
        copies: Copies,
        *,
        folder: str = "",
        signers: Signers | None = None,
        scratch: Path,
        max_files: int,
        max_bytes: int,
    ) -> None:
        """`folder` is the root of the source inside of the repository; `signers` None: commits need not be signed."""
        self._name = name
        self._git = git
        self._origin = origin
        self._copies = copies
        self._folder = folder
        self._signers = signers
        self._scratch = scratch
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._syncing = threading.Lock()
        self._copying = threading.Lock()
        self._reader: int | None = None
        self._last: GitSnapshot | None = None
        self._intact: dict[Revision, Mapping[str, tuple[int, ...] | None]] = {}

    @property
    def name(self) -> str:
        return self._name

    # -- reading -----------------------------------------------------------------------------------------------------
    def sync(self) -> GitSnapshot:
        """The newest commit. Raises Unavailable and Refused with a reason that tells apart what keeps it from being read;
        SourceUnverified if it is not signed as it must be."""
        with self._syncing:
            self._reader = threading.get_ident()
            tip = self._origin.newest()
            last = self._last
            if last is None or last.revision != revision_of(tip):
                self._last = last = self._read(tip)
            return last

    def before(self, other: str) -> GitSnapshot:
        """The newest commit that what is followed and `other` both descend from. Raises Refused (SourceBranchMissing)."""
        repository = self._origin.repository
        tip = self._origin.newest()
        try:
            end = repository.resolve(other)
        except Unavailable:  # git has many words for what is no name of a commit
            end = None
        if end is None:
            raise Refused(
                Reason.SOURCE_BRANCH_MISSING,
                f"there is no revision {other} here",
                "fetch it first; in a workflow, check out with fetch-depth: 0",
            )
        base = repository.merge_base(end, tip.commit)
        if base is None:
            raise Refused(
                Reason.SOURCE_BRANCH_MISSING,
                f"{other} and {tip.name} have no commit in common here",
                "fetch more of their history; in a workflow, check out with fetch-depth: 0",
            )
        return self._read(Tip(other, base))

    def _read(self, tip: Tip) -> GitSnapshot:
        return self._mended(lambda: self._read_once(tip))

    def _read_once(self, tip: Tip) -> GitSnapshot:
        repository = self._origin.repository
        commit = repository.commit(tip.commit)
        if self._signers is not None:
            signer = signer_of(self._git, repository.directory, tip.commit, self._signers, self._scratch)
            commit = replace(commit, signer=signer)
        tree = repository.tree(tip.commit, self._folder, self._max_files)
        revision = revision_of(tip)
        checkout = _Checkout(lambda: self.keep(revision).root)
        notes = (*tip.notes, *_left_out(tree.submodules))
        return GitSnapshot(self._name, revision, commit, notes, tree, self._content, checkout)

    def _content(self, blob: str) -> bytes:
        return self._mended(lambda: self._origin.repository.content(blob, self._max_bytes))

    def _mended(self, read: Callable[[], T]) -> T:
        """What `read` reads. Of a damaged mirror the one who reads the source makes a new one; nobody else waits for the
        network, but has it read again."""
        try:
            return read()
        except Unavailable as error:
            if error.reason is not Reason.SOURCE_CORRUPT or not self._origin.suspect():
                raise
            if threading.get_ident() != self._reader:
                raise Unavailable(Reason.SOURCE_MOVED, error.message, "it is cloned again") from error
        self._origin.newest()
        return read()

    # -- copies ------------------------------------------------------------------------------------------------------
    def keep(self, revision: Revision) -> GitCopy:
        """The checkout of a revision, as it was committed. Raises Unavailable (SourceMoved) if that commit can no longer
        be had, Refused (SourceTooLarge)."""
        with self._copying:
            copy = self._copies.find(revision)
            if copy is None:
                copy = self._check_out(self._snapshot_of(revision))
                self._intact[revision] = self._stamps(copy)
            else:
                self._mend(revision, copy)
            self._copies.asked_for(revision)
            return GitCopy(self._name, revision, copy.root, copy.files, copy.commit)

    def release(self, in_use: Iterable[Revision]) -> None:
        """Remove every other checkout, but for that of the newest commit and those made or asked for in the last minutes;
        give up what is held open for reading. Raises Unavailable if some of it can't be removed."""
        newest = (self._last.revision,) if self._last is not None else ()
        self._origin.rest()
        with self._copying:
            self._intact = {rev: seen for rev, seen in self._intact.items() if self._copies.find(rev) is not None}
            self._copies.release((*in_use, *newest))

    def _snapshot_of(self, revision: Revision) -> GitSnapshot:
        last = self._last
        if last is not None and last.revision == revision:
            return last
        found = _REVISION.fullmatch(revision)
        if found is None or not self._origin.repository.has(found["commit"]):
            raise Unavailable(
                Reason.SOURCE_MOVED, f"the source has no commit {revision} any more", "it is read again at once"
            )
        return self._read(Tip(found["name"], found["commit"]))

    def _check_out(self, snapshot: GitSnapshot) -> Copy:
        return self._copies.make(
            snapshot.revision, snapshot.files, snapshot.commit, lambda tree: self._fill(tree, snapshot)
        )

    def _fill(self, place: Path, snapshot: GitSnapshot) -> None:
        """A file keeps its time from the checkout before as long as its content is the same: modules that compare times
        would call every host changed."""
        before = self._copies.newest()
        committed = int(max(0.0, snapshot.commit.date.timestamp()))
        left = self._max_bytes
        for path, blob in snapshot.tree.blobs.items():
            at = committed * 1_000_000_000
            if before is not None and before.files.get(path) == blob.id:
                with suppress(FileNotFoundError):
                    at = (before.root / path).lstat().st_mtime_ns
            left -= self._write(place / path, blob, left, at)
        for path, target in snapshot.tree.links.items():
            _link(place / path, path, target)

    def _write(self, file: Path, blob: Blob, most: int, at: int) -> int:
        """One file, whole or not at all, whatever was in its place; returns its size."""
        file.parent.mkdir(parents=True, exist_ok=True)
        being_made = file.with_name(f".{file.name[:200]}.being-made")

        def write() -> int:
            with being_made.open("wb") as written:
                size = self._origin.repository.copy(blob.id, written.write, most)
                os.fchmod(written.fileno(), 0o755 if blob.executable else 0o644)
                written.flush()  # what is written later would set the time again
                os.utime(written.fileno(), ns=(at, at))
            return size

        try:
            size = self._mended(write)
            being_made.replace(file)
        finally:
            being_made.unlink(missing_ok=True)
        return size

    def _stamps(self, copy: Copy) -> Mapping[str, tuple[int, ...] | None]:
        return {path: _stamp(copy.root / path) for path in copy.files}

    def _mend(self, revision: Revision, copy: Copy) -> None:
        """A playbook may have written into its checkout: what differs from what was committed is put in its place again, each
        file at once. What was found intact is not read again until its times say otherwise; what a playbook added is left."""
        seen, now = self._intact.get(revision, {}), self._stamps(copy)
        if now == seen:
            return
        snapshot = self._snapshot_of(revision)
        at = int(max(0.0, snapshot.commit.date.timestamp())) * 1_000_000_000
        try:
            for path, blob in snapshot.tree.blobs.items():
                if (now.get(path) is None or now.get(path) != seen.get(path)) and not _is_as(copy.root / path, blob):
                    self._write(_cleared(copy.root, path), blob, self._max_bytes, at)
                    now = {**now, path: _stamp(copy.root / path)}
            for path, target in snapshot.tree.links.items():
                if not _leads_to(copy.root / path, path, target):
                    _link(_cleared(copy.root, path), path, target)
        except OSError as error:
            raise not_written(copy.root, error) from error
        self._intact[revision] = now

    # -- the rest ----------------------------------------------------------------------------------------------------
    def watch(self, changed: Callable[[], None], stop: Flag) -> None:
        self._origin.watch(changed, stop)

    def close(self) -> None:
        self._git.close()
        self._origin.rest()


def blob_id(content: bytes, like: str) -> str:
    """The id that git gives a content, in the format of another id."""
    about = f"blob {len(content)}\0".encode()
    if len(like) == 64:
        return hashlib.sha256(about + content).hexdigest()
    return hashlib.sha1(about + content, usedforsecurity=False).hexdigest()


def _digest_of(path: str, files: Mapping[str, str]) -> str:
    digest = files.get(posixpath.normpath(path))
    if digest is None or digest in (OUTSIDE, SUBMODULE):
        raise why_not(path, files, None)
    return digest


def revision_of(tip: Tip) -> Revision:
    """A commit by the name of what it was followed by."""
    layout = "sha256" if len(tip.commit) == 64 else "sha1"
    return Revision(f"{tip.name[:LONGEST_REF]}@{layout}:{tip.commit}")


def _is_as(file: Path, blob: Blob) -> bool:
    """Whether a file is what was committed, and may be executed if that may."""
    try:
        mode = file.lstat().st_mode
        same = stat.S_ISREG(mode) and bool(mode & stat.S_IXUSR) == blob.executable
        return same and blob_id(file.read_bytes(), blob.id) == blob.id
    except OSError:
        return False


def _leads_to(link: Path, path: str, target: str) -> bool:
    try:
        return str(link.readlink()) == _pointer(path, target)
    except OSError:
        return False


def _link(link: Path, path: str, target: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(_pointer(path, target))


def _pointer(path: str, target: str) -> str:
    return os.path.relpath(target, posixpath.dirname(path) or ".")


def _cleared(root: Path, path: str) -> Path:
    """Where a file belongs, with nothing in its way: no folder or link of its name, nor a file or link where one of its
    folders was. A link on the way would have it written wherever that leads."""
    at = root
    for part in posixpath.dirname(path).split("/"):
        at /= part
        if at.is_symlink() or (at.exists() and not at.is_dir()):
            remove(at)
    remove(root / path)
    return root / path


def _left_out(submodules: Sequence[str]) -> tuple[str, ...]:
    """What is said of submodules: their names are of whoever made the commit."""
    named = tuple(f"submodule {plain_text(path)[:100]} is left out" for path in submodules[:SUBMODULES_NAMED])
    more = len(submodules) - len(named)
    return (*named, f"{more} more submodules are left out") if more else named


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.lstat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_mode)


def _spoilt(path: str) -> Unavailable:
    return Unavailable(Reason.SOURCE_MOVED, f"{path} is not as it was committed any more: a playbook wrote over it")
