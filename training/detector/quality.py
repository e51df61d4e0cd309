"""Detector quality on scenes with ground truth: recall at a given false answer rate.

For each scene the detector is asked for all present labels and for as many absent ones, half of
them from the scene's theme. The score of a present label is the best score of its boxes with an IoU
of at least .5 with one of its objects. The score of an absent label is the best score of its boxes.
The threshold is chosen on other scenes, so that at most a given share of absent labels gets a box.

Legend: N boxes, P phrases of a query.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from smallworld.scenes import Scene, present_labels, unknown_part_labels
from training.detector.data import Vocabulary, choose_absent
from unspoken.imaging.boxes import box_iou

HIT_IOU = 0.5
FALSE_ANSWER_RATE = 0.10


class PhraseBoxes(NamedTuple):
    """Boxes of one picture, each with the index of its phrase."""

    boxes_xyxy: np.ndarray  # (N, 4) pixels of the picture
    phrases: np.ndarray  # (N,) int
    scores: np.ndarray  # (N,) in [0, 1]


DetectPhrases = Callable[
    [np.ndarray, Sequence[str]], PhraseBoxes
]  # picture (H, W, 3) uint8, phrases


@dataclass(frozen=True)
class SceneScores:
    """Best scores of a scene's phrases; 0 if a phrase has no box."""

    wholes: np.ndarray  # of present wholes
    parts: np.ndarray  # of present parts
    absent: np.ndarray  # of absent labels


class Share(NamedTuple):
    """A fraction with its 95 % bootstrap interval over scenes."""

    value: float
    low: float
    high: float


def score_scenes(
    scenes: Iterable[Scene], ask: DetectPhrases, *, vocabulary: Vocabulary, seed: int
) -> list[SceneScores]:
    """Ask the detector for each scene's present labels and for as many absent ones."""
    return [
        score_scene(scene, ask, vocabulary=vocabulary, rng=np.random.default_rng((seed, number)))
        for number, scene in enumerate(scenes)
    ]


def score_scene(
    scene: Scene, ask: DetectPhrases, *, vocabulary: Vocabulary, rng: np.random.Generator
) -> SceneScores:
    """Return one scene's scores. Parts with incomplete ground truth are left out."""
    wholes = {each.label for each in scene.objects if not each.is_part}
    parts = present_labels(scene) - wholes - unknown_part_labels(scene)
    present = sorted(wholes) + sorted(parts)
    absent = choose_absent(
        scene, vocabulary=vocabulary, count=len(present), theme_share=0.5, rng=rng
    )
    names = present + absent
    order = rng.permutation(len(names))
    answer = ask(scene.image, [names[i] for i in order])
    best = np.zeros(len(names))
    for place, index in enumerate(order):
        mine = answer.phrases == place
        boxes, scores = answer.boxes_xyxy[mine], answer.scores[mine]
        if index < len(present):
            truth = np.array([o.box_xyxy for o in scene.objects if o.label == names[index]], float)
            scores = scores[(box_iou(boxes, truth) >= HIT_IOU).any(axis=1)]
        best[index] = scores.max(initial=0.0)
    return SceneScores(
        wholes=best[: len(wholes)],
        parts=best[len(wholes) : len(present)],
        absent=best[len(present) :],
    )


def choose_threshold(scores: Sequence[SceneScores], *, rate: float = FALSE_ANSWER_RATE) -> float:
    """Return the lowest threshold that at most `rate` of the absent labels reach."""
    absent = np.sort(np.concatenate([each.absent for each in scores]))[::-1]
    allowed = int(rate * len(absent))
    return float(np.nextafter(absent[allowed], 1.0)) if allowed < len(absent) else 0.0


def share_above(
    groups: Sequence[np.ndarray], *, threshold: float, num_draws: int = 1000, seed: int = 0
) -> Share:
    """Return the share of all scores that reach the threshold. The bootstrap resamples scenes."""
    hits = np.array([(scores >= threshold).sum() for scores in groups], float)
    counts = np.array([len(scores) for scores in groups], float)
    if counts.sum() == 0:
        return Share(float("nan"), float("nan"), float("nan"))
    draws = np.random.default_rng(seed).integers(len(groups), size=(num_draws, len(groups)))
    shares = hits[draws].sum(1) / np.maximum(counts[draws].sum(1), 1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return Share(float(hits.sum() / counts.sum()), float(low), float(high))
