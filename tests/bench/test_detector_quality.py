"""The figures of the detector bench, on known answers."""

from collections.abc import Sequence

import numpy as np
import pytest

from smallworld.scenes import compose_scene
from smallworld.world import World
from training.detector.data import Vocabulary
from training.detector.quality import (
    PhraseBoxes,
    SceneScores,
    choose_threshold,
    score_scene,
    share_above,
)


@pytest.fixture(scope="module")
def world() -> World:
    return World.load(styles=("twemoji",), split="train", glyph_px=48)


def test_a_detector_that_knows_the_truth_scores_all_that_is_shown(world: World) -> None:
    scene = compose_scene(world, seed=5)

    def oracle(image: np.ndarray, phrases: Sequence[str]) -> PhraseBoxes:
        assert image is scene.image
        found = [
            (thing.box_xyxy, phrases.index(thing.label))
            for thing in scene.objects
            if thing.label in phrases
        ]
        boxes, indices = zip(*found, strict=True)
        return PhraseBoxes(np.array(boxes, float), np.array(indices), np.full(len(found), 0.9))

    scores = score_scene(
        scene, oracle, vocabulary=Vocabulary.of(world), rng=np.random.default_rng(0)
    )
    assert (scores.wholes == 0.9).all()
    assert (scores.parts == 0.9).all()
    assert (scores.absent == 0).all()
    assert len(scores.absent) == len(scores.wholes) + len(scores.parts)


def test_a_box_in_the_wrong_place_answers_nothing_that_is_shown(world: World) -> None:
    scene = compose_scene(world, seed=5)

    def corner(image: np.ndarray, phrases: Sequence[str]) -> PhraseBoxes:
        boxes = np.tile([0.0, 0.0, 3.0, 3.0], (len(phrases), 1))
        return PhraseBoxes(boxes, np.arange(len(phrases)), np.full(len(phrases), 0.9))

    scores = score_scene(
        scene, corner, vocabulary=Vocabulary.of(world), rng=np.random.default_rng(0)
    )
    assert (scores.wholes == 0).all()
    assert (scores.absent == 0.9).all()


def test_the_threshold_lets_a_tenth_of_absent_labels_through() -> None:
    rng = np.random.default_rng(0)
    scores = [SceneScores(np.ones(3), np.ones(0), rng.random(5)) for _ in range(100)]
    threshold = choose_threshold(scores, rate=0.10)
    rate = share_above([each.absent for each in scores], threshold=threshold)
    assert rate.value == pytest.approx(0.10, abs=1e-9)
    assert rate.low < 0.10 < rate.high
    assert share_above([each.wholes for each in scores], threshold=threshold).value == 1.0
    assert np.isnan(share_above([each.parts for each in scores], threshold=threshold).value)
