"""Tokens for the port: shown once, and what goes into the settings lets them in."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reconciler.cli import app
from reconciler.core.errors import Refused
from reconciler.port import port_access
from reconciler.settings import load_settings
from reconciler.web import Scope
from reconciler.web.tokens import owner_of


def make(*arguments: str) -> tuple[str, str]:
    """The token, and what is said beside it."""
    done = CliRunner().invoke(app, ["token", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout.strip(), done.stderr


def settings_with(folder: Path, text: str) -> Path:
    file = folder / "reconciler.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], {Scope.READ}),
        (["--scope", "read"], {Scope.READ}),
        (["--scope", "operate", "--scope", "write"], {Scope.READ, Scope.OPERATE, Scope.WRITE}),
    ],
)
def test_what_it_says_can_be_put_into_the_settings_and_lets_the_token_in(
    tmp_path: Path, asked: list[str], expected: set[Scope]
) -> None:
    token, said = make("kim", *asked)
    snippet = said[said.index("[[http.tokens]]") :]
    settings = load_settings(settings_with(tmp_path, snippet))
    owner = owner_of(token, port_access(settings).tokens)
    assert owner is not None
    assert (owner.name, set(owner.scopes)) == ("kim", expected)
    assert token not in said


def test_each_is_another_and_long(tmp_path: Path) -> None:
    tokens = {make("kim")[0] for _ in range(20)}
    assert len(tokens) == 20
    assert all(len(token) >= 43 and token.isascii() for token in tokens)


@pytest.mark.parametrize("name", ["", "Kim", "kim grey", "-kim", "k" * 64, "kim\n"])
def test_who_has_a_token_has_a_plain_name(name: str) -> None:
    done = CliRunner().invoke(app, ["token", "--", name])
    assert done.exit_code == 2
    assert "DNS label" in done.stderr


# -- the settings ----------------------------------------------------------------------------------------------------
def entry(**fields: str) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["[[http.tokens]]", *lines, ""])


DIGEST = sha256(b"secret").hexdigest()


@pytest.mark.parametrize("written", [DIGEST, f"{DIGEST}\n", f"{DIGEST}  -\n", DIGEST.upper()])
def test_the_hash_may_be_in_a_file_as_sha256sum_writes_it(tmp_path: Path, written: str) -> None:
    (tmp_path / "kim.sha256").write_text(written)
    file = settings_with(tmp_path, entry(name="kim", hash_file=str(tmp_path / "kim.sha256")))
    owner = owner_of("secret", port_access(load_settings(file)).tokens)
    assert owner is not None


@pytest.mark.parametrize("written", [None, b"", b"secret\n", b"\xff\xfe", b"0" * 63])
def test_a_file_without_a_hash_is_refused_and_named(tmp_path: Path, written: bytes | None) -> None:
    if written is not None:
        (tmp_path / "kim.sha256").write_bytes(written)
    file = settings_with(tmp_path, entry(name="kim", hash_file=str(tmp_path / "kim.sha256")))
    with pytest.raises(Refused, match=r"kim\.sha256") as refusal:
        port_access(load_settings(file))
    assert "reconciler token" in refusal.value.hint


@pytest.mark.parametrize(
    "text",
    [
        entry(name="kim"),
        entry(name="kim", hash=DIGEST, hash_file="kim.sha256"),
        entry(name="kim", hash="secret"),
        entry(name="Kim", hash=DIGEST),
        entry(name="kim", hash=DIGEST) + entry(name="kim", hash=sha256(b"other").hexdigest()),
        entry(name="kim", hash=DIGEST) + 'scopes = ["all"]\n',
    ],
)
def test_settings_of_tokens_that_can_not_be_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Refused, match=r"http\.tokens"):
        load_settings(settings_with(tmp_path, text))


def test_one_token_under_two_names_is_refused(tmp_path: Path) -> None:
    file = settings_with(tmp_path, entry(name="kim", hash=DIGEST) + entry(name="ada", hash=DIGEST))
    with pytest.raises(Refused, match="the same token"):
        port_access(load_settings(file))


def test_tokens_may_be_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECONCILER_HTTP__TOKENS", json.dumps([{"name": "kim", "hash": DIGEST, "scopes": ["write"]}]))
    (token,) = port_access(load_settings(None)).tokens
    assert token.name == "kim"
    assert set(token.scopes) == {Scope.READ, Scope.WRITE}
