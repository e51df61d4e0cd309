"""The pages of a service in a real browser, which applies their content security policy."""

from urllib.parse import urlsplit

import pytest

from tests.browser import visit
from tests.openapi import apps
from tests.unspoken.http.test_pages import ring
from tests.worker.service import serve
from unspoken.http.app import use_keys

pytestmark = pytest.mark.browser


def test_the_api_page_shows_every_route_without_a_network():
    app = apps()["segmenter"]
    with serve(app) as url, visit(f"{url}/docs") as seen:
        seen.page.wait_for_selector(".opblock")
        shown = {
            path.replace("\u200b", "")
            for path in seen.page.locator(".opblock-summary-path").all_inner_texts()
        }
        assert shown == set(app.openapi()["paths"])
        assert seen.hosts == {urlsplit(url).netloc}
        assert not seen.errors


def test_a_key_entered_at_authorize_is_sent_with_requests():
    app = apps()["detector"]
    use_keys(app, ring())
    with serve(app) as url, visit(f"{url}/docs") as seen:
        page = seen.page
        page.click("button.authorize")
        page.fill(".auth-container input", "secret")
        page.click(".auth-btn-wrapper button.authorize")
        page.click(".btn-done")
        block = page.locator(".opblock", has_text="/v1/models")
        block.locator(".opblock-summary-control").click()
        block.get_by_role("button", name="Try it out").click()
        block.get_by_role("button", name="Execute").click()
        status = block.locator(".live-responses-table .response-col_status").last
        assert status.inner_text().strip().startswith("200")
        assert not seen.errors


def test_the_first_page_can_be_used_with_the_keyboard():
    with serve(apps()["gateway"]) as url, visit(url) as seen:
        links = seen.page.get_by_role("link")
        for number in range(links.count()):
            seen.page.keyboard.press("Tab")
            assert links.nth(number).evaluate("link => link === document.activeElement")
        assert seen.page.get_by_role("heading", level=1).inner_text() == "Unspoken gateway"
        seen.page.get_by_role("link", name="API").click()
        seen.page.wait_for_selector(".opblock")
        assert not seen.errors
