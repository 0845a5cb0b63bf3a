"""Starting ansible-playbook through ansible-runner, and ending it with everything it started.

What ansible-runner would do by default and must not: hand the daemon's environment on (and write it to its artifacts),
put extra vars on the command line, switch host key checking off, replace signal handlers, kill one process group only.
"""

from __future__ import annotations

import configparser
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import yaml
from ansible_runner.config.runner import RunnerConfig
from ansible_runner.runner import Runner as RunnerProcess

from reconciler.adapters.ansible.logs import Logbook
from reconciler.adapters.ansible.outcomes import Evidence
from reconciler.adapters.processes import MARK, descendants, end, end_slice
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.reasons import Reason
from reconciler.ports import LogLine, PlaybookResult, PlaybookWork, StopKind

CALLBACKS = Path(__file__).parent / "callback_plugins"
COMPANION = "reconciler_companion"
POLL = 0.2
"""Seconds between two questions whether to stop."""


@dataclass(frozen=True, slots=True)
class AnsibleOptions:
    """How Ansible is started: the settings [ansible]."""

    ansible_playbook: str | None = None
    private_key_file: Path | None = None
    vault_password_files: tuple[Path, ...] = ()
    become_password_file: Path | None = None
    remote_user: str | None = None
    ssh_common_args: str | None = None
    known_hosts_file: Path | None = None
    pass_env: tuple[str, ...] = ("SSH_AUTH_SOCK",)
    pipelining: bool | None = None


def find_ansible_playbook(options: AnsibleOptions) -> Path:
    """The ansible-playbook to use. Raises Unavailable (AnsibleMissing)."""
    named = options.ansible_playbook
    beside = Path(sys.executable).with_name("ansible-playbook")
    found = shutil.which(named) if named else str(beside) if beside.exists() else shutil.which("ansible-playbook")
    if found is None:
        what = f"ansible.ansible_playbook is {named}, which" if named else "ansible-playbook"
        raise Unavailable(
            Reason.ANSIBLE_MISSING,
            f"{what} was not found" if not named else f"{what} is not there or can't be executed",
            "install ansible-core, or set ansible.ansible_playbook",
        )
    return Path(found)


def ansible_version(options: AnsibleOptions) -> str:
    """What it says of itself, in one line. Raises Unavailable (AnsibleMissing)."""
    path = find_ansible_playbook(options)
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(Reason.ANSIBLE_MISSING, f"{path} does not start: {error}") from error
    return done.stdout.split("\n", 1)[0]


class AnsibleRunner:
    """The Runner port."""

    def __init__(self, options: AnsibleOptions) -> None:
        self._options = options

    def prepare(self, work: PlaybookWork) -> PreparedAnsible:
        playbook = find_ansible_playbook(self._options)
        for path in (work.playbook, *work.inventory, *work.extra_vars_files):
            _inside(work.project, path)
        if work.directory.exists():
            shutil.rmtree(work.directory)
        (work.directory / "env").mkdir(mode=0o700, parents=True)
        work.directory.chmod(0o700)
        _write(work.directory / "hosts", "".join(f"{host}\n" for host in work.hosts))
        _write(work.directory / "env" / "settings", json.dumps({"pexpect_timeout": POLL, "suppress_output_file": True}))
        if work.extra_vars:
            _write(work.directory / "extra_vars.yml", _as_data(work.extra_vars))
        return PreparedAnsible(work, playbook, self._options)


class PreparedAnsible:
    """A playbook that is ready to start."""

    def __init__(self, work: PlaybookWork, playbook: Path, options: AnsibleOptions) -> None:
        self._work = work
        self._playbook = playbook
        self._options = options
        self._companion = work.directory / "companion.jsonl"

    def run(self, log: Callable[[LogLine], None], stop: Callable[[], StopKind | None]) -> PlaybookResult:
        home = str(self._work.project)
        evidence, logbook = Evidence(self._work.hosts, home), Logbook(home)
        stopped: StopKind | None = None

        def on_event(event: Mapping[str, Any]) -> bool:
            evidence.add(event)
            for line in logbook.lines(event):
                log(line)
            return False  # no file of it

        def on_turn() -> bool:
            nonlocal stopped
            if stopped is None:
                stopped = stop()
                if stopped is not None:
                    end(descendants(os.getpid()))
            return stopped is not None

        process = RunnerProcess(self._config(), event_handler=on_event, cancel_callback=on_turn)
        try:
            process.run()
        except pexpect.TIMEOUT:
            # ansible-runner waits 5 s for the end of the output, which a process left behind may keep open (#1343)
            process.rc = None if process.rc is None else process.rc
        finally:
            self._end_all()
        result = evidence.judge(self._report(), None if stopped is not None else process.rc, stopped)
        shutil.rmtree(self._work.directory)
        return result

    def _end_all(self) -> None:
        """What the playbook has left behind, wherever it went."""
        end(descendants(os.getpid()))
        if (mark := self._work.mark.get(MARK)) is not None:
            end_slice(mark)

    def _report(self) -> list[dict[str, Any]]:
        try:
            text = self._companion.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.split("\n")[:-1]]

    # -- how it is started -------------------------------------------------------------------------------------------
    def _config(self) -> RunnerConfig:
        work = self._work
        config = RunnerConfig(
            private_data_dir=str(work.directory),
            project_dir=str(work.project),
            ident="run",
            playbook=str(work.project / work.playbook),
            inventory=[str(work.project / path) for path in work.inventory] or None,
            limit=f"@{work.directory / 'hosts'}",
            forks=len(work.hosts),
            cmdline=shlex.join(self._arguments()),
            quiet=True,
        )
        config.prepare()
        config.command[0] = str(self._playbook)
        own = {name: value for name, value in config.env.items() if os.environ.get(name) != value}
        config.env = {**own, **self._environment()}
        config.env["ANSIBLE_CALLBACK_PLUGINS"] = ":".join(
            (config.env["ANSIBLE_CALLBACK_PLUGINS"], str(CALLBACKS), *self._users_callback_folders())
        )
        return config

    def _arguments(self) -> list[str]:
        work, options = self._work, self._options
        arguments: list[str] = []
        for path in work.extra_vars_files:
            arguments += ["-e", f"@{work.project / path}"]
        if work.extra_vars:
            arguments += ["-e", f"@{work.directory / 'extra_vars.yml'}"]
        if work.tags:
            arguments += ["--tags", ",".join(work.tags)]
        if work.skip_tags:
            arguments += ["--skip-tags", ",".join(work.skip_tags)]
        if work.check_mode:
            arguments += ["--check", "--diff"]
        for file in options.vault_password_files:
            arguments += ["--vault-password-file", str(file)]
        if options.become_password_file is not None:
            arguments += ["--become-password-file", str(options.become_password_file)]
        if options.private_key_file is not None:
            arguments += ["--private-key", str(options.private_key_file)]
        if options.remote_user is not None:
            arguments += ["--user", options.remote_user]
        return arguments

    def _environment(self) -> dict[str, str]:
        """All that Ansible gets, beside what ansible-runner needs for itself."""
        work, options = self._work, self._options
        names = ("PATH", "HOME", *options.pass_env)
        passed = {name: os.environ[name] for name in names if name in os.environ}
        user = _Config(work.project / "ansible.cfg")
        enabled = user.words("defaults", "callbacks_enabled", "callback_enabled", "callback_whitelist")
        limit = int(work.task_timeout.total_seconds())
        own = user.text("defaults", "task_timeout")
        environment = {
            **passed,
            **work.mark,
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "ANSIBLE_CALLBACKS_ENABLED": ",".join((*enabled, COMPANION)),
            "ANSIBLE_LOCAL_TEMP": str(work.directory / "tmp"),
            "ANSIBLE_RETRY_FILES_ENABLED": "False",
            "ANSIBLE_TASK_TIMEOUT": own if own.isdigit() and 0 < int(own) < limit else str(limit),
            "ANSIBLE_HOST_KEY_CHECKING": user.text("defaults", "host_key_checking") or "True",
            "RECONCILER_COMPANION": str(self._companion),
            "RECONCILER_COMPANION_HOSTS": str(work.directory / "hosts"),
        }
        if user.path.is_file():
            environment["ANSIBLE_CONFIG"] = str(user.path)
        ssh = [user.text("ssh_connection", "ssh_common_args"), options.ssh_common_args or ""]
        if options.known_hosts_file is not None:
            ssh.append(f"-o UserKnownHostsFile={shlex.quote(str(options.known_hosts_file))}")
        if said := " ".join(part for part in ssh if part):
            environment["ANSIBLE_SSH_COMMON_ARGS"] = said
        if options.pipelining is not None:
            environment["ANSIBLE_PIPELINING"] = str(options.pipelining)
        return environment

    def _users_callback_folders(self) -> list[str]:
        user = _Config(self._work.project / "ansible.cfg")
        folders = user.text("defaults", "callback_plugins").split(":")
        beside = str(self._work.project / "callback_plugins")
        return [str(self._work.project / Path(folder).expanduser()) for folder in folders if folder] + [beside]


class _Config:
    """A user's ansible.cfg, as far as it is merged with ours; Ansible itself says what is wrong in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parser = configparser.RawConfigParser(inline_comment_prefixes=(";",), strict=False)
        try:
            self._parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            self._parser.clear()

    def text(self, section: str, *names: str) -> str:
        found = (self._parser.get(section, name, fallback=None) for name in names)
        return next((value.strip() for value in found if value), "")

    def words(self, section: str, *names: str) -> list[str]:
        return [word for word in (part.strip() for part in self.text(section, *names).split(",")) if word]


def _inside(project: Path, path: str) -> None:
    """What runs is in the snapshot, links resolved."""
    root = project.resolve()
    target = (root / path).resolve()
    if not target.is_relative_to(root):
        raise Refused(Reason.PATH_OUTSIDE_SOURCE, f"{path} leads out of the source", "keep it in the repository")
    if not target.exists():
        raise Refused(Reason.PATH_MISSING, f"the source has no {path}", "paths are relative to its root")


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


# -- extra vars as data ----------------------------------------------------------------------------------------------
_STR = "tag:yaml.org,2002:str"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Ansible reads what is below `!unsafe` as if it were not quoted: "0644" would become 420. What YAML takes for
    # anything but text holds no template.
    is_text = dumper.resolve(yaml.ScalarNode, text, (True, False)) == _STR  # type: ignore[no-untyped-call]
    return dumper.represent_scalar("!unsafe" if is_text else _STR, text, style='"')


def _mapping(dumper: yaml.SafeDumper, mapping: dict[str, Any]) -> yaml.Node:
    if set(mapping) == {"__ansible_vault"}:
        return dumper.represent_scalar("!vault", mapping["__ansible_vault"], style="|")
    pairs = [(yaml.ScalarNode(_STR, key, style='"'), dumper.represent_data(value)) for key, value in mapping.items()]
    return yaml.MappingNode("tag:yaml.org,2002:map", pairs)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(dict, _mapping)


def _as_data(variables: Mapping[str, Any]) -> str:
    """YAML in which no text is a template: Ansible takes `!unsafe` as it stands, once it is text."""
    return yaml.dump(_plain_data(variables), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _plain_data(value: object) -> Any:
    match value:
        case Mapping():
            return {str(key): _plain_data(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain_data(item) for item in value]
        case _:
            return value
