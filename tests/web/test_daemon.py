"""The port of a real daemon: tokens out of its settings, what is asked of it runs, and what is written to it too."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from reconciler.web import digest_of
from tests.acceptance.daemons import Post, Site
from tests.acceptance.workspace import wait_for
from tests.databases import SQLITE, migrated_database
from tests.web.ports import bearer

API = "/api/v1"
SECRET, OTHER = "a-token-of-kim", "another-token-of-kim"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with migrated_database(SQLITE, tmp_path) as url:
        site = Site(tmp_path, url)
        site.job("one", 2)
        yield site
        site.clean_up()


def settle(site: Site, text: str = "", **settings: Any) -> None:
    """Settings with tokens: kim's hash is in a file."""
    hashed = site.settings.with_name("kim.sha256")
    if not hashed.exists():
        hashed.write_text(digest_of(SECRET))
    site.set(**settings)
    with site.settings.open("a", encoding="utf-8") as more:
        more.write(f'\n[[http.tokens]]\nname = "kim"\nhash_file = "{hashed}"\nscopes = ["operate", "write"]\n{text}')


def port(post: Post) -> str:
    said = (*post.said("daemon_started")[-1:], *post.said("settings_reloaded"))[-1]
    return f"http://127.0.0.1:{said['port']}"


@contextmanager
def client_of(post: Post, token: str | None = SECRET) -> Iterator[httpx.Client]:
    headers = {} if token is None else bearer(token)
    with httpx.Client(base_url=port(post), headers=headers, timeout=60, trust_env=False, verify=False) as client:
        yield client


def started(site: Site) -> Post:
    post = site.post("a")
    post.start()
    post.waits_to_say("daemon_started")
    return post


def test_what_is_asked_by_the_port_runs_and_audits_have_the_name_of_the_token(site: Site) -> None:
    settle(site)
    post = started(site)
    wait_for(lambda: site.is_over("one"), "the first run")
    first = site.run("one")
    assert first is not None
    with client_of(post) as client:
        answer = client.post(f"{API}/batches/default/one/trigger", json={"reason": "once more"})
        assert answer.status_code == 202, answer.text
        wait_for(lambda: client.get(answer.json()["request"]).json()["result"] is not None, "its answer")
        wait_for(lambda: client.get(f"{API}/jobs").json()["items"][0]["id"] != first.job_id, "another run")
        run = client.get(f"{API}/jobs").json()["items"][0]
        assert run["cause"] == "Requested"
        wait_for(lambda: client.get(f"{API}/jobs/{run['id']}").json()["status"] == "success", "its end")
        assert len(client.get(f"{API}/jobs/{run['id']}/children").json()["items"]) == 2
        answer = client.post(f"{API}/batches/default/one/retry", json={})
        assert answer.status_code == 409, "nothing failed"
    (request,) = site.requests()
    assert (request.by, request.reason, request.result) == ("kim", "once more", "accepted")
    assert "once more" in post.call("audit", "one").out


def test_a_batch_that_is_posted_becomes_a_file_that_runs(site: Site) -> None:
    settle(site, "[source]\nwrite = true\n")
    post = started(site)
    wait_for(lambda: site.is_over("one"), "the first run")
    body = {
        "playbook": "playbooks/one.yml",
        "servers": ["one-1", "one-2"],
        "inventory": "inventory/one.yml",
        "execution_strategy": "sequential",
        "name": "posted",
    }
    with client_of(post) as client:
        answer = client.post(f"{API}/batches", params={"wait": 30}, json=body)
        assert answer.status_code == 201, answer.text
        made = answer.json()
        file = site.root / made["path"]
        assert file.read_text() == made["manifest"]
        assert yaml.safe_load(made["manifest"])["spec"]["strategy"] == "sequential"
        assert made["job"] is not None, "its run was opened while we waited"
        wait_for(lambda: client.get(made["job"]).json()["status"] == "success", "its end")
        children = client.get(made["children"]).json()["items"]
        assert [(child["host"], child["status"]) for child in children] == [("one-1", "success"), ("one-2", "success")]
        assert client.get(made["batch"]).json()["status"]["phase"] in ("Running", "Succeeded")
        again = client.post(f"{API}/batches", json=body)
        assert again.status_code == 409
        assert again.json()["reason"] == "NameTaken"
        assert client.post(f"{API}/batches", json={**body, "name": "few", "servers": ["one-1"]}).status_code == 409
    assert not (site.root / "jobs" / "few.yaml").exists()


def test_a_token_that_is_taken_back_lets_nobody_in_any_more(site: Site) -> None:
    settle(site)
    post = started(site)
    with client_of(post) as client:
        assert client.get(f"{API}/session").json()["name"] == "kim"
        assert client.post(f"{API}/session", json={"token": SECRET}).status_code == 204
    site.settings.with_name("kim.sha256").write_text(digest_of(OTHER))
    post.send(signal.SIGHUP)
    post.waits_to_say("settings_reloaded")
    with client_of(post) as client:
        assert client.get(f"{API}/batches").status_code == 401
    with client_of(post, OTHER) as client:
        assert client.get(f"{API}/batches").status_code == 200


def test_a_change_that_the_port_does_not_show_leaves_sessions_alone(site: Site) -> None:
    settle(site)
    post = started(site)
    with client_of(post, None) as client:
        assert client.post(f"{API}/session", json={"token": SECRET}).status_code == 204
        before = port(post)
        settle(site, workers=2)
        post.send(signal.SIGHUP)
        post.waits_to_say("settings_reloaded")
        assert port(post) == before
        assert client.get(f"{API}/session").json()["name"] == "kim"


def test_sources_stay_known_after_the_settings_were_read_again(site: Site) -> None:
    settle(site, "[source]\nwrite = true\n")
    post = started(site)
    wait_for(lambda: site.is_over("one"), "the first run")
    settle(site, "[source]\nwrite = true\n", max_running=7)
    post.send(signal.SIGHUP)
    post.waits_to_say("settings_reloaded")
    with client_of(post) as client:
        wait_for(lambda: bool(offers(client)), "the source to be offered")
        assert [(each["name"], each["writable"]) for each in offers(client)] == [("default", True)]


def offers(client: httpx.Client) -> list[Any]:
    found: list[Any] = client.get(f"{API}/offers").json()["items"]
    return found


def test_a_hash_that_can_not_be_read_is_said_at_the_start(site: Site) -> None:
    settle(site)
    site.settings.with_name("kim.sha256").unlink()
    done = site.post("a").call("run", str(site.root))
    assert done.code == 2
    assert "kim.sha256" in done.err
    assert "reconciler token" in done.err


def test_where_others_reach_the_port_and_there_is_no_token_the_log_says_that_nobody_is_answered(site: Site) -> None:
    site.set(listen="0.0.0.0:0")
    post = started(site)
    assert post.waits_to_say("port_answers_nobody")["hint"] == "reconciler token NAME"
    with client_of(post, None) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.get(f"{API}/batches").status_code == 401
        page = client.get("/")
        assert (page.status_code, page.headers["location"]) == (303, "/login?next=%2F")


def test_a_port_on_loopback_has_nothing_to_say_about_tokens(site: Site) -> None:
    post = started(site)
    assert post.said("port_answers_nobody") == []
    with client_of(post, None) as client:
        assert client.get(f"{API}/batches").status_code == 200
        assert client.get("/").status_code == 200


def test_a_daemon_that_ends_does_not_wait_for_those_who_listen(site: Site) -> None:
    post = started(site)
    with socket.create_connection(("127.0.0.1", httpx.URL(port(post)).port or 0), timeout=60) as listener:
        listener.sendall(f"GET {API}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b"event: hello" in receive_until(listener, b"event: hello")
        post.send(signal.SIGTERM)
        assert post.ends() == 0


def receive_until(connection: socket.socket, what: bytes) -> bytes:
    found = b""
    while what not in found:
        more = connection.recv(65536)
        assert more, found
        found += more
    return found
