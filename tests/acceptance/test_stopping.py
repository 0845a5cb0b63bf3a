"""Stopping, draining and reloading a daemon: nothing that runs is touched unless somebody says so, twice."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import databases
from tests.acceptance.daemons import Post, Site
from tests.acceptance.gitwork import SECOND, GitWorkspace
from tests.acceptance.workspace import PATIENCE, wait_for
from tests.databases import SQLITE

pytestmark = [pytest.mark.ansible, pytest.mark.slow]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with databases.new_database(SQLITE, tmp_path) as url:
        site = Site(tmp_path, url)
        yield site
        site.clean_up()


@pytest.fixture
def post(site: Site) -> Post:
    """A daemon that leads."""
    post = site.post("only")
    post.start()
    post.waits_to_say("leading")
    return post


# -- TERM ------------------------------------------------------------------------------------------------------------
def test_terminated_it_leaves_what_runs_alone_and_the_next_goes_on(site: Site, post: Post) -> None:
    site.job("patch", hosts=3, seconds=4, limit=1)
    wait_for(lambda: len(site.begun()) == 1, "the first wave")

    post.send(signal.SIGTERM)
    assert post.ends() == 0
    lease = site.lease()
    assert lease is not None
    assert lease.holder == "", "given back"
    assert site.ended() == [], "it did not wait for it"
    wait_for(lambda: site.ended() == ["patch-1"], "its end, with no daemon at all")
    assert site.begun() == ["patch-1"]

    post.start()
    wait_for(lambda: site.is_over("patch"), "the rest")
    assert site.begun() == ["patch-1", "patch-2", "patch-3"]
    assert set(site.outcomes("patch").values()) == {"success"}


def test_terminated_twice_it_cancels_what_runs(site: Site, post: Post, tmp_path: Path) -> None:
    site.job("patch", hosts=2, seconds=600, limit=1)
    wait_for(lambda: len(site.begun()) == 1, "the first wave")
    # An inventory that does not answer keeps it busy while it stops.
    script, asked = site.root / "inventory" / "slow.sh", tmp_path / "asked"
    asked.touch()
    script.write_text(f"#!/bin/sh\nrm {asked}\nuntil [ -e {asked} ]; do sleep 0.1; done\necho '{{}}'\n")
    script.chmod(0o755)
    site.job("slow", hosts=1, inventory="inventory/slow.sh")
    wait_for(lambda: not asked.exists(), "a look that lasts")

    post.send(signal.SIGTERM)
    post.waits_to_say("stopping")
    post.send(signal.SIGTERM)
    assert post.ends() == 0

    assert post.said("everything_cancelled")[0]["why"] == "SIGTERM twice"
    wait_for(lambda: not list(site.slices()), "its processes to end, with no daemon at all")
    (request,) = site.requests()
    assert (request.kind, request.reason) == ("cancel", "SIGTERM twice")
    asked.touch()
    script.write_text("#!/bin/sh\necho '{}'\n")
    post.start()
    wait_for(lambda: site.is_over("patch"), "its end to be told")
    assert site.outcomes("patch") == {"patch-1": "cancelled", "patch-2": "skipped"}


# -- drain -----------------------------------------------------------------------------------------------------------
def test_drained_it_finishes_what_runs_starts_nothing_and_ends(site: Site, post: Post) -> None:
    site.job("patch", hosts=2, seconds=20, limit=1)
    wait_for(lambda: len(site.begun()) == 1, "the first wave")

    impatient = post.call("drain", "--timeout", "1s")
    assert impatient.code == 4
    assert "patch (1 host)" in impatient.err
    site.job("later", hosts=1)

    done = post.call("drain")
    assert done.code == 0
    assert "it has ended" in done.out
    assert post.ends() == 0
    assert site.ended() == ["patch-1"]
    assert site.begun() == ["patch-1"]

    again = post.call("drain")
    assert (again.code, "no daemon runs" in again.out) == (0, True)

    post.start()
    wait_for(lambda: site.is_over("patch") and site.is_over("later"), "the rest")
    assert site.begun() == ["later-1", "patch-1", "patch-2"]


def test_asked_to_drain_without_waiting_for_it(site: Site, post: Post) -> None:
    site.job("patch", hosts=1, seconds=3)
    wait_for(lambda: len(site.begun()) == 1, "the run")
    assert post.call("drain", "--no-wait").code == 0
    assert post.ends() == 0
    assert site.ended() == ["patch-1"]
    assert set(site.outcomes("patch").values()) == {"success"}


def test_a_standby_that_is_drained_ends_at_once_and_the_leader_goes_on(site: Site, post: Post) -> None:
    site.job("patch", hosts=1, seconds=600)
    wait_for(lambda: len(site.begun()) == 1, "a run of the leader")
    standby = site.post("standby")
    standby.start()
    standby.waits_to_say("standby")
    assert standby.call("drain").code == 0
    assert standby.ends() == 0
    assert post.lives()


# -- HUP -------------------------------------------------------------------------------------------------------------
def test_settings_are_read_again_and_what_runs_is_not_touched(site: Site, post: Post) -> None:
    site.set(max_running=1)
    post.send(signal.SIGHUP)
    post.waits_to_say("settings_reloaded")
    site.job("patch", hosts=3, seconds=4, limit=3)
    wait_for(lambda: len(site.begun()) == 1, "as many as the new settings allow")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    before = post.said("settings_reloaded")[0]["port"]
    site.set(max_running=1, status_children=100)
    post.send(signal.SIGHUP)
    assert post.waits_to_say("settings_reloaded", 2)["port"] == before, "its own settings have not changed"

    site.set(max_running=2, listen=f"127.0.0.1:{port}")
    post.send(signal.SIGHUP)
    assert post.waits_to_say("settings_reloaded", 3)["port"] == str(port)
    assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30, trust_env=False).text == "ok\n"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{before}/healthz", timeout=30, trust_env=False)

    site.set(max_running=2, listen=f"0.0.0.0:{port}")
    post.send(signal.SIGHUP)
    assert post.waits_to_say("settings_reloaded", 4)["port"] == str(port), "the old address is in its way no more"
    assert post.page("/healthz") == (200, "ok\n")

    wait_for(lambda: site.is_over("patch"), "the run")
    assert site.begun() == ["patch-1", "patch-2", "patch-3"]
    assert set(site.outcomes("patch").values()) == {"success"}
    lease = site.lease()
    assert lease is not None
    assert lease.fence == 1, "it led all the time"


def test_wrong_settings_are_told_of_and_the_old_ones_stay(site: Site, post: Post, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"max_running": 0}, "max_running"),
            ({"no_such": 1}, "no_such"),
            ({"url": f"sqlite:///{tmp_path / 'other.db'}"}, "database_url can't change"),
            ({"listen": f"127.0.0.1:{taken.getsockname()[1]}"}, "nothing can listen"),
        ]
        for number, (settings, why) in enumerate(wrong, start=1):
            site.set(**settings)
            post.send(signal.SIGHUP)
            assert why in post.waits_to_say("settings_not_reloaded", number)["why"]
    assert post.said("settings_reloaded") == []
    port = post.said("daemon_started")[0]["port"]
    site.set(listen=f"127.0.0.1:{port}")
    post.send(signal.SIGHUP)
    post.waits_to_say("settings_reloaded")
    site.set(listen=f"192.0.2.1:{port}")
    post.send(signal.SIGHUP)
    post.waits_to_say("settings_not_reloaded", len(wrong) + 1)
    assert post.page("/healthz") == (200, "ok\n"), "it is back where it was"
    site.job("patch", hosts=1)
    wait_for(lambda: site.is_over("patch"), "a run by the old ones")
    assert post.page("/readyz") == (200, "ready\n")


def test_a_standby_reads_its_settings_again_too(site: Site, post: Post) -> None:
    standby = site.post("standby")
    standby.start()
    standby.waits_to_say("standby")
    site.set(max_running=3)
    standby.send(signal.SIGHUP)
    standby.waits_to_say("settings_reloaded")
    assert standby.page("/readyz")[1].startswith("standby")
    assert post.said("settings_reloaded") == []


def test_a_source_that_the_settings_name_now_is_followed_from_now_on(tmp_path: Path) -> None:
    work = GitWorkspace(tmp_path, hosts=1)
    work.job()
    commit = work.push()
    one = {"url": f"file://{work.bare}", "branch": "main", **SECOND}
    with work.running("--listen", "127.0.0.1:0") as process:
        work.reached(commit)
        work.follow_all({"default": one, "second": one})
        process.send_signal(signal.SIGHUP)
        second = work.state / "status" / "second"
        wait_for((second / "work.yaml").exists, "its jobs to be seen")
        assert work.call("adopt", "second", "--run").code == 0
        wait_for(lambda: len(work.recorded("end")) == 2, "its run")

        work.follow_all({"second": one})
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: work.log.read_text().count("settings_reloaded") == 2, "the other to be left alone")
        (*_, port) = re.findall(r"event=settings_reloaded.*port=(\d+)", work.log.read_text())

        def measured(source: str) -> bool:
            answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30, trust_env=False)
            return f'{{source="{source}"' in answer.text

        wait_for(lambda: measured("second"), "numbers of the one that is left")
        wait_for(lambda: not measured("default"), "no numbers of the other")
        work.job(extraVars={"seconds": 0.1})
        work.push()
        wait_for(lambda: len(work.recorded("end")) == 3, "a run of the one that is left")


# -- the terminal and the service manager ----------------------------------------------------------------------------
def test_a_terminal_that_goes_away_takes_the_daemon_with_it(site: Site) -> None:
    command = site.post("only").command("run", str(site.root))
    here, there = pty.openpty()
    process = subprocess.Popen(["setsid", "--ctty", *command], stdin=there, stdout=there, stderr=there)
    os.close(there)
    try:
        said = b""
        while b"event=leading" not in said:
            said += os.read(here, 4096)
        process.send_signal(signal.SIGHUP)
        while b"event=settings_reloaded" not in said:
            said += os.read(here, 4096)
        os.close(here)
        assert process.wait(timeout=PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    lease = site.lease()
    assert lease is not None
    assert lease.holder == "", "given back, as on TERM"


def test_systemd_is_told_how_it_stands(site: Site, tmp_path: Path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(PATIENCE)
    heard: list[str] = []

    def hears(wanted: str) -> None:
        while not any(wanted in line for line in heard):
            heard.extend(manager.recv(4096).decode().splitlines())

    post = site.post("only")
    try:
        post.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1000000")
        hears("READY=1")
        hears("STATUS=leading, 0 runs in progress")
        hears("WATCHDOG=1")
        heard.clear()
        post.send(signal.SIGHUP)
        hears("RELOADING=1")
        hears("MONOTONIC_USEC=")
        hears("READY=1")
        heard.clear()
        site.job("patch", hosts=1, seconds=600)
        hears("STATUS=leading, 1 run in progress")
        (slice_process, *_) = site.slices()
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{slice_process}/environ").read_bytes()
        post.send(signal.SIGTERM)
        hears("STOPPING=1")
    finally:
        manager.close()
