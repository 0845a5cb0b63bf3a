"""What one reading of a git source costs, catalogue and database included: with nothing changed, and with one changed
manifest among many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median

import yaml

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.git import Access, Followed, Git, GitSource, RemoteOrigin
from reconciler.adapters.snapshots import Copies
from reconciler.adapters.store import SqlStore, migrate
from reconciler.core.repository import parse_address
from reconciler.engine.catalogue import Catalogue
from reconciler.engine.sources import KnownSources, SourceKeeper
from tests.bench.measure import Number
from tests.fakes.shown import FakeShown
from tests.gitrepo import make_remote

SIZES = (100, 1_000, 10_000)
TIMES = 5


def measure(folder: Path) -> Iterator[Number]:
    for size in SIZES:
        yield from _of(folder / f"manifests-{size}", size)


def _of(folder: Path, size: int) -> Iterator[Number]:
    bare, copy = make_remote(folder)
    copy.commit("many", **{f"jobs/job-{number:05}.yaml": _manifest(number, 5) for number in range(size)})
    copy.push()
    state, clock = folder / "state", SystemClock()
    state.mkdir()
    url = f"sqlite:///{state / 'reconciler.db'}"
    migrate.upgrade(url)
    store = SqlStore(url, clock)
    git = Git(state, timedelta(minutes=5), Access(parse_address(f"file://{bare}")))
    source = GitSource(
        "default",
        git,
        RemoteOrigin(git, state / "mirror.git", Followed("main")),
        Copies(state / "snapshots", clock),
        scratch=state,
        max_files=1_000_000,
        max_bytes=1 << 30,
    )
    known = KnownSources(store, ("default",), FakeShown())
    keeper = SourceKeeper(source, Catalogue("default", ("jobs/**/*.yaml",), 20), store, (), clock, known)
    first = _took(keeper.sync)
    asking = median(_took(lambda: git.run("ls-remote", f"file://{bare}", remote=True)) for _ in range(TIMES))
    nothing = median(_took(keeper.sync) for _ in range(TIMES))
    changes = []
    for number in range(TIMES):
        copy.commit("one", **{f"jobs/job-{number:05}.yaml": _manifest(number, 6)})
        copy.push()
        changes.append(_took(keeper.sync))
    store.close()
    source.close()
    yield Number(f"{size:,} manifests: read for the first time", first, "s")
    yield Number(f"{size:,} manifests: nothing changed", nothing, "s")
    yield Number(
        f"{size:,} manifests: nothing changed, as so many ls-remote",
        nothing / asking,
        "",
        3.0 if size == 1_000 else None,
    )
    yield Number(f"{size:,} manifests: one changed", median(changes), "s")
    yield Number(
        f"{size:,} manifests: one changed, part of the first time",
        median(changes) / first,
        "",
        0.5 if size == 10_000 else None,
    )


def _manifest(number: int, limit: int) -> str:
    spec = {"playbook": "play.yml", "selector": {"all": True}, "runOn": [], "limit": limit}
    metadata = {"name": f"job-{number:05}"}
    return yaml.safe_dump({"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": metadata, "spec": spec})


def _took(step: Callable[[], object]) -> float:
    begin = time.monotonic()
    step()
    return time.monotonic() - begin
