"""Live changes, as those who listen get them: real connections, a real server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from reconciler.core.facts import JobKey
from reconciler.core.status import Phase
from reconciler.web import Access, WebServer, connections, events
from tests.acceptance.workspace import wait_for
from tests.builders import JOB, OTHER_JOB, make_request
from tests.contracts.stores import World
from tests.fakes.clock import RunningClock
from tests.fakes.store import FakeStore
from tests.web.filled import status_of
from tests.web.ports import OPERATES, TOKENS, bearer, connected, make_doors, served

Told = tuple[str, int | None, Any]
"""Event, id, data."""

NETWORK = JobKey("network", "patch-web")


@pytest.fixture
def world() -> World:
    clock = RunningClock()
    return World(FakeStore(clock), clock)


@pytest.fixture
def server(world: World) -> Iterator[WebServer]:
    with served(make_doors(world.store)) as server:
        yield server


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "POLL", 0.02)


class Ear:
    """Somebody who listens."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.iter_lines()

    def next(self) -> Told:
        """The next event; heartbeats are passed over. Raises StopIteration at the end of the stream."""
        kind, number, data = "", None, ""
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "id":
                number = int(value)
            elif name == "data":
                data = value
            elif not line and kind:
                return kind, number, json.loads(data)
        raise StopIteration

    def until(self, last: int) -> list[Told]:
        """Events up to the one with this id."""
        told: list[Told] = []
        while not told or told[-1][1] != last:
            told.append(self.next())
        return told


@contextmanager
def listening(
    server: WebServer, last: int | str | None = None, headers: Mapping[str, str] | None = None, **query: str
) -> Iterator[Ear]:
    given = {**(headers or {}), **({"Last-Event-ID": str(last)} if last is not None else {})}
    with connected(server) as client, client.stream("GET", "/api/v1/events", params=query, headers=given) as answer:
        yield Ear(answer)


def change(world: World, key: JobKey = JOB) -> int:
    """Something happens to a batch. Returns the id of that."""
    number = world.store.last_event()
    world.store.add_request(make_request(f"request-{number}", key=key))
    return world.store.last_event()


def test_who_listens_is_told_what_changes(server: WebServer, world: World) -> None:
    before = change(world)
    with listening(server) as ear:
        assert ear.answer.headers["content-type"].startswith("text/event-stream")
        assert ear.next() == ("hello", before, {"sequence": before})
        number = change(world)
        told = {"source": "default", "name": "patch-web", "run": None, "type": "RequestAdded", "reason": "cancel"}
        assert ear.next() == ("change", number, told)


def test_all_who_listen_are_told_the_same(server: WebServer, world: World) -> None:
    with listening(server) as one, listening(server) as other:
        assert one.next() == other.next()
        last = [change(world) for _ in range(20)][-1]
        assert one.until(last) == other.until(last)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"source": "default"}, [JOB, OTHER_JOB]),
        ({"source": "default", "name": "patch-web"}, [JOB]),
        ({"name": "patch-web"}, [JOB, NETWORK]),
    ],
)
def test_some_batches_may_be_listened_to(
    server: WebServer, world: World, query: dict[str, str], expected: list[JobKey]
) -> None:
    with listening(server, None, None, **query) as ear:
        ear.next()
        for key in (JOB, OTHER_JOB, NETWORK):
            change(world, key)
        for key in expected:
            told = ear.next()[2]
            assert (told["source"], told["name"]) == (key.source, key.name)
        key = expected[0]
        number = change(world, key)
        assert ear.next()[1] == number, "and nothing between"


def test_a_status_that_follows_later_is_told_too(server: WebServer, world: World) -> None:
    world.accept()
    world.store.save_status(JOB, status_of(JOB, Phase.PENDING))
    with listening(server) as ear:
        ear.next()
        number = change(world)
        assert ear.next()[:2] == ("change", number)
        for phase in (Phase.RUNNING, Phase.SUCCEEDED):
            world.store.save_status(JOB, status_of(JOB, phase))
            kind, at, told = ear.next()
            assert (kind, at, told["name"], told["type"]) == ("change", number, "patch-web", "StatusChanged")
        world.store.save_status(JOB, status_of(JOB, Phase.SUCCEEDED))
        after = change(world, OTHER_JOB)
        assert ear.next()[:2] == ("change", after), "nothing for a status that is as it was"


def test_a_status_is_looked_at_only_for_a_while(
    server: WebServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "FOLLOWS", 0.1)
    world.accept()
    asked = counting(world, "status_texts")
    with listening(server) as ear:
        ear.until(change(world))
        wait_for(lambda: settled(asked), "no more looks")
        before = asked()
        ear.until(change(world))
        wait_for(lambda: asked() > before, "looks again")


# -- coming again ----------------------------------------------------------------------------------------------------
def test_who_comes_again_is_told_what_was_missed(server: WebServer, world: World) -> None:
    first = change(world)
    missed = [change(world, key) for key in (JOB, OTHER_JOB, JOB)]
    with listening(server, first) as ear:
        assert ear.next() == ("hello", first, {"sequence": first})
        assert [ear.next()[:2] for _ in missed] == [("change", number) for number in missed]
        assert ear.until(change(world))
    with listening(server, first, name="patch-db") as ear:
        assert [ear.next()[:2] for _ in range(2)] == [("hello", first), ("change", missed[1])]


def test_who_comes_again_while_others_listen_needs_no_database(server: WebServer, world: World) -> None:
    store = world.store
    assert isinstance(store, FakeStore)
    with listening(server) as ear:
        ear.next()
        numbers = [change(world) for _ in range(5)]
        ear.until(numbers[-1])
        store.away = True
        with listening(server, numbers[1]) as other:
            assert other.next()[:2] == ("hello", numbers[1])
            assert [other.next()[1] for _ in range(3)] == numbers[2:]
        store.away = False
        ear.until(change(world))


def test_who_has_missed_nothing_is_told_nothing(server: WebServer, world: World) -> None:
    last = change(world)
    with listening(server, last) as ear:
        assert ear.next() == ("hello", last, {"sequence": last})
        assert ear.next()[2]["type"] == "StatusChanged", "it may have"
        number = change(world)
        assert ear.next()[:2] == ("change", number)


@pytest.mark.parametrize("others", [True, False])
def test_who_comes_again_is_told_of_a_status_that_followed_meanwhile(
    server: WebServer, world: World, others: bool
) -> None:
    """It was away between what happened and the status that followed, which has no number of its own."""
    world.accept()
    world.store.save_status(JOB, status_of(JOB, Phase.RUNNING))
    with ExitStack() as stack:
        if others:
            stack.enter_context(listening(server)).next()
        with listening(server) as ear:
            ear.next()
            number = change(world)
            ear.until(number)
        world.store.save_status(JOB, status_of(JOB, Phase.SUCCEEDED))
        with listening(server, number) as ear:
            assert ear.next()[:2] == ("hello", number)
            assert told_of_status(ear) == (number, "patch-web")
            world.store.save_status(JOB, status_of(JOB, Phase.FAILED))
            assert told_of_status(ear) == (number, "patch-web"), "it is followed on"
        with listening(server, number, name="patch-db") as ear:
            ear.next()
            after = change(world, OTHER_JOB)
            assert ear.next()[:2] == ("change", after), "nothing of other batches"


def told_of_status(ear: Ear) -> tuple[int | None, str]:
    kind, at, told = ear.next()
    assert (kind, told["type"]) == ("change", "StatusChanged")
    return at, told["name"]


@pytest.mark.parametrize("last", [10_000, "no number", "99999999999999999999", "-1"])
def test_who_comes_from_elsewhere_looks_at_all_again(server: WebServer, world: World, last: int | str) -> None:
    number = change(world)
    with listening(server, last) as ear:
        assert [ear.next()[:2] for _ in range(2)] == [("hello", number), ("reset", number)]
        assert ear.until(change(world))


def test_who_has_missed_too_much_looks_at_all_again(
    server: WebServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "AT_ONCE", 5)
    first = change(world)
    last = [change(world) for _ in range(10)][-1]
    with listening(server, first) as ear:
        assert [ear.next()[:2] for _ in range(2)] == [("hello", last), ("reset", last)]


def test_what_was_missed_and_is_removed_already_is_a_reset(server: WebServer, world: World) -> None:
    numbers = [change(world) for _ in range(10)]
    world.store.trim_events(3, world.clock.now().replace(year=2020))
    with listening(server, numbers[0]) as ear:
        assert [ear.next()[0] for _ in range(2)] == ["hello", "reset"]
    with listening(server, numbers[-3]) as ear:
        assert [ear.next()[:2] for _ in range(3)][1:] == [("change", number) for number in numbers[-2:]]


# -- time and trouble ------------------------------------------------------------------------------------------------
def test_silence_is_broken_now_and_then(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.05)
    with connected(server) as client, client.stream("GET", "/api/v1/events") as answer:
        comments = (line for line in answer.iter_lines() if line == ":")
        assert [next(comments), next(comments)] == [":", ":"]


def test_the_database_is_read_only_while_somebody_listens(server: WebServer, world: World) -> None:
    asked = counting(world, "events_after")
    with listening(server) as ear:
        ear.next()
        wait_for(lambda: asked() > 2, "a look at the database")
    change(world)  # so that the server notices soon that nobody takes it
    wait_for(lambda: settled(asked), "no more looks")
    with listening(server) as ear:
        last = world.store.last_event()
        assert ear.next()[:2] == ("hello", last), "it begins anew, where things are now"
        assert ear.until(change(world))


def counting(world: World, name: str) -> Callable[[], int]:
    """How often the store was asked so."""
    real, count = getattr(world.store, name), [0]

    def counted(*arguments: Any) -> Any:
        count[0] += 1
        return real(*arguments)

    setattr(world.store, name, counted)
    return lambda: count[0]


def settled(asked: Callable[[], int]) -> bool:
    before = asked()
    threading.Event().wait(0.2)
    return asked() == before


def test_one_reads_for_all(server: WebServer, world: World) -> None:
    asked = counting(world, "events_after")
    with ExitStack() as stack:
        ears = [stack.enter_context(listening(server)) for _ in range(30)]
        for ear in ears:
            ear.next()
        before = asked()
        number = change(world)
        for ear in ears:
            ear.until(number)
        assert asked() - before < 30


def test_a_database_that_comes_back_is_read_on(
    server: WebServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "AWAY", 0.02)
    store = world.store
    assert isinstance(store, FakeStore)
    asked = counting(world, "events_after")
    with listening(server) as ear:
        ear.next()
        store.away = True
        before = asked()
        wait_for(lambda: asked() > before + 2, "looks in vain")
        store.away = False
        number = change(world)
        assert ear.until(number)


def test_however_much_happens_at_once_who_listens_is_told_all(server: WebServer, world: World) -> None:
    real, held = world.store.events_after, threading.Event()

    def held_back(sequence: int, limit: int = 1000) -> Any:
        return () if held.is_set() else real(sequence, limit)

    setattr(world.store, "events_after", held_back)  # noqa: B010 - of whatever kind it is
    with ExitStack() as stack:
        ears = [stack.enter_context(listening(server)) for _ in range(3)]
        for ear in ears:
            ear.next()
        held.set()
        numbers = [change(world) for _ in range(events.WAITING * 2 - 100)]
        held.clear()
        for ear in ears:
            assert [number for _, number, _ in ear.until(numbers[-1])] == numbers


def test_a_herd_that_comes_at_once_is_no_larger_than_may_listen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a restart, when nobody listens yet and the database is asked where things stand."""
    monkeypatch.setattr(events, "MOST_LISTENERS", 2)
    release, real = threading.Event(), world.store.last_event

    def slowly() -> int:
        release.wait(60)
        return real()

    monkeypatch.setattr(world.store, "last_event", slowly)
    with served(make_doors(world.store)) as server, ExitStack() as stack:
        herd = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60)) for _ in range(6)]
        for each in herd:
            each.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with connected(server) as client:
            assert client.get("/healthz").status_code == 200, "what came before is under way"
        release.set()
        answers = [each.recv(12) for each in herd]
        assert sorted(answers) == [b"HTTP/1.1 200"] * 2 + [b"HTTP/1.1 503"] * 4


def test_two_hundred_listen_and_others_are_answered(world: World) -> None:
    with served(make_doors(world.store)) as server, ExitStack() as stack:
        ears = [stack.enter_context(listening(server)) for _ in range(200)]
        for ear in ears:
            assert ear.next()[0] == "hello"
        with connected(server) as client:
            for path in ("/healthz", "/readyz", "/metrics", "/api/v1/batches"):
                assert client.get(path).status_code == 200
        number = change(world)
        for ear in ears:
            assert ear.next()[:2] == ("change", number)


def test_more_than_may_listen_are_told_to_come_again(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_LISTENERS", 2)
    with listening(server) as one, listening(server) as two:
        one.next(), two.next()
        with connected(server) as client:
            answer = client.get("/api/v1/events")
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert answer.headers["content-type"] == "application/problem+json"
    with connected(server) as client:
        wait_for(lambda: can_listen(client), "room for another")


def can_listen(client: httpx.Client) -> bool:
    with client.stream("GET", "/api/v1/events") as answer:
        return answer.status_code == 200


def test_who_takes_nothing_is_told_no_more_and_holds_up_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "WAITING", 50)
    monkeypatch.setattr(connections, "TAKING", 0.5)
    with served(make_doors(world.store)) as server:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(60)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with listening(server) as quick, slow:
            quick.next()
            for _ in range(400):
                numbers = [change(world, JobKey("default", "a-batch-with-a-long-name" + "x" * 30)) for _ in range(50)]
                quick.until(numbers[-1])
                if gone(slow):
                    break
            assert gone(slow)
            assert quick.until(change(world))


def gone(client: socket.socket) -> bool:
    """Whether the other side has broken the connection off. Nothing is taken from it to find out."""
    try:
        client.sendall(b" ")
    except OSError:
        return True
    return False


# -- who may ---------------------------------------------------------------------------------------------------------
def test_who_has_logged_out_hears_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.1)
    doors = make_doors(world.store, access=Access(TOKENS, loopback=False))
    with served(doors) as server, connected(server) as client:
        client.post("/api/v1/session", json={"token": OPERATES})
        cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in client.cookies.items())}
        with listening(server, headers=cookie) as ear, listening(server, headers=bearer(OPERATES)) as other:
            ear.next(), other.next()
            client.delete("/api/v1/session", headers={"Origin": str(client.base_url)})
            with pytest.raises(StopIteration):
                ear.next()
            assert other.until(change(world))


def test_a_server_that_stops_ends_its_streams(world: World) -> None:
    with served(make_doors(world.store)) as server, listening(server) as ear:
        ear.next()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        with pytest.raises(StopIteration):
            ear.next()
        stopping.join(timeout=30)
        assert not stopping.is_alive()
