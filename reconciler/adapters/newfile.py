"""One new file below a folder: whole or not at all, over nothing that is there, and through no symbolic link, whoever
changes the folder meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.reasons import Reason

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def put_new(root: Path, path: str, content: bytes) -> None:
    """Write a file, and the folders that it needs. `path` is relative to `root`, with `/` between its parts. Raises Refused
    (NameTaken, PathOutsideSource), Unavailable (NoSpace, NotWritten); nothing is left of it then."""
    *folders, name = path.split("/")
    made: list[str] = []
    try:
        with _opened(root, folders, made) as folder:
            _write(folder, name, content)
    except OSError as error:
        _unmake(root, made)
        raise _why(root, path, error) from error
    except BaseException:
        _unmake(root, made)
        raise


def why_not_new(root: Path, path: str) -> ReconcilerError | None:
    """What `put_new` would raise for what is in its way now; None: nothing is."""
    *folders, name = path.split("/")
    try:
        with _opened(root, folders) as folder:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None if root.is_dir() else Unavailable(Reason.NOT_WRITTEN, f"there is no folder {root}")
    except OSError as error:
        return _why(root, path, error)
    except Refused as refused:
        return refused
    return _taken(path)


def take_away(root: Path, path: str) -> None:
    """Undo `put_new`, as far as that goes; folders stay."""
    *folders, name = path.split("/")
    with contextlib.suppress(OSError, Refused), _opened(root, folders) as folder:
        os.unlink(name, dir_fd=folder)


@contextmanager
def _opened(root: Path, folders: list[str], made: list[str] | None = None) -> Iterator[int]:
    """The innermost folder, opened one by one from the root on. Those that are missing are made if `made` is there to say
    so: each by its path."""
    with ExitStack() as stack:
        at = _kept(stack, os.open(root, _FOLDER))
        for depth, part in enumerate(folders, start=1):
            if made is not None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=at)
                    made.append("/".join(folders[:depth]))
            try:
                at = _kept(stack, os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=at))
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                raise Refused(
                    Reason.PATH_OUTSIDE_SOURCE,
                    f"{'/'.join(folders[:depth])} is no folder of its own, but a file or a symbolic link",
                    "nothing is written through it: set write_to to a real folder",
                ) from error
        yield at


def _kept(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _write(folder: int, name: str, content: bytes) -> None:
    """Beside its place first: a link to what is whole can't be half a file, and is refused where there is something."""
    being_made = f".{name[:200]}.{secrets.token_hex(4)}.being-made"
    descriptor = os.open(being_made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(being_made, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    finally:
        os.unlink(being_made, dir_fd=folder)
    with contextlib.suppress(OSError):  # it is there; some filesystems can't say more of a folder
        os.fsync(folder)


def _unmake(root: Path, made: list[str]) -> None:
    for path in reversed(made):
        *above, last = path.split("/")
        with contextlib.suppress(OSError, Refused), _opened(root, above) as folder:
            os.rmdir(last, dir_fd=folder)


def _why(root: Path, path: str, error: OSError) -> ReconcilerError:
    if error.errno == errno.EEXIST:
        return _taken(path)
    place = root / path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(Reason.NO_SPACE, f"{place} can't be written: {error.strerror}", "make room on its disk")
    return Unavailable(
        Reason.NOT_WRITTEN,
        f"{place} can't be written: {error.strerror}",
        "give the user that runs reconciler permission to write there",
    )


def _taken(path: str) -> Refused:
    return Refused(Reason.NAME_TAKEN, f"{path} is there already", "choose another name: nothing is written over")
