"""What tests of the report's page and of the demo's share."""

from collections.abc import Iterator

import pytest

from tests.support.browser import CHROMIUM, OPTIONS


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()
