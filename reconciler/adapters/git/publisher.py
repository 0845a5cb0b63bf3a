"""The status of a source on a branch of its repository, beside that of others who publish there.

What is published are the status files as they lie on the disk, whatever was told of them: nothing has to be remembered
over a restart, and a publication that failed is made good by the next one.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import structlog

from reconciler.adapters.git.command import Git, GitFailed, at_the_other_end, meaning
from reconciler.adapters.git.repository import Repository
from reconciler.adapters.git.source import blob_id
from reconciler.adapters.snapshots import remove
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.facts import JobKey
from reconciler.core.reasons import Reason
from reconciler.core.repository import parse_address
from reconciler.core.status import ConditionType, JobStatus, Phase, SourceStatus

log = structlog.get_logger()

TRIES = 5
"""How often one publication is built anew because somebody else pushed in between."""

AGAIN = (0.05, 0.5)
"""Seconds, at least and at most, before it is: by chance, so that two who met do not meet again."""

GATHERING = 0.5
"""Seconds that the first change after a quiet time waits for those that come with it."""

SHORTEST, LONGEST = 1.0, 300.0
"""Seconds until a publication that failed is tried again: at first, and at most."""

NAMED = 5
"""Changes that a subject names."""

LIFE = 20_000
"""Objects written after which the repository here is made anew. Packing would take longer than to fetch one commit."""

NEWEST = "refs/reconciler/newest"
"""What the repository here calls the newest known commit of the branch."""

_WRITER = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "reconciler"), ("EMAIL", "reconciler@localhost"))
}


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since the last publication: the latest word on each name, and the revisions it was said of."""

    words: Mapping[str, str] = field(default_factory=dict)
    revisions: frozenset[str] = frozenset()

    def then(self, later: Changes) -> Changes:
        return Changes({**self.words, **later.words}, self.revisions | later.revisions)

    def message(self, source: str) -> str:
        """Of the commit. `[skip ci]`: a push of a status is nothing to test."""
        said = [f"{name} {word}" for name, word in self.words.items()]
        more = [f"and {len(said) - NAMED} more"] if len(said) > NAMED else []
        subject = f"{source}: {', '.join((*said[:NAMED], *more)) or 'status'} [skip ci]"
        return "\n\n".join((subject, *(["\n".join(sorted(self.revisions))] if self.revisions else []))) + "\n"


class StatusBranch:
    """A sink that publishes the status files of one source. Whoever writes never waits: a thread of its own publishes
    what the files say by then, at most once in `interval`. Safe for any number of threads."""

    def __init__(
        self,
        git: Git,
        source: str,
        folder: Path,
        repository: Path,
        target: str,
        branch: str,
        interval: timedelta,
        published: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`git` can reach `target` (a URL, or the path of a repository on this machine) and is used by nobody else;
        `folder` has the status files, to be written before this is told; `repository` is made here, and made anew
        whenever that is easier than to mend it. `published` is told of each try: "success" or "error". `check` raises
        ReconcilerError if nothing is to be pushed now."""
        self._git = git
        self._source = source
        self._folder = folder
        self._repository = repository
        self._address = parse_address(target)
        self._branch = branch
        self._interval = interval.total_seconds()
        self._published = published
        self._check = check
        self._news = threading.Condition()
        # Not None: an earlier process may have ended before it had published everything.
        self._unpublished: Changes | None = Changes()
        self._said_of_source: SourceStatus | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_publishing, name=f"status-{source}", daemon=True)
        self._left = 0
        """Objects that the repository here may still get; 0: it is made anew."""
        self._wrote = 0
        self._trouble: Reason | None = None

    # -- being told --------------------------------------------------------------------------------------------------
    def write(self, status: JobStatus) -> None:
        if status.metadata.source == self._source:
            said = status.status
            self._note(Changes({status.metadata.name: said.phase.value}, _revisions(said.revision)))

    def write_source(self, status: SourceStatus) -> None:
        """That a source was read once more is nothing new. To publish it would be a commit for each reading; and where
        the branch is in a repository that is watched, each commit would cause a reading."""
        if status.metadata.name != self._source:
            return
        said = status.model_copy(update={"status": status.status.model_copy(update={"last_sync": None})})
        with self._news:
            known, self._said_of_source = self._said_of_source, said
        if said != known:
            ready = [each.reason for each in status.status.conditions if each.type is ConditionType.READY]
            self._note(Changes({"_source": " ".join(ready)}, _revisions(status.status.observed_revision)))

    def remove(self, key: JobKey) -> None:
        if key.source == self._source:
            self._note(Changes({key.name: Phase.REMOVED.value}))

    def _note(self, changes: Changes) -> None:
        with self._news:
            self._unpublished = (self._unpublished or Changes()).then(changes)
            self._news.notify_all()

    def _put_back(self, changes: Changes) -> None:
        with self._news:
            self._unpublished = changes.then(self._unpublished or Changes())

    # -- when --------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Publish from now on, at first what is not yet as the files say."""
        self._thread.start()

    def finish(self) -> None:
        """Publish once more if something is unpublished, and then no more. Returns at once."""
        self._closing.set()
        with self._news:
            self._news.notify_all()

    def close(self, patience: float) -> None:
        """The end of `finish`, within about `patience` seconds."""
        self.finish()
        if self._thread.is_alive():
            self._thread.join(patience)
        self._git.close()
        if self._thread.is_alive():
            self._thread.join()

    def _keep_publishing(self) -> None:
        due, pause = 0.0, SHORTEST
        while not self._closing.is_set():
            with self._news:
                self._news.wait_for(lambda: self._unpublished is not None or self._closing.is_set())
            if self._closing.wait(max(GATHERING, due - time.monotonic())):
                break
            if self._try():
                wait, pause = self._interval, SHORTEST
            else:
                wait, pause = pause * random.uniform(0.7, 1.0), min(pause * 2, LONGEST)
            due = time.monotonic() + wait
        if self._unpublished is not None:
            self._try()

    def _try(self) -> bool:
        # Taken before the files are read: what is written meanwhile is published once more rather than not at all.
        with self._news:
            changes, self._unpublished = self._unpublished or Changes(), None
        try:
            self._publish(changes)
        except ReconcilerError as error:
            self._failed(error.reason, str(error))
        except OSError as error:
            self._failed(Reason.STATUS_NOT_WRITTEN, str(error))
        except Exception:
            log.exception("status_not_published_by_a_bug", source=self._source)
        else:
            if self._trouble is not None:
                log.info("status_published_again", source=self._source, branch=self._branch)
            self._trouble = None
            self._published("success")
            return True
        self._put_back(changes)
        self._published("error")
        return False

    def _failed(self, reason: Reason, why: str) -> None:
        if reason is not self._trouble:
            log.warning("status_not_published", source=self._source, branch=self._branch, reason=reason.value, why=why)
        self._trouble = reason

    # -- one publication ---------------------------------------------------------------------------------------------
    def _publish(self, changes: Changes) -> None:
        """Raises ReconcilerError, OSError; the repository here is then made anew next time, whatever it was."""
        left, self._left, self._wrote = self._left, 0, 0
        try:
            head = self._head()
            if left <= 0:
                self._make(head)
                left = LIFE
            self._push_onto(head, changes)
        except GitFailed as failure:
            raise self._meaning(failure) from failure
        self._left = left - self._wrote - 3  # a commit and its trees

    def _push_onto(self, head: str | None, changes: Changes) -> None:
        for _ in range(TRIES):
            head = self._bring(head)
            commit = self._commit(head, changes)
            if commit is None:
                return
            try:
                self._push(commit)
                return
            except GitFailed:
                # Servers have many words for it. If the branch has moved, that is why; or the push was done and only the
                # answer got lost, which shows when it is built anew.
                self._closing.wait(random.uniform(*AGAIN))
                before, head = head, self._head()
                if head == before:
                    raise
        raise Unavailable(Reason.STATUS_NOT_WRITTEN, f"{self._address}: others push to {self._branch} all the time")

    def _meaning(self, failure: GitFailed) -> ReconcilerError:
        return meaning(failure, self._address) or Unavailable(
            Reason.STATUS_NOT_WRITTEN,
            f"{self._address}: {failure.said}",
            f"see whether the credentials of the source may push to {self._branch}",
        )

    # -- the branch, there and here ----------------------------------------------------------------------------------
    @property
    def _ref(self) -> str:
        return f"refs/heads/{self._branch}"

    def _head(self) -> str | None:
        """The commit that the branch is at now, there; None if there is no such branch. Raises Refused (SettingsInvalid) for
        the branch that the repository's HEAD is on: people work there."""
        said = self._remote("ls-remote", "--symref", "--end-of-options", self._address.text, self._ref, "HEAD")
        listed = [line.split("\t") for line in said.decode(errors="replace").splitlines()]
        if [f"ref: {self._ref}", "HEAD"] in listed:
            raise Refused(
                Reason.SETTINGS_INVALID,
                f"{self._branch} is the main branch of {self._address}: no status is committed to it",
                "give status.branch of the source a name of its own",
            )
        return next((commit for commit, ref in listed if ref == self._ref), None)

    def _make(self, head: str | None) -> None:
        layout = "sha256" if head is not None and len(head) == 64 else "sha1"
        if head is None and self._address.local:
            said = self._git.run("-C", self._address.text, "rev-parse", "--show-object-format")
            layout = said.decode().strip()
        remove(self._repository)
        self._repository.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._git.run("init", "--quiet", "--bare", "--template=", f"--object-format={layout}", str(self._repository))

    def _bring(self, head: str | None) -> str | None:
        """The newest commit of the branch, now here: `head`, or one that came after it. Its history is not needed."""
        if head is None:
            return None
        here = Repository(self._git, self._repository)
        if here.resolve(NEWEST) != head:
            self._remote(
                "fetch",
                "--quiet",
                "--depth=1",
                "--no-tags",
                "--no-write-fetch-head",
                "--end-of-options",
                self._address.text,
                f"+{self._ref}:{NEWEST}",
            )
        return here.resolve(NEWEST)

    def _push(self, commit: str) -> None:
        """Never by force. Raises GitFailed if the branch has moved, too."""
        self._check()
        self._remote("push", "--quiet", "--end-of-options", self._address.text, f"{commit}:{self._ref}")
        self._here("update-ref", NEWEST, commit)

    def _remote(self, command: str, *arguments: str) -> bytes:
        other_end = at_the_other_end(self._address, "receive-pack" if command == "push" else "upload-pack")
        here = None if command == "ls-remote" else self._repository
        return self._git.run(command, *other_end, *arguments, repository=here, remote=True)

    # -- the commit --------------------------------------------------------------------------------------------------
    def _commit(self, head: str | None, changes: Changes) -> str | None:
        """A commit on top of `head` in which the files are as they are now, and all that others have there stays; None
        if `head` is so already, or there are no files yet: a new state directory knows nothing."""
        blobs = self._blobs(head)
        if not blobs:
            return None
        own = self._tree(f"100644 blob {blob}\t{name}".encode() for name, blob in blobs.items())
        others = (entry for entry in self._entries(head) if _name_of(entry) != self._source.encode())
        tree = self._tree((*others, f"040000 tree {own}\t{self._source}".encode()))
        if head is None:
            return self._here("commit-tree", tree, given=changes.message(self._source).encode(), more=_WRITER)
        if tree == self._here("rev-parse", f"{head}^{{tree}}"):
            return None
        return self._here("commit-tree", tree, "-p", head, given=changes.message(self._source).encode(), more=_WRITER)

    def _blobs(self, head: str | None) -> Mapping[str, str]:
        """The status files, each with the id of its content, which is in the repository here afterwards."""
        known = {_id_of(entry) for entry in self._entries(head, f"{self._source}/")}
        blobs: dict[str, str] = {}
        fresh: dict[str, bytes] = {}
        for path in sorted(self._folder.glob("*.yaml")):
            with suppress(FileNotFoundError):  # removed since the folder was listed
                content = path.read_bytes()
                blob = blob_id(content, head) if head is not None else ""
                blobs[path.name] = blob
                if blob not in known:
                    fresh[path.name] = content
        return {**blobs, **self._written(fresh)}

    def _written(self, contents: Mapping[str, bytes]) -> Mapping[str, str]:
        """The ids of these contents, by one git for all of them: a new commit changes every status."""
        if not contents:
            return {}
        numbered = enumerate(contents.values(), start=1)
        stream = b"".join(b"blob\nmark :%d\ndata %d\n%s\n" % (number, len(text), text) for number, text in numbered)
        with tempfile.TemporaryDirectory(dir=self._repository) as scratch:
            marks = Path(scratch) / "marks"
            self._here("fast-import", "--quiet", f"--export-marks={marks}", given=stream)
            ids = dict(line.split(" ") for line in marks.read_text().splitlines())
        self._wrote += len(contents)
        return {name: ids[f":{number}"] for number, name in enumerate(contents, start=1)}

    def _entries(self, head: str | None, *paths: str) -> Sequence[bytes]:
        if head is None:
            return ()
        return self._git.run("ls-tree", "-z", head, "--", *paths, repository=self._repository).split(b"\0")[:-1]

    def _tree(self, entries: Iterable[bytes]) -> str:
        return self._here("mktree", "-z", given=b"".join(entry + b"\0" for entry in entries))

    def _here(self, *arguments: str, given: bytes = b"", more: Mapping[str, str] | None = None) -> str:
        return self._git.run(*arguments, given=given, more=more, repository=self._repository).decode().strip()


def _revisions(named: str | None) -> frozenset[str]:
    return frozenset((named,) if named else ())


def _name_of(entry: bytes) -> bytes:
    return entry.partition(b"\t")[2]


def _id_of(entry: bytes) -> str:
    return entry.partition(b"\t")[0].split(b" ")[2].decode()
