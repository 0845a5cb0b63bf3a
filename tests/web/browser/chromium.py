"""A real Chromium, and what must be true of every page that it shows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Error, Page, Request, expect, sync_playwright

Theme = Literal["light", "dark"]

WIDE, NARROW = 1280, 390
PATIENCE = 60_000.0
"""Milliseconds that a page may take to show something: far more than it takes, for the machine may be busy."""

expect.set_options(timeout=PATIENCE)

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def why_no_chromium() -> str | None:
    """Why no browser can be driven here; None: one can."""
    return None if _program() else f"no Chromium on PATH ({', '.join(_NAMES)}): apt-get install chromium"


def _program() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # It may run as root in a container, where its sandbox does not.
        browser = playwright.chromium.launch(executable_path=_program(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, and what went wrong on it: errors on its console, exceptions, and requests to anybody else."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.expected: tuple[str, ...] = ()
        """Parts of what may be on the console, since the story is about it."""
        page.set_default_timeout(PATIENCE)
        page.on("console", self._said)
        page.on("pageerror", self._failed)
        page.on("request", self._asked)
        page.on("dialog", self._opened)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(part in message.text for part in self.expected):
            self.wrong.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def _failed(self, error: Error) -> None:
        self.wrong.append(f"exception: {error}")

    def _opened(self, dialog: Dialog) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.base:
            self.wrong.append(f"a request to another host: {request.url}")

    def goto(self, path: str) -> Page:
        self.page.goto(f"{self.base}{path}", wait_until="load")
        return self.page

    def asked_for(self, part: str) -> list[str]:
        """Requests so far with this in their address."""
        return [url for url in self.requests if part in url]


@contextmanager
def watched(
    browser: Browser, base: str, *, theme: Theme = "light", width: int = WIDE, **more: Any
) -> Iterator[Watched]:
    """A page of its own, with no cookies. At the end nothing must have gone wrong on it."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **more)
    try:
        seen = Watched(context.new_page(), base)
        yield seen
        assert not seen.wrong, "\n".join(seen.wrong)
    finally:
        context.close()


def serious_issues(page: Page) -> list[str]:
    """What axe-core finds on a page that keeps somebody from using it."""
    found = Axe().run(page).response["violations"]
    return [
        f"{issue['impact']} {issue['id']}: {issue['help']}: {[node['html'][:200] for node in issue['nodes'][:3]]}"
        for issue in found
        if issue["impact"] in ("serious", "critical")
    ]
