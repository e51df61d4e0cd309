"""A headless Chromium for tests of pages. Without Playwright and Chromium the tests are skipped."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@dataclass
class Visit:
    """An open page, the hosts that it asked, and its errors, refusals of its policy included."""

    page: Any
    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


@contextmanager
def visit(url: str, *, width: int = 1200, height: int = 900) -> Iterator[Visit]:
    """Open a page."""
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            seen = Visit(page)
            page.on("request", lambda request: seen.hosts.add(urlsplit(request.url).netloc))
            page.on("pageerror", lambda error: seen.errors.append(str(error)))
            page.on(
                "console",
                lambda line: seen.errors.append(line.text) if line.type == "error" else None,
            )
            page.goto(url)
            yield seen
        finally:
            browser.close()
