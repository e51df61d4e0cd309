"""The source material of scenes: cutouts of every class by art style, and themes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from smallworld.glyphs import Glyph, GlyphClass, load_classes, render_glyphs
from smallworld.parts import load_part_tables
from unspoken.errors import InvalidInput

Split = Literal["train", "held_out", "all"]

# Each part of a glyph is one bit of an int32 label map; the sign bit stays unused.
MAX_PARTS = 31
# A theme with fewer classes than this would show the same objects in every scene.
MIN_THEME_CLASSES = 4


@dataclass(frozen=True, eq=False)
class Cutout:
    """A glyph prepared for pasting: bit k of `part_bits` (mode "I") is the mask of part k."""

    noun: str
    size: float
    rgba: Image.Image
    part_bits: Image.Image | None  # None where the glyph has no part table
    part_names: tuple[str, ...]
    part_areas: tuple[int, ...]  # pixels of the cutout


@dataclass(frozen=True)
class World:
    """Everything a scene is drawn from: cutouts by art style and noun, nouns by theme."""

    classes: tuple[GlyphClass, ...]
    cutouts: Mapping[str, Mapping[str, Cutout]]
    themes: Mapping[str, tuple[str, ...]]
    part_labels: frozenset[str]

    @classmethod
    def load(
        cls,
        styles: Sequence[str] = ("twemoji", "fluent"),
        split: Split = "train",
        *,
        glyph_px: int = 128,
    ) -> World:
        """Render the glyphs of `split` in `styles`; costs about two seconds a style.

        `part_labels` always contains every part name of `parts.json`, so that a world without part
        tables knows which labels it cannot judge.
        """
        classes = tuple(
            c for c in load_classes() if split == "all" or c.held_out == (split != "train")
        )
        glyphs = {
            style: render_glyphs(style, size_px=glyph_px, classes=classes) for style in styles
        }
        part_labels = frozenset(name for each in load_part_tables().values() for name in each.parts)
        return cls.from_glyphs(classes, glyphs, part_labels=part_labels)

    @classmethod
    def from_glyphs(
        cls,
        classes: Sequence[GlyphClass],
        glyphs: Mapping[str, Mapping[str, Glyph]],
        *,
        part_labels: frozenset[str] = frozenset(),
    ) -> World:
        """Build a world from rendered glyphs: style -> noun -> glyph.

        `part_labels` adds part names that no glyph here has (for a style without part tables).
        """
        if not classes or not any(glyphs.values()):
            raise InvalidInput("a world needs at least one class and one glyph, got none")
        cutouts = {
            style: {
                c.noun: make_cutout(by_noun[c.noun], size=c.size)
                for c in classes
                if c.noun in by_noun
            }
            for style, by_noun in glyphs.items()
        }
        by_theme: dict[str, list[str]] = {}
        for glyph_class in classes:
            for theme in glyph_class.themes:
                by_theme.setdefault(theme, []).append(glyph_class.noun)
        themes = {
            theme: tuple(nouns)
            for theme, nouns in sorted(by_theme.items())
            if len(nouns) >= MIN_THEME_CLASSES
        }
        own_parts = {
            name for each in cutouts.values() for cut in each.values() for name in cut.part_names
        }
        return cls(
            classes=tuple(classes),
            cutouts=cutouts,
            themes=themes or {"anything": tuple(c.noun for c in classes)},
            part_labels=part_labels | own_parts,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """All distinct labels: sorted nouns of wholes, then sorted part names."""
        nouns = {c.noun for c in self.classes}
        return tuple(sorted(nouns)) + tuple(sorted(self.part_labels - nouns))


def make_cutout(glyph: Glyph, *, size: float) -> Cutout:
    """Pack a glyph's part masks into one bit map, so that one transform applies to all."""
    parts = glyph.parts[:MAX_PARTS]
    bits = np.zeros(glyph.rgba.shape[:2], np.int32)
    for index, part in enumerate(parts):
        bits |= part.mask.astype(np.int32) << index
    return Cutout(
        noun=glyph.noun,
        size=size,
        rgba=Image.fromarray(glyph.rgba),
        part_bits=Image.fromarray(bits) if parts else None,
        part_names=tuple(part.name for part in parts),
        part_areas=tuple(int(part.mask.sum()) for part in parts),
    )
