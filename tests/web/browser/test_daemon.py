"""A browser on a real daemon, whose source is a repository and whose batches run the real ansible-playbook."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from reconciler.web import digest_of
from tests.acceptance.gitwork import GitWorkspace
from tests.acceptance.workspace import wait_for
from tests.gitrepo import git
from tests.web.browser.chromium import Watched, watched

pytestmark = [pytest.mark.ansible, pytest.mark.slow]

OPERATES, WRITES = "token-that-operates", "token-that-writes"
SUBJECT = "Work on the <b>web</b> servers"


class Daemon(GitWorkspace):
    """Four hosts, the first two of which are also called canaries. The port takes two tokens, and manifests."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 4)
        canaries = "\n".join(f"    {name}: {{reconciler_tags: [web, canary]}}" for name in self.names[:2])
        hosts = (self.root / "inventory" / "hosts.yml").read_text()
        for name in self.names[:2]:
            hosts = re.sub(rf"^    {name}: null$", f"    {name}: {{reconciler_tags: [web, canary]}}", hosts, flags=re.M)
        assert canaries in hosts
        self.write("inventory/hosts.yml", hosts)

    def follow(self, url: str | None = None, **more: object) -> None:
        tokens = "\n".join(
            f'[[http.tokens]]\nname = "{name}"\nhash = "{digest_of(token)}"\nscopes = ["{scope}"]\n'
            for name, token, scope in (("kim", OPERATES, "operate"), ("robot", WRITES, "write"))
        )
        source = {"url": f"file://{self.bare}", "branch": "main", "interval": "1s", "write": True}
        self.follow_all({"default": source}, head=f'[http]\nlisten = "127.0.0.1:0"\n{tokens}\n')

    def push(self, subject: str = "a change") -> str:
        """After what the daemon itself has pushed."""
        self.copy.commit(subject)
        if git(self.bare, "branch", "--list", "main"):
            git(self.root, "pull", "--quiet", "--rebase", "origin", "main")
        self.copy.push()
        return self.copy.head

    @property
    def base(self) -> str:
        """Where the port is, once it is there."""
        wait_for(lambda: self._started() or None, "the daemon's port")
        return f"http://127.0.0.1:{self._started()[0]['port']}"

    def _started(self) -> list[dict[str, str]]:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        entries = [dict(part.partition("=")[::2] for part in shlex.split(line)) for line in lines if "event=" in line]
        return [entry for entry in entries if entry.get("event") == "daemon_started"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    site = Daemon(tmp_path_factory.mktemp("daemon"))
    site.job("first", selector={"hosts": ["h1", "h2"]})
    commit = site.push("The first batch: servers are known once an inventory was read")
    with site.running("--listen", "127.0.0.1:0"):
        site.reached(commit, name="first")
        yield site


@pytest.fixture
def visit(browser: Browser, daemon: Daemon) -> Iterator[Watched]:
    with watched(browser, daemon.base) as seen:
        yield seen


def row_of(page: Page, name: str) -> Locator:
    return page.locator(f'tbody[data-key="default/{name}"]')


def becomes(place: Locator, text: str) -> None:
    expect(place).to_contain_text(text)


# -- stories ---------------------------------------------------------------------------------------------------------
def test_a_batch_is_followed_from_its_commit_to_the_log_of_its_failed_child(daemon: Daemon, visit: Watched) -> None:
    page = visit.goto("/")
    expect(page.locator("#live")).to_contain_text("Live")
    page.evaluate("window.kept = true")
    daemon.break_host("h2")
    daemon.job("work", limit=2)
    commit = daemon.push(SUBJECT)
    row = row_of(page, "work")
    expect(row).to_be_visible()  # it appears by itself
    becomes(row.locator(".c-status .badge").first, "Running")
    row.get_by_role("button", name="Child jobs of work").click()  # the first click
    children = page.get_by_role("table", name="Child jobs of work")
    expect(children.locator("tbody tr")).to_have_count(4)
    becomes(row.locator(".progress-text"), "2/4 completed, 1 failed")
    becomes(children.locator("tbody tr", has_text="h2"), "failed")
    becomes(row.locator(".progress-text"), "4/4 completed, 1 failed")
    becomes(row.locator(".c-status .badge").first, "Failed")
    expect(children.locator("tbody tr").first).to_contain_text("h2")
    expect(row.locator(".c-commit")).to_contain_text(commit[:8])
    expect(row.locator(".c-commit")).to_contain_text(SUBJECT)
    assert page.evaluate("window.kept") is True
    children.get_by_role("link", name="View logs of h2").click()  # and the second
    expect(page.locator("#lines .line-bad").first).to_have_text("failed")
    expect(page.locator("#lines .line-bad").last).to_contain_text("RECAP failed (TaskFailed)")
    expect(page.locator("h1")).to_contain_text("h2")
    daemon.mend_host("h2")


def test_a_job_page_and_a_log_grow_while_it_runs(daemon: Daemon, visit: Watched) -> None:
    daemon.job("grows", limit=2, selector={"hosts": ["h3", "h4"]}, extraVars={"seconds": 4})
    visit.expected = ("404",)
    page = visit.goto("/batches/default/grows")  # somebody is early
    expect(page.locator("h1")).to_have_text("No batch of this name")
    daemon.push("Something slow")
    becomes(page.locator("h1"), "Running")
    expect(page.locator(".gantt-bar.going")).not_to_have_count(0)
    page.get_by_role("link", name="View logs of h3").click()
    becomes(page.locator("#lines"), "TASK [Work]")
    becomes(page.locator("#lines"), "TASK [End]")
    becomes(page.locator("h1"), "success")
    page.go_back()
    becomes(page.locator("h1"), "Succeeded")
    expect(page.locator(".gantt-bar.going")).to_have_count(0)
    expect(page.locator("#live-conditions")).to_contain_text("Ready=True")


def test_servers_are_found_by_their_tags(daemon: Daemon, visit: Watched) -> None:
    page = visit.goto("/servers")
    rows = page.locator("tbody.entry")
    expect(rows).to_have_count(4)
    badge = rows.first.locator(".badge-tag", has_text="canary")
    badge.click()
    expect(rows).to_have_count(2)
    expect(page).to_have_url(re.compile(r"/servers\?tag=canary$"))
    page.get_by_label("Search").fill("h2")
    expect(rows).to_have_count(1)
    expect(rows.locator("td[data-label='Last outcome'] .badge")).to_have_text(re.compile("success|failed"))
    page.get_by_role("link", name="h2", exact=True).click()
    expect(page.get_by_role("table")).to_contain_text("first")


def test_a_batch_is_composed_by_clicking_committed_and_runs(daemon: Daemon, visit: Watched) -> None:
    page = visit.goto("/new")
    commit = page.get_by_role("button", name="Commit", exact=True)
    page.get_by_label("Name", exact=True).fill("composed")
    page.get_by_role("checkbox", name=re.compile("h3")).check()
    expect(page.locator("#c-few")).to_contain_text("at least 2")
    expect(commit).to_be_disabled()
    page.get_by_role("checkbox", name=re.compile("h3")).uncheck()
    page.get_by_role("button", name=re.compile("^canary")).click()
    expect(page.locator("#c-count")).to_have_text("2 selected")
    expect(page.locator(".plan-waves li")).to_have_count(1)
    page.get_by_label("Search servers").fill("h4")
    page.get_by_role("checkbox", name=re.compile("h4")).check()
    page.get_by_label("Hosts at a time").fill("2")
    expect(page.locator(".plan-waves li")).to_have_count(2)
    expect(page.locator(".plan-waves")).to_contain_text("h1, h2")
    expect(page.locator("#c-manifest")).to_contain_text("limit: 2")
    page.get_by_label("Stop on failure").check()
    expect(page.locator("#c-manifest")).to_contain_text("stopOnFailure: true")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download").click()
    assert waiting.value.path().read_text() == page.locator("#c-manifest").text_content()
    expect(commit).to_be_enabled()
    commit.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Token").fill(OPERATES)
    visit.expected = ("403",)
    dialog.get_by_role("button", name="Commit").click()
    expect(dialog.get_by_role("alert")).to_contain_text("does not have the scope write")
    dialog.get_by_label("Token").fill(WRITES)
    dialog.get_by_role("button", name="Commit").click()
    dialog.get_by_role("link", name="Show composed").click()
    becomes(page.locator("h1"), "Succeeded")
    assert page.locator(".gantt-label").all_inner_texts() == ["Wave 1: 2 hosts", "h1", "h2", "Wave 2: 1 host", "h4"]
    assert git(daemon.bare, "log", "-1", "--format=%s", "main") == "Add the batch composed"
    assert "stopOnFailure: true" in git(daemon.bare, "show", "main:jobs/composed.yaml")
    expect(page.locator("#live-revision")).to_contain_text("Add the batch composed")


def test_somebody_logs_in_and_has_the_failed_hosts_tried_again(daemon: Daemon, visit: Watched) -> None:
    daemon.break_host("h4")
    daemon.job("again", selector={"hosts": ["h2", "h3", "h4"]})
    daemon.reached(daemon.push("Something that fails"), "Failed", "again")
    daemon.mend_host("h4")
    page = visit.goto("/batches/default/again")
    becomes(page.locator("h1"), "Failed")
    page.get_by_role("link", name="Log in").click()
    page.get_by_label("Token").fill(OPERATES)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(re.compile("/batches/default/again$"))
    expect(page.locator(".who")).to_have_text("kim")
    assert "token" not in page.evaluate("document.cookie + JSON.stringify(localStorage)")
    page.get_by_role("button", name="Retry").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Token")).to_have_count(0)
    dialog.get_by_label("Why").fill("the disk is <i>mended</i>")
    dialog.get_by_role("button", name="Retry").click()
    becomes(dialog.get_by_role("status"), "Accepted")
    dialog.get_by_role("button", name="Close").click()
    becomes(page.locator("h1"), "Succeeded")
    expect(page.locator(".progress-text")).to_have_text("3/3 completed, 0 failed")
    expect(page.locator(".runs li")).to_have_count(2)
    expect(page.locator("#children tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Log in")).to_be_visible()
    assert "kim" in daemon.call("audit", "-o", "json").out


def test_a_run_is_cancelled_by_a_token_that_is_given_once(daemon: Daemon, visit: Watched) -> None:
    daemon.job("slow", limit=1, selector={"hosts": ["h3", "h4"]}, extraVars={"seconds": 600})
    daemon.push("Something that takes too long")
    row = row_of(visit.goto("/"), "slow")
    becomes(row.locator(".c-status .badge").first, "Running")
    page = visit.goto("/batches/default/slow")
    page.get_by_role("button", name="Cancel", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Token").fill("nobody's")
    visit.expected = ("401",)
    dialog.get_by_role("button", name="Cancel the run").click()
    expect(dialog.get_by_role("alert")).to_contain_text("this token is nobody's")
    dialog.get_by_label("Token").fill(OPERATES)
    dialog.get_by_role("button", name="Cancel the run").click()
    becomes(dialog.get_by_role("status"), "Accepted")
    dialog.get_by_role("button", name="Close").click()
    becomes(page.locator("h1"), "Cancelled")
    becomes(page.locator("#children"), "cancelled")
    expect(page.locator("#children")).to_contain_text("skipped")
    expect(page.get_by_role("link", name="Log in")).to_be_visible()
