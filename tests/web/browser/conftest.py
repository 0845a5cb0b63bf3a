"""One browser for all stories of a module, and a page of its own for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.web.browser.chromium import chromium, why_no_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if reason := why_no_chromium():
        pytest.skip(reason)
    with chromium() as running:
        yield running
