"""What holds where several write at once: on PostgreSQL and MariaDB, many processes are in the middle of a transaction
together, and none may wait for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import Engine, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from reconciler.adapters.store import SqlStore
from reconciler.adapters.store.engines import Patience, connect, read_url
from reconciler.adapters.store.failures import AGAIN, named_failures
from reconciler.adapters.store.tables import causes, counters, events
from reconciler.core.errors import Unavailable
from reconciler.core.facts import ChildStatus, JobKey, RunStatus, SliceId, Stop
from reconciler.core.reasons import Reason
from reconciler.ports import LEADER, Admitted
from tests import databases
from tests.builders import JOB, all_succeeded, hosts, make_request, make_wave, manifest_record, new_cause
from tests.contracts.stores import LEASE, World, line
from tests.fakes.clock import FakeClock

TERM = timedelta(seconds=10)
SHORT = Patience(statement=1, lock=1, idle=1)


@pytest.fixture(scope="module", params=databases.SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if reason := databases.why_no(request.param):
        pytest.skip(reason)
    with databases.migrated_database(request.param, tmp_path_factory.mktemp("servers")) as url:
        yield url


@pytest.fixture
def url(server: str) -> str:
    databases.empty(server)
    return server


@pytest.fixture
def world(url: str) -> Iterator[World]:
    clock = FakeClock()
    store = SqlStore(url, clock)
    yield World(store, clock)
    store.close()


@pytest.fixture
def impatient(url: str) -> Iterator[Engine]:
    engine = connect(read_url(url), SHORT)
    yield engine
    engine.dispose()


def leading(world: World) -> World:
    """As the daemon that leads sees it."""
    fence = world.store.take_lease(LEADER, "one", world.store.lease(LEADER), TERM)
    assert fence is not None
    assert isinstance(world.store, SqlStore)
    return World(world.store.fenced(fence), world.clock)


def at_once(count: int, what: Callable[[int], object]) -> list[object]:
    """What each of so many threads gave that began together."""
    begin = threading.Barrier(count)

    def one(number: int) -> object:
        begin.wait(timeout=60)
        return what(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


# -- what a transaction sees -----------------------------------------------------------------------------------------
def test_a_reader_sees_one_state_of_everything(world: World) -> None:
    assert isinstance(world.store, SqlStore)
    with world.store.read() as connection:
        assert connection.scalar(select(func.count()).select_from(causes)) == 0
        world.store.add_causes([new_cause()])
        assert connection.scalar(select(func.count()).select_from(causes)) == 0
        assert connection.scalar(select(func.count()).select_from(events)) == 0

    assert len(world.store.observe(JOB).causes) == 1


def test_a_writer_sees_what_others_have_committed_meanwhile(world: World) -> None:
    assert isinstance(world.store, SqlStore)
    with world.store.write() as connection:
        assert connection.scalar(select(func.count()).select_from(causes)) == 0
        world.store.add_causes([new_cause()])
        assert connection.scalar(select(func.count()).select_from(causes)) == 1


def test_whoever_said_to_read_can_not_write(world: World) -> None:
    assert isinstance(world.store, SqlStore)
    with pytest.raises(Exception, match=r"(?i)read.only"), world.store.read() as connection:
        connection.execute(insert(counters), {"name": "n", "labels": "", "value": 1.0})


def test_what_does_not_fit_is_an_error_and_never_cut(world: World) -> None:
    assert isinstance(world.store, SqlStore)
    with pytest.raises(DBAPIError, match=r"(?i)too long"), world.store.write() as connection:
        connection.execute(insert(counters), {"name": "n" * 64, "labels": "", "value": 1.0})


# -- decisions of several at once ------------------------------------------------------------------------------------
def test_of_many_one_claims_a_slice_and_one_ends_it(world: World) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")

    claimed = at_once(8, lambda number: world.store.claim(slice_id, 1, f"worker-{number}", LEASE, "here"))
    assert sum(work is not None for work in claimed) == 1
    assert at_once(8, lambda _: world.store.mark_started(slice_id, 1)) == [True] * 8, (
        "it is one process that asks again"
    )
    assert all(at_once(8, lambda _: world.store.finish(slice_id, 1, all_succeeded(["web-1"]))))

    assert world.counter("children_finished_total", "success") == 1
    assert world.events().count("SliceStarted") == world.events().count("SliceFinished") == 1


def test_slices_that_start_and_end_together_begin_their_run_and_end_their_wave_once(world: World) -> None:
    names = [f"web-{number}" for number in range(1, 7)]
    run = world.open_run(hosts(*names))
    slices = [part.id for part in world.admit(run, *([name] for name in names)).slices]
    for slice_id in slices:
        assert world.claim(slice_id) is not None

    assert all(at_once(6, lambda number: world.store.mark_started(slices[number], 1)))
    assert all(at_once(6, lambda number: world.store.finish(slices[number], 1, all_succeeded([names[number]]))))

    assert world.counter("pickup_seconds_count") == 1
    assert world.counter("wave_duration_seconds_count") == 1
    assert world.counter("children_finished_total", "success") == 6


def test_a_slice_that_is_told_to_stop_while_it_is_given_back_ends(world: World) -> None:
    """Planned again and told to stop, nobody would ever withdraw it."""
    for number in range(5):
        run = world.open_run(hosts(f"web-{number}"), cause=str(number))
        slice_id = world.admit_one(run, f"web-{number}")
        assert world.claim(slice_id) is not None

        stop = partial(world.store.stop_slices, run, Stop(Reason.CANCELLED))
        give_back = partial(world.store.give_back, slice_id, 1, Reason.EXECUTOR_UNAVAILABLE, "no")
        at_once(2, lambda which, do=(stop, give_back): do[which]())  # type: ignore[misc]

        assert not world.slice(slice_id).state.open or world.slice(slice_id).fence == 1
        world.store.requeue(slice_id, 1, world.clock.now(), "it is gone")
        assert world.statuses()[f"web-{number}"] is ChildStatus.SKIPPED
        assert world.store.finish_run(run, RunStatus.CANCELLED, Reason.CANCELLED, "")


def test_waves_of_the_leader_never_take_more_slots_than_there_are(world: World) -> None:
    leader = leading(world)
    keys = [JobKey("default", f"job-{number}") for number in range(8)]
    runs = [leader.open_run(hosts(f"{key.name}-a", f"{key.name}-b"), key=key) for key in keys]
    waves = [make_wave(run, [f"{key.name}-a", f"{key.name}-b"]) for run, key in zip(runs, keys, strict=True)]

    answers = at_once(8, lambda number: leader.store.admit(waves[number], 6))

    assert 1 <= answers.count(Admitted()) <= 3
    assert world.store.metrics().running == 2 * answers.count(Admitted())


def test_a_lease_is_never_taken_under_the_hands_of_who_writes_by_it(world: World) -> None:
    leader = leading(world)
    seen = world.store.lease(LEADER)
    assert isinstance(leader.store, SqlStore)

    with ThreadPoolExecutor(1) as pool:
        with leader.store.write() as connection:
            connection.execute(insert(counters), {"name": "n", "labels": "", "value": 1.0})
            taking = pool.submit(world.store.take_lease, LEADER, "two", seen, TERM)
            with pytest.raises(TimeoutError):
                taking.result(timeout=0.5)
        assert taking.result(timeout=60) == 2

    with pytest.raises(Unavailable) as refused:
        leader.store.add_causes([new_cause()])
    assert refused.value.reason is Reason.NOT_LEADING


# -- events ----------------------------------------------------------------------------------------------------------
def test_whoever_reads_on_misses_no_event_however_many_write(world: World) -> None:
    each, writers = 15, 6
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        last = False
        while not last:
            last = done.is_set()  # what was committed before is read once more
            seen.extend(event.sequence for event in world.store.events_after(seen[-1] if seen else 0))

    def write(number: int) -> None:
        for cause in range(each):
            key = JobKey("default", f"job-{number}")
            world.store.save_manifests([manifest_record(key)], [new_cause(str(cause), key=key)])

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            at_once(writers, write)
        finally:
            done.set()
        reading.result(timeout=60)

    assert seen == list(range(1, 2 * each * writers + 1))
    assert world.store.last_event() == seen[-1]


# -- nobody waits for ever -------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_nobody_waits_in_a_circle(world: World, url: str) -> None:
    """The daemon and the processes of its slices, all at the rows of a few runs: a deadlock would be Unavailable."""
    leader = leading(world)
    ended = threading.Event()

    def process(slice_id: SliceId, name: str) -> None:
        own = SqlStore(url, world.clock)
        if own.claim(slice_id, 1, name, LEASE, "here") is not None:
            if own.mark_started(slice_id, 1):
                for number in range(5):
                    own.append_logs(slice_id, 1, [line(2 * number, "of it", name), line(2 * number + 1, "of the run")])
                    own.heartbeat(slice_id, 1, LEASE)
                own.finish(slice_id, 1, all_succeeded([name]))
            else:
                own.give_back(slice_id, 1, Reason.EXECUTOR_UNAVAILABLE, "it was told to stop before it began")
        own.close()

    def daemon(number: int) -> None:
        key = JobKey("default", f"job-{number}")
        for round_ in range(2):
            names = [f"{key.name}-{letter}" for letter in "abcd"]
            run = leader.open_run(hosts(*names), key=key, cause=str(round_))
            slices = [part.id for part in leader.admit(run, *([name] for name in names)).slices]
            with ThreadPoolExecutor(4) as pool:
                working = [pool.submit(process, *each) for each in zip(slices, names, strict=True)]
                request = make_request(f"{run}-cancel", key=key, run=run)
                if round_ == 1:
                    world.store.add_request(request)
                    leader.store.accept_cancel(request, Stop(Reason.CANCELLED))
                    leader.store.stop_slices(run, Stop(Reason.CANCELLED))
                for each in working:
                    each.result(timeout=60)
            assert not any(part.state.open for part in leader.run(key).slices)
            leader.store.skip(run, names, Reason.CANCELLED, "")
            assert leader.store.finish_run(run, RunStatus.CANCELLED, Reason.CANCELLED, "")

    def renew() -> None:
        while not ended.is_set():
            assert world.store.renew_lease(LEADER, 1, TERM)

    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(renew)
        try:
            at_once(4, daemon)
        finally:
            ended.set()
        renewing.result(timeout=60)


def test_a_circle_is_broken_and_whoever_lost_tries_again(url: str, impatient: Engine) -> None:
    patient = connect(read_url(url), Patience(statement=30, lock=30, idle=30))
    with patient.begin() as connection:
        connection.execute(insert(counters), [{"name": name, "labels": "", "value": 0.0} for name in ("a", "b")])
    held = threading.Barrier(2)

    def take(number: int) -> str:
        first, second = ("a", "b") if number else ("b", "a")
        try:
            with named_failures(), patient.begin() as connection:
                connection.execute(update(counters).where(counters.c.name == first).values(value=1))
                held.wait(timeout=60)
                connection.execute(update(counters).where(counters.c.name == second).values(value=1))
        except Unavailable as error:
            return error.hint
        return "won"

    assert set(at_once(2, take)) == {"won", AGAIN}
    patient.dispose()


def test_a_row_that_stays_held_is_unavailable_after_a_while(world: World, impatient: Engine) -> None:
    world.store.save_manifests([manifest_record()], ())
    assert isinstance(world.store, SqlStore)
    with world.store.write() as connection:
        connection.execute(text("UPDATE manifests SET generation = 2"))

        with pytest.raises(Unavailable) as away, named_failures(), impatient.begin() as other:
            other.execute(text("UPDATE manifests SET generation = 3"))

    assert away.value.hint == AGAIN
    record = world.store.manifest(JOB)
    assert record is not None
    assert record.generation == 2


def test_a_statement_that_takes_too_long_is_ended_and_the_next_works(url: str, impatient: Engine) -> None:
    sleep = "pg_sleep" if "postgresql" in url else "sleep"
    with pytest.raises(Unavailable) as away, named_failures(), impatient.begin() as connection:
        connection.execute(text(f"SELECT {sleep}(30) FROM leases UNION ALL SELECT {sleep}(30) FROM sequences"))
    assert away.value.hint == AGAIN

    with impatient.begin() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_who_sleeps_in_the_middle_of_a_transaction_is_ended_by_the_server(url: str, impatient: Engine) -> None:
    """So that a daemon that was stopped for a while does not keep a standby from leading."""
    other = connect(read_url(url))
    with other.begin() as connection:
        connection.execute(insert(counters), {"name": "n", "labels": "", "value": 0.0})

    def sleep() -> None:
        with named_failures(), impatient.begin() as sleeping:
            sleeping.execute(update(counters).values(value=1))
            with other.begin() as connection:  # waits until the row is free
                connection.execute(update(counters).values(value=2))
            sleeping.execute(update(counters).values(value=3))

    with pytest.raises(Unavailable, match="does not answer"):
        sleep()
    with impatient.begin() as connection:
        assert connection.scalar(select(counters.c.value)) == 2
    other.dispose()
