"""Several daemons on one database: one leads, the others wait, and whatever becomes of the one, its work goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import databases
from tests.acceptance.daemons import Post, Site, moment
from tests.acceptance.workspace import wait_for
from tests.databases import POSTGRESQL, SQLITE, OwnPostgresql, Wire

pytestmark = [pytest.mark.ansible, pytest.mark.slow]

TAKEOVER, AT_ONCE = 15.0, 4.0
"""Seconds within which a standby leads after a kill, and after a clean stop (2 on a machine that has nothing else to
do)."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    if reason := databases.why_no(POSTGRESQL):
        pytest.skip(reason)
    with databases.new_database(POSTGRESQL, tmp_path) as url:
        yield url


@pytest.fixture
def site(tmp_path: Path, database: str) -> Iterator[Site]:
    site = Site(tmp_path, database)
    yield site
    site.clean_up()


@pytest.fixture
def pair(site: Site) -> tuple[Post, Post]:
    """One that leads, and one that waits."""
    first, second = site.post("first"), site.post("second")
    first.start()
    first.waits_to_say("leading")
    second.start()
    assert second.waits_to_say("standby")["leader"].endswith(f":{first.pid}")
    return first, second


def leader(site: Site) -> str:
    lease = site.lease()
    assert lease is not None
    return lease.holder


# -- the one is gone -------------------------------------------------------------------------------------------------
def test_the_work_of_a_leader_that_was_killed_goes_on(site: Site, pair: tuple[Post, Post]) -> None:
    first, second = pair
    site.job("patch", hosts=4, seconds=3, limit=2)
    wait_for(lambda: len(site.begun()) == 2, "the first wave")

    killed = datetime.now(UTC)
    first.send(signal.SIGKILL)
    first.ends()

    assert (moment(second.waits_to_say("leading")) - killed).total_seconds() < TAKEOVER
    lease = site.lease()
    assert lease is not None
    assert lease.fence == 2
    assert lease.holder.endswith(f":{second.pid}")
    wait_for(lambda: site.is_over("patch"), "the run")
    assert site.begun() == ["patch-1", "patch-2", "patch-3", "patch-4"]
    assert set(site.outcomes("patch").values()) == {"success"}
    wait_for((second.state / "status" / "default" / "patch.yaml").exists, "its status, where it is seen to now")

    first.start()
    assert first.waits_to_say("standby")["leader"].endswith(f":{second.pid}"), "whoever comes back waits"


def test_one_that_stops_is_followed_at_once_and_what_runs_is_not_touched(site: Site, pair: tuple[Post, Post]) -> None:
    first, second = pair
    site.job("patch", hosts=2, seconds=5, limit=1)
    wait_for(lambda: len(site.begun()) == 1, "the first wave")

    first.send(signal.SIGTERM)
    assert first.ends() == 0

    ended = datetime.now(UTC)
    assert (moment(second.waits_to_say("leading")) - ended).total_seconds() < AT_ONCE
    wait_for(lambda: site.is_over("patch"), "the run")
    assert site.begun() == site.ended() == ["patch-1", "patch-2"]


def test_a_daemon_that_crashed_and_is_started_again_need_not_wait_for_its_own_lease(
    site: Site, pair: tuple[Post, Post]
) -> None:
    first, second = pair
    second.send(signal.SIGTERM)
    second.ends()
    first.send(signal.SIGKILL)
    first.ends()
    first.start()
    assert first.waits_to_say("leading", 2)["fence"] == "2"
    assert first.said("standby") == []


def test_one_that_led_waits_for_what_it_began_when_it_is_drained(site: Site, pair: tuple[Post, Post]) -> None:
    first, second = pair
    site.job("patch", hosts=1, seconds=20)
    wait_for(lambda: len(site.begun()) == 1, "the run")
    first.send(signal.SIGSTOP)
    second.waits_to_say("leading")
    first.send(signal.SIGCONT)
    first.waits_to_say("standby")
    assert site.ended() == []

    assert first.call("drain").code == 0

    assert first.ends() == 0
    assert site.ended() == ["patch-1"]
    wait_for(lambda: site.is_over("patch"), "the run")
    assert site.outcomes("patch") == {"patch-1": "success"}


# -- the one is stopped for a while ----------------------------------------------------------------------------------
def test_a_leader_that_was_stopped_and_goes_on_does_nothing_any_more(site: Site, pair: tuple[Post, Post]) -> None:
    first, second = pair
    site.job("patch", hosts=6, seconds=2, limit=2)
    wait_for(lambda: len(site.begun()) == 2, "the first wave")

    first.send(signal.SIGSTOP)
    second.waits_to_say("leading")
    wait_for(lambda: len(site.begun()) == 4, "the next wave")
    before = first.log.read_text()
    first.send(signal.SIGCONT)
    first.waits_to_say("stepped_down")
    assert first.waits_to_say("standby")["leader"].endswith(f":{second.pid}")
    wait_for(lambda: site.is_over("patch"), "the run")

    assert site.begun() == [f"patch-{number}" for number in range(1, 7)]
    assert set(site.outcomes("patch").values()) == {"success"}
    since = first.log.read_text().removeprefix(before)
    assert "wave_admitted" not in since
    assert "run_finished" not in since
    assert first.page("/readyz") == (200, f"standby: {leader(site)} leads\n")

    second.send(signal.SIGTERM)
    second.ends()
    assert first.waits_to_say("leading", 2)["fence"] == "3"
    site.job("later", hosts=1)
    wait_for(lambda: site.is_over("later"), "a run of the one that leads again")


# -- the database is away --------------------------------------------------------------------------------------------
def test_after_an_outage_of_the_database_the_same_one_leads(tmp_path: Path, database: str) -> None:
    with Wire.to(database) as wire:
        site = Site(tmp_path, wire.through(database))
        try:
            first, second = site.post("first"), site.post("second")
            first.start()
            first.waits_to_say("leading")
            second.start()
            second.waits_to_say("standby")
            site.job("patch", hosts=2, seconds=3, limit=1)
            wait_for(lambda: len(site.begun()) == 1, "the first wave")

            wire.cut()
            wait_for(lambda: first.shows("reconciler_leader 0.0"), "its term to be over")
            assert first.page("/readyz")[0] == second.page("/readyz")[0] == 503
            wire.mend()

            wait_for(lambda: first.shows("reconciler_leader 1.0"), "it to lead again")
            wait_for(lambda: site.is_over("patch"), "the run")
            lease = site.lease()
        finally:
            site.clean_up()
    assert lease is not None
    assert lease.fence == 1
    assert [len(first.said("leading")), len(first.said("stepped_down"))] == [1, 0]
    assert second.said("leading") == []
    assert site.begun() == ["patch-1", "patch-2"]


def test_a_database_that_crashes_in_the_middle_of_a_wave_changes_nothing(tmp_path: Path) -> None:
    if reason := databases.why_no_own_postgresql():
        pytest.skip(reason)
    with OwnPostgresql(tmp_path) as server:
        site = Site(tmp_path, server.url)
        try:
            first, second = site.post("first"), site.post("second")
            first.start()
            first.waits_to_say("leading")
            second.start()
            second.waits_to_say("standby")
            site.job("patch", hosts=4, seconds=3, limit=2)
            wait_for(lambda: len(site.begun()) == 2, "the first wave")

            server.kill()
            wait_for(lambda: site.ended() == ["patch-1", "patch-2"], "it to end with no database")
            server.start()

            wait_for(lambda: site.is_over("patch"), "the run")
            assert site.begun() == ["patch-1", "patch-2", "patch-3", "patch-4"]
            assert set(site.outcomes("patch").values()) == {"success"}
            assert (len(first.said("leading")), len(second.said("leading"))) == (1, 0)
        finally:
            site.clean_up()


# -- what a standby shows, and what others do beside a leader --------------------------------------------------------
def test_a_standby_says_who_leads_and_shows_no_series_of_jobs(site: Site, pair: tuple[Post, Post]) -> None:
    first, second = pair
    site.job("patch", hosts=1)
    wait_for(lambda: site.is_over("patch"), "the run")
    series = 'reconciler_batchjob_phase{source="default",name="patch",phase="Succeeded"} 1.0'
    wait_for(lambda: first.shows(series), "its series")

    assert first.shows("reconciler_leader 1.0")
    assert second.shows("reconciler_leader 0.0")
    assert "reconciler_batchjob" not in second.page("/metrics")[1]
    assert first.page("/readyz") == (200, "ready\n")
    assert second.page("/readyz") == (200, f"standby: {leader(site)} leads\n")
    assert second.page("/healthz") == (200, "ok\n")
    assert "Succeeded" in second.call("status").out, "commands are answered wherever they are asked"

    assert second.call("trigger", "patch").code == 0
    wait_for(lambda: site.begun() == ["patch-1"] * 2, "what was asked for beside the standby")

    first.send(signal.SIGTERM)
    first.ends()
    wait_for(lambda: second.shows(series) and second.shows("reconciler_leader 1.0"), "the series")


def test_once_beside_a_leader_does_nothing_and_says_who_leads(site: Site, pair: tuple[Post, Post]) -> None:
    first, _ = pair
    done = site.post("third").call("run", "--once", str(site.root))
    assert done.code == 4
    assert f"another daemon leads: {leader(site)}" in done.err
    assert first.lives()

    site.job("patch", hosts=1, seconds=600)
    wait_for(lambda: len(site.begun()) == 1, "a run of the leader")
    elsewhere = site.post("elsewhere")
    assert "no daemon runs" not in elsewhere.call("status").err
    assert elsewhere.call("cancel", "patch").code == 0
    wait_for(lambda: site.outcomes("patch") == {"patch-1": "cancelled"}, "the leader to see to its end")
    assert "no daemon runs" not in elsewhere.call("trigger", "patch").out


def test_two_on_one_file_are_a_leader_and_a_standby_too(tmp_path: Path) -> None:
    """Whatever the database is."""
    with databases.new_database(SQLITE, tmp_path) as url:
        site = Site(tmp_path, url)
        try:
            first, second = site.post("first"), site.post("second")
            first.start()
            first.waits_to_say("leading")
            second.start()
            second.waits_to_say("standby")
            refused = first.call("run", str(site.root))
            assert refused.code == 2
            assert f"process {first.pid}" in refused.err, "but one state directory has one daemon"
            first.send(signal.SIGTERM)
            first.ends()
            second.waits_to_say("leading")
        finally:
            site.clean_up()
