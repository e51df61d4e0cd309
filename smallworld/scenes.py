"""Scenes: glyphs pasted on procedural backgrounds, with exact visible masks of wholes and parts.

A scene is drawn twice: once in colour, once as an owner map that gives the object of each pixel.
The ground truth comes from the owner map. Therefore masks of wholes never overlap, and parts lie
inside their whole. Objects that would be mostly hidden are removed from the picture, not only from
the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from smallworld.backgrounds import paint_background
from smallworld.world import Cutout, World
from unspoken.errors import InvalidInput

__all__ = [
    "DEFAULT_SCENES",
    "Scene",
    "SceneConfig",
    "SceneObject",
    "World",
    "compose_scene",
    "present_labels",
    "unknown_part_labels",
]

BoxXyxy = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """Settings for composing scenes: lengths in pixels, angles in degrees, shares in [0, 1]."""

    size_px: int = 192
    num_wholes: tuple[int, int] = (3, 7)  # before hidden ones are removed
    object_side: tuple[float, float] = (0.22, 0.48)  # of size_px; times the class's own size
    max_side: float = 0.8
    rotation_deg: float = 25.0
    flip_p: float = 0.5
    theme_p: float = 0.8  # a whole comes from the scene's theme, else from anywhere
    twin_p: float = 0.12  # a whole repeats the class before it
    judged_p: float = 0.3  # share of scenes with only wholes that have a part table
    color_gain: float = 0.18
    color_shift: float = 14.0
    min_visible_px: int = 64
    min_visible_share: float = 0.4
    min_part_px: int = 24
    min_part_share: float = 0.5
    num_placements: int = 3  # random places to choose the emptiest from: fewer, more occlusion

    def __post_init__(self) -> None:
        low, high = self.num_wholes
        if not 1 <= low <= high:
            raise InvalidInput(f"num_wholes must be 1 <= low <= high, got {self.num_wholes}")
        if self.size_px < 48:
            raise InvalidInput(f"size_px must be at least 48, got {self.size_px}")


DEFAULT_SCENES = SceneConfig()


@dataclass(frozen=True)
class SceneObject:
    """One visible whole or part: mask (H, W) bool, box in pixels with x1 and y1 exclusive."""

    label: str
    mask: np.ndarray
    box_xyxy: BoxXyxy
    parent: int | None  # index of the whole in `Scene.objects`; None for a whole
    is_part: bool


@dataclass(frozen=True)
class Scene:
    """A picture with its complete ground truth."""

    image: np.ndarray  # (H, W, 3) uint8
    objects: tuple[SceneObject, ...]  # the wholes from back to front, then the parts
    theme: str
    style: str
    key: str
    unjudged_parts: frozenset[str]


def compose_scene(world: World, *, seed: int, config: SceneConfig = DEFAULT_SCENES) -> Scene:
    """Draw one scene; the same world, seed and config give the same bytes.

    Each scene has one art style and one theme. A part is in the truth if enough of it is visible,
    else its name is unjudged (see `unknown_part_labels`).
    """
    rng = np.random.default_rng(seed)
    styles = sorted(world.cutouts)
    style = styles[rng.integers(len(styles))]
    themes = list(world.themes)
    theme = themes[rng.integers(len(themes))]
    cutouts = choose_cutouts(world, rng=rng, style=style, theme=theme, config=config)
    pasted: list[_Pasted] = []
    for cutout in cutouts:
        pasted.append(place(cutout, pasted, rng=rng, config=config))
    pasted = without_hidden(pasted, config=config)

    canvas = paint_background(rng, size_px=config.size_px, theme=theme)  # (H, W, 3) float32
    for item in pasted:
        item.paint(canvas)
    image = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    objects, unjudged = read_truth(pasted, world=world, config=config)
    return Scene(
        image=image,
        objects=objects,
        theme=theme,
        style=style,
        key=f"{seed:09d}",
        unjudged_parts=unjudged,
    )


def present_labels(scene: Scene) -> frozenset[str]:
    """Return the labels of the visible wholes and parts."""
    return frozenset(each.label for each in scene.objects)


def unknown_part_labels(scene: Scene) -> frozenset[str]:
    """Return part names that cannot be judged as present or absent in this scene.

    If a whole has no part table, these are all part names of the world, because its parts are not
    annotated. Names of visible parts that are too small for the truth are included as well. A name
    may also be in the truth: then a further box of it may be right although the truth lacks it.
    """
    return scene.unjudged_parts


@dataclass(frozen=True)
class _Pasted:
    """A transformed cutout: `rgb`, `alpha` and `bits` of the window at (x, y) of the canvas."""

    cutout: Cutout
    x: int
    y: int
    rgb: np.ndarray  # (h, w, 3) float32
    alpha: np.ndarray  # (h, w) uint8
    bits: np.ndarray | None  # (h, w) int32
    area: int  # of the whole object, including parts outside the canvas
    scale: float  # canvas pixels per cutout pixel

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.alpha.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)

    def paint(self, canvas: np.ndarray) -> None:
        behind = canvas[self.window]
        behind += (self.rgb - behind) * (self.alpha[..., None] * np.float32(1 / 255))


def choose_cutouts(
    world: World, *, rng: np.random.Generator, style: str, theme: str, config: SceneConfig
) -> list[Cutout]:
    """Pick the wholes: mostly from the theme, sometimes two of one class."""
    everything = list(world.cutouts[style].values())
    if rng.random() < config.judged_p:
        everything = [each for each in everything if each.part_bits is not None] or everything
    nouns = set(world.themes[theme])
    of_theme = [each for each in everything if each.noun in nouns] or everything
    low, high = config.num_wholes
    chosen: list[Cutout] = []
    for _ in range(int(rng.integers(low, high + 1))):
        if chosen and rng.random() < config.twin_p:
            chosen.append(chosen[-1])
            continue
        pool = of_theme if rng.random() < config.theme_p else everything
        fresh = [each for each in pool if each not in chosen]
        fresh = fresh or [each for each in everything if each not in chosen] or pool
        chosen.append(fresh[rng.integers(len(fresh))])
    return [chosen[index] for index in rng.permutation(len(chosen))]


def place(
    cutout: Cutout, pasted: Sequence[_Pasted], *, rng: np.random.Generator, config: SceneConfig
) -> _Pasted:
    """Scale, turn, flip and tint one cutout, and put it on the emptiest of a few places."""
    size = config.size_px
    side = min(rng.uniform(*config.object_side) * cutout.size, config.max_side) * size
    scale = side / max(cutout.rgba.size)
    angle = math.radians(rng.uniform(-config.rotation_deg, config.rotation_deg))
    flip = -1.0 if rng.random() < config.flip_p else 1.0
    cos, sin = math.cos(angle), math.sin(angle)
    source_w, source_h = cutout.rgba.size
    width = math.ceil(scale * (source_w * abs(cos) + source_h * abs(sin))) + 2
    height = math.ceil(scale * (source_w * abs(sin) + source_h * abs(cos))) + 2

    # Map canvas pixels to cutout pixels: the inverse of turn, scale and flip about both centres.
    a, b, d, e = flip * cos / scale, flip * sin / scale, -sin / scale, cos / scale
    c = source_w / 2 - a * width / 2 - b * height / 2
    f = source_h / 2 - d * width / 2 - e * height / 2
    factor = max(1, int(1 / scale))  # shrinking by more than two would alias
    small = cutout.rgba.reduce(factor) if factor > 1 else cutout.rgba
    warped = small.transform(
        (width, height),
        Image.Transform.AFFINE,
        tuple(value / factor for value in (a, b, c, d, e, f)),
        resample=Image.Resampling.BILINEAR,
    )
    rgba = np.asarray(warped)
    rgb = _tint(rgba[..., :3].astype(np.float32), rng=rng, config=config)
    alpha = rgba[..., 3]
    bits = None
    if cutout.part_bits is not None:
        bits = np.asarray(
            cutout.part_bits.transform(
                (width, height),
                Image.Transform.AFFINE,
                (a, b, c, d, e, f),
                resample=Image.Resampling.NEAREST,
            )
        )

    x, y = _emptiest_place(pasted, width, height, rng=rng, config=config)
    rows = slice(max(0, -y), min(height, size - y))
    columns = slice(max(0, -x), min(width, size - x))
    return _Pasted(
        cutout=cutout,
        x=max(0, x),
        y=max(0, y),
        rgb=rgb[rows, columns],
        alpha=alpha[rows, columns],
        bits=None if bits is None else bits[rows, columns],
        area=int((alpha >= 128).sum()),
        scale=scale,
    )


def _tint(rgb: np.ndarray, *, rng: np.random.Generator, config: SceneConfig) -> np.ndarray:
    """Change brightness and colour a little: one gain and one shift per channel."""
    gain = 1 + rng.uniform(-config.color_gain, config.color_gain, 3)
    shift = rng.uniform(-config.color_shift, config.color_shift, 3)
    tinted: np.ndarray = np.clip(rgb * gain.astype(np.float32) + shift.astype(np.float32), 0, 255)
    return tinted


def _emptiest_place(
    pasted: Sequence[_Pasted],
    width: int,
    height: int,
    *,
    rng: np.random.Generator,
    config: SceneConfig,
) -> tuple[int, int]:
    """Draw a few random places and return the one whose box overlaps existing boxes least.

    The picture's border may cut off up to an eighth of a side.
    """
    size = config.size_px
    best, best_cover = (0, 0), math.inf
    for _ in range(config.num_placements):
        x = int(rng.uniform(-width / 8, size - width * 7 / 8))
        y = int(rng.uniform(-height / 8, size - height * 7 / 8))
        cover = 0
        for item in pasted:
            item_h, item_w = item.alpha.shape
            across = min(x + width, item.x + item_w) - max(x, item.x)
            down = min(y + height, item.y + item_h) - max(y, item.y)
            cover += max(0, across) * max(0, down)
        if cover < best_cover:
            best, best_cover = (x, y), cover
    return best


def _owner_map(pasted: Sequence[_Pasted], *, size_px: int) -> np.ndarray:
    """Return the front-most object that covers half of each pixel, else -1: (H, W) int16."""
    owner = np.full((size_px, size_px), -1, np.int16)
    for index, item in enumerate(pasted):
        owner[item.window][item.alpha >= 128] = index
    return owner


def without_hidden(pasted: Sequence[_Pasted], *, config: SceneConfig) -> list[_Pasted]:
    """Remove objects that are too hidden, the most hidden first.

    The front-most object is cut by the border only, so at least one object always remains.
    """
    kept = list(pasted)
    while len(kept) > 1:
        owner = _owner_map(kept, size_px=config.size_px)
        visible = [int((owner[item.window] == i).sum()) for i, item in enumerate(kept)]
        shares = [
            0.0 if seen < config.min_visible_px else seen / item.area
            for seen, item in zip(visible, kept, strict=True)
        ]
        worst = min(range(len(kept)), key=shares.__getitem__)
        if shares[worst] >= config.min_visible_share:
            break
        del kept[worst]
    return kept


def read_truth(
    pasted: Sequence[_Pasted], *, world: World, config: SceneConfig
) -> tuple[tuple[SceneObject, ...], frozenset[str]]:
    """Get masks and boxes from the owner map -> (objects, unjudged part names)."""
    owner = _owner_map(pasted, size_px=config.size_px)
    wholes: list[SceneObject] = []
    parts: list[SceneObject] = []
    unjudged: set[str] = set()
    for index, item in enumerate(pasted):
        own = owner[item.window] == index  # (h, w)
        wholes.append(_scene_object(item, own, item.cutout.noun, parent=None, config=config))
        if item.bits is None:
            unjudged |= world.part_labels
            continue
        shown_bits = np.where(own, item.bits, 0)
        for k, name in enumerate(item.cutout.part_names):
            mask = (shown_bits >> k) & 1 == 1
            visible = int(np.count_nonzero(mask))
            full = item.cutout.part_areas[k] * item.scale**2
            if visible >= max(config.min_part_px, config.min_part_share * full):
                parts.append(_scene_object(item, mask, name, parent=index, config=config))
            elif visible:
                unjudged.add(name)
    return tuple(wholes + parts), frozenset(unjudged)


def _scene_object(
    item: _Pasted, window_mask: np.ndarray, label: str, *, parent: int | None, config: SceneConfig
) -> SceneObject:
    """Build an object: a window's mask placed in the whole picture, with its tight box."""
    rows = np.flatnonzero(window_mask.any(axis=1))
    columns = np.flatnonzero(window_mask.any(axis=0))
    mask = np.zeros((config.size_px, config.size_px), bool)
    mask[item.window] = window_mask
    box = (
        item.x + int(columns[0]),
        item.y + int(rows[0]),
        item.x + int(columns[-1]) + 1,
        item.y + int(rows[-1]) + 1,
    )
    return SceneObject(
        label=label, mask=mask, box_xyxy=box, parent=parent, is_part=parent is not None
    )
