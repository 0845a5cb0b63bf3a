"""Changes of folders, as the kernel tells them: a leaf that every source on this disk shares."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from threading import Event as Flag

from reconciler.core.errors import Unavailable
from reconciler.core.reasons import Reason


def changes(folders: Collection[Path], stop: Flag, place: Path) -> Iterator[frozenset[Path]]:
    """The paths in these folders, none below them, that changed: several times a second, and most often none. Ends when
    stopped, or when one of the folders is gone. Raises Unavailable, naming `place`, if they can't be watched."""
    import watchfiles  # here, for the process of a slice reads copies and watches nothing

    try:
        for changed in watchfiles.watch(
            *folders,
            recursive=False,
            watch_filter=None,
            debounce=100,
            step=30,
            rust_timeout=200,
            yield_on_timeout=True,
            stop_event=stop,
            ignore_permission_denied=True,
        ):
            yield frozenset(Path(path) for _, path in changed)
    except FileNotFoundError:
        return  # one of them is gone since they were listed
    except (OSError, RuntimeError) as error:
        if "decode" in str(error):  # a name that is not UTF-8 ends the watch [watchfiles 1.3]
            yield frozenset()
            return
        raise Unavailable(
            Reason.SOURCE_UNAVAILABLE,
            f"{place} can't be watched: {error}",
            "it is still read at every interval; on a limit, raise fs.inotify.max_user_watches",
        ) from error
