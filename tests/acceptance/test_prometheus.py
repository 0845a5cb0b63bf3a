"""A real Prometheus beside a real daemon and its standby, while real playbooks run: each query of each dashboard gives
what the database says, and the alerts fire that should, and no other."""

from __future__ import annotations

import math
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml

from reconciler import __version__
from tests import databases
from tests.acceptance.dashboard_facts import EXPECTED, Facts, Found, Window, read_facts
from tests.acceptance.workspace import PATIENCE, Workspace, wait_for
from tests.prometheus import Labels, Prometheus, why_no_prometheus
from tests.test_dashboards import ON_PROMETHEUS, SPECS, all_rules, name_of, panels, read

pytestmark = [pytest.mark.ansible, pytest.mark.slow]

STEP = 5.0
"""Seconds between points of what is asked over time."""

HELD = """\
- hosts: all
  gather_facts: false
  tasks:
    - name: Wait to be let go
      ansible.builtin.shell: while test ! -e {{ record }}.go; do sleep 0.2; done
      changed_when: false
"""


class Daemon:
    """`reconciler run` with a port; `name` is that of its state directory."""

    def __init__(self, workspace: Workspace, url: str, name: str) -> None:
        folder = workspace.root.parent
        self._log = folder / f"{name}.log"
        settings = folder / f"{name}.toml"
        settings.write_text(f'database_url = "{url}"\nresync = "2s"\n[http]\nlisten = "127.0.0.1:0"\n')
        command = [str(Path(sys.executable).with_name("reconciler")), "run", str(workspace.root)]
        options = ["--config", str(settings), "--state-dir", str(folder / f"state-{name}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def port(self) -> int:
        def started() -> list[str]:
            lines = self._log.read_text(errors="replace").splitlines()
            return [line for line in lines if "event=daemon_started" in line]

        wait_for(lambda: started() or self._process.poll() is not None, f"a daemon, see {self._log}")
        assert started(), self._log.read_text()
        return int(dict(part.partition("=")[::2] for part in shlex.split(started()[0]))["port"])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(timeout=PATIENCE)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=PATIENCE)


@dataclass
class Scene:
    """All that there is: a source, its database, the daemons and Prometheus, and since when it has numbers."""

    workspace: Workspace
    url: str
    daemons: Sequence[Daemon]
    ports: list[int]
    """Of the daemons that live, the leader's first."""

    prometheus: Prometheus
    since: float

    def facts(self) -> Facts:
        return read_facts(self.url)


def quick_rules(folder: Path) -> Path:
    """The rules with nothing to wait for."""
    document = yaml.safe_load((SPECS / "alerts.yaml").read_text(encoding="utf-8"))
    for group in document["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                rule.pop("keep_firing_for", None)
                rule["for"] = "1s"
    path = folder / "alerts.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@contextmanager
def scene(folder: Path, url: str) -> Iterator[Scene]:
    """A leader and a standby that have nothing to do yet, both scraped."""
    workspace = Workspace(folder, hosts=9)
    workspace.write("playbooks/held.yml", HELD)
    workspace.job("stalls", selector={"hosts": ["h1"]}, minHosts=5)
    leader = Daemon(workspace, url, "leader")
    daemons = [leader]
    try:
        ports = [leader.port()]
        daemons.append(Daemon(workspace, url, "standby"))
        ports.append(daemons[1].port())
        with Prometheus(folder, ports, quick_rules(folder)) as prometheus:
            # From now on, what is counted was seen to be 0 before.
            wait_for(lambda: prometheus.query("reconciler_runs_finished_total"), "the first numbers")
            wait_for(lambda: len(prometheus.query("reconciler_leader")) == 2, "both to be read")
            yield Scene(workspace, url, daemons, ports, prometheus, math.ceil(time.time()) + STEP)
    finally:
        Path(f"{workspace.record}.go").touch()
        for daemon in daemons:
            daemon.stop()
        wait_for(lambda: not workspace.marked(), "what ran to end")


def at_work(scene: Scene) -> None:
    """One batch has succeeded, one failed, one runs, one waits for its hosts, one stands and one is invalid."""
    workspace = scene.workspace
    # Not before the first points of the bars have been seen with 0.
    wait_for(lambda: time.time() > scene.since + STEP, "time to begin")
    workspace.break_host("h4")
    workspace.job("succeeds", selector={"hosts": ["h1", "h2", "h3"]}, limit=2)
    workspace.job("fails", selector={"hosts": ["h4", "h5"]}, strategy="sequential", retry={"limit": 1, "backoff": "1s"})
    wait_for(lambda: scene.facts().phases.get("succeeds") == "Succeeded", "a success")
    wait_for(lambda: scene.facts().phases.get("fails") == "Failed", "a failure")
    held = {"playbook": "playbooks/held.yml", "limit": 2}
    workspace.job("runs", selector={"hosts": ["h6", "h7", "h8", "h9"]}, **held)
    wait_for(lambda: scene.facts().hosts.get(("runs", "running")) == 2, "a first wave")
    workspace.job("waits", selector={"hosts": ["h6"]}, **held)
    workspace.job("invalid", selector={"hosts": ["h1"]}, limit="many")
    phases = {
        "succeeds": "Succeeded",
        "fails": "Failed",
        "runs": "Running",
        "waits": "Pending",
        "stalls": "Stalled",
        "invalid": "Invalid",
    }
    wait_for(lambda: scene.facts().phases == phases, "all of them")


# -- asking as Grafana does ------------------------------------------------------------------------------------------
def filled(expr: str, scene: Scene, values: Mapping[str, str]) -> str:
    """The variables of a dashboard, and those that Grafana has by itself."""
    known = {
        "job": Prometheus.JOB,
        "__range": f"{int(time.time() - scene.since) + 60}s",
        "__interval": f"{STEP:g}s",
        "__rate_interval": "60s",
        **values,
    }
    return re.sub(r"\$\{?(\w+)\}?", lambda found: known[found.group(1)], expr)


def evaluated(scene: Scene, expr: str, *, over_time: bool) -> Found:
    """What a panel shows: of points over time all of them, else the latest."""
    if not over_time:
        return Found(scene.prometheus.query(expr), {})
    steps = math.floor((time.time() - scene.since) / STEP)
    found = scene.prometheus.query_range(expr, scene.since, scene.since + steps * STEP, STEP)
    # Those that have a point now; bars are asked for by all their points.
    end = scene.since + steps * STEP
    latest = {labels: points[-1][1] for labels, points in found.items() if points and points[-1][0] == end}
    return Found(latest, {labels: [value for _, value in points] for labels, points in found.items()})


def asked(uid: str) -> Iterator[tuple[str, str, bool]]:
    """Panel and query, its text, and whether it is over time. Those in SQL are in test_children_dashboard.py."""
    for panel in panels(uid):
        for target in panel.get("targets", ()):
            if "expr" in target:
                yield f"{panel['title']} {target['refId']}", target["expr"], target.get("range", False)


def differences(scene: Scene, uid: str, values: Mapping[str, str]) -> list[str]:
    """Where a dashboard shows something else than the database has."""
    facts = scene.facts()
    window = Window(values.get("name", ""), time.time(), [f"127.0.0.1:{port}" for port in scene.ports], __version__)
    wrong = []
    for whose, expr, over_time in asked(uid):
        found = evaluated(scene, filled(expr, scene, values), over_time=over_time)
        expected = EXPECTED[uid][whose](facts, window)
        seen = expected.of(found)
        if seen != expected.values:
            wrong.append(f"{values} {whose}\n  shows {plain(seen)}\n  and is {plain(expected.values)}\n  by {expr}")
    return wrong


def plain(values: Mapping[Labels, object]) -> dict[str, object]:
    return {",".join(f"{name}={value}" for name, value in sorted(labels)): what for labels, what in values.items()}


def settles(what: Callable[[], list[str]]) -> None:
    """Prometheus is some seconds behind, and the page it reads is rendered every ten seconds: but then all is right."""
    deadline = time.monotonic() + PATIENCE / 2
    while wrong := what():
        assert time.monotonic() < deadline, "\n".join(wrong)
        time.sleep(1)


def database(folder: Path) -> AbstractContextManager[str]:
    """On a server, as several daemons have it, where there is one."""
    server = databases.why_no(databases.POSTGRESQL) is None
    return databases.new_database(databases.POSTGRESQL if server else databases.SQLITE, folder)


def test_every_panel_has_something_to_compare_it_with() -> None:
    for uid in ON_PROMETHEUS:
        assert set(EXPECTED[uid]) == {whose for whose, _, _ in asked(uid)}


def test_dashboards_show_what_the_database_says_and_alerts_fire(tmp_path: Path) -> None:
    if reason := why_no_prometheus():
        pytest.skip(reason)
    with database(tmp_path) as url, scene(tmp_path, url) as scene_:
        prometheus = scene_.prometheus
        at_work(scene_)

        shows_the_truth(scene_)
        for uid in ON_PROMETHEUS:
            assert choices(scene_, uid) == {
                "job": ["reconciler"],
                "source": ["default"],
                **({"name": sorted(scene_.facts().phases)} if uid == ON_PROMETHEUS[1] else {}),
            }

        assert sorted(prometheus.rules()) == sorted(name_of(rule) for rule in all_rules())
        expected = {
            ("ReconcilerBatchFailed", "fails"),
            ("ReconcilerBatchStalled", "stalls"),
            ("ReconcilerManifestRejected", None),
        }
        wait_for(lambda: firing(prometheus) == expected, "the alerts, and no other")
        summary = {alert.name: alert.annotations["summary"] for alert in prometheus.alerts()}
        assert summary["ReconcilerBatchFailed"] == "The batch default/fails failed"
        assert prometheus.troubles() == []

        # Another takes over, and begins its series with what has been counted so far: nothing is counted twice or lost.
        scene_.daemons[0].kill()
        del scene_.ports[0]
        wait_for(lambda: prometheus.query("reconciler_leader == 1"), "the standby to lead")
        shows_the_truth(scene_)
        wait_for(lambda: firing(prometheus) == expected, "the same alerts")

        # The fix arrives: the alert goes. Then the daemons go, and somebody is told.
        scene_.workspace.mend_host("h4")
        scene_.workspace.job("fails", selector={"hosts": ["h4", "h5"]}, extraVars={"fixed": True})
        wait_for(lambda: ("ReconcilerBatchFailed", "fails") not in firing(prometheus), "the alert to go")
        for daemon in scene_.daemons:
            daemon.stop()
        # What was known last goes on, and no more than that.
        left = expected - {("ReconcilerBatchFailed", "fails")} | {("ReconcilerNoLeader", None)}
        wait_for(lambda: firing(prometheus) == left, "nobody to lead")


def shows_the_truth(scene: Scene) -> None:
    """Both dashboards, the second for each batch."""
    fleet, batch = ON_PROMETHEUS
    settles(partial(differences, scene, fleet, {"source": ".*"}))
    for name in scene.facts().phases:
        settles(partial(differences, scene, batch, {"source": "default", "name": name}))


def firing(prometheus: Prometheus) -> set[tuple[str, str | None]]:
    return {(alert.name, dict(alert.labels).get("name")) for alert in prometheus.alerts()}


def choices(scene: Scene, uid: str) -> dict[str, list[str]]:
    """What the variables of a dashboard offer."""
    found = {}
    for variable in read(uid)["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert match is not None
            found[variable["name"]] = scene.prometheus.values(
                match.group(2), filled(match.group(1), scene, {"source": "default"})
            )
    return found
