"""The promises of an executor: one process for a slice, the truth about whether it lives, and no trace of it once it
is ended. Told to the one that starts processes on this machine, and to the fake of the engine tests."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from reconciler.adapters import local, processes
from reconciler.adapters.local import LocalExecutor, SliceFolder
from reconciler.core.errors import Unavailable
from reconciler.core.facts import SliceId
from reconciler.core.reasons import Reason
from reconciler.ports import Liveness
from tests.acceptance.workspace import PATIENCE, wait_for
from tests.contracts.executors import FakeMachine, LocalMachine, Machine, Story

OTHER = SliceId("batch-1.w2.a1.cafe")


@pytest.fixture
def slice_id(tmp_path: Path) -> SliceId:
    """Another in each test: the mark is looked for on the whole machine."""
    return SliceId(f"batch-{tmp_path.parent.name}-{tmp_path.name}.w1.a1.beef")


@pytest.fixture(params=["memory", "local"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    if request.param == "memory":
        yield FakeMachine()
        return
    there = LocalMachine(tmp_path)
    yield there
    there.close()


# -- starting --------------------------------------------------------------------------------------------------------
def test_a_slice_that_was_started_lives(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 1)
    assert machine.executor.liveness(slice_id, 1) is Liveness.ALIVE
    assert machine.running(slice_id, 1) == 1


def test_one_that_is_only_on_its_way_lives_too(machine: Machine, slice_id: SliceId) -> None:
    machine.executor.start(slice_id, 1)
    assert machine.executor.liveness(slice_id, 1) is Liveness.ALIVE


def test_starting_it_twice_starts_one(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 1)
    machine.executor.start(slice_id, 1)
    assert machine.begun(slice_id) == 1
    assert machine.running(slice_id, 1) == 1


def test_starting_it_again_after_its_end_is_for_the_next_fence(machine: Machine, slice_id: SliceId) -> None:
    """The claim at this fence had its chance: whoever wants another raises the fence first."""
    machine.run(slice_id, 1)
    machine.crash(slice_id, 1)
    machine.executor.start(slice_id, 1)
    assert machine.executor.liveness(slice_id, 1) is Liveness.GONE
    machine.executor.start(slice_id, 2)
    assert machine.executor.liveness(slice_id, 2) is Liveness.ALIVE
    wait_for(lambda: machine.begun(slice_id) == 2, "the second process")


def test_slices_live_and_end_each_for_itself(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 1)
    machine.run(OTHER, 1)
    machine.executor.kill(OTHER, 1)
    assert machine.executor.liveness(slice_id, 1) is Liveness.ALIVE
    assert machine.executor.liveness(OTHER, 1) is Liveness.GONE


# -- living and dying ------------------------------------------------------------------------------------------------
def test_of_a_slice_that_nobody_started_nothing_is_known(machine: Machine, slice_id: SliceId) -> None:
    assert machine.executor.liveness(slice_id, 1) is Liveness.ABSENT


def test_one_whose_process_ended_is_gone_and_somebody_is_told(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 1)
    assert machine.ended == []
    machine.crash(slice_id, 1)
    assert machine.executor.liveness(slice_id, 1) is Liveness.GONE
    assert machine.ended == [slice_id]


def test_a_daemon_that_starts_anew_finds_the_slice_alive(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 1)
    machine.restart()
    assert machine.executor.liveness(slice_id, 1) is Liveness.ALIVE


def test_a_daemon_that_starts_anew_knows_nothing_of_one_that_ended_before(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 1)
    machine.crash(slice_id, 1)
    machine.restart()
    assert machine.executor.liveness(slice_id, 1) is Liveness.ABSENT


# -- killing ---------------------------------------------------------------------------------------------------------
def test_killing_ends_everything_it_started(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 1, Story(with_grandchildren=True))
    assert machine.executor.kill(slice_id, 1) is Liveness.GONE
    assert machine.running(slice_id, 1) == 0
    wait_for(lambda: machine.executor.liveness(slice_id, 1) is Liveness.GONE, "the end to be noticed")


def test_killing_ends_what_outlived_the_process_of_the_slice(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 1, Story(with_grandchildren=True))
    machine.crash(slice_id, 1)
    assert machine.executor.kill(slice_id, 1) is Liveness.GONE
    assert machine.running(slice_id, 1) == 0


def test_a_daemon_that_starts_anew_ends_what_an_earlier_one_started(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 1, Story(with_grandchildren=True))
    machine.restart()
    assert machine.executor.kill(slice_id, 1) is Liveness.GONE
    assert machine.running(slice_id, 1) == 0


def test_killing_at_an_earlier_fence_leaves_the_slice_alone(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 2)
    assert machine.executor.kill(slice_id, 1) is Liveness.GONE
    assert machine.running(slice_id, 2) == 1
    assert machine.executor.liveness(slice_id, 2) is Liveness.ALIVE


def test_killing_one_that_nobody_started_is_no_harm(machine: Machine, slice_id: SliceId) -> None:
    assert machine.executor.kill(slice_id, 1) is Liveness.GONE


def test_one_that_an_earlier_daemon_started_and_that_got_the_slice_first_lives(
    machine: Machine, slice_id: SliceId
) -> None:
    """The earlier daemon was killed before that process had taken the slice, so the next one starts another, which
    finds the slice taken and ends."""
    machine.run(slice_id, 1)
    machine.restart()
    machine.executor.start(slice_id, 1)
    machine.wait_for_the_second(slice_id)
    assert machine.executor.liveness(slice_id, 1) is Liveness.ALIVE
    assert machine.running(slice_id, 1) == 1


# -- what it left ----------------------------------------------------------------------------------------------------
def test_a_process_that_wrote_nothing_left_nothing_that_is_proven(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 1)
    machine.executor.kill(slice_id, 1)
    spool = machine.executor.recover(slice_id)
    assert spool is None or (spool.logs, spool.result) == ((), None)


def test_of_a_slice_that_nobody_started_there_is_nothing_to_recover(machine: Machine, slice_id: SliceId) -> None:
    assert machine.executor.recover(slice_id) is None


def test_lines_are_there_and_the_one_that_was_cut_off_is_not(machine: Machine, slice_id: SliceId) -> None:
    story = Story(lines=("TASK [Install]", "ok: [web-1]"), half_a_line=True)
    machine.run(slice_id, 1, story)
    machine.crash(slice_id, 1)
    assert machine.executor.recover(slice_id) == story.spool


def test_the_result_is_there_though_nobody_recorded_it(machine: Machine, slice_id: SliceId) -> None:
    story = Story(lines=("ok: [web-1]",), result_of=("web-1", "web-2"))
    machine.run(slice_id, 1, story)
    machine.crash(slice_id, 1)
    machine.restart()
    recovered = machine.executor.recover(slice_id)
    assert recovered == story.spool
    assert machine.executor.recover(slice_id) == recovered, "to read it takes nothing away"


def test_what_is_forgotten_is_gone_and_may_be_forgotten_again(machine: Machine, slice_id: SliceId) -> None:
    machine.run(slice_id, 1, Story(lines=("ok: [web-1]",)))
    machine.executor.kill(slice_id, 1)
    machine.executor.forget(slice_id)
    assert machine.executor.recover(slice_id) is None
    assert machine.executor.liveness(slice_id, 1) is Liveness.ABSENT
    machine.executor.forget(slice_id)


def test_what_is_kept_is_known_and_what_still_runs_is_not_forgotten(machine: Machine, slice_id: SliceId) -> None:
    assert machine.executor.kept() == frozenset()
    machine.run(slice_id, 1, Story(lines=("ok: [web-1]",)))
    machine.restart()
    assert machine.executor.kept() == {slice_id}
    machine.restart()
    assert machine.executor.kept() == {slice_id}
    machine.executor.forget(slice_id)
    assert machine.executor.kept() == {slice_id}
    machine.executor.kill(slice_id, 1)
    machine.executor.forget(slice_id)
    assert machine.executor.kept() == frozenset()


# -- where it is -----------------------------------------------------------------------------------------------------
def test_a_daemon_that_starts_anew_knows_that_what_was_claimed_at_its_place_is_gone(
    machine: Machine, slice_id: SliceId
) -> None:
    machine.run(slice_id, 1)
    machine.restart()
    assert machine.executor.liveness(slice_id, 1, machine.place) is Liveness.ALIVE
    machine.crash(slice_id, 1)
    assert machine.executor.liveness(slice_id, 1, machine.place) is Liveness.GONE


def test_of_what_was_claimed_at_its_place_and_left_no_trace_nothing_is_known(
    machine: Machine, slice_id: SliceId
) -> None:
    assert machine.executor.liveness(slice_id, 1, machine.place) is Liveness.ABSENT


def test_what_a_neighbour_runs_lives_for_everybody_on_this_machine(machine: Machine, slice_id: SliceId) -> None:
    neighbour = machine.neighbour()
    machine.run(slice_id, 1)
    assert neighbour.executor.liveness(slice_id, 1, machine.place) is Liveness.ALIVE
    assert neighbour.executor.liveness(slice_id, 1, neighbour.place) is Liveness.ABSENT
    assert neighbour.executor.kept() == frozenset()


def test_what_a_neighbour_left_is_ended_and_read_from_here(machine: Machine, slice_id: SliceId) -> None:
    neighbour = machine.neighbour()
    story = Story(lines=("ok: [web-1]",), result_of=("web-1",), with_grandchildren=True)
    machine.run(slice_id, 1, story)
    machine.crash(slice_id, 1)
    assert neighbour.executor.liveness(slice_id, 1, machine.place) is Liveness.GONE
    assert neighbour.executor.kill(slice_id, 1, machine.place) is Liveness.GONE
    assert machine.running(slice_id, 1) == 0
    assert neighbour.executor.recover(slice_id, machine.place) == story.spool
    neighbour.executor.forget(slice_id)
    assert machine.executor.recover(slice_id) == story.spool, "its own daemon tidies up"


def test_what_a_neighbour_runs_is_not_ended_for_having_the_same_name(machine: Machine, slice_id: SliceId) -> None:
    neighbour = machine.neighbour()
    machine.run(slice_id, 1)
    assert neighbour.executor.kill(slice_id, 1, neighbour.place) is Liveness.GONE
    assert neighbour.executor.kill(slice_id, 1) is Liveness.GONE
    assert machine.running(slice_id, 1) == 1


@pytest.mark.parametrize("place", ["", "local:other-boot:pid:[4026531836]:/var/lib/reconciler/slices", "worker-7"])
def test_another_machine_can_not_be_asked(machine: Machine, slice_id: SliceId, place: str) -> None:
    machine.run(slice_id, 1, Story(lines=("ok: [web-1]",)))
    executor = machine.executor
    assert executor.liveness(slice_id, 1, place) is Liveness.UNREACHABLE
    assert executor.kill(slice_id, 1, place) is Liveness.UNREACHABLE
    assert (executor.recover(slice_id, place), executor.last_words(slice_id, place)) == (None, "")
    assert machine.running(slice_id, 1) == 1


# -- on this machine only --------------------------------------------------------------------------------------------
def nobody(_: SliceId) -> None:
    """Is told of an end."""


def nothing(_: Path) -> None:
    """Is left to tidy up."""


def elsewhere(place: str) -> str:
    """The same folder on another machine, or on this one before it was started anew."""
    _, boot, rest = place.split(":", 2)
    return f"local:{boot[::-1]}:{rest}"


def test_what_a_playbook_left_is_tidied_up_once_all_of_it_is_ended(tmp_path: Path, slice_id: SliceId) -> None:
    machine = LocalMachine(tmp_path)
    machine.run(slice_id, 1, Story(with_grandchildren=True))
    machine.crash(slice_id, 1)
    assert machine.executor.kill(slice_id, 1) is Liveness.GONE
    assert machine.tidied == [tmp_path / "slices" / slice_id / "ansible"]


def test_after_a_restart_of_the_machine_its_slices_are_its_own_still(tmp_path: Path) -> None:
    machine = LocalMachine(tmp_path)
    folder = SliceFolder(tmp_path / "slices", OTHER)
    folder.create()
    before = elsewhere(machine.place)
    (folder.path / "lock").write_text(before)
    assert machine.executor.liveness(OTHER, 1, before) is Liveness.GONE
    assert machine.executor.kill(OTHER, 1, before) is Liveness.GONE


def test_a_folder_of_the_same_name_does_not_make_another_machines_slice_its_own(
    tmp_path: Path, slice_id: SliceId
) -> None:
    """Every machine has /var/lib/reconciler; and this one may have begun the slice itself, before another led."""
    machine = LocalMachine(tmp_path)
    machine.run(slice_id, 1)
    machine.crash(slice_id, 1)
    assert machine.executor.liveness(slice_id, 2, elsewhere(machine.place)) is Liveness.UNREACHABLE


def test_a_state_directory_that_was_moved_knows_its_slices(tmp_path: Path, slice_id: SliceId) -> None:
    (tmp_path / "old").mkdir()
    old = LocalMachine(tmp_path / "old")
    story = Story(lines=("ok: [web-1]",), with_grandchildren=True)
    old.run(slice_id, 1, story)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = LocalExecutor(tmp_path / "new" / "slices", lambda *_: [], {}, nobody, nothing)
    assert moved.liveness(slice_id, 1, old.place) is Liveness.ALIVE
    assert moved.kill(slice_id, 1, old.place) is Liveness.GONE
    assert old.running(slice_id, 1) == 0
    assert moved.recover(slice_id, old.place) == story.spool


def test_a_neighbour_whose_folder_is_shut_can_not_be_asked(
    tmp_path: Path, slice_id: SliceId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its daemon is another user's, and so are its processes: none of them would be found."""
    machine = LocalMachine(tmp_path)
    neighbour = machine.neighbour()

    def shut(_: SliceFolder) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(SliceFolder, "held", shut)
    assert neighbour.executor.liveness(slice_id, 1, machine.place) is Liveness.UNREACHABLE
    assert neighbour.executor.kill(slice_id, 1, machine.place) is Liveness.UNREACHABLE


def test_what_hangs_in_the_kernel_keeps_nobody_waiting_and_is_told_of_when_it_is_gone(
    tmp_path: Path, slice_id: SliceId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal reaches it only when it comes back; here: never before the test lets it."""
    machine = LocalMachine(tmp_path)
    hangs = threading.Event()
    hangs.set()

    def tell(process: psutil.Process) -> None:
        if not hangs.is_set():
            os.kill(process.pid, signal.SIGKILL)

    for name in ("kill", "terminate"):
        monkeypatch.setattr(psutil.Process, name, tell)
    monkeypatch.setattr(processes, "GIVE_UP", 0.2)
    monkeypatch.setattr(local, "PATIENCE", 0.2)
    monkeypatch.setattr(local, "AGAIN", 0.05)
    monkeypatch.setattr(local, "LONG_ENOUGH", 0.5)
    machine.run(slice_id, 1, Story(with_grandchildren=True))
    machine.crash(slice_id, 1)
    told = len(machine.ended)
    try:
        assert machine.executor.kill(slice_id, 1) is Liveness.UNREACHABLE
        begun = time.monotonic()
        for _ in range(10):
            assert machine.executor.kill(slice_id, 1) is Liveness.UNREACHABLE
            assert machine.executor.liveness(slice_id, 1) is Liveness.UNREACHABLE
        assert time.monotonic() - begun < 0.5
    finally:
        hangs.clear()
    wait_for(lambda: len(machine.ended) > told, "word of its end")
    assert machine.executor.liveness(slice_id, 1) is Liveness.GONE
    assert machine.executor.kill(slice_id, 1) is Liveness.GONE
    assert machine.running(slice_id, 1) == 0


def test_no_process_is_unavailable_and_not_a_crash(tmp_path: Path) -> None:
    executor = LocalExecutor(tmp_path, lambda *_: ["/nowhere/to/be/found"], {}, nobody, nothing)
    with pytest.raises(Unavailable) as caught:
        executor.start(OTHER, 1)
    assert caught.value.reason is Reason.EXECUTOR_UNAVAILABLE
    assert executor.liveness(OTHER, 1) is Liveness.ABSENT


def test_why_a_process_ended_is_what_it_said_last(tmp_path: Path) -> None:
    gone: list[SliceId] = []
    words = "import sys; sys.exit('Traceback …\\nImportError: no module named queue\\n')"
    executor = LocalExecutor(tmp_path, lambda *_: [sys.executable, "-c", words], {}, gone.append, nothing)
    assert executor.last_words(OTHER) == ""
    executor.start(OTHER, 1)
    wait_for(lambda: gone == [OTHER], "its end")
    assert executor.last_words(OTHER) == "ImportError: no module named queue"


def test_who_asks_whether_a_slice_is_held_keeps_nobody_from_taking_it(tmp_path: Path) -> None:
    folder = SliceFolder(tmp_path, OTHER)
    folder.create()
    asked, stop = threading.Event(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            folder.held()
            asked.set()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert asked.wait(PATIENCE)
        for _ in range(200):
            held = folder.hold()
            assert held is not None
            with held:
                assert folder.held()
    finally:
        stop.set()
        asking.join()


def test_two_processes_never_hold_one_slice(tmp_path: Path) -> None:
    first = SliceFolder(tmp_path, OTHER).hold()
    assert first is not None
    assert SliceFolder(tmp_path, OTHER).hold() is None
    with first:
        assert SliceFolder(tmp_path, OTHER).held()
    assert not SliceFolder(tmp_path, OTHER).held()


def test_a_line_that_a_full_disk_cut_off_spoils_no_other(tmp_path: Path) -> None:
    folder = SliceFolder(tmp_path, OTHER)
    folder.create()
    whole = '{"sequence": %d, "host": null, "text": "line"}\n'
    (folder.path / "spool.jsonl").write_text((whole % 1) + '{"sequence": 2, "ho' + (whole % 3) + (whole % 4))
    spool = folder.spool()
    assert spool is not None
    assert [line.sequence for line in spool.logs] == [1, 4]


def test_a_process_that_recorded_everything_and_tidied_up_is_forgotten(tmp_path: Path) -> None:
    gone: list[SliceId] = []
    command = ["rm", "-rf", str(tmp_path / OTHER)]
    executor = LocalExecutor(tmp_path, lambda *_: command, {"PATH": "/usr/bin:/bin"}, gone.append, nothing)
    executor.start(OTHER, 1)
    wait_for(lambda: gone == [OTHER], "its end")
    assert executor.liveness(OTHER, 1) is Liveness.ABSENT


def test_another_daemon_with_a_state_of_its_own_is_left_alone(tmp_path: Path, slice_id: SliceId) -> None:
    """Job ids are made of source, name and second: two daemons may well have the same."""
    folders = (tmp_path / "one", tmp_path / "other")
    for folder in folders:
        folder.mkdir()
    one, other = (LocalMachine(folder) for folder in folders)
    one.run(slice_id, 1)
    other.run(slice_id, 1)

    one.executor.kill(slice_id, 1)

    assert one.running(slice_id, 1) == 0
    assert other.running(slice_id, 1) == 1
    other.executor.kill(slice_id, 1)
