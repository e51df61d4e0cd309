"""Naming figures: ranks, groups by captions, and calibration of the similarity head."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from training.evaluation.naming import Named, auroc, group_labels, per_class

WORDS = {"car": 0, "dog": 1, "wheel": 2}
VECTORS = np.eye(3, dtype=np.float32)


def named(rows, labels, similarity=None):
    said = Named()
    vectors = np.array(rows, np.float32)
    guess = np.zeros(len(rows)) if similarity is None else np.array(similarity)
    said.add(labels, vectors, guess, vocabulary=WORDS, vectors=VECTORS)
    return said


def test_nothing_named_has_no_figures():
    figures = Named().figures({})
    assert figures["objects"] == 0
    assert figures["top1"] is None


def test_the_nearest_word_is_the_name():
    said = named([[1, 0, 0], [0.9, 0.5, 0], [0, 0.1, 1]], ["car", "dog", "wheel"])
    assert said.ranks == [0, 1, 0]
    assert said.figures({})["top1"] == pytest.approx(2 / 3, abs=1e-4)
    assert said.figures({})["top5"] == 1


def test_classes_count_alike_in_the_mean_over_them():
    assert per_class(["car", "car", "car", "dog"], np.array([True, True, True, False])) == {
        "car": 1.0,
        "dog": 0.0,
    }


def test_classes_are_grouped_by_how_often_captions_name_them():
    groups = group_labels({"car": 30, "dog": 3}, ["car", "dog", "wheel"])
    assert groups == {"car": "named", "dog": "seldom_named", "wheel": "never_named"}
    figures = named([[1, 0, 0], [1, 0, 0]], ["car", "wheel"]).figures(groups)
    assert figures["named_top1"] == 1
    assert figures["never_named_top1"] == 0
    assert "held_out_top1" not in figures


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        pytest.param([1, 2, 3, 4], [False, False, True, True], 1.0, id="perfect"),
        pytest.param([4, 3, 2, 1], [False, False, True, True], 0.0, id="reversed"),
        pytest.param([1, 1, 1, 1], [False, True, False, True], 0.5, id="ties"),
        pytest.param([1, 2], [True, True], None, id="one kind"),
    ],
)
def test_auroc_is_the_chance_that_a_right_one_scores_higher(scores, positive, expected):
    assert auroc(np.array(scores, float), np.array(positive)) == expected


def test_the_head_is_judged_by_the_cosine_that_it_predicts():
    rows = [[1, 0, 0], [0.5, 0.1, 0], [0.1, 0.9, 0], [0.2, 0, 0.9]]
    said = named(rows, ["car"] * 4, similarity=[0.9, 0.6, 0.2, 0.1])
    expected = spearmanr([0.9, 0.6, 0.2, 0.1], said.cosines).statistic
    assert said.figures({})["similarity_spearman"] == pytest.approx(expected, abs=1e-4)
