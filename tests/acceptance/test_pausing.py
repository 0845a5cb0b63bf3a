"""Pause and resume, told from outside: by the hosts, the port, and what was written down when. ansible-playbook is the
stub of tests/stub_playbook.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore
from tests import databases
from tests.acceptance.daemons import Post, Site
from tests.acceptance.workspace import wait_for

pytestmark = [pytest.mark.ansible, pytest.mark.slow]

SOON = timedelta(seconds=20)
"""Far less than a source is read again by itself, and more than a busy machine takes."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with databases.new_database(databases.SQLITE, tmp_path) as url:
        site = Site(tmp_path, url)
        site.set(resync="1h")
        yield site
        site.clean_up()


@pytest.fixture
def post(site: Site) -> Post:
    return site.post("only")


def suspended(post: Post, name: str = "patch") -> bool:
    file = post.state / "status" / "default" / f"{name}.yaml"
    status = yaml.safe_load(file.read_text())["status"] if file.exists() else {"conditions": []}
    return any((each["type"], each["reason"]) == ("Suspended", "Paused") for each in status["conditions"])


def test_while_it_is_paused_nothing_starts_and_after_that_at_once(site: Site, post: Post) -> None:
    site.job("patch", hosts=2)
    post.start()
    post.waits_to_say("leading")
    wait_for(lambda: site.is_over("patch"), "the first run")

    assert post.call("pause", "--reason", "moving the storage").code == 0
    wait_for(lambda: suspended(post), "the status to say so, though nothing was to be done")
    assert post.call("trigger", "patch").code == 0
    site.job("later", hosts=1)
    wait_for(lambda: suspended(post, "later"), "the new one to be held")
    code, page = post.page("/readyz")
    assert (code, "everything is paused by" in page, ": moving the storage" in page) == (200, True, True)
    assert len(site.begun()) == 2

    assert post.call("resume").code == 0
    wait_for(lambda: len(site.begun()) == 5, "both to run")
    wait_for(lambda: not suspended(post), "the status to say so")
    resume = site.requests()[0]
    run = site.run("later")
    assert run is not None
    assert run.started_at is not None
    assert timedelta(0) < run.started_at - resume.at < SOON
    assert post.page("/readyz") == (200, "ready\n")


def test_what_runs_finishes_and_the_next_wave_waits(site: Site, post: Post) -> None:
    site.job("patch", hosts=3, limit=1, seconds=10)
    post.start()
    wait_for(lambda: site.begun() == ["patch-1"], "the first wave")

    assert post.call("pause", "default").code == 0
    wait_for(lambda: site.ended() == ["patch-1"], "it to end")
    wait_for(lambda: suspended(post), "the status to say so")
    told = post.call("status", "patch").out
    assert told.startswith("the source default is paused by ")
    assert "2 of 3 hosts held" in told
    assert site.begun() == ["patch-1"]

    post.call("resume", "default")
    wait_for(lambda: site.is_over("patch"), "the rest")
    assert site.begun() == ["patch-1", "patch-2", "patch-3"]


def test_it_needs_no_daemon_and_outlives_each(site: Site, post: Post) -> None:
    assert post.call("db", "upgrade").code == 0
    assert post.call("pause", "nobody").code == 2
    assert post.call("pause", "--reason", "before the first start").code == 0
    site.job("patch", hosts=1)

    once = post.call("run", "--once", str(site.root))
    assert (once.code, "paused" in once.err) == (0, True), once.err
    assert site.begun() == []
    assert post.call("resume").code == 0
    assert post.call("run", "--once", str(site.root)).code == 0
    assert site.begun() == ["patch-1"]
    asked = [(request.kind.value, request.reason, request.result) for request in site.requests()]
    assert asked == [("resume", "", "accepted"), ("pause", "before the first start", "accepted")]


def test_a_wave_that_was_planned_when_somebody_paused_does_not_start(site: Site, post: Post) -> None:
    """Two processes on one database: the planner's picture is always a little old, and admission is not."""
    site.job("patch", hosts=40, limit=1, seconds=0.0)
    post.start()
    wait_for(lambda: len(site.begun()) > 2, "some waves")

    assert post.call("pause").code == 0

    wait_for(lambda: suspended(post), "the status to say so")
    with closing(SqlStore(site.url, SystemClock())) as store:
        told = [event.type for event in store.events_after(0, 10_000)]
    assert "WaveAdmitted" not in told[told.index("Paused") :]
    assert len(site.begun()) < 40
