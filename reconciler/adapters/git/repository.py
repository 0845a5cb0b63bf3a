"""What can be read out of a repository on this disk: commits, trees, contents."""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from reconciler.adapters.git.command import Git, GitFailed
from reconciler.adapters.git.tree import Tree, read_tree, too_large
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import Commit
from reconciler.core.reasons import Reason
from reconciler.core.repository import plain_text

PART = 1 << 20
"""Bytes of a content that are in memory at a time, where it is copied."""

LONGEST_LINK = 1 << 16
"""Bytes of what a symbolic link leads to; git would not check out a longer one."""

LONGEST_SUBJECT = 200
"""Characters of a commit's subject that are kept."""

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Repository:
    """A git directory. What it reads is never evaluated: no hook, filter, smudge or export substitution runs, so that a
    file is what was committed, byte for byte. Safe from several threads."""

    def __init__(self, git: Git, directory: Path) -> None:
        self.git = git
        self.directory = directory
        self._contents: _Contents | None = None
        self._lock = threading.Lock()

    def resolve(self, ref: str) -> str | None:
        """The full id of the commit that a ref or an id means; None if there is none."""
        try:
            found = self.git.run(
                "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", repository=self.directory
            )
        except GitFailed as failure:
            if failure.said:
                raise damaged(self.directory, failure.said) from failure
            return None
        return found.decode().strip()

    def has(self, commit: str) -> bool:
        """Whether a commit of this id is here."""
        return _COMMIT.fullmatch(commit) is not None and self.resolve(commit) is not None

    def head(self) -> str | None:
        """The branch that HEAD is on; None if it is on none."""
        try:
            return self._text("symbolic-ref", "--quiet", "--short", "HEAD")
        except GitFailed:
            return None

    def commit(self, commit: str) -> Commit:
        """Author, date and subject of a commit that is here."""
        layout = "%an%x00%ae%x00%at%x00%s"
        try:
            said = self._text(
                "show", "--no-patch", "--encoding=UTF-8", f"--format={layout}", "--end-of-options", commit
            )
        except GitFailed as failure:
            raise damaged(self.directory, failure.said) from failure
        name, mail, at, subject = (plain_text(part) for part in f"{said}\0\0\0".split("\0")[:4])
        author = f"{name} <{mail}>" if mail else name
        return Commit(commit, author[:LONGEST_SUBJECT], _moment(at), subject[:LONGEST_SUBJECT])

    def tree(self, commit: str, folder: str, most_files: int) -> Tree:
        """The files below a folder of a commit; an empty `folder` is the root. Raises Refused (PathMissing, SourceUnsafe,
        SourceTooLarge), Unavailable (SourceCorrupt)."""
        try:
            listing = self.git.run(
                "ls-tree",
                "-r",
                "-z",
                "--full-tree",
                "--end-of-options",
                f"{commit}:{folder}",
                repository=self.directory,
            )
        except GitFailed as failure:
            if folder and self._lacks(commit, folder):
                raise Refused(
                    Reason.PATH_MISSING,
                    f"the commit has no folder {folder}",
                    "see path of the source: it is relative to the root of the repository",
                ) from failure
            raise damaged(self.directory, failure.said) from failure
        return read_tree(listing, lambda link: self.content(link, LONGEST_LINK), most_files)

    def _lacks(self, commit: str, folder: str) -> bool:
        try:
            listed = self._text("ls-tree", "-d", "-z", "--full-tree", commit, "--", folder)
        except GitFailed:
            return False
        return not listed

    def content(self, blob: str, most: int) -> bytes:
        """The content of a blob by its id. Raises Unavailable (SourceCorrupt, SourceTimeout), and Refused (SourceTooLarge)
        before any of it is read if it has more than `most` bytes."""
        parts: list[bytes] = []
        self.copy(blob, parts.append, most)
        return b"".join(parts)

    def copy(self, blob: str, write: Callable[[bytes], object], most: int) -> int:
        """The same, in parts of bounded size. Returns its size."""
        with self._lock:
            if self._contents is None:
                self._contents = _Contents(self.git, self.directory)
            try:
                return self._contents.copy(blob, write, most)
            except BaseException:  # what is left of the answer would be taken for that to the next question
                self._drop()
                raise

    def rewritten(self, old: str, new: str) -> bool:
        """Whether `old` is no ancestor of `new`: somebody rewrote history. Raises Unavailable (SourceCorrupt)."""
        if not self.has(old):
            return True
        try:
            self.git.run("merge-base", "--is-ancestor", old, new, repository=self.directory)
        except GitFailed as failure:
            if failure.code != 1:
                raise damaged(self.directory, failure.said) from failure
            return True
        return False

    def merge_base(self, one: str, other: str) -> str | None:
        """The newest commit that both descend from; None if there is none."""
        try:
            return self._text("merge-base", "--end-of-options", one, other)
        except GitFailed:
            return None

    def rest(self) -> None:
        """Give up what is held open for reading; the next reading opens it again."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._contents is not None:
            self._contents.close()
            self._contents = None

    def _text(self, *arguments: str) -> str:
        return self.git.run(*arguments, repository=self.directory).decode(errors="replace").strip("\n")


class _Contents:
    """A `git cat-file --batch` that goes on: one process for any number of blobs."""

    def __init__(self, git: Git, directory: Path) -> None:
        self._git = git
        self._directory = directory
        self._child = git.start("cat-file", "--batch", repository=directory)
        self._buffer = b""

    def copy(self, blob: str, write: Callable[[bytes], object], most: int) -> int:
        deadline = time.monotonic() + self._git.timeout.total_seconds()
        with self._told_apart():
            assert self._child.stdin is not None  # pipes, both
            self._child.stdin.write(f"{blob}\n".encode())
            self._child.stdin.flush()
            header = self._take_line(deadline).split(b" ")
            if len(header) != 3 or header[1] != b"blob":
                raise damaged(self._directory, f"the object {blob} is missing")
            size = int(header[2])
            if size > most:
                raise too_large(f"{most:,} bytes", f"; one of its files has {size:,}")
            left = size
            while left > 0:
                part = self._take(min(left, PART), deadline)
                write(part)
                left -= len(part)
            self._take(1, deadline)
        return size

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        try:
            yield
        except (BrokenPipeError, EOFError) as error:
            raise damaged(self._directory, "an object can't be read") from error
        except TimeoutError as error:
            raise Unavailable(
                Reason.SOURCE_TIMEOUT, f"{self._directory} can't be read in time", "see whether its disk is well"
            ) from error

    def _take_line(self, deadline: float) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._buffer += self._more(1 << 16, deadline)
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line

    def _take(self, size: int, deadline: float) -> bytes:
        parts, missing = [self._buffer[:size]], size - len(self._buffer)
        self._buffer = self._buffer[size:]
        while missing > 0:
            part = self._more(missing, deadline)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _more(self, most: int, deadline: float) -> bytes:
        assert self._child.stdout is not None  # a pipe
        pipe = self._child.stdout.fileno()
        waiting = select.poll()  # select() itself fails for descriptors beyond 1,024
        waiting.register(pipe, select.POLLIN)
        if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        read = os.read(pipe, most)
        if not read:
            raise EOFError
        return read

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._git.ended(self._child)


def damaged(directory: Path, said: str) -> Unavailable:
    return Unavailable(
        Reason.SOURCE_CORRUPT,
        f"the repository {directory} is damaged: {said}",
        "a mirror is cloned again by itself; see `git fsck` in a repository of your own",
    )


def _moment(seconds: str) -> datetime:
    """What git calls a date may be none that a calendar has; then the beginning of time."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def killed_leavings(directory: Path) -> None:
    """Remove what a git that was killed left in a mirror that nobody else uses: locks, and halves of packs."""
    for pattern in ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*", "objects/*/tmp_obj_*", "objects/tmp_*"):
        for left in directory.glob(pattern):
            with contextlib.suppress(OSError):
                left.unlink()
