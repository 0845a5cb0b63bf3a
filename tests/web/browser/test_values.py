"""What pages are made of, without a browser: drawings over time, text that is made visible, and addresses."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest

from reconciler.core.facts import Child, ChildStatus, RunStatus
from reconciler.core.status import HostCounts, WaveView
from reconciler.ports import SpooledLine
from reconciler.web import Access
from reconciler.web.pages.composing import within
from reconciler.web.pages.gantt import MOST_LINES, draw, draw_waves
from reconciler.web.pages.logs import classed
from reconciler.web.pages.rendering import parts_of, span, visible
from tests.builders import NOON
from tests.web.ports import TOKENS, connected, make_doors, served


def child(
    number: int, wave: int | None, begins: float | None = None, takes: float | None = None, **more: object
) -> Child:
    started = None if begins is None else NOON + timedelta(seconds=begins)
    finished = None if started is None or takes is None else started + timedelta(seconds=takes)
    status = ChildStatus.SUCCESS if finished else ChildStatus.RUNNING if started else ChildStatus.PENDING
    facts = {"status": status, "attempt": 1, "started_at": started, "finished_at": finished, **more}
    return Child(f"job-{number}", f"web-{number}", f"web-{number}:22", "", number, wave, **facts)  # type: ignore[arg-type]


# -- drawings --------------------------------------------------------------------------------------------------------
def test_nothing_is_drawn_before_anything_has_begun() -> None:
    assert draw([child(1, None), child(2, 1)], NOON) is None


def test_bars_are_where_their_times_are() -> None:
    drawn = draw(
        [child(1, 1, 0, 50), child(2, 1, 0, 100), child(3, 2, 100), child(4, None)], NOON + timedelta(seconds=200)
    )
    assert drawn is not None
    bars = {line.label: (line.bar.x, line.bar.width, line.bar.colour) for line in drawn.lines if line.bar}
    assert bars == {
        "Wave 1: 2 hosts": (0, 50, "green"),
        "web-1": (0, 25, "green"),
        "web-2": (0, 50, "green"),
        "Wave 2: 1 host": (50, 50, "blue"),
        "web-3": (50, 50, "blue"),  # to now
    }
    assert drawn.note == "1 host not in a wave yet, or never started"
    assert [tick.label for tick in drawn.ticks] == ["0", "1m", "2m", "3m"]


def test_the_bar_of_a_wave_is_above_those_of_its_hosts_to_the_moment() -> None:
    drawn = draw([child(1, 1, 0.8, 1.05), child(2, 1, 0.9, 0.95), child(3, 2, 2.4, 0.3)], NOON)
    assert drawn is not None
    wave, first, second, *_ = [line.bar for line in drawn.lines]
    assert wave is not None
    assert first is not None
    assert second is not None
    assert (wave.x, wave.width) == (first.x, first.width)
    assert (first.x, round(first.width)) == (0, 55)  # 1.05 s of 1.9 s
    assert second.x + second.width == pytest.approx(wave.x + wave.width, abs=0.01)


def test_hosts_that_run_one_by_one_have_no_waves_above_them() -> None:
    drawn = draw([child(1, 1, 0, 5), child(2, 2, 5, 5)], NOON)
    assert drawn is not None
    assert [line.label for line in drawn.lines] == ["web-1", "web-2"]


def test_bars_of_no_length_are_seen_and_stay_inside() -> None:
    drawn = draw([child(1, 1, 0, 0), child(2, 1, 0, 10_000), child(3, 1, 10_000, 0)], NOON)
    assert drawn is not None
    for line in drawn.lines:
        assert line.bar is not None
        assert line.bar.width > 0
        assert line.bar.x + line.bar.width <= 100


@pytest.mark.parametrize("days", [0, 0.001, 1, 40, 4000])
def test_there_are_few_ticks_however_long_it_takes(days: float) -> None:
    drawn = draw([child(1, 1, 0, days * 86400)], NOON)
    assert drawn is not None
    assert 1 <= len(drawn.ticks) <= 8


def test_more_hosts_than_fit_are_summed_up_by_waves() -> None:
    drawn = draw([child(number, number // 100 + 1, number, 5) for number in range(300)], NOON)
    assert drawn is not None
    assert [line.label for line in drawn.lines] == ["Wave 1: 100 hosts", "Wave 2: 100 hosts", "Wave 3: 100 hosts"]
    assert not drawn.by_host


def test_more_waves_than_fit_are_put_together_as_bad_as_the_worst() -> None:
    waves = [
        WaveView(
            number=number,
            status=RunStatus.FAILED if number == 7 else RunStatus.SUCCESS,
            hosts=20,
            started_at=NOON + timedelta(seconds=number),
            finished_at=NOON + timedelta(seconds=number + 1),
        )
        for number in range(1, 501)
    ]
    drawn = draw_waves(waves, NOON)
    assert drawn is not None
    assert len(drawn.lines) <= MOST_LINES
    assert drawn.lines[2].label == "Waves 7 to 9: 60 hosts"
    assert [line.bar.colour for line in drawn.lines[:4] if line.bar] == ["green", "green", "red", "green"]
    assert drawn.note == "10,000 hosts, summed up: a line for every 3 waves"


def test_two_that_failed_of_thousands_are_seen_in_the_bar() -> None:
    found = parts_of(HostCounts(selected=10_000, success=9_998, failed=2))
    assert [name for name, _, _ in found] == ["green", "red"]
    assert found[1][2] >= 1
    assert sum(width for _, _, width in found) <= 100.001
    assert parts_of(HostCounts()) == []


# -- text ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web-1", "web-1"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("a\u202eb", "a\\u202eb"),
        ("\x00\x07", "\\u0000\\u0007"),
        ("a\tb\nc", "a\tb\nc"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        (
            "\u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469",
            "\u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469",
        ),
    ],
)
def test_what_does_something_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_durations_are_said_in_two_units_at_most() -> None:
    said = [span(timedelta(seconds=seconds)) for seconds in (0, 0.44, 42, 185, 7800, 7200, 277_200, -5)]
    assert said == ["0.0 s", "0.4 s", "42 s", "3 min 5 s", "2 h 10 min", "2 h", "3 d 5 h", "0.0 s"]


def test_lines_are_known_by_how_they_begin() -> None:
    texts = ["PLAY [all]", "TASK [Go]", "ok", "changed", "failed", "  failed to say", "failed (ignored)", "skipped"]
    texts += ["retrying (2 left)", "[WARNING] a: b", "RECAP success: ok=1", "RECAP unknown (SliceLost)"]
    found = classed([SpooledLine(number, "web-1", text) for number, text in enumerate(texts)], 100)
    kinds = ["head", "head", "ok", "changed", "bad", "", "skip", "skip", "warn", "warn", "ok", "bad"]
    assert [line.kind for line in found] == kinds
    assert [line.number for line in found] == list(range(101, 113))


@pytest.mark.parametrize("address", ["https://example.org", "//example.org", "/\\example.org", "", "servers", "/a\nb"])
def test_only_addresses_of_this_site_are_within(address: str) -> None:
    assert within(address) == "/"


def test_an_address_within_is_kept() -> None:
    assert within("/batches/default/patch-web?run=x") == "/batches/default/patch-web?run=x"


def test_a_link_that_is_long_leads_to_the_login_too() -> None:
    tags = "&".join(f"tag={number}-{'x' * 60}" for number in range(20))
    doors = make_doors(access=Access(TOKENS, loopback=False))
    with served(doors) as server, connected(server, follow_redirects=True) as client:
        page = client.get(f"/servers?{tags}")
    assert (page.status_code, page.url.path) == (200, "/login")
    assert f'data-next="/servers?{tags.replace("&", "&amp;")}"' in page.text


# -- answers ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/?cursor=zzz", 422),
        ("/?phase=Nonsense", 200),
        ("/?text=%00%ed%a0%80", 200),
        (f"/?text={'x' * 301}", 400),
        ("/servers?cursor=W10", 422),
        ("/batches/default/nobody", 404),
        ("/batches/default/a%2Fb", 404),
        ("/servers/default/a%2Fb", 404),
        ("/jobs/nobody", 404),
        ("/jobs/nobody/log", 404),
        ("/fragments/children?run=nobody", 404),
        ("/fragments/children?run=nobody&cursor=c1", 404),
        ("/fragments/children?run=x&cursor=b99999999999", 400),
        ("/fragments/children?run=x&limit=201", 400),
        ("/fragments/log?job=x&after=-1", 400),
        ("/fragments/batches/changed?key=nonsense", 200),
        ("/static/x/../../access.py", 404),
        ("/static/x/nothing.css", 404),
        ("/new", 200),
        ("/login", 200),
    ],
)
def test_whatever_is_asked_for_is_answered(path: str, status: int) -> None:
    with served(make_doors()) as server, connected(server) as client:
        answer = client.get(path)
    assert answer.status_code == status, answer.text
    if status in (400, 404, 422) and not path.startswith(("/fragments", "/static")):
        assert answer.headers["content-type"].startswith("text/html")


def test_files_are_kept_for_ever_under_the_address_of_their_version() -> None:
    with served(make_doors()) as server, connected(server) as client:
        page = client.get("/").text
        path = page.partition('rel="stylesheet" href="')[2].partition('"')[0]
        assert _caching(client.get(path)) == "public, max-age=31536000, immutable"
        assert _caching(client.get("/static/another/look.css")) == "no-cache"


def _caching(answer: httpx.Response) -> str:
    assert answer.status_code == 200
    return str(answer.headers["cache-control"])
