"""The working tree of somebody who works in a repository: looked at, and never changed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from reconciler.adapters.git.command import Git, GitFailed
from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason

PATIENCE = 60.0
"""Seconds that `git status` may take in a large tree."""


def place_in_repository(git: Git, place: Path) -> tuple[Path, str]:
    """The root of the repository that a folder is in, and where in it. Raises Refused (SettingsInvalid) if it is in none."""
    try:
        said = git.run("-C", str(place.resolve()), "rev-parse", "--show-toplevel", "--show-prefix")
    except GitFailed as failure:
        raise Refused(
            Reason.SETTINGS_INVALID, f"{place} is in no git repository: {failure.said}", "name a folder of one"
        ) from failure
    root, inside = said.decode(errors="surrogateescape").split("\n")[:2]
    return Path(root), inside.rstrip("/")


def uncommitted(place: Path) -> int:
    """How many files are not as HEAD has them, by the user's own git settings: those say what is ignored. 0 where git does
    not say: a warning is not worth more."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(place), "-c", "core.fsmonitor=false", "status", "--porcelain", "-z"]
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=PATIENCE, env={**environment, "GIT_OPTIONAL_LOCKS": "0"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(1 for entry in done.stdout.split(b"\0") if entry)
