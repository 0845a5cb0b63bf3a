"""Each example, run as its README says, through the real command line, and judged by the status files it leaves."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import MakeFleet
from tests.sshd import SshFleet

pytestmark = pytest.mark.ansible

EXAMPLES = Path(__file__).parents[2] / "examples"
SCHEMA = Path(__file__).parents[2] / "specs" / "batchjob.v1.schema.json"
PROGRAMS = Path(sys.executable).parent
RUN_LIMIT = 240  # seconds


def reconciler(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAMS / "reconciler"), *arguments],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT,
    )


def status_of(state: Path, name: str) -> dict[str, Any]:
    document = yaml.safe_load((state / "status" / "default" / f"{name}.yaml").read_text())
    assert document["metadata"]["name"] == name
    status: dict[str, Any] = document["status"]
    return status


def condition(status: Mapping[str, Any], kind: str) -> str | None:
    return next((entry["status"] for entry in status["conditions"] if entry["type"] == kind), None)


def counts(status: Mapping[str, Any]) -> dict[str, int]:
    """How many hosts are in each status; those with none left out."""
    return {name: number for name, number in status["hosts"].items() if number and name != "selected"}


def children(status: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {child["host"]: child for child in status["children"]}


def copy_of(example: str, directory: Path) -> Path:
    return shutil.copytree(EXAMPLES / example, directory / example)


def manifests() -> list[Path]:
    return sorted(EXAMPLES.glob("*/jobs/**/*.y*ml"))


@pytest.mark.parametrize("path", manifests(), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_a_manifest_names_its_schema_and_is_valid(path: Path, tmp_path: Path) -> None:
    first = path.read_text().splitlines()[0]
    mark = "# yaml-language-server: $schema="
    assert first.startswith(mark)
    assert (path.parent / first.removeprefix(mark)).resolve() == SCHEMA

    result = reconciler(tmp_path, "validate", str(path))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*/playbooks/*.yml")), ids=lambda path: str(path.relative_to(EXAMPLES))
)
def test_a_playbook_is_plain_ansible(path: Path) -> None:
    result = subprocess.run(
        [str(PROGRAMS / "ansible-playbook"), "--syntax-check", "-i", "inventory/hosts.yml", f"playbooks/{path.name}"],
        cwd=path.parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT,
    )
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr


def test_every_example_has_a_readme() -> None:
    for example in (path for path in EXAMPLES.iterdir() if path.is_dir()):
        assert (example / "README.md").read_text().startswith(f"# {example.name}\n")


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    state = tmp_path / "state"
    source = copy_of("quickstart", tmp_path)
    before = sorted(source.rglob("*"))

    result = reconciler(tmp_path, "run", "--once", str(source), "--state-dir", str(state))
    assert result.returncode == 0, result.stdout + result.stderr

    web = status_of(state, "patch-web")
    assert (web["phase"], counts(web)) == ("Succeeded", {"success": 4})
    assert condition(web, "Ready") == "True"
    assert [(wave["number"], wave["status"], wave["hosts"]) for wave in web["waves"]] == [
        (1, "success", 2),
        (2, "success", 2),
    ]
    assert {host: child["wave"] for host, child in children(web).items()} == {
        "web-1": 1,
        "web-2": 1,
        "web-3": 2,
        "web-4": 2,
    }

    database = status_of(state, "restart-database")
    assert (database["phase"], counts(database)) == ("Succeeded", {"success": 2})
    first, second = children(database)["db-2"], children(database)["db-1"]
    assert (first["wave"], second["wave"]) == (1, 2)
    assert first["finishedAt"] <= second["startedAt"]

    assert sorted(source.rglob("*")) == before, "nothing is ever written into a source"

    again = reconciler(tmp_path, "run", "--once", str(source), "--state-dir", str(state))
    assert again.returncode == 0, again.stdout + again.stderr
    assert status_of(state, "patch-web")["run"]["id"] == web["run"]["id"], "nothing changed, so nothing runs"


@pytest.mark.slow
def test_stop_on_failure_and_the_fix(tmp_path: Path) -> None:
    state = tmp_path / "state"
    source = copy_of("stop-on-failure", tmp_path)

    result = reconciler(tmp_path, "run", "--once", str(source), "--state-dir", str(state))
    assert result.returncode == 1, result.stdout + result.stderr

    status = status_of(state, "deploy")
    assert (status["phase"], counts(status)) == ("Failed", {"success": 3, "failed": 1, "skipped": 2})
    hosts = children(status)
    assert {host: (child["status"], child["reason"]) for host, child in hosts.items()} == {
        "app-1": ("success", None),
        "app-2": ("success", None),
        "app-3": ("failed", "TaskFailed"),
        "app-4": ("success", None),
        "app-5": ("skipped", "StoppedOnFailure"),
        "app-6": ("skipped", "StoppedOnFailure"),
    }
    assert hosts["app-3"]["task"] == "Check free disk space"
    assert "only 3 % of the disk is free" in hosts["app-3"]["message"]
    (failure,) = status["failures"]
    assert (failure["task"], failure["hosts"], failure["examples"]) == ("Check free disk space", 1, ["app-3"])

    inventory = source / "inventory" / "hosts.yml"
    inventory.write_text(inventory.read_text().replace("disk_free_percent: 3}", "disk_free_percent: 30}"))
    triggered = reconciler(tmp_path, "trigger", "deploy", "--state-dir", str(state))
    assert triggered.returncode == 0, triggered.stdout + triggered.stderr
    fixed = reconciler(tmp_path, "run", "--once", str(source), "--state-dir", str(state))
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr
    assert counts(status_of(state, "deploy")) == {"success": 6}


def point_at_loopback(source: Path, fleet: SshFleet, hosts_directory: Path) -> None:
    """Give each host of the example the address of a loopback host and folders of its own.

    A second file in the inventory folder does it; everything else stays as a user would copy it."""
    overlay = {}
    for host in fleet.hosts:
        folder = hosts_directory / host.name
        folder.mkdir(parents=True)
        overlay[host.name] = fleet.variables(host.name) | {
            "ansible_become": False,
            "baseline_directory": str(folder / "fleet"),
            "web_site_directory": str(folder),
            "web_site_reload": f"touch {folder / 'reloaded'}",
            "database_service_restart": f"touch {folder / 'restarted'}",
            "database_service_check": f"test -e {folder / 'restarted'}",
        }
    (source / "inventory" / "loopback.yml").write_text(yaml.safe_dump({"all": {"hosts": overlay}}))


def settings_from_example(source: Path, fleet: SshFleet, state: Path) -> str:
    text = (source / "reconciler.toml.example").read_text()
    for old, new in {
        "/var/lib/reconciler": str(state),
        '"deploy"': f'"{getpass.getuser()}"',
        "/etc/reconciler/ssh/id_ed25519": str(fleet.private_key),
        "/etc/reconciler/ssh/known_hosts": str(fleet.known_hosts),
    }.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.slow
@pytest.mark.ssh
def test_ssh_fleet_on_real_sshd(tmp_path: Path, ssh_fleet: MakeFleet) -> None:
    state, config, hosts = tmp_path / "state", tmp_path / "reconciler.toml", tmp_path / "hosts"
    source = copy_of("ssh-fleet", tmp_path)
    inventory = yaml.safe_load((source / "inventory" / "hosts.yml").read_text())
    names = [name for group in inventory["all"]["children"].values() for name in group["hosts"]]
    fleet = ssh_fleet(names)
    point_at_loopback(source, fleet, hosts)
    config.write_text(settings_from_example(source, fleet, state))

    result = reconciler(tmp_path, "run", "--once", str(source), "--config", str(config))
    assert result.returncode == 0, result.stdout + result.stderr

    on_request = status_of(state, "restart-database")
    assert (on_request["phase"], on_request["run"]) == ("Pending", None)
    manifest = source / "jobs" / "restart-database.yaml"
    asked = manifest.read_text().replace("  # annotations:", "  annotations:")
    assert asked != manifest.read_text()
    manifest.write_text(asked)
    result = reconciler(tmp_path, "run", "--once", str(source), "--config", str(config))
    assert result.returncode == 0, result.stdout + result.stderr

    expected = {"baseline": len(names), "web": 4, "web-canary": 1, "restart-database": 2}
    for name, number in expected.items():
        status = status_of(state, name)
        assert (status["phase"], counts(status)) == ("Succeeded", {"success": number}), name
    for name in names:
        assert (hosts / name / "fleet" / "NOTICE").read_text().startswith(f"{name}\n")
    for name in ("web-1", "web-2", "web-3", "web-4", "web-canary"):
        assert f"X-Served-By {name};" in (hosts / name / "www.example.com.conf").read_text()
        assert (hosts / name / "reloaded").exists()
    replica, primary = (children(status_of(state, "restart-database"))[name] for name in ("db-2", "db-1"))
    assert replica["finishedAt"] <= primary["startedAt"]
