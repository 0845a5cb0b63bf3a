"""Odd texts and numbers, asked of each kind of database: what one takes, another refuses as no text or no number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from reconciler.adapters.store import SqlStore
from tests.contracts.stores import World
from tests.databases import KINDS, migrated_database, why_no
from tests.fakes.clock import RunningClock
from tests.web.filled import HOSTILE, Desk, fill
from tests.web.ports import connected, make_doors, served

ODD = ("%", "_", "\\", "'", '"', "(", "[a", "ä", "\u202e", "\U0001f98a", "x" * 253, "A" * 250, "a/b", HOSTILE)
RUN = "batch-20261123-120000-abcdefghij"


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[httpx.Client]:
    if reason := why_no(request.param):
        pytest.skip(reason)
    clock = RunningClock()
    with migrated_database(request.param, tmp_path) as url:
        store = SqlStore(url, clock)
        fill(World(store, clock))
        with served(make_doors(store, authoring=Desk())) as server, connected(server) as client:
            yield client
        store.close()


def paths() -> Iterator[str]:
    for text in ODD:
        odd = quote(text, safe="")
        yield from (f"/jobs/{odd}", f"/jobs/{odd}/children", f"/jobs/{odd}/attempts", f"/jobs/{odd}/log")
        yield from (f"/batches/{odd}/{odd}", f"/servers/{odd}/{odd}/jobs", f"/requests/{odd}")
        yield from (f"/batches?source={odd}&text={odd}", f"/servers?source={odd}&text={odd}&tag={odd}&group={odd}")
        yield from (f"/jobs?source={odd}&name={odd}", f"/jobs/{RUN}/log?host={odd}", f"/tags?source={odd}")
    yield f"/jobs/{RUN}/children?cursor=WzIxNDc0ODM2NDdd"  # [2147483647]
    yield from (f"/jobs/{RUN}/log?attempt={2**31 - 1}", f"/jobs/{RUN}/log?after={2**53 - 1}")
    yield from ("/batches", "/jobs", "/servers", "/tags", "/sources", "/offers", f"/jobs/{RUN}/children")


def test_whatever_is_looked_for_is_found_or_not(client: httpx.Client) -> None:
    answers = {path: client.get(f"/api/v1{path}") for path in paths()}
    assert {path: answer.text for path, answer in answers.items() if answer.status_code not in (200, 404)} == {}
    assert [each["host"] for each in answers[f"/jobs/{RUN}/children"].json()["items"]] == ["web-1", "web-2", HOSTILE]


def test_live_changes_are_told_from_each(client: httpx.Client) -> None:
    with client.stream("GET", "/api/v1/events", headers={"Last-Event-ID": "0"}) as answer:
        kinds = (line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: "))
        assert [next(kinds), next(kinds)] == ["hello", "change"]
