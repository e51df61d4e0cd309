"""Glyphs: every class has a picture in every style, with its part masks inside."""

from collections import Counter
from importlib.resources import files

import numpy as np
import pytest

from smallworld.glyphs import STYLES, Glyph, load_classes, render_glyphs
from smallworld.parts import load_part_tables
from unspoken.errors import InvalidInput

SIZE_PX = 96
MAIN_THEMES = {"street", "kitchen", "garden", "farm", "sea", "sky", "desk", "music"}


@pytest.fixture(scope="module")
def glyphs() -> dict[str, dict[str, Glyph]]:
    return {style: render_glyphs(style, size_px=SIZE_PX) for style in STYLES}


@pytest.mark.parametrize("style", STYLES)
def test_every_class_is_drawn_in_every_style(
    glyphs: dict[str, dict[str, Glyph]], style: str
) -> None:
    assert list(glyphs[style]) == [each.noun for each in load_classes()]
    for glyph in glyphs[style].values():
        assert glyph.rgba.dtype == np.uint8
        assert glyph.rgba.shape[2] == 4
        num_opaque = int((glyph.rgba[..., 3] >= 128).sum())
        assert num_opaque > 0.1 * SIZE_PX**2, f"{glyph.noun} in {style} is nearly empty"
        colours = glyph.rgba[glyph.rgba[..., 3] >= 128][:, :3]
        assert colours.max() > 40, f"{glyph.noun} in {style} lost its colours"


@pytest.mark.parametrize("style", STYLES)
def test_a_glyph_is_cropped_tight_and_its_longest_side_is_the_size(
    glyphs: dict[str, dict[str, Glyph]], style: str
) -> None:
    for glyph in glyphs[style].values():
        assert max(glyph.rgba.shape[:2]) == SIZE_PX
        alpha = glyph.rgba[..., 3]
        for edge in (alpha[:2], alpha[-2:], alpha[:, :2], alpha[:, -2:]):
            assert edge.any(), f"{glyph.noun} in {style} has an empty margin"


def test_no_two_classes_share_a_word_or_a_picture() -> None:
    words = Counter(word for each in load_classes() for word in (each.noun, *each.synonyms))
    assert [word for word, count in words.items() if count > 1] == []
    assert all(word == word.strip().lower() for word in words)
    codepoints = Counter(each.codepoint for each in load_classes())
    assert max(codepoints.values()) == 1


def test_an_eighth_of_the_classes_is_held_out_over_all_themes() -> None:
    held_out = [each for each in load_classes() if each.held_out]
    assert 0.08 <= len(held_out) / len(load_classes()) <= 0.18
    assert {theme for each in held_out for theme in each.themes} >= MAIN_THEMES
    with_parts = sum(each.codepoint in load_part_tables() for each in held_out)
    assert with_parts < len(held_out) / 2


def test_every_theme_has_fifteen_classes_and_every_class_a_theme() -> None:
    themes = Counter(theme for each in load_classes() for theme in each.themes)
    assert set(themes) >= MAIN_THEMES
    assert min(themes.values()) >= 15
    assert all(1 <= len(each.themes) <= 3 for each in load_classes())
    assert all(0.6 <= each.size <= 1.3 for each in load_classes())


def test_every_part_table_belongs_to_a_class_of_the_same_noun() -> None:
    nouns = {each.codepoint: each.noun for each in load_classes()}
    tables = load_part_tables()
    assert {code: nouns.get(code) for code in tables} == {
        code: table.noun for code, table in tables.items()
    }


def test_part_masks_lie_inside_their_glyph(glyphs: dict[str, dict[str, Glyph]]) -> None:
    with_parts = [glyph for glyph in glyphs["twemoji"].values() if glyph.parts]
    assert len(with_parts) == len(load_part_tables())
    for glyph in with_parts:
        opaque = glyph.rgba[..., 3] >= 128
        for part in glyph.parts:
            assert part.mask.dtype == np.bool_
            assert part.mask.shape == opaque.shape
            assert part.mask.any()
            assert not (part.mask & ~opaque).any(), f"{part.name} leaves {glyph.noun}"


def test_only_twemoji_has_parts(glyphs: dict[str, dict[str, Glyph]]) -> None:
    for style in ("fluent", "noto"):
        assert all(glyph.parts == () for glyph in glyphs[style].values())


def test_the_wheels_of_a_car_are_dark_and_at_its_foot(
    glyphs: dict[str, dict[str, Glyph]],
) -> None:
    car = glyphs["twemoji"]["car"]
    wheels = [part.mask for part in car.parts if part.name == "wheel"]
    assert len(wheels) == 2
    for wheel in wheels:
        assert car.rgba[wheel][:, :3].mean() < 130
        assert np.flatnonzero(wheel.any(axis=1)).min() > car.rgba.shape[0] / 2


@pytest.mark.parametrize("style", STYLES)
def test_drawing_twice_gives_the_same_pixels(style: str) -> None:
    some = load_classes()[:12]
    first = render_glyphs(style, size_px=64, classes=some)
    second = render_glyphs(style, size_px=64, classes=some)
    for noun, glyph in first.items():
        np.testing.assert_array_equal(glyph.rgba, second[noun].rgba)
        for part, again in zip(glyph.parts, second[noun].parts, strict=True):
            assert part.name == again.name
            np.testing.assert_array_equal(part.mask, again.mask)


def test_an_unknown_style_and_a_tiny_size_are_refused() -> None:
    with pytest.raises(InvalidInput, match="style"):
        render_glyphs("openmoji")
    with pytest.raises(InvalidInput, match="size_px"):
        render_glyphs("twemoji", size_px=4)


def test_the_vendored_art_is_small_and_carries_its_licences() -> None:
    art = files("smallworld") / "art"
    sizes = [len((art / name).read_bytes()) for name in ("fluent.tar", "noto.json")]
    assert sum(sizes) < 3_000_000
    notice = (art / "NOTICE.md").read_text(encoding="utf-8")
    for phrase in ("CC-BY 4.0", "Copyright (c) Microsoft Corporation", "Apache-2.0"):
        assert phrase in notice
