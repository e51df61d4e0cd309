import numpy as np
import pytest

from experiments.collections.truth import LabelMatcher, PictureTruth
from experiments.judging import COLUMNS, count_picture, ratios
from smallworld.truth import SceneTruth, TruthObject, judge, judged_boxes
from unspoken.runs.dataset.rows import AltLabel, Annotation
from unspoken.text.lexicon import Lexicon

BARE = Lexicon(synonyms={}, plurals={})
SYNONYMS = {"automobile": "car"}
MATCHER = LabelMatcher(
    ["car", "dog", "wheel", "beak"], synonyms={"car": ("automobile",)}, lexicon=BARE
)
TRUTH = PictureTruth(
    objects=(
        TruthObject("car", (0, 0, 100, 100), is_part=False),
        TruthObject("wheel", (0, 60, 40, 100), is_part=True),
        TruthObject("dog", (200, 0, 300, 100), is_part=False),
    ),
    named=frozenset({"car"}),
    open_labels=frozenset({"beak"}),
)


def box(label, xyxy, *, named=False, alternates=()):
    return Annotation(
        id=0,
        box=xyxy,
        label=label,
        score=0.5,
        candidate_id=0,
        named=named,
        stuff=False,
        decoy=False,
        alt_labels=tuple(AltLabel(label=a, candidate_id=1, score=0.4) for a in alternates),
        kept=True,
    )


BOXES = [
    box("automobile", (0, 0, 100, 80), named=True),  # IoU .8
    box("thing", (200, 0, 300, 100), alternates=("dog",)),
    box("dog", (0, 60, 40, 100)),  # on the wheel
    box("beak", (50, 50, 60, 60)),
]


def figures(phrases, boxes, truth=TRUTH):
    found = ratios(count_picture(phrases, boxes, truth, MATCHER))
    return {name: float(value) for name, value in found.items()}


def test_what_is_proposed_is_counted_before_any_box():
    found = figures(["automobile", "wheels", "beak", "tree"], [])
    assert found["label_recall_exact"] == pytest.approx(1 / 3)
    assert found["label_recall"] == pytest.approx(2 / 3)
    assert found["unnamed_label_recall"] == 0.5
    assert found["part_label_recall"] == 1
    assert found["phrase_precision"] == pytest.approx(2 / 3)  # a beak may be there


def test_objects_are_found_by_a_box_that_means_them_and_overlaps():
    found = figures([], BOXES)
    assert found["recall_50"] == pytest.approx(2 / 3)
    assert found["recall_75"] == pytest.approx(2 / 3)
    assert found["average_recall"] == pytest.approx((0.7 + 1) / 3)
    assert found["agnostic_recall_50"] == 1
    assert found["named_recall_50"] == 1
    assert found["unnamed_recall_50"] == 0.5
    assert found["part_recall_50"] == 0


def test_boxes_are_right_wrong_or_not_judged():
    found = figures([], BOXES)
    assert found["box_precision_50"] == pytest.approx(2 / 3)
    assert found["unnamed_box_precision_50"] == pytest.approx(1 / 2)
    assert found["boxes_per_picture"] == 4
    assert found["labels_per_picture"] == 4
    assert found["implied_share_of_boxes"] == 0.75
    # automobile and dog are present, "thing" is not, "beak" cannot be judged.
    assert found["found_phrase_precision"] == pytest.approx(2 / 3)


def test_a_source_may_say_itself_what_its_phrase_means():
    caption = box("a car and more", (0, 0, 100, 80), named=True)
    counts = count_picture(
        ["a car and more"], [caption], TRUTH, MATCHER, meaning=lambda _: TRUTH.named
    )
    assert float(ratios(counts)["named_recall_50"]) == 1


def test_nothing_proposed_and_nothing_there_is_no_figure():
    empty = PictureTruth(objects=(), named=frozenset())
    found = figures([], [], empty)
    assert np.isnan(found["recall_50"])
    assert np.isnan(found["box_precision_50"])
    assert found["boxes_per_picture"] == 0


def test_the_counts_at_half_overlap_are_those_of_the_small_worlds_judge():
    scene = SceneTruth("k", TRUTH.objects, TRUTH.named, TRUTH.open_labels, (64, 96))
    score = judge(judged_boxes(BOXES), scene, synonyms=SYNONYMS)
    row = dict(zip(COLUMNS, count_picture([], BOXES, TRUTH, MATCHER), strict=True))
    assert row["named_50"] == score.named.found
    assert row["unnamed_50"] == score.implied.found
    assert row["boxes_judged"] == score.named.judged + score.implied.judged
    assert row["boxes_right"] == score.named.right + score.implied.right
    assert row["implied_boxes_right"] == score.implied.right
