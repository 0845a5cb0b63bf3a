"""A directory as a source: a folder that people and programs edit while it is read.

What is in it: every regular file below the root, but for `.git`, the folders of our own state, and what
`.reconcilerignore` names. Symbolic links that stay inside are followed. One that leaves is listed, so that whoever needs
it is told, and never followed. Names that are not UTF-8 are not in it, for no manifest or playbook could name them.

A run works on a copy (`keep`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import posixpath
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Event as Flag

from reconciler.adapters.snapshots import OUTSIDE, UNREADABLE, Copies, remove, through_links, why_not
from reconciler.adapters.watching import changes
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import Revision
from reconciler.core.ignore import IGNORE_FILE, IgnoreRules
from reconciler.core.reasons import Reason
from reconciler.ports import Clock

SETTLING = 0.2
"""Seconds that a file must be gone before it counts as removed: many editors save by renaming the old file away."""

TRIES = 10
"""So often a file that is being written is read, before the source counts as moving."""

QUIET = 20_000_000
"""Nanoseconds for which a file must be left alone before it is read. The kernel's times move in steps of up to 10 ms: a
change within the step of the one before shows in no time, and half of each would be taken [measured]."""

RACY = timedelta(seconds=2)
"""A file changed this shortly before it was read may change again without its times showing it (they can be coarse)."""

_Stamp = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class DirectorySnapshot:
    """A directory at one moment (`root` is the directory itself and moves on), or the copy of it."""

    source: str
    revision: Revision
    root: Path
    files: Mapping[str, str]
    commit: None = None
    notes: tuple[str, ...] = ()

    def read(self, path: str) -> bytes:
        """The content of one of `files`. Raises Unavailable (SourceMoved) and Refused (PathMissing, PathOutsideSource,
        PathUnreadable)."""
        name = posixpath.normpath(path)
        digest = self.files.get(name)
        if digest is None or digest == OUTSIDE:
            raise why_not(path, self.files, self.root)
        if digest == UNREADABLE:
            raise Refused(
                Reason.PATH_UNREADABLE,
                f"{path} may not be read",
                "give the user that runs reconciler permission to read it",
            )
        try:
            with _open(self.root / name) as opened:
                content = opened.read()
        except OSError as error:
            raise _moved(name) from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise _moved(name)
        return content


@dataclass(frozen=True, slots=True)
class _File:
    """A regular file that was found: where it is, and the times, size and mode that `lstat` gave."""

    path: str
    stamp: _Stamp

    @property
    def size(self) -> int:
        return self.stamp[2]

    @property
    def mode(self) -> int:
        return self.stamp[5]


@dataclass(frozen=True, slots=True)
class _Known:
    """A file's digest, and the stamp that says that it still holds; None if a change could leave the stamp as it is."""

    stamp: _Stamp | None
    digest: str


@dataclass(slots=True)
class _Listing:
    """What one walk found. `links` maps symbolic links to what they lead to, both relative to the root; `leaving` are
    those that lead out of it."""

    root: Path
    files: dict[str, _File] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)


class DirectorySource:
    """A folder with manifests and playbooks.

    `state_dir` and `snapshots_dir` may lie inside of it: they are never part of it and never watched. One with more than
    `max_files` or `max_bytes` is refused before any of it is read: no run could have a copy of it, and it may be
    somebody's home.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        state_dir: Path,
        snapshots_dir: Path,
        max_files: int,
        max_bytes: int,
        clock: Clock,
    ) -> None:
        self._name = name
        self._root = root.absolute()
        self._copies = Copies(snapshots_dir, clock)
        self._ours = (state_dir.absolute(), self._copies.folder)
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._rules = IgnoreRules()
        self._ours_inside: frozenset[str] = frozenset()
        self._last: DirectorySnapshot | None = None

    @property
    def name(self) -> str:
        return self._name

    # -- reading -----------------------------------------------------------------------------------------------------
    def sync(self) -> DirectorySnapshot:
        """The directory as it is now; files that did not change cost one `lstat` each. Raises Unavailable, and Refused
        (SettingsInvalid) if it is the state directory itself, (SourceTooLarge) if it is beyond its bounds."""
        with self._lock:
            return self._read()[0]

    def _read(self) -> tuple[DirectorySnapshot, _Listing]:
        listing = self._list()
        if self._last is not None and any(path not in listing.files for path in self._known):
            time.sleep(SETTLING)
            listing = self._list()
        self._check_size(listing)
        self._digest(listing)
        paths = list(through_links(listing.files, listing.links))
        digests = {path: self._known[of].digest for path, of in paths} | dict.fromkeys(listing.leaving, OUTSIDE)
        files = dict(sorted(digests.items()))
        executable = {path for path, of in paths if listing.files[of].mode & stat.S_IXUSR}
        revision = _revision(files, executable)
        if self._last is None or (self._last.revision, self._last.root) != (revision, listing.root):
            self._last = DirectorySnapshot(self._name, revision, listing.root, files)
        return self._last, listing

    def _list(self) -> _Listing:
        real = os.path.realpath(self._root)
        listing = _Listing(Path(real))
        self._rules = _ignore_rules(listing.root)
        self._ours_inside = frozenset(os.path.relpath(os.path.realpath(folder), real) for folder in self._ours)
        if "." in self._ours_inside:  # what we write would be a change, and the change be written
            raise Refused(
                Reason.SETTINGS_INVALID, f"{real} is the state directory itself", "choose another --state-dir"
            )
        links = []
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            for entry in _entries(real, folder):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if self._leaves_out(entry, path):
                    continue
                if entry.is_symlink():
                    links.append(path)
                elif entry.is_dir(follow_symlinks=False):
                    listing.folders.add(path)
                    waiting.append(path)
                elif entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        listing.files[path] = _File(path, _stamp(entry.stat(follow_symlinks=False)))
                    if len(listing.files) > self._max_files:
                        raise _too_large(f"{self._max_files:,} files")
        for path in links:
            target = os.path.relpath(os.path.realpath(listing.root / path), real)
            if target in listing.files or (target in listing.folders and not path.startswith(f"{target}/")):
                listing.links[path] = target
            elif target == ".." or target.startswith("../"):
                listing.leaving.add(path)
        return listing

    def _leaves_out(self, entry: os.DirEntry[str], path: str) -> bool:
        try:
            path.encode()
        except UnicodeEncodeError:
            return True
        folder = entry.is_dir(follow_symlinks=False)
        return entry.name == ".git" or path in self._ours_inside or self._rules.leaves_out(path, folder=folder)

    def _digest(self, listing: _Listing) -> None:
        """Bring `_known` in step with the files that were found; those that vanished meanwhile leave the listing."""
        known: dict[str, _Known] = {}
        young = int((self._clock.now() - RACY).timestamp() * 1e9)
        for path, file in list(listing.files.items()):
            before = self._known.get(path)
            if before is not None and before.stamp == file.stamp:
                known[path] = before
                continue
            found = _hash_file(listing.root, path)
            if found is None:
                del listing.files[path]
                continue
            stamp, digest = found
            listing.files[path] = _File(path, stamp)
            known[path] = _Known(stamp if stamp[1] < young and digest != UNREADABLE else None, digest)
        self._known = known

    # -- copies ------------------------------------------------------------------------------------------------------
    def keep(self, revision: Revision) -> DirectorySnapshot:
        """An unchanging copy of this revision. Raises Unavailable (SourceMoved), Refused (SourceTooLarge)."""
        with self._lock:
            copy = self._kept(revision)
            if copy is None:
                snapshot, listing = self._read()
                if snapshot.revision != revision:
                    raise Unavailable(Reason.SOURCE_MOVED, f"the source is no longer at {revision}")
                copy = self._copy(snapshot, listing)
            else:
                self._mend(copy)
            self._copies.asked_for(revision)
            return copy

    def _kept(self, revision: Revision) -> DirectorySnapshot | None:
        copy = self._copies.find(revision)
        return None if copy is None else DirectorySnapshot(self._name, revision, copy.root, copy.files)

    def _mend(self, copy: DirectorySnapshot) -> None:
        """A playbook may have written into its copy. While the source is at this revision, what differs is copied again."""
        try:
            snapshot, listing = self._read()
        except (Refused, Unavailable):
            return
        for path, file in listing.files.items() if snapshot.revision == copy.revision else ():
            if snapshot.files[path] != UNREADABLE and not _unchanged(file, copy.root / path):
                remove(copy.root / path)
                _copy_file(listing.root, copy.root, path, snapshot.files[path])

    def release(self, in_use: Iterable[Revision]) -> None:
        """Remove every other copy, but for those made or asked for in the last minutes, and what crashes left."""
        with self._lock:
            self._copies.release(in_use)

    def close(self) -> None:
        """Nothing goes on here that could last."""

    def _check_size(self, listing: _Listing) -> None:
        size = sum(file.size for file in listing.files.values())
        if size > self._max_bytes:
            raise _too_large(f"{self._max_bytes:,} bytes", f"; it has {size:,}")

    def _copy(self, snapshot: DirectorySnapshot, listing: _Listing) -> DirectorySnapshot:
        def fill(tree: Path) -> None:
            for path in listing.files:
                if snapshot.files[path] != UNREADABLE:
                    _copy_file(listing.root, tree, path, snapshot.files[path])
            for path, target in listing.links.items():
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).symlink_to(os.path.relpath(target, posixpath.dirname(path) or "."))

        copy = self._copies.make(snapshot.revision, snapshot.files, None, fill)
        return DirectorySnapshot(self._name, snapshot.revision, copy.root, copy.files)

    # -- watching ----------------------------------------------------------------------------------------------------
    def watch(self, changed: Callable[[], None], stop: Flag) -> None:
        """Call `changed` soon after a change, and once when watching has begun. Raises Unavailable if the folder can't be
        watched, or is gone; it is then to be called again.

        Only folders of the source are watched, each by itself: the state directory, what is ignored and what links lead
        to may be large and busy [watchfiles follows links and can leave nothing out].
        """
        while not stop.is_set():
            root, folders = _identity(self._root), self._folders()
            begun = False
            for paths in changes(folders, stop, self._root):
                if not begun or any(self._concerns_us(path) for path in paths):
                    changed()
                if _identity(self._root) != root or not paths.isdisjoint(folders):
                    break  # what was watched is gone, though its like may have taken its place
                # At the beginning too: a folder made before its parent was watched shows in no event.
                if (not begun or any(_adds_folders(path) for path in paths)) and self._folders() != folders:
                    break
                begun = True

    def _folders(self) -> frozenset[Path]:
        """What has to be watched now: the root and every folder of the source below it."""
        with self._lock:
            listing = self._list()
        return frozenset((self._root, *(self._root / folder for folder in listing.folders)))

    def _concerns_us(self, path: Path) -> bool:
        inside = os.path.relpath(path, self._root)
        if inside in self._ours_inside or path.name == ".git":
            return False
        return not self._rules.leaves_out_below(inside)


# == What is on the disk =============================================================================================
def _entries(root: str, folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(f"{root}/{folder}" if folder else root) as entries:
            yield from entries
    except FileNotFoundError as error:
        if not folder:
            raise Unavailable(Reason.SOURCE_UNAVAILABLE, f"there is no folder {root}") from error
    except OSError as error:
        raise Unavailable(
            Reason.SOURCE_UNAVAILABLE,
            f"{folder or root} can't be read: {error.strerror}",
            f"nothing is taken from half a source; mend it, or name it in {IGNORE_FILE}",
        ) from error


def _adds_folders(path: Path) -> bool:
    """Whether a change of this path may bring folders that have to be watched."""
    return path.name == IGNORE_FILE or (path.is_dir() and not path.is_symlink())


def _ignore_rules(root: Path) -> IgnoreRules:
    try:
        with _open(root / IGNORE_FILE) as opened:
            return IgnoreRules.parse(opened.read().decode(errors="replace"))
    except OSError as error:
        if not os.path.lexists(root / IGNORE_FILE):
            return IgnoreRules()
        raise Unavailable(
            Reason.SOURCE_UNAVAILABLE,
            f"{IGNORE_FILE} can't be read: {error.strerror}",
            "it must be a text file; without it nobody knows what is part of the source",
        ) from error


def _stamp(found: os.stat_result) -> _Stamp:
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev, found.st_mode)


def _hash_file(root: Path, path: str) -> tuple[_Stamp, str] | None:
    """The file's stamp and digest, of one and the same moment; None if it is gone."""
    for _ in range(TRIES):
        try:
            with _open(root / path, os.O_NOFOLLOW) as opened:
                before = _stamp(os.fstat(opened.fileno()))
                left_alone = time.time_ns() - before[1]
                if 0 <= left_alone < QUIET:
                    time.sleep((QUIET - left_alone) / 1e9)
                    continue
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
                if _stamp(os.fstat(opened.fileno())) == before:
                    return before, digest
        except PermissionError:
            with contextlib.suppress(FileNotFoundError):
                return _stamp((root / path).lstat()), UNREADABLE
            return None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # it has become a link or a socket: the next sync sees it so
                return None
            raise Unavailable(Reason.SOURCE_UNAVAILABLE, f"{path} can't be read: {error.strerror}") from error
    raise Unavailable(
        Reason.SOURCE_MOVED,
        f"{path} is being written all the time",
        f"if it is no part of the source, name it in {IGNORE_FILE}",
    )


def _open(path: Path, flags: int = 0) -> io.BufferedReader:
    """A regular file, for reading. Raises OSError, at once, should a pipe or a folder have taken its place."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return open(descriptor, "rb")  # noqa: PTH123 - a descriptor has no path


def _copy_file(root: Path, tree: Path, path: str, digest: str) -> None:
    """Copy it, proving on the way that it has this digest. The copy keeps who may execute and read it, and only the
    owner may write; it keeps when the file was changed, for modules that compare times would call every host changed."""
    copy = tree / path
    copy.parent.mkdir(parents=True, exist_ok=True)
    seen = hashlib.sha256()
    try:
        original = _open(root / path, os.O_NOFOLLOW)
    except OSError as error:
        raise _moved(path) from error
    with original, copy.open("xb") as written:
        while chunk := original.read(1 << 20):
            seen.update(chunk)
            written.write(chunk)
        found = os.fstat(original.fileno())
        os.fchmod(written.fileno(), stat.S_IMODE(found.st_mode) & 0o755 | 0o600)
        written.flush()  # what is written later would set the time again
        os.utime(written.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
    if seen.hexdigest() != digest:
        raise _moved(path)


def _unchanged(file: _File, copy: Path) -> bool:
    found = copy.lstat() if copy.exists() else None
    return found is not None and (found.st_mtime_ns, found.st_size) == (file.stamp[0], file.size)


def _revision(files: Mapping[str, str], executable: set[str]) -> Revision:
    seen = hashlib.sha256()
    for path, digest in files.items():
        seen.update(f"{path}\0{digest}\0{'x' if path in executable else '-'}\0".encode())
    return Revision(f"dir@sha256:{seen.hexdigest()}")


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _moved(path: str) -> Unavailable:
    return Unavailable(Reason.SOURCE_MOVED, f"{path} changed while the source was read")


def _too_large(bound: str, found: str = "") -> Refused:
    text = f"the source has more than the {bound} that a run may copy{found}"
    return Refused(Reason.SOURCE_TOO_LARGE, text, f"use git, or name what is not needed in {IGNORE_FILE}")
