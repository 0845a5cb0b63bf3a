"""examples/monitoring, as far as it can be tried without a container engine: what its files name is there, and each
program takes the file that is meant for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from reconciler.adapters.store import migrate
from reconciler.settings import load_settings
from tests import databases
from tests.prometheus import promtool, why_no_prometheus
from tests.test_dashboards import UIDS, panels, read, rules

FOLDER = Path(__file__).parents[1] / "examples" / "monitoring"


def parsed(path: str) -> Any:
    return yaml.safe_load((FOLDER / path).read_text(encoding="utf-8"))


COMPOSE = parsed("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def mounts(service: str) -> dict[str, str]:
    """Place in the container to what is mounted there: a path here, or the name of a volume."""
    found = {}
    for mount in SERVICES[service]["volumes"]:
        here, _, there = mount.removesuffix(":ro").partition(":")
        found[there] = here
    return found


def file_of(service: str, path: str) -> Path:
    """What is at this path in the container."""
    for there, here in mounts(service).items():
        if path == there or path.startswith(f"{there}/"):
            return (FOLDER / here).resolve() / path[len(there) :].lstrip("/")
    raise AssertionError(f"{service} has nothing at {path}")


# -- compose.yaml ----------------------------------------------------------------------------------------------------
def test_what_is_mounted_is_there() -> None:
    for service in SERVICES:
        for there, here in mounts(service).items():
            if here in COMPOSE["volumes"]:
                continue
            assert (FOLDER / here).exists(), f"{service}: {there}"
    volumes = {here for service in SERVICES for here in mounts(service).values() if not here.startswith(".")}
    assert volumes == set(COMPOSE["volumes"])
    assert (FOLDER / SERVICES["reconciler"]["build"] / "Dockerfile").is_file()


def test_only_this_machine_reaches_the_ports() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert sorted(int(port.split(":")[1]) for port in ports) == [3000, 8440, 9090, 9093]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_password_is_in_a_file_and_the_readme_makes_all() -> None:
    needed = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text()))
    assert all(f"${{{name}:?" in (FOLDER / "compose.yaml").read_text() for name in needed), "none has a default"
    (line,) = re.findall(r"^for name in (.*); do echo", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert {f"{name}_PASSWORD" for name in line.split()} == needed
    assert ".env" in (FOLDER / ".gitignore").read_text().split()


def test_images_are_of_one_version() -> None:
    for name, service in SERVICES.items():
        assert name == "reconciler" or re.search(r":v?\d+", service["image"]), name


def test_the_daemon_takes_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in SERVICES["reconciler"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{[^}]*\}", "secret", value))
    settings = load_settings(file_of("reconciler", "/etc/reconciler/reconciler.toml"))
    assert settings.database_url is not None
    url = make_url(settings.database_url.get_secret_value())
    postgres = SERVICES["postgres"]["environment"]
    assert url.host in SERVICES
    assert (url.username, url.database) == (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"])
    assert settings.http.listen == "0.0.0.0:8440"
    assert (file_of("reconciler", "/source") / "jobs").is_dir()


# -- what looks at it ------------------------------------------------------------------------------------------------
def test_prometheus_takes_its_configuration_and_the_rules(tmp_path: Path) -> None:
    settings = parsed("prometheus/prometheus.yml")
    (pattern,) = settings["rule_files"]
    there = next(path for path in mounts("prometheus") if Path(path).match(pattern))
    assert file_of("prometheus", there).name == "alerts.yaml"
    asked = [
        target for job in settings["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    ]
    asked += [
        target
        for each in settings["alerting"]["alertmanagers"]
        for at in each["static_configs"]
        for target in at["targets"]
    ]
    for target in asked:
        assert target.partition(":")[0] in {*SERVICES, "localhost"}, target
    assert "reconciler:8440" in asked

    if reason := why_no_prometheus():
        pytest.skip(reason)
    shutil.copy(file_of("prometheus", there), tmp_path / "alerts.yaml")
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump({**settings, "rule_files": [str(tmp_path / "*.yaml")]}))
    assert "1 rule files found" in promtool("check", "config", str(config))


def test_alertmanager_takes_its_configuration() -> None:
    labels = {
        rule["alert"]: {label for part in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in part.split(", ")}
        for rule in rules()
    }
    for rule in parsed("alertmanager/alertmanager.yml")["inhibit_rules"]:
        for matcher in [*rule["source_matchers"], *rule["target_matchers"]]:
            for name in re.findall(r"Reconciler\w+", matcher):
                assert name in labels, f"there is no alert {name}"
                assert set(rule["equal"]) <= labels[name], f"{name} never equals anything in {rule['equal']}"
    amtool = shutil.which("amtool")
    if amtool is None:
        pytest.skip("amtool is not installed (Debian: prometheus-alertmanager)")
    path = str(file_of("alertmanager", "/etc/alertmanager/alertmanager.yml"))
    (mail,) = (
        each
        for receiver in parsed("alertmanager/alertmanager.yml")["receivers"]
        for each in receiver.get("email_configs", ())
    )
    assert mail["html"] == "", "or mail programs show the default instead of the text"
    for command, expected in (
        (["check-config", path], "SUCCESS"),
        (["config", "routes", "test", f"--config.file={path}", "severity=critical"], "on-call"),
        (["config", "routes", "test", f"--config.file={path}", "severity=warning"], "chat"),
    ):
        done = subprocess.run([amtool, *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout


def test_grafana_finds_its_dashboards_and_a_source_for_each() -> None:
    provided = "/etc/grafana/provisioning"
    (provider,) = yaml.safe_load(file_of("grafana", f"{provided}/dashboards/reconciler.yaml").read_text())["providers"]
    folder = file_of("grafana", provider["options"]["path"])
    assert {path.stem for path in folder.glob("*.json")} == set(UIDS)
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert file_of("grafana", home).is_file()

    sources = yaml.safe_load(file_of("grafana", f"{provided}/datasources/reconciler.yaml").read_text())["datasources"]
    kinds = {source["type"] for source in sources}
    for uid in UIDS:
        needed = {panel["datasource"]["type"] for panel in panels(uid) if panel.get("targets")}
        needed |= {each["query"] for each in read(uid)["templating"]["list"] if each["type"] == "datasource"}
        assert needed <= kinds, uid
    for source in sources:
        assert re.sub(r"^http://|:\d+$", "", source["url"]) in SERVICES
        for name in re.findall(r"\$(\w+)", str(source)):
            assert name in SERVICES["grafana"]["environment"]


def test_grafana_may_read_the_database_and_do_nothing_else(tmp_path: Path) -> None:
    """The script that the image of PostgreSQL would run, on a server of one's own."""
    if reason := databases.why_no_own_postgresql():
        pytest.skip(reason)
    if shutil.which("psql") is None:
        pytest.skip("psql is not installed (Debian: postgresql-client)")
    with databases.OwnPostgresql(tmp_path) as server:
        given = {
            "POSTGRES_USER": "postgres",
            "POSTGRES_DB": "postgres",
            "READER_PASSWORD": 'it\'s a "secret"',
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
        }
        script = file_of("postgres", "/docker-entrypoint-initdb.d/reader.sh")
        done = subprocess.run(
            ["sh", str(script)], env={**os.environ, **given}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        migrate.upgrade(server.url)
        (source,) = [each for each in _sources() if each["type"] == "postgres"]
        engine = create_engine(make_url(server.url).set(drivername="postgresql+psycopg", username=source["user"]))
        with engine.connect() as connection:
            seen = text("SELECT table_name FROM information_schema.table_privileges WHERE grantee = CURRENT_USER")
            assert set(connection.execute(seen).scalars()) == {"jobs", "attempts", "manifests"}
            assert connection.execute(text("SELECT count(*) FROM jobs")).scalar() == 0
        with pytest.raises(DBAPIError, match="permission denied"), engine.connect() as connection:
            connection.execute(text("SELECT count(*) FROM servers"))
        for forbidden in ("DELETE FROM jobs", "SET default_transaction_read_only = off; DELETE FROM jobs"):
            with pytest.raises(DBAPIError, match=r"read-only|permission denied"), engine.begin() as connection:
                connection.execute(text(forbidden))
        engine.dispose()


def _sources() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parsed("grafana/provisioning/datasources/reconciler.yaml")["datasources"]
    return found
