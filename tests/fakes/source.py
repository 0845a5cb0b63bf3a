"""A source in memory, edited by changing a dictionary."""

from __future__ import annotations

import hashlib
import posixpath
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag

from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.facts import Commit, Revision
from reconciler.core.reasons import Reason


class FakeSnapshot:
    """Without a commit it is one of a directory. With one it is of a branch, and the commit's id that of the content."""

    def __init__(
        self,
        source: str,
        contents: Mapping[str, bytes],
        now: Callable[[], Mapping[str, bytes]],
        commit: Commit | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.source = source
        self.files = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(contents.items())}
        digest = hashlib.sha256(repr(self.files).encode()).hexdigest()
        self.revision = Revision(f"dir@sha256:{digest}" if commit is None else f"main@sha1:{digest[:40]}")
        self.commit = None if commit is None else replace(commit, id=digest[:40])
        self.notes = notes
        self.root = Path("/nowhere")
        self._now = now

    def read(self, path: str) -> bytes:
        name = posixpath.normpath(path)
        if posixpath.isabs(name) or name.startswith(".."):
            raise Refused(Reason.PATH_OUTSIDE_SOURCE, f"{path} leaves the source")
        if name not in self.files:
            raise Refused(Reason.PATH_MISSING, f"the source has no file {path}")
        content = self._now().get(name)
        if content is None or hashlib.sha256(content).hexdigest() != self.files[name]:
            raise Unavailable(Reason.SOURCE_MOVED, f"{path} changed while the source was read")
        return content


class FakeSource:
    """`files` is the source: change it, and call `edited` to wake those who watch. `error` is raised by `sync`. Set
    `commit` for a source of commits: this one made all that is in it from now on."""

    def __init__(self, files: Mapping[str, bytes | str] | None = None, name: str = "default") -> None:
        self.name = name
        self.files: dict[str, bytes] = {}
        self.error: ReconcilerError | None = None
        self.commit: Commit | None = None
        self.notes: tuple[str, ...] = ()
        self._closed = False
        self._last: FakeSnapshot | None = None
        self._copies: dict[Revision, FakeSnapshot] = {}
        self._edits = threading.Condition()
        self._count = 0
        for path, content in (files or {}).items():
            self.write(path, content)

    def write(self, path: str, content: bytes | str) -> None:
        self.files[path] = content.encode() if isinstance(content, str) else content
        self.edited()

    def remove(self, path: str) -> None:
        del self.files[path]
        self.edited()

    def edited(self) -> None:
        with self._edits:
            self._count += 1
            self._edits.notify_all()

    def sync(self) -> FakeSnapshot:
        self._see_that_it_is_open()
        if self.error is not None:
            raise type(self.error)(self.error.reason, self.error.message, self.error.hint)
        made = FakeSnapshot(self.name, self.files, lambda: self.files, self.commit, self.notes)
        if self._last is None or (self._last.revision, self._last.notes) != (made.revision, made.notes):
            self._last = made
        return self._last

    def keep(self, revision: Revision) -> FakeSnapshot:
        self._see_that_it_is_open()
        if revision not in self._copies:
            contents = dict(self.files)
            copy = FakeSnapshot(self.name, contents, lambda: contents, self.commit, self.notes)
            if copy.revision != revision:
                raise Unavailable(Reason.SOURCE_MOVED, f"the source is no longer at {revision}")
            self._copies[revision] = copy
        return self._copies[revision]

    def has_copy(self, revision: Revision) -> bool:
        return revision in self._copies

    def release(self, in_use: Iterable[Revision]) -> None:
        needed = frozenset(in_use)
        self._copies = {revision: copy for revision, copy in self._copies.items() if revision in needed}

    def close(self) -> None:
        self._closed = True

    def _see_that_it_is_open(self) -> None:
        if self._closed:
            raise Unavailable(Reason.SOURCE_UNAVAILABLE, f"the source {self.name} is closed")

    def watch(self, changed: Callable[[], None], stop: Flag) -> None:
        seen = self._count
        changed()
        while not stop.is_set():
            with self._edits:
                if self._count == seen:
                    self._edits.wait(timeout=0.05)
                moved, seen = self._count != seen, self._count
            if moved:
                changed()
