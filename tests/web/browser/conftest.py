"""One browser for all stories of a module, and a page of its own for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pytest
from playwright.sync_api import Browser

from tests.web.browser.chromium import Watched, chromium, watched, why_no_chromium


class Based(Protocol):
    """What a module's fixture `site` is, at least: a server, at the address `base`."""

    @property
    def base(self) -> str: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if reason := why_no_chromium():
        pytest.skip(reason)
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: Browser, site: Based) -> Iterator[Watched]:
    with watched(browser, site.base) as seen:
        yield seen
