"""Everything a run needs, looked at before one is wanted: tools, credentials, folders, database, manifests, playbooks.

Nothing is changed, and no host is touched.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reconciler import app as parts
from reconciler.adapters.ansible.launch import ansible_version, check_syntax
from reconciler.core.errors import ReconcilerError, Refused
from reconciler.core.plans import Blocked
from reconciler.engine.preview import Preview
from reconciler.settings import Settings
from reconciler.sources import BuiltSource, for_a_look

LITTLE_SPACE = 1 << 30
"""Bytes free in the state directory below which it is worth a note."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. A `note` is worth knowing; a `problem` will make runs fail."""

    level: Literal["ok", "note", "problem"]
    about: str
    message: str
    hint: str = ""


def examine(settings: Settings, path: Path | None) -> Iterator[Finding]:
    """Look at everything, the simplest first: at a path, or at the sources of the settings if none is given."""
    yield Finding("ok", "python", platform.python_version())
    ansible_found = True
    for finding in _tools(settings):
        ansible_found = ansible_found and not (finding.about == "ansible" and finding.level == "problem")
        yield finding
    yield from _credentials(settings)
    yield from _state(settings)
    root = path if path is not None or settings.sources else Path()
    if root is not None and not root.is_dir():
        yield Finding("problem", "source", f"there is no directory {root}", "name the one with the manifests")
        return
    try:
        with for_a_look(settings, root) as built:
            for each in built:
                yield from _source(settings, each, ansible_found=ansible_found)
    except ReconcilerError as error:
        yield Finding("problem", "source", error.message, error.hint)


def _tools(settings: Settings) -> Iterator[Finding]:
    try:
        yield Finding("ok", "ansible", ansible_version(parts.ansible_options(settings)))
    except ReconcilerError as error:
        yield Finding("problem", "ansible", error.message, error.hint)
    for name, option, why in (
        ("git", "--version", "sources in git need it"),
        ("ssh", "-V", "hosts with the ssh connection need it"),
    ):
        path = shutil.which(name)
        if path is None:
            yield Finding("note", name, f"not on PATH; {why}", f"install {name}")
            continue
        done = subprocess.run([path, option], capture_output=True, text=True, timeout=60, check=False)
        yield Finding("ok", name, (done.stdout or done.stderr).split("\n", 1)[0])


def _credentials(settings: Settings) -> Iterator[Finding]:
    said = settings.ansible
    files: list[tuple[str, Path | None]] = [
        ("private_key_file", said.private_key_file),
        *(("vault_password_files", path) for path in said.vault_password_files),
        ("become_password_file", said.become_password_file),
        ("known_hosts_file", said.known_hosts_file),
    ]
    for name, named in files:
        if named is None:
            continue
        path = named.expanduser()
        if not os.access(path, os.R_OK):
            yield Finding("problem", f"ansible.{name}", f"{path} is not there or can't be read", "see its permissions")
        elif name != "known_hosts_file" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            level: Literal["note", "problem"] = "problem" if name == "private_key_file" else "note"
            yield Finding(level, f"ansible.{name}", f"others may read {path}", f"chmod 600 {path}")
        else:
            yield Finding("ok", f"ansible.{name}", str(path))


def _state(settings: Settings) -> Iterator[Finding]:
    folder = settings.state_dir.resolve()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("problem", "state directory", f"{there} can't be written", "see --state-dir")
        return
    free = shutil.disk_usage(there).free
    if free < LITTLE_SPACE:
        yield Finding("note", "state directory", f"{folder}: only {free >> 20} MiB are free", "logs are kept there")
    else:
        yield Finding("ok", "state directory", f"{folder}, {free >> 30} GiB free")
    try:
        store = parts.open_store(settings)
    except Refused as error:
        # A database that is not there yet is made by the first run; one of another version is not for this one.
        yield Finding("note", "database", error.message, error.hint)
        return
    except ReconcilerError as error:
        yield Finding("problem", "database", error.message, error.hint)
        return
    store.close()
    yield Finding("ok", "database", "it answers, and its schema is this version's")
    running = parts.daemon_runs(settings)
    yield Finding(
        "ok", "daemon", "one runs on this state directory" if running else "none runs on this state directory"
    )


def _source(settings: Settings, built: BuiltSource, *, ansible_found: bool) -> Iterator[Finding]:
    about = f"source {built.source.name}"
    try:
        snapshot = built.source.sync()
        commit = f', "{snapshot.commit.subject}" by {snapshot.commit.author}' if snapshot.commit is not None else ""
        yield Finding("ok", about, f"{built.place} is read, at {snapshot.revision}{commit}")
        for note in snapshot.notes:
            yield Finding("note", about, note)
        if not ansible_found:
            return
        previews, rejected = parts.preview_of(settings, snapshot, None)
        tree = snapshot.root
    except ReconcilerError as error:
        yield Finding("problem", about, error.message, error.hint)
        return
    for entry in rejected:
        yield Finding("problem", "manifest", str(entry.first), entry.first.hint)
    if not previews and not rejected:
        globs = " or ".join(settings.manifests)
        yield Finding("note", about, f"{built.place} has no manifest ({globs})", "reconciler new writes one")
    for found in previews:
        name, blocked = f"batch {found.desired.record.key.name}", found.plan.blocked
        if blocked is not None:
            yield Finding("problem", name, f"{blocked.reason}: {blocked.message}", blocked.hint)
        else:
            hosts, waves = found.desired.hosts, found.plan.waves
            selected = _count(len(hosts), "host") if not isinstance(hosts, Blocked) else "no host"
            would = f"{_count(len(waves), 'wave')} to run" if waves else "nothing to run"
            yield Finding("ok", name, f"{selected} selected, {would}")
        for warning in found.plan.warnings:
            yield Finding("note", name, warning)
    yield from _playbooks(settings, tree, previews)


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"


def _playbooks(settings: Settings, root: Path, previews: Sequence[Preview]) -> Iterator[Finding]:
    seen = set()
    for found in previews:
        options = parts.ansible_options(settings, found.key.source)
        spec = found.desired.spec
        question = (spec.playbook, spec.inventory)
        if question in seen or not (root / spec.playbook).is_file():
            continue
        seen.add(question)
        complaint = check_syntax(options, root.resolve(), spec.playbook, spec.inventory)
        if complaint is None:
            yield Finding("ok", spec.playbook, "Ansible finds its roles, modules and collections")
        else:
            hint = "install what is missing for the daemon's user: ansible-galaxy install -r requirements.yml"
            yield Finding("problem", spec.playbook, complaint, hint)
