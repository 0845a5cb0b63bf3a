"""Passwords reach the task that needs them, and are nowhere else: no process list, file, row, log, page or output."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.acceptance.workspace import PATIENCE, Workspace, wait_for

pytestmark = pytest.mark.ansible

# The passwords go through standard input. On h2 the task fails and prints them: only no_log stands between.
PLAYBOOK = """\
- hosts: all
  gather_facts: false
  tasks:
    - name: Use the passwords
      no_log: true
      ansible.builtin.shell:
        cmd: >-
          tee /dev/stderr | sha256sum > {{ proof }}/{{ inventory_hostname }};
          touch {{ proof }}/inside-{{ inventory_hostname }};
          until test -e {{ proof }}/release; do sleep 0.1; done;
          test {{ inventory_hostname }} != h2
        stdin: "{{ from_file.password }} {{ from_scalar }}"
        stdin_add_newline: false
"""


@dataclass
class Watch:
    """Reads the command line and the environment of every process of this machine, again and again."""

    words: Mapping[str, str]
    seen: set[str] = field(default_factory=set)
    """Command lines that were read, to know that the watch saw what it was to see."""
    leaks: set[str] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                for name in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        self._read(name, (folder / name).read_bytes())

    def _read(self, name: str, content: bytes) -> None:
        if name == "cmdline":
            self.seen.add(content.replace(b"\0", b" ").decode(errors="replace"))
        for word, secret in self.words.items():
            if secret.encode() in content:
                self.leaks.add(f"{word} in {name}: {content[:200]!r}")

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.look()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


def files_with(word: str, folder: Path) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and word.encode() in path.read_bytes()
    ]


def encrypted(text: str, password: Path) -> str:
    vault = Path(sys.executable).with_name("ansible-vault")
    return subprocess.run(
        [vault, "encrypt", "--vault-password-file", password, "--output", "-"],
        input=text, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def page(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
        return text


def test_passwords_reach_their_task_and_nothing_else(tmp_path: Path) -> None:
    words = {name: secrets.token_hex(16) for name in ("from_file", "from_scalar", "vault_password")}
    work, proof = Workspace(tmp_path, hosts=2), tmp_path / "proof"
    proof.mkdir()
    password, config = tmp_path / "vault-password", tmp_path / "reconciler.toml"
    password.write_text(f"{words['vault_password']}\n")
    config.write_text(f'[ansible]\nvault_password_files = ["{password}"]\n')
    work.write("playbooks/use.yml", PLAYBOOK)
    work.write("secrets.yml", encrypted(f"from_file: {{password: {words['from_file']}}}\n", password))
    work.job(playbook="playbooks/use.yml", extraVarsFiles=["secrets.yml"], extraVars={"proof": str(proof)})
    scalar = "".join(f"        {line}\n" for line in encrypted(words["from_scalar"], password).splitlines())
    manifest = (work.root / "jobs" / "work.yaml").read_text()
    place = "  extraVars:\n"
    assert place in manifest
    work.write("jobs/work.yaml", manifest.replace(place, f"{place}    from_scalar: !vault |\n{scalar}"))

    port, output = free_port(), tmp_path / "output"
    command = work.command("run", str(work.root), "--listen", f"127.0.0.1:{port}", "--config", str(config))
    watch = Watch(words)
    with output.open("wb") as printed, watch.watching():
        daemon = subprocess.Popen(command, stdout=printed, stderr=printed)
        try:
            wait_for(lambda: {"inside-h1", "inside-h2"} <= {path.name for path in proof.iterdir()}, "the task")
            watch.look()
            (proof / "release").touch()
            wait_for(lambda: work.status().get("phase") == "Failed", "the end of the run")
            failed = re.compile(r'reconciler_batchjob_phase\{[^}]*phase="Failed"[^}]*\} 1')
            wait_for(lambda: failed.search(page(port, "/metrics")), "the failure in the metrics")
            metrics = page(port, "/metrics")
            while_it_lives = {word: files_with(secret, work.state) for word, secret in words.items()}
        finally:
            (proof / "release").touch()
            daemon.terminate()
            daemon.wait(timeout=PATIENCE)

    # the tasks had them
    used = f"{words['from_file']} {words['from_scalar']}"
    assert work.children() == {"h1": "success", "h2": "failed"}
    for host in ("h1", "h2"):
        assert (proof / host).read_text().split()[0] == hashlib.sha256(used.encode()).hexdigest()

    # nobody else
    assert any("ansible-playbook" in line for line in watch.seen)
    assert watch.leaks == set()
    nowhere: dict[str, list[str]] = {word: [] for word in words}
    assert files_with("Use the passwords", work.state), "what is not secret is found where it is looked for"
    assert while_it_lives == nowhere
    assert {word: files_with(secret, work.state) for word, secret in words.items()} == nowhere
    commands = [
        ["logs", "work"],
        ["logs", "work", "h1"],
        ["logs", "work", "--failed"],
        ["status", "work", "-o", "json"],
        ["history", "work", "-o", "json"],
        ["config", "show", "--config", str(config)],
        ["plan", str(work.root), "work", "--config", str(config)],
    ]
    answers = [work.call(*arguments) for arguments in commands]
    assert [answer.code for answer in answers] == [0] * len(commands), answers
    assert "TASK [Use the passwords]" in answers[1].out
    assert "no_log: true" in answers[2].out
    said = "\n".join([metrics, output.read_text(), *(answer.out + answer.err for answer in answers)])
    assert [word for word, secret in words.items() if secret in said] == []


def test_a_password_that_opens_nothing_is_said_without_being_shown(tmp_path: Path) -> None:
    """Ansible's own complaint is in the status; neither the password nor what it was to open is."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    words = {"secret": secrets.token_hex(16), "right": secrets.token_hex(16), "wrong": secrets.token_hex(16)}
    right.write_text(words["right"])
    wrong.write_text(words["wrong"])
    config = tmp_path / "reconciler.toml"
    config.write_text(f'[ansible]\nvault_password_files = ["{wrong}"]\n')
    work = Workspace(tmp_path, hosts=1)
    work.write("secrets.yml", encrypted(yaml.safe_dump({"token": words["secret"]}), right))
    work.job(extraVarsFiles=["secrets.yml"])

    done = work.call("run", "--once", str(work.root), "--config", str(config))

    assert done.code == 1
    assert work.status()["phase"] == "Failed"
    assert "Decryption failed" in work.status()["message"]
    assert "secrets.yml" in work.status()["message"]
    assert work.recorded() == []
    assert {word: files_with(secret, work.state) for word, secret in words.items()} == {word: [] for word in words}
    assert [word for word, secret in words.items() if secret in done.out + done.err] == []
