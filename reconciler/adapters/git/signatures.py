"""Whether a commit is signed by somebody listed: git has the signature checked, the list alone says whose counts."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reconciler.adapters.git.command import Git, GitFailed
from reconciler.adapters.git.repository import damaged
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.reasons import Reason

Kind = Literal["ssh", "gpg"]

_PROGRAMS: Mapping[Kind, tuple[str, str]] = {"ssh": ("ssh-keygen", "openssh-client"), "gpg": ("gpg", "gnupg")}
"""What checks a signature, and the package that has it."""

_FORMATS = {b"SSH SIGNATURE": "ssh", b"PGP SIGNATURE": "gpg", b"PGP MESSAGE": "gpg", b"SIGNED MESSAGE": "x509"}

# A repository of this machine may belong to somebody else, and its own settings must neither choose a program nor a file.
_SETTINGS = (
    "gpg.program=gpg",
    "gpg.openpgp.program=gpg",
    "gpg.x509.program=gpgsm",
    "gpg.ssh.program=ssh-keygen",
    "gpg.ssh.revocationFile=",
)

# It is never written to after the keys are in it, so it needs no locks; who may sign is not a matter of gpg's trust, but
# of being in it at all. A helper of gpg would outlive the process that started it.
_GPG_CONF = """\
batch
no-tty
no-autostart
no-auto-key-retrieve
lock-never
trust-model always
"""

_IMPORTED = re.compile(rb"^\[GNUPG:\] IMPORT_OK \d+ ([0-9A-F]+)", re.MULTILINE)
_KEY_OF_GPG = re.compile(r"using \S+ key ([0-9A-F]+)")
_ANOTHER_TIME = re.compile(r"key (?:has expired|is not yet valid)")


@dataclass(frozen=True, slots=True)
class Signers:
    """Who may sign. `file` is absolute: of ssh the allowed signers, as ssh-keygen(1) has them; of gpg the public keys,
    armored or not."""

    kind: Kind
    file: Path


@dataclass(frozen=True, slots=True)
class _Finding:
    """What git found out of a signature. `verdict` is a letter of git-log(1) (`%G?`), `key` the fingerprint of what signed,
    or as much of it as is known, `primary` that of the key it belongs to; `said` are the words of the program."""

    verdict: str
    name: str
    key: str
    primary: str
    said: str


def signer_of(git: Git, repository: Path, commit: str, signers: Signers, scratch: Path) -> str:
    """Who signed a commit, as the list names them: of ssh the principal, of gpg the user id of the key.

    Raises Refused (SourceUnverified) with a message that tells apart why it is nobody; Refused (SettingsInvalid) if the
    list can't be read, lists no key of gpg, or there is nothing to check with; Unavailable (SourceCorrupt, SourceTimeout).
    """
    listed = _read(signers)
    program, package = _PROGRAMS[signers.kind]
    if shutil.which(program) is None:
        raise Refused(
            Reason.SETTINGS_INVALID,
            f"signatures of {signers.kind} can't be checked: {program} is not installed",
            f"install it where reconciler runs: apt install {package}",
        )
    short = commit[:12]
    used = _format_of(git, repository, commit)
    if used is None:
        raise _unverified(f"commit {short} is not signed", "sign it with `git commit -S`, by a key that is listed")
    if used != signers.kind:
        raise _unverified(
            f"commit {short} has a signature of {used}, where one of {signers.kind} is asked for",
            f"sign it with `git -c gpg.format={'openpgp' if signers.kind == 'gpg' else 'ssh'} commit -S`, or see `verify`",
        )
    if signers.kind == "ssh":
        found = _find(git, repository, commit, (f"gpg.ssh.allowedSignersFile={signers.file}",), {})
        if found.verdict == "G" and found.name:
            return found.name
    else:
        with _keyring(signers, listed, scratch, git.timeout.total_seconds()) as (home, keys):
            found = _find(git, repository, commit, (), {"GNUPGHOME": str(home)})
        # "U" too: git calls a key of a fresh keyring untrusted in some versions.
        if found.verdict in ("G", "U") and found.primary in keys:
            return found.name or found.primary
    raise _unverified(*_why(short, found, signers))


def _read(signers: Signers) -> bytes:
    try:
        return signers.file.read_bytes()
    except OSError as error:
        raise Refused(
            Reason.SETTINGS_INVALID,
            f"the list of signers {signers.file} can't be read: {error.strerror}",
            "see allowed_signers_file or keyring_file of the source, and the permissions of the file",
        ) from error


def _format_of(git: Git, repository: Path, commit: str) -> str | None:
    """What the signature that git would check was made with; None if there is none."""
    try:
        content = git.run("cat-file", "commit", commit, repository=repository)
    except GitFailed as failure:
        raise damaged(repository, failure.said) from failure
    headers, _, _ = content.partition(b"\n\n")
    # A repository of sha256 may carry a signature of its sha1 counterpart in the other header, which proves nothing here.
    header = b"gpgsig-sha256" if len(commit) == 64 else b"gpgsig"
    found = re.search(rb"^%s -----BEGIN ([A-Z ]+)-----" % header, headers, re.MULTILINE)
    return None if found is None else _FORMATS.get(found[1], "an unknown program")


def _find(git: Git, repository: Path, commit: str, settings: tuple[str, ...], more: Mapping[str, str]) -> _Finding:
    """`git verify-commit` checks the same, but says it in the words of each program, and succeeds for keys of nobody."""
    layout = "%G?%x00%GS%x00%GF%x00%GK%x00%GP%x00%GG"
    try:
        said = git.run(
            "log",
            "--no-walk",
            "--encoding=UTF-8",
            f"--format={layout}",
            commit,
            "--",
            repository=repository,
            settings=(*_SETTINGS, *settings),
            more=more,
        )
    except GitFailed as failure:
        raise damaged(repository, failure.said) from failure
    verdict, name, fingerprint, key, primary, words = said.decode(errors="replace").strip().split("\0", 5)
    named = _KEY_OF_GPG.search(words)
    return _Finding(verdict, name, fingerprint or (named[1] if named else key), primary, words)


@contextmanager
def _keyring(signers: Signers, listed: bytes, scratch: Path, limit: float) -> Iterator[tuple[Path, frozenset[str]]]:
    """A GNUPGHOME with the listed keys and no others, and their fingerprints. It is made for one look, so that it is
    never older than the list."""
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gnupg-", dir=scratch) as made:
        home = Path(made)
        (home / "gpg.conf").write_text(_GPG_CONF)
        command = ["gpg", "--homedir", made, "--status-fd", "1", "--import"]
        try:
            done = subprocess.run(command, input=listed, capture_output=True, check=False, timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(Reason.SOURCE_TIMEOUT, f"gpg did not read {signers.file} within {limit:g} s") from error
        keys = frozenset(key.decode() for key in _IMPORTED.findall(done.stdout))
        if not keys:
            raise Refused(
                Reason.SETTINGS_INVALID,
                f"the list of signers {signers.file} holds no public key of gpg",
                f"write it with `gpg --export --armor NAME... > {signers.file}`",
            )
        yield home, keys


def _why(short: str, found: _Finding, signers: Signers) -> tuple[str, str]:
    """Message and hint for a signature that is nobody's of the list."""
    by = f"commit {short} is signed by the key {found.key}"
    renew = f"sign it again with a key that is valid, and see that {signers.file} has it"
    if found.verdict == "B":
        return (
            f"the signature of commit {short} does not fit its content",
            "it was altered after it was signed: find out by whom",
        )
    if found.verdict in ("X", "Y"):
        return f"{by} ({found.name}), which has expired", renew
    if found.verdict == "R":
        return f"{by} ({found.name}), which was revoked", renew
    if _ANOTHER_TIME.search(found.said):
        return f"{by}, which {signers.file} lists for another time (valid-after, valid-before)", renew
    if found.verdict in ("G", "U") or "No public key" in found.said:
        return (
            f"{by}, which {signers.file} does not list",
            "add the key to the list if its owner may decide what runs on the hosts",
        )
    why = " ".join(found.said.split()) or "nothing was said why"
    return f"the signature of commit {short} can't be checked: {why}", f"try `git verify-commit {short}`"


def _unverified(message: str, hint: str) -> Refused:
    return Refused(Reason.SOURCE_UNVERIFIED, message, hint)
