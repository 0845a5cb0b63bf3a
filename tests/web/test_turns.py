"""Many who plan and write at once, and slow ones: pages and the API go on, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest

from reconciler.core.facts import JobKey
from reconciler.ports import Planned, Written
from reconciler.web import WebServer, manifests
from tests.acceptance.workspace import wait_for
from tests.contracts.stores import World
from tests.web.filled import Desk
from tests.web.ports import WRITES, bearer, connected, make_doors, served

API = "/api/v1"
MANY = 45
"""More than there are threads that answer requests."""


class SlowDesk(Desk):
    """What is planned or written there takes until `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.planning: list[str] = []
        self.writing: list[str] = []
        self.plans_slowly = self.writes_slowly = False

    def plan(self, source: str, text: str) -> Planned:
        if self.plans_slowly:
            self.planning.append(text)
            assert self.release.wait(120)
        return super().plan(source, text)

    def write(self, source: str, text: str, by: str, message: str) -> Written:
        if self.writes_slowly:
            self.writing.append(text)
            assert self.release.wait(120)
        return super().write(source, text, by, message)


@pytest.fixture
def desk() -> Iterator[SlowDesk]:
    desk = SlowDesk()
    yield desk
    desk.release.set()


def manifest(number: int) -> str:
    return (
        f"apiVersion: reconciler/v1\nkind: BatchJob\nmetadata: {{name: made-{number}}}\n"
        "spec: {playbook: playbooks/patch.yml, selector: {tags: [web]}}\n"
    )


def plan(server: WebServer, number: int) -> httpx.Response:
    with connected(server) as client:
        return client.post(f"{API}/plan?source=default", content=manifest(number).encode(), timeout=120)


def write(server: WebServer, number: int, wait: int = 0) -> httpx.Response:
    with connected(server, headers=bearer(WRITES)) as client:
        return client.post(f"{API}/manifests?wait={wait}", json={"manifest": manifest(number)}, timeout=120)


@contextmanager
def many(desk: SlowDesk, ask: Callable[..., Any], *arguments: Any) -> Iterator[list[Any]]:
    """All of them ask at once; their answers, once the desk is released."""
    answers: list[Any] = []
    with ThreadPoolExecutor(MANY) as pool:
        asked = [pool.submit(partial(ask, *arguments, number)) for number in range(MANY)]
        try:
            yield answers
        finally:
            desk.release.set()
        answers.extend(each.result() for each in asked)


def test_slow_plans_hold_up_nobody_else(server: WebServer, desk: SlowDesk) -> None:
    desk.plans_slowly = True
    with many(desk, plan, server) as answers:
        wait_for(lambda: len(desk.planning) == manifests.PLANNED_AT_ONCE, "those whose turn it is")
        with connected(server) as client:
            assert client.get(f"{API}/batches").status_code == 200
            assert client.get("/").status_code == 200
        assert len(desk.planning) == manifests.PLANNED_AT_ONCE
    assert {answer.status_code for answer in answers} == {200}


def test_whose_turn_to_plan_does_not_come_is_told_to_come_again(
    server: WebServer, desk: SlowDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "PATIENCE", 0.1)
    desk.plans_slowly = True
    refused: list[httpx.Response] = []

    def ask(number: int) -> int:
        answer = plan(server, number)
        if answer.status_code == 503:
            refused.append(answer)
        return answer.status_code

    with many(desk, ask) as answers:
        wait_for(lambda: len(refused) == MANY - manifests.PLANNED_AT_ONCE, "all others refused")
    assert sorted(answers) == [200] * manifests.PLANNED_AT_ONCE + [503] * len(refused)
    told = refused[0].json()
    assert told["detail"] == "too many manifests are being planned"
    assert "reason" not in told, "nothing is wrong with an inventory"
    assert refused[0].headers["retry-after"] == "5"


def test_slow_writes_hold_up_nobody_else_and_one_is_written_after_the_other(server: WebServer, desk: SlowDesk) -> None:
    desk.writes_slowly = True
    with many(desk, write, server) as answers:
        wait_for(lambda: desk.writing, "the first")
        with connected(server) as client:
            assert client.get(f"{API}/batches").status_code == 200
        assert len(desk.writing) == 1
    assert {answer.status_code for answer in answers} == {201}
    assert len(desk.written) == MANY


def test_whose_turn_to_write_does_not_come_is_told_to_come_again(
    server: WebServer, desk: SlowDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "PATIENCE_TO_WRITE", 0.1)
    desk.writes_slowly = True
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(write, server, 1)
        wait_for(lambda: desk.writing, "the first")
        answer = write(server, 2)
        desk.release.set()
        assert (answer.status_code, first.result().status_code) == (503, 201)
    assert answer.json()["detail"] == "too many manifests are being written into default"


def test_many_who_wait_for_their_runs_hold_up_nobody_else(
    world: World, desk: SlowDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.store, "latest_run", lambda _: "batch-that-is-opened" if desk.release.is_set() else None)

    def ask(server: WebServer, number: int) -> httpx.Response:
        return write(server, number, 30)

    with served(make_doors(world.store, authoring=desk)) as server:
        with many(desk, ask, server) as answers:
            wait_for(lambda: len(desk.written) == MANY, "all of them written")
            with connected(server) as client:
                assert client.get(f"{API}/batches").status_code == 200
            assert not desk.release.is_set()
    assert {answer.json()["job"] for answer in answers} <= {None, f"{API}/jobs/batch-that-is-opened"}


def test_a_server_that_stops_does_not_wait_for_runs_to_be_opened(world: World, desk: SlowDesk) -> None:
    with ThreadPoolExecutor(1) as pool, served(make_doors(world.store, authoring=desk)) as server:
        asked = pool.submit(write, server, 1, 30)
        wait_for(lambda: desk.written, "the manifest")
        server.stop()
        assert not server._thread.is_alive()
        assert asked.exception(60) is not None or asked.result().status_code == 500


def test_a_manifest_that_would_stall_is_not_written(world: World) -> None:
    class Refusing(Desk):
        def plan(self, source: str, text: str) -> Planned:
            return Planned(name="made-1", refusal="1 host is selected, and minHosts is 2", hint="select more")

    desk = Refusing()
    with served(make_doors(world.store, authoring=desk)) as server:
        answer = write(server, 1)
    assert answer.status_code == 409
    assert (answer.json()["detail"], answer.json()["hint"]) == ("1 host is selected, and minHosts is 2", "select more")
    assert (desk.written, world.store.latest_run(JobKey("default", "made-1"))) == ([], None)
