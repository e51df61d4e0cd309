"""The report in a real browser: tags, the enlarged picture, order and counts."""

import pytest
from PIL import Image

from tests.browser import visit
from unspoken.runs.exports.report import render_page

pytestmark = pytest.mark.browser

INSIDE = """() => [...document.querySelectorAll('main .picture')].every(picture => {
  const frame = picture.getBoundingClientRect();
  return [...picture.querySelectorAll('.tag')].every(tag => {
    const own = tag.getBoundingClientRect();
    return own.left >= frame.left - 1 && own.right <= frame.right + 1
      && own.top >= frame.top - 1 && own.bottom <= frame.bottom + 1;
  });
})"""
APART = """() => [...document.querySelectorAll('main .picture')].every(picture => {
  const tags = [...picture.querySelectorAll('.tag')].map(tag => tag.getBoundingClientRect());
  return tags.every((a, i) => tags.slice(i + 1).every(b => a.right <= b.left + 0.5
    || b.right <= a.left + 0.5 || a.bottom <= b.top + 0.5 || b.bottom <= a.top + 0.5));
})"""


def box(x0: int, y0: int, x1: int, y1: int, *, label: str = "wheel", score: float = 0.5) -> dict:
    return {
        "box": [x0, y0, x1, y1],
        "label": label,
        "score": score,
        "kind": "part" if label == "wheel" else "named",
        "templates": ["parts"],
        "alt_labels": [],
    }


def record(number: int, boxes: list[dict]) -> dict:
    return {
        "key": f"key-{number}",
        "caption": f"caption {number}",
        "picture": "pictures/1.jpg",
        "width": 100,
        "height": 100,
        "boxes": boxes,
        "unboxed": ["door: implied"],
        "rejected": [],
    }


RECORDS = [
    record(0, []),
    record(1, [box(90, 0, 99, 9), box(91, 1, 99, 10), box(0, 90, 9, 99, score=0.9)]),
    record(2, [box(10, 10, 80, 80, label="car", score=0.7)]),
    *[record(number, []) for number in range(3, 40)],
]


@pytest.fixture
def url(tmp_path) -> str:
    page = tmp_path / "index.html"
    page.write_text(render_page(RECORDS, title="Run demo"), encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (100, 100), "grey").save(tmp_path / "pictures/1.jpg")
    return page.as_uri()


def captions(page) -> list[str]:
    return page.locator("article p").all_inner_texts()


def test_tags_are_inside_their_picture_and_apart(url):
    with visit(url) as seen:
        seen.page.wait_for_function(INSIDE)
        seen.page.wait_for_function(APART)
        seen.page.set_viewport_size({"width": 500, "height": 800})
        seen.page.wait_for_function(INSIDE)
        assert not seen.errors


def test_pictures_with_boxes_come_first_and_the_order_can_be_chosen(url):
    with visit(url) as seen:
        assert captions(seen.page)[:2] == ["caption 1", "caption 2"]
        seen.page.select_option("#order", "dataset")
        assert captions(seen.page)[:3] == ["caption 0", "caption 1", "caption 2"]
        seen.page.select_option("#order", "low")
        assert captions(seen.page)[:2] == ["caption 1", "caption 2"]
        seen.page.fill("#label", "car")
        assert captions(seen.page) == ["caption 2"]
        count = seen.page.inner_text("#count")
        assert count == "1 of 40 pictures, 1 box (1 named, 0 implied, 0 of parts)"


def test_an_enlarged_picture_is_turned_by_arrow_keys_and_closed_by_escape(url):
    with visit(url) as seen:
        page = seen.page
        page.get_by_role("button", name="enlarge: caption 1", exact=True).click()
        dialog = page.get_by_role("dialog")
        assert "1 of 40" in dialog.inner_text() and "caption 1" in dialog.inner_text()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowRight")
        assert "2 of 40" in dialog.inner_text() and "caption 2" in dialog.inner_text()
        for _ in range(38):
            page.keyboard.press("ArrowRight")
        assert "40 of 40" in dialog.inner_text()
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        focused = "document.activeElement.getAttribute('aria-label')"
        assert page.evaluate(focused) == "enlarge: caption 39"
        assert not seen.errors


def test_after_a_reload_the_first_row_is_below_the_bar(url):
    with visit(url) as seen:
        page = seen.page
        page.evaluate("scrollTo(0, 150)")
        page.reload()
        page.wait_for_selector("article")
        bar = page.locator("header").bounding_box()
        first = page.locator("article").first.bounding_box()
        assert first["y"] >= bar["y"] + bar["height"]


def test_phrases_without_a_box_are_listed_in_plain_words(url):
    with visit(url) as seen:
        summary = seen.page.locator("article summary").first
        assert summary.inner_text() == "1 phrase searched for, but not found"
