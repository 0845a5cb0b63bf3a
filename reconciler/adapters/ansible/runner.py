"""Running a playbook through ansible-runner, and ending it with everything it started.

ansible-runner runs in a thread of its own and only puts events into a queue: a handler that is slow makes it miss the
end of the output, and one that raises would leave the playbook running. It is never told to cancel either, for it kills
one process group at once, which workers of ansible-core left long ago.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pexpect
from ansible_runner.runner import Runner as RunnerProcess

from reconciler.adapters.ansible.events import Event
from reconciler.adapters.ansible.evidence import Evidence, Report, report_lines
from reconciler.adapters.ansible.launch import (
    AnsibleOptions,
    Folder,
    as_data,
    check_work,
    find_ansible_playbook,
    one_a_line,
    runner_config,
    write_private,
)
from reconciler.adapters.ansible.logs import Logbook
from reconciler.adapters.ansible.outcomes import Ending, judge
from reconciler.adapters.ansible.tokens import believe_only_ids
from reconciler.adapters.processes import MARK, end_slice
from reconciler.ports import LogLine, PlaybookResult, PlaybookWork, StopKind

POLL = 0.2
"""Seconds between two questions whether to stop."""

PATIENCE_WITH_SSH = 5.0
"""Seconds; it only has to hear of it from a process of this machine."""

RawEvent = Mapping[str, Any]

log = logging.getLogger(__name__)


class AnsibleRunner:
    """The Runner port. `mark` of the work must have MARK: by it the processes are found again."""

    def __init__(self, options: AnsibleOptions) -> None:
        self._options = options

    def prepare(self, work: PlaybookWork) -> PreparedAnsible:
        playbook = find_ansible_playbook(self._options)
        check_work(work, self._options)
        folder = Folder(work.directory)
        if folder.path.exists():  # of an earlier try that touched no host: its files must not count for this one
            shutil.rmtree(folder.path)
        (folder.path / "env").mkdir(mode=0o700, parents=True)
        folder.path.chmod(0o700)
        write_private(folder.left, str(folder.sockets))
        write_private(folder.hosts, one_a_line(work.hosts))
        write_private(folder.settings, json.dumps({"pexpect_timeout": POLL, "suppress_output_file": True}))
        if work.extra_vars:
            write_private(folder.extra_vars, as_data(work.extra_vars))
        config = runner_config(work, self._options, playbook, folder)
        return PreparedAnsible(work, folder, _Process(config))


class PreparedAnsible:
    """A playbook that is ready to start."""

    def __init__(self, work: PlaybookWork, folder: Folder, process: _Process) -> None:
        self._work = work
        self._folder = folder
        self._process = process
        self._home = str(work.project)

    def run(self, log: Callable[[LogLine], None], stop: Callable[[], StopKind | None]) -> PlaybookResult:
        evidence, logbook = Evidence(), Logbook(self._home)
        mark = self._work.mark[MARK]

        def take(raw: RawEvent) -> None:
            event = Event.of(raw)
            evidence.add(event)
            for line in logbook.lines(event):
                log(line)

        try:
            self._process.start()
            try:
                told = self._follow(take, stop, evidence)
            finally:
                ended = self._process.end(mark)
                close_shared_connections(self._folder.sockets)
            for event in self._process.rest():
                take(event)
            report = Report.read(self._read_report(), self._work.hosts, evidence.stopped_at)
            ending = Ending(None if told is not None else self._process.returned(), datetime.now(UTC), told)
            result = judge(self._work.hosts, evidence, report, ending, self._home)
            for error in report.errors:
                log(LogLine(None, f"the companion callback failed: {error}"))
            if self._process.error is not None:
                log(LogLine(None, f"ansible-runner failed, and the playbook was ended: {self._process.error!r}"))
            for outcome in result.outcomes:
                for line in logbook.last_lines(outcome):
                    log(line)
            if not ended:
                log(LogLine(None, "a process of this playbook can't be ended; until it is gone, its hosts stay locked"))
            return replace(result, unended=not ended)
        finally:
            shutil.rmtree(self._folder.path, ignore_errors=True)  # a result is worth more than a clean folder

    def _follow(
        self, take: Callable[[RawEvent], None], stop: Callable[[], StopKind | None], evidence: Evidence
    ) -> StopKind | None:
        """Take events until there are no more, or it is told to stop: then the answer says why."""
        asked = float("-inf")
        while True:
            if time.monotonic() - asked >= POLL:
                told = stop()
                asked = time.monotonic()
                if told is not None:
                    evidence.stopped_at = datetime.now(UTC)
                    return told
            try:
                event = self._process.next(POLL)
            except queue.Empty:
                continue
            if event is None:
                return None
            take(event)
            if evidence.prompted is not None:  # it waits for an answer that nobody will give
                evidence.stopped_at = datetime.now(UTC)
                return None

    def _read_report(self) -> list[dict[str, Any]]:
        try:
            return report_lines(self._folder.report.read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            return []


def tidy_up(directory: Path) -> None:
    """What a playbook that was prepared in this directory left when even the process that ran it was killed."""
    with contextlib.suppress(FileNotFoundError):
        close_shared_connections(Path(Folder(directory).left.read_text(encoding="utf-8")))


def close_shared_connections(sockets: Path) -> None:
    """ssh keeps them open for a minute, in a process that has cleared its environment, so that no mark leads to it."""
    ssh = shutil.which("ssh")
    if ssh is None or not sockets.is_dir():
        return
    asked = [
        subprocess.Popen(
            [ssh, "-F", "none", "-o", f'ControlPath="{socket}"', "-O", "exit", "any"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for socket in sockets.iterdir()
    ]
    for process in asked:
        try:
            process.wait(PATIENCE_WITH_SSH)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(sockets, ignore_errors=True)


class _Process:
    """ansible-playbook under ansible-runner, and the queue of its events."""

    def __init__(self, config: Any) -> None:
        believe_only_ids()
        self._runner = RunnerProcess(config, event_handler=self._put, cancel_callback=lambda: False)
        self._events: queue.SimpleQueue[RawEvent | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ansible-runner", daemon=True)
        self.error: Exception | None = None
        """Of ansible-runner itself: what happened after it is not known."""

    def start(self) -> None:
        self._thread.start()

    def _put(self, event: RawEvent) -> bool:
        self._events.put(event)
        return False  # no file of it: it may hold what nobody is to read

    def _run(self) -> None:
        try:
            self._runner.run()
        except pexpect.TIMEOUT:
            # It waits 5 s for the end of the output, which a process that was left behind keeps open (#1343). What
            # was printed is known, the exit code is not.
            pass
        except Exception as error:  # a bug there costs the hosts that were not done, and none whose end is proven
            log.exception("ansible-runner failed")
            self.error = error
        finally:
            self._events.put(None)

    def next(self, seconds: float) -> RawEvent | None:
        """None: that was all. Raises queue.Empty."""
        return self._events.get(timeout=seconds)

    def end(self, mark: str) -> bool:
        """No process with this mark is left when it returns True, and everything that was printed is in the queue.
        False: one can't be ended."""
        ended = end_slice(mark)
        while ended and self._thread.is_alive():
            self._thread.join(POLL)
            ended = end_slice(mark)  # it may just have been about to start one
        return ended

    def rest(self) -> list[RawEvent]:
        events = []
        while not self._events.empty():
            if (event := self._events.get()) is not None:
                events.append(event)
        return events

    def returned(self) -> int | None:
        """The exit code; None if it was ended by a signal, or is not known."""
        code: int | None = self._runner.rc if self.error is None else None
        return code
