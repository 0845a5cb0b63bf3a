"""Composing, asking and logging in, as a browser does it: what is on its way when somebody changes their mind, what a
dialog remembers, and where the focus is afterwards."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from reconciler.adapters.store import SqlStore
from reconciler.core.facts import ChildStatus, JobKey
from reconciler.core.manifest import DEFAULT_MAX_LIMIT
from reconciler.core.plans import Blocked
from reconciler.core.reading import parse_manifests
from reconciler.core.reasons import Reason
from reconciler.core.report import report_unread_source
from reconciler.ports import Planned, PlannedHost, SourceOffer
from tests.acceptance.workspace import wait_for
from tests.builders import NOON, make_spec, new_cause
from tests.contracts.stores import World
from tests.databases import SQLITE, migrated_database
from tests.fakes.clock import RunningClock
from tests.web.browser.chromium import PATIENCE, Watched, serious_issues, watched
from tests.web.browser.fleet import APP, DB, SOURCE, Fleet, fill, source_named
from tests.web.filled import Desk
from tests.web.ports import OPERATES, connected, make_doors, served


class SlowDesk(Desk):
    """Plans what it is asked for, as slowly as a story wants it: while `held`, no plan is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()
        self.asked = 0

    def offers(self) -> Sequence[SourceOffer]:
        return (
            SourceOffer(SOURCE, True, ("playbooks/patch.yml",), None),
            SourceOffer("another", True, ("playbooks/other.yml",), None),
        )

    def plan(self, source: str, text: str) -> Planned:
        self.asked += 1
        assert self.free.wait(PATIENCE / 1000)
        (entry,) = parse_manifests(text.encode(), "manifest", DEFAULT_MAX_LIMIT)
        names = entry.job.spec.selector.hosts  # type: ignore[union-attr] # it is valid: the page has written it
        waves = tuple((PlannedHost(name, name),) for name in names)
        return Planned(name="composed", waves=waves, warnings=("there is little room on some of them",))


@dataclass(frozen=True)
class Site:
    base: str
    fleet: Fleet
    desk: SlowDesk

    @property
    def store(self) -> SqlStore:
        store = self.fleet.world.store
        assert isinstance(store, SqlStore)
        return store

    def accept(self, name: str) -> None:
        """What the daemon does with the request that is to be there soon."""
        key = JobKey(SOURCE, name)
        wait_for(lambda: self.store.pending_requests(key), "a request")
        (request,) = self.store.pending_requests(key)
        self.store.accept_cause(request, new_cause(request.id, key=key))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with migrated_database(SQLITE, tmp_path_factory.mktemp("forms")) as url:
        clock = RunningClock()
        clock.advance(timedelta(hours=-3))
        store = SqlStore(url, clock)
        desk = SlowDesk()
        try:
            fleet = fill(World(store, clock))
            with served(make_doors(browser=store, requests=store, clock=clock, authoring=desk)) as server:
                yield Site(f"http://127.0.0.1:{server.port}", fleet, desk)
        finally:
            store.close()


def pick(page: Page, *names: str) -> None:
    for name in names:
        page.get_by_role("checkbox", name=re.compile(f"^{name} ")).check()


# -- composing -------------------------------------------------------------------------------------------------------
def test_a_plan_of_what_was_chosen_before_does_not_allow_to_commit_what_is_chosen_now(
    visit: Watched, site: Site
) -> None:
    page = visit.page
    page.clock.install(time=NOON)
    visit.goto("/new")
    page.clock.pause_at(NOON + timedelta(hours=1))  # from now on nothing is done later, unless it is told to be
    commit = page.get_by_role("button", name="Commit", exact=True)
    page.get_by_label("Search servers").fill("web")
    page.clock.run_for(1000)
    expect(page.locator(".pick")).to_have_count(6)
    site.desk.free.clear()
    ended: list[str] = []
    for event in ("requestfinished", "requestfailed"):
        page.on(event, lambda request: ended.append(request.url))
    pick(page, "web-1", "web-2")
    before = site.desk.asked
    page.clock.run_for(1000)  # the plan is asked for
    wait_for(lambda: site.desk.asked > before, "the plan to be asked for")
    page.get_by_role("checkbox", name=re.compile("^web-2 ")).uncheck()
    site.desk.free.set()
    while not any("/plan" in url for url in ended):
        page.wait_for_timeout(20)
    expect(commit).to_be_disabled()
    page.clock.run_for(1000)
    expect(page.locator("#c-plan-told")).to_have_text("Choose at least 2 servers.")
    expect(commit).to_be_disabled()
    page.get_by_role("checkbox", name=re.compile("^web-3 ")).check()
    page.clock.run_for(1000)
    expect(commit).to_be_enabled()
    page.get_by_label("Name", exact=True).fill("Not a name")
    expect(commit).to_be_disabled()
    page.clock.run_for(1000)
    expect(page.locator("#c-plan-told")).to_contain_text("The name may hold")
    expect(commit).to_be_disabled()


def test_a_manifest_without_servers_is_neither_copied_nor_downloaded(visit: Watched) -> None:
    page = visit.goto("/new")
    buttons = [page.get_by_role("button", name=name) for name in ("Copy", "Download")]
    for button in buttons:
        expect(button).to_be_disabled()
    pick(page, "app-1")
    expect(page.locator("#c-few")).to_contain_text("at least 2")
    for button in buttons:
        expect(button).to_be_disabled()
    pick(page, "app-2")
    for button in buttons:
        expect(button).to_be_enabled()


def test_of_a_plan_one_sentence_is_read_aloud(visit: Watched) -> None:
    page = visit.goto("/new")
    pick(page, "app-1", "app-2", "app-3")
    told = page.locator("#c-plan-told")
    expect(told).to_have_text("3 hosts in 3 waves, 1 warning.")
    expect(told).to_have_role("status")
    expect(page.locator(".plan-waves li")).to_have_count(3)
    assert page.locator(".plan-waves").evaluate("list => list.closest('[role=status], [aria-live]')") is None


def test_another_source_is_gone_to_by_a_button_and_not_by_an_arrow_key(visit: Watched) -> None:
    page = visit.goto("/new")
    page.get_by_label("Name", exact=True).fill("half-done")
    page.get_by_label("Source").focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("Source")).to_have_value("another")
    expect(page.locator("#c-manifest")).to_contain_text("half-done")
    expect(page).to_have_url(re.compile(r"/new$"))
    page.get_by_role("button", name="Change the source").click()
    expect(page).to_have_url(re.compile(r"/new\?source=another$"))
    expect(page.get_by_label("Playbook")).to_have_value("playbooks/other.yml")
    expect(page.get_by_label("Name", exact=True)).to_have_value("other")


def test_what_is_chosen_is_seen_where_the_system_has_its_own_colours(browser: Browser, site: Site) -> None:
    ground = "element => getComputedStyle(element).backgroundColor"
    with watched(browser, site.base, forced_colors="active") as seen:
        page = seen.goto("/?phase=Failed")
        chips = {name: page.locator(f'.chip[data-phase="{name}"]') for name in ("Failed", "Running")}
        assert chips["Failed"].evaluate(ground) != chips["Running"].evaluate(ground)
        here, other = (page.get_by_role("link", name=name, exact=True) for name in ("Jobs", "Servers"))
        line = "element => getComputedStyle(element).borderBottomColor"
        assert here.evaluate(line) != other.evaluate(line)
        page = seen.goto("/new")
        tags = page.locator("#c-tags .chip")
        tags.first.click()
        expect(tags.first).to_have_attribute("aria-pressed", "true")
        assert tags.first.evaluate(ground) != tags.nth(1).evaluate(ground)


# -- dialogs ---------------------------------------------------------------------------------------------------------
def test_a_dialog_keeps_neither_the_token_nor_the_reason(visit: Watched, site: Site) -> None:
    page = visit.goto(f"/batches/{SOURCE}/upgrade-kernel")
    page.get_by_role("button", name="Run again").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why").fill("the first time")
    dialog.get_by_label("Token").fill(OPERATES)
    dialog.get_by_role("button", name="Run").click()
    site.accept("upgrade-kernel")
    expect(dialog.get_by_role("status")).to_have_text("Accepted")
    expect(dialog.get_by_label("Token")).to_be_hidden()  # and out of the way of who goes on by keyboard
    dialog.get_by_role("button", name="Close").click()
    for name in ("token", "reason"):
        expect(page.locator(f"#ask-trigger [name={name}]")).to_have_value("")
    page.get_by_role("button", name="Run again").click()
    expect(dialog.get_by_label("Token")).to_have_value("")
    expect(dialog.get_by_label("Why")).to_have_value("")
    dialog.get_by_label("Why").fill("left as it is")
    dialog.get_by_label("Token").fill(OPERATES)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    for name in ("token", "reason"):
        expect(page.locator(f"#ask-trigger [name={name}]")).to_have_value("")


def test_who_stays_logged_in_is_asked_for_no_token_again(visit: Watched, site: Site) -> None:
    page = visit.goto(f"/batches/{SOURCE}/fleet-inventory")
    page.get_by_role("button", name="Run again").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Token").fill(OPERATES)
    dialog.get_by_label("Stay logged in").check()
    dialog.get_by_role("button", name="Run").click()
    site.accept("fleet-inventory")
    expect(dialog.get_by_role("status")).to_have_text("Accepted")
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator(".who")).to_have_text("kim")
    page.get_by_role("button", name="Retry").click()
    expect(dialog.get_by_label("Token")).to_have_count(0)
    dialog.get_by_role("button", name="Retry").click()
    site.accept("fleet-inventory")
    expect(dialog.get_by_role("status")).to_have_text("Accepted")
    dialog.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Log in")).to_be_visible()


def test_a_token_that_may_not_do_it_is_asked_for_again_though_it_stays_logged_in(visit: Watched) -> None:
    page = visit.goto(f"/batches/{SOURCE}/fleet-inventory")
    page.get_by_role("button", name="Run again").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Token").fill("token-that-looks")
    dialog.get_by_label("Stay logged in").check()
    visit.expected = ("403",)
    dialog.get_by_role("button", name="Run").click()
    expect(dialog.get_by_role("alert")).to_contain_text("does not have the scope operate")
    expect(dialog.get_by_label("Token")).to_be_visible()


def test_the_focus_is_on_the_page_after_what_was_asked_is_done(visit: Watched, site: Site) -> None:
    page = visit.goto(f"/batches/{SOURCE}/deploy-app")
    opener = page.get_by_role("button", name="Retry")
    opener.click()
    page.keyboard.press("Escape")
    expect(opener).to_be_focused()  # nothing came of it
    opener.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Token").fill(OPERATES)
    dialog.get_by_role("button", name="Retry").click()
    site.accept("deploy-app")
    expect(dialog.get_by_role("status")).to_have_text("Accepted")
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator("main")).to_be_focused()


# -- what is told beside what is shown -------------------------------------------------------------------------------
def test_an_earlier_run_shows_its_own_facts(visit: Watched, site: Site) -> None:
    before = site.fleet.runs["restart-database"]
    wrong = {
        name: {"status": ChildStatus.FAILED, "message": "no space", "task": "Restart"} for name in ("db-1", "db-2")
    }
    site.fleet.run(
        "restart-database",
        DB[:2],
        wrong,
        spec=make_spec(limit=2, playbook="playbooks/another.yml", selector={"hosts": ["db-1", "db-2"]}),
        commit=site.fleet.commit("Restart two of them by another playbook"),
    )
    page = visit.goto(f"/batches/{SOURCE}/restart-database")
    expect(page.locator("h1")).to_contain_text("Failed")
    facts = page.locator(".facts")
    expect(facts).to_contain_text("2 Nodes")
    visit.goto(f"/batches/{SOURCE}/restart-database?run={before}")
    expect(page.get_by_text("This is an earlier run")).to_be_visible()
    expect(page.locator("h1 .badge").last).to_have_text("success")
    expect(page.locator(".progress-text")).to_have_text("4/4 completed, 0 failed")
    expect(facts).to_contain_text("4 Nodes")
    expect(facts).to_contain_text("playbooks/restart.yml")
    for text in ("another.yml", "Strategy"):
        expect(facts).not_to_contain_text(text)
    expect(page.locator(".lead")).not_to_contain_text("failed")


def test_it_is_told_aloud_that_a_batch_has_ended(visit: Watched, site: Site) -> None:
    fleet, name = site.fleet, "tell-aloud"
    spec, wrong = make_spec(limit=2), {"app-1": {"status": ChildStatus.FAILED, "message": "no space", "task": "Work"}}
    fleet.run(name, APP[:2], wrong, spec=spec, commit=fleet.commit("Something that fails"))
    page = visit.goto(f"/batches/{SOURCE}/{name}")
    expect(page.locator("#live")).to_contain_text("Live")
    expect(page.locator("#announcer")).to_be_empty()
    fleet.run(name, APP[:2], spec=spec, commit=fleet.commit("Something that does not"))
    expect(page.locator("#announcer")).to_have_text(f"{name}: Succeeded, 2/2 completed, 0 failed")


def test_a_source_that_cannot_be_read_is_told_of_until_it_can(visit: Watched, site: Site) -> None:
    said = source_named(SOURCE)
    page = visit.page
    page.clock.install()
    visit.goto("/")
    notice = page.locator("#held .notice", has_text="could not resolve host")
    expect(notice).to_have_count(0)
    for reason, permanent, shade in (
        (Reason.SOURCE_UNAVAILABLE, False, "yellow"),
        (Reason.SOURCE_UNVERIFIED, True, "red"),
    ):
        why = Blocked(reason, "could not resolve host: git.example.org", permanent=permanent)
        site.store.save_source_status(report_unread_source(SOURCE, why, said, NOON))
        page.clock.run_for(15_000)
        expect(notice).to_have_class(f"notice notice-{shade}")
    assert serious_issues(page) == []
    site.store.save_source_status(said)
    page.clock.run_for(15_000)
    expect(notice).to_have_count(0)


def test_a_source_that_the_settings_name_no_more_is_not_told_of(site: Site) -> None:
    why = Blocked(Reason.SOURCE_UNAVAILABLE, "nobody reads it any more", permanent=False)
    site.store.save_source_status(report_unread_source("gone", why, None, NOON))
    doors = make_doors(browser=site.store, requests=site.store, sources=frozenset({SOURCE}))
    with served(doors) as server, connected(server) as client:
        for path in ("/", "/fragments/held"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "nobody reads it any more" not in answer.text
            assert f"Source {SOURCE}" in answer.text  # which has manifests that were rejected
