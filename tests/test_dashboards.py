"""The dashboards are what their code makes, ask only for what there is, and can be imported; the alert rules fire when
they should, and name commands that exist."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from reconciler.adapters.metrics import CATALOGUE, STORED, Metric
from reconciler.cli import app
from reconciler.core.facts import ChildStatus, RunStatus
from reconciler.core.status import ConditionType, Phase
from tests.prometheus import promtool, why_no_prometheus

ROOT = Path(__file__).parents[1]
SPECS = ROOT / "specs"
FOLDER = SPECS / "grafana"
MONITORING = ROOT / "docs" / "monitoring.md"
UIDS = ("reconciler-fleet", "reconciler-batch", "reconciler-children")
ON_PROMETHEUS = UIDS[:2]

NO_LIBRARY = "grafana-foundation-sdk is not installed: `make check` brings it"

SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
KNOWN = {metric.name + suffix: metric for metric in CATALOGUE for suffix in SUFFIXES[metric.type]}
OF_SCRAPES = {"job", "instance"}
"""Labels that Prometheus adds."""


def read(uid: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{uid}.json").read_text(encoding="utf-8"))
    return found


def panels(uid: str) -> list[dict[str, Any]]:
    """With those inside of rows that are folded."""
    found: list[dict[str, Any]] = []
    for panel in read(uid)["panels"]:
        found += [panel, *panel.get("panels", ())]
    return found


def queries(uid: str) -> Iterator[tuple[str, str]]:
    """Every query of panels and variables, with whose it is."""
    for panel in panels(uid):
        for target in panel.get("targets", ()):
            if "expr" in target:
                yield f"{panel['title']} {target['refId']}", target["expr"]
    for variable in read(uid)["templating"]["list"]:
        if variable["type"] == "query":
            yield f"${variable['name']}", variable["query"]["query"]


def all_rules() -> list[dict[str, Any]]:
    """With those that only record what others ask for."""
    groups = yaml.safe_load((SPECS / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def name_of(rule: Mapping[str, Any]) -> str:
    return str(rule.get("alert") or rule["record"])


def rules() -> list[dict[str, Any]]:
    """Those that fire."""
    return [rule for rule in all_rules() if "alert" in rule]


def asked() -> list[tuple[str, str]]:
    """Every expression there is, with whose it is. What is recorded has the labels of what it is made of."""
    of_dashboards = [(f"{uid}: {whose}", expr) for uid in ON_PROMETHEUS for whose, expr in queries(uid)]
    of_rules = [
        (name_of(rule), re.sub(r"reconciler:(\w+):known", r"reconciler_\1", rule["expr"])) for rule in all_rules()
    ]
    return of_dashboards + of_rules


# -- what they ask for -----------------------------------------------------------------------------------------------
SELECTOR = re.compile(r"\b(reconciler_\w+)(?:\{([^}]*)\})?")


@pytest.mark.parametrize(("whose", "expr"), asked())
def test_a_query_asks_for_metrics_and_labels_that_there_are(whose: str, expr: str) -> None:
    for name, selector in SELECTOR.findall(expr):
        assert name in KNOWN, f"{name} is not in the catalogue"
        metric = KNOWN[name]
        labels = {*metric.labels, *OF_SCRAPES} | ({"le"} if name.endswith("_bucket") else set())
        for label, pattern in re.findall(r'(\w+)=~?"([^"]*)"', selector):
            assert label in labels, f"{name} has no label {label}"
            for value in values_of(metric, label):
                if "$" not in pattern:
                    assert set(pattern.split("|")) <= value, f"{label} of {name} is never {pattern}"
    for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", expr):
        known = OF_SCRAPES.union({"le"}, *(KNOWN[name].labels for name, _ in SELECTOR.findall(expr)))
        assert {label.strip() for label in grouped.split(",")} <= known


def values_of(metric: Metric, label: str) -> Iterator[set[str]]:
    """The values that a label can have, where they are few and known."""
    match label:
        case "phase":
            yield {phase.value for phase in Phase}
        case "status" if metric.name.startswith("reconciler_run"):
            yield {status.value for status in RunStatus if status.finished}
        case "status" if metric.name == "reconciler_batchjob_condition":
            yield {"True", "False", "Unknown"}
        case "status":
            yield {status.value for status in ChildStatus}
        case "type":
            yield {kind.value for kind in ConditionType}
        case "state" if metric.name == "reconciler_source_manifests":
            yield {"accepted", "rejected", "removed"}
        case "le":
            yield {str(bound) for bound in metric.buckets}
        case _ if metric.from_start and label in metric.labels:
            yield {values[metric.labels.index(label)] for values in metric.from_start}


def test_all_that_is_measured_is_shown() -> None:
    """Labels of manifests are there for dashboards of one's own."""
    shown = {KNOWN[name].name for _, expr in asked() for name, _ in SELECTOR.findall(expr)}
    assert {metric.name for metric in CATALOGUE} - shown <= {"reconciler_batchjob_labels"}


# -- what they look like ---------------------------------------------------------------------------------------------
def test_the_files_are_what_the_code_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason=NO_LIBRARY)
    from specs.grafana import dashboards

    assert {path.name for path in FOLDER.glob("*.json")} == {f"{uid}.json" for uid in UIDS} == set(dashboards.texts())
    assert dashboards.stale() == [], "run `make fix`"


@pytest.mark.parametrize("uid", UIDS)
def test_the_library_reads_back_what_it_wrote(uid: str) -> None:
    """So that no field of the file is one that dashboards and their panels do not have."""
    pytest.importorskip("grafana_foundation_sdk", reason=NO_LIBRARY)
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    from specs.grafana.dashboards import without_nothing

    register_default_plugins()
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(read(uid))))
    assert without_nothing(again) == read(uid)


@pytest.mark.parametrize("uid", UIDS)
def test_a_dashboard_can_be_imported_anywhere(uid: str) -> None:
    document = read(uid)
    assert document["uid"] == uid
    assert "id" not in document, "Grafana gives its own"
    assert document["schemaVersion"] >= 36
    assert not document["editable"], "a change belongs into the code"
    names = [variable["name"] for variable in document["templating"]["list"]]
    assert len(set(names)) == len(names)
    sources = {each["query"]: each["name"] for each in document["templating"]["list"] if each["type"] == "datasource"}
    for panel in panels(uid):
        for part in [panel, *panel.get("targets", ())] if panel.get("targets") else ():
            chosen = sources[part["datasource"]["type"]]
            assert part["datasource"]["uid"] == f"${{{chosen}}}", "no data source of one's own is named"
    for used in re.findall(r"\$\{?([a-z]\w*)", json.dumps(document)):
        assert used in names, f"${used} is no variable"


@pytest.mark.parametrize("uid", UIDS)
def test_every_panel_has_a_number_a_title_and_words_for_it(uid: str) -> None:
    found = panels(uid)
    assert len({panel["id"] for panel in found}) == len(found)
    assert len({panel["title"] for panel in found}) == len(found)
    for panel in found:
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        if panel["type"] != "text":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"], panel["title"]
        if panel["type"] == "timeseries":
            assert panel["options"]["legend"]["showLegend"]
            assert all(target["legendFormat"] != "__auto" for target in panel["targets"]), panel["title"]


@pytest.mark.parametrize("uid", UIDS)
def test_no_panel_lies_upon_another_or_leaves_a_gap(uid: str) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in panels(uid)]
    taken: dict[tuple[int, int], str] = {}
    for title, place in places:
        assert place["x"] + place["w"] <= 24, title
        columns = range(place["x"], place["x"] + place["w"])
        for cell in itertools.product(columns, range(place["y"], place["y"] + place["h"])):
            assert cell not in taken, f"{title} lies upon {taken[cell]}"
            taken[cell] = title
    assert len(taken) == 24 * max(place["y"] + place["h"] for _, place in places)


def test_they_lead_to_each_other_and_to_the_web_page() -> None:
    urls = {uid: set(re.findall(r'"url": "([^"]*)"', json.dumps(read(uid)))) for uid in UIDS}
    for here, there in ((UIDS[0], UIDS[1]), (UIDS[1], UIDS[0]), (UIDS[1], UIDS[2]), (UIDS[2], UIDS[1])):
        assert any(url.startswith(f"/d/{there}?") for url in urls[here]), f"{here} does not lead to {there}"
    assert "${web}/batches/${__data.fields.source}/${__data.fields.name}" in urls[UIDS[0]]
    assert "${web}/batches/${source}/${name}" in urls[UIDS[1]]
    assert "${web}/jobs/${__data.fields.job}/log" in urls[UIDS[2]]
    for uid, found in urls.items():
        for url in found:
            assert url.startswith(("/d/", "${web}/")), f"{uid}: {url}"
            for target in re.findall(r"^/d/([\w-]+)", url):
                known = {variable["name"] for variable in read(target)["templating"]["list"]}
                assert set(re.findall(r"var-(\w+)=", url)) <= known, f"{uid}: {url}"


def test_what_was_chosen_is_kept_from_one_dashboard_to_the_next() -> None:
    """Where there are two installations, a link that drops one of these leads to the other one."""
    chosen = {uid: {variable["name"] for variable in read(uid)["templating"]["list"]} for uid in UIDS}
    seen = 0
    for here in UIDS:
        for there, query in re.findall(r"/d/([\w-]+)([^\s\")]*)", json.dumps(read(here))):
            kept = {"datasource", "database", "job", "web"} & chosen[here] & chosen[there]
            assert {"datasource", "job", "web"} <= kept
            for name in kept:
                assert re.search(rf"[?&]var-{name}=\$\{{{name}\b", query), f"{here} to {there} drops {name}"
            seen += 1
    assert seen >= 6


def of_the_leader(panel: Mapping[str, Any]) -> bool:
    """Whether it asks for what only a leader tells."""
    asked = {name for target in panel.get("targets", ()) for name, _ in SELECTOR.findall(target.get("expr", ""))}
    return any(KNOWN[name] in STORED for name in asked)


@pytest.mark.parametrize("uid", ON_PROMETHEUS)
def test_a_panel_without_numbers_does_not_say_that_all_is_well(uid: str) -> None:
    """Nothing is shown if there is nothing, and while nobody leads: nobody can tell then."""
    for panel in panels(uid):
        if of_the_leader(panel):
            said = panel["fieldConfig"]["defaults"]["noValue"]
            assert said == "no data" or said.endswith((", or nobody leads", ", or nobody led")), panel["title"]


def test_the_colours_are_those_of_the_web_page() -> None:
    """Running blue, success green, failed red, pending yellow."""
    wanted = {"running": "#3B82F6", "success": "#22C55E", "failed": "#EF4444", "pending": "#EAB308"}
    for uid in ON_PROMETHEUS:
        panel = next(panel for panel in panels(uid) if panel["title"] == "Hosts by status")
        assert {
            override["matcher"]["options"]: step["color"]
            for override in panel["fieldConfig"]["overrides"]
            for step in override["properties"][0]["value"]["steps"]
            if override["matcher"]["options"] in wanted and step["value"] == 1
        } == wanted


def test_nothing_that_is_shipped_needs_the_library_that_makes_them() -> None:
    modules = [path.read_text(encoding="utf-8") for path in (ROOT / "reconciler").rglob("*.py")]
    assert not any("grafana_foundation_sdk" in text or "specs.grafana" in text for text in modules)


def test_the_page_grants_what_the_dashboard_reads_and_no_more() -> None:
    (granted,) = re.findall(r"GRANT SELECT ON (.*) TO", MONITORING.read_text(encoding="utf-8"))
    targets = [target for uid in UIDS for panel in panels(uid) for target in panel.get("targets", ())]
    asked = [target["rawSql"] for target in targets if "rawSql" in target]
    variables = [each["query"] for each in read(UIDS[2])["templating"]["list"] if each["type"] == "query"]
    asked += [sql for sql in variables if isinstance(sql, str)]
    tables = {name for sql in asked for name in re.findall(r"\b(?:FROM|JOIN) ([a-z]\w+)", sql)}
    assert tables == set(granted.split(", "))


# -- what they show --------------------------------------------------------------------------------------------------
@pytest.fixture
def has_promtool() -> None:
    if reason := why_no_prometheus():
        pytest.skip(reason)


def check_query(
    folder: Path, uid: str, whose: str, given: Mapping[str, str], expected: Mapping[str, Mapping[str, float]]
) -> None:
    """That this query, asked with a step of a minute, gives what is expected: time to the labels and values that are
    there then. `given`: series to their values, one each 15 s."""
    expr = re.sub(
        r"\$(\w+)", lambda found: {"job": "r", "source": ".*", "__interval": "1m"}[found[1]], dict(queries(uid))[whose]
    )
    test = {
        "interval": "15s",
        "input_series": [{"series": series, "values": values} for series, values in given.items()],
        "promql_expr_test": [
            {
                "expr": expr,
                "eval_time": at,
                "exp_samples": [{"labels": labels, "value": value} for labels, value in values.items()],
            }
            for at, values in expected.items()
        ],
    }
    (folder / "query.yaml").write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]}))
    promtool("test", "rules", "query.yaml", cwd=folder)


@pytest.mark.parametrize("after", ["a", "b"], ids=["a restart", "a takeover"])
def test_what_ended_while_nobody_was_scraped_is_in_a_bar_after_it(
    has_promtool: None, tmp_path: Path, after: str
) -> None:
    ended = "reconciler_runs_finished_total{job='r',instance='%s',status='failed',reason='HostsFailed'}"
    values = ["10x4 11x8 stale _x19", " 14x40"]
    given = {ended % "a": "".join(values)} if after == "a" else {ended % "a": values[0], ended % "b": "_x33 14x40"}
    bars = {"1m": 0, "2m": 1, "3m": 0, "9m": 3, "10m": 0, "11m": 0}
    expected: dict[str, dict[str, float]] = {f"{minute}m": {} for minute in range(4, 9)}
    expected |= {at: {'{status="failed"}': value} for at, value in bars.items()}
    check_query(tmp_path, UIDS[0], "Runs over time A", given, expected)


def test_that_no_wave_runs_is_not_said_while_nobody_can_tell(has_promtool: None, tmp_path: Path) -> None:
    given = {
        "reconciler_leader{job='r',instance='a'}": "1x60",
        # The database is away for a while, though nobody has noticed yet that the lease is lost.
        "reconciler_slots{job='r',instance='a',state='used'}": "0x8 stale _x11 0x40",
    }
    check_query(tmp_path, UIDS[0], "Waves in progress A", given, {"2m": {"{}": 0}, "3m": {}, "5m": {}, "6m": {"{}": 0}})


# -- alert rules -----------------------------------------------------------------------------------------------------
def test_the_rules_are_valid_and_fire_when_they_should(has_promtool: None) -> None:
    assert f"{len(all_rules())} rules found" in promtool("check", "rules", "alerts.yaml", cwd=SPECS)
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yaml", cwd=SPECS)


def test_every_rule_has_a_case_in_which_it_fires() -> None:
    cases = (SPECS / "alerts.test.yaml").read_text(encoding="utf-8")
    for rule in rules():
        assert f'alertname="{rule["alert"]}",alertstate="firing"' in cases or f"alertname: {rule['alert']}" in cases


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_a_rule_says_how_bad_it_is_what_it_means_and_what_to_do(rule: Mapping[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    said = rule["annotations"]
    assert set(said) == {"summary", "description", "runbook", "dashboard"}
    assert said["description"].endswith(".")
    assert said["runbook"].startswith("1. ")
    assert said["dashboard"].removeprefix("/d/").partition("?")[0] in UIDS
    grouped = {label for labels in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in re.split(r",\s*", labels)}
    for text in said.values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= grouped, "of labels that the expression keeps"


def test_every_rule_is_on_the_page() -> None:
    page = MONITORING.read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(Reconciler\w+)` \| .* \| (\w+) \| (.*) \|$", page, re.MULTILINE)
    assert lines == [(rule["alert"], rule["labels"]["severity"], waits(rule)) for rule in rules()]


def waits(rule: Mapping[str, Any]) -> str:
    """How long it has to be true, as people say it."""
    return rule["for"].replace("m", " min").replace("h", " h") if "for" in rule else "at once"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_a_runbook_names_commands_that_there_are(rule: Mapping[str, Any]) -> None:
    known = typer.main.get_command(app)
    assert isinstance(known, TyperGroup)
    for name, options in commands_of(rule["annotations"]["runbook"]):
        has = {option for parameter in known.commands[name].params for option in parameter.opts}
        assert options <= has, f"{name} has no {options - has}"


def commands_of(text: str) -> Iterator[tuple[str, set[str]]]:
    for line in re.findall(r"\breconciler ([a-z]+\b[^;\n]*)", text):
        name = line.split()[0]
        if name not in ("and", "restart"):
            yield name, set(re.findall(r"--[a-z-]+", line))
