"""What goes on, as a person sees it on a terminal: live, whole, and right at any size. Real commands on a real
pseudo-terminal, and a database that changes under them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from reconciler.adapters.store import SqlStore
from reconciler.cli import looking, watching
from reconciler.core.errors import Unavailable
from reconciler.core.facts import ChildStatus, JobKey, RunStatus
from reconciler.core.reasons import Reason
from reconciler.core.status import JobStatus
from reconciler.ports import PlaybookResult, SpooledLine
from tests.acceptance.workspace import PATIENCE, wait_for
from tests.builders import JOB, hosts, outcome
from tests.contracts.stores import World, line
from tests.core.test_status import make_desired, status_of
from tests.terminal import Terminal

LONG = "the-web-servers-of-the-customer-portal-in-all-regions-of-europe"
NAMES = ("web-1", "web-2", "web-3")
SIZES = ((40, 24), (120, 30), (40, 15), (79, 24), (80, 24), (200, 50), (40, 30), (25, 6))


def command(folder: Path, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("reconciler")), *arguments, "--state-dir", str(folder)]


def say(world: World, key: JobKey = JOB, message: str = "") -> None:
    """How the batch stands, written down as a daemon does."""
    if world.store.manifest(key) is None:
        world.accept(key)
    desired = replace(make_desired(hosts=3), record=replace(make_desired().record, key=key))
    status = status_of(desired, world.store.observe(key))
    body = status.status.model_copy(update={"message": message or status.status.message})
    metadata = status.metadata.model_copy(update={"name": key.name})
    world.store.save_status(key, JobStatus(metadata=metadata, status=body))


def job(name: str) -> JobKey:
    return JobKey("default", name)


def fail_one(world: World) -> str:
    """A run of which one host has failed and the others go on; its id."""
    run = world.open_run(hosts(*NAMES))
    world.run_wave(run, "web-1", result=PlaybookResult((outcome("web-1", ChildStatus.FAILED),)))
    slice_id = world.start(run, "web-2", "web-3", number=2)
    logged = [line(number, f"line {number} of web-2", "web-2") for number in range(3)]
    assert world.store.append_logs(slice_id, 1, logged)
    say(world)
    return run


@contextmanager
def on_terminal(folder: Path, *arguments: str, columns: int = 100, rows: int = 24) -> Iterator[Terminal]:
    with Terminal(command(folder, *arguments), columns, rows) as terminal:
        yield terminal


def settled(terminal: Terminal) -> bool:
    """Whether nothing more is written."""
    before = len(terminal.written)
    terminal.read(0.1)
    for _ in range(6):
        terminal.read(0.1)
    return len(terminal.written) == before


# == status --watch ==================================================================================================
def test_every_change_is_seen_and_the_terminal_is_as_it_was_afterwards(world: World, tmp_path: Path) -> None:
    say(world, job("patch"), "wave 1 of 2 is running")
    with on_terminal(tmp_path, "status", "--watch") as terminal:
        terminal.shows("1 batch", "NAME", "patch", "wave 1 of 2 is running", "no daemon runs")
        assert (terminal.screen.whole, terminal.screen.cursor_hidden) == (True, True)
        say(world, job("patch"), "wave 2 of 2 is running")
        say(world, job("restart"))
        terminal.shows("2 batches", "restart", "wave 2 of 2 is running")
        assert "wave 1 of 2" not in terminal.screen.text
        assert terminal.interrupt() == 130
        assert (terminal.screen.whole, terminal.screen.cursor_hidden) == (False, False)
        assert "wave 2 of 2 is running" in terminal.screen.text  # what it showed last is left there
        assert terminal.screen.erased == 0


def test_one_batch_with_its_hosts(world: World, tmp_path: Path) -> None:
    run = fail_one(world)
    with on_terminal(tmp_path, "status", "--watch", JOB.name) as terminal:
        terminal.shows("default/patch-web", "Failures", "no such package", "web-2", "running", "1/3 completed")
        world.store.finish(world.slice(world.run().slices[-1].id).id, 1, PlaybookResult(tuple(map(outcome, NAMES[1:]))))
        world.store.finish_run(run, RunStatus.FAILED, Reason.HOSTS_FAILED, "1 failed")
        say(world)
        terminal.shows("3/3 completed", "success")
        assert terminal.interrupt() == 130


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), (JOB.name,)], ids=["all", "one"])
def test_it_is_right_at_any_size_and_follows_a_change_of_it(
    world: World, tmp_path: Path, arguments: Sequence[str]
) -> None:
    fail_one(world)
    say(world, job(LONG), "this message is longer than any terminal has room for, and goes on and on; " * 5)
    with on_terminal(tmp_path, "status", "--watch", *arguments, columns=40) as terminal:
        terminal.shows(JOB.name)
        for columns, rows in SIZES:
            terminal.resize(columns, rows)
            wait_for(lambda: settled(terminal), "it to be drawn")
            screen = terminal.screen
            assert not screen.scrolled
            assert max(map(len, screen.lines)) <= columns
            if rows > 10:
                assert JOB.name in screen.text, (columns, rows, screen.text)
                assert "Running" in screen.text, (columns, rows, screen.text)  # of the phase nothing is left out
            if (columns, rows) == (40, 30):
                assert_readable(screen.lines, arguments)
        assert terminal.screen.erased == 0
        assert terminal.interrupt() == 130


def assert_readable(lines: Sequence[str], arguments: Sequence[str]) -> None:
    """At 40 columns no word stands one letter below the other, and what goes on does so below its beginning."""
    wanted = ["web-2  running  wave 2", "  such package"] if arguments else ["  1/3 completed, 1 failed"]
    for each in wanted:
        assert any(found.startswith(each) for found in lines), "\n".join(lines)


def test_what_has_no_room_is_counted(world: World, tmp_path: Path) -> None:
    for number in range(60):
        say(world, job(f"batch-{number:02}"))
    with on_terminal(tmp_path, "status", "--watch", rows=10) as terminal:
        terminal.shows("60 batches", "more lines")
        assert len(terminal.screen.text.splitlines()) == 10
        terminal.resize(100, 80)
        terminal.shows("batch-00", "batch-59")
        assert "more lines" not in terminal.screen.text


def test_as_long_as_nothing_changes_nothing_is_written(world: World, tmp_path: Path) -> None:
    say(world, job("patch"))
    with on_terminal(tmp_path, "status", "--watch") as terminal:
        terminal.shows("patch")
        wait_for(lambda: settled(terminal), "it to be drawn")
        before = len(terminal.written)
        for _ in range(20):
            terminal.read(0.1)
        assert len(terminal.written) == before


def test_after_a_pause_it_is_drawn_anew(world: World, tmp_path: Path) -> None:
    """Ctrl-Z and fg: the shell has written where it had."""
    say(world, job("patch"))
    with on_terminal(tmp_path, "status", "--watch") as terminal:
        terminal.shows("patch")
        os.kill(terminal.process.pid, signal.SIGSTOP)
        terminal.screen.write("\x1b[H" + "x" * 300)
        os.kill(terminal.process.pid, signal.SIGCONT)
        terminal.shows("1 batch", "patch")
        wait_for(lambda: "x" * 5 not in (terminal.read(0.1), terminal.screen.text)[1], "it to be drawn")


def test_who_ends_it_from_elsewhere_leaves_no_terminal_spoilt(world: World, tmp_path: Path) -> None:
    say(world, job("patch"))
    with on_terminal(tmp_path, "status", "--watch") as terminal:
        terminal.shows("patch")
        os.kill(terminal.process.pid, signal.SIGTERM)
        assert terminal.ends() == 128 + signal.SIGTERM
        assert (terminal.screen.whole, terminal.screen.cursor_hidden) == (False, False)


@pytest.mark.slow
def test_it_does_not_grow_however_many_batches_there_are(world: World, tmp_path: Path) -> None:
    records = [job(f"batch-{number:04}") for number in range(300)]
    for key in records:
        say(world, key)
    with on_terminal(tmp_path, "status", "--watch") as terminal:
        terminal.shows("300 batches")
        process = psutil.Process(terminal.process.pid)
        before = process.memory_info().rss
        for number in range(8):
            say(world, records[number], f"change {number}")
            terminal.shows(f"change {number}")
        assert process.memory_info().rss - before < 20 << 20


def test_on_a_dumb_terminal_every_change_is_a_line(world: World, tmp_path: Path) -> None:
    say(world, job("patch"), "first")
    with Terminal(command(tmp_path, "status", "--watch"), TERM="dumb") as terminal:
        terminal.shows("patch", "first")
        assert "\x1b" not in terminal.written
        assert terminal.interrupt() == 130


# -- elsewhere -------------------------------------------------------------------------------------------------------
@contextmanager
def piped(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    out = folder / "out"
    with out.open("w") as file:
        process = subprocess.Popen(command(folder, *arguments), stdout=file, stderr=subprocess.PIPE, text=True)
    try:
        yield process, out
    finally:
        process.kill()
        process.communicate()


def test_in_a_pipe_each_change_is_a_line(world: World, tmp_path: Path) -> None:
    say(world, job("patch"), "[bold]wave 1[/] of 2")
    say(world, job("restart"), "at rest")
    with piped(tmp_path, "status", "--watch") as (process, out):
        wait_for(lambda: len(out.read_text().splitlines()) == 2, "the first two")
        say(world, job("patch"), "wave 2 of 2")
        wait_for(lambda: len(out.read_text().splitlines()) == 3, "the change")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    lines = out.read_text().splitlines()
    assert {one.split("  ")[0] for one in lines[:2]} == {"patch", "restart"}
    assert any(one.endswith("[bold]wave 1[/] of 2") for one in lines[:2])
    assert lines[2].startswith("patch  ")
    assert lines[2].endswith("wave 2 of 2")
    assert "\x1b" not in out.read_text()


def test_programs_get_a_whole_document_for_each_change(world: World, tmp_path: Path) -> None:
    fail_one(world)
    with piped(tmp_path, "status", "--watch", "-o", "json") as (_, out):
        wait_for(lambda: out.read_text().endswith("\n"), "the first")
        say(world, JOB, "brand-new")
        wait_for(lambda: "brand-new" in out.read_text(), "the change")
    first, *_, last = [json.loads(one) for one in out.read_text().splitlines()]
    assert len(first["status"]["children"]) == 3
    assert last["status"]["message"] == "brand-new"


def test_in_a_pipe_it_outlives_a_database_that_is_away(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say(world, job("patch"), "before")
    store = cast(SqlStore, world.store)
    away, told = iter((True, True, False, True)), list[str]()
    really = store.last_event

    def be_there() -> None:
        if next(away, False):
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the database is away")

    def last_event() -> int:
        if told:
            be_there()
        return really()

    def tell(status: JobStatus) -> None:
        be_there()  # it is asked for more, sometimes
        told.append(status.status.message)
        if told == ["before"]:
            say(world, job("patch"), "after")
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(store, "last_event", last_event)
    monkeypatch.setattr(watching, "POLL", 0.01)
    with pytest.raises(KeyboardInterrupt):
        watching.each_change(store, lambda: watching.all_batches(store), tell)
    assert told == ["before", "after"]
    assert capsys.readouterr().err.count("the database is away") == 1


# == logs -f =========================================================================================================
def test_a_log_is_followed_to_the_end_of_the_run(world: World, tmp_path: Path) -> None:
    run = fail_one(world)
    slice_id = world.run().slices[-1].id
    with on_terminal(tmp_path, "logs", "-f", JOB.name, "web-2", columns=40) as terminal:
        terminal.shows("line 2 of web-2")
        long = "a long line of a log " * 10
        assert world.store.append_logs(slice_id, 1, [line(3, f"{long}\tand more", "web-2"), line(4, "ü 漢字", "web-2")])
        terminal.shows("ü 漢字")
        assert world.store.finish(slice_id, 1, PlaybookResult(tuple(map(outcome, NAMES[1:]))))
        world.store.finish_run(run, RunStatus.FAILED, Reason.HOSTS_FAILED, "1 failed")
        assert terminal.ends() == 0
        assert long.replace(" ", "") in terminal.screen.everything.replace("\n", "").replace(" ", "")


def test_following_is_interrupted(world: World, tmp_path: Path) -> None:
    fail_one(world)
    with on_terminal(tmp_path, "logs", "-f", JOB.name, "web-2") as terminal:
        terminal.shows("line 2 of web-2")
        assert terminal.interrupt() == 130


def test_a_log_larger_than_memory_is_to_be_is_shown_in_parts(world: World, tmp_path: Path) -> None:
    run = fail_one(world)
    slice_id = world.run().slices[-1].id
    for part in range(20):
        lines = [line(3 + part * 1000 + number, "x" * 1000, "web-2") for number in range(1000)]
        assert world.store.append_logs(slice_id, 1, lines)
    with piped(tmp_path, "logs", "-f", JOB.name, "web-2") as (process, out):
        wait_for(lambda: out.stat().st_size > 20_000_000, "all of it")
        assert psutil.Process(process.pid).memory_info().rss < 200 << 20
        world.store.finish_run(run, RunStatus.CANCELLED, Reason.CANCELLED, "")
        assert process.wait(PATIENCE) == 0
    assert len(out.read_text().splitlines()) == 20_003


def test_failed_hosts_are_followed_as_they_fail(world: World, tmp_path: Path) -> None:
    run = fail_one(world)
    slice_id = world.run().slices[-1].id
    with piped(tmp_path, "logs", "-f", "--failed", JOB.name) as (process, out):
        broken = outcome("web-2", ChildStatus.FAILED)
        assert world.store.finish(slice_id, 1, PlaybookResult((broken, outcome("web-3"))))
        wait_for(lambda: "line 2 of web-2" in out.read_text(), "the log of who failed")
        world.store.finish_run(run, RunStatus.FAILED, Reason.HOSTS_FAILED, "2 failed")
        assert process.wait(PATIENCE) == 0
    assert out.read_text().splitlines()[0] == "==> web-2 <=="


def test_following_outlives_a_database_that_is_away(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fail_one(world)
    world.store.finish_run(run, RunStatus.CANCELLED, Reason.CANCELLED, "")
    really, asked = world.store.log_page, list[int]()

    def log_page(*arguments: Any) -> Sequence[SpooledLine]:
        asked.append(1)
        if len(asked) < 4:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the database is away")
        return really(*arguments)

    monkeypatch.setattr(world.store, "log_page", log_page)
    monkeypatch.setattr(looking, "POLL", 0.01)
    whose = [(run, "web-2")]
    looking._print_logs(cast(SqlStore, world.store), world.run(), lambda: whose, None, follow=True, titles=False)
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"line {number} of web-2" for number in range(3)]
    assert said.err.count("the database is away") == 1
