"""Lists while they change, and while somebody is at work in them: nothing is pulled away, and nothing is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Request, Route, expect

from reconciler.adapters.store import SqlStore
from reconciler.core.facts import ChildStatus, JobKey, Revision, RunStatus, SliceId
from reconciler.core.hosts import Host
from reconciler.core.reasons import Reason
from reconciler.core.status import Phase
from reconciler.ports import PlaybookResult
from tests.builders import make_new_run, make_spec, manifest_record, new_cause, outcome
from tests.contracts.stores import World
from tests.databases import SQLITE, migrated_database
from tests.fakes.clock import RunningClock
from tests.web.browser.chromium import Watched
from tests.web.browser.fleet import INVENTORY, SOURCE, WEB, Fleet, FleetDesk, hosts, source_named
from tests.web.filled import status_of
from tests.web.ports import make_doors, served

UNREACHED = "net::ERR"


@dataclass(frozen=True)
class Site:
    base: str
    fleet: Fleet

    @property
    def world(self) -> World:
        return self.fleet.world

    def begin(self, name: str, selection: Sequence[Host], *, run: int = 1) -> str:
        """A run of it is opened; its status is written."""
        key, spec = JobKey(SOURCE, name), make_spec(limit=50)
        commit = self.fleet.commit(f"{name} {run}")
        self.world.clock.advance(timedelta(seconds=5))
        self.world.accept(key, spec)
        new = make_new_run(
            self.world.cause(f"{run:02}", key),
            selection,
            key=key,
            spec=spec,
            commit=commit,
            revision=Revision(f"main@sha1:{commit.id}"),
            inventory=INVENTORY,
        )
        assert self.world.store.open_run(new)
        self.say(name, selection)
        return new.job_id

    def end(self, name: str, selection: Sequence[Host], run: str, part: SliceId | None = None) -> None:
        """All of them succeed, and the run with them."""
        names = [host.name for host in selection]
        self.finish(part or self.world.start(run, *names), dict.fromkeys(names, ChildStatus.SUCCESS))
        assert self.world.store.finish_run(run, RunStatus.SUCCESS, Reason.SUCCEEDED, "all succeeded")
        self.say(name, selection)

    def finish(self, part: SliceId, ends: dict[str, ChildStatus]) -> None:
        found = tuple(outcome(host, status) for host, status in ends.items())
        assert self.world.store.finish(part, 1, PlaybookResult(found))

    def say(self, name: str, selection: Sequence[Host]) -> None:
        commit = self.fleet.commit(name)
        self.fleet.say(JobKey(SOURCE, name), selection, commit, Revision(f"main@sha1:{commit.id}"))

    def fill_with(self, count: int, phase: Phase = Phase.SUCCEEDED) -> None:
        """So many batches, old-1 the one that was active last."""
        for number in range(count, 0, -1):
            self.world.clock.advance(timedelta(seconds=5))
            key = JobKey(SOURCE, f"old-{number}")
            self.world.store.save_manifests((manifest_record(key, seen_at=self.world.clock.now()),), ())
            self.world.store.save_status(key, status_of(key, phase))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Nothing but a source."""
    with migrated_database(SQLITE, tmp_path) as url:
        clock = RunningClock()
        store = SqlStore(url, clock)
        try:
            store.save_source_status(source_named(SOURCE))
            with served(make_doors(browser=store, requests=store, clock=clock, authoring=FleetDesk())) as server:
                yield Site(f"http://127.0.0.1:{server.port}", Fleet(World(store, clock)))
        finally:
            store.close()


# -- steps -----------------------------------------------------------------------------------------------------------
def jobs(seen: Watched, path: str = "/") -> Page:
    """Once it is told of changes."""
    page = seen.goto(path)
    expect(page.locator("#live")).to_contain_text("Live")
    return page


def row_of(page: Page, name: str) -> Locator:
    return page.locator(f'tbody[data-key="{SOURCE}/{name}"]')


def chevron(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=f"Child jobs of {name}", exact=True)


def unfold(page: Page, name: str) -> Locator:
    chevron(page, name).click()
    children = page.get_by_role("table", name=f"Child jobs of {name}", exact=True)
    expect(children).to_be_visible()
    return children


def is_unfolded(page: Page, name: str) -> None:
    expect(chevron(page, name)).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("table", name=f"Child jobs of {name}", exact=True)).to_be_visible()


def look_away(page: Page, away: bool) -> None:
    page.evaluate(
        """(away) => {
            Object.defineProperty(document, "hidden", { configurable: true, get: () => away });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        away,
    )


def ask_something_else(page: Page) -> None:
    """When that is answered, so is what was asked for before, and the page has done with it what it does."""
    page.evaluate("fetch('/servers').then((answer) => answer.text())")


class Late:
    """Answers to what has this in its address come when they are let."""

    def __init__(self, page: Page, address: str) -> None:
        self._page, self._address = page, re.compile(address)
        self._waiting: list[Route] = []
        self._let = False
        page.route(self._address, self._hold)

    def _hold(self, route: Route) -> None:
        if self._let:
            route.continue_()
        else:
            self._waiting.append(route)

    @contextmanager
    def asked(self) -> Iterator[None]:
        with self._page.expect_request(self._address):
            yield

    def come(self) -> None:
        self._let = True
        for route in self._waiting:
            route.continue_()


def is_given_up(request: Request) -> bool:
    return request.failure is not None and "ABORTED" in request.failure


# -- filters ---------------------------------------------------------------------------------------------------------
def test_the_first_click_after_typing_does_what_it_is_for(site: Site, visit: Watched) -> None:
    for name in ("patch-web", "deploy"):
        site.end(name, WEB, site.begin(name, WEB))
    page = jobs(visit)
    page.get_by_label("Search").press_sequentially("web")
    expect(page.locator("tbody.entry")).to_have_count(1)
    unfold(page, "patch-web")
    page.get_by_label("Source").focus()
    assert len(visit.asked_for("/fragments/batches?text=web&")) == 1  # leaving the field asks for nothing
    is_unfolded(page, "patch-web")


def test_a_row_that_fits_another_filter_too_stays_unfolded(site: Site, visit: Watched) -> None:
    for name in ("patch-web", "deploy"):
        site.end(name, WEB, site.begin(name, WEB))
    page = jobs(visit)
    unfold(page, "patch-web")
    page.get_by_label("Source").select_option(SOURCE)
    page.get_by_label("Search").fill("web")
    expect(page.locator("tbody.entry")).to_have_count(1)
    is_unfolded(page, "patch-web")


def test_more_of_a_list_that_is_not_wanted_any_more_is_not_added(site: Site, visit: Watched) -> None:
    site.fill_with(60)
    page = jobs(visit)
    rows = page.locator("tbody.entry")
    late = Late(page, "cursor=")
    with page.expect_event("requestfailed", is_given_up):
        with late.asked():
            page.get_by_role("link", name="Load more").click()
        page.get_by_label("Search").fill("old-60")
    expect(rows).to_have_count(1)
    late.come()
    expect(page.get_by_role("link", name="Load more")).to_have_count(0)
    page.get_by_label("Search").fill("")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Load more").click()
    expect(rows).to_have_count(60)
    assert len(set(rows.evaluate_all("rows => rows.map((row) => row.dataset.key)"))) == 60


def test_more_can_be_asked_for_again_after_a_failure(site: Site, visit: Watched) -> None:
    visit.expected = (UNREACHED,)
    site.fill_with(60)
    page = jobs(visit)
    page.route("**/*cursor=*", lambda route: route.abort())
    page.get_by_role("link", name="Load more").click()
    expect(page.get_by_role("alert")).to_contain_text("the daemon does not answer")
    page.unroute("**/*cursor=*")
    page.get_by_role("link", name="Load more").click()
    expect(page.locator("tbody.entry")).to_have_count(60)
    expect(page.get_by_role("alert")).to_have_count(0)


# -- while the list changes ------------------------------------------------------------------------------------------
def test_what_was_committed_while_nobody_looked_is_in_the_list(site: Site, visit: Watched) -> None:
    page = jobs(visit)
    expect(page.get_by_text("No job yet")).to_be_visible()
    look_away(page, True)
    site.end("first", WEB, site.begin("first", WEB))
    look_away(page, False)
    expect(row_of(page, "first")).to_be_visible()
    expect(page.get_by_text("No job yet")).to_have_count(0)
    unfold(page, "first")
    chevron(page, "first").focus()
    look_away(page, True)
    site.fill_with(70)
    look_away(page, False)
    expect(row_of(page, "old-1")).to_be_visible()
    is_unfolded(page, "first")  # though fifty are before it
    expect(chevron(page, "first")).to_be_focused()
    expect(page.locator("tbody.entry")).to_have_count(51)


def test_what_happens_before_the_stream_begins_is_not_missed(site: Site, visit: Watched) -> None:
    run = site.begin("first", WEB)
    late = Late(visit.page, "/api/v1/events")
    with late.asked():
        page = visit.goto("/")
    second = site.begin("second", WEB)
    late.come()
    expect(row_of(page, "second")).to_be_visible()
    late = Late(visit.page, "/api/v1/events")
    with late.asked():
        page = visit.goto(f"/batches/{SOURCE}/first")
    site.end("first", WEB, run)
    site.end("second", WEB, second)
    late.come()
    expect(page.locator("h1")).to_contain_text("Succeeded")


def test_a_list_that_did_not_come_is_asked_for_again(site: Site, visit: Watched) -> None:
    visit.expected = (UNREACHED,)
    page = jobs(visit)
    look_away(page, True)
    site.begin("first", WEB)
    page.route("**/fragments/batches?*", lambda route: route.abort())
    with page.expect_event("requestfailed", lambda request: "/fragments/batches?" in request.url):
        look_away(page, False)
    page.unroute("**/fragments/batches?*")
    expect(row_of(page, "first")).to_be_visible()


def test_a_source_that_is_gone_has_no_jobs_of_others(site: Site, visit: Watched) -> None:
    site.begin("first", WEB)
    late = Late(visit.page, "/api/v1/events")
    page = visit.goto("/?source=gone")
    with page.expect_response(re.compile("/fragments/batches[?]source=gone")):
        late.come()
    expect(page.get_by_text("No job fits these filters")).to_be_visible()


def test_as_many_rows_as_were_loaded_are_shown_after_looking_away(site: Site, visit: Watched) -> None:
    site.fill_with(120)
    page = jobs(visit)
    rows = page.locator("tbody.entry")
    page.get_by_role("link", name="Load more").click()
    expect(rows).to_have_count(100)
    look_away(page, True)
    site.begin("new", WEB)
    look_away(page, False)
    expect(rows.first).to_have_attribute("data-name", "new")
    expect(rows).to_have_count(100)
    page.get_by_role("link", name="Load more").click()
    expect(rows).to_have_count(121)


def test_a_large_commit_leaves_who_reads_where_they_are(site: Site, visit: Watched) -> None:
    site.end("read", WEB, site.begin("read", WEB))
    page = jobs(visit)
    link = unfold(page, "read").get_by_role("link", name="View logs of web-3")
    link.focus()
    keys = [JobKey(SOURCE, f"bulk-{number}") for number in range(150)]
    site.world.store.save_manifests([manifest_record(key) for key in keys], ())
    for key in keys:
        site.world.store.save_status(key, status_of(key, Phase.PENDING))
    site.world.store.add_causes([new_cause("1", key=key) for key in keys])
    expect(page.locator(".chip[data-phase=Pending] [data-count]")).to_have_text("150")
    expect(page.locator("tbody.entry[data-name^=bulk]").first).to_be_visible()
    is_unfolded(page, "read")
    expect(link).to_be_focused()


def test_who_reads_a_row_keeps_it_when_it_leaves_the_list(site: Site, visit: Watched) -> None:
    run = site.begin("patch-web", WEB)
    part = site.world.start(run, *[host.name for host in WEB])
    site.say("patch-web", WEB)
    page = jobs(visit, "/?phase=Running")
    row = row_of(page, "patch-web")
    unfold(page, "patch-web")
    site.end("patch-web", WEB, run, part)
    expect(row).to_contain_text("no longer in this list")
    expect(row.locator("> tr:not(.detail) .c-status .badge")).to_have_text("Succeeded")
    is_unfolded(page, "patch-web")
    chevron(page, "patch-web").click()
    page.get_by_label("Search").focus()
    expect(row).to_have_count(0)
    expect(page.get_by_text("No job fits these filters")).to_be_visible()


# -- child jobs ------------------------------------------------------------------------------------------------------
def test_a_new_failure_does_not_put_another_hosts_log_under_the_focus(site: Site, visit: Watched) -> None:
    run = site.begin("patch-web", WEB)
    first = site.world.start(run, "web-1", "web-2", "web-3")
    site.finish(first, {"web-1": ChildStatus.FAILED, "web-2": ChildStatus.SUCCESS, "web-3": ChildStatus.FAILED})
    second = site.world.start(run, "web-4", "web-5", number=2)
    site.say("patch-web", WEB)
    page = jobs(visit)
    children = unfold(page, "patch-web").locator("tbody tr")
    link = page.get_by_role("link", name="View logs of web-4")
    page.evaluate("(link) => { window.link = link; }", link.element_handle())
    link.focus()
    chip = page.get_by_role("button", name=re.compile("^running"))
    page.evaluate("(chip) => { window.chip = chip; }", chip.element_handle())
    site.finish(second, {"web-4": ChildStatus.SUCCESS, "web-5": ChildStatus.FAILED})
    site.say("patch-web", WEB)
    expect(children.nth(2)).to_contain_text("web-5")
    expect(link).to_be_focused()
    assert page.evaluate("window.link.getAttribute('aria-label')") == "View logs of web-4"
    assert page.evaluate("window.chip.dataset.status") == "running"  # not that of another status


def test_a_late_refresh_takes_away_nothing_that_was_loaded_since(site: Site, visit: Watched) -> None:
    nodes = hosts("node", 90)
    site.end("facts", nodes, site.begin("facts", nodes))
    page = jobs(visit)
    rows = unfold(page, "facts").locator("tbody tr")
    expect(rows).to_have_count(50)
    late = Late(page, "limit=50")  # the refresh, not what is loaded after it
    with late.asked():
        page.get_by_role("button", name=re.compile("^All")).click()
    page.get_by_role("button", name="Load more").click()
    ask_something_else(page)
    with page.expect_event("requestfinished", lambda request: "limit=50" in request.url):
        late.come()
    ask_something_else(page)
    expect(rows).to_have_count(90)
    expect(rows.nth(50).get_by_role("link").first).to_be_focused()


def one_has_failed(site: Site) -> None:
    """In a run of patch-web that has ended: web-2."""
    run = site.begin("patch-web", WEB)
    ends = {host.name: ChildStatus.SUCCESS for host in WEB} | {"web-2": ChildStatus.FAILED}
    site.finish(site.world.start(run, *ends), ends)
    site.say("patch-web", WEB)


def test_of_two_chips_the_last_one_counts(site: Site, visit: Watched) -> None:
    one_has_failed(site)
    page = jobs(visit)
    rows = unfold(page, "patch-web").locator("tbody tr")
    late = Late(page, "status=failed")
    with page.expect_event("requestfailed", is_given_up):
        with late.asked():
            page.get_by_role("button", name=re.compile("^failed")).click()
        page.get_by_role("button", name=re.compile("^success")).click()
    expect(rows).to_have_count(4)
    late.come()
    expect(page.get_by_role("button", name=re.compile("^success"))).to_have_attribute("aria-pressed", "true")


def test_a_status_in_which_nobody_is_any_more_can_still_be_given_up(site: Site, visit: Watched) -> None:
    run = site.begin("patch-web", WEB)
    part = site.world.start(run, *[host.name for host in WEB])
    site.say("patch-web", WEB)
    page = jobs(visit)
    children = unfold(page, "patch-web")
    chip = page.get_by_role("button", name=re.compile("^running"))
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "true")
    site.end("patch-web", WEB, run, part)
    expect(children).to_contain_text("No child job is running.")
    expect(chip).to_have_text(re.compile(r"running\s+0"))
    page.get_by_role("button", name=re.compile("^All")).click()
    expect(children.locator("tbody tr")).to_have_count(5)
    expect(chip).to_have_count(0)


def test_a_choice_that_failed_says_so_and_can_be_made_again(site: Site, visit: Watched) -> None:
    visit.expected = (UNREACHED,)
    one_has_failed(site)
    page = jobs(visit)
    rows = unfold(page, "patch-web").locator("tbody tr")
    page.route("**/*status=failed*", lambda route: route.abort())
    page.get_by_role("button", name=re.compile("^failed")).click()
    expect(page.get_by_role("alert")).to_contain_text("the daemon does not answer")
    page.unroute("**/*status=failed*")
    page.get_by_role("button", name=re.compile("^failed")).click()
    expect(rows).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)


# -- runs ------------------------------------------------------------------------------------------------------------
def test_runs_go_on_changing_after_more_of_them_were_loaded(site: Site, visit: Watched) -> None:
    visit.expected = (UNREACHED,)
    for number in range(1, 13):
        site.end("nightly", WEB, site.begin("nightly", WEB, run=number))
    page = jobs(visit, f"/batches/{SOURCE}/nightly")
    runs = page.locator(".runs > li")
    more = page.locator("#live-runs").get_by_role("button", name="Load more")
    expect(runs).to_have_count(10)
    page.route("**/fragments/runs*", lambda route: route.abort())
    more.click()
    expect(page.get_by_role("alert")).to_contain_text("the daemon does not answer")
    page.unroute("**/fragments/runs*")
    more.click()
    expect(runs).to_have_count(12)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(runs.nth(10).get_by_role("link")).to_be_focused()
    run = site.begin("nightly", WEB, run=13)
    expect(runs).to_have_count(13)
    expect(runs.first).to_contain_text(re.compile("running|pending"))
    expect(runs.nth(11).get_by_role("link")).to_be_focused()
    site.end("nightly", WEB, run)
    expect(runs.first).to_contain_text("5 of 5")
    expect(more).to_have_count(0)
    assert len(set(runs.evaluate_all("rows => rows.map((row) => row.dataset.key)"))) == 13


# -- servers ---------------------------------------------------------------------------------------------------------
def test_a_tag_that_is_clicked_keeps_the_focus(site: Site, visit: Watched) -> None:
    site.world.store.save_servers(SOURCE, INVENTORY, (*WEB, *hosts("node", 55, "node")))
    page = visit.goto("/servers")
    rows = page.locator("tbody.entry")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Load more").click()
    expect(rows).to_have_count(60)
    badge = rows.filter(has_text="web-4").locator("a[data-tag=web]")
    badge.focus()
    page.keyboard.press("Enter")
    expect(rows).to_have_count(5)
    expect(badge).to_be_focused()
    page.keyboard.press("Enter")  # and back: fifty of all, without web-4
    expect(rows).to_have_count(50)
    expect(rows.filter(has_text="web-4")).to_have_count(0)
    expect(page.get_by_role("checkbox", name=re.compile("^web"))).to_be_focused()


def test_servers_to_choose_from_are_those_of_the_last_search(site: Site, visit: Watched) -> None:
    visit.expected = (UNREACHED,)
    site.world.store.save_servers(SOURCE, INVENTORY, (*WEB, *hosts("node", 250, "node")))
    page = visit.goto("/new")
    picks = page.locator("#c-picks .pick")
    more = page.locator("#c-picks").get_by_role("button", name="Load more")
    expect(picks).to_have_count(200)
    page.route("**/*cursor=*", lambda route: route.abort())
    more.click()
    expect(page.locator("#c-picks").get_by_role("alert")).to_contain_text("the daemon does not answer")
    page.unroute("**/*cursor=*")
    late = Late(page, "cursor=")
    with page.expect_event("requestfailed", is_given_up):
        with late.asked():
            more.click()
        page.get_by_label("Search servers").fill("web")
    expect(picks).to_have_count(5)
    late.come()
    page.get_by_label("Search servers").fill("")
    expect(picks).to_have_count(200)
    more.click()
    expect(picks).to_have_count(255)
    expect(more).to_have_count(0)
