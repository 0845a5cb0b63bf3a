"""Clients who are slow, or many: nobody holds anything for ever, and health gets through."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from reconciler.web import Health, WebServer, connections, guard
from tests.acceptance.workspace import wait_for
from tests.contracts.stores import World
from tests.fakes.clock import RunningClock
from tests.fakes.store import FakeStore
from tests.web.filled import FAILED, fill
from tests.web.ports import OPERATES, connected, make_doors, served

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
TRIGGER = (
    f"POST /api/v1/batches/{FAILED}/trigger HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {OPERATES}\r\n"
    "Content-Type: application/json\r\n"
).encode()


@pytest.fixture
def world() -> World:
    clock = RunningClock()
    world = World(FakeStore(clock), clock)
    fill(world)
    return world


@pytest.fixture
def server(world: World) -> Iterator[WebServer]:
    with served(make_doors(world.store)) as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SAYING", 0.5)
    monkeypatch.setattr(connections, "SAYING_MUCH", 1.0)
    monkeypatch.setattr(connections, "TAKING", 0.5)


def dial(server: WebServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def is_cut(client: socket.socket) -> bool:
    """Whether the other side breaks it off; what it says before is passed over."""
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def answer_of(client: socket.socket) -> bytes:
    """One answer with a short body."""
    found = b""
    while b"\r\n\r\nok\n" not in found:
        more = client.recv(65536)
        assert more, found
        found += more
    return found


# -- slow ones -------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("said", [b"", b"GET", b"GET /healthz HTTP/1.1\r\nHost: local"])
def test_who_says_nothing_or_half_of_it_is_cut_off(server: WebServer, said: bytes) -> None:
    with dial(server) as client:
        client.sendall(said)
        assert is_cut(client)


@pytest.mark.usefixtures("impatient")
def test_a_header_by_drops_is_cut_off_too_and_so_is_one_after_an_answer(server: WebServer) -> None:
    for asked in (b"", GET):
        with dial(server) as client:
            client.sendall(asked)
            if asked:
                assert answer_of(client).startswith(b"HTTP/1.1 200")
            assert is_cut_while_it_drips(client)


def is_cut_while_it_drips(client: socket.socket) -> bool:
    """One letter of a header after the other, far longer than there is time for."""
    try:
        for letter in "GET / HTTP/1.1\r\nX: " + "x" * 600:
            client.sendall(letter.encode())
            threading.Event().wait(0.05)
    except OSError:
        return True
    return False


@pytest.mark.usefixtures("impatient")
def test_a_body_by_drops_changes_nothing_and_is_cut_off(server: WebServer, world: World) -> None:
    before = world.store.last_event()
    with dial(server) as client:
        client.sendall(TRIGGER + b"Content-Length: 1000\r\n\r\n{")
        assert is_cut(client)
    assert world.store.last_event() == before


@pytest.mark.usefixtures("impatient")
def test_a_request_in_time_is_answered_and_the_connection_stays(server: WebServer) -> None:
    with dial(server) as client:
        for _ in range(3):
            client.sendall(GET)
            assert answer_of(client).startswith(b"HTTP/1.1 200")
            threading.Event().wait(0.3)


@pytest.mark.usefixtures("impatient")
def test_who_does_not_take_the_answer_is_cut_off(world: World) -> None:
    with served(make_doors(world.store, metrics=lambda gzipped: b"x" * 50_000_000)) as server, dial(server) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.recv(1)
        # It is cut off while nothing is taken: what is left in between is far less than all of it.
        threading.Event().wait(2)
        taken = 1
        try:
            while more := client.recv(1 << 20):
                taken += len(more)
        except ConnectionError:
            pass
        assert taken < 50_000_000


def test_who_takes_a_long_time_for_much_gets_all_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TAKING", 2.0)
    size = 20_000_000
    with served(make_doors(world.store, metrics=lambda gzipped: b"x" * size)) as server, dial(server) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        taken = 0
        while more := client.recv(1 << 18):
            taken += len(more)
            threading.Event().wait(0.01)
        assert taken > size


def test_a_slow_body_holds_up_no_worker(server: WebServer) -> None:
    """Far more of them than there are threads."""
    with ExitStack() as stack:
        for _ in range(100):
            client = stack.enter_context(dial(server))
            client.sendall(TRIGGER + b"Content-Length: 1000\r\n\r\n{")
        with connected(server) as other:
            assert other.get("/api/v1/batches").status_code == 200


# -- many of them ----------------------------------------------------------------------------------------------------
def test_where_all_connections_are_taken_one_that_asks_for_nothing_makes_room(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 20)
    with ExitStack() as stack:
        silent = [stack.enter_context(dial(server)) for _ in range(60)]
        for _ in range(30):
            with connected(server) as client:
                assert client.get("/healthz").status_code == 200
        assert is_cut(silent[0])


def test_health_and_metrics_get_through_however_much_is_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every thread that answers requests hangs in the database."""
    monkeypatch.setattr(guard, "MOST_REQUESTS", 60)
    release, store = threading.Event(), world.store
    hanging = threading.Semaphore(0)

    def hangs(*_: object) -> tuple[()]:
        hanging.release()
        release.wait(120)
        return ()

    monkeypatch.setattr(store, "source_statuses", hangs)
    with served(make_doors(store, health=Health)) as server, ExitStack() as stack:
        for _ in range(60):
            client = stack.enter_context(dial(server))
            client.sendall(b"GET /api/v1/sources HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(40):
            assert hanging.acquire(timeout=60)
        with connected(server) as other:
            wait_for(lambda: is_full(other), "all places taken")
            for path in ("/healthz", "/readyz", "/metrics"):
                assert other.get(path).status_code == 200
            release.set()
            wait_for(lambda: not is_full(other), "room again")


def is_full(client: httpx.Client) -> bool:
    answer = client.get("/api/v1/session")
    if answer.status_code == 503:
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code == 503


def test_a_flood_of_connections_leaves_descriptors_for_the_work() -> None:
    assert connections.MOST_CONNECTIONS <= 700, "of the 1024 that a process usually may have"
