"""Where settings come from, and that the secret ones stay so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from reconciler.adapters.metrics import label_name
from reconciler.cli import app
from reconciler.core.errors import Refused
from reconciler.settings import load_settings

URL = "postgresql+psycopg://ops:s3cret@db.example:5432/reconciler"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no settings file lies about."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "url"
    monkeypatch.setenv("RECONCILER_DATABASE_URL_FILE", str(file))
    return file


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_may_be_in_a_file(secret: Path, ending: str) -> None:
    secret.write_bytes(f"{URL}{ending}".encode())
    assert load_settings(None).url == URL


def test_the_file_of_a_secret_goes_before_the_settings_file_and_an_empty_variable(
    secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reconciler.toml").write_text('database_url = "sqlite:////elsewhere.db"\n')
    monkeypatch.setenv("RECONCILER_DATABASE_URL", "")
    secret.write_text(URL)
    assert load_settings(None).url == URL


def test_a_secret_that_is_given_twice_is_refused(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret.write_text(URL)
    monkeypatch.setenv("RECONCILER_DATABASE_URL", "sqlite:////elsewhere.db")
    with pytest.raises(Refused, match="RECONCILER_DATABASE_URL and RECONCILER_DATABASE_URL_FILE are both set"):
        load_settings(None)


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff", "no text")]
)
def test_a_secret_that_can_not_be_had_is_never_passed_over(secret: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        secret.write_bytes(content)
    with pytest.raises(Refused, match=said) as refused:
        load_settings(None)
    assert f"RECONCILER_DATABASE_URL_FILE names {secret}" in refused.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "postgresql+psycopg://ops:***@db.example:5432/reconciler"),
        ("mysql://ops:s3cret@p@db/x?ssl_key=s3cret", "mysql://ops:***@db/x?***"),
        ("postgresql:///x?password=s3cret", "postgresql:///x?***"),
        ("sqlite:////var/lib/reconciler/reconciler.db", "sqlite:////var/lib/reconciler/reconciler.db"),
        ("s3cret", "***"),
    ],
)
def test_what_is_in_force_is_shown_without_passwords(monkeypatch: pytest.MonkeyPatch, url: str, shown: str) -> None:
    monkeypatch.setenv("RECONCILER_DATABASE_URL", url)
    done = CliRunner().invoke(app, ["config", "show"])
    assert f"database_url: {shown}\n" in done.output.replace("'", "")
    assert "s3cret" not in done.output + repr(load_settings(None))


def test_a_file_of_brackets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reconciler.toml").write_text("manifests = " + "[" * 5000)
    with pytest.raises(Refused, match="nested too deeply"):
        load_settings(None)


def test_a_log_level_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_LOG_LEVEL", "loud")
    with pytest.raises(Refused, match="setting log_level: Input should be 'debug', 'info', 'warning' or 'error'"):
        load_settings(None)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RECONCILER_MANIFESTS", "jobs/*.yaml"),
        ("RECONCILER_ANSIBLE__PASS_ENV", "FOO"),
        ("RECONCILER_HTTP", "listen=:80"),
    ],
)
def test_a_list_in_the_environment_that_is_no_json_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(Refused, match=f"^{variable} in the environment can't be read: a list is JSON there") as refused:
        load_settings(None)
    assert refused.value.hint == """for example '["one", "two"]'"""


def test_what_is_shown_can_be_written_into_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_RESYNC", "90s")
    done = CliRunner().invoke(app, ["config", "show"])
    shown = yaml.safe_load(done.output)
    assert (shown["resync"], shown["inventory"]["refresh"]) == ("90s", "5m")


# -- labels of manifests ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a-b", "c", "a_b"], "a-b and a_b are both label_a_b"),
        (["team", "team"], "team is named twice"),
        ([""], "a label has a name"),
    ],
)
def test_labels_that_prometheus_could_not_tell_apart_are_refused(labels: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=said):
        load_settings(None, state_dir=tmp_path, metrics={"labels": labels})


def test_settings_and_metrics_call_labels_the_same(tmp_path: Path) -> None:
    for other in ("a.b", "a/b", "aäb", "a b"):
        assert label_name(other) == label_name("a_b")
        with pytest.raises(Refused, match=f"are both {label_name('a_b')}"):
            load_settings(None, state_dir=tmp_path, metrics={"labels": ["a_b", other]})
