"""Hosts to log in to: sshd instances on loopback addresses, one port, keys made at run time, no root needed.

Every address of 127.0.0.0/8 is this machine, so 127.0.1.1, 127.0.1.2, ... are as many "hosts". They share one file
system and one account, that of the user who runs the tests.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

_ADDRESSES_PER_SSHD = 16  # sshd's own bound on ListenAddress
_START_LIMIT = 60.0  # seconds
_STOP_LIMIT = 10.0  # seconds
_PORT_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class SshHost:
    """One host of the fleet. One that is not `up` refuses connections."""

    name: str
    address: str
    up: bool


def why_no_sshd() -> str | None:
    """Why sshd can't be used here; None if it can."""
    for program in ("ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: openssh-client)"
    if _sshd() is None:
        return "sshd is not installed (Debian: openssh-server)"
    return None


class SshFleet:
    """Hosts by name, at 127.0.1.1 and on; those in `down` refuse connections.

        with SshFleet(tmp_path / "ssh", ["web-1", "web-2"], down=["web-2"]) as fleet:
            inventory.write_text(json.dumps(fleet.inventory()))

    `private_key` opens every host, `stranger_key` none. `known_hosts` has all of them, `empty_known_hosts` nobody.
    Files are written below `directory` only, which is made.
    """

    def __init__(self, directory: Path, names: Sequence[str], *, down: Collection[str] = ()) -> None:
        if not 0 < len(names) < 255:
            raise ValueError("an SshFleet has 1 to 254 hosts")
        if unknown := set(down) - set(names):
            raise ValueError(f"down names hosts that are not in the fleet: {sorted(unknown)}")
        self.directory = directory
        self.hosts = tuple(
            SshHost(name, f"127.0.1.{number}", name not in down) for number, name in enumerate(names, start=1)
        )
        self.user = getpass.getuser()
        self.private_key = directory / "id_ed25519"
        self.stranger_key = directory / "stranger_ed25519"
        self.known_hosts = directory / "known_hosts"
        self.empty_known_hosts = directory / "known_hosts.empty"
        self.port = 0
        self._host_key = directory / "host_ed25519"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when every host that is up answers. Raises RuntimeError with sshd's own words if one does not."""
        self._make_keys()
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self.port = _free_port()
            self._start_daemons()
            try:
                self._wait_until_all_answer()
            except RuntimeError as failure:
                self.stop()
                # Between finding a port free and listening on it, somebody else may have taken it.
                if attempt < _PORT_ATTEMPTS and "Address already in use" in str(failure):
                    continue
                raise
            break
        entry = self._host_key.with_suffix(".pub").read_text().split()[:2]
        self.known_hosts.write_text("".join(f"[{h.address}]:{self.port} {' '.join(entry)}\n" for h in self.hosts))
        self.empty_known_hosts.write_text("")

    def stop(self) -> None:
        """End every sshd and every session of it."""
        family: list[psutil.Process] = []
        for daemon in self._daemons:
            if daemon.poll() is None:
                process = psutil.Process(daemon.pid)
                family += [*process.children(recursive=True), process]
        for process in family:
            _tell(process, kill=False)
        for process in psutil.wait_procs(family, timeout=_STOP_LIMIT)[1]:
            _tell(process, kill=True)
        for daemon in self._daemons:
            daemon.wait(_STOP_LIMIT)
        self._daemons.clear()

    def variables(self, name: str) -> dict[str, Any]:
        """Where a host is, as inventory variables: address and port, and the Python to run modules with."""
        host = next(host for host in self.hosts if host.name == name)
        return {
            "ansible_host": host.address,
            "ansible_port": self.port,
            "ansible_python_interpreter": sys.executable,
        }

    def inventory(self) -> dict[str, Any]:
        """All hosts, as a YAML or JSON inventory; keys and known_hosts are left to the settings."""
        return {"all": {"hosts": {host.name: self.variables(host.name) for host in self.hosts}}}

    def login_variables(self) -> dict[str, str]:
        """For bare Ansible: what reconciler's [ansible] settings say otherwise."""
        return {
            "ansible_user": self.user,
            "ansible_ssh_private_key_file": str(self.private_key),
            "ansible_ssh_common_args": f"-F none -o IdentitiesOnly=yes -o UserKnownHostsFile={self.known_hosts}",
        }

    def _make_keys(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for key in (self._host_key, self.private_key, self.stranger_key):
            if not key.exists():
                command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key.name, "-f", str(key)]
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        shutil.copyfile(self.private_key.with_suffix(".pub"), self.directory / "authorized_keys")

    def _start_daemons(self) -> None:
        if os.geteuid() == 0:
            # sshd started by root wants this folder; only the system's own service makes it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        up = [host.address for host in self.hosts if host.up]
        for number, start in enumerate(range(0, len(up), _ADDRESSES_PER_SSHD)):
            config = self.directory / f"sshd_config.{number}"
            config.write_text(self._config(up[start : start + _ADDRESSES_PER_SSHD]))
            _leave_out_unknown_options(config)
            log = self.directory / f"sshd.{number}.log"
            command = [_sshd() or "sshd", "-D", "-f", str(config), "-E", str(log)]
            self._daemons.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True))

    def _config(self, addresses: Sequence[str]) -> str:
        listen = "".join(f"ListenAddress {address}\n" for address in addresses)
        # SHLVL keeps bash from reading ~/.bashrc at each command: a slow one would multiply every task's time.
        # PerSourcePenalties would refuse everybody after one test of a refused login: all come from one address.
        return f"""\
Port {self.port}
{listen}HostKey {self._host_key}
AuthorizedKeysFile {self.directory / "authorized_keys"}
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 200
MaxSessions 200
PrintMotd no
SetEnv SHLVL=2
Subsystem sftp internal-sftp
LogLevel INFO
PerSourcePenalties no
"""

    def _wait_until_all_answer(self) -> None:
        deadline = time.monotonic() + _START_LIMIT
        for host in (host for host in self.hosts if host.up):
            while not _speaks_ssh(host.address, self.port):
                ended = any(daemon.poll() is not None for daemon in self._daemons)
                if ended or time.monotonic() > deadline:
                    raise RuntimeError(f"no sshd at {host.address}:{self.port}: {self._words()}")
                time.sleep(0.05)
        # Another sshd may have had the port: ours must be alive for the answers to count.
        if any(daemon.poll() is not None for daemon in self._daemons):
            raise RuntimeError(f"sshd ended: {self._words()}")

    def _words(self) -> str:
        return " | ".join(log.read_text().strip() for log in sorted(self.directory.glob("sshd.*.log")))


def _sshd() -> str | None:
    # sshd starts itself again for each login and therefore insists on its absolute path.
    found = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    return str(Path(found).absolute()) if found else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _speaks_ssh(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _leave_out_unknown_options(config: Path) -> None:
    """Options that this sshd is too old to know; another fault of the file is for sshd itself to tell."""
    check = subprocess.run(
        [_sshd() or "sshd", "-t", "-f", str(config)], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if "Bad configuration option: PerSourcePenalties" in check.stderr:
        lines = config.read_text().splitlines(keepends=True)
        config.write_text("".join(line for line in lines if not line.startswith("PerSourcePenalties")))


def _tell(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        return
