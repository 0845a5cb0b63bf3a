"""The unchanging copies of a source that runs work on: a leaf that every kind of source shares, and the process of a
slice reads.

Below `<snapshots>/<id>` lie `tree/` with the files, `files.json` with their digests, and `commit.json` if the revision
is a commit.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import json
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import Commit, Revision
from reconciler.core.reasons import Reason
from reconciler.ports import Clock

UNREADABLE = "unreadable"
"""In place of the digest of a file that this process may not read."""

OUTSIDE = "outside"
"""In place of the digest of a symbolic link that leaves the source."""

SUBMODULE = "submodule"
"""In place of the digest of a git submodule, which is not fetched."""

JUST_KEPT = 600.0
"""Seconds for which `release` leaves a copy alone, as its run may not be written down yet."""

_REVISION = re.compile(
    r"dir@sha256:(?P<directory>[0-9a-f]{64})|.+@sha(?:1:(?P<sha1>[0-9a-f]{40})|256:(?P<sha256>[0-9a-f]{64}))"
)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that is whole: where its files are, and their digests."""

    root: Path
    files: Mapping[str, str]
    commit: Commit | None = None


class Copies:
    """The copies of one source. Not safe from several threads: the source's own lock guards it."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder.absolute()
        self._clock = clock
        self._asked_at: dict[Revision, float] = {}

    def find(self, revision: Revision) -> Copy | None:
        """The copy of this revision, made by this process or another; None if there is none."""
        folder = _folder_of(self.folder, revision)
        if folder is None:
            return None
        try:
            files = json.loads((folder / "files.json").read_bytes())
            commit = _read_commit(folder / "commit.json")
        except (FileNotFoundError, NotADirectoryError, ValueError):  # none, or one cut short by a loss of power
            return None
        return Copy(folder / "tree", files, commit)

    def asked_for(self, revision: Revision) -> None:
        """Somebody has this copy in hand: it stays for the next minutes, whoever else needs it."""
        self._asked_at[revision] = self._clock.monotonic()

    def make(
        self, revision: Revision, files: Mapping[str, str], commit: Commit | None, fill: Callable[[Path], None]
    ) -> Copy:
        """A new copy; `fill` writes its files below the folder that it is given. Whole or not at all. Raises Unavailable
        if it can't be written, and what `fill` raises."""
        folder = _folder_of(self.folder, revision)
        assert folder is not None  # the revision is the source's own
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            being_made = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=self.folder))
        except OSError as error:
            raise not_written(self.folder, error) from error
        try:
            (being_made / "tree").mkdir()
            fill(being_made / "tree")
            (being_made / "files.json").write_text(json.dumps(dict(files)))
            if commit is not None:
                (being_made / "commit.json").write_text(json.dumps(_commit_as_json(commit)))
            self._put_in_place(being_made, folder, revision)
        except OSError as error:
            raise not_written(being_made, error) from error
        finally:
            remove(being_made)
        return Copy(folder / "tree", files, commit)

    def _put_in_place(self, copy: Path, folder: Path, revision: Revision) -> None:
        try:
            copy.rename(folder)
        except OSError:
            if self.find(revision) is None:  # else another process made the same copy first
                remove(folder)
                copy.rename(folder)

    def newest(self) -> Copy | None:
        """The copy that was made last."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        whole = [folder for folder in found if ".tmp-" not in folder.name and (folder / "files.json").is_file()]
        for folder in sorted(whole, key=_modified, reverse=True):
            with contextlib.suppress(OSError, ValueError):
                return Copy(folder / "tree", json.loads((folder / "files.json").read_bytes()))
        return None

    def release(self, in_use: Iterable[Revision]) -> None:
        """Remove every other copy, but for those made or asked for in the last minutes, and what crashes left. Raises
        Unavailable, at the end, if some of it can't be removed."""
        now = self._clock.monotonic()
        self._asked_at = {rev: at for rev, at in self._asked_at.items() if now - at < JUST_KEPT}
        folders = (_folder_of(self.folder, revision) for revision in (*in_use, *self._asked_at))
        needed = {folder.name for folder in folders if folder is not None}
        stuck: list[OSError] = []
        for folder in list(self.folder.iterdir()) if self.folder.is_dir() else ():
            being_made = ".tmp-" in folder.name and self._age(folder) < JUST_KEPT
            if folder.name not in needed and not being_made:
                try:
                    remove(folder)
                except OSError as error:  # a playbook that became somebody else may have left what is not ours
                    stuck.append(error)
        if stuck:
            raise Unavailable(
                Reason.SOURCE_UNAVAILABLE,
                f"{len(stuck)} copies that nobody needs can't be removed: {stuck[0]}",
                "remove them by hand, and see which playbook writes into its own folder as another user",
            )

    def _age(self, folder: Path) -> float:
        return self._clock.now().timestamp() - (_modified(folder) or self._clock.now().timestamp())


def snapshot_tree(snapshots_dir: Path, revision: Revision) -> Path | None:
    """Where the files of a copy lie that `keep` made, for a process that has only to run them."""
    folder = _folder_of(snapshots_dir, revision)
    return None if folder is None or not folder.is_dir() else folder / "tree"


def through_links(files: Collection[str], links: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each path of a source with the regular file behind it; `links` maps symbolic links to what they lead to in the end.
    Links below a folder that is itself reached through a link are not followed, which bounds what links can multiply."""
    yield from ((path, path) for path in files)
    paths = sorted(files)
    for link, target in links.items():
        if target in files:
            yield link, target
            continue
        at = bisect.bisect_left(paths, f"{target}/")
        while at < len(paths) and paths[at].startswith(f"{target}/"):
            yield link + paths[at][len(target) :], paths[at]
            at += 1


def why_not(path: str, files: Mapping[str, str], tree: Path | None) -> Refused:
    """Why `path` can't be read out of a source with these files (`tree`: where they lie, if they do)."""
    name = posixpath.normpath(path)
    parts = name.split("/")
    for above in ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1)):
        if files.get(above) == OUTSIDE:
            return leaves(path, "by a symbolic link" if above == name else f"by the symbolic link {above}")
        if files.get(above) == SUBMODULE:
            text = f"{path} is in the submodule {above}, which is not fetched"
            return Refused(Reason.PATH_OUTSIDE_SOURCE, text, "only what is in the repository itself can be used")
    outside = posixpath.isabs(name) or name == ".." or name.startswith("../") or "\0" in name
    if outside or (tree is not None and not Path(os.path.realpath(tree / name)).is_relative_to(os.path.realpath(tree))):
        return leaves(path)
    if (
        name == "."
        or any(file.startswith(f"{name}/") for file in files)
        or (tree is not None and (tree / name).is_dir())
    ):
        return Refused(Reason.PATH_MISSING, f"{path} is a folder, not a file")
    return Refused(
        Reason.PATH_MISSING, f"the source has no file {path}", "paths are relative to the root of the source"
    )


def leaves(path: str, by: str = "") -> Refused:
    text = f"{path} leaves the source {by}".rstrip()
    return Refused(Reason.PATH_OUTSIDE_SOURCE, text, "only what is in the source can be used")


def not_written(folder: Path, error: OSError) -> Unavailable:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Unavailable(
        Reason.NO_SPACE if full else Reason.SOURCE_UNAVAILABLE,
        f"the copy for a run can't be written to {folder}: {error.strerror}",
        "see `df` and its owner",
    )


def remove(path: Path) -> None:
    """A file or a whole folder, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _folder_of(snapshots_dir: Path, revision: Revision) -> Path | None:
    found = _REVISION.fullmatch(revision)
    return snapshots_dir / (found["directory"] or found["sha1"] or found["sha256"]) if found else None


def _modified(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read_commit(path: Path) -> Commit | None:
    try:
        said = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return Commit(said["id"], said["author"], datetime.fromisoformat(said["date"]), said["subject"], said["signer"])


def _commit_as_json(commit: Commit) -> Mapping[str, str | None]:
    return {
        "id": commit.id,
        "author": commit.author,
        "date": commit.date.isoformat(),
        "subject": commit.subject,
        "signer": commit.signer,
    }
