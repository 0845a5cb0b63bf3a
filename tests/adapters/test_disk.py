"""How much room a disk has left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.adapters.disk import nearly_full

MEGABYTE = 1 << 20


def make_disk(monkeypatch: pytest.MonkeyPatch, *, available: int, reserved: int = 0) -> None:
    """A disk of blocks of 4 KB, with so many bytes for everybody, and more for root."""
    real = os.statvfs("/")
    block = 4096
    fields = list(real)
    fields[0] = fields[1] = block
    fields[3], fields[4] = (available + reserved) // block, available // block
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))


def test_a_disk_with_room_is_no_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_disk(monkeypatch, available=200 * MEGABYTE)

    assert nearly_full(tmp_path, 200 * MEGABYTE) is None


def test_a_disk_that_is_nearly_full_says_how_much_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_disk(monkeypatch, available=150 * MEGABYTE)

    told = nearly_full(tmp_path, 200 * MEGABYTE)

    assert told == f"the disk with {tmp_path} is nearly full: 150 MB are left, min_free_bytes is 200 MB"


def test_what_only_root_may_use_is_no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_disk(monkeypatch, available=0, reserved=900 * MEGABYTE)

    assert nearly_full(tmp_path, 1) is not None


def test_nothing_is_too_little_where_nobody_wants_to_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_disk(monkeypatch, available=0)

    assert nearly_full(tmp_path, 0) is None


def test_a_disk_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    told = nearly_full(tmp_path / "gone", 1)

    assert told is not None
    assert "can't be told: No such file or directory" in told


def test_the_real_disk_of_these_tests_has_some_room(tmp_path: Path) -> None:
    assert nearly_full(tmp_path, 1) is None
