"""The daemon's port, asked by real HTTP requests."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator

import httpx
import pytest

from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason
from reconciler.web import Health, WebServer, build_web
from tests.web.ports import make_doors


def exposition(gzipped: bool) -> bytes:
    plain = b"reconciler_leader 1.0\n"
    return gzip.compress(plain) if gzipped else plain


class Daemon:
    """What the port shows, to be changed by a test."""

    def __init__(self) -> None:
        self.health = Health()
        self.asked = 0

    def ask(self) -> Health:
        self.asked += 1
        return self.health


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[httpx.Client]:
    server = WebServer(build_web(make_doors(metrics=exposition, health=daemon.ask)), "127.0.0.1:0")
    server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30, trust_env=False) as client:
        yield client
    server.stop()


def test_metrics_are_sent_as_they_are(client: httpx.Client) -> None:
    for accepted, encoding in (
        *(("gzip", "gzip"), ("identity", None), ("GZip;q=0.5, identity", "gzip"), ("deflate, gzip ; q=1.0", "gzip")),
        *(("gzip;q=0", None), ("identity, gzip; q=0.000", None), ("x-gzipped", None), ("*", None)),
    ):
        answer = client.get("/metrics", headers={"Accept-Encoding": accepted})
        assert answer.status_code == 200
        assert answer.content == b"reconciler_leader 1.0\n"
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert (answer.headers.get("content-encoding"), answer.headers["vary"]) == (encoding, "Accept-Encoding")


def test_ready_when_nothing_is_wrong(client: httpx.Client) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.text) == (200, "ready\n")


def test_not_ready_says_why_and_the_process_is_alive_all_the_same(client: httpx.Client, daemon: Daemon) -> None:
    daemon.health = Health(("the database does not answer", "source default: not read yet"))
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.text == "the database does not answer\nsource default: not read yet\n"
    asked = daemon.asked
    assert client.get("/healthz").status_code == 200
    assert daemon.asked == asked

    daemon.health = Health()
    assert client.get("/readyz").status_code == 200


def test_a_standby_is_ready_and_says_who_leads(client: httpx.Client, daemon: Daemon) -> None:
    daemon.health = Health(state="standby: server-1:4711 leads")
    answer = client.get("/readyz")
    assert (answer.status_code, answer.text) == (200, "standby: server-1:4711 leads\n")


def test_what_people_should_know_is_no_problem(client: httpx.Client, daemon: Daemon) -> None:
    daemon.health = Health(notes=("paused by kim",))
    answer = client.get("/readyz")
    assert (answer.status_code, answer.text) == (200, "ready\npaused by kim\n")


def test_nothing_else_is_there(client: httpx.Client) -> None:
    assert client.get("/docs").status_code == 404
    for asked in ("/docs", "/api/v1/docs"):
        for accepted, told in (("text/html,*/*", "text/html"), ("*/*", "application/problem+json")):
            answer = client.get(asked, headers={"Accept": accepted})
            kind = "application/problem+json" if asked.startswith("/api") else told
            assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (404, kind)
    assert client.get("/openapi.json").status_code == 404
    assert client.post("/metrics").status_code == 405


def test_a_port_that_is_taken_is_refused_with_a_remedy() -> None:
    web = build_web(make_doors())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Refused, match="in use") as refusal:
            WebServer(web, listen)
    assert refusal.value.reason is Reason.SETTINGS_INVALID
    assert listen in refusal.value.message
    assert "--listen" in refusal.value.hint


@pytest.mark.parametrize("listen", ["8440", ":8440", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999"])
def test_what_is_no_address_is_refused_and_never_taken_for_every_address(listen: str) -> None:
    with pytest.raises(Refused, match=r"http\.listen"):
        WebServer(build_web(make_doors()), listen)


def test_stopping_gives_the_port_back_though_a_client_stays_connected() -> None:
    server = WebServer(build_web(make_doors()), "127.0.0.1:0")
    server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30, trust_env=False) as client:
        assert client.get("/healthz").status_code == 200
        server.stop()
        with pytest.raises(httpx.TransportError):
            client.get("/healthz")
    again = WebServer(build_web(make_doors()), f"127.0.0.1:{server.port}")
    again.start()
    assert httpx.get(f"http://127.0.0.1:{again.port}/healthz", timeout=30, trust_env=False).status_code == 200
    again.stop()
