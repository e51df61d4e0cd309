"""The pages of the services: complete offline, open without an API key, and safe."""

import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest
from fastapi.testclient import TestClient

from tests.openapi import apps
from tests.unspoken.http.test_app import service
from unspoken import __version__
from unspoken.config.api_keys import ApiKey, KeyRing, key_sha256
from unspoken.http.app import use_keys, use_ports
from unspoken.http.pages import STATIC_DIR, Link, Section

PAGES = ("/", "/docs")
CONTENT_TYPES = {
    "css": ("text/css",),
    "js": ("text/javascript", "application/javascript"),
    "svg": ("image/svg+xml",),
    "txt": ("text/plain",),
    "md": ("text/markdown", "text/plain", "application/octet-stream"),
}
every_page = pytest.mark.parametrize("path", PAGES)
every_service = pytest.mark.parametrize("name", ["gateway", "llm", "detector", "segmenter"])


class Parts(HTMLParser):
    """Addresses, element names and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.assets: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.inline_scripts = ""
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.attributes += values
        if tag == "a":
            self.links.append(values["href"] or "")
        self.assets += [
            values[name] or "" for name in ("src", "href") if name in values and tag != "a"
        ]
        self._in_script = tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.inline_scripts += data.strip()

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


def ring() -> KeyRing:
    return KeyRing([ApiKey(name="app", sha256=key_sha256("secret"), requests_per_minute=0)])


@every_service
@every_page
def test_every_file_of_a_page_comes_from_the_service_itself(name, path):
    client = TestClient(apps()[name])
    reply = client.get(path)
    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assets = Parts(reply.text).assets
    assert assets
    for asset in assets:
        assert not urlsplit(asset).netloc and not asset.startswith("/")
        served = client.get(urljoin(path, asset))
        assert served.status_code == 200, asset
        kinds = CONTENT_TYPES[asset.rsplit(".", 1)[1]]
        assert served.headers["Content-Type"].split(";")[0] in kinds


@every_page
def test_a_page_has_no_inline_script_and_its_policy_allows_only_its_own_files(path):
    reply = TestClient(service()).get(path)
    parts = Parts(reply.text)
    assert not parts.inline_scripts and "style" not in parts.attributes
    assert not [name for name in parts.attributes if name.startswith("on")]
    policy = dict(
        part.strip().split(" ", 1) for part in reply.headers["Content-Security-Policy"].split(";")
    )
    assert policy.pop("img-src") == "'self' data:"
    assert set(policy.values()) == {"'none'", "'self'"}
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"


@every_service
def test_the_first_page_names_the_service_and_links_to_routes_that_exist(name):
    client = TestClient(apps()[name], raise_server_exceptions=False)
    text = client.get("/").text
    assert f"<h1>Unspoken {name}</h1>" in text and __version__ in text and "loading" in text
    links = [link for link in Parts(text).links if not urlsplit(link).netloc]
    assert {"docs", "readyz", "metrics", "v1/models"} <= set(links)
    for link in links:
        assert client.get(urljoin("/", link)).status_code != 404, link


@every_page
def test_a_page_can_be_read_by_a_screen_reader(path):
    html = TestClient(service()).get(path).text
    parts = Parts(html)
    assert '<html lang="en">' in html and "title" in parts.tags and "main" in parts.tags
    assert 'name="viewport"' in html


def test_text_on_a_page_is_escaped():
    link = Link(text="<b>", href='"><script>', remark="a & b <i>")
    app = service(sections=lambda _request: [Section(title="<script>", links=[link])])
    app.title, app.description = "<img src=x>", "<script>alert(1)</script>"
    html = TestClient(app).get("/").text
    assert "<script" not in html and "<img" not in html and "<b>" not in html and "<i>" not in html


def test_pages_need_no_key_and_say_that_the_other_routes_do():
    app = service()
    assert "API key" not in TestClient(app).get("/").text
    use_keys(app, ring())
    client = TestClient(app)
    for path in (*PAGES, "/openapi.json", "/static/page.css"):
        assert client.get(path).status_code == 200
    assert "API key" in client.get("/").text
    for path in (
        "/v1/models",
        "/metrics",
        "/docs/",
        "/docsx",
        "/static",
        "http://testserver//static/page.css",
    ):
        assert client.get(path).status_code == 401, path


@pytest.mark.parametrize(
    "path", ["/static/../pages.py", "/static/%2e%2e/pages.py", "/static/", "/static/nothing.js"]
)
def test_only_files_of_the_static_folder_are_served(path):
    client = TestClient(service(), raise_server_exceptions=False)
    reply = client.get(path)
    assert reply.status_code == 404
    assert reply.json()["error"] == "unknown_route"


def test_a_browser_asks_again_for_a_static_file_and_gets_no_second_copy():
    client = TestClient(service())
    first = client.get("/static/swagger-ui/swagger-ui-bundle.js")
    assert first.headers["Cache-Control"] == "no-cache"
    again = client.get(
        "/static/swagger-ui/swagger-ui-bundle.js", headers={"If-None-Match": first.headers["ETag"]}
    )
    assert again.status_code == 304 and not again.content


def test_the_pages_of_the_cdn_are_gone():
    client = TestClient(service())
    assert client.get("/redoc").status_code == 404
    for file in STATIC_DIR.glob("*.*"):
        assert not re.search(r"https?://(?!www\.w3\.org)", file.read_text()), file


def test_the_vendored_files_are_those_that_their_readme_names():
    import hashlib

    folder = STATIC_DIR / "swagger-ui"
    named = re.findall(r"^\| (\S+) \| ([0-9a-f]{64}) \|$", (folder / "README.md").read_text(), re.M)
    assert len(named) == 2
    for name, sha256 in named:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256


def test_the_gateways_page_leads_to_the_services_of_its_process_and_to_the_runs():
    app = apps()["gateway"]
    text = TestClient(app).get("/").text
    assert "by default at port 8002" in text and "runs" in Parts(text).links
    assert "their files are in /" in text
    use_ports(app, {"gateway": 1, "detector": 18002, "llm": 18001, "segmenter": 18003})
    links = Parts(TestClient(app, base_url="http://box.test:1").get("/?from=mail").text).links
    assert {f"http://box.test:{port}/" for port in (18001, 18002, 18003)} <= set(links)


def test_with_api_keys_the_gateways_page_does_not_show_the_runs_folder():
    app = apps()["gateway"]
    use_keys(app, ring())
    assert "their files are in" not in TestClient(app).get("/").text
