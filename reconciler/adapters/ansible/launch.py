"""How ansible-playbook is started: which one, with what arguments, in what environment.

What ansible-runner would do by default and must not: hand the daemon's environment on (and write it to its artifacts),
put extra vars on the command line, switch host key checking off, replace the user's callbacks and fact cache.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_runner.config.runner import RunnerConfig

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.reasons import Reason
from reconciler.ports import PlaybookWork

CALLBACKS = Path(__file__).parent / "callback_plugins"
COMPANION = "reconciler_companion"

_OF_RUNNER = (
    "ANSIBLE_CALLBACK_PLUGINS",
    "ANSIBLE_STDOUT_CALLBACK",
    "AWX_ISOLATED_DATA_DIR",
    "RUNNER_OMIT_EVENTS",
    "RUNNER_ONLY_FAILED_EVENTS",
)
"""What ansible-runner's own callback needs; the rest of what it sets is not wanted."""


ALONE = """
import fcntl, os, sys, termios
try:
    fcntl.ioctl(0, termios.TIOCNOTTY)
except OSError:  # there is none
    pass
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
try:
    os.execv(sys.argv[1], sys.argv[1:])
except OSError as error:
    print(f"ERROR! {sys.argv[1]} can't be executed: {error.strerror}")
    sys.exit(127)
"""
"""Becomes the program it is given, once it has neither a terminal nor anything to read: ansible-runner starts it in a
terminal of its own, where it would wait for ever for an answer to `pause`, `ask_pass` or a debugger."""


@dataclass(frozen=True, slots=True)
class AnsibleOptions:
    """How Ansible is started: the settings [ansible]. Paths are absolute."""

    ansible_playbook: str | None = None
    private_key_file: Path | None = None
    vault_password_files: tuple[Path, ...] = ()
    become_password_file: Path | None = None
    remote_user: str | None = None
    ssh_common_args: str | None = None
    known_hosts_file: Path | None = None
    pass_env: tuple[str, ...] = ("SSH_AUTH_SOCK",)
    pipelining: bool | None = None
    default_inventory: tuple[str, ...] = ()
    """Relative to the project: where hosts come from when neither the work nor its ansible.cfg names an inventory."""


def find_ansible_playbook(options: AnsibleOptions) -> Path:
    """The ansible-playbook to use. Raises Unavailable (AnsibleMissing)."""
    named = options.ansible_playbook
    beside = Path(sys.executable).with_name("ansible-playbook")
    if not named and beside.exists():
        return beside.absolute()
    found = shutil.which(Path(named or beside.name).expanduser())
    if found is None:
        what = f"ansible.ansible_playbook is {named}, which" if named else "ansible-playbook"
        raise Unavailable(
            Reason.ANSIBLE_MISSING,
            f"{what} was not found" if not named else f"{what} is not there or can't be executed",
            "install ansible-core, or set ansible.ansible_playbook",
        )
    return Path(found).absolute()


def ansible_version(options: AnsibleOptions) -> str:
    """What it says of itself, in one line. Raises Unavailable (AnsibleMissing)."""
    path = find_ansible_playbook(options)
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=60, check=True, env=_passed(options)
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(
            Reason.ANSIBLE_MISSING, f"{path} does not start: {error}", "try it by hand, as the daemon's user"
        ) from error
    return done.stdout.split("\n", 1)[0]


def check_syntax(options: AnsibleOptions, project: Path, playbook: str, inventory: Sequence[str]) -> str | None:
    """What Ansible has against a playbook before it runs on anything: a role, a module or a collection that is missing
    shows here. None: nothing. Raises Unavailable (AnsibleMissing)."""
    arguments = [str(find_ansible_playbook(options)), "--syntax-check", playbook]
    for source in inventory:
        arguments += ["-i", source]
    for path in options.vault_password_files:
        arguments += ["--vault-password-file", str(path)]
    environment = {**_passed(options), "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"}
    if (own := project / "ansible.cfg").is_file():
        environment["ANSIBLE_CONFIG"] = str(own)
    try:
        done = subprocess.run(
            arguments, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(Reason.ANSIBLE_MISSING, f"ansible-playbook could not be asked: {error}", "") from error
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip()


def _somewhere_short() -> Path:
    """The path of a socket has a hundred characters at most. Nobody can guess the name, and lie in wait there."""
    return Path(tempfile.gettempdir(), f"reconciler-{secrets.token_hex(8)}")


@dataclass(frozen=True, slots=True)
class Folder:
    """Where everything of one run lies: the private directory of a slice, gone when it is over."""

    path: Path
    sockets: Path = field(default_factory=_somewhere_short)
    """Of the ssh connections that its tasks share: made by Ansible when it needs it."""

    @property
    def left(self) -> Path:
        """Says where `sockets` are, for whoever has to tidy up when the process of the slice can't."""
        return self.path / "left"

    @property
    def hosts(self) -> Path:
        return self.path / "hosts"

    @property
    def extra_vars(self) -> Path:
        return self.path / "env" / "extravars"

    @property
    def report(self) -> Path:
        """What the companion writes."""
        return self.path / "companion.jsonl"

    @property
    def temporary(self) -> Path:
        return self.path / "tmp"

    @property
    def settings(self) -> Path:
        """ansible-runner's own; given as arguments they would be dropped."""
        return self.path / "env" / "settings"


def check_work(work: PlaybookWork, options: AnsibleOptions) -> None:
    """Raises Refused: PathMissing, PathOutsideSource, SettingsInvalid."""
    for path in (work.playbook, *_inventory(work, options), *work.extra_vars_files):
        _check_inside(work.project, path)
    named = {
        "private_key_file": (options.private_key_file,),
        "vault_password_files": options.vault_password_files,
        "become_password_file": (options.become_password_file,),
        "known_hosts_file": (options.known_hosts_file,),
    }
    for name, files in named.items():
        for file in files:
            if file is not None and not os.access(file, os.R_OK):
                raise Refused(
                    Reason.SETTINGS_INVALID,
                    f"ansible.{name} is {file}, which is not there or can't be read",
                    "it must be readable for the user of the daemon",
                )


def _check_inside(project: Path, path: str) -> None:
    """What runs is in the snapshot, links resolved."""
    root = project.resolve()
    target = (root / path).resolve()
    if not target.is_relative_to(root):
        raise Refused(Reason.PATH_OUTSIDE_SOURCE, f"{path} leads out of the source", "keep it in the repository")
    if not target.exists():
        raise Refused(Reason.PATH_MISSING, f"the source has no {path}", "paths are relative to its root")


def _inventory(work: PlaybookWork, options: AnsibleOptions) -> tuple[str, ...]:
    """The same that the hosts were selected from. Empty: what the project's ansible.cfg names."""
    if work.inventory or UserConfig(work.project / "ansible.cfg").names_inventory():
        return work.inventory
    return options.default_inventory


def runner_config(work: PlaybookWork, options: AnsibleOptions, playbook: Path, folder: Folder) -> RunnerConfig:
    """All that ansible-runner needs to start `playbook` (the program). The files of `folder` are there already."""
    user = UserConfig.of(work.project)
    config = RunnerConfig(
        private_data_dir=str(folder.path),
        project_dir=str(work.project),
        ident="run",
        playbook=str(work.project / work.playbook),
        inventory=[str(work.project / path) for path in _inventory(work, options)] or None,
        limit=_limit(work, folder),
        forks=len(work.hosts),
        tags=",".join(work.tags),
        skip_tags=",".join(work.skip_tags),
        cmdline=shlex.join(_arguments(work, options)) or None,
        envvars={"ANSIBLE_CALLBACK_PLUGINS": ":".join((str(CALLBACKS), *user.callback_folders()))},
        fact_cache_type="as the user has it",
        quiet=True,
    )
    config.prepare()
    # It waits for questions, and keeps all that was printed since it last met one: so each piece counts as one, to which
    # nothing is answered.
    config.expect_passwords = {re.compile(".+", re.DOTALL): None, **config.expect_passwords}
    config.command[:1] = [sys.executable, "-I", "-S", "-c", ALONE, str(playbook)]
    config.env = {name: config.env[name] for name in _OF_RUNNER} | _environment(work, options, user, folder)
    return config


def _limit(work: PlaybookWork, folder: Folder) -> str:
    """Relative to the project, where ansible-playbook starts: Ansible takes a path apart at commas, colons and blanks,
    and what lies above both folders was named by somebody else."""
    return f"@{os.path.relpath(folder.hosts.resolve(), work.project.resolve())}"


def _arguments(work: PlaybookWork, options: AnsibleOptions) -> list[str]:
    """No value that could be a secret: everybody on the machine can read them."""
    arguments: list[str] = []
    for path in work.extra_vars_files:
        arguments += ["-e", f"@{work.project / path}"]
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


def _passed(options: AnsibleOptions) -> dict[str, str]:
    """What Ansible gets of the environment of this process."""
    names = ("PATH", "HOME", *options.pass_env)
    return {name: os.environ[name] for name in names if name in os.environ}


def _environment(work: PlaybookWork, options: AnsibleOptions, user: UserConfig, folder: Folder) -> dict[str, str]:
    """All that Ansible gets, beside what ansible-runner's callback needs."""
    environment = {
        **_passed(options),
        **work.mark,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ANSIBLE_CALLBACKS_ENABLED": ",".join((*user.callbacks(), COMPANION)),
        "ANSIBLE_LOCAL_TEMP": str(folder.temporary),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "ANSIBLE_TASK_TIMEOUT": str(user.task_timeout(int(work.task_timeout.total_seconds()))),
        "RECONCILER_COMPANION": str(folder.report),
        "RECONCILER_COMPANION_HOSTS": str(folder.hosts),
    }
    if (own := work.project / "ansible.cfg").is_file():
        environment["ANSIBLE_CONFIG"] = str(own)
    if not user.places_sockets():
        environment.setdefault("ANSIBLE_SSH_CONTROL_PATH_DIR", str(folder.sockets))
    if options.ssh_common_args:
        environment["ANSIBLE_SSH_COMMON_ARGS"] = user.with_ours(
            "ssh_connection", "ssh_common_args", options.ssh_common_args
        )
    if options.known_hosts_file is not None:
        # beside ssh_common_args, which a group's variables often replace to name a jump host
        file = shlex.quote(f'UserKnownHostsFile="{options.known_hosts_file}"')
        environment["ANSIBLE_SSH_EXTRA_ARGS"] = user.with_ours("ssh_connection", "ssh_extra_args", f"-o {file}")
    if options.pipelining is not None:
        environment["ANSIBLE_PIPELINING"] = str(options.pipelining)
    return environment


class UserConfig:
    """The ansible.cfg that counts, as far as it is merged with what we set; what is wrong in it, Ansible itself says."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._parser = configparser.RawConfigParser(inline_comment_prefixes=(";",), strict=False)
        try:
            self._parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            self._parser.clear()

    @classmethod
    def of(cls, project: Path) -> UserConfig:
        """The project's, else that of the user, else that of the machine: the order in which Ansible looks."""
        candidates = (project / "ansible.cfg", Path.home() / ".ansible.cfg", Path("/etc/ansible/ansible.cfg"))
        return cls(next((path for path in candidates if path.is_file()), candidates[0]))

    def callbacks(self) -> list[str]:
        said = self._text("defaults", "callbacks_enabled") or self._text("defaults", "callback_whitelist")
        return [word for word in (part.strip() for part in said.split(",")) if word]

    def callback_folders(self) -> list[str]:
        """Where Ansible would look for callbacks if we named no folder of our own."""
        said = (
            self._text("defaults", "callback_plugins")
            or "~/.ansible/plugins/callback:/usr/share/ansible/plugins/callback"
        )
        return [str(self._folder / Path(os.path.expandvars(part)).expanduser()) for part in said.split(":") if part]

    def names_inventory(self) -> bool:
        return bool(self._text("defaults", "inventory"))

    def places_sockets(self) -> bool:
        """Whether they say where ssh keeps the connections that tasks share."""
        said = [self._text("ssh_connection", name) for name in ("control_path", "control_path_dir")]
        return any(said) or "controlpath" in self._text("ssh_connection", "ssh_args").lower()

    def task_timeout(self, seconds: int) -> int:
        """The smaller one of theirs and ours; theirs may be 0, which means none."""
        said = self._text("defaults", "task_timeout")
        return min(seconds, int(said)) if said.isdigit() and int(said) > 0 else seconds

    def with_ours(self, section: str, name: str, ours: str) -> str:
        return " ".join(part for part in (self._text(section, name), ours) if part)

    def _text(self, section: str, name: str) -> str:
        return (self._parser.get(section, name, fallback=None) or "").strip()


# -- what is written before it starts --------------------------------------------------------------------------------
def write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def one_a_line(hosts: Iterable[str]) -> str:
    return "".join(f"{host}\n" for host in hosts)


def as_data(variables: Mapping[str, Any]) -> str:
    """JSON, as Ansible itself writes and reads it, in which no text is a template.

    Not YAML: there Ansible reads the text behind `!unsafe` once more, and makes 1350 of "22:30".
    """
    return json.dumps({name: _as_data(value) for name, value in variables.items()})


def _as_data(value: object) -> object:
    match value:
        case str():
            return {"__ansible_unsafe": value}
        case {"__ansible_vault": str(), **others} if not others:
            return value
        case Mapping():
            return {str(key): _as_data(item) for key, item in value.items()}
        case list() | tuple():
            return [_as_data(item) for item in value]
        case _:
            return value
