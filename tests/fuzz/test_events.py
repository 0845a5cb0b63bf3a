"""What one host or one plugin makes of its events is no concern of the other hosts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.facts import ChildStatus
from tests.fuzz.damage import JSON, damaged
from tests.fuzz.events import check_story, ended
from tests.fuzz.targets import inputs_of

REAL = {
    path.stem: json.loads(path.read_bytes())
    for path in inputs_of("events")
    if b"runner_ident" in path.read_bytes() and b"runner_on_start" in path.read_bytes()
}
"""Of playbooks that ran: all that ansible-runner and the companion said of them."""


@st.composite
def odd_event(draw: st.DrawFn) -> Any:
    """Of any form, but for the host that it is of, and not one by which all are judged."""
    event = draw(JSON)
    if not isinstance(event, dict):
        return event
    data = draw(JSON)
    about = {**data, "host": draw(st.sampled_from(["h1", "h9", None, 5]))} if isinstance(data, dict) else data
    kind = draw(st.sampled_from(["runner_on_ok", "runner_on_failed", "runner_on_unreachable", "runner_item_on_ok", ""]))
    return {**event, "event": kind, "event_data": about}


@pytest.mark.parametrize("name", REAL)
@settings(max_examples=50)
@given(data=st.data())
def test_odd_events_change_nothing_for_other_hosts(name: str, data: st.DataObject) -> None:
    story = REAL[name]
    events = list(story["events"])
    for event in data.draw(st.lists(odd_event(), min_size=1, max_size=5)):
        events.insert(data.draw(st.integers(0, len(events))), event)
    check_story({**story, "events": events})
    assert ended({**story, "events": events}).outcome("h2") == ended(story).outcome("h2")


@pytest.mark.parametrize("name", REAL)
@settings(max_examples=50)
@given(data=st.data())
def test_damage_to_the_events_of_one_host_changes_nothing_for_another(name: str, data: st.DataObject) -> None:
    story = REAL[name]
    changed = [
        {**event, "event_data": {**damage, "host": "h1"}}
        if event["event_data"].get("host") == "h1" and isinstance(damage := data.draw(_of(event)), dict)
        else event
        for event in story["events"]
    ]
    check_story({**story, "events": changed})
    assert ended({**story, "events": changed}).outcome("h2") == ended(story).outcome("h2")


def _of(event: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.just(event["event_data"]) | damaged(event["event_data"], most=1)


@pytest.mark.parametrize("name", REAL)
@settings(max_examples=50)
@given(data=st.data())
def test_no_damage_to_the_report_makes_a_success_of_what_was_none(name: str, data: st.DataObject) -> None:
    story = REAL[name]
    report = [line for line in story["report"] if data.draw(st.booleans())]
    for _ in range(data.draw(st.integers(0, 3))):
        report.insert(data.draw(st.integers(0, len(report))), data.draw(JSON))
    after = ended({**story, "report": report}).result.outcomes
    before = ended(story).result.outcomes
    assert [
        outcome.host
        for outcome, true in zip(after, before, strict=True)
        if outcome.status is ChildStatus.SUCCESS and true.status is not ChildStatus.SUCCESS
    ] == []
