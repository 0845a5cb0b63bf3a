"""A log in a browser: it grows while its job runs, is as long as is asked for, and stays where somebody reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from reconciler.adapters.store import SqlStore
from reconciler.core.facts import ChildStatus, SliceId
from reconciler.ports import PlaybookResult
from tests.builders import NOON, hosts, make_spec, outcome
from tests.contracts.stores import World, line
from tests.databases import SQLITE, migrated_database
from tests.fakes.clock import RunningClock
from tests.web.browser.chromium import PATIENCE, Watched, serious_issues, watched
from tests.web.ports import make_doors, served

HOST = "web-1"
FIRST = 20_000
"""Lines that are loaded without being asked for."""

AT_END = "innerHeight + scrollY >= document.documentElement.scrollHeight - 2"


@dataclass
class Growing:
    """A job that runs until it is told to end, and says what it is told to."""

    base: str
    world: World
    run: str
    slice: SliceId
    lines: int = 0

    @property
    def job(self) -> str:
        return next(child.job_id for child in self.world.store.children(self.run) if child.host == HOST)

    @property
    def path(self) -> str:
        return f"/jobs/{self.job}/log"

    def say(self, *texts: str) -> None:
        said = [line(number, text, HOST) for number, text in enumerate(texts, start=self.lines + 1)]
        assert self.world.store.append_logs(self.slice, 1, said)
        self.lines += len(texts)

    def say_much(self, count: int) -> None:
        self.say(*(f"line {self.lines + number}" for number in range(1, count + 1)))

    def end(self, status: ChildStatus = ChildStatus.SUCCESS) -> None:
        assert self.world.store.finish(self.slice, 1, PlaybookResult((outcome(HOST, status),)))


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Growing]:
    with migrated_database(SQLITE, tmp_path) as url:
        clock = RunningClock()
        clock.advance(timedelta(hours=-1))
        store = SqlStore(url, clock)
        world = World(store, clock)
        try:
            run = world.open_run(hosts(HOST), spec=make_spec(retry={"limit": 1, "backoff": "1m"}))
            part = world.start(run, HOST)
            with served(make_doors(browser=store, requests=store, clock=clock)) as server:
                yield Growing(f"http://127.0.0.1:{server.port}", world, run, part)
        finally:
            store.close()


@pytest.fixture
def visit(browser: Browser, job: Growing) -> Iterator[Watched]:
    with watched(browser, job.base) as seen:
        yield seen


def until(page: Page, condition: Callable[[], bool]) -> None:
    """With the browser going on meanwhile."""
    for _ in range(int(PATIENCE / 20)):
        if condition():
            return
        page.wait_for_timeout(20)
    raise AssertionError("waited in vain")


def polls(visit: Watched, more: int) -> None:
    """So many more times it has asked how its job stands."""
    before = len(visit.asked_for("/fragments/log"))
    until(visit.page, lambda: len(visit.asked_for("/fragments/log")) >= before + more)


# -- how much of it --------------------------------------------------------------------------------------------------
def test_a_long_log_is_shown_once_and_as_far_as_is_asked_for(visit: Watched, job: Growing) -> None:
    job.say_much(FIRST + 1500)
    page = visit.goto(job.path)
    lines, more, end = page.locator("#lines .line"), page.locator("#log-more"), page.locator("#log-end")
    expect(more).to_be_visible()
    expect(lines).to_have_count(FIRST)
    more.focus()
    polls(visit, 3)  # the job runs, and its page knows it
    expect(lines).to_have_count(FIRST)
    expect(more).to_be_focused()
    expect(end).to_have_text("20,000 lines are shown; the download has all.")
    more.evaluate("button => { button.click(); button.click(); }")
    expect(lines).to_have_count(job.lines)
    expect(end).to_have_text("It goes on")
    expect(more).to_be_hidden()
    job.say("one more")
    expect(lines.last).to_have_text("one more")
    job.end()
    expect(page.locator("h1")).to_contain_text("success")
    expect(end).to_have_text("It has ended")
    numbers = lines.evaluate_all("lines => lines.map((line) => Number(line.dataset.n))")
    assert numbers == list(range(1, job.lines + 1))
    assert len(visit.asked_for(job.path)) == 1, "the whole page, for what stands in its head"


def test_a_log_that_nobody_sees_asks_for_nothing(visit: Watched, job: Growing) -> None:
    page = visit.page
    page.clock.install(time=NOON)
    visit.goto(job.path)
    expect(page.locator("#log-end")).to_have_text("There is no line yet")
    page.clock.pause_at(NOON + timedelta(hours=1))
    page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    asked = len(visit.requests)
    page.clock.run_for(20_000)
    assert visit.requests[asked:] == []
    job.say("somebody looks again")
    page.evaluate("delete document.hidden")
    page.clock.run_for(2000)
    expect(page.locator("#lines")).to_have_text("somebody looks again")


def test_what_is_read_aloud_is_written_only_when_it_is_another(visit: Watched, job: Growing) -> None:
    job.say("ok")
    page = visit.goto(job.path)
    expect(page.locator("#log-end")).to_have_text("It goes on")
    page.evaluate("""() => {
      window.written = 0;
      const watch = new MutationObserver((changes) => { window.written += changes.length; });
      for (const each of document.querySelectorAll("[role=status]")) watch.observe(each, { childList: true, characterData: true, subtree: true });
    }""")
    polls(visit, 3)
    assert page.evaluate("window.written") == 0


# -- where it is read ------------------------------------------------------------------------------------------------
def test_it_is_followed_until_somebody_reads_elsewhere_and_from_its_end_again(visit: Watched, job: Growing) -> None:
    job.say_much(150)
    job.say("failed")
    job.say_much(150)
    page = visit.goto(job.path)
    follow = page.get_by_label("Follow")

    def grows() -> None:
        job.say_much(20)
        expect(page.locator("#lines .line")).to_have_count(job.lines)

    def stays() -> None:
        expect(follow).not_to_be_checked()
        before = page.evaluate("scrollY")
        grows()
        assert page.evaluate("scrollY") == before

    def to_the_end() -> None:
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        expect(follow).to_be_checked()
        grows()
        page.wait_for_function(AT_END)

    expect(follow).to_be_checked()
    grows()
    page.wait_for_function(AT_END)
    page.get_by_role("button", name="First failure").click()
    stays()
    to_the_end()
    page.mouse.move(600, 500)
    page.mouse.wheel(0, -400)
    stays()
    to_the_end()
    page.get_by_label("Search in the log").fill("line 7")
    stays()
    to_the_end()
    page.get_by_role("button", name="Next match").click()
    stays()


def test_who_comes_for_one_line_is_left_there(visit: Watched, job: Growing) -> None:
    job.say_much(300)
    page = visit.goto(f"{job.path}#L120")
    expect(page.get_by_label("Follow")).not_to_be_checked()
    job.say("one more")
    expect(page.locator("#lines .line").last).to_have_text("one more")
    expect(page.locator("#L120")).to_be_in_viewport()


# -- attempts --------------------------------------------------------------------------------------------------------
def test_an_attempt_is_a_link_and_no_page_is_left_by_an_arrow_key(visit: Watched, job: Growing) -> None:
    job.say("the first attempt")
    job.end(ChildStatus.FAILED)
    job.slice = job.world.start(job.run, HOST, attempt=2)
    job.lines = 0
    job.say("the second attempt")
    page = visit.goto(job.path)
    lines = page.locator("#lines .line")
    expect(lines).to_have_text(["the first attempt", "the second attempt"])
    attempts = page.get_by_role("navigation", name="Attempts").get_by_role("link")
    expect(attempts).to_have_text(["All attempts", "Attempt 1: failed", "Attempt 2: running"])
    expect(attempts.nth(0)).to_have_attribute("aria-current", "page")
    attempts.nth(1).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(lines).to_have_text(["the first attempt"])
    expect(attempts.nth(1)).to_have_attribute("aria-current", "page")
    assert serious_issues(page) == []
