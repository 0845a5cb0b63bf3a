"""Real repositories for tests: a bare one that is pushed to, and a clone of it that a person works in."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PERSON = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada Lovelace",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada Lovelace",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_TERMINAL_PROMPT": "0",
}


def git(place: Path, *arguments: str, given: bytes | None = None, **more: str) -> str:
    """What git says in a repository, as a person who works there; raises if git fails."""
    done = subprocess.run(
        ["git", "-C", str(place), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(place), **PERSON, **more},
        input=given,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr.decode()}"
    return done.stdout.decode().strip()


class WorkingCopy:
    """A repository with a working tree."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def write(self, path: str, content: str | bytes) -> None:
        file = self.place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, subject: str = "a change", **files: str | bytes) -> str:
        """Commit everything as it lies there, and these files; the new commit's id."""
        for path, content in files.items():
            self.write(path, content)
        git(self.place, "add", "--all")
        git(self.place, "commit", "--quiet", "--allow-empty", "--message", subject)
        return self.head

    @property
    def head(self) -> str:
        return git(self.place, "rev-parse", "HEAD")

    def push(self, *more: str) -> None:
        git(self.place, "push", "--quiet", *more, "origin", "HEAD:main")


def make_repository(place: Path) -> WorkingCopy:
    """An empty one, on the branch main."""
    place.mkdir(parents=True, exist_ok=True)
    git(place, "init", "--quiet", "--initial-branch=main")
    return WorkingCopy(place)


def make_remote(folder: Path) -> tuple[Path, WorkingCopy]:
    """A bare repository, and a clone of it, both below `folder`."""
    bare = folder / "remote.git"
    bare.mkdir(parents=True)
    git(bare, "init", "--quiet", "--bare", "--initial-branch=main")
    clone = make_repository(folder / "clone")
    git(clone.place, "remote", "add", "origin", str(bare))
    return bare, clone
