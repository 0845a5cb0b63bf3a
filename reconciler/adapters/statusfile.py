"""Status documents as files, for people and for programs that watch a folder.

`<state_dir>/status/<source>/<name>.yaml` is one job, `_source.yaml` beside it the source itself. A reader sees the old
document or the new one, never half of one, and a file is only touched when what it says changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
from pathlib import Path
from typing import Any

import yaml

from reconciler.core.errors import Unavailable
from reconciler.core.facts import JobKey
from reconciler.core.reasons import Reason
from reconciler.core.status import JobStatus, SourceStatus

SOURCE_FILE = "_source.yaml"
"""No job can have this name: names are DNS labels."""

NOT_THERE = (FileNotFoundError, NotADirectoryError)

WIDTH = 120
"""Characters after which a long text goes on in the next line."""


class StatusFiles:
    """A sink that writes below `state_dir`. Safe for any number of threads; another process may write there too."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "status"
        self._lock = threading.Lock()
        self._errors = 0
        self._written: dict[Path, tuple[bytes, tuple[int, int, int]]] = {}
        """What each file was written from, as a digest, and how the file was then: to render a document as YAML takes
        longer than all else of a look, and most looks find nothing new to say."""

    @property
    def write_errors(self) -> int:
        """How often a document could not be written or removed since this process started."""
        return self._errors

    def has_jobs(self, source: str) -> bool:
        """Raises Unavailable if that can't be told."""
        folder = self._folder / source
        try:
            names = [path.stem for path in folder.iterdir() if path.suffix == ".yaml" and path.name != SOURCE_FILE]
        except NOT_THERE:
            return False
        except OSError as error:
            raise _untold(folder, error) from error
        return any(self.has_job(JobKey(source, name)) for name in names)

    def has_job(self, key: JobKey) -> bool:
        """Raises Unavailable if that can't be told."""
        path = self.path_of(key)
        try:
            return _was_accepted(path)
        except NOT_THERE:
            return False
        except OSError as error:
            raise _untold(path, error) from error

    def path_of(self, key: JobKey) -> Path:
        return self._folder / key.source / f"{key.name}.yaml"

    def write(self, status: JobStatus) -> None:
        """Raises OSError."""
        self._put(self.path_of(JobKey(status.metadata.source, status.metadata.name)), status)

    def write_source(self, status: SourceStatus) -> None:
        """Raises OSError."""
        self._put(self._folder / status.metadata.name / SOURCE_FILE, status)

    def remove(self, key: JobKey) -> None:
        """It is no harm if there is none. Raises OSError."""
        self._written.pop(self.path_of(key), None)
        try:
            self.path_of(key).unlink(missing_ok=True)
        except OSError:
            self._count_error()
            raise

    def _put(self, path: Path, status: JobStatus | SourceStatus) -> None:
        digest = hashlib.sha256(status.model_dump_json().encode()).digest()
        mark = _mark(path)
        if mark is not None and self._written.get(path) == (digest, mark):
            return
        content = render(status)
        try:
            if not _holds(path, content):
                path.parent.mkdir(parents=True, exist_ok=True)
                _replace(path, content)
        except OSError:
            self._count_error()
            raise
        if (mark := _mark(path)) is not None:
            self._written[path] = digest, mark

    def _count_error(self) -> None:
        with self._lock:
            self._errors += 1


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Another one if anybody writes the file; None if it is not there."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def render(status: JobStatus | SourceStatus) -> bytes:
    """The document as block YAML, its keys in the order of the model, nulls included."""
    data = status.model_dump(mode="json", by_alias=True, exclude_none=False)
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=WIDTH
    )
    return text.encode()


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _was_accepted(path: Path) -> bool:
    """Whether a document is of a manifest that was valid at some time; what is no document may have been."""
    try:
        document = yaml.load(path.read_bytes(), yaml.CSafeLoader)
        return bool(document["metadata"]["generation"] != 0)
    except (yaml.YAMLError, ValueError, TypeError, LookupError):
        return True


def _untold(path: Path, error: OSError) -> Unavailable:
    what = f"whether there are status files can't be told: {path}: {error.strerror}"
    return Unavailable(Reason.SOURCE_UNAVAILABLE, what, "see its permissions")


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


def _replace(path: Path, content: bytes) -> None:
    """Write beside it, bring that to the disk, then rename: after a power cut, too, there is one whole document."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # Not by tempfile: the umask decides who may read a status, as for any other file.
        with fresh.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        raise
