"""Training batches of small-world scenes, generated from the batch number.

Batch `n` of a recipe depends only on the recipe's seed and `n`. Therefore worker processes can make
batches in any order, and a killed run resumes with exactly the next batch.

Legend: B pictures, P phrases and N objects of a picture, G objects of a batch with K points each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from smallworld.scenes import (
    Scene,
    SceneConfig,
    SceneObject,
    compose_scene,
    present_labels,
    unknown_part_labels,
)
from smallworld.world import World
from unspoken.model.detector.grounding_dino import (
    Prompt,
    SmallDetectorConfig,
    assemble_prompt,
    prepare_pixels,
)

REFERENCE_PX = 192  # the size for which SceneConfig's pixel limits are written
WORLD_STYLES = ("twemoji", "fluent")  # noto is held out: never trained on
UNKNOWN = -100  # not an index; cross_entropy ignores this target by default


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Settings that decide the content of a batch."""

    seed: int = 20_000_000  # first scene; far from the seeds of benches and tests
    batch_size: int = 6  # per process
    twemoji_share: float = 0.95  # the rest is drawn in the fluent style
    num_absent: tuple[int, int] = (6, 22)  # range of absent phrases per picture
    theme_share: float = 0.5  # share of absent phrases drawn from the scene's own theme
    part_share: float = 0.3  # share of absent phrases that are parts: LLMs invent these most
    few_share: float = 0.3  # share of pictures with only a few phrases, present or absent
    few: tuple[int, int] = (1, 4)
    synonym_share: float = 0.25  # probability that a noun is replaced by one of its synonyms
    num_wholes: tuple[int, int] = SceneConfig.num_wholes
    object_side: tuple[float, float] = SceneConfig.object_side
    max_classes: int | None = None  # the smoke recipe uses fewer classes


class DetectionBatch(NamedTuple):
    """Pictures with phrases and boxes; object i of picture b carries phrase `labels[b][i]`."""

    pixels: Tensor  # (B, 3, H, W)
    prompt: Prompt
    labels: list[Tensor]  # B of (N,) long: index of the phrase
    boxes: list[Tensor]  # B of (N, 4) float: cx, cy, w, h in [0, 1]
    classes: list[Tensor]  # B of (N,) long: index into the vocabulary's wholes, then parts
    judged: Tensor  # (B, P) bool: False for padding and for phrases with incomplete ground truth


class PointBatch(NamedTuple):
    """Pictures with a few points in every object, for the backbone's pretraining."""

    pixels: Tensor  # (B, 3, H, W)
    picture: Tensor  # (G,) long: index of the object's picture
    points: Tensor  # (G, K, 2) float: x, y in [0, 1]
    whole: Tensor  # (G,) long: index of the noun; -100 for a part
    part: Tensor  # (G,) long: index of the part; -100 for a whole


@dataclass(frozen=True)
class Vocabulary:
    """Nouns, part names, synonyms of the nouns, and nouns by theme; trained classes only."""

    wholes: tuple[str, ...]
    parts: tuple[str, ...]
    synonyms: dict[str, tuple[str, ...]]
    themes: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, world: World) -> "Vocabulary":
        """Return the vocabulary of a world."""
        nouns = {each.noun: each.synonyms for each in world.classes}
        return cls(
            wholes=tuple(sorted(nouns)),
            parts=tuple(sorted(world.part_labels - set(nouns))),
            synonyms=nouns,
            themes={theme: tuple(names) for theme, names in world.themes.items()},
        )


@cache
def train_world() -> World:
    """Return the trained classes in the trained styles; rendered once per process."""
    return World.load(styles=WORLD_STYLES, split="train")


class SceneSource:
    """Scenes by number, with the art style drawn by `twemoji_share`; built once per process."""

    def __init__(self, config: DataConfig) -> None:
        world = train_world()
        if config.max_classes is not None:
            world = _fewer_classes(world, num_classes=config.max_classes)
        self.config = config
        self.vocabulary = Vocabulary.of(world)
        # Each world has one style. Keep `part_labels`, because fluent scenes need all part names
        # to know which labels have no ground truth.
        self._worlds = {
            style: replace(world, cutouts={style: cutouts})
            for style, cutouts in world.cutouts.items()
        }

    def scene(self, number: int, *, size_px: int) -> Scene:
        """Compose scene `number` at `size_px`; the same number gives the same scene."""
        seed = self.config.seed + number
        # Use a separate random stream: the scene's stream would correlate style with content.
        is_twemoji = np.random.default_rng((seed, 1)).random() < self.config.twemoji_share
        style = "twemoji" if is_twemoji else "fluent"
        return compose_scene(
            self._worlds[style],
            seed=seed,
            config=replace(
                scene_config(size_px),
                num_wholes=self.config.num_wholes,
                object_side=self.config.object_side,
            ),
        )


def scene_config(size_px: int) -> SceneConfig:
    """Return the config for another size, with pixel limits scaled by the area."""
    default = SceneConfig()
    area = (size_px / REFERENCE_PX) ** 2
    return replace(
        default,
        size_px=size_px,
        min_visible_px=round(default.min_visible_px * area),
        min_part_px=round(default.min_part_px * area),
    )


def boxes_cxcywh_norm(objects: Sequence[SceneObject], *, size_hw: tuple[int, ...]) -> Tensor:
    """Return the boxes of objects: (N, 4) cx, cy, w, h in [0, 1]."""
    height, width = size_hw
    boxes = torch.tensor([each.box_xyxy for each in objects], dtype=torch.float32)
    boxes = boxes.reshape(-1, 4) / torch.tensor([width, height, width, height])
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)


def choose_absent(
    scene: Scene,
    *,
    vocabulary: Vocabulary,
    count: int,
    theme_share: float,
    rng: np.random.Generator,
    part_share: float = 0.0,
) -> list[str]:
    """Draw labels that are certainly absent: from the scene's theme, parts, and any others."""
    taken = present_labels(scene) | unknown_part_labels(scene)
    theme = [noun for noun in vocabulary.themes.get(scene.theme, ()) if noun not in taken]
    anything = [n for n in (*vocabulary.wholes, *vocabulary.parts) if n not in taken]
    num_theme = min(len(theme), round(count * theme_share))
    chosen = [str(each) for each in rng.choice(theme, num_theme, replace=False)] if theme else []
    if part_share:
        parts = [name for name in vocabulary.parts if name not in taken]
        num_parts = min(len(parts), round(count * part_share))
        chosen += [str(each) for each in rng.choice(parts, num_parts, replace=False)]
    rest = [each for each in anything if each not in set(chosen)]
    num_rest = min(len(rest), count - len(chosen))
    return chosen + [str(each) for each in rng.choice(rest, num_rest, replace=False)]


class DetectionDataset(Dataset[DetectionBatch]):
    """Batch `n` for the detector, at its `image_size`."""

    def __init__(
        self,
        config: DataConfig,
        *,
        detector: SmallDetectorConfig,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.config = config
        self.detector = detector
        self.tokenizer = tokenizer
        self.source = SceneSource(config)
        vocabulary = self.source.vocabulary
        self._classes = {n: i for i, n in enumerate((*vocabulary.wholes, *vocabulary.parts))}
        self._token_ids: dict[str, list[int]] = {}

    def __getitem__(self, number: int) -> DetectionBatch:
        rng = np.random.default_rng((self.config.seed, number, 2))
        first = number * self.config.batch_size
        # Half are drawn at the network's size, half are resized to it as in serving.
        sizes_px = (self.detector.image_size, REFERENCE_PX)
        scenes = [
            self.source.scene(first + i, size_px=sizes_px[i % 2])
            for i in range(self.config.batch_size)
        ]
        rows, labels = [], []
        named: list[list[str]] = []
        asked: list[list[SceneObject]] = []
        for scene in scenes:
            # The first picture gets all its labels, so that every batch has at least one box.
            names = self._names(scene, rng, may_be_few=bool(named))
            named.append(names)
            rows.append([self._tokens(self._say(name, rng)) for name in names])
            index = {name: i for i, name in enumerate(names)}
            asked.append([each for each in scene.objects if each.label in index])
            labels.append(torch.tensor([index[each.label] for each in asked[-1]], dtype=torch.long))
        prompt = assemble_prompt(rows, tokenizer=self.tokenizer)
        judged = prompt.phrase_maps.any(-1)
        for b, (scene, names) in enumerate(zip(scenes, named, strict=True)):
            unknown = unknown_part_labels(scene)
            judged[b, [i for i, name in enumerate(names) if name in unknown]] = False
        return DetectionBatch(
            pixels=prepare_pixels([s.image for s in scenes], config=self.detector),
            prompt=prompt,
            labels=labels,
            classes=[
                torch.tensor([self._classes[each.label] for each in objects], dtype=torch.long)
                for objects in asked
            ],
            boxes=[
                boxes_cxcywh_norm(objects, size_hw=scene.image.shape[:2])
                for scene, objects in zip(scenes, asked, strict=True)
            ],
            judged=judged,
        )

    def _names(self, scene: Scene, rng: np.random.Generator, *, may_be_few: bool) -> list[str]:
        """Return present and absent labels in random order, sometimes only a few of them.

        Scores must not depend on the number of other phrases: a script asks for one phrase at a
        time, a pipeline for forty.
        """
        absent = choose_absent(
            scene,
            vocabulary=self.source.vocabulary,
            count=int(rng.integers(self.config.num_absent[0], self.config.num_absent[1] + 1)),
            theme_share=self.config.theme_share,
            part_share=self.config.part_share,
            rng=rng,
        )
        names = sorted(present_labels(scene)) + absent
        names = [names[i] for i in rng.permutation(len(names))]
        is_few = rng.random() < self.config.few_share
        few = int(rng.integers(self.config.few[0], self.config.few[1] + 1))
        return names[:few] if is_few and may_be_few else names

    def _say(self, name: str, rng: np.random.Generator) -> str:
        """Return the noun, or sometimes one of its synonyms."""
        others = self.source.vocabulary.synonyms.get(name, ())
        if others and rng.random() < self.config.synonym_share:
            return others[rng.integers(len(others))]
        return name

    def _tokens(self, phrase: str) -> list[int]:
        if phrase not in self._token_ids:
            self._token_ids[phrase] = self.tokenizer.encode(phrase, add_special_tokens=False)
        return self._token_ids[phrase]


class PointDataset(Dataset[PointBatch]):
    """Batch `n` for the backbone: a few points of every whole and part.

    No points of the background, because in small pictures the deeper strides cannot separate it
    from an object.
    """

    NUM_POINTS = 6

    def __init__(
        self, config: DataConfig, *, sizes_px: Sequence[int], detector: SmallDetectorConfig
    ) -> None:
        self.config = config
        self.sizes_px = tuple(sizes_px)
        self.detector = detector
        self.source = SceneSource(config)
        vocabulary = self.source.vocabulary
        self._wholes = {name: i for i, name in enumerate(vocabulary.wholes)}
        self._parts = {name: i for i, name in enumerate(vocabulary.parts)}

    def __getitem__(self, number: int) -> PointBatch:
        rng = np.random.default_rng((self.config.seed, number, 3))
        size_px = self.sizes_px[number % len(self.sizes_px)]
        first = number * self.config.batch_size
        scenes = [
            self.source.scene(first + i, size_px=size_px) for i in range(self.config.batch_size)
        ]
        rows = [row for b, scene in enumerate(scenes) for row in self._objects(b, scene, rng)]
        picture, places, whole, part = zip(*rows, strict=True)
        y, x = np.divmod(np.stack(places), size_px)
        return PointBatch(
            pixels=prepare_pixels(
                [s.image for s in scenes], config=replace(self.detector, image_size=size_px)
            ),
            picture=torch.tensor(picture),
            points=(torch.from_numpy(np.stack([x, y], axis=-1)).float() + 0.5) / size_px,
            whole=torch.tensor(whole),
            part=torch.tensor(part),
        )

    def _objects(
        self, picture: int, scene: Scene, rng: np.random.Generator
    ) -> Iterator[tuple[int, np.ndarray, int, int]]:
        """Yield (picture, flat pixel indices of points, index of the whole, index of the part)."""

        def places(mask: np.ndarray) -> np.ndarray:
            inside = np.flatnonzero(mask)
            return inside[rng.integers(len(inside), size=self.NUM_POINTS)]

        for each in scene.objects:
            if not each.is_part:
                yield picture, places(each.mask), self._wholes[each.label], UNKNOWN
            elif each.label in self._parts:
                yield picture, places(each.mask), UNKNOWN, self._parts[each.label]


def _fewer_classes(world: World, *, num_classes: int) -> World:
    """Return a world of only the first classes, with one theme for all."""
    classes = world.classes[:num_classes]
    nouns = tuple(each.noun for each in classes)
    cutouts = {
        style: {noun: of_style[noun] for noun in nouns if noun in of_style}
        for style, of_style in world.cutouts.items()
    }
    own_parts = {
        name for style in cutouts.values() for each in style.values() for name in each.part_names
    }
    return replace(
        world,
        classes=classes,
        cutouts=cutouts,
        themes={"anything": nouns},
        part_labels=frozenset(own_parts),
    )
