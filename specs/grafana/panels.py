"""How the dashboards look and ask: colours, kinds of panels, and queries that stay true when a daemon restarts, when
another takes over, and while a standby is scraped beside the leader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from grafana_foundation_sdk.builders import bargauge, common, gauge, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import common as look
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from reconciler.core.facts import ChildStatus, RunStatus
from reconciler.core.status import Phase

FLEET_UID, BATCH_UID, CHILDREN_UID = "reconciler-fleet", "reconciler-batch", "reconciler-children"

# -- colours: running blue, success green, failed red, waiting yellow ------------------------------------------------
BLUE, GREEN, RED, YELLOW = "#3B82F6", "#22C55E", "#EF4444", "#EAB308"
DARK_RED, ORANGE, PURPLE, GREY, DIM = "#991B1B", "#F97316", "#9333EA", "#9CA3AF", "rgba(128, 128, 128, 0.25)"

OF_CHILDREN: Mapping[str, str] = {
    ChildStatus.PENDING: YELLOW,
    ChildStatus.RUNNING: BLUE,
    ChildStatus.SUCCESS: GREEN,
    ChildStatus.FAILED: RED,
    ChildStatus.UNREACHABLE: DARK_RED,
    ChildStatus.ABORTED: ORANGE,
    ChildStatus.SKIPPED: GREY,
    ChildStatus.CANCELLED: GREY,
    ChildStatus.UNKNOWN: PURPLE,
}
OF_PHASES: Mapping[str, str] = {
    Phase.PENDING: YELLOW,
    Phase.AWAITING_APPROVAL: YELLOW,
    Phase.RUNNING: BLUE,
    Phase.SUCCEEDED: GREEN,
    Phase.FAILED: RED,
    Phase.CANCELLED: GREY,
    Phase.STALLED: ORANGE,
    Phase.REMOVED: GREY,
    Phase.INVALID: DARK_RED,
}
OF_RUNS: Mapping[str, str] = {
    RunStatus.SUCCESS: GREEN,
    RunStatus.FAILED: RED,
    RunStatus.CANCELLED: GREY,
}
OF_COVERAGE: Mapping[str, str] = {"upToDate": GREEN, "behind": YELLOW, "never": GREY}


# -- queries ---------------------------------------------------------------------------------------------------------
HERE = 'job="$job"'
"""One installation: the scrape job of a leader and its standbys, on one database."""

DATA = model.DataSourceRef(type_val="prometheus", uid="${datasource}")


def series(name: str, selector: str, more: str = "") -> str:
    return f"reconciler_{name}{{{','.join(part for part in (selector, more) if part)}}}"


def of_leader(name: str, by: str, selector: str, more: str = "") -> str:
    """A gauge that only the leader exposes. While it changes, the old one's series may still stand beside the new one's:
    each thing is counted once."""
    return f"max by ({by}) ({series(name, selector, more)})"


def counted(name: str, by: str, selector: str = HERE, more: str = "", window: str = "$__range") -> str:
    """By how much a counter of the database rose, exactly. It goes on where it was after a restart and with another
    leader, so increase() would guess at what is known; and what was there before the first scrape does not count."""
    each = series(name, selector, more)
    return f"(max by ({by}) ({each}) - min by ({by}) (min_over_time({each}[{window}])))"


def per_step(name: str, by: str, selector: str = HERE, more: str = "") -> str:
    """The same for bars: each has what was counted since the one before, so that together they are the whole. What was
    counted while nobody was scraped is in the first bar after that: runs that end during a restart are taken in right
    after it. Lower than 0 only if the database was put back to an older state."""
    each = series(name, selector, more)
    before = f"last_over_time({each}[1d] offset $__interval)"
    return f"clamp_min(max by ({by}) ({each}) - max by ({by}) ({before}), 0)"


def quantile(share: float, name: str, by: str = "", more: str = "", window: str = "1h") -> str:
    """Of a histogram of the database; nothing where nothing was observed."""
    kept = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, {counted(f'{name}_bucket', kept, more=more, window=window)}) >= 0"


def live_quantile(share: float, name: str) -> str:
    """Of a histogram of the process, which begins again when it does."""
    return f"histogram_quantile({share}, sum by (le) (rate({series(f'{name}_bucket', HERE)}[$__rate_interval]))) >= 0"


@dataclass(frozen=True, slots=True)
class Query:
    """`kind` instant: only now; table: now, labels as columns; range: over time."""

    expr: str
    legend: str = ""
    kind: str = "instant"

    def target(self, ref: str) -> prometheus.Dataquery:
        made = (
            prometheus.Dataquery().expr(self.expr).ref_id(ref).datasource(DATA).legend_format(self.legend or "__auto")
        )
        made = made.range() if self.kind == "range" else made.instant()
        return made.format(PromQueryFormat.TABLE if self.kind == "table" else PromQueryFormat.TIME_SERIES)


def targets(queries: Sequence[Query]) -> list[Any]:
    return [query.target(chr(ord("A") + number)) for number, query in enumerate(queries)]


# -- parts of panels -------------------------------------------------------------------------------------------------
def thresholds(*steps: tuple[float | None, str]) -> dashboards.ThresholdsConfig:
    """The first has None: from the lowest value on."""
    return (
        dashboards.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=colour) for value, colour in steps])
    )


def threshold_colours() -> dashboards.FieldColor:
    return dashboards.FieldColor().mode(model.FieldColorModeId.THRESHOLDS)


def fixed(colour: str) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})


def lit(colour: str) -> model.DynamicConfigValue:
    """Dim at 0, so that only what there is catches the eye."""
    steps = [{"color": DIM, "value": None}, {"color": colour, "value": 1}]
    return model.DynamicConfigValue(id_val="thresholds", value={"mode": "absolute", "steps": steps})


def property_(name: str, value: object) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val=name, value=value)


def words(texts: Mapping[str, tuple[str, str]]) -> model.ValueMap:
    """Value to text and colour."""
    options = {
        value: model.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(texts.items())
    }
    return model.ValueMap(options=options)


def latest() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)


# -- kinds of panels -------------------------------------------------------------------------------------------------
class Builder(Protocol):
    """What every panel of the library can be told."""

    def id(self, id_val: int) -> Self: ...
    def span(self, w: int) -> Self: ...
    def height(self, h: int) -> Self: ...
    def build(self) -> model.Panel: ...


def numbers(title: str, text: str, *queries: Query, colours: Mapping[str, str], unit: str = "none") -> stat.Panel:
    """One box a series, lit in its colour unless it is 0."""
    panel = (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(DATA)
        .targets(targets(queries))
        .unit(unit)
        .no_value("no data")
        .thresholds(thresholds((None, DIM)))
        .color_scheme(threshold_colours())
        .color_mode(look.BigValueColorMode.BACKGROUND_SOLID)
        .graph_mode(look.BigValueGraphMode.NONE)
        .text_mode(look.BigValueTextMode.VALUE_AND_NAME)
        .reduce_options(latest())
    )
    for name, colour in colours.items():
        panel = panel.override_by_name(name, [lit(colour)])
    return panel


def number(
    title: str,
    text: str,
    *queries: Query,
    steps: Sequence[tuple[float | None, str]] = ((None, BLUE),),
    unit: str = "none",
    none: str = "no data",
    mappings: Sequence[model.ValueMap] = (),
) -> stat.Panel:
    """One value, coloured by its thresholds."""
    return (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(DATA)
        .targets(targets(queries))
        .unit(unit)
        .no_value(none)
        .mappings(list(mappings))
        .thresholds(thresholds(*steps))
        .color_scheme(threshold_colours())
        .color_mode(look.BigValueColorMode.VALUE)
        .graph_mode(look.BigValueGraphMode.NONE)
        .reduce_options(latest())
    )


def share(title: str, text: str, query: Query, *, steps: Sequence[tuple[float | None, str]], none: str) -> gauge.Panel:
    """Of a whole, 0 to 1."""
    return (
        gauge.Panel()
        .title(title)
        .description(text)
        .datasource(DATA)
        .targets(targets([query]))
        .unit("percentunit")
        .min(0)
        .max(1)
        .no_value(none)
        .thresholds(thresholds(*steps))
        .color_scheme(threshold_colours())
        .show_threshold_markers(False)
        .reduce_options(latest())
    )


def bars_of(title: str, text: str, query: Query, *, colour: str, none: str) -> bargauge.Panel:
    """One bar a series, the longest first."""
    return (
        bargauge.Panel()
        .title(title)
        .description(text)
        .datasource(DATA)
        .targets(targets([query]))
        .unit("none")
        .min(0)
        .no_value(none)
        .thresholds(thresholds((None, colour)))
        .color_scheme(threshold_colours())
        .orientation(look.VizOrientation.HORIZONTAL)
        .display_mode(look.BarGaugeDisplayMode.BASIC)
        .reduce_options(latest())
    )


def over_time(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "none",
    colours: Mapping[str, str] | None = None,
    none: str = "no data",
) -> timeseries.Panel:
    """Lines. A legend says the latest and the highest value."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(DATA)
        .targets(targets(queries))
        .unit(unit)
        .min(0)
        .no_value(none)
        .interval("15s")
        .color_scheme(dashboards.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .thresholds(thresholds((None, GREEN)))
        .line_width(2)
        .fill_opacity(10)
        .show_points(look.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(look.LegendDisplayMode.TABLE)
            .placement(look.LegendPlacement.RIGHT)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(look.TooltipDisplayMode.MULTI).sort(look.SortOrder.DESCENDING))
    )
    for name, colour in (colours or {}).items():
        panel = panel.override_by_name(name, [fixed(colour)])
    return panel


def stacked(
    title: str, text: str, query: Query, *, colours: Mapping[str, str], none: str = "no data"
) -> timeseries.Panel:
    """Parts of a whole over time."""
    return (
        over_time(title, text, query, colours=colours, none=none)
        .stacking(common.StackingConfig().mode(look.StackingMode.NORMAL).group("A"))
        .line_interpolation(look.LineInterpolation.STEP_AFTER)
        .line_width(0)
        .fill_opacity(70)
        .decimals(0)
    )


def bars(title: str, text: str, query: Query, *, colours: Mapping[str, str]) -> timeseries.Panel:
    """How many in each step; the legend has their sum."""
    return (
        stacked(title, text, query, colours=colours)
        .draw_style(look.GraphDrawStyle.BARS)
        .line_width(1)
        .interval("1m")
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(look.LegendDisplayMode.TABLE)
            .placement(look.LegendPlacement.RIGHT)
            .calcs(["sum"])
        )
    )


def timeline(title: str, text: str, query: Query, mapping: model.ValueMap) -> statetimeline.Panel:
    """One line a series, with the text and colour of its value."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(text)
        .datasource(DATA)
        .targets(targets([query]))
        .unit("none")
        .no_value("no data")
        .interval("15s")
        .mappings([mapping])
        .thresholds(thresholds((None, GREY)))
        .color_scheme(threshold_colours())
        .merge_values(True)
        .show_value(look.VisibilityMode.AUTO)
        .row_height(0.8)
        .line_width(0)
        .fill_opacity(80)
        .legend(common.VizLegendOptions().show_legend(False).display_mode(look.LegendDisplayMode.LIST).calcs([]))
        .tooltip(common.VizTooltipOptions().mode(look.TooltipDisplayMode.SINGLE))
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the field it comes from (`Value #A`, or a label), its title, and how it looks."""

    field: str
    title: str
    unit: str | None = None
    looks: tuple[model.DynamicConfigValue, ...] = ()


def rows(title: str, text: str, *queries: Query, columns: Sequence[Column], none: str) -> table.Panel:
    """One row for each set of labels, of all queries together; fields that no column names are left out."""
    order = {column.field: index for index, column in enumerate(columns)}
    hidden = ["Time", "Value", *(f"Value #{chr(ord('A') + number)}" for number in range(len(queries)))]
    organize = {
        "excludeByName": {name: True for name in hidden if name not in order},
        "indexByName": order,
        "renameByName": {column.field: column.title for column in columns},
    }
    panel = (
        table.Panel()
        .title(title)
        .description(text)
        .datasource(DATA)
        .targets(targets(queries))
        .unit("none")
        .no_value(none)
        .thresholds(thresholds((None, GREY)))
        .show_header(True)
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(model.DataTransformerConfig(id_val="organize", options=organize))
    )
    return with_looks(panel, columns)


def with_looks(panel: table.Panel, columns: Iterable[Column]) -> table.Panel:
    for column in columns:
        unit = [property_("unit", column.unit)] if column.unit is not None else []
        if unit or column.looks:
            panel = panel.override_by_name(column.title, [*unit, *column.looks])
    return panel


# -- links -----------------------------------------------------------------------------------------------------------
def link(title: str, url: str, *, new_tab: bool = False) -> dict[str, object]:
    return {"title": title, "url": url, "targetBlank": new_tab}


def links(*each: Mapping[str, object]) -> model.DynamicConfigValue:
    return property_("links", [dict(one) for one in each])


def to_dashboard(uid: str, **chosen: str) -> str:
    """Its address, with what was chosen at the top of this one, and `chosen`: variable to value."""
    kept = {"datasource": "${datasource}", "job": "${job:percentencode}", "web": "${web:percentencode}"}
    return f"/d/{uid}?" + "&".join(f"var-{name}={value}" for name, value in {**kept, **chosen}.items())


FROM_ROW = links(
    link(
        "Batch detail",
        to_dashboard(BATCH_UID, source="${__data.fields.source}", name="${__data.fields.name}")
        + "&${__url_time_range}",
    ),
    link("Web page: children and logs", "${web}/batches/${__data.fields.source}/${__data.fields.name}", new_tab=True),
)
"""Of a row that has the columns `source` and `name`."""


def dashboard_link(title: str, url: str, *, keep_time: bool = True, new_tab: bool = False) -> dashboards.DashboardLink:
    return (
        dashboards.DashboardLink(title)
        .type(model.DashboardLinkType.LINK)
        .url(url)
        .icon("external link" if new_tab else "dashboard")
        .tooltip(title)
        .keep_time(keep_time)
        .target_blank(new_tab)
    )


# -- variables -------------------------------------------------------------------------------------------------------
def prometheus_variable() -> dashboards.DatasourceVariable:
    return dashboards.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def choice(name: str, label: str, metric: str, label_of: str, text: str) -> dashboards.QueryVariable:
    """One of the values that a label has now."""
    return (
        dashboards.QueryVariable(name)
        .label(label)
        .description(text)
        .datasource(DATA)
        .query({"query": f"label_values({metric}, {label_of})", "refId": f"of-{name}"})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )


def job_variable() -> dashboards.QueryVariable:
    text = "Scrape job of the daemon and its standbys: one job for each database."
    return choice("job", "Installation", "reconciler_build_info", "job", text)


def web_variable() -> dashboards.TextBoxVariable:
    address = "http://127.0.0.1:8440"
    return (
        dashboards.TextBoxVariable("web")
        .label("Web page")
        .description("Where the daemon's own page is, as your browser reaches it. Links to other dashboards keep it.")
        .default_value(address)
        .current(model.VariableOption(text=address, value=address))
    )


# -- the whole -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Section:
    """A titled row, and panels with their widths, 24 to a line, each line of one height."""

    title: str
    lines: Sequence[tuple[int, Sequence[tuple[int, Builder]]]]
    folded: bool = False


def lay_out(whole: dashboards.Dashboard, sections: Sequence[Section]) -> dashboards.Dashboard:
    """Each panel on its place, with a number of its own."""
    given, top = 0, 0
    for section in sections:
        given += 1
        row = dashboards.Row(section.title).id(given).grid_pos(model.GridPos(h=1, w=24, x=0, y=top))
        top += 1
        placed = []
        for height, panels in section.lines:
            left = 0
            for width, panel in panels:
                given += 1
                placed.append(_Placed(panel.id(given).build(), model.GridPos(h=height, w=width, x=left, y=top)))
                left += width
            top += height
        if section.folded:
            row = row.collapsed(True)
            for each in placed:
                row = row.with_panel(each)
        whole = whole.with_row(row)
        if not section.folded:
            for each in placed:
                whole = whole.with_panel(each)
    return whole


class _Placed(dashboards.Panel):
    """A panel on its place: the library would place it by its own count."""

    def __init__(self, panel: model.Panel, place: model.GridPos) -> None:
        super().__init__()
        panel.grid_pos = place
        self._internal = panel
