"""The sources that the settings or a command line name, built."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.directory import DirectorySource
from reconciler.adapters.snapshots import Copies
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.reasons import Reason
from reconciler.core.repository import parse_address
from reconciler.settings import GitSourceSettings, Settings

if TYPE_CHECKING:
    from reconciler.adapters.git import Access, Git, GitSource
    from reconciler.ports import Snapshot, Source

LOOK_TIMEOUT = timedelta(minutes=1)
"""How long git may take for somebody who only looks."""

DEFAULT = "default"
"""The name of the only source, where the settings name none."""


@dataclass(frozen=True, slots=True)
class BuiltSource:
    """A source, and how it is to be followed. `interval` None: as often as `resync` says."""

    source: Source
    place: str
    """Where it is, for people."""
    interval: timedelta | None = None
    said: GitSourceSettings | None = field(default=None, repr=False)
    """What the settings say of it; None if the command line named it."""
    hook_secret: bytes | None = field(default=None, repr=False)
    """What its webhooks are signed with; None: it has no webhook."""

    def __str__(self) -> str:
        return f"{self.source.name} ({self.place})"


def is_repository(place: Path) -> bool:
    """Whether a directory is the root of a git repository, with or without a working tree."""
    return (place / ".git").exists() or all((place / name).exists() for name in ("HEAD", "objects", "refs"))


def source_of_path(settings: Settings, root: Path, state_dir: Path, *, working_tree: bool = False) -> BuiltSource:
    """A directory; or, where it is the root of a git repository, its committed state unless `working_tree` is asked for."""
    if working_tree or not is_repository(root):
        bounds = settings.source
        return BuiltSource(
            DirectorySource(
                DEFAULT,
                root,
                state_dir=state_dir,
                snapshots_dir=state_dir / "snapshots" / DEFAULT,
                max_files=bounds.max_files,
                max_bytes=bounds.max_bytes,
                clock=SystemClock(),
            ),
            str(root.resolve()),
        )
    said = GitSourceSettings(name=DEFAULT, url=str(root.resolve()))
    return BuiltSource(build_git_source(settings, said, state_dir), said.url)


def sources_of_settings(settings: Settings, state_dir: Path) -> Sequence[BuiltSource]:
    """Those that the settings name. Raises Refused (SettingsInvalid) for a webhook's secret that can't be read; whatever
    else is wrong with one, its own readings tell, and the others go on."""
    return tuple(
        BuiltSource(
            build_git_source(settings, said, state_dir),
            str(parse_address(said.url)),
            said.interval,
            said,
            _hook_secret(said),
        )
        for said in settings.sources
    )


def build_git_source(
    settings: Settings, said: GitSourceSettings, state_dir: Path, *, folder: str | None = None
) -> GitSource:
    """`folder`: that of the repository, if it is not the one that the settings say."""
    from reconciler.adapters.git import Followed, GitSource, LocalOrigin, RemoteOrigin
    from reconciler.adapters.git.signatures import Signers

    scratch = state_dir / "git" / said.name
    address = parse_address(said.url)
    git = build_git(said, scratch)
    followed = Followed(said.branch, said.tag)
    origin: LocalOrigin | RemoteOrigin
    if address.local:
        origin = LocalOrigin(git, _absolute(Path(said.url)), followed)
    else:
        origin = RemoteOrigin(git, scratch / "mirror.git", followed)
    signers = None
    if said.verify == "ssh" and said.allowed_signers_file is not None:
        signers = Signers("ssh", _absolute(said.allowed_signers_file))
    elif said.verify == "gpg" and said.keyring_file is not None:
        signers = Signers("gpg", _absolute(said.keyring_file))
    return GitSource(
        said.name,
        git,
        origin,
        Copies(state_dir / "snapshots" / said.name, SystemClock()),
        folder=said.path if folder is None else folder,
        signers=signers,
        scratch=scratch,
        max_files=settings.git.max_files,
        max_bytes=settings.git.max_bytes,
    )


def build_git(said: GitSourceSettings, scratch: Path) -> Git:
    """git with the source's credentials."""
    from reconciler.adapters.git import Git

    return Git(scratch, said.timeout, access_of(said))


def access_of(said: GitSourceSettings) -> Access:
    from reconciler.adapters.git import Access

    files = {name: getattr(said, name) for name in ("ssh_key_file", "known_hosts_file", "token_file")}
    named = {name: None if file is None else _absolute(file) for name, file in files.items()}
    return Access(parse_address(said.url), username=said.username, **named)


def _hook_secret(said: GitSourceSettings) -> bytes | None:
    """The secret of the source's webhook. Raises Refused (SettingsInvalid) if its file can't be read or is empty."""
    if said.webhook_secret_file is None:
        return None
    file = _absolute(said.webhook_secret_file)
    about = f"source {said.name}: webhook_secret_file names {file}"
    try:
        secret = file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        hint = "give the user that runs reconciler permission to read it"
        raise Refused(Reason.SETTINGS_INVALID, f"{about}, which can't be read: {error.strerror}", hint) from error
    if not secret:
        hint = "write the secret to it that the git server signs its hooks with"
        raise Refused(Reason.SETTINGS_INVALID, f"{about}, which is empty", hint)
    return secret


@contextmanager
def for_a_look(settings: Settings, root: Path | None, *, working_tree: bool = False) -> Iterator[Sequence[BuiltSource]]:
    """The sources for somebody who only looks: what they have to write down is gone afterwards, and a daemon that may be
    running is not disturbed."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reconciler-")))
        if root is not None and (working_tree or not is_repository(root)):
            built: Sequence[BuiltSource] = (
                source_of_path(settings, root, settings.state_dir.resolve(), working_tree=working_tree),
            )
        elif root is not None:
            built = (source_of_path(settings, root, scratch),)
        else:
            built = sources_of_settings(settings, scratch)
        for each in built:
            stack.callback(each.source.close)
        yield built


@contextmanager
def two_commits(settings: Settings, place: Path, against: str) -> Iterator[tuple[Snapshot, Snapshot]]:
    """The newest commit that HEAD and `against` both descend from, and HEAD; of the folder `place` of a repository. Raises
    Refused if it is in none, or there is no such revision."""
    from reconciler.adapters.git import Git
    from reconciler.adapters.git.working import place_in_repository

    with tempfile.TemporaryDirectory(prefix="reconciler-") as scratch:
        root, folder = place_in_repository(Git(Path(scratch), LOOK_TIMEOUT), place)
        said = GitSourceSettings(name=DEFAULT, url=str(root))
        source = build_git_source(settings, said, Path(scratch), folder=folder)
        try:
            head = source.sync()
            yield source.before(against), head
        finally:
            source.close()


def uncommitted(root: Path) -> int:
    """How many files of a working tree are not as HEAD has them."""
    from reconciler.adapters.git import working

    return working.uncommitted(root)


def _absolute(path: Path) -> Path:
    return path.expanduser().resolve()


def forget_other_folders(said: GitSourceSettings, state_dir: Path, *, runs_open: bool) -> None:
    """Checkouts are kept by commit, so those made when the source was another folder of its repository have to go. Raises
    Refused while a run still works on one, Unavailable if the note can't be written."""
    note = state_dir / "git" / said.name / "folder"
    try:
        before = note.read_text(encoding="utf-8")
    except FileNotFoundError:
        before = said.path
    if before != said.path:
        if runs_open:
            raise Refused(
                Reason.SETTINGS_INVALID,
                f"path of the source {said.name} was {before or 'the root'!r}, and runs of it are still in progress",
                "start with that path until they have ended, or cancel them",
            )
        Copies(state_dir / "snapshots" / said.name, SystemClock()).release(())
    try:
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        note.write_text(said.path, encoding="utf-8")
    except OSError as error:
        raise Unavailable(
            Reason.SOURCE_UNAVAILABLE, f"{note} can't be written: {error.strerror}", "see `df` and its owner"
        ) from error
