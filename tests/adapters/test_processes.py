"""Which processes belong to a slice, and that none of them is left: told with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from reconciler.adapters import processes as adapter
from reconciler.adapters.processes import MARK, end_slice, marked
from tests.acceptance.workspace import wait_for

STUBBORN = "trap '' TERM; "


class Processes:
    """Processes that a test starts. Each script writes down what it started: `note NAME` takes its own pid, `note NAME
    $!` that of the last one put into the background."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"{folder}:1"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, script: str, *, mark: str | None = None) -> subprocess.Popen[bytes]:
        note = f'note() {{ echo "${{2:-$$}}" > {self.folder}/$1.new; mv {self.folder}/$1.new {self.folder}/$1; }}\n'
        process = subprocess.Popen(
            ["bash", "-c", note + script], env=self.environment(mark or self.mark), start_new_session=True
        )
        self._started.append(process)
        return process

    def environment(self, mark: str) -> Mapping[str, str]:
        return {"PATH": os.environ["PATH"], MARK: mark}

    def noted(self, name: str) -> psutil.Process:
        file = self.folder / name
        wait_for(file.exists, f"the start of {name}")
        return psutil.Process(int(file.read_text()))

    def end(self) -> None:
        """Whatever a story left behind."""
        for file in self.folder.iterdir():
            for process in [psutil.Process(int(file.read_text()))] if psutil.pid_exists(int(file.read_text())) else []:
                process.kill()
        for started in self._started:
            started.kill()
            started.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    folder = tmp_path / "pids"
    folder.mkdir()
    there = Processes(folder)
    yield there
    there.end()


def gone(*processes: psutil.Process) -> bool:
    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return not any(runs(process) for process in processes)


def seconds(step: Callable[[], object]) -> float:
    started = time.monotonic()
    step()
    return time.monotonic() - started


def test_a_process_of_the_slice_and_what_it_started_are_ended(processes: Processes) -> None:
    processes.start("sleep 300 & note child $!; note parent; wait")
    family = (processes.noted("parent"), processes.noted("child"))
    assert end_slice(processes.mark)
    assert gone(*family)
    assert marked(processes.mark) == ()


def test_what_this_process_started_without_the_mark_is_left_alone(processes: Processes) -> None:
    """An sshd of the tests, say: to be below the process that ends a slice is no crime."""
    processes.start("note mine; exec sleep 300")
    sshd = subprocess.Popen(["sleep", "300"])
    try:
        mine = processes.noted("mine")
        end_slice(processes.mark)
        assert gone(mine)
        assert sshd.poll() is None
    finally:
        sshd.kill()
        sshd.wait()


@pytest.mark.parametrize("other", ["2", "11"])
def test_the_mark_of_another_fence_is_another_slice(processes: Processes, other: str) -> None:
    processes.start("note other; exec sleep 300", mark=f"{processes.folder}:{other}")
    process = processes.noted("other")
    assert end_slice(processes.mark)
    assert not gone(process)


def test_one_that_lost_its_parent_is_found_by_its_mark(processes: Processes) -> None:
    parent = processes.start("setsid sleep 300 & note orphan $!; note parent; wait")
    processes.noted("parent")
    orphan = processes.noted("orphan")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert orphan.ppid() != parent.pid
    assert end_slice(processes.mark)
    assert gone(orphan)


def test_one_without_environment_is_found_below_one_that_has_the_mark(processes: Processes) -> None:
    processes.start("env -i setsid sleep 300 & note cleared $!; note parent; wait")
    cleared = processes.noted("cleared")
    processes.noted("parent")
    wait_for(lambda: cleared.name() == "sleep", "the clearing of the environment")
    assert cleared not in marked(processes.mark)
    assert end_slice(processes.mark)
    assert gone(cleared)


def test_one_without_environment_is_remembered_when_its_parent_ends_before_it(processes: Processes) -> None:
    """The parent obeys at once; its child, that nothing leads to any more, has to be killed."""
    stubborn = f"{STUBBORN} echo $$ > {processes.folder}/cleared; while :; do sleep 0.1; done"
    processes.start(f'env -i bash -c "{stubborn.replace("$", chr(92) + "$")}" & note parent; wait')
    parent = processes.noted("parent")
    cleared = processes.noted("cleared")
    end_slice(processes.mark, patience=0.5)
    assert gone(parent, cleared)


def test_one_that_ignores_term_is_killed_after_the_grace_and_not_before(processes: Processes) -> None:
    processes.start(f"{STUBBORN} note stubborn; while :; do sleep 0.1; done")
    stubborn = processes.noted("stubborn")
    assert seconds(lambda: end_slice(processes.mark, patience=1.0)) >= 1.0
    assert gone(stubborn)


def test_one_that_tidies_up_is_given_the_time_for_it(processes: Processes) -> None:
    tidied = processes.folder.parent / "tidied"
    processes.start(f"trap 'sleep 0.3; touch {tidied}; exit' TERM; note tidy; while :; do sleep 0.05; done")
    processes.noted("tidy")
    assert end_slice(processes.mark)
    assert tidied.exists()


def test_one_that_starts_others_while_it_is_being_ended_leaves_none(processes: Processes) -> None:
    script = "trap 'setsid sleep 300 & note second $!; exit' TERM; note first; while :; do sleep 0.05; done"
    processes.start(script)
    processes.noted("first")
    end_slice(processes.mark, patience=1.0)
    assert gone(processes.noted("second"))
    assert marked(processes.mark) == ()


def test_one_that_answers_every_term_by_starting_itself_anew_comes_to_an_end(processes: Processes) -> None:
    again = processes.folder.parent / "again.sh"
    again.write_text(
        f"echo $$ > {processes.folder}/again\n"
        f"trap 'setsid bash {again} & exit' TERM\n"
        "for i in {1..3000}; do sleep 0.05; done\n"
    )
    processes.start(f"exec bash {again}")
    processes.noted("again")
    end_slice(processes.mark, patience=0.5)
    assert marked(processes.mark) == ()


def test_a_process_of_the_slice_that_ends_the_slice_stays_and_ends_what_is_below_it(processes: Processes) -> None:
    """The process of a slice itself: what it started is of the slice, even without an environment."""
    code = (
        "import os, subprocess, sys; from pathlib import Path; from reconciler.adapters.processes import end_slice\n"
        "below = subprocess.Popen(['sleep', '300'], env={}, start_new_session=True)\n"
        "end_slice(sys.argv[1])\n"
        "print(below.wait())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, processes.mark],
        env={**os.environ, MARK: processes.mark},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(-signal.SIGTERM)), done.stderr


def test_ending_a_slice_that_has_no_process_does_nothing(processes: Processes) -> None:
    assert end_slice(processes.mark)
    assert end_slice(processes.mark)


# -- what can't be ended ---------------------------------------------------------------------------------------------
def test_one_that_hangs_in_the_kernel_is_given_up_after_a_while_and_not_called_ended(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No signal reaches it there. Here none is sent to it, which is the same for whoever waits."""
    processes.start("note hung; exec sleep 300")
    hung = processes.noted("hung")
    monkeypatch.setattr(adapter, "GIVE_UP", 0.5)
    with monkeypatch.context() as deaf:
        for name in ("terminate", "kill"):
            deaf.setattr(psutil.Process, name, lambda _: None)
        assert not end_slice(processes.mark, patience=0.2)
    assert not gone(hung)
    assert end_slice(processes.mark)
    assert gone(hung)


def test_one_that_became_somebody_else_is_waited_for_as_long_as_those_that_can_be_told(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.start("sleep 300 & note theirs $!; note mine; wait")
    theirs, mine = processes.noted("theirs"), processes.noted("mine")
    tell = psutil.Process.send_signal

    def refused(process: psutil.Process, number: int) -> None:
        if process.pid == theirs.pid:
            raise psutil.AccessDenied(process.pid)
        tell(process, number)

    with monkeypatch.context() as not_root:
        not_root.setattr(psutil.Process, "terminate", lambda process: refused(process, signal.SIGTERM))
        not_root.setattr(psutil.Process, "kill", lambda process: refused(process, signal.SIGKILL))
        said: list[bool] = []
        assert 0.5 <= seconds(lambda: said.append(end_slice(processes.mark, patience=0.5))) < adapter.GIVE_UP
        assert said == [False]
    assert gone(mine)
    assert not gone(theirs)


def test_one_that_became_somebody_else_and_goes_with_its_parents_is_ended(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.start("sleep 1 & note theirs $!; note mine; wait")
    theirs = processes.noted("theirs")
    processes.noted("mine")

    def refused(process: psutil.Process) -> None:
        if process.pid == theirs.pid:
            raise psutil.AccessDenied(process.pid)
        os.kill(process.pid, signal.SIGKILL)

    monkeypatch.setattr(psutil.Process, "terminate", refused)
    assert end_slice(processes.mark)
    assert gone(theirs)
