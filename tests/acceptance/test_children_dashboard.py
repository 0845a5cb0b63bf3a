"""The dashboards that read the database itself: each of its queries, on a real PostgreSQL after real runs, gives the rows
that the store knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore
from reconciler.core.facts import JobKey, Observed, Run
from tests import databases, stub_playbook
from tests.acceptance.daemons import Site
from tests.test_dashboards import UIDS, panels, read

DETAIL, UID = UIDS[1:]
SOURCE = "default"


class Board:
    """Asks a database as Grafana would, with these values chosen."""

    def __init__(self, url: str, **chosen: str) -> None:
        self._engine = create_engine(make_url(url))
        self._chosen = chosen

    def close(self) -> None:
        self._engine.dispose()

    def rows(self, sql: str) -> Sequence[Mapping[str, Any]]:
        filled = re.sub(r"\$\{(\w+):sqlstring\}", lambda found: _quoted(self._chosen[found.group(1)]), sql)
        assert "$" not in filled, "every variable is put in as text"
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(filled.replace(":", r"\:"))).mappings()]

    def panel(self, title: str, uid: str = UID) -> Sequence[Mapping[str, Any]]:
        (panel,) = (panel for panel in panels(uid) if panel["title"] == title)
        (target,) = panel["targets"]
        assert (target["rawQuery"], target["format"]) == (True, "table")
        found = self.rows(target["rawSql"])
        named = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
        assert not found or named <= set(found[0]), "columns that are given a look are there"
        return found

    def choices(self, name: str) -> list[str]:
        (variable,) = (each for each in read(UID)["templating"]["list"] if each["name"] == name)
        return [str(next(iter(row.values()))) for row in self.rows(variable["query"])]


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database after three runs: one of `web` that failed on a host twice, one with it mended, and one of `flaky`."""
    if reason := databases.why_no(databases.POSTGRESQL):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("children")
    with databases.new_database(databases.POSTGRESQL, folder) as url:
        site = Site(folder, url)
        post = site.post("only")
        twice = stub_playbook.playbook(site.record, fail={"web-2": 2, "web-3": 1})
        (site.root / "playbooks" / "twice.yml").write_text(twice, encoding="utf-8")
        work: dict[str, Any] = {"playbook": "playbooks/twice.yml", "limit": 2, "retry": {"limit": 1, "backoff": "1s"}}
        site.job("web", hosts=3, **work)
        once = stub_playbook.playbook(site.record, fail={"flaky-1": 1})
        (site.root / "playbooks" / "once.yml").write_text(once, encoding="utf-8")
        site.job("flaky", hosts=2, **{**work, "playbook": "playbooks/once.yml"})
        assert post.call("run", "--once", str(site.root)).code == 1
        site.job("web", hosts=3, **work, extraVars={"again": True})
        assert post.call("run", "--once", str(site.root)).code == 0
        yield url


def runs(url: str, name: str) -> list[str]:
    """Their ids, the newest first."""
    return [summary.job_id for summary in observed(url, name).history]


def run(url: str, name: str) -> Run:
    found = observed(url, name).run
    assert found is not None
    return found


def observed(url: str, name: str) -> Observed:
    store = SqlStore(url, SystemClock())
    try:
        return store.observe(JobKey(SOURCE, name))
    finally:
        store.close()


@pytest.fixture
def board(url: str) -> Iterator[Board]:
    """The first run of `web`."""
    board = Board(url, source=SOURCE, name="web", run=runs(url, "web")[-1])
    yield board
    board.close()


def test_what_there_is_to_choose_from(board: Board, url: str) -> None:
    assert board.choices("source") == [SOURCE]
    assert board.choices("name") == ["flaky", "web"]
    assert board.choices("run") == runs(url, "web")


def test_children_of_the_latest_run_are_those_that_the_store_has(url: str) -> None:
    latest = run(url, "web")
    board = Board(url, source=SOURCE, name="web", run=latest.job_id)
    found = board.panel("Children")
    board.close()
    assert len(found) == 3
    for child, row in zip(latest.children, sorted(found, key=lambda row: row["number"]), strict=True):
        assert child.started_at is not None
        assert child.finished_at is not None
        assert {**row, "duration": pytest.approx(float(row["duration"]))} == {
            "number": child.ordinal,
            "host": child.host,
            "address": child.address,
            "wave": child.wave,
            "attempt": child.attempt,
            "status": child.status.value,
            "reason": child.reason,
            "task": child.task,
            "message": child.message,
            "started": child.started_at,
            "duration": (child.finished_at - child.started_at) / timedelta(seconds=1),
            "job": child.job_id,
        }


def test_what_went_wrong_comes_first(board: Board) -> None:
    found = board.panel("Children")
    assert [(row["host"], row["status"], row["attempt"]) for row in found] == [
        ("web-2", "failed", 2),
        ("web-1", "success", 1),
        ("web-3", "success", 2),
    ]
    assert found[0]["message"]


def test_attempts_are_of_those_that_were_tried_again(board: Board) -> None:
    assert [(row["host"], row["attempt"], row["status"]) for row in board.panel("Attempts")] == [
        ("web-2", 1, "failed"),
        ("web-2", 2, "failed"),
        ("web-3", 1, "failed"),
        ("web-3", 2, "success"),
    ]


def test_batch_detail_shows_runs_too_and_attempts_of_the_latest(board: Board, url: str) -> None:
    assert board.panel("Runs", DETAIL) == board.panel("Runs")
    assert board.panel("Attempts of the latest run", DETAIL) == []
    another = Board(url, source=SOURCE, name="flaky")
    assert [
        (row["host"], row["attempt"], row["status"]) for row in another.panel("Attempts of the latest run", DETAIL)
    ] == [("flaky-1", 1, "failed"), ("flaky-1", 2, "success")]
    another.close()


def test_every_query_is_tried_here() -> None:
    tried = {"Children", "Attempts", "Waves", "Runs", "Attempts of the latest run"}
    of_sql = [
        panel for uid in UIDS for panel in panels(uid) if any("rawSql" in each for each in panel.get("targets", ()))
    ]
    assert {panel["title"] for panel in of_sql} == tried


def test_waves(board: Board) -> None:
    found = board.panel("Waves")
    assert [(row["wave"], row["hosts"], row["success"], row["unsuccessful"]) for row in found] == [
        (1, 2, 1, 1),
        (2, 1, 1, 0),
    ]
    assert all(row["duration"] > 0 for row in found)


def test_runs_with_what_they_ran(board: Board, url: str) -> None:
    found = board.panel("Runs")
    assert [(row["run"], row["status"], row["cause"]) for row in found] == [
        (runs(url, "web")[0], "success", "SpecChanged"),
        (runs(url, "web")[1], "failed", "SpecChanged"),
    ]
    assert [(row["hosts"], row["unsuccessful"], row["waves"], row["attempts"]) for row in found] == [
        (3, 0, 2, 3),
        (3, 1, 2, 5),
    ]
    assert found[0]["revision"] == run(url, "web").revision
    assert [row["generation"] for row in found] == [2, 1]


def test_a_name_that_looks_like_sql_is_text(url: str) -> None:
    board = Board(url, source="x' OR '1'='1", name="'; DROP TABLE jobs; --", run="' OR true --")
    assert [board.panel(title) for title in ("Children", "Attempts", "Waves", "Runs")] == [[], [], [], []]
    board.close()
