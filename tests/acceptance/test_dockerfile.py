"""The Dockerfile, as far as it can be proven without a container engine.

Its instructions are read and checked, and the steps of its first stage are executed, as a user who is not root, in a
copy of exactly the files that it copies. What they install then runs the quickstart.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STEP_LIMIT = 300  # seconds


@dataclass(frozen=True, slots=True)
class Instruction:
    word: str
    value: str


def instructions() -> list[Instruction]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]


def stages() -> list[list[Instruction]]:
    found: list[list[Instruction]] = []
    for instruction in instructions():
        if instruction.word == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def values(stage: Sequence[Instruction], word: str) -> list[str]:
    return [instruction.value for instruction in stage if instruction.word == word]


BUILD, FINAL = stages()


def test_what_is_copied_exists_and_is_not_kept_out() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for value in values(BUILD, "COPY"):
        *sources, _ = value.split()
        for source in sources:
            assert (ROOT / source).exists()
            assert source in allowed
    assert values(FINAL, "COPY") == ["--from=build /opt/reconciler /opt/reconciler"]


def test_both_stages_stand_on_one_slim_python() -> None:
    images = [value.split()[0] for stage in (BUILD, FINAL) for value in values(stage, "FROM")]
    assert len(set(images)) == 1  # a virtual environment only works on the Python that made it
    assert re.fullmatch(r"python:3\.1[123]-slim-\w+", images[0])


def test_the_final_image_is_not_root_and_has_what_a_run_needs() -> None:
    (user,) = values(FINAL, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    (setup,) = values(FINAL, "RUN")
    for package in ("git", "openssh-client", "tini"):
        assert package in setup.split()
    assert f"useradd --uid {user.split(':')[0]}" in setup
    assert json.loads(values(FINAL, "ENTRYPOINT")[0]) == ["tini", "--", "reconciler"]
    assert "RECONCILER_STATE_DIR=/var/lib/reconciler" in values(FINAL, "ENV")[0].split()
    assert values(FINAL, "VOLUME") == ["/var/lib/reconciler"]
    assert "org.opencontainers.image.licenses=" in values(FINAL, "LABEL")[0]
    check = json.loads(values(FINAL, "HEALTHCHECK")[0].partition("CMD ")[2])
    assert check[:2] == ["python", "-c"]
    compile(check[2], "HEALTHCHECK", "exec")
    assert "/healthz" in check[2]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A folder that stands for the image's root, and the user who works in it."""

    root: Path
    python: Path
    user: str | None
    """None: whoever runs the tests, who is not root already."""

    def run(self, command: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | {
            "HOME": str(self.root / "home"),
            "LANG": "C.UTF-8",
            "PATH": f"{self.root}/opt/reconciler/bin:{self.root}/bin:/usr/local/bin:/usr/bin:/bin",
            "PIP_CACHE_DIR": str(self.root / "cache"),
            "TMPDIR": str(self.root / "tmp"),
        }
        return subprocess.run(
            [*as_user(self.user), *command],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_LIMIT,
        )


def as_user(user: str | None) -> list[str]:
    if user is None:
        return []
    entry = pwd.getpwnam(user)
    # `env` between: what setpriv itself starts is still looked up with root's rights.
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "env"]


def python_for(user: str | None) -> Path | None:
    """A Python that this user can start and make environments with; root's own home is closed to others."""
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    for candidate in (base, Path("/usr/local/bin/python3"), Path("/usr/bin/python3")):
        question = "import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))"
        answer = subprocess.run(
            [*as_user(user), str(candidate), "-c", question], cwd="/", capture_output=True, stdin=subprocess.DEVNULL
        )
        if answer.returncode == 0:
            return candidate
    return None


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    user = "nobody" if os.geteuid() == 0 else None
    if user and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed (Debian: util-linux)")
    python = python_for(user)
    if python is None:
        pytest.skip(f"{user} can start no Python 3.11 to 3.13 that makes virtual environments")
    # Not below tmp_path, which is closed to other users.
    root = Path(tempfile.mkdtemp(prefix="reconciler-image-"))
    try:
        for folder in ("home", "tmp", "src", "opt", "wheels", "source", "bin"):
            (root / folder).mkdir()
        (root / "bin" / "python").symlink_to(python)
        share_pip_cache(root / "cache")
        root.chmod(0o755)
        if user:
            subprocess.run(["chown", "-R", user, str(root)], check=True)
        yield Sandbox(root, python, user)
    finally:
        shutil.rmtree(root)


def share_pip_cache(target: Path) -> None:
    """What pip has fetched before is not fetched again; a copy, for pip leaves other users' caches alone."""
    answer = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True)
    cache = Path(answer.stdout.strip()) if answer.returncode == 0 and answer.stdout.strip() else None
    if cache is not None and (cache / "http-v2").is_dir():
        shutil.copytree(cache / "http-v2", target / "http-v2")
    else:
        target.mkdir()


def copy_as_docker_does(stage: Sequence[Instruction], target: Path) -> None:
    for value in values(stage, "COPY"):
        *sources, _ = value.split()
        for source in sources:
            origin = ROOT / source
            if origin.is_dir():
                shutil.copytree(origin, target / source, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(origin, target / source)


@pytest.mark.slow
@pytest.mark.ansible
def test_the_install_steps_work_for_a_user_who_is_not_root(sandbox: Sandbox) -> None:
    source = sandbox.root / "src"
    copy_as_docker_does(BUILD, source)
    shutil.copytree(ROOT / "examples" / "quickstart", sandbox.root / "source", dirs_exist_ok=True)
    if sandbox.user:
        subprocess.run(["chown", "-R", sandbox.user, str(source)], check=True)

    for step in values(BUILD, "RUN"):
        inside = re.sub(r"(?<![\w.])/(opt|wheels)\b", rf"{sandbox.root}/\1", step)
        command = inside.replace("--no-cache-dir ", "")  # an image keeps no cache; this machine may have one
        result = sandbox.run(["sh", "-ec", command], source)
        assert result.returncode == 0, f"{shlex.quote(step)}: {result.stdout}{result.stderr}"

    shutil.rmtree(source)  # what was installed stands alone
    result = sandbox.run(
        ["reconciler", "run", "--once", f"{sandbox.root}/source", "--state-dir", "state"], sandbox.root / "home"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for name, hosts in {"patch-web": 4, "restart-database": 2}.items():
        written = sandbox.root / "home" / "state" / "status" / "default" / f"{name}.yaml"
        status = yaml.safe_load(written.read_text())["status"]
        assert (status["phase"], status["hosts"]["success"]) == ("Succeeded", hosts)
