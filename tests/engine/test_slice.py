"""The process of one slice: what it does with its claim, what it writes down, and what it leaves to whoever decides."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import ChildStatus, SliceState
from reconciler.core.manifest import Timeouts
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType
from reconciler.engine.slice import Rhythm, SliceProcess
from reconciler.ports import LogLine, PlaybookResult, SliceStore, SliceWork, SpooledLine, StopKind
from tests.acceptance.workspace import wait_for
from tests.builders import outcome
from tests.engine.worlds import World
from tests.fakes.clock import RunningClock
from tests.fakes.runner import FakeRunner
from tests.fakes.store import FakeStore

QUICK = Rhythm(
    lease=timedelta(seconds=1),
    renew=timedelta(seconds=0.02),
    ask=timedelta(seconds=0.01),
    record=timedelta(seconds=0.01),
    leave=timedelta(seconds=0.05),
)


class Line:
    """What is between a process and its store. `cut` are calls that do not arrive the next time, `lost` those that are
    done and whose answer is lost; `silent` get no answer at all, before the line is `mended`."""

    def __init__(self, store: FakeStore) -> None:
        self.cut: set[str] = set()
        self.lost: set[str] = set()
        self.silent: set[str] = set()
        self.mended = threading.Event()
        self.asked: list[str] = []
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Any]:
        do = getattr(self._store, name)

        def call(*given: Any) -> Any:
            self.asked.append(name)
            if name in self.silent:
                self.mended.wait()
                raise Unavailable(Reason.STORE_UNAVAILABLE, "the connection was lost")
            answer = None if name in self.cut else do(*given)
            if name in self.cut | self.lost:
                self.cut.discard(name)
                self.lost.discard(name)
                raise Unavailable(Reason.STORE_UNAVAILABLE, "the connection was lost")
            return answer

        return call


class Spool:
    """In memory; in order. `full`: as on a disk that is."""

    def __init__(self) -> None:
        self.full = False
        self.lines: list[SpooledLine] = []
        self.results: list[PlaybookResult] = []

    def line(self, line: SpooledLine) -> None:
        self._room()
        self.lines.append(line)

    def result(self, result: PlaybookResult) -> None:
        self._room()
        self.results.append(result)

    def _room(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")


class Bench:
    """A run whose first wave is about to begin, and the process of its slice in a thread."""

    def __init__(self, folder: Path, limit: int = 5) -> None:
        self.world = World(hosts=2, clock=RunningClock())
        self.world.commit(limit=limit)
        self.world.look()
        self.slice_id, self.fence = self.world.the_process()
        self.runner, self.spool = FakeRunner(), Spool()
        self.line = Line(self.world.store)
        self.folder = folder
        self.wave = timedelta(hours=2)
        self.max_log_bytes = 10 << 20
        self.recorded: bool | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        def timeouts(work: SliceWork) -> Timeouts:
            steering: Timeouts = self.line.manifest(work.key).spec.timeouts
            return steering.model_copy(update={"wave": self.wave})

        process = SliceProcess(
            cast(SliceStore, self.line),
            lambda _: self.runner,
            self.spool,
            self.world.clock,
            lambda *_: self.folder,
            QUICK,
            timeouts,
            max_log_bytes=self.max_log_bytes,
        )
        self.recorded = process.run(self.slice_id, self.fence, "worker-1", "here", self.folder / "ansible")

    def start(self) -> None:
        self._thread.start()

    def under_way(self) -> None:
        self.start()
        wait_for(self.runner.running.is_set, "the playbook")

    def ended(self) -> bool:
        """Whether it brought everything to the store, or left it as it was."""
        self._thread.join(30)
        assert self.recorded is not None
        return self.recorded

    def close(self) -> None:
        self.world.store.away = False
        self.line.mended.set()
        self.runner.end.set()
        if self._thread.ident is not None:
            self._thread.join(30)

    @property
    def state(self) -> SliceState:
        (part,) = self.world.run().slices
        return part.state


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_it_runs_its_hosts_and_records_what_became_of_them(bench: Bench) -> None:
    bench.runner.lines = (LogLine(None, "PLAY [all]"), LogLine("web-1", "ok: [web-1]"))
    bench.under_way()
    assert bench.world.statuses() == {"web-1": ChildStatus.RUNNING, "web-2": ChildStatus.RUNNING}
    bench.runner.end.set()
    assert bench.ended()
    assert (bench.state, set(bench.world.statuses().values())) == (SliceState.FINISHED, {ChildStatus.SUCCESS})
    assert [line.text for line in bench.world.store.log(bench.world.run().job_id, "web-1", None, 0)] == ["ok: [web-1]"]
    assert [(line.sequence, line.text) for line in bench.spool.lines] == [(1, "PLAY [all]"), (2, "ok: [web-1]")]
    assert len(bench.spool.results) == 1
    assert [work.hosts for work in bench.runner.works] == [("web-1", "web-2")]


def test_log_lines_reach_the_store_while_it_runs(bench: Bench) -> None:
    bench.runner.lines = (LogLine("web-1", "ok: [web-1]"),)
    bench.under_way()
    run = bench.world.run().job_id
    wait_for(lambda: bench.world.store.log(run, "web-1", None, 0), "the line")


def test_what_somebody_else_has_claimed_it_leaves_alone(bench: Bench) -> None:
    bench.world.claim(bench.slice_id, bench.fence)
    bench.start()
    assert not bench.ended()
    assert bench.runner.works == []
    assert bench.state is SliceState.CLAIMED


def test_what_can_not_be_prepared_is_given_back_and_touched_no_host(bench: Bench) -> None:
    bench.runner.error = Unavailable(Reason.ANSIBLE_MISSING, "there is no ansible-playbook")
    bench.start()
    assert not bench.ended()
    assert bench.state is SliceState.PLANNED
    assert bench.world.reasons()["web-1"] is Reason.EXECUTOR_UNAVAILABLE
    assert "there is no ansible-playbook" in bench.world.child("web-1").message


def test_what_somebody_must_change_ends_its_run_and_frees_its_hosts(bench: Bench) -> None:
    """To try it again and again would keep the hosts from every other batch."""
    bench.runner.error = Refused(Reason.SETTINGS_INVALID, "there is no file id_rsa", "see ansible.private_key_file")
    bench.start()
    assert bench.ended()
    assert bench.state is SliceState.FINISHED
    bench.world.look()
    assert set(bench.world.statuses().values()) == {ChildStatus.ABORTED}
    assert bench.world.reasons()["web-1"] is Reason.SETTINGS_INVALID
    stalled = next(c for c in bench.world.said().conditions if c.type is ConditionType.STALLED)
    assert (stalled.reason, stalled.message) == (
        "SettingsInvalid",
        "there is no file id_rsa (see ansible.private_key_file)",
    )
    assert bench.world.store.open_slices() == ()


def test_who_was_to_come_after_what_could_not_be_run_is_skipped_for_the_same_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limit=1)
    bench.runner.error = Refused(Reason.SETTINGS_INVALID, "there is no file id_rsa")
    bench.start()
    assert bench.ended()
    bench.world.look()
    assert set(bench.world.reasons().values()) == {Reason.SETTINGS_INVALID}
    assert set(bench.world.statuses().values()) == {ChildStatus.ABORTED, ChildStatus.SKIPPED}


def test_a_full_disk_costs_the_spool_and_not_the_playbook(bench: Bench) -> None:
    bench.spool.full = True
    bench.runner.lines = (LogLine("web-1", "ok: [web-1]"),)
    bench.under_way()
    bench.runner.end.set()
    assert bench.ended()
    assert set(bench.world.statuses().values()) == {ChildStatus.SUCCESS}
    assert [line.text for line in bench.world.store.log(bench.world.run().job_id, "web-1", None, 0)] == ["ok: [web-1]"]


def test_a_cancel_reaches_it_without_a_daemon(bench: Bench) -> None:
    bench.under_way()
    bench.world.cancel()
    assert bench.ended()
    assert bench.runner.told is StopKind.CANCEL
    assert (bench.state, set(bench.world.statuses().values())) == (SliceState.CANCELLED, {ChildStatus.CANCELLED})


def test_its_lease_lasts_as_long_as_it_runs(bench: Bench) -> None:
    bench.under_way()
    first = bench.world.run().slices[0].lease_expires_at
    assert first is not None
    wait_for(lambda: (bench.world.run().slices[0].lease_expires_at or first) > first + QUICK.lease, "renewals")
    bench.runner.end.set()
    assert bench.ended()
    assert bench.runner.told is None


def test_one_over_which_somebody_else_decided_stops_and_writes_nothing_more(bench: Bench) -> None:
    bench.under_way()
    bench.world.store.lose(bench.slice_id, bench.fence, None)
    seen = bench.world.store.last_event()
    assert not bench.ended()
    assert bench.runner.told is StopKind.LOST
    assert set(bench.world.reasons().values()) == {Reason.SLICE_LOST}
    assert bench.world.store.last_event() == seen


def test_a_store_that_is_away_for_a_moment_costs_nothing(bench: Bench) -> None:
    bench.runner.lines = (LogLine("web-1", "ok: [web-1]"),)
    bench.under_way()
    bench.world.store.away = True
    bench.runner.end.set()
    wait_for(lambda: bench.spool.results, "the result in the spool")
    bench.world.store.away = False
    assert bench.ended()
    assert set(bench.world.statuses().values()) == {ChildStatus.SUCCESS}
    assert len(bench.world.store.log(bench.world.run().job_id, "web-1", None, 0)) == 1


def test_without_a_store_for_longer_than_its_lease_it_ends_what_it_runs(bench: Bench) -> None:
    bench.under_way()
    bench.world.store.away = True
    recorded = bench.ended()
    assert bench.runner.told is StopKind.LOST
    assert not recorded, "the spool must stay: nobody has read it yet"


def test_what_ended_while_the_store_was_away_too_long_is_left_in_the_spool(bench: Bench) -> None:
    """Whoever decides then reads it: so it must not be tidied up as if it had been recorded."""
    bench.under_way()
    bench.world.store.away = True
    bench.runner.end.set()
    recorded = bench.ended()
    assert len(bench.spool.results) == 1
    bench.world.store.away = False
    assert bench.state is SliceState.STARTED
    assert not recorded


def test_a_wave_that_takes_too_long_is_ended(bench: Bench) -> None:
    bench.wave = timedelta(seconds=0.05)
    bench.under_way()
    assert bench.ended()
    assert bench.runner.told is StopKind.DEADLINE
    assert bench.state is SliceState.FINISHED


# -- a database that is away, or answers nobody ----------------------------------------------------------------------
def test_a_lease_whose_renewal_gets_no_answer_is_over_for_whoever_follows_the_playbook(bench: Bench) -> None:
    """The thread that renews it waits for ever inside the database; nobody may wait for that thread."""
    bench.line.silent = {"heartbeat", "stop_requested"}
    bench.under_way()
    assert not bench.ended()
    assert bench.runner.told is StopKind.LOST
    assert bench.state is SliceState.STARTED


@pytest.mark.parametrize("asked", ["claim", "manifest", "mark_started", "append_logs", "finish"])
def test_a_store_that_is_away_is_asked_again(bench: Bench, asked: str) -> None:
    bench.line.cut = {asked}
    bench.runner.lines = (LogLine("web-1", "ok: [web-1]"),)
    bench.runner.end.set()
    bench.start()
    assert bench.ended()
    assert bench.line.asked.count(asked) > 1
    assert set(bench.world.statuses().values()) == {ChildStatus.SUCCESS}
    assert len(bench.runner.works) == 1


def test_a_start_whose_answer_was_lost_is_begun_once(bench: Bench) -> None:
    bench.line.lost = {"mark_started"}
    bench.runner.end.set()
    bench.start()
    assert bench.ended()
    assert bench.line.asked.count("mark_started") == 2
    assert set(bench.world.statuses().values()) == {ChildStatus.SUCCESS}


def test_an_end_whose_answer_was_lost_counts_as_recorded(bench: Bench) -> None:
    bench.line.lost = {"finish"}
    bench.runner.end.set()
    bench.start()
    assert bench.ended()
    assert bench.world.store.metrics().counters["children_finished_total"]["success",] == 2


def test_what_may_not_begin_for_too_long_touched_no_host_and_is_begun_by_the_next(bench: Bench) -> None:
    bench.runner.prepared = lambda: setattr(bench.world.store, "away", True)
    bench.start()
    assert not bench.ended()
    assert not bench.runner.running.is_set()
    bench.world.store.away = False
    assert bench.state is SliceState.CLAIMED
    bench.world.executor.end(bench.slice_id)
    bench.world.look()
    (part,) = bench.world.run().slices
    assert (part.state, part.fence) == (SliceState.PLANNED, 2)


def test_told_to_stop_between_its_claim_and_its_start_it_ends_without_a_daemon(bench: Bench) -> None:
    bench.runner.prepared = bench.world.cancel
    bench.start()
    bench.ended()
    assert not bench.runner.running.is_set()
    assert (bench.state, set(bench.world.statuses().values())) == (SliceState.CANCELLED, {ChildStatus.SKIPPED})


def test_many_lines_of_an_outage_come_in_order_and_none_is_missing(bench: Bench) -> None:
    bench.runner.lines = tuple(LogLine("web-1", f"line {number}") for number in range(5000))
    bench.line.lost = {"append_logs"}
    bench.under_way()
    bench.runner.end.set()
    assert bench.ended()
    log = bench.world.store.log(bench.world.run().job_id, "web-1", None, 0)
    assert [line.text for line in log] == [f"line {number}" for number in range(5000)]


# -- what is left behind ---------------------------------------------------------------------------------------------
def test_what_was_proven_before_the_lease_was_lost_is_in_the_spool_and_nothing_else(bench: Bench) -> None:
    bench.runner.proven = (outcome("web-2", ChildStatus.FAILED),)
    bench.under_way()
    bench.world.store.away = True
    assert not bench.ended()
    (result,) = bench.spool.results
    assert result.outcomes == (outcome("web-2", ChildStatus.FAILED),)


def test_while_a_process_can_not_be_ended_its_hosts_are_not_freed(bench: Bench) -> None:
    bench.runner.unended = True
    bench.runner.end.set()
    bench.start()
    assert not bench.ended()
    assert bench.state is SliceState.STARTED
    (result,) = bench.spool.results
    assert result.unended
    assert {found.status for found in result.outcomes} == {ChildStatus.SUCCESS}


# -- logs ------------------------------------------------------------------------------------------------------------
def test_a_log_that_is_too_long_keeps_its_beginning_and_its_end_in_store_and_spool(bench: Bench) -> None:
    bench.max_log_bytes = 64 << 10
    bench.runner.lines = tuple(LogLine("web-1", f"{number:06} {'x' * 100}") for number in range(100_000))
    bench.under_way()
    bench.runner.end.set()
    assert bench.ended()
    log = [line.text for line in bench.world.store.log(bench.world.run().job_id, "web-1", None, 0)]
    assert sum(len(text) for text in log) < bench.max_log_bytes
    assert sum(len(line.text) for line in bench.spool.lines) < bench.max_log_bytes
    assert (log[0][:6], log[-1][:6]) == ("000000", "099999")
    (mark,) = [text for text in log if "left out" in text]
    assert mark.startswith("… 99,")
