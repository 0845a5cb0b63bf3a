"""git as a child process that can always be ended, and what its complaints mean.

Nothing of the user's own git configuration counts, nothing is asked of a terminal, no hook runs, and no transport but
those allowed is used. Secrets are in files that git's children read: never in arguments, an environment or a message.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil

from reconciler.adapters.processes import end
from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.reasons import Reason
from reconciler.core.repository import Address, plain_text, redacted

KILL_AFTER = 2.0
"""Seconds between TERM and KILL."""

CONNECT_TIMEOUT = 15
"""Seconds within which ssh must have reached a server."""

PASSED_ON = (
    "HOME",
    "PATH",
    "SSH_AUTH_SOCK",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "all_proxy",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "GIT_SSL_CAINFO",
    "TMPDIR",
)
"""Variables of the environment that git gets too."""

ASKPASS = """#!/bin/sh
# git asks here for the user and the password of an https remote.
case "$1" in
Username*) printf '%s\\n' "$RECONCILER_GIT_USERNAME" ;;
*) cat -- "$RECONCILER_GIT_TOKEN_FILE" ;;
esac
"""

_SERVED = (
    "git -c 'safe.directory=*' -c core.hooksPath=/dev/null -c core.alternateRefsCommand=true -c receive.autogc=false"
)

_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.pager=cat",
    "credential.helper=",
    "fetch.fsckObjects=false",
    "gc.auto=0",
    "http.followRedirects=false",  # the token would go to whatever host the server names
    "log.showSignature=false",
    "maintenance.auto=false",
    "protocol.ext.allow=never",
    "safe.directory=*",
    "submodule.recurse=false",
)


@dataclass(frozen=True, slots=True)
class Access:
    """How a remote repository is reached. Files hold the secrets."""

    address: Address
    ssh_key_file: Path | None = None
    known_hosts_file: Path | None = None
    token_file: Path | None = None
    username: str = "git"

    def check(self) -> None:
        """Raises Refused (SettingsInvalid) for a file that can't be read."""
        for name in ("ssh_key_file", "known_hosts_file", "token_file"):
            file: Path | None = getattr(self, name)
            if file is not None and not os.access(file, os.R_OK):
                why = "which may not be read" if file.exists() else "which is not there"
                raise Refused(
                    Reason.SETTINGS_INVALID,
                    f"{self.address}: {name} names {file}, {why}",
                    "give the user that runs reconciler permission to read it",
                )


class GitFailed(Exception):
    """git ended with an error; `said` is its complaint without credentials."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code
        self.said = said


class Git:
    """Runs git for one source. Safe from several threads. `scratch` is a private folder for what git's children need."""

    def __init__(self, scratch: Path, timeout: timedelta, access: Access | None = None) -> None:
        """`access` None: nothing but what is on this disk is ever read."""
        self.timeout = timeout
        self.access = access
        self._scratch = scratch
        self._closed = False
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(
        self,
        *arguments: str,
        repository: Path | None = None,
        given: bytes = b"",
        remote: bool = False,
        more: Mapping[str, str] | None = None,
        settings: Sequence[str] = (),
        timeout: timedelta | None = None,
    ) -> bytes:
        """What git writes. `given` is its input, `more` joins its environment, `settings` are `name=value`; only with
        `remote` may it use a transport. Raises GitFailed, Unavailable (SourceTimeout, GitMissing; SourceUnavailable once
        closed)."""
        limit = timeout or self.timeout
        child = self.start(
            *arguments, repository=repository, remote=remote, more=more, settings=settings, stderr=subprocess.PIPE
        )
        try:
            ended = child.communicate(given, limit.total_seconds())
        except subprocess.TimeoutExpired:
            ended = None
        finally:
            self.ended(child)
        if self._closed:
            raise _stopped()
        if ended is None:
            what = (
                f"{self.access.address} did not answer" if remote and self.access else f"git {arguments[0]} did not end"
            )
            raise Unavailable(
                Reason.SOURCE_TIMEOUT,
                f"{what} within {limit.total_seconds():g} s",
                "see whether the server is well, or raise the source's timeout",
            )
        if child.returncode:
            raise GitFailed(child.returncode, _cleaned(ended[1].decode(errors="replace")))
        return ended[0]

    def start(
        self,
        *arguments: str,
        repository: Path | None = None,
        remote: bool = False,
        more: Mapping[str, str] | None = None,
        settings: Sequence[str] = (),
        stderr: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """A git that goes on by itself, until `ended`. Raises Unavailable."""
        options = [word for setting in (*_SETTINGS, *settings) for word in ("-c", setting)]
        place = ["--git-dir", str(repository)] if repository is not None else []
        with self._lock:
            if self._closed:
                raise _stopped()
            try:
                child = subprocess.Popen(
                    ["git", *options, *place, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env={**self._environment(remote=remote), **(more or {})},
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                raise _not_started(error) from error
            self._running.add(child)
        return child

    def ended(self, child: subprocess.Popen[bytes]) -> None:
        """See to it that a child is over and nothing of it left, whatever state it was in."""
        if child.poll() is None:
            _kill(child)
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        child.wait()
        with self._lock:
            self._running.discard(child)

    def close(self) -> None:
        """End every git that runs, and start none any more."""
        with self._lock:
            self._closed = True
            running = tuple(self._running)
        for child in running:
            _kill(child)

    def _environment(self, *, remote: bool) -> dict[str, str]:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_ALLOW_PROTOCOL": "",
        }
        if not remote or self.access is None:
            return environment
        access = self.access
        access.check()
        environment["GIT_ALLOW_PROTOCOL"] = access.address.protocol or "file"
        environment["GIT_SSH_VARIANT"] = "ssh"
        environment["GIT_SSH_COMMAND"] = shlex.join(("ssh", *_ssh_options(access)))
        if access.token_file is not None:
            environment["GIT_ASKPASS"] = str(self._askpass())
            environment["RECONCILER_GIT_USERNAME"] = access.username
            environment["RECONCILER_GIT_TOKEN_FILE"] = str(access.token_file)
        return environment

    def _askpass(self) -> Path:
        script = self._scratch / "askpass"
        if not script.exists():
            self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            being_made = script.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
            being_made.write_text(ASKPASS)
            being_made.chmod(0o700)
            being_made.rename(script)
        return script


def _ssh_options(access: Access) -> Sequence[str]:
    # A connection that is shared with later ones is a process that outlives git, and has its pipes open.
    alone = ("-oControlMaster=no", "-oControlPath=none", "-oControlPersist=no")
    options = ["-oBatchMode=yes", "-oStrictHostKeyChecking=yes", f"-oConnectTimeout={CONNECT_TIMEOUT}", *alone]
    if access.ssh_key_file is not None:
        options += ["-i", str(access.ssh_key_file), "-oIdentitiesOnly=yes"]
    if access.known_hosts_file is not None:
        options += [f"-oUserKnownHostsFile={access.known_hosts_file}", "-oGlobalKnownHostsFile=/dev/null"]
    return options


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        end((psutil.Process(child.pid),), KILL_AFTER)


def _stopped() -> Unavailable:
    return Unavailable(Reason.SOURCE_UNAVAILABLE, "reconciler is stopping")


def _not_started(error: OSError) -> ReconcilerError:
    if shutil.which("git") is None:
        return Refused(Reason.GIT_MISSING, "git is not installed", "install it where reconciler runs: apt install git")
    return Unavailable(
        Reason.GIT_MISSING, f"git does not start: {error.strerror}", "see limits of processes and memory"
    )


def _cleaned(said: str) -> str:
    """The complaint for people: on one line, without credentials, control characters, and git's own advice."""
    lines = (plain_text(line) for line in said.splitlines())
    kept = [line for line in lines if line and not line.startswith(("hint:", "warning: ", "Warning: Permanently"))]
    return redacted("; ".join(line.removeprefix("fatal: ").removeprefix("error: ") for line in kept))[:1000]


# == What git's complaints mean ======================================================================================
_MEANINGS: Sequence[tuple[Reason, str, str]] = (
    (
        Reason.NO_SPACE,
        r"no space left on device|disk quota exceeded",
        "make room where the state directory is; it goes on by itself",
    ),
    (
        Reason.SOURCE_HOST_KEY_UNKNOWN,
        r"host key verification failed|no \S+ host key is known|remote host identification has changed",
        "add the server's key, checked by hand, to the source's known_hosts_file",
    ),
    (
        Reason.SOURCE_AUTH_FAILED,
        r"permission denied \(|authentication failed|could not read (?:username|password)|access denied|returned error: 40[13]"
        r"|repository not found|returned error: 404|repository .*not found|not appear to be a git repository"
        r"|does not exist|not exported|too open|invalid format|error in libcrypto",
        "see url, ssh_key_file and token_file of the source, and that they may read the repository",
    ),
    (Reason.SETTINGS_INVALID, r"transport '[^']*' not allowed", "use https or ssh"),
    (
        Reason.SETTINGS_INVALID,
        r"returned error: 30\d|redirect",
        "the server has it at another address: set url to where a browser ends up",
    ),
    (
        Reason.SOURCE_BRANCH_MISSING,
        r"couldn't find remote ref|remote branch .* not found",
        "see branch or tag of the source; push it if it is gone by mistake",
    ),
    (
        Reason.SOURCE_UNREACHABLE,
        r"could not resolve|connection (?:refused|timed out|reset|closed)|failed to connect|couldn't connect"
        r"|unable to (?:connect|access)|network is unreachable|no route to host|operation timed out|hung up|early eof"
        r"|could not read from remote|returned error: (?:5\d\d|429)|unexpected disconnect|\bssl\b|ssl_|certificate|gnutls|kex_exchange",
        "see whether the server is up and can be reached from here; it is tried again",
    ),
)


_PATH = re.compile(r"'[^']*/[^']*'|(?<!\S)/\S+|[a-z]+://\S+")


def at_the_other_end(address: Address, service: str) -> tuple[str, ...]:
    """The option of ls-remote, fetch and push by which a repository on this machine is served: by a git that heeds
    nothing that the repository names, whoever owns it, and that leaves nothing behind. None for a server."""
    return (f"--{service}={_SERVED} {service}",) if address.protocol in (None, "file") else ()


def meaning(failure: GitFailed, address: Address) -> ReconcilerError | None:
    """What a complaint about a remote means for people; None if it is not about the remote."""
    words = _PATH.sub("", failure.said.replace(address.text, ""))  # names of folders and hosts are no complaint
    for reason, pattern, hint in _MEANINGS:
        if re.search(pattern, words, re.IGNORECASE):
            kind = Unavailable if reason in (Reason.NO_SPACE, Reason.SOURCE_UNREACHABLE) else Refused
            return kind(reason, f"{address}: {failure.said}", hint)
    return None
