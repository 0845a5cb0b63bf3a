"""Clients who are slow, or many: nobody holds anything for ever, and health gets through."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from reconciler.web import Health, Hook, WebServer, connections, guard
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
    """Far longer than there is time to take something; so much is left all the while that there is never little of it."""
    monkeypatch.setattr(connections, "TAKING", 3.0)
    size, at_once = 60_000_000, 2_000_000
    with served(make_doors(world.store, metrics=lambda gzipped: b"x" * size)) as server, dial(server) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        taken = 0
        while more := client.recv(at_once, socket.MSG_WAITALL):
            taken += len(more)
            threading.Event().wait(0.2)
        assert taken > size


def test_a_slow_body_holds_up_no_worker(server: WebServer) -> None:
    """Far more of them than there are threads."""
    with ExitStack() as stack:
        for _ in range(100):
            client = stack.enter_context(dial(server))
            client.sendall(TRIGGER + b"Content-Length: 1000\r\n\r\n{")
        with connected(server) as other:
            assert other.get("/api/v1/batches").status_code == 200


HOOK = b"POST /hooks/git/default HTTP/1.1\r\nHost: localhost\r\nX-Gitlab-Token: secret\r\nContent-Length: 100\r\n\r\n{"
LOGIN = b"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"


@pytest.fixture
def hooked(world: World) -> Iterator[WebServer]:
    """With a source that a webhook may poke."""
    with served(make_doors(world.store, hooks={"default": Hook(b"secret", lambda: True)})) as server:
        yield server


def is_accepted(client: socket.socket) -> bool:
    """Once the rest of the webhook is said."""
    try:
        client.sendall(b" " * 98 + b"}")
        return client.recv(65536).startswith(b"HTTP/1.1 202")
    except ConnectionError:
        return False


def test_only_a_webhook_has_long_for_its_body(hooked: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SAYING", 0.5)
    with dial(hooked) as webhook, dial(hooked) as login:
        webhook.sendall(HOOK)
        login.sendall(LOGIN)
        assert is_cut(login)
        assert is_accepted(webhook)


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


def test_half_of_many_requests_shuts_nobody_out(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging in needs no token, so anybody can begin to."""
    monkeypatch.setattr(guard, "MOST_REQUESTS", 20)
    plan = LOGIN.replace(b"session", b"plan?source=default")
    with ExitStack() as stack:
        for said in (LOGIN, plan) * 20:
            stack.enter_context(dial(server)).sendall(said)
        with connected(server) as client:
            for _ in range(5):
                assert client.get("/api/v1/batches").status_code == 200
            assert client.post("/api/v1/session", json={"token": OPERATES}).status_code == 204


def test_where_all_connections_are_taken_by_half_webhooks_one_of_them_makes_room(
    hooked: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 20)
    with ExitStack() as stack:
        slow = [stack.enter_context(dial(hooked)) for _ in range(20)]
        for each in slow:
            each.sendall(HOOK)
        for _ in range(10):
            with connected(hooked) as client:
                assert client.get("/healthz").status_code == 200
        assert is_cut(slow[0])


def test_of_too_many_bodies_the_oldest_of_who_begins_most_ends(
    hooked: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_BODIES", 10)
    there = ("127.0.0.1", hooked.port)
    with ExitStack() as stack:
        other = stack.enter_context(socket.create_connection(there, timeout=60, source_address=("127.0.0.2", 0)))
        other.sendall(HOOK)
        many = []
        for _ in range(20):
            many.append(stack.enter_context(dial(hooked)))
            many[-1].sendall(HOOK)
        for each in many[:11]:
            assert is_cut(each)
        assert is_accepted(other)
        assert all(map(is_accepted, many[11:]))


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
