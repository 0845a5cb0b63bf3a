"""Signed commits: whose signature counts, and what is said of every other. Keys are made here and thrown away."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from reconciler.adapters.git import Git
from reconciler.adapters.git.signatures import Kind, Signers, signer_of
from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason
from tests.gitrepo import WorkingCopy, git, make_repository

needs_gpg = pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")
KINDS = [pytest.param("ssh"), pytest.param("gpg", marks=needs_gpg)]
LONG_AGO = "20200101T000000"


# == Keys ============================================================================================================
@dataclass(frozen=True, slots=True)
class Key:
    """A key of somebody: what git signs with (`settings`, `environment`), and what a list has of it (`public`)."""

    kind: Kind
    fingerprint: str
    public: str
    settings: tuple[str, ...]
    environment: dict[str, str]

    def sign(self, copy: WorkingCopy, subject: str = "signed", **environment: str) -> str:
        """A commit that is signed by it."""
        options = [word for setting in self.settings for word in ("-c", setting)]
        more: dict[str, Any] = {**self.environment, **environment}
        git(copy.place, *options, "commit", "--quiet", "--allow-empty", "-S", "--message", subject, **more)
        return copy.head


def ssh_key(folder: Path, name: str) -> Key:
    file = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file], check=True)
    told = subprocess.run(["ssh-keygen", "-l", "-f", file], capture_output=True, text=True, check=True).stdout
    public = file.with_suffix(".pub").read_text().strip()
    return Key(
        "ssh", told.split()[1], f"{name}@example.org {public}\n", ("gpg.format=ssh", f"user.signingkey={file}"), {}
    )


class Gpg:
    """Somebody's home of gpg. Not below pytest's folder, where the names of gpg's sockets get too long."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="gpg-"))

    def run(self, *arguments: str, given: str = "") -> str:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--no-tty", "--passphrase", "", *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def key(self, name: str, *options: str, expires: str = "never") -> Key:
        who = f"{name} <{name.lower()}@example.org>"
        self.run(*options, "--quick-generate-key", who, "ed25519", "sign", expires)
        return self.as_it_is(name)

    def as_it_is(self, name: str) -> Key:
        listed = self.run("--with-colons", "--list-keys", f"{name.lower()}@example.org").splitlines()
        fingerprint = next(line.split(":")[9] for line in listed if line.startswith("fpr:"))
        public = self.run("--armor", "--export", fingerprint)
        return Key("gpg", fingerprint, public, (f"user.signingkey={fingerprint}",), {"GNUPGHOME": str(self.home)})

    def revoke(self, key: Key) -> None:
        made = (self.home / "openpgp-revocs.d" / f"{key.fingerprint}.rev").read_text()
        self.run("--import", given=made.replace(":-----BEGIN", "-----BEGIN"))

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=True, capture_output=True)
        shutil.rmtree(self.home)


@pytest.fixture(scope="module")
def gpg() -> Iterator[Gpg]:
    home = Gpg()
    yield home
    home.close()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[Kind, tuple[Key, Key]]:
    """Of each kind the keys of ada and bob."""
    folder = tmp_path_factory.mktemp("keys")
    made: dict[Kind, tuple[Key, Key]] = {"ssh": (ssh_key(folder, "ada"), ssh_key(folder, "bob"))}
    if shutil.which("gpg") is not None:
        home: Gpg = request.getfixturevalue("gpg")
        made["gpg"] = (home.key("Ada"), home.key("Bob"))
    return made


# == The check =======================================================================================================
class Check:
    """A repository, a list of signers, and the check as a source does it."""

    def __init__(self, folder: Path) -> None:
        self.copy = make_repository(folder / "repository")
        self.scratch = folder / "state"
        self.list = folder / "signers"
        self.git = Git(self.scratch, timedelta(seconds=60))

    def lists(self, *keys: Key) -> None:
        self.list.write_text("".join(key.public for key in keys))

    def signer(self, kind: Kind, commit: str | None = None) -> str:
        commit = commit or self.copy.head
        return signer_of(self.git, self.copy.place / ".git", commit, Signers(kind, self.list), self.scratch)

    def refusal(self, kind: Kind, commit: str | None = None) -> str:
        """What is said of a commit that does not count."""
        with pytest.raises(Refused) as refused:
            self.signer(kind, commit)
        assert refused.value.reason is Reason.SOURCE_UNVERIFIED
        assert refused.value.hint
        return refused.value.message.replace((commit or self.copy.head)[:12], "C").replace(str(self.list), "LIST")

    def settings_refusal(self, kind: Kind) -> str:
        with pytest.raises(Refused) as refused:
            self.signer(kind)
        assert refused.value.reason is Reason.SETTINGS_INVALID
        assert refused.value.hint
        return refused.value.message.replace(str(self.list), "LIST")

    def altered(self) -> str:
        """HEAD with its signature, and another message."""
        content = git(self.copy.place, "cat-file", "commit", "HEAD") + "\nand more\n"
        return git(self.copy.place, "hash-object", "-w", "-t", "commit", "--stdin", given=content.encode())


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return Check(tmp_path)


NAMES: dict[Kind, tuple[str, str]] = {
    "ssh": ("ada@example.org", "bob@example.org"),
    "gpg": ("Ada <ada@example.org>", "Bob <bob@example.org>"),
}

People = dict[Kind, tuple[Key, Key]]


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_those_listed_is_known_by_name(check: Check, people: People, kind: Kind) -> None:
    ada, bob = people[kind]
    check.lists(ada, bob)
    first, second = ada.sign(check.copy), bob.sign(check.copy)
    assert (check.signer(kind, first), check.signer(kind, second)) == NAMES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_commit_without_a_signature_is_nobodys(check: Check, people: People, kind: Kind) -> None:
    check.lists(*people[kind])
    check.copy.commit("-----BEGIN SSH SIGNATURE-----\n\ngpgsig -----BEGIN PGP SIGNATURE-----")
    assert check.refusal(kind) == "commit C is not signed"


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_is_not_listed_counts_for_nothing_and_is_named(check: Check, people: People, kind: Kind) -> None:
    ada, bob = people[kind]
    check.lists(ada)
    bob.sign(check.copy)
    assert check.refusal(kind) == f"commit C is signed by the key {bob.fingerprint}, which LIST does not list"


@pytest.mark.parametrize("kind", KINDS)
def test_a_commit_that_was_altered_is_told_apart_whoever_signed_it(check: Check, people: People, kind: Kind) -> None:
    ada, _ = people[kind]
    check.lists(ada)
    ada.sign(check.copy)
    assert check.refusal(kind, check.altered()) == "the signature of commit C does not fit its content"
    assert check.signer(kind)


@needs_gpg
@pytest.mark.parametrize(("kind", "other"), [("ssh", "gpg"), ("gpg", "ssh")])
def test_the_other_kind_of_signature_is_named(check: Check, people: People, kind: Kind, other: Kind) -> None:
    check.lists(*people[kind])
    people[other][0].sign(check.copy)
    assert check.refusal(kind) == f"commit C has a signature of {other}, where one of {kind} is asked for"


@pytest.mark.parametrize("kind", KINDS)
def test_the_list_counts_as_it_is_now(check: Check, people: People, kind: Kind) -> None:
    ada, bob = people[kind]
    bob.sign(check.copy)
    check.lists(ada)
    assert "does not list" in check.refusal(kind)
    check.lists(ada, bob)
    assert check.signer(kind) == NAMES[kind][1]
    check.lists(ada)
    assert "does not list" in check.refusal(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_that_can_not_be_read_is_a_matter_of_the_settings(check: Check, people: People, kind: Kind) -> None:
    people[kind][0].sign(check.copy)
    assert check.settings_refusal(kind) == "the list of signers LIST can't be read: No such file or directory"
    check.list.mkdir()
    assert check.settings_refusal(kind) == "the list of signers LIST can't be read: Is a directory"


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_program_nothing_counts(
    check: Check, people: People, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people[kind][0].sign(check.copy)
    check.lists(*people[kind])
    programs = tmp_path / "bin"
    programs.mkdir()
    found = shutil.which("git")
    assert found
    (programs / "git").symlink_to(found)
    monkeypatch.setenv("PATH", str(programs))
    assert "is not installed" in check.settings_refusal(kind)


# == What the repository itself says =================================================================================
@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_of_the_repository_choose_nothing(
    check: Check, people: People, kind: Kind, tmp_path: Path
) -> None:
    ada, bob = people[kind]
    ran = tmp_path / "ran"
    evil = tmp_path / "evil"
    evil.write_text(
        f"#!/bin/sh\ntouch {ran}\necho 'Good \"git\" signature for ada@example.org with ED25519 key SHA256:x'\n"
    )
    evil.chmod(0o755)
    everybody = tmp_path / "everybody"
    everybody.write_text(bob.public)
    check.lists(ada)
    good, other = ada.sign(check.copy), bob.sign(check.copy)
    unsigned = check.copy.commit()
    for name in ("program", "openpgp.program", "ssh.program", "x509.program", "ssh.defaultKeyCommand"):
        git(check.copy.place, "config", f"gpg.{name}", str(evil))
    for name, value in {
        "gpg.format": "x509",
        "gpg.ssh.allowedSignersFile": str(everybody),
        "gpg.ssh.revocationFile": str(tmp_path / "repository/.git/revoked"),
        "gpg.minTrustLevel": "ultimate",
        "core.pager": str(evil),
        "core.fsmonitor": str(evil),
        "log.showSignature": "true",
        "alias.log": f"!{evil}",
        "format.pretty": "oneline",
    }.items():
        git(check.copy.place, "config", name, value)
    (tmp_path / "repository/.git/revoked").write_text(ada.public.partition(" ")[2])

    assert check.signer(kind, good) == NAMES[kind][0]
    assert bob.fingerprint in check.refusal(kind, other)
    assert check.refusal(kind, unsigned) == "commit C is not signed"
    assert not ran.exists()


# == ssh =============================================================================================================
def test_an_ssh_key_counts_in_its_time_only(check: Check, people: People) -> None:
    ada, _ = people["ssh"]
    who, public = ada.public.split(" ", 1)
    check.list.write_text(f'{who} valid-after="20250101Z",valid-before="20260101Z" {public}')
    early, late = (ada.sign(check.copy, GIT_COMMITTER_DATE=f"{year}-06-01T12:00:00Z") for year in (2024, 2026))
    within = ada.sign(check.copy, GIT_COMMITTER_DATE="2025-06-01T12:00:00Z")
    assert check.signer("ssh", within) == who
    for commit in (early, late):
        assert "lists for another time (valid-after, valid-before)" in check.refusal("ssh", commit)


def test_a_key_for_another_purpose_signs_no_commit(check: Check, people: People) -> None:
    ada, _ = people["ssh"]
    who, public = ada.public.split(" ", 1)
    check.list.write_text(f'{who} namespaces="file" {public}')
    ada.sign(check.copy)
    with pytest.raises(Refused):
        check.signer("ssh")


def test_a_list_may_have_remarks_and_one_line_for_several_people(check: Check, people: People) -> None:
    ada, bob = people["ssh"]
    _, public = ada.public.split(" ", 1)
    check.list.write_text(f"# the web team\n\n*@web.example.org,root@example.org {public}{bob.public}")
    ada.sign(check.copy)
    assert check.signer("ssh") == "*@web.example.org"


def test_a_repository_of_sha256(check: Check, people: People, tmp_path: Path) -> None:
    ada, bob = people["ssh"]
    check.copy = WorkingCopy(tmp_path / "sha256")
    check.copy.place.mkdir()
    git(check.copy.place, "init", "--quiet", "--object-format=sha256")
    check.lists(ada)
    good, other = ada.sign(check.copy), bob.sign(check.copy)
    assert check.signer("ssh", good) == NAMES["ssh"][0]
    assert "does not list" in check.refusal("ssh", other)
    assert check.refusal("ssh", check.copy.commit()) == "commit C is not signed"


# == gpg =============================================================================================================
@needs_gpg
def test_an_expired_key_of_gpg_does_not_count(check: Check, gpg: Gpg, tmp_path: Path) -> None:
    old = gpg.key("Eva", "--faked-system-time", LONG_AGO, expires="1d")
    then = tmp_path / "gpg-of-then"
    then.write_text(f'#!/bin/sh\nexec gpg --faked-system-time {LONG_AGO} "$@"\n')
    then.chmod(0o755)
    git(check.copy.place, "config", "gpg.program", str(then))
    old.sign(check.copy, GIT_COMMITTER_DATE="2020-01-01T00:00:00Z")
    check.lists(old)
    said = f"commit C is signed by the key {old.fingerprint} (Eva <eva@example.org>), which has expired"
    assert check.refusal("gpg") == said


@needs_gpg
def test_a_revoked_key_of_gpg_does_not_count_once_the_list_says_so(check: Check, gpg: Gpg) -> None:
    key = gpg.key("Rob")
    key.sign(check.copy)
    check.lists(key)
    assert check.signer("gpg") == "Rob <rob@example.org>"
    gpg.revoke(key)
    check.lists(gpg.as_it_is("Rob"))
    said = f"commit C is signed by the key {key.fingerprint} (Rob <rob@example.org>), which was revoked"
    assert check.refusal("gpg") == said


@needs_gpg
def test_a_subkey_signs_for_the_key_that_it_belongs_to(check: Check, gpg: Gpg) -> None:
    key = gpg.key("Sue")
    gpg.run("--quick-add-key", key.fingerprint, "ed25519", "sign", "never")
    gpg.as_it_is("Sue").sign(check.copy)
    assert git(check.copy.place, "log", "--format=%GF", GNUPGHOME=str(gpg.home)) != key.fingerprint
    check.list.write_bytes(gpg.run("--armor", "--export", key.fingerprint).encode())
    assert check.signer("gpg") == "Sue <sue@example.org>"


@needs_gpg
def test_a_keyring_may_be_binary_and_must_hold_a_key(check: Check, people: People) -> None:
    ada, bob = people["gpg"]
    ada.sign(check.copy)
    armored = subprocess.run(["gpg", "--dearmor"], input=ada.public.encode(), capture_output=True, check=True)
    check.list.write_bytes(armored.stdout)
    assert check.signer("gpg") == "Ada <ada@example.org>"
    for nothing in ("", "no key at all\n", people["ssh"][0].public, bob.public[:100]):
        check.list.write_text(nothing)
        assert check.settings_refusal("gpg") == "the list of signers LIST holds no public key of gpg"


@needs_gpg
def test_neither_a_process_nor_a_file_is_left_behind(check: Check, people: People) -> None:
    ada, bob = people["gpg"]
    check.lists(ada)
    good, other = ada.sign(check.copy), bob.sign(check.copy)
    check.signer("gpg", good)
    check.refusal("gpg", other)
    check.refusal("gpg", check.altered())
    assert [process for process in psutil.process_iter() if _belongs_to(process, check.scratch)] == []
    assert list(check.scratch.iterdir()) == []
    assert check.scratch.stat().st_mode & 0o777 == 0o700


def _belongs_to(process: psutil.Process, folder: Path) -> bool:
    try:
        words = [*process.cmdline(), *process.environ().values()]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return process.pid != os.getpid() and any(str(folder) in word for word in words)
