"""Text scores: independent of other texts, relative to background words and negatives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.fakes import FakeTextEncoder
from unspoken.model.mask_bank import empty_bank
from unspoken.model.sam.checkpoint import SemanticInfo
from unspoken.model.text_space import (
    Rivals,
    TextQuery,
    TextSpace,
    TextSpaceConfig,
    background_words,
)

SCALE = 20.0


class Encoder:
    """The fake text encoder, which also counts its inputs."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts):
        self.asked += texts
        return FakeTextEncoder().encode_texts(texts)


def space(encode=None, *, info: SemanticInfo | None = None, **config: object) -> TextSpace:
    info = info or SemanticInfo()
    return TextSpace(encode or Encoder(), info=info, scale=SCALE, config=TextSpaceConfig(**config))


@pytest.fixture
def masks() -> np.ndarray:
    vectors = FakeTextEncoder().encode_texts(["dog", "wheel", "cat"])
    noise = np.random.default_rng(0).normal(scale=0.02, size=(5, 768))
    rows = np.concatenate([vectors, noise[3:]]) + noise
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("score", ["softmax", "cosine"])
def test_no_queries_or_no_masks_give_no_scores(score):
    texts = space(score=score)
    assert texts.scores(np.zeros((3, 768), dtype=np.float32), []).shape == (0, 3)
    assert texts.scores(np.zeros((0, 768), dtype=np.float32), [TextQuery("dog")]).shape == (1, 0)


@pytest.mark.parametrize("score", ["softmax", "cosine"])
def test_a_texts_score_does_not_depend_on_the_other_queries(score, masks):
    queries = [TextQuery("dog"), TextQuery("cat", ("dog",)), TextQuery("wheel"), TextQuery("dog")]
    together = space(score=score).scores(masks, queries)
    for row, query in enumerate(queries):
        alone = space(score=score).scores(masks, [query])
        assert np.allclose(together[row], alone[0], atol=1e-6)
    assert together.min() >= 0 and together.max() <= 1
    assert together[0].argmax() == 0 and together[2].argmax() == 1


@pytest.mark.parametrize("score", ["softmax", "cosine"])
def test_a_negative_takes_the_masks_that_are_more_like_it(score, masks):
    both = space(score=score).scores(masks, [TextQuery("pet"), TextQuery("pet", ("dog",))])
    assert both[1, 0] < both[0, 0] or both[0, 0] == 0
    assert space(score=score).scores(masks, [TextQuery("dog", ("cat",))])[0, 0] > 0.5


def test_a_background_word_is_not_held_against_a_query_that_means_it(masks):
    with_dog = space(background=("dog", "tree")).scores(masks, [TextQuery("dog")])
    without = space(background=("tree",)).scores(masks, [TextQuery("dog")])
    assert np.allclose(with_dog, without)
    plural = space(background=("dog", "tree")).scores(masks, [TextQuery("two dogs")])
    assert np.allclose(plural, space(background=("tree",)).scores(masks, [TextQuery("two dogs")]))
    other = space(background=("dog", "tree")).scores(masks, [TextQuery("wheel")])
    assert other[0, 0] < space(background=("tree",)).scores(masks, [TextQuery("wheel")])[0, 0]


def test_kept_rivals_change_nothing(masks):
    texts, queries = space(), [TextQuery("dog"), TextQuery("cat", ("wheel",))]
    kept = texts.rivals_of(masks)
    assert kept is not None and kept.powers.shape == (len(background_words()), 5)
    assert np.array_equal(texts.scores(masks, queries), texts.scores(masks, queries, rivals=kept))


def test_sums_without_a_words_own_share_are_exact_where_it_is_nearly_all_of_it():
    powers = np.array([[1.0, 1e-9], [1e-9, 1e-9], [2e-9, 1.0]], dtype=np.float32)
    rivals = Rivals.of(powers)
    sums = rivals.against([(0,), (2,), (), (0, 2), (1,)])
    expected = [[3e-9, 1.0], [1.0, 2e-9], [1.0, 1.0], [1e-9, 1e-9], [1.0, 1.0]]
    assert np.allclose(sums, expected, rtol=1e-5, atol=0)


def test_without_a_background_only_negatives_weigh(masks):
    texts = space(background=())
    assert np.allclose(texts.scores(masks, [TextQuery("dog")]), 1)
    assert texts.scores(masks, [TextQuery("dog", ("cat",))])[0, 2] < 0.5


def test_templates_are_averaged_and_the_mean_is_taken_off():
    mean = torch.full((768,), 0.01)
    info = SemanticInfo(text_templates=("{}", "a photo of a {}"), text_mean=mean)
    encode = FakeTextEncoder().encode_texts(["dog", "a photo of a dog"])
    expected = encode.mean(0)
    expected = expected / np.linalg.norm(expected) - mean.numpy()
    expected /= np.linalg.norm(expected)
    assert np.allclose(space(info=info).vectors(["dog"])[0], expected, atol=1e-6)


def test_a_text_is_encoded_once_and_the_oldest_are_forgotten(masks):
    encode = Encoder()
    texts = space(encode, background=(), cache_entries=2)
    texts.scores(masks, [TextQuery("a"), TextQuery("b"), TextQuery("a")])
    texts.vectors(["b", "a"])
    assert encode.asked == ["a", "b"]
    assert texts.vectors(["c", "d", "e", "c"]).shape == (4, 768)
    texts.vectors(["a"])
    assert encode.asked == ["a", "b", "c", "d", "e", "a"]


def test_the_background_is_a_plain_list_of_distinct_words():
    words = background_words()
    assert len(words) > 100 and len(set(words)) == len(words)
    assert all(word.isalpha() and word.islower() for word in words)


def test_a_banks_scores_keep_apart_masks_whose_predicted_iou_is_above_one(masks):
    plain = space()
    bank = replace(
        empty_bank((4, 4), masks.shape[1]),
        rle=(b"",) * 2,
        mask_embedding=np.repeat(masks[:1], 2, axis=0),
        predicted_iou=np.array([1.01, 1.05], dtype=np.float32),
    )
    ((first, second),) = plain.bank_scores(bank, [TextQuery("car")])
    assert second > first
