"""What every test stands on: one known environment, and no silent gap.

With RECONCILER_REQUIRE_ALL=1 a test that would be skipped fails instead: continuous integration sets it, so that a
suite that should run there can't vanish quietly.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.sshd import SshFleet, why_no_sshd

REQUIRE_ALL = os.environ.get("RECONCILER_REQUIRE_ALL") == "1"

# Shared machines pause for seconds: a deadline for one example would only measure them.
settings.register_profile("reconciler", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reconciler")


class MakeFleet(Protocol):
    def __call__(self, names: Sequence[str], *, down: Collection[str] = ()) -> SshFleet: ...


def pytest_configure(config: pytest.Config) -> None:
    """What the machine or the developer has set for Ansible, git or reconciler must not decide a test."""
    os.umask(0o022)
    for name in list(os.environ):
        ours = name.startswith("RECONCILER_") and name != "RECONCILER_REQUIRE_ALL"
        if ours or name.startswith(("ANSIBLE_", "GIT_")):
            del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        _fail_instead(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if REQUIRE_ALL and report.skipped:
        _fail_instead(report)
    return report


def _fail_instead(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid} was skipped where everything must run: {reason}"


@pytest.fixture
def ssh_fleet(tmp_path: Path) -> Iterator[MakeFleet]:
    """Starts an SshFleet when called; all are stopped at the end. Skips, with the reason, where there is no sshd."""
    if reason := why_no_sshd():
        pytest.skip(reason)
    with ExitStack() as running:

        def start(names: Sequence[str], *, down: Collection[str] = ()) -> SshFleet:
            number = len(list(tmp_path.glob("ssh.*")))
            return running.enter_context(SshFleet(tmp_path / f"ssh.{number}", names, down=down))

        yield start
