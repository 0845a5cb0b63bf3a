"""The pages as a browser shows them, on a store with batches in every state and with text that means harm."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from reconciler.adapters.store import SqlStore
from reconciler.web import Access
from tests.contracts.stores import World
from tests.databases import SQLITE, migrated_database
from tests.fakes.clock import RunningClock
from tests.web.browser.chromium import NARROW, WIDE, Theme, Watched, serious_issues, watched
from tests.web.browser.fleet import EVIL, MANY, SOURCE, Fleet, FleetDesk, fill
from tests.web.ports import LOOKS, TOKENS, make_doors, served

SHOWN = EVIL.replace("\u202e", "\\u202e")
"""As it stands on a page: what turns text around is written out."""


@dataclass(frozen=True)
class Site:
    base: str
    fleet: Fleet

    def child(self, batch: str, host: str) -> str:
        children = self.fleet.world.store.children(self.fleet.runs[batch])
        return next(child.job_id for child in children if child.host == host)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("pages")
    with migrated_database(SQLITE, folder) as url:
        clock = RunningClock()
        clock.advance(timedelta(hours=-3))
        store = SqlStore(url, clock)
        try:
            fleet = fill(World(store, clock))
            doors = make_doors(browser=store, requests=store, clock=clock, authoring=FleetDesk())
            with served(doors) as server:
                yield Site(f"http://127.0.0.1:{server.port}", fleet)
        finally:
            store.close()


# -- for everybody ---------------------------------------------------------------------------------------------------
def unfold(page: Page, name: str) -> None:
    page.get_by_role("button", name=f"Child jobs of {name}").click()
    expect(page.get_by_role("table", name=f"Child jobs of {name}")).to_be_visible()


def _jobs(seen: Watched, _: Site) -> None:
    unfold(seen.goto("/"), "patch-web")


def _job(seen: Watched, _: Site) -> None:
    seen.goto(f"/batches/{SOURCE}/patch-web")


def _summed_up(seen: Watched, _: Site) -> None:
    seen.goto(f"/batches/{SOURCE}/fleet-inventory")


def _asking(seen: Watched, _: Site) -> None:
    seen.goto(f"/batches/{SOURCE}/deploy-app").get_by_role("button", name="Retry").click()


def _log(seen: Watched, site: Site) -> None:
    page = seen.goto(f"/jobs/{site.child('evil', EVIL)}/log")
    page.get_by_label("Search in the log").fill("failed")


def _servers(seen: Watched, _: Site) -> None:
    seen.goto("/servers?tag=web")


def _server(seen: Watched, _: Site) -> None:
    seen.goto(f"/servers/{SOURCE}/web-3")


def _new(seen: Watched, _: Site) -> None:
    page = seen.goto("/new")
    expect(page.locator("#c-picks")).not_to_be_empty()


def _login(seen: Watched, _: Site) -> None:
    seen.goto("/login")


def _missing(seen: Watched, _: Site) -> None:
    seen.expected = ("404",)
    seen.goto(f"/batches/{SOURCE}/nobody")


PAGES: dict[str, Callable[[Watched, Site], None]] = {
    "jobs": _jobs,
    "job": _job,
    "summed-up": _summed_up,
    "asking": _asking,
    "log": _log,
    "servers": _servers,
    "server": _server,
    "new": _new,
    "login": _login,
    "missing": _missing,
}


@pytest.mark.slow
@pytest.mark.parametrize("theme", get_args(Theme))
def test_no_page_keeps_anybody_out_and_all_fit_the_screen(
    browser: Browser, site: Site, tmp_path: Path, theme: Theme
) -> None:
    """What was seen is in the test's folder."""
    for width in (WIDE, NARROW):
        with watched(browser, site.base, theme=theme, width=width) as seen:
            for name, show in PAGES.items():
                show(seen, site)
                page = seen.page
                assert page.title().endswith(" · reconciler"), name
                assert page.locator("h1").count() == page.locator("main#main").count() == 1, name
                too_wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert too_wide <= 0, f"{name} is {too_wide} pixels wider than {width}"
                page.screenshot(path=tmp_path / f"{name}-{theme}-{width}.png", full_page=True)
                if width == WIDE:
                    assert serious_issues(page) == [], name


def test_the_list_is_used_by_keyboard_alone(visit: Watched) -> None:
    page = visit.goto("/")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    button = page.get_by_role("button", name="Child jobs of patch-web")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("link", name="View logs of web-3")).to_be_visible()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "false")
    expect(page.get_by_role("link", name="View logs of web-3")).to_have_count(0)


def test_the_colours_are_those_of_the_system_until_somebody_says_otherwise(browser: Browser, site: Site) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with watched(browser, site.base, theme="dark") as seen:
        dark = seen.goto("/").evaluate(ground)
        seen.page.get_by_role("button", name="Switch to light colours").click()
        light = seen.page.evaluate(ground)
        assert dark != light
        seen.goto("/servers")  # and it is kept
        assert seen.page.evaluate(ground) == light
        expect(seen.page.get_by_role("button", name="Switch to dark colours")).to_be_visible()


# -- the list --------------------------------------------------------------------------------------------------------
def test_a_row_says_what_runs_where_and_how_far_it_is(visit: Watched) -> None:
    page = visit.goto("/")
    row = page.locator(f'tbody[data-key="{SOURCE}/patch-web"]')
    badge = row.locator(".badge-batch")
    expect(badge).to_have_text("Batch")
    expect(badge).to_have_css("background-color", "rgb(147, 51, 234)")
    expect(badge.locator("svg use")).to_have_attribute("href", "#i-layers")
    expect(row.locator(".c-nodes")).to_have_text("5 Nodes")
    expect(row.locator(".progress-text")).to_have_text("3/5 completed, 1 failed")
    expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuetext", "3/5 completed, 1 failed")
    expect(row.locator(".c-status .badge")).to_have_class("badge badge-blue")
    expect(row.locator(".c-commit")).to_contain_text("Restart nginx after its configuration changed")
    for name, shade in (("upgrade-kernel", "green"), ("deploy-app", "red"), ("rotate-keys", "yellow")):
        badge = page.locator(f'tbody[data-key="{SOURCE}/{name}"] .c-status .badge')
        expect(badge).to_have_class(f"badge badge-{shade}")


def test_children_are_loaded_when_a_row_unfolds_those_that_failed_first(visit: Watched) -> None:
    page = visit.goto("/")
    assert visit.asked_for("/fragments/children") == []
    unfold(page, "fleet-inventory")
    assert visit.asked_for("/fragments/children") != []
    rows = page.locator(".children tbody tr")
    expect(rows).to_have_count(50)
    expect(rows.nth(0)).to_contain_text("node-17")
    expect(rows.nth(1)).to_contain_text("node-101")
    expect(rows.nth(2)).to_contain_text("node-1")
    page.get_by_role("button", name="Load more").click()
    expect(rows).to_have_count(100)
    page.get_by_role("button", name=re.compile("^unreachable")).click()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name=re.compile("^All")).click()
    expect(rows).to_have_count(50)
    for loaded in (100, 150, 200, MANY):
        page.get_by_role("button", name="Load more").click()
        expect(rows).to_have_count(loaded)
    expect(page.get_by_role("button", name="Load more")).to_have_count(0)
    numbers = page.locator(".children .c-number").all_inner_texts()
    assert sorted(map(int, numbers)) == list(range(1, MANY + 1))


def test_filters_are_in_the_address_and_need_no_reload(visit: Watched) -> None:
    page = visit.goto("/")
    page.evaluate("window.kept = true")
    page.locator(".chip", has_text="Failed").click()
    expect(page.locator("tbody.entry")).to_have_count(3)
    page.get_by_label("Search").fill("deploy")
    expect(page.locator("tbody.entry")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"/\?text=deploy&phase=Failed$"))
    assert page.evaluate("window.kept") is True
    page.reload()
    expect(page.locator("tbody.entry")).to_have_count(1)
    expect(page.get_by_label("Search")).to_have_value("deploy")
    page.get_by_label("Search").fill("nothing of this name")
    expect(page.get_by_text("No job fits these filters")).to_be_visible()


def test_pages_are_read_without_javascript_too(browser: Browser, site: Site) -> None:
    with watched(browser, site.base, java_script_enabled=False) as seen:
        page = seen.goto("/")
        page.get_by_label("Search").fill("patch")
        page.get_by_role("button", name="Apply").click()
        page.get_by_role("link", name="patch-web").click()
        page.get_by_role("link", name="View logs of web-3").click()
        expect(page.locator("#lines")).to_contain_text("RECAP failed (TaskFailed)")


# -- one batch -------------------------------------------------------------------------------------------------------
def test_the_timeline_has_a_line_for_each_wave_and_host(visit: Watched) -> None:
    page = visit.goto(f"/batches/{SOURCE}/patch-web")
    labels = page.locator(".gantt-label").all_inner_texts()
    assert labels == ["Wave 1: 3 hosts", "web-1", "web-2", "web-3", "Wave 2: 2 hosts", "web-4", "web-5"]
    expect(page.locator(".gantt-bar.fill-red:not(.of-wave) title")).to_contain_text("web-3, failed")
    expect(page.locator(".gantt-bar.going")).to_have_count(3)


def test_a_large_run_is_summed_up_by_waves(visit: Watched) -> None:
    page = visit.goto(f"/batches/{SOURCE}/fleet-inventory")
    expect(page.locator(".gantt-label")).to_have_count(MANY // 20)
    expect(page.get_by_text(f"{MANY} hosts, summed up: a line for each wave")).to_be_visible()


def test_failures_lead_to_the_log_which_is_searched_and_downloaded(visit: Watched) -> None:
    page = visit.goto(f"/batches/{SOURCE}/patch-web")
    page.locator(".failures").get_by_role("link", name="web-3").click()
    expect(page.locator("h1")).to_contain_text("web-3")
    page.get_by_label("Search in the log").fill("NGINX")
    expect(page.locator("#log-hits")).to_have_text("1 of 1 line")
    expect(page.locator("mark")).to_have_text("nginx")
    page.get_by_label("Only matches").check()
    expect(page.locator(".line:visible")).to_have_count(1)
    page.get_by_label("Only matches").uncheck()
    page.get_by_role("button", name="First failure").click()
    expect(page.locator(".line.at")).to_have_text("failed")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    text = waiting.value.path().read_text()
    assert "TASK [Install nginx]\nfailed\n  No package matching" in text
    assert "\x1b" not in text


# -- text from outside -----------------------------------------------------------------------------------------------
def test_what_comes_from_outside_is_text_everywhere(visit: Watched, site: Site) -> None:
    page = visit.goto("/")
    expect(page.locator(f'tbody[data-key="{SOURCE}/evil"] .c-commit')).to_contain_text(SHOWN)
    unfold(page, "evil")
    expect(page.locator(".children .c-host").first).to_contain_text(SHOWN)
    expect(page.locator(".children .c-message").first).to_contain_text(SHOWN)
    page = visit.goto(f"/batches/{SOURCE}/evil")
    expect(page.locator("#live-revision .subject")).to_have_text(SHOWN)
    expect(page.locator(".failures pre")).to_contain_text("</pre><img src=x onerror=alert(1)>")
    page.get_by_role("link", name=f"View logs of {SHOWN}").click()
    expect(page.locator("h1")).to_contain_text(SHOWN)
    expect(page.locator("#lines")).to_contain_text(SHOWN)
    page.get_by_label("Search in the log").fill("<script>")
    expect(page.locator("mark").first).to_have_text("<script>")
    page.goto(f"{site.base}/servers?text=script")
    page.get_by_role("link", name=SHOWN).first.click()
    expect(page.locator("h1")).to_contain_text(SHOWN)
    for path in ("/", "/servers", f"/batches/{SOURCE}/evil"):
        visit.goto(path)
        assert page.locator("script:not([src])").count() == 0
        assert page.locator("[onmouseover], [onerror], img").count() == 0
    visit.expected = ("404",)
    visit.goto(f"/batches/{SOURCE}/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    expect(page.locator("main")).to_contain_text("<script>alert(1)</script>")


def test_a_manifest_names_exactly_what_was_chosen(visit: Watched) -> None:
    page = visit.goto("/new")
    page.get_by_label("Playbook").select_option(EVIL)
    page.get_by_label("Name", exact=True).fill("composed")
    page.get_by_label("Search servers").fill("script")
    page.get_by_role("checkbox", name=re.compile("script")).check()
    page.get_by_label("Search servers").fill("app-1")
    page.get_by_role("checkbox", name=re.compile("app-10")).check()
    page.get_by_role("checkbox", name=re.compile("app-2 ")).wait_for(state="detached")
    expect(page.locator("#c-count")).to_have_text("2 selected")
    expect(page.locator(".plan-waves")).to_be_visible()
    text = page.locator("#c-manifest").text_content() or ""
    assert text.isascii()
    spec = yaml.safe_load(text)["spec"]
    assert (spec["playbook"], spec["selector"]) == (EVIL, {"hosts": ["app-10", EVIL]})
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name=re.compile("script")).click()
    page.get_by_role("button", name=re.compile("^web 5")).click()
    expect(page.locator("#c-count")).to_have_text("6 selected")
    page.get_by_label("whatever carries the tags").check()
    spec = yaml.safe_load(page.locator("#c-manifest").text_content() or "")["spec"]
    assert spec["selector"] == {"anyTags": [EVIL, "web"]}
    page.get_by_role("button", name=re.compile("^app 12")).click()
    expect(page.locator("#c-many")).to_contain_text("18 servers are more than 10")
    page.get_by_label("Sequential").check()
    expect(page.get_by_label("Hosts at a time")).to_be_disabled()
    expect(page.get_by_role("button", name="Commit")).to_have_count(0)
    expect(page.get_by_text("does not allow writing")).to_be_visible()


def test_a_login_leads_nowhere_else(visit: Watched) -> None:
    for wanted in ("https://example.org/", "//example.org/", "/\\example.org", "javascript:alert(1)"):
        page = visit.goto(f"/login?next={wanted}")
        expect(page.locator("#login")).to_have_attribute("data-next", "/")
    page = visit.goto("/login?next=/servers%3Ftag%3Dweb")
    visit.expected = ("401",)
    page.get_by_label("Token").fill("nobody's")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("this token is nobody's")


def test_where_others_can_reach_the_port_nothing_is_shown_to_nobody(browser: Browser, site: Site) -> None:
    store, clock = site.fleet.world.store, site.fleet.world.clock
    doors = make_doors(browser=store, requests=store, clock=clock, access=Access(TOKENS, loopback=False))
    with served(doors) as server, watched(browser, f"http://127.0.0.1:{server.port}") as seen:
        page = seen.goto(f"/batches/{SOURCE}/patch-web?run=")
        expect(page).to_have_url(re.compile(r"/login\?next="))
        expect(page.locator("body")).not_to_contain_text("patch-web")
        page.get_by_label("Token").fill(LOOKS)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("h1")).to_contain_text("patch-web")
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_url(re.compile(r"/login\?next="))
