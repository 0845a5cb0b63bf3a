"""What we wrote down ourselves and find damaged: status documents, spools; and what git and Ansible list.

Each `check_…` is given any bytes, and fails if a promise of the code is broken.
"""

from __future__ import annotations

import atexit
import json
import posixpath
import shutil
import tempfile
from dataclasses import asdict
from datetime import timedelta
from functools import cache
from pathlib import Path

import yaml
from pydantic import ValidationError

from reconciler.adapters.git.tree import Tree, read_tree
from reconciler.adapters.inventory import LONGEST_KEY, LONGEST_NAME, AnsibleInventory, InventoryOptions
from reconciler.adapters.local import SliceFolder
from reconciler.adapters.snapshots import OUTSIDE, SUBMODULE
from reconciler.adapters.statusfile import render
from reconciler.core.errors import Unavailable
from reconciler.core.facts import ChildStatus, Observed, SliceId
from reconciler.core.reasons import Reason
from reconciler.core.status import JobStatus, SourceStatus
from tests import status_linter
from tests.builders import NOON
from tests.core.test_status import make_desired, status_of
from tests.fakes.clock import FakeClock
from tests.fakes.source import FakeSnapshot
from tests.fuzz.manifests import unless_refused

MOST_FILES = 200


def check_status(data: bytes) -> None:
    """A status document is read as what it says, or is none; and what was said before never keeps the next from being
    true."""
    try:
        document = json.loads(data)
        json.dumps(document, ensure_ascii=False).encode()  # no text that anything gives has a surrogate
    except (ValueError, RecursionError):
        return
    for kind in (JobStatus, SourceStatus):
        try:
            status = kind.model_validate(document)
            written = status.model_dump(mode="json", by_alias=True)
            again = kind.model_validate(written)
        except ValidationError:
            continue
        assert again.model_dump(mode="json", by_alias=True) == written
        assert yaml.safe_load(render(status)) == written
        if isinstance(status, JobStatus):
            _check_what_follows(status)


def _check_what_follows(previous: JobStatus) -> None:
    now = NOON + timedelta(minutes=5)
    kept = [condition.last_transition_time for condition in previous.status.conditions]
    if all(moment.tzinfo is not None and moment <= now for moment in kept):
        status_linter.check(status_of(make_desired(), Observed(), previous, now - NOON), now)


def check_spool(data: bytes) -> None:
    """What a slice wrote down is read as far as it can be: to fail would keep its hosts locked for ever."""
    with tempfile.TemporaryDirectory() as place:
        folder = SliceFolder(Path(place), SliceId("slice"))
        folder.create()
        (folder.path / "spool.jsonl").write_bytes(data)
        spool = folder.spool()
    assert spool is not None
    for line in spool.logs:
        assert isinstance(line.sequence, int)
        assert line.host is None or isinstance(line.host, str)
        assert isinstance(line.text, str)
    for outcome in () if spool.result is None else spool.result.outcomes:
        assert isinstance(outcome.status, ChildStatus)
        assert isinstance(outcome.message, str)
        assert all(isinstance(count, int) for count in asdict(outcome.counts).values())


class _Told(AnsibleInventory):
    """With an ansible-inventory that says what it is given."""

    def __init__(self, said: bytes) -> None:
        super().__init__(InventoryOptions(), FakeClock())
        self._said = said

    def _run(self, *_: object) -> bytes:
        return self._said


@cache
def _snapshot() -> FakeSnapshot:
    contents = {"hosts.yml": b"all:\n"}
    snapshot = FakeSnapshot("default", contents, lambda: contents)
    snapshot.root = Path(tempfile.mkdtemp(prefix="reconciler-fuzz-"))
    atexit.register(shutil.rmtree, snapshot.root, ignore_errors=True)
    (snapshot.root / "hosts.yml").write_bytes(contents["hosts.yml"])
    return snapshot


def check_inventory(data: bytes) -> None:
    """What ansible-inventory lists is hosts that a database takes, or unreadable."""
    try:
        inventory = _Told(data).load(_snapshot(), ("hosts.yml",))
    except Unavailable as error:
        unavailable = error
    else:
        for host in inventory.hosts.values():
            assert 0 < len(host.name) <= LONGEST_NAME
            assert 0 < len(host.address) <= LONGEST_NAME
            assert 0 < len(host.host_key) <= LONGEST_KEY
            assert f"{host.name}{host.address}{host.host_key}".isprintable()
            assert all(isinstance(tag, str) for tag in host.tags)
        return
    assert unavailable.reason in (Reason.INVENTORY_UNREADABLE, Reason.INVENTORY_EMPTY)
    assert unavailable.hint


MODES = {b"f": "100644", b"x": "100755", b"l": "120000", b"s": "160000"}
"""File, executable, link, submodule; any other letter stands for a file."""


def check_tree(data: bytes) -> None:
    """Entries of a commit, NUL between them: a letter that says what it is, the path, and after a tab where a link
    leads. A checkout has nothing outside of itself, and links end inside of it."""
    targets: dict[str, bytes] = {}
    listing: list[bytes] = []
    for number, entry in enumerate(data.split(b"\0")):
        kind, rest = entry[:1], entry[1:]
        path, _, target = rest.partition(b"\t")
        identity = f"{number:040x}"
        targets[identity] = target
        mode = MODES.get(kind, MODES[b"f"])
        listing.append(f"{mode} blob {identity}\t".encode() + path)

    def read() -> Tree:
        return read_tree(b"\0".join([*listing, b""]), targets.__getitem__, MOST_FILES)

    tree = unless_refused(read, Reason.SOURCE_UNSAFE, Reason.SOURCE_TOO_LARGE)
    if tree is not None:
        _check_paths(tree)


def _check_paths(tree: Tree) -> None:
    for path in (*tree.files, *tree.links, *tree.links.values()):
        assert not posixpath.isabs(path)
        assert not {"..", ".git", ""} & set(path.split("/")) or path == "."
    assert len([blob for blob in tree.files.values() if blob not in (OUTSIDE, SUBMODULE)]) <= MOST_FILES
    assert not tree.blobs.keys() & tree.links.keys()
