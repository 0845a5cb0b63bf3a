"""Where the newest commit comes from: a remote, of which a mirror is kept here, or a repository of this machine."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import Protocol

import structlog

from reconciler.adapters.git.command import Git, GitFailed, at_the_other_end, meaning
from reconciler.adapters.git.repository import Repository, damaged, killed_leavings
from reconciler.adapters.snapshots import remove
from reconciler.adapters.watching import changes
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.reasons import Reason

log = structlog.get_logger()

TIP = "refs/reconciler/tip"
"""What a mirror calls the newest commit of the branch or tag that is followed."""

FIRST_TIME = 10
"""So many times the source's timeout is what a first clone and the tidying of a mirror may take."""

GC_FROM = 6_700
"""Loose objects from which a mirror is packed: git's own default."""

PACKED_AFTER = 50
"""Fetches, after which it is seen whether a mirror is to be packed; and once after the first."""


@dataclass(frozen=True, slots=True)
class Followed:
    """What is followed of a repository; both None: the branch that its HEAD is on."""

    branch: str | None = None
    tag: str | None = None

    @property
    def ref(self) -> str:
        if self.tag is not None:
            return f"refs/tags/{self.tag}"
        return "HEAD" if self.branch is None else f"refs/heads/{self.branch}"

    def __str__(self) -> str:
        if self.tag is not None:
            return f"tag {self.tag}"
        return "HEAD" if self.branch is None else f"branch {self.branch}"


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest commit of what is followed, and by which name that goes. `notes` say how it was come by."""

    name: str
    commit: str
    notes: tuple[str, ...] = ()


class Origin(Protocol):
    """Where commits come from."""

    @property
    def repository(self) -> Repository:
        """Where they can be read."""

    def newest(self) -> Tip:
        """The newest commit; it can be read out of `repository` from then on. Raises Unavailable and Refused."""

    def suspect(self) -> bool:
        """The repository turned out to be damaged. Returns at once; True: the next `newest` makes it readable again."""

    def rest(self) -> None:
        """Give up what is held open for reading."""

    def watch(self, changed: Callable[[], None], stop: Flag) -> None:
        """See ports.Source.watch."""


class RemoteOrigin:
    """A repository reached by a URL. Its mirror is a bare repository that nobody else writes to: whatever is wrong with
    it, it is cloned again beside the old one, which stays until the new one is whole."""

    def __init__(self, git: Git, mirror: Path, followed: Followed) -> None:
        assert git.access is not None  # without one there is no remote
        self._git = git
        self._address = git.access.address
        self._mirror = mirror
        self._followed = followed
        self._lock = threading.Lock()
        self._suspected = False
        self._fetches = 0
        self._seen: _Announced | None = None
        self._tip: Tip | None = None
        self.repository = Repository(git, mirror)

    def newest(self) -> Tip:
        """One small round trip if nothing changed. Raises Unavailable and Refused as `meaning` tells them apart."""
        with self._lock:
            announced = self._ask()
            if self._tip is None or self._suspected or announced != self._seen:
                self._tip = self._bring(announced)
                self._seen, self._suspected = announced, False
            return self._tip

    def suspect(self) -> bool:
        self._suspected = True
        return True

    def rest(self) -> None:
        self.repository.rest()

    def watch(self, changed: Callable[[], None], stop: Flag) -> None:
        stop.wait()

    # -- asking and fetching -----------------------------------------------------------------------------------------
    def _ask(self) -> _Announced:
        ref = self._followed.ref
        try:
            other_end = at_the_other_end(self._address, "upload-pack")
            said = self._git.run(
                "ls-remote", "--symref", *other_end, "--end-of-options", self._address.text, ref, remote=True
            )
        except GitFailed as failure:
            raise self._failure(failure) from failure
        found, name = None, ref
        for line in said.decode(errors="replace").splitlines():
            value, _, listed = line.partition("\t")
            if listed != ref:  # a server lists every ref that ends so
                continue
            if value.startswith("ref: "):
                name = value.removeprefix("ref: ")
            else:
                found = value
        if found is None:
            raise _not_there(str(self._address), self._followed, "push it")
        return _Announced(name, found)

    def _bring(self, announced: _Announced) -> Tip:
        """The mirror with what was announced in it. What it had before is known even after a restart."""
        notes: tuple[str, ...] = ()
        try:
            if self._suspected:
                raise damaged(self._mirror, "an object can't be read")
            before = self.repository.resolve(TIP) if self._mirror.is_dir() else None
            if before is None or before != announced.identity:
                self._fetch(self._mirror, announced)
            commit = self._fetched()
            if before is not None and self.repository.rewritten(before, commit):
                notes = (f"history was rewritten: {before[:12]} is no part of {announced.short} any more",)
            self._pack_sometimes()
        except Unavailable as error:
            if error.reason is not Reason.SOURCE_CORRUPT:
                raise
            log.warning("mirror_damaged", repository=str(self._address), why=error.message)
            self._clone_again(announced)
            commit = self._fetched()
            notes = ("its mirror here was damaged and has been cloned again",)
        for note in notes:
            log.warning("source_noticed", repository=str(self._address), note=note)
        return Tip(announced.short, commit, notes)

    def _fetched(self) -> str:
        commit = self.repository.resolve(TIP)
        if commit is None:
            raise damaged(self._mirror, "what was fetched is not there")
        return commit

    def _pack_sometimes(self) -> None:
        """In the reader's own time, and by nothing that goes on when it is over."""
        self._fetches += 1
        if self._fetches % PACKED_AFTER != 1:
            return
        settings = (f"gc.auto={GC_FROM}", "gc.autoDetach=false", "maintenance.autoDetach=false")
        limit = self._git.timeout * FIRST_TIME
        try:
            self._git.run("gc", "--auto", "--quiet", repository=self._mirror, settings=settings, timeout=limit)
        except GitFailed as failure:
            raise damaged(self._mirror, failure.said) from failure

    def _clone_again(self, announced: _Announced) -> None:
        fresh, old = self._beside()
        try:
            self._fetch(fresh, announced)
            self.repository.rest()
            if self._mirror.exists():
                self._mirror.rename(old)
            fresh.rename(self._mirror)
        finally:
            self._clear_away()

    def _beside(self) -> tuple[Path, Path]:
        """Where a new mirror is made, and an old one put until it is gone."""
        return self._mirror.with_suffix(".new"), self._mirror.with_suffix(".old")

    def _clear_away(self) -> None:
        """What a clone or a fetch that was killed has left."""
        for left in self._beside():
            remove(left)
        killed_leavings(self._mirror)

    def _fetch(self, mirror: Path, announced: _Announced) -> None:
        """Raises Unavailable (SourceCorrupt) if it is the mirror's fault, and what `meaning` makes of a complaint."""
        self._clear_away()
        made = (mirror / "HEAD").is_file()
        first = not made or Repository(self._git, mirror).resolve(TIP) is None
        try:
            if not made:
                remove(mirror)
                layout = "sha256" if len(announced.identity) == 64 else "sha1"
                mirror.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._git.run("init", "--quiet", "--bare", "--template=", f"--object-format={layout}", str(mirror))
            self._git.run(
                "fetch",
                "--quiet",
                "--force",
                "--no-tags",
                "--no-write-fetch-head",
                "--no-recurse-submodules",
                *at_the_other_end(self._address, "upload-pack"),
                "--end-of-options",
                self._address.text,
                f"+{announced.name}:{TIP}",
                repository=mirror,
                remote=True,
                timeout=self._git.timeout * (FIRST_TIME if first else 1),
            )
        except GitFailed as failure:
            known = meaning(failure, self._address)
            raise known or (damaged(mirror, failure.said) if made else self._failure(failure)) from failure
        except OSError as error:
            raise Unavailable(
                Reason.NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else Reason.SOURCE_UNAVAILABLE,
                f"the mirror {mirror} can't be written: {error.strerror}",
                "see `df` and its owner",
            ) from error

    def _failure(self, failure: GitFailed) -> ReconcilerError:
        return meaning(failure, self._address) or Unavailable(
            Reason.SOURCE_UNREACHABLE, f"{self._address}: {failure.said}", "see whether the server is up"
        )


@dataclass(frozen=True, slots=True)
class _Announced:
    """A ref that a server has, by its full name, and what it points to (a tag may point to a tag)."""

    name: str
    identity: str

    @property
    def short(self) -> str:
        return short_name(self.name)


class LocalOrigin:
    """A repository of this machine, bare or with a working tree; what is committed counts, never the working tree."""

    def __init__(self, git: Git, place: Path, followed: Followed) -> None:
        self._git = git
        self._place = place
        self._followed = followed
        self._before: Tip | None = None
        self._found: Repository | None = None

    @property
    def repository(self) -> Repository:
        """Raises Unavailable (SourceUnavailable) if there is none, Refused (SettingsInvalid) if it is one further up."""
        if self._found is None:
            directory = self._find("--absolute-git-dir")
            if self._find("--is-bare-repository") != Path("true"):
                self._see_that_it_is_the_root()
            self._found = Repository(self._git, directory)
        return self._found

    def _see_that_it_is_the_root(self) -> None:
        inside = self._find("--show-prefix")
        if inside != Path():
            root = self._find("--show-toplevel")
            raise Refused(
                Reason.SETTINGS_INVALID,
                f"{self._place} is a folder of the repository {root}",
                f"name the repository, with this as the path: url = {str(root)!r}, path = {str(inside)!r}",
            )

    def _find(self, *asked: str) -> Path:
        try:
            found = self._git.run("-C", str(self._place), "rev-parse", *asked).decode(errors="surrogateescape")
        except GitFailed as failure:
            raise Unavailable(
                Reason.SOURCE_UNAVAILABLE,
                f"{self._place} is no git repository: {failure.said}",
                "name the root of one, or a url; see whether its disk is there",
            ) from failure
        return Path(found.rstrip("\n"))

    def newest(self) -> Tip:
        head = self.repository.head() if self._followed.ref == "HEAD" else None
        name = self._followed.ref if head is None else head
        commit = self.repository.resolve(self._followed.ref)
        if commit is None:
            raise _not_there(str(self._place), self._followed, "commit it")
        before = self._before
        if before is None or (before.name, before.commit) != (short_name(name), commit):
            notes: tuple[str, ...] = ()
            if (
                before is not None
                and before.name == short_name(name)
                and self.repository.rewritten(before.commit, commit)
            ):
                notes = (f"history was rewritten: {before.commit[:12]} is no part of {before.name} any more",)
                log.warning("source_noticed", repository=str(self._place), note=notes[0])
            self._before = Tip(short_name(name), commit, notes)
        assert self._before is not None
        return self._before

    def suspect(self) -> bool:
        return False

    def rest(self) -> None:
        if self._found is not None:
            self._found.rest()

    def watch(self, changed: Callable[[], None], stop: Flag) -> None:
        """Call `changed` soon after a ref moved, and once when watching has begun. Raises Unavailable if the repository
        can't be watched."""
        while not stop.is_set():
            folders, begun = self._folders(), False
            for paths in changes(folders, stop, self._place):
                if not begun or any(_moves_refs(path) for path in paths):
                    changed()
                # At the beginning too: a folder made before its parent was watched shows in no event.
                if (paths or not begun) and self._folders() != folders:
                    break
                begun = True

    def _folders(self) -> frozenset[Path]:
        """Where refs are written: HEAD and packed ones beside each other, loose ones in folders by their names."""
        roots = {self.repository.directory, self._find("--path-format=absolute", "--git-common-dir")}
        below = {
            Path(folder) for root in roots for kind in ("refs", "reftable") for folder, _, _ in os.walk(root / kind)
        }
        return frozenset((*roots, *below))


def _moves_refs(path: Path) -> bool:
    """Whether a change of this file may be one of a ref. Locks come and go with every command."""
    if path.suffix == ".lock":
        return False
    return path.name in ("HEAD", "packed-refs") or not {"refs", "reftable"}.isdisjoint(path.parts)


def short_name(ref: str) -> str:
    for prefix in ("refs/heads/", "refs/tags/"):
        ref = ref.removeprefix(prefix)
    return ref


def _not_there(repository: str, followed: Followed, remedy: str) -> Refused:
    return Refused(
        Reason.SOURCE_BRANCH_MISSING,
        f"{repository} has no {followed}" if followed.ref != "HEAD" else f"{repository} has no commit yet",
        f"{remedy}; until then nothing starts and nothing is removed",
    )
