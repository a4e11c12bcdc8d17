"""The system's Chromium, for tests of pages."""

import shutil

import pytest

from tests.support.optional import Test, needs

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def in_chromium(*packages: str):
    """Mark a test that needs Chromium, Playwright and these packages: it is skipped without."""
    reason = "needs Chromium: apt-get install chromium, then `nox -s optional`"

    def mark(test: Test) -> Test:
        without = pytest.mark.skipif(CHROMIUM is None, reason=reason)
        return needs("playwright", *packages)(without(test))

    return mark
