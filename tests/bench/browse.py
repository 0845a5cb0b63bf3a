"""Pages of a database with 10,000 batches and 100,000 children, on SQLite and (where one listens on loopback)
PostgreSQL: what the store answers, what comes by HTTP, and the metrics of all that."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import httpx
from sqlalchemy import func, select

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.metrics import MetricsPage, ProcessMetrics, StoreCollector
from reconciler.adapters.store import SqlStore
from reconciler.adapters.store.engines import LONG, connect, read_url
from reconciler.adapters.store.tables import jobs
from reconciler.core.facts import ChildStatus, JobKey
from reconciler.core.status import Phase
from reconciler.ports import BatchesWanted, BatchMark, RunsWanted, ServerMark, ServersWanted
from tests.bench.full import BATCHES, LARGEST, LOG_LINES, SOURCES, fill, key_of, make_lists_again, run_of
from tests.bench.measure import Number
from tests.builders import NOON
from tests.databases import POSTGRESQL, new_database, why_no
from tests.web.ports import connected, make_doors, served

PAGE = 50
QUERY, RENDERING, ANSWER = 100.0, 5.0, 300.0
"""Bounds, in ms, s and ms: of what the database is asked, of the metrics, of what is answered by HTTP."""

ROUNDS = 5


def measure(folder: Path) -> Iterator[Number]:
    yield from _on("SQLite", f"sqlite:///{folder / 'reconciler.db'}")
    if why_no(POSTGRESQL) is None:
        with new_database(POSTGRESQL, folder) as url:
            yield from _on("PostgreSQL", url)


def _on(name: str, url: str) -> Iterator[Number]:
    fill(url)
    yield from _upgrade(name, url)
    store = SqlStore(url, SystemClock())
    with store.read() as connection:
        children = connection.scalar(select(func.count()).select_from(jobs).where(~jobs.c.is_batch_job))
    yield Number(f"{name}: children in the database", children or 0, "", 100_000, least=True)
    for what, ask in _pages(store):
        yield Number(f"{name}: {what}", _took(ask) * 1000, "ms", QUERY)
    yield from _metrics(name, store)
    store.close()


def _pages(store: SqlStore) -> Iterator[tuple[str, Callable[[], object]]]:
    everything, every_server = BatchesWanted(), ServersWanted()
    failed = BatchesWanted(source="lab", phases=frozenset({Phase.FAILED}), text="PATCH-09")
    rare = BatchesWanted(text="patch-00777")
    deep = store.batches(everything, None, BATCHES - 500)[-1].mark
    keys = [key_of(number) for number in range(200)]
    largest, no_status = run_of(0), frozenset[ChildStatus]()
    child = store.child_page(largest, no_status, 0, 1)[0]
    early = NOON.replace(year=2020)
    yield "batches, the first page", lambda: store.batches(everything, None, PAGE)
    yield "batches, 200 on a page", lambda: store.batches(everything, None, 200)
    yield "batches, a deep page", lambda: store.batches(everything, deep, PAGE)
    yield "batches, beyond the last page", lambda: store.batches(everything, BatchMark(early, JobKey("", "")), PAGE)
    yield "batches of a source, a phase and a text", lambda: store.batches(failed, None, PAGE)
    yield "batches, one found by its name", lambda: store.batches(rare, None, PAGE)
    yield "batches by 200 keys", lambda: store.batches_of(keys)
    yield "phase counts", lambda: store.phase_counts(everything)
    yield "phase counts of a text", lambda: store.phase_counts(failed)
    yield "runs, the first page", lambda: store.run_rows(RunsWanted(), None, PAGE)
    yield "runs, a deep page", lambda: store.run_rows(RunsWanted(source="lab"), run_of(500), PAGE)
    yield "runs of one batch", lambda: store.run_rows(RunsWanted("default", "patch-00000"), None, PAGE)
    yield f"children of {LARGEST:,}, the first page", lambda: store.child_page(largest, no_status, 0, PAGE)
    yield f"children of {LARGEST:,}, a deep page", lambda: store.child_page(largest, no_status, LARGEST - 99, PAGE)
    unsuccessful = frozenset({ChildStatus.FAILED, ChildStatus.UNREACHABLE})
    yield f"children of {LARGEST:,} that failed", lambda: store.child_page(largest, unsuccessful, 0, PAGE)
    yield "one child and its attempts", lambda: (store.child(child.job_id), store.attempts(child.job_id))
    yield (
        f"a log of {LOG_LINES:,} lines, 1,000 in the middle",
        lambda: store.log_page(largest, child.host, None, LOG_LINES // 2, 1000),
    )
    yield "servers, the first page", lambda: store.servers(every_server, None, PAGE)
    deep_server = ServerMark("host-09900", "", "")
    yield "servers, a deep page", lambda: store.servers(every_server, deep_server, PAGE)
    tagged = ServersWanted(tags=frozenset({"web", "zone=3"}), text="EXAMPLE", group="rack-7")
    yield "servers of two tags, a group and a text", lambda: store.servers(tagged, None, PAGE)
    canary = ServersWanted(source="lab", tags=frozenset({"canary"}))
    yield "servers of a rare tag", lambda: store.servers(canary, None, PAGE)
    yield "servers, one found by its address", lambda: store.servers(ServersWanted(text="host-07777.ex"), None, PAGE)
    yield "tags of all servers", lambda: store.server_tags(None)


def _metrics(name: str, store: SqlStore) -> Iterator[Number]:
    collector = StoreCollector(store, SOURCES, 50, ("team",))
    page = MetricsPage(ProcessMetrics(), collector, SystemClock(), lambda: True)
    page.start()
    rendering = _took(page.render, 3)
    yield Number(f"{name}: metrics read from the database", _took(lambda: deque(store.metrics().statuses, 1), 3), "s")
    yield Number(f"{name}: metrics of {BATCHES:,} batches rendered", rendering, "s", RENDERING)
    page.render()
    yield Number(f"{name}: … their size", len(page.page()) / 1e6, "MB")
    yield Number(f"{name}: … as they are sent", len(page.page(gzipped=True)) / 1e6, "MB")
    page.stop()
    rendered, gzipped = page.page(), page.page(gzipped=True)
    with (
        served(make_doors(store, metrics=lambda asked: gzipped if asked else rendered)) as server,
        connected(server) as client,
    ):
        for what, path in _ANSWERS.items():
            yield Number(f"{name}: HTTP, {what}", _took(partial(_get, client, path)) * 1000, "ms", ANSWER)


_LARGEST = key_of(0)
_ANSWERS = {
    "the list page": "/",
    "the list page of a text": "/?text=patch-00777",
    "an expanded row": f"/fragments/children?run={run_of(30)}",
    "an expanded row of many": f"/fragments/children?run={run_of(0)}",
    "the page of the largest batch": f"/batches/{_LARGEST.source}/{_LARGEST.name}",
    "the servers page": "/servers",
    "the page of a server": "/servers/default/host-00003",
    "/api/v1/batches": "/api/v1/batches",
    "/api/v1/batches, 200 on a page": "/api/v1/batches?limit=200",
    "/api/v1/batches/SOURCE/NAME of the largest": f"/api/v1/batches/{_LARGEST.source}/{_LARGEST.name}",
    "/api/v1/jobs": "/api/v1/jobs",
    "/api/v1/jobs/ID/children": f"/api/v1/jobs/{run_of(0)}/children",
    "/api/v1/servers": "/api/v1/servers",
    "/api/v1/tags": "/api/v1/tags",
    "/metrics": "/metrics",
}


def _get(client: httpx.Client, path: str) -> None:
    """Read to its end, and thrown away: what the reader does with it is not what is measured."""
    with client.stream("GET", path) as answer:
        assert answer.status_code == 200, (path, answer.read())
        for _ in answer.iter_raw(1 << 20):
            pass


def _upgrade(name: str, url: str) -> Iterator[Number]:
    engine = connect(read_url(url), LONG)
    begin = time.monotonic()
    with engine.begin() as connection:
        make_lists_again(connection)
    yield Number(f"{name}: what lists show is made again, by an upgrade", time.monotonic() - begin, "s", 60)
    engine.dispose()


def _took(ask: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds, the middle of a few; the first time, in which caches are filled, does not count."""
    ask()
    each = []
    for _ in range(rounds):
        begin = time.monotonic()
        ask()
        each.append(time.monotonic() - begin)
    return median(each)
