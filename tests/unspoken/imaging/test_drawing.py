"""Drawing: labels that stay readable, masks over a visible picture, and one palette."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from PIL.ImageColor import getrgb

from unspoken.imaging.boxes import box_intersection
from unspoken.imaging.drawing import (
    BLUE,
    COLORS,
    SERIES,
    LabelledBox,
    LabelledMask,
    add_caption,
    contrasting,
    css_variables,
    draw_boxes,
    draw_masks,
    scale_to_width,
    tile,
)
from unspoken.imaging.label_layout import place_labels
from unspoken.runs.exports.report import render_page

CANVAS = Image.new("RGB", (100, 80), "grey")


def count(picture: Image.Image, color: str) -> int:
    """Return the number of pixels that have exactly this colour."""
    return int((np.asarray(picture) == getrgb(color)).all(2).sum())


def layout(boxes: list[list[int]], size=(30, 10), canvas_wh=(100, 80)) -> np.ndarray:
    sizes = np.full((len(boxes), 2), size)
    return place_labels(np.array(boxes).reshape(-1, 4), sizes, canvas_wh=canvas_wh)


def test_labels_stay_inside_the_picture():
    corners = [
        [0, 0, 20, 20],
        [85, 0, 100, 15],
        [0, 70, 10, 80],
        [90, 75, 100, 80],
        [0, 0, 100, 80],
    ]
    labels = layout(corners)
    assert (labels[:, :2] >= 0).all()
    assert (labels[:, 2] <= 100).all() and (labels[:, 3] <= 80).all()


def test_a_label_lies_above_its_box_where_there_is_room():
    assert layout([[20, 30, 60, 70]]).tolist() == [[20, 20, 50, 30]]


def test_labels_of_boxes_at_one_place_do_not_overlap():
    labels = layout([[30, 30, 60, 60]] * 6)
    overlaps = box_intersection(labels, labels)
    assert all(overlaps[first, second] == 0 for first, second in combinations(range(6), 2))


def test_a_label_covers_no_small_box_but_a_large_one():
    large, small = [0, 0, 100, 80], [40, 40, 46, 46]
    labels = layout([large, small])
    assert box_intersection(labels, np.array([small])).max() == 0


def test_no_boxes_have_no_labels():
    assert layout([]).shape == (0, 4)
    assert np.array_equal(np.asarray(draw_boxes(CANVAS, [])), np.asarray(CANVAS))


def test_a_text_wider_than_the_picture_is_shortened():
    box = LabelledBox((10, 40, 90, 70), "a very long label of many words " * 3, BLUE)
    assert draw_boxes(CANVAS, [box]).size == CANVAS.size


def test_characters_that_the_font_lacks_lose_their_accent():
    def drawn(text):
        return np.asarray(add_caption(CANVAS, text))

    assert np.array_equal(drawn("café 日本"), drawn("cafe ??"))


def test_boxes_scale_with_the_picture():
    drawn = draw_boxes(CANVAS, [LabelledBox((10, 20, 60, 70), "", BLUE)], scale=2)
    rows, columns = np.nonzero((np.asarray(drawn) == getrgb(BLUE)).all(2))
    assert drawn.size == (200, 160)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (20, 40, 119, 139)


def test_the_picture_is_visible_below_a_mask_with_an_outline():
    stripes = np.zeros((80, 100, 3), dtype=np.uint8)
    stripes[::2] = 255
    mask = np.zeros((80, 100), dtype=bool)
    mask[20:60, 20:60] = True
    drawn = np.asarray(draw_masks(Image.fromarray(stripes), [LabelledMask(mask, "", BLUE)]))
    assert drawn[20, 40].tolist() == list(getrgb(BLUE))
    assert abs(drawn[40, 40].astype(int) - drawn[41, 40]).min() > 100
    assert np.array_equal(drawn[:18], stripes[:18])


def test_a_mask_without_pixels_is_left_out():
    empty = LabelledMask(np.zeros((80, 100), dtype=bool), "nothing", BLUE)
    assert count(draw_masks(CANVAS, [empty]), BLUE) == 0


def test_the_caption_is_below_the_picture_with_the_legends_colours():
    sheet = add_caption(CANVAS, "many words " * 20, legend=("named", "part"), max_lines=2)
    assert sheet.height > CANVAS.height
    assert count(sheet, COLORS["named"]) == count(sheet, COLORS["part"]) == 100
    assert add_caption(CANVAS, "many words " * 20).height > sheet.height


def test_tiles_have_the_size_of_the_largest_picture():
    assert tile([CANVAS, Image.new("RGB", (50, 90))] * 2, columns=2, gap_px=0).size == (200, 180)
    assert tile([CANVAS], columns=4, gap_px=0).size == CANVAS.size
    assert tile([], columns=4).size > (0, 0)


def test_small_pictures_are_enlarged_by_a_whole_factor():
    assert scale_to_width(CANVAS, min_width_px=250) == 3
    assert scale_to_width(CANVAS, min_width_px=100) == 1


@pytest.mark.parametrize("color", [*COLORS.values(), *SERIES])
def test_text_on_every_colour_has_the_contrast_that_wcag_asks(color):
    def luminance(name):
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4
                  for each in np.array(getrgb(name)) / 255]  # fmt: skip
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted((luminance(color), luminance(contrasting(color))))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_pages_and_pictures_share_the_palette():
    page = render_page([], title="Run")
    for name in ("named", "implied", "part", "rejected"):
        assert f"--{name}: {COLORS[name]};" in css_variables()
        assert f"var(--{name})" in page
    assert css_variables() in page
    assert contrasting("#f0e442") == "#000000"


def test_every_meaning_has_its_own_colour():
    assert len(set(COLORS.values())) == len(COLORS)
    assert len(set(SERIES)) == len(SERIES)


def test_the_picture_stays_visible_below_many_masks():
    halves = np.zeros((100, 100, 3), np.uint8)
    halves[:, 50:] = 255
    everywhere = [LabelledMask(np.ones((100, 100), bool), "", color) for color in SERIES]
    drawn = np.asarray(draw_masks(Image.fromarray(halves), everywhere)).astype(int)
    assert drawn[50, 70].sum() - drawn[50, 30].sum() > 450
