"""A source in memory, edited by changing a dictionary."""

from __future__ import annotations

import hashlib
import posixpath
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Event as Flag

from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.facts import Revision
from reconciler.core.reasons import Reason


class FakeSnapshot:
    def __init__(self, source: str, contents: Mapping[str, bytes], now: Callable[[], Mapping[str, bytes]]) -> None:
        self.source = source
        self.files = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(contents.items())}
        self.revision = Revision(f"dir@sha256:{hashlib.sha256(repr(self.files).encode()).hexdigest()}")
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
    """`files` is the source: change it, and call `edited` to wake those who watch. `error` is raised by `sync`."""

    def __init__(self, files: Mapping[str, bytes | str] | None = None, name: str = "default") -> None:
        self.name = name
        self.files: dict[str, bytes] = {}
        self.error: ReconcilerError | None = None
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
        if self.error is not None:
            raise type(self.error)(self.error.reason, self.error.message, self.error.hint)
        return FakeSnapshot(self.name, self.files, lambda: self.files)

    def keep(self, revision: Revision) -> FakeSnapshot:
        if revision not in self._copies:
            contents = dict(self.files)
            copy = FakeSnapshot(self.name, contents, lambda: contents)
            if copy.revision != revision:
                raise Unavailable(Reason.SOURCE_MOVED, f"the source is no longer at {revision}")
            self._copies[revision] = copy
        return self._copies[revision]

    def kept(self, revision: Revision) -> FakeSnapshot | None:
        return self._copies.get(revision)

    def release(self, in_use: Iterable[Revision]) -> None:
        needed = frozenset(in_use)
        self._copies = {revision: copy for revision, copy in self._copies.items() if revision in needed}

    def watch(self, changed: Callable[[], None], stop: Flag) -> None:
        seen = self._count
        while not stop.is_set():
            with self._edits:
                if self._count == seen:
                    self._edits.wait(timeout=0.05)
                moved, seen = self._count != seen, self._count
            if moved:
                changed()
