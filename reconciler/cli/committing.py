"""One new file, committed as its author would do it by hand: with their git, identity, hooks and signing."""

from __future__ import annotations

import subprocess
from pathlib import Path

from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason


def repository_of(folder: Path) -> Path:
    """The root of the working tree that a folder lies in, which need not be there yet. Raises Refused."""
    there = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.is_dir())
    done = _git(there, "rev-parse", "--show-toplevel")
    if done.returncode != 0:
        raise Refused(
            Reason.PATH_MISSING,
            f"{there} is in no git repository with a working tree: {_said(done)}",
            "go to one, or name it with --path; without --commit the manifest is only written",
        )
    return Path(done.stdout.removesuffix("\n"))


def commit_only(file: Path, message: str) -> str:
    """Commit a file that is new to its repository, and leave alone whatever else is staged or modified there. Returns
    the commit's short id. Raises Refused, with git's own words, and git knows nothing of the file then."""
    root = repository_of(file.parent)
    name = (file.parent.resolve() / file.name).relative_to(root).as_posix()
    committed = False
    try:
        for step in (("add", "--", name), ("commit", "-m", message, "--", name)):
            done = _git(root, *step)
            if done.returncode != 0:
                raise Refused(
                    Reason.SOURCE_UNAVAILABLE,
                    f"git {step[0]} failed: {_said(done)}",
                    "mend that and try again: nothing was committed",
                )
        committed = True
    finally:
        if not committed:
            _git(root, "rm", "--cached", "--force", "--quiet", "--ignore-unmatch", "--", name)
    return _git(root, "rev-parse", "--short", "HEAD").stdout.strip()


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """git as its user has set it up. Names of files are no patterns: one file is meant."""
    command = ["git", "-C", str(root), "--literal-pathspecs", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise Refused(Reason.GIT_MISSING, "git is not installed", "without --commit it is not needed") from error


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Its stderr, where hooks write too; what has nothing to commit is said on stdout."""
    return done.stderr.strip() or done.stdout.strip() or f"it ended with {done.returncode}"
