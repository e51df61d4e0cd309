"""Collections of captioned pictures with ground truth; `small_world` creates one."""

from collections.abc import Callable
from dataclasses import dataclass

from experiments.collections.truth import LabelMatcher, PictureTruth
from smallworld.scenes import unknown_part_labels
from smallworld.shards import CaptionedScene, compose_sample
from smallworld.truth import TruthObject
from smallworld.world import World
from unspoken.text.lexicon import load_lexicon
from unspoken.wire.filters import FilterConfig
from worker.label.captions import count_words

SCENES_SEED = 404_404
"""Seed of scenes that no training, tuning or bench uses."""


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture, its caption and its truth; `read` returns the bytes of the picture's file."""

    key: str
    caption: str
    read: Callable[[], bytes]
    truth: PictureTruth


@dataclass(frozen=True)
class Collection:
    """Pictures in a fixed order, and all labels of their truth."""

    name: str
    pictures: tuple[CaptionedPicture, ...]
    vocabulary: tuple[str, ...]
    matcher: LabelMatcher


def small_world(world: World, *, num_scenes: int, seed: int = SCENES_SEED) -> Collection:
    """Compose `num_scenes` scenes whose captions pass the default filters."""
    pictures: list[CaptionedPicture] = []
    index = 0
    while len(pictures) < num_scenes:
        composed = compose_sample(world, index, seed=seed)
        if _passes_default_filters(composed):
            pictures.append(_picture(composed))
        index += 1
    synonyms = {each.noun: each.synonyms for each in world.classes}
    return Collection(
        name="small world",
        pictures=tuple(pictures),
        vocabulary=world.labels,
        matcher=LabelMatcher(world.labels, synonyms=synonyms, lexicon=load_lexicon()),
    )


def _passes_default_filters(composed: CaptionedScene) -> bool:
    min_words = FilterConfig().min_caption_words or 0
    return not composed.caption.is_droppable and count_words(composed.caption.text) >= min_words


def _picture(composed: CaptionedScene) -> CaptionedPicture:
    scene, caption, jpeg = composed.scene, composed.caption, composed.jpeg
    objects = tuple(TruthObject(each.label, each.box_xyxy, each.is_part) for each in scene.objects)
    truth = PictureTruth(
        objects=objects,
        named=frozenset(caption.named),
        open_labels=unknown_part_labels(scene),
    )
    return CaptionedPicture(scene.key, caption.text, lambda: jpeg, truth)
