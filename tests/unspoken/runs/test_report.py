"""The report: one page that escapes untrusted text, with its pictures beside it."""

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from tests.unspoken.runs.pictured import HOSTILE, write_run
from unspoken.errors import InvalidInput
from unspoken.runs.exports.report import render_page, write_report


class Page(HTMLParser):
    """Tags, attributes and script texts as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script" and data.strip():
            self.scripts.append(data)


@pytest.fixture
def report(tmp_path):
    run_dir = write_run(tmp_path, chunks=2)
    assert write_report(run_dir, tmp_path / "report") == {"pictures": 6, "boxes": 6}
    return tmp_path / "report"


def records(report) -> list[dict]:
    return json.loads(Page((report / "index.html").read_text(encoding="utf-8")).scripts[0])


def test_a_caption_with_a_script_is_shown_and_not_run(report):
    text = (report / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 2 and "b" not in page.tags and "img" not in page.tags
    assert "<script>alert" not in text and "<!--" not in text
    assert records(report)[1]["caption"] == HOSTILE
    assert records(report)[1]["boxes"][0]["label"] == 'sp"oon & <b>'


def test_text_reaches_the_page_as_text_only(report):
    script = Page((report / "index.html").read_text(encoding="utf-8")).scripts[1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval", script)


def test_only_the_pages_own_script_may_run_and_nothing_is_fetched(report):
    page = Page((report / "index.html").read_text(encoding="utf-8"))
    (policy,) = [value for _, value in page.attributes if value and "default-src" in value]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    sources = [value for name, value in page.attributes if name in ("src", "href", "action")]
    assert sources == [] and "link" not in page.tags


def test_a_hostile_title_is_text_too():
    text = render_page([], title="</title><script>alert(1)</script>")
    assert Page(text).tags.count("script") == 2


def test_every_picture_lies_beside_the_page_upright(report):
    for record in records(report):
        with Image.open(report / record["picture"]) as picture:
            assert picture.size == (record["width"], record["height"]) == (100, 80)


def test_a_large_picture_is_shown_smaller_and_its_boxes_stay_in_its_own_pixels(report, monkeypatch):
    monkeypatch.setattr("unspoken.runs.exports.report.MAX_SIDE_PX", 50)
    write_report(report.parent / "runs/run", report.parent / "small")
    (first, *_) = records(report.parent / "small")
    with Image.open(report.parent / "small" / first["picture"]) as picture:
        assert picture.size == (50, 40)
    assert first["boxes"][0]["box"] == [10, 10, 90, 60]


def test_the_page_tells_what_was_asked_in_vain_and_what_was_rejected(report):
    (first, second, *_) = records(report)
    assert [box["label"] for box in first["boxes"]] == ["car", "wheel"]
    assert first["unboxed"] == [] and first["rejected"] == ["photo: generic"]
    assert second["unboxed"] == ["wheel: implied, from parts, from implied"]


def test_a_report_goes_into_a_new_folder_only(report):
    with pytest.raises(InvalidInput, match="is not an empty folder"):
        write_report(report.parent / "runs/run", report)
