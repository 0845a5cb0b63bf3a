"""How much room is left on a disk."""

from __future__ import annotations

import os
from pathlib import Path

MEGABYTE = 1 << 20


def nearly_full(folder: Path, least: int) -> str | None:
    """Says so if the disk with this folder has less than so many bytes left for whoever may not use the last of it; and
    if that can't be told. None: there is room."""
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        return f"how much room is left for {folder} can't be told: {error.strerror}"
    free = disk.f_bavail * disk.f_frsize
    if free >= least:
        return None
    return f"the disk with {folder} is nearly full: {free // MEGABYTE} MB are left, min_free_bytes is {least // MEGABYTE} MB"
