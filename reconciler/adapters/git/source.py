"""A git repository as a source: committed content only, and each revision in use a checkout of its own."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event as Flag

from reconciler.adapters.git.command import Git
from reconciler.adapters.git.origins import Origin, Tip
from reconciler.adapters.git.signatures import Signers, signer_of
from reconciler.adapters.git.tree import Tree
from reconciler.adapters.snapshots import OUTSIDE, SUBMODULE, Copies, Copy, not_written, remove, why_not
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import Commit, Revision
from reconciler.core.reasons import Reason
from reconciler.core.repository import LONGEST_REF

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
        self._last: GitSnapshot | None = None
        self._intact: dict[Revision, Mapping[str, tuple[int, ...]]] = {}

    @property
    def name(self) -> str:
        return self._name

    # -- reading -----------------------------------------------------------------------------------------------------
    def sync(self) -> GitSnapshot:
        """The newest commit. Raises Unavailable and Refused with a reason that tells apart what keeps it from being read;
        SourceUnverified if it is not signed as it must be."""
        with self._syncing:
            tip = self._origin.newest()
            last = self._last
            if last is None or last.revision != _revision(tip):
                self._last = last = self._read(tip)
            return last

    def before(self, other: str) -> GitSnapshot:
        """The newest commit that what is followed and `other` both descend from. Raises Refused (SourceBranchMissing)."""
        repository = self._origin.repository
        tip, end = self._origin.newest(), repository.resolve(other)
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
        try:
            return self._read_once(tip)
        except Unavailable as error:
            if error.reason is not Reason.SOURCE_CORRUPT:
                raise
            self._origin.mend()
            return self._read_once(tip)

    def _read_once(self, tip: Tip) -> GitSnapshot:
        repository = self._origin.repository
        commit = repository.commit(tip.commit)
        if self._signers is not None:
            signer = signer_of(self._git, repository.directory, tip.commit, self._signers, self._scratch)
            commit = replace(commit, signer=signer)
        tree = repository.tree(tip.commit, self._folder)
        if len(tree.files) > self._max_files:
            raise _too_large(f"{self._max_files:,} files", f"; it has {len(tree.files):,}")
        notes = tuple(f"submodule {path} is left out" for path in tree.submodules)
        revision = _revision(tip)
        checkout = _Checkout(lambda: self.keep(revision).root)
        return GitSnapshot(self._name, revision, commit, (*tip.notes, *notes), tree, self._content, checkout)

    def _content(self, blob: str) -> bytes:
        try:
            return self._origin.repository.content(blob)
        except Unavailable as error:
            if error.reason is not Reason.SOURCE_CORRUPT:
                raise
            self._origin.mend()
            return self._origin.repository.content(blob)

    # -- copies ------------------------------------------------------------------------------------------------------
    def keep(self, revision: Revision) -> GitCopy:
        """The checkout of a revision, as it was committed. Raises Unavailable (SourceMoved) if that commit can no longer
        be had, Refused (SourceTooLarge)."""
        with self._copying:
            copy = self._copies.find(revision)
            if copy is None:
                copy = self._check_out(self._snapshot_of(revision))
                self._intact[revision] = {path: _stamp(copy.root / path) or () for path in copy.files}
            else:
                self._mend(revision, copy)
            self._copies.asked_for(revision)
            return self._as_kept(revision, copy)

    def kept(self, revision: Revision) -> GitCopy | None:
        copy = self._copies.find(revision)
        return None if copy is None else self._as_kept(revision, copy)

    def release(self, in_use: Iterable[Revision]) -> None:
        """Remove every other checkout, but for that of the newest commit and those made or asked for in the last minutes;
        tidy the mirror."""
        newest = (self._last.revision,) if self._last is not None else ()
        with self._copying:
            self._copies.release((*in_use, *newest))
            self._intact = {rev: seen for rev, seen in self._intact.items() if self._copies.find(rev) is not None}
        self._origin.tidy()

    def _as_kept(self, revision: Revision, copy: Copy) -> GitCopy:
        return GitCopy(self._name, revision, copy.root, copy.files, copy.commit)

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
            content = self._content(blob.id)
            left -= len(content)
            if left < 0:
                raise _too_large(f"{self._max_bytes:,} bytes")
            at = committed * 1_000_000_000
            if before is not None and before.files.get(path) == blob.id:
                with suppress(FileNotFoundError):
                    at = (before.root / path).lstat().st_mtime_ns
            _write(place / path, content, 0o755 if blob.executable else 0o644, at)
        for path, target in snapshot.tree.links.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).symlink_to(os.path.relpath(target, posixpath.dirname(path) or "."))

    def _mend(self, revision: Revision, copy: Copy) -> None:
        """A playbook may have written into its checkout: what differs from what was committed is written again. Files that
        were found intact are not read again until their times say otherwise."""
        seen = self._intact.get(revision, {})
        intact: dict[str, tuple[int, ...]] = {}
        for path, digest in copy.files.items():
            file = copy.root / path
            stamp = _stamp(file)
            if digest in (OUTSIDE, SUBMODULE) or (stamp is not None and seen.get(path) == stamp):
                intact[path] = stamp or ()
                continue
            try:
                spoilt = stamp is None or blob_id(file.read_bytes(), digest) != digest
            except OSError:
                spoilt = True
            if spoilt and not self._restore(revision, copy, path, digest):
                continue
            intact[path] = _stamp(file) or ()
        self._intact[revision] = intact

    def _restore(self, revision: Revision, copy: Copy, path: str, digest: str) -> bool:
        """Whether it could be: a commit that history was rewritten without may be gone."""
        try:
            snapshot = self._snapshot_of(revision)
            blob = snapshot.tree.blobs.get(path)
            if blob is None:  # reached by a link, whose target is mended by itself
                return True
            content = self._content(digest)
        except (Refused, Unavailable):
            return False
        try:
            remove(copy.root / path)
            at = int(max(0.0, snapshot.commit.date.timestamp())) * 1_000_000_000
            _write(copy.root / path, content, 0o755 if blob.executable else 0o644, at)
        except OSError as error:
            raise not_written(copy.root / path, error) from error
        return True

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


def _revision(tip: Tip) -> Revision:
    layout = "sha256" if len(tip.commit) == 64 else "sha1"
    return Revision(f"{tip.name[:LONGEST_REF]}@{layout}:{tip.commit}")


def _write(file: Path, content: bytes, mode: int, at: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as written:
        written.write(content)
        os.fchmod(written.fileno(), mode)
        written.flush()  # what is written later would set the time again
        os.utime(written.fileno(), ns=(at, at))


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_mode)


def _spoilt(path: str) -> Unavailable:
    return Unavailable(Reason.SOURCE_MOVED, f"{path} is not as it was committed any more: a playbook wrote over it")


def _too_large(bound: str, found: str = "") -> Refused:
    text = f"the commit has more than the {bound} that a run may have{found}"
    return Refused(
        Reason.SOURCE_TOO_LARGE, text, "set path to the folder that is needed, or raise the setting git.max_…"
    )
