"""The contrast over a step's labels: duplicates, synonyms, alternates and extra negatives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.sam.label_vectors import LabelVectors
from training.sam.semantic_losses import (
    SemanticLossConfig,
    batch_contrast,
    collect_labels,
    semantic_loss,
)

CONFIG = SemanticLossConfig()
WORDS = ("car", "dog", "puppy", "wheel", "cat")
VECTORS = dict(zip(WORDS, F.normalize(torch.eye(5) + 0.05, dim=-1), strict=True))


def labels_of(masks, *, extra=(), synonyms=(), negatives=None):
    return collect_labels(
        masks,
        vectors=VECTORS,
        are_synonyms=lambda a, b: {a, b} in [set(pair) for pair in synonyms],
        extra=extra,
        negatives=negatives,
        config=CONFIG,
    )


def contrast(masks, vectors, **what):
    labels = labels_of(masks, **what)
    cosines = F.normalize(vectors, dim=-1) @ labels.vectors.t()
    return float(batch_contrast(50 * cosines, right=labels.right, ignored=labels.ignored))


def test_perfect_vectors_cost_next_to_nothing_however_often_a_label_repeats():
    masks = [("car",), ("car",), ("car",), ("dog",)]
    perfect = torch.stack([VECTORS[names[0]] for names in masks])
    # In the other direction a label's masks share its probability, so the minimum is the entropy of
    # that distribution.
    floor = 0.5 * 0.5 * torch.log(torch.tensor(3.0))
    assert contrast(masks, perfect) == pytest.approx(float(floor), abs=1e-3)


def test_a_synonym_is_neither_right_nor_wrong():
    masks = [("dog",), ("puppy",)]
    between = torch.stack([VECTORS["dog"] + VECTORS["puppy"]] * 2)
    apart = contrast(masks, between)
    together = contrast(masks, between, synonyms=[("dog", "puppy")])
    assert together < 1e-3 < apart


def test_alternates_of_one_box_share_its_mass():
    labels = labels_of([("dog", "puppy"), ("car",)])
    assert labels.names == ("car", "dog", "puppy")
    assert labels.right.tolist() == [[False, True, True], [True, False, False]]
    assert not labels.ignored.any()


def test_what_an_alternate_means_is_ignored_for_the_others():
    labels = labels_of([("dog", "puppy"), ("cat",)], extra=["wheel"], synonyms=[("cat", "puppy")])
    assert labels.names == ("cat", "dog", "puppy", "wheel")
    assert labels.ignored.tolist() == [[True, False, False, False], [False, False, True, False]]


def test_extra_labels_are_wrong_for_every_mask():
    masks = [("dog",)]
    vectors = VECTORS["wheel"][None]
    assert contrast(masks, vectors, extra=["wheel"]) > contrast(masks, vectors) + 1


def test_a_hard_negative_is_wrong_for_its_own_picture_and_nothing_to_others():
    masks = [("dog",), ("cat",)]
    labels = labels_of(masks, negatives=[("wheel",), ()])
    assert labels.names == ("cat", "dog", "wheel")
    assert labels.right.tolist() == [[False, True, False], [True, False, False]]
    assert labels.ignored.tolist() == [[False, False, False], [False, False, True]]
    vectors = torch.stack([VECTORS["wheel"], VECTORS["cat"]])
    assert contrast(masks, vectors, negatives=[("wheel",), ()]) > contrast(masks, vectors) + 1
    vectors = torch.stack([VECTORS["dog"], VECTORS["cat"] + VECTORS["wheel"]])
    own = contrast(masks, vectors, negatives=[("wheel",), ()])
    assert own == pytest.approx(contrast(masks, vectors), abs=1e-5)


def test_a_hard_negative_that_another_mask_carries_is_a_label_like_any_other():
    masks = [("dog",), ("cat",)]
    assert labels_of(masks, negatives=[("cat",), ()]).ignored.tolist() == [[False] * 2] * 2


def test_a_hard_negative_that_means_a_boxs_label_is_ignored_for_it():
    labels = labels_of([("dog",)], negatives=[("puppy",)], synonyms=[("dog", "puppy")])
    assert labels.ignored.tolist() == [[False, True]]


def test_the_similarity_head_learns_the_cosine_and_does_not_move_the_vectors():
    labels = labels_of([("dog",), ("car",)])
    raw = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    predicted = torch.zeros(2, requires_grad=True)
    loss = semantic_loss(
        F.normalize(raw, dim=-1), predicted, labels, scale=torch.tensor(10.0), config=CONFIG
    )
    loss["similarity"].backward()
    assert predicted.grad is not None
    assert raw.grad is None or raw.grad.abs().sum() == 0


def test_no_boxes_give_terms_of_zero_that_can_be_differentiated():
    vectors = torch.zeros(0, 5, requires_grad=True)
    terms = semantic_loss(
        vectors, torch.zeros(0), labels_of([]), scale=torch.tensor(1.0), config=CONFIG
    )
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert float(total.detach()) == 0


def test_the_centre_is_that_of_the_labels_that_boxes_carry():
    vectors = {"cat": np.eye(3)[0], "dog": np.eye(3)[1], "absent": np.eye(3)[2]}
    label_vectors = LabelVectors(
        vectors, {"cat": 5, "dog": 1}, center=True, config=SemanticLossConfig()
    )
    assert label_vectors.mean is not None
    assert label_vectors.mean.tolist() == [0.5, 0.5, 0.0]
    assert set(label_vectors.vectors) == set(vectors)
