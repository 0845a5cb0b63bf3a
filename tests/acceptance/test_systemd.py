"""The unit of examples/systemd: systemd takes it, and it says what the docs promise."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from reconciler.settings import Settings, load_settings

FOLDER = Path(__file__).parents[2] / "examples" / "systemd"
UNIT = FOLDER / "reconciler.service"
PROGRAM = "/opt/reconciler/bin/reconciler"


def parsed() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """By section and name."""
    found: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals, f"no assignment: {line}"
            found[section][name].append(value)
    return found


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    assert set(parsed()) == {"Unit", "Service", "Install"}
    verify = shutil.which("systemd-analyze")
    if verify is None:
        return  # then it is at least one that can be read
    unit = tmp_path / UNIT.name
    here = str(Path(sys.executable).with_name("reconciler"))
    unit.write_text(UNIT.read_text().replace(PROGRAM, here))
    done = subprocess.run(
        [verify, "verify", "--man=no", "--recursive-errors=no", str(unit)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_it_keeps_the_promises_of_the_docs() -> None:
    service = parsed()["Service"]
    assert service["Type"] == ["notify"]
    assert service["KillMode"] == ["process"], "playbooks outlive the daemon"
    assert service["Restart"] == ["on-failure"], "who has drained it wants it to stay down"
    assert service["OOMPolicy"] == ["continue"]
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert "WatchdogSec" in service
    forbidden = {"PrivateTmp", "DynamicUser", "RuntimeDirectory", "PrivatePIDs", "PrivateUsers", "ProtectProc"}
    assert not forbidden & set(service), "what runs goes on when the daemon stops, and is found by what /proc says"


def test_its_command_and_its_settings_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    service = parsed()["Service"]
    (command,) = service["ExecStart"]
    program, run, *options = command.split()
    assert (program, run, options) == (PROGRAM, "run", ["--config", "/etc/reconciler/reconciler.toml"])
    (environment,) = service["Environment"]
    variables = dict(part.split("=") for part in environment.split())
    ours = {name.removeprefix("RECONCILER_").lower() for name in variables if name.startswith("RECONCILER_")}
    assert ours <= set(Settings.model_fields)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(FOLDER / "reconciler.toml")
    assert settings.state_dir == Path("/var/lib") / service["StateDirectory"][0]
    assert [source.name for source in settings.sources] == ["fleet"]
