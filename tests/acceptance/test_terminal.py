"""Real runs, watched on a terminal that is narrow and changes its size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.workspace import Workspace, wait_for
from tests.terminal import Terminal

pytestmark = [pytest.mark.ansible, pytest.mark.slow]

NAME = "patch-the-web-servers-of-the-portal"


def test_a_run_shows_its_progress_in_40_columns_and_wider(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=3)
    here.job(NAME, limit=1)
    here.job("restart", limit=3)
    with Terminal(here.command("run", "--once", str(here.root)), columns=40) as terminal:
        terminal.shows("/3")
        assert max(map(len, terminal.screen.lines)) <= 40
        assert "restart" in terminal.screen.text or "patch-the" in terminal.screen.text
        terminal.resize(120, 24)
        terminal.shows("wave ")
        assert terminal.ends() == 0
        told = [line for line in terminal.screen.everything.splitlines() if line.startswith(f"{NAME}  ")]
        assert f"{NAME}  Succeeded  3/3 completed, 0 failed" in told[0]
        assert terminal.screen.erased == 0
        assert not terminal.screen.cursor_hidden


def test_a_run_is_watched_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    here = Workspace(tmp_path, hosts=3)
    here.job(NAME, limit=1)
    daemon = here.daemon()
    try:
        wait_for(lambda: here.status(NAME), "the batch to be seen")
        with Terminal(here.command("status", "--watch", NAME), columns=40, rows=30) as terminal:
            for seen in ("running  wave 1", "1/3 completed", "running  wave 3", "3/3 completed", "Succeeded"):
                terminal.shows(seen)
                assert not terminal.screen.scrolled
            assert "no daemon runs" not in terminal.screen.text
            assert terminal.interrupt() == 130
        with Terminal(here.command("logs", "-f", NAME, "h1"), columns=40) as terminal:
            assert terminal.ends() == 0
            assert "Work" in terminal.screen.everything
    finally:
        daemon.terminate()
        daemon.wait(60)
