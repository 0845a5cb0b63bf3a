"""The files of a commit: what a checkout of it would have, with symbolic links resolved inside of it.

Links that stay inside are followed, as in a directory. One that leaves is listed, so that whoever needs it is told, and
never followed; so is a submodule, which is a repository of somebody else.
"""

from __future__ import annotations

import bisect
import posixpath
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.adapters.snapshots import OUTSIDE, SUBMODULE, through_links
from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason

LINK, GITLINK, EXECUTABLE = "120000", "160000", "100755"
"""Modes of git's trees; what has any other is a regular file."""

MOST_HOPS = 40
"""Links followed for one path: as the kernel has it."""

LONGEST_TARGET = 4096
"""Bytes of a link's target; a longer one leads nowhere."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A regular file: the id of its content, and whether it may be executed."""

    id: str
    executable: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """What a commit has below one of its folders. `links` maps symbolic links to what they lead to, all relative to that
    folder; `files` is every path that can be read with the id of its content, links followed."""

    blobs: Mapping[str, Blob]
    links: Mapping[str, str]
    files: Mapping[str, str]
    submodules: tuple[str, ...] = ()


def read_tree(listing: bytes, target_of: Callable[[str], bytes], most: int) -> Tree:
    """The tree out of what `git ls-tree -r -z` wrote; `target_of` gives the content of a link by its id. Raises Refused
    (SourceUnsafe) for paths that no checkout would have, (SourceTooLarge) for more than `most` of them, links followed."""
    blobs: dict[str, Blob] = {}
    pointers: dict[str, str] = {}
    submodules: list[str] = []
    seen: set[str] = set()
    for mode, identity, path in _entries(listing):
        _check(path)
        if path in seen:
            raise _unsafe(path, "twice")
        seen.add(path)
        if mode == GITLINK:
            submodules.append(path)
        elif mode == LINK:
            pointers[path] = identity
        else:
            blobs[path] = Blob(identity, mode == EXECUTABLE)
    _check_folders((*blobs, *pointers, *submodules), {*blobs, *pointers})
    targets = {path: _text(target_of(identity)) for path, identity in pointers.items()}
    paths = sorted(blobs)
    links: dict[str, str] = {}
    leaving: list[str] = []
    for path in targets:
        found = _resolve(path, targets)
        if found is None:
            leaving.append(path)
        elif found in blobs or (_has_below(paths, found) and not path.startswith(f"{found}/")):
            links[path] = found
    if len(blobs) > most:
        raise too_large(f"{most:,} files", f"; it has {len(blobs):,}")
    files: dict[str, str] = {}
    for path, behind in through_links(blobs, links):
        files[path] = blobs[behind].id
        if len(files) > most:
            raise too_large(f"{most:,} files", ", those that its links lead to included")
    files |= dict.fromkeys(leaving, OUTSIDE) | dict.fromkeys(submodules, SUBMODULE)
    return Tree(blobs, links, dict(sorted(files.items())), tuple(submodules))


def _entries(listing: bytes) -> Iterator[tuple[str, str, str]]:
    """Mode, id and path of each entry. Names that are not UTF-8 are left out: no manifest or playbook could name them."""
    for line in listing.split(b"\0"):
        if line:
            about, _, name = line.partition(b"\t")
            mode, _, identity = about.decode().split(" ")
            try:
                yield mode, identity, name.decode()
            except UnicodeDecodeError:
                continue


def _check(path: str) -> None:
    if any(part in ("", ".", "..") or part.lower() == ".git" for part in path.split("/")):
        raise _unsafe(path, "in its tree")


def too_large(bound: str, found: str = "") -> Refused:
    return Refused(
        Reason.SOURCE_TOO_LARGE,
        f"the commit has more than the {bound} that a run may have{found}",
        "set path to the folder that is needed, or raise git.max_files and git.max_bytes in the settings",
    )


def _check_folders(paths: Sequence[str], no_folders: Collection[str]) -> None:
    """Something below a file or a link would be written through it, wherever it leads."""
    folders = {path[:at] for path in paths for at, letter in enumerate(path) if letter == "/"}
    for path in sorted(folders.intersection(no_folders)):
        raise _unsafe(path, "both as a file and as a folder")


def _unsafe(path: str, how: str) -> Refused:
    return Refused(
        Reason.SOURCE_UNSAFE,
        f"the commit has the path {path!r} {how}, as no checkout would have it",
        "nothing of this commit is read; find out who made it, and how",
    )


def _text(target: bytes) -> str | None:
    try:
        return target.decode() if len(target) <= LONGEST_TARGET and b"\0" not in target else None
    except UnicodeDecodeError:
        return None


def _resolve(path: str, targets: Mapping[str, str | None]) -> str | None:
    """Where a path leads to with every link on its way followed; None if it leaves the tree, or nowhere in the end."""
    todo = path.split("/")[::-1]
    done: list[str] = []
    hops = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not done:
                return None
            done.pop()
            continue
        here = "/".join((*done, part))
        if here not in targets:
            done.append(part)
            continue
        target, hops = targets[here], hops + 1
        if target is None or posixpath.isabs(target) or hops > MOST_HOPS:
            return None
        todo += target.split("/")[::-1]
    return "/".join(done) or "."


def _has_below(paths: Sequence[str], folder: str) -> bool:
    at = bisect.bisect_left(paths, f"{folder}/")
    return at < len(paths) and paths[at].startswith(f"{folder}/")
