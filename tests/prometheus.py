"""A Prometheus of one's own: scrapes ports of this machine each second, evaluates rules, and answers queries."""

from __future__ import annotations

import math
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.acceptance.workspace import PATIENCE, wait_for

PACKAGE = "prometheus (Debian: prometheus, which brings promtool too)"

Labels = frozenset[tuple[str, str]]
"""Of one series, without its name."""


def why_no_prometheus() -> str | None:
    """Why there can be none here; None: there can."""
    missing = [program for program in ("prometheus", "promtool") if shutil.which(program) is None]
    return f"{' and '.join(missing)} not installed: {PACKAGE}" if missing else None


def promtool(*arguments: str, cwd: Path | None = None) -> str:
    """What it says; it is to find nothing wrong."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=PATIENCE, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass(frozen=True, slots=True)
class Alert:
    """One that fires."""

    name: str
    labels: Labels
    annotations: Mapping[str, str]


class Prometheus:
    """`targets` are ports of this machine, all of one job. Used as a context, which ends it."""

    JOB = "reconciler"

    def __init__(self, folder: Path, targets: Sequence[int], rules: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        scrapes = {
            "job_name": self.JOB,
            "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in targets]}],
        }
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [scrapes],
        }
        self._settings = folder / "prometheus.yml"
        self._settings.write_text(yaml.safe_dump(settings), encoding="utf-8")
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        promtool("check", "config", str(self._settings))
        log = self._folder / "prometheus.log"
        with log.open("ab") as file:
            self._process = process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._settings}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        try:
            wait_for(lambda: self._answers() or process.poll() is not None, "Prometheus to answer")
            assert process.poll() is None, log.read_text()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=PATIENCE)

    def _answers(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    # -- questions ---------------------------------------------------------------------------------------------------
    def query(self, expr: str) -> dict[Labels, float]:
        """Each series with its value now; NaN is kept."""
        found = self._ask("/api/v1/query", query=expr)
        assert found["resultType"] == "vector", expr
        return {_labels(each): float(each["value"][1]) for each in found["result"]}

    def query_range(self, expr: str, start: float, end: float, step: float) -> dict[Labels, list[tuple[float, float]]]:
        """Each series with its points: Unix time and value."""
        found = self._ask("/api/v1/query_range", query=expr, start=str(start), end=str(end), step=str(step))
        return {
            _labels(each): [(at, float(value)) for at, value in each["values"] if not math.isnan(float(value))]
            for each in found["result"]
        }

    def values(self, label: str, match: str) -> list[str]:
        """Of a label, as `label_values(match, label)` of a variable has them."""
        found: list[str] = self._ask(f"/api/v1/label/{label}/values", **{"match[]": match})
        return found

    def alerts(self) -> list[Alert]:
        """Those that fire."""
        return [
            Alert(
                each["labels"]["alertname"],
                frozenset((name, value) for name, value in each["labels"].items() if name != "alertname"),
                each["annotations"],
            )
            for each in self._ask("/api/v1/alerts")["alerts"]
            if each["state"] == "firing"
        ]

    def troubles(self) -> list[str]:
        """Rules that could not be evaluated, and targets that could not be read."""
        groups = self._ask("/api/v1/rules")["groups"]
        rules = [
            f"{rule['name']}: {rule['lastError']}"
            for group in groups
            for rule in group["rules"]
            if rule.get("lastError")
        ]
        targets = self._ask("/api/v1/targets")["activeTargets"]
        return rules + [f"{each['scrapeUrl']}: {each['lastError']}" for each in targets if each["health"] == "down"]

    def rules(self) -> list[str]:
        """Names of those that were loaded."""
        return [rule["name"] for group in self._ask("/api/v1/rules")["groups"] for rule in group["rules"]]

    def _ask(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(path, params=parameters)
        assert answer.is_success, f"{parameters}: {answer.text}"
        return answer.json()["data"]


def _labels(series: Mapping[str, Any]) -> Labels:
    return frozenset((name, value) for name, value in series["metric"].items() if name != "__name__")
