"""A world of eight plain shapes: fast to build, with a truth that is easy to write in a test."""

import numpy as np

from smallworld.glyphs import Glyph, GlyphClass, GlyphPart
from smallworld.world import World

NOUNS = ("car", "bus", "tree", "house", "knife", "berry", "umbrella", "loaf")
SYNONYMS = {"car": ("automobile",), "house": ("cottage", "home")}
PARTED = frozenset(("car", "bus", "tree", "house"))


def tiny_classes() -> tuple[GlyphClass, ...]:
    return tuple(
        GlyphClass(
            noun=noun,
            synonyms=SYNONYMS.get(noun, ()),
            themes=("street",) if noun in PARTED else ("kitchen",),
            codepoint=f"{index:x}",
            size=1.0,
            held_out=False,
        )
        for index, noun in enumerate(NOUNS)
    )


def tiny_glyph(noun: str, *, style: str, color: int, with_parts: bool) -> Glyph:
    """Draw a filled ellipse of 96 x 64; its parts are two wheels, left and right, and a window."""
    height, width = 64, 96
    y, x = np.mgrid[:height, :width]
    ellipse = ((x - 47.5) / 48) ** 2 + ((y - 31.5) / 32) ** 2 <= 1
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[ellipse] = (color, 255 - color, 90, 255)
    masks = (
        ("wheel", ellipse & (x < 24)),
        ("wheel", ellipse & (x >= 72)),
        ("window", ellipse & (x >= 32) & (x < 64) & (y < 32)),
    )
    parts = tuple(GlyphPart(name=name, mask=mask) for name, mask in masks) if with_parts else ()
    return Glyph(noun=noun, style=style, rgba=rgba, parts=parts)


def tiny_world(*, styles: tuple[str, ...] = ("plain",), with_parts: bool = True) -> World:
    """Build the world; `with_parts=False` omits every part table but keeps the part names."""
    glyphs = {
        style: {
            noun: tiny_glyph(
                noun, style=style, color=index * 30, with_parts=with_parts and noun in PARTED
            )
            for index, noun in enumerate(NOUNS)
        }
        for style in styles
    }
    return World.from_glyphs(
        tiny_classes(), glyphs, part_labels=frozenset(("wheel", "window", "beak"))
    )
